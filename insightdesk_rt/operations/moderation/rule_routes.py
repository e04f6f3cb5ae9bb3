"""The common parts of the routes of all kinds of rules: ids, times, pages and answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from insightdesk_rt.api.paging import Page, Paged, cut, read_cursor
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import UserIdText
from insightdesk_rt.engine.model import iso
from insightdesk_rt.operations.moderation.rules import Rule, RuleTable

DAY_S = 86_400
MAX_DAYS = 3_650
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Time = Annotated[datetime, Meta(tz=True)]
Seconds = Annotated[int, Meta(ge=1, le=MAX_DAYS * DAY_S)]
CustomerIdText = Annotated[
    UserIdText, Meta(description='a customer, with user_ids = "separate", where userId is staff')
]

R = TypeVar("R", bound=Rule)
View = TypeVar("View")


class Ruled(Struct):
    """The answer to a change of a rule. `id` is null for a dry run. `missing`: nodes that did not answer.

    `count` connections were closed, or would be.
    """

    id: str | None
    count: int
    missing: list[str]


def rule_id(*subject: str) -> str:
    """Return the id of a rule about a subject: the same id for the same subject."""
    return blake2b("\0".join(subject).encode(), digest_size=10).hexdigest()


def unix_ms(time: datetime) -> int:
    """Return a time with a zone as Unix milliseconds, negative before 1970."""
    return (time - EPOCH) // timedelta(milliseconds=1)


def end_ms(now_ms: int, until: datetime | None, for_s: int = 0, field: str = "until") -> int:
    """Return when a rule ends, 0 for never. Raises RtError BAD_REQUEST: in the past, or over ten years away."""
    if until is None:
        return now_ms + for_s * 1000 if for_s else 0
    if not now_ms < unix_ms(until) <= now_ms + MAX_DAYS * DAY_S * 1000:
        raise RtError("BAD_REQUEST", "The time must be in the future, within ten years.", field=field)
    return unix_ms(until)


def rules_page(table: RuleTable[R], query: Paged, view: Callable[[R], View]) -> Page[View]:
    """Return a page of a table, the newest first."""
    after = read_cursor(query.cursor, tuple[int, str])
    rules = [rule for rule in table.newest_first() if after is None or (rule.at_ms, rule.id) < after]
    shown, cursor = cut(rules, query.limit, lambda rule: (rule.at_ms, rule.id))
    return Page([view(rule) for rule in shown], cursor)


def time_or_none(at_ms: int) -> str | None:
    """Return Unix milliseconds as ISO text; None for 0."""
    return iso(at_ms) if at_ms else None

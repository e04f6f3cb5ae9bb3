"""The types of the feed: what each entry has, and patterns that choose among them.

Features declare what they report (`Namespace.reports`). This file adds what comes from no feature, and makes the
description of the API from all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from types import GenericAlias
from typing import Any, ClassVar, Union

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.dispatch.namespace import Report
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.helpdesk.features import FEATURES

MAX_PATTERNS = 50


class SessionRevokedReport(Report, kw_only=True):
    """An admin revoked a session, or a user's tokens that were issued before a time. `by` is as in the audit log."""

    type: ClassVar[str] = "session.revoked"
    sessionId: str = ""
    userId: str = ""
    customerId: str = ""
    issuedBefore: str = ""
    until: str
    by: str
    reason: str


class FeedIncompleteReport(Report):
    """Sent to webhooks only: entries between these offsets were removed, or lost, before they were delivered.

    Whoever receives it must read what it needs again, as after `"complete": false` of the feed.
    """

    type: ClassVar[str] = "feed.incomplete"
    after: str
    next: str


class WebhookPingReport(Report):
    """Sent by the test of a webhook, to that webhook only."""

    type: ClassVar[str] = "webhook.ping"
    webhookId: str


REPORTS: tuple[type[Report], ...] = (*(one for each in FEATURES for one in each.reports), SessionRevokedReport)
TYPES: tuple[str, ...] = tuple(one.type for one in REPORTS)


def _described(report: type[Report]) -> type[Struct]:
    """Return the type of a whole entry, for the description of the API."""
    name = report.__name__.removesuffix("Report") + "Entry"
    fields: list[tuple[str, Any]] = [("id", str), ("at", str), ("data", report)]
    doc = (report.__doc__ or "").strip()
    return msgspec.defstruct(name, fields, tag_field="type", tag=report.type, namespace={"__doc__": doc})


def _any_of(reports: Sequence[type[Report]]) -> Any:
    return Union[tuple(_described(one) for one in reports)]  # noqa: UP007


# The description of the feed's answers. `next`: the `after` of the next call. `complete`: nothing is missing in front.
_FIELDS: list[tuple[str, Any]] = [
    ("events", GenericAlias(list, (_any_of(REPORTS),))),
    ("next", str),
    ("complete", bool),
]
FeedAnswer = msgspec.defstruct("FeedAnswer", _FIELDS)
# The description of what webhooks are sent.
WebhookEntry = _any_of((*REPORTS, FeedIncompleteReport, WebhookPingReport))


def types_of(patterns: Sequence[str], field: str = "types") -> frozenset[str]:
    """Return the types that any of the patterns fits: "chat.*", "ticket.created", "*". No pattern: all.

    Raises RtError BAD_REQUEST for a pattern that fits no type: it is misspelt.
    """
    found: set[str] = set()
    for at, pattern in enumerate(patterns):
        fitting = _fitting(pattern, TYPES)
        if not fitting:
            raise RtError(
                "BAD_REQUEST", f"No type fits {pattern}; the types are {', '.join(TYPES)}.", field=f"{field}[{at}]"
            )
        found.update(fitting)
    return frozenset(found or TYPES)


def _fitting(pattern: str, types: Collection[str]) -> list[str]:
    return [one for one in types if fnmatchcase(one, pattern)]

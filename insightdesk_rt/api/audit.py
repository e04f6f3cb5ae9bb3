"""GET /api/v1/audit: who changed what through the admin API, the newest first."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from insightdesk_rt.api.audit_store import KEPT_DAYS, AuditLog, Entry
from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.api.paging import Paged, cut, read_cursor
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import offset_key


class AuditQuery(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    who: Annotated[str, Meta(max_length=128, description="user id, or `key:` and the name of a key")] = ""
    action: Annotated[str, Meta(max_length=64, description="`node.drain`, or `node` for all that begin so")] = ""


class AuditPage(Struct):
    """`dropped` older entries are gone.

    Of these, `droppedEarly` were younger than `keptDays` and gave way to newer ones.
    """

    items: list[Entry]
    next: str | None
    missing: list[str]
    dropped: int
    droppedEarly: int
    keptDays: int


class AuditHandler(Handler):
    log: AuditLog

    @operation("viewer", query=AuditQuery, answer=AuditPage)
    async def get(self, query: AuditQuery) -> Answer:
        """Who changed what, from where, why and with what outcome, the newest first."""
        after = read_cursor(query.cursor, tuple[str])
        before = after[0] if after else ""
        try:
            offset_key(before or "0-0")
        except ValueError:
            raise RtError("BAD_REQUEST", "This is not a cursor of this server", field="cursor") from None
        entries = await self.log.read(query.limit + 1, before, query.who, query.action)
        shown, cursor = cut(entries, query.limit, lambda entry: (entry.id,))
        dropped = await self.log.dropped()
        return Answer(AuditPage(shown, cursor, [], dropped.all, dropped.early, KEPT_DAYS))


def audit_routes(admin: Admin, log: AuditLog) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application."""
    return [(r"/api/v1/audit", AuditHandler, {"admin": admin, "log": log})]

"""Who did what through the admin API: GET /api/v1/audit, newest first."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from insightdesk_rt.admin.base import Admin, Handler, operation
from insightdesk_rt.admin.declared import Answer, Page, Paged, make_cursor, read_cursor
from insightdesk_rt.errors import RtError
from insightdesk_rt.model import offset_key
from insightdesk_rt.stores.audit import AuditLog, Entry


class AuditQuery(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    who: Annotated[str, Meta(max_length=128, description="id of a user, or `key:` and the name of a key")] = ""
    action: Annotated[str, Meta(max_length=64, description="`node.drain`, or `node` for all of them")] = ""


class AuditHandler(Handler):
    log: AuditLog

    @operation("viewer", query=AuditQuery, answer=Page[Entry])
    async def get(self, query: AuditQuery) -> Answer:
        """Who did what, from where, why and with what outcome; the newest first."""
        after = read_cursor(query.cursor, tuple[str])
        before = after[0] if after else ""
        try:
            offset_key(before or "0-0")
        except ValueError:
            raise RtError("BAD_REQUEST", "This is no cursor of ours", field="cursor") from None
        entries = await self.log.read(query.limit + 1, before, query.who, query.action)
        page = entries[: query.limit]
        return Answer(Page(page, make_cursor(page[-1].id) if len(entries) > query.limit else None))


def audit_routes(admin: Admin, log: AuditLog) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application."""
    return [(r"/api/v1/audit", AuditHandler, {"admin": admin, "log": log})]

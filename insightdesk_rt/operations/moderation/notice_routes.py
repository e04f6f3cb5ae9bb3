"""What everybody is told: a message from its beginning until its end, as the event `server:notice`.

GET    /api/v1/notices          those that hold or will
POST   /api/v1/notices          tell all who are connected, or those of a namespace or role, and who connects later
DELETE /api/v1/notices/{id}     end one
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Annotated, Any

from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Change, Removal
from insightdesk_rt.api.paging import Page, Paged
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import RuleId
from insightdesk_rt.engine.model import Role, Severity, iso, new_id
from insightdesk_rt.engine.wire.texts import VISIBLE_LINE
from insightdesk_rt.operations.moderation.notices import Notice, Notices
from insightdesk_rt.operations.moderation.rule_routes import RuleHandler, Time, end_ms, page, rule_id, time_or_none
from insightdesk_rt.operations.moderation.rules import Rules

Path = Annotated[str, Meta(max_length=200)]
Message = Annotated[str, Meta(min_length=1, max_length=2000, pattern=VISIBLE_LINE)]


class MakeNotice(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    message: Message
    severity: Severity = "info"
    startsAt: Annotated[Time | None, Meta(description="without it: now")] = None
    endsAt: Annotated[Time | None, Meta(description="without it: until it is taken back")] = None
    namespace: Annotated[Path | None, Meta(description="without it: all")] = None
    role: Annotated[Role | None, Meta(description="without it: everybody")] = None


class NoticeView(Struct):
    """`told`: clients have been sent it."""

    id: str
    message: str
    severity: Severity
    startsAt: str
    endsAt: str | None
    namespace: str | None
    role: Role | None
    told: bool
    by: str
    at: str
    reason: str


class NoticesHandler(Handler):
    rules: Rules
    notices: Notices
    namespaces: Collection[str]

    @operation("viewer", query=Paged, answer=Page[NoticeView])
    async def get(self, query: Paged) -> Answer:
        """The notices that hold or will, the newest first."""
        return Answer(page(self.notices.table, query, view_notice))

    @operation(
        "operator",
        body=MakeNotice,
        answer=NoticeView,
        statuses=(201,),
        errors=("CONFLICT",),
        action="notice.add",
        target=lambda body: " ".join(filter(None, (body.namespace, body.role))) or "everybody",
    )
    async def post(self, body: MakeNotice) -> Answer:
        """Tell everybody something, from now or a time on, until it ends."""
        if body.namespace is not None and body.namespace not in self.namespaces:
            raise RtError("BAD_REQUEST", "There is no such namespace.", field="namespace")
        now_ms = self.rules.now_ms()
        starts_ms = max(now_ms, end_ms(now_ms, body.startsAt, field="startsAt")) if body.startsAt else now_ms
        ends_ms = end_ms(now_ms, body.endsAt, field="endsAt")
        if ends_ms and ends_ms <= starts_ms:
            raise RtError("BAD_REQUEST", "It would end before it begins.", field="endsAt")
        notice = Notice(
            id=rule_id("notice", new_id()),
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=ends_ms,
            message=body.message,
            severity=body.severity,
            starts_ms=starts_ms,
            namespace=body.namespace or "",
            role=body.role or "",
        )
        await self.rules.put(self.notices.table, notice)
        if starts_ms <= now_ms:
            with contextlib.suppress(RtError):  # it holds: the node that leads goes on trying
                await self.notices.tell(notice)
        return Answer(view_notice(self.notices.table.rules.get(notice.id, notice)), 201)


class NoticeHandler(Handler):
    notices: Notices

    @operation("operator", query=Removal, answer=RuleHandler, action="notice.end", errors=("NOT_FOUND",))
    async def delete(self, id: RuleId, query: Removal) -> Answer:
        """End a notice; clients are told so."""
        done = await self.notices.end(id)
        return Answer(RuleHandler(id, done.count, done.missing))


def view_notice(notice: Notice) -> NoticeView:
    return NoticeView(
        notice.id,
        notice.message,
        notice.severity,
        iso(notice.starts_ms),
        time_or_none(notice.until_ms),
        notice.namespace or None,
        notice.role or None,
        notice.told,
        notice.by,
        iso(notice.at_ms),
        notice.reason,
    )


def notice_routes(
    admin: Admin, rules: Rules, notices: Notices, namespaces: Collection[str]
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application."""
    parts = {"admin": admin, "notices": notices}
    return [
        (r"/api/v1/notices", NoticesHandler, {**parts, "rules": rules, "namespaces": namespaces}),
        (r"/api/v1/notices/([^/]+)", NoticeHandler, parts),
    ]

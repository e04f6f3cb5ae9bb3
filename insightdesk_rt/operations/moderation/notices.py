"""Notices: messages that admins show to everybody, as the events `server:notice` and `server:notice:ended`.

    GET    /api/v1/notices          the notices in force, and those to come
    POST   /api/v1/notices          show a message to all clients, or to a namespace or role, now or later
    DELETE /api/v1/notices/{id}     end a notice

A notice is appended once to the log of each namespace it is for. So every connected client, and every client that
resumes its session, receives it once and in order, like any logged event. If it begins or ends now, the node that was
asked appends it. Otherwise, or if that failed, the leading node does; both use the same event id, and the log takes an
id once. A client that connects later is sent the notices in force. In the moment a notice begins that may be a second
copy, with the same id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, Change, Removal
from insightdesk_rt.api.paging import Page, Paged
from insightdesk_rt.engine.dispatch.namespace import EVERYBODY, Outbound
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.ids import RuleId
from insightdesk_rt.engine.model import Role, Severity, iso, new_id, role_room
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.texts import VISIBLE_LINE
from insightdesk_rt.operations.moderation.rule_routes import Ruled, Time, end_ms, rule_id, rules_page, time_or_none
from insightdesk_rt.operations.moderation.rules import Rule, RuleChange, Rules, RuleTable

MAX_NOTICES = 100

Path = Annotated[str, Meta(max_length=200)]
Message = Annotated[str, Meta(min_length=1, max_length=2000, pattern=VISIBLE_LINE)]


class ServerNotice(Outbound):
    """`endsAt` is left out if the notice has no end."""

    event: ClassVar = "server:notice"
    logged: ClassVar = True
    id: str
    message: str
    severity: Severity
    startsAt: str
    endsAt: str = ""


class ServerNoticeEnded(Outbound):
    event: ClassVar = "server:notice:ended"
    logged: ClassVar = True
    id: str


class Notice(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """`until_ms` is its end. `namespace` and `role` limit it to these. `told`: it was published, so it is in the logs.

    The field names are the keys of the JSON in Valkey.
    """

    message: str
    severity: Severity
    starts_ms: int
    namespace: str = ""
    role: Role | Literal[""] = ""
    told: bool = False

    def out(self) -> ServerNotice:
        ends = iso(self.until_ms) if self.until_ms else ""
        return ServerNotice(self.id, self.message, self.severity, iso(self.starts_ms), ends)


class Notices:
    """Publishes notices and their ends. Call `tick` every second. `leads`: is this the leading node?"""

    def __init__(self, rules: Rules, hub: Hub, leads: Callable[[], bool]) -> None:
        self._rules = rules
        self._hub = hub
        self._leads = leads
        self._ended: dict[str, Notice] = {}  # ended, and the end is not published yet
        self.table = RuleTable("notice", Notice, MAX_NOTICES, self._changed)
        rules.add(self.table)

    def greet(self, socket: Socket) -> None:
        """Send a socket that has just connected the notices in force."""
        now_ms = self._rules.now_ms()
        for notice in self.table.rules.values():
            if (
                notice.starts_ms <= now_ms
                and notice.namespace in ("", socket.namespace)
                and notice.role in ("", socket.user.role)
            ):
                out = notice.out()
                socket.emit(out.event, json.encode_struct(out))

    async def publish(self, notice: Notice) -> None:
        """Append a notice that has begun to the logs of its namespaces. Idempotent. Raises RtError UNAVAILABLE."""
        await self._emit(notice, notice.out(), f"notice.{notice.id}")
        if not await self._rules.replace(self.table, replace(notice, told=True)):
            await self._publish_end(notice)  # it was ended meanwhile

    async def end(self, id: str) -> RuleChange:
        """Take a notice back, and publish its end if it was published. Raises RtError UNAVAILABLE, NOT_FOUND."""
        notice = self.table.rules.get(id)
        done = await self._rules.remove(self.table, id)
        if notice is not None and notice.told:
            with contextlib.suppress(RtError):  # the leading node tries again
                await self._publish_end(notice)
        return done

    async def tick(self) -> None:
        """On the leading node: publish what has begun and what has ended. Raises RtError UNAVAILABLE."""
        if not self._leads():
            self._ended.clear()
            return
        now_ms = self._rules.now_ms()
        for notice in [one for one in self.table.rules.values() if not one.told and one.starts_ms <= now_ms]:
            await self.publish(notice)
        for id, notice in tuple(self._ended.items()):
            await self._publish_end(notice)
            del self._ended[id]

    async def _changed(self, old: Notice | None, new: Notice | None) -> int:
        if old is not None and new is None and old.told:
            self._ended[old.id] = old
        return 0

    async def _publish_end(self, notice: Notice) -> None:
        await self._emit(notice, ServerNoticeEnded(notice.id), f"notice.{notice.id}.ended")

    async def _emit(self, notice: Notice, out: Outbound, id: str) -> None:
        namespaces: Collection[str] = [notice.namespace] if notice.namespace else self._hub.namespaces
        roles: Collection[str] = [notice.role] if notice.role else EVERYBODY
        rooms = [role_room(role) for role in sorted(roles)]
        text = json.encode_struct(out)
        for namespace in namespaces:
            await self._hub.emit(namespace, rooms, out.event, text, id=f"{id}{namespace}")


# ── the routes ──────────────────────────────────────────────────────────────────────────────────────────────────────


class MakeNotice(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    message: Message
    severity: Severity = "info"
    startsAt: Annotated[Time | None, Meta(description="default: now")] = None
    endsAt: Annotated[Time | None, Meta(description="default: until it is taken back")] = None
    namespace: Annotated[Path | None, Meta(description="default: all")] = None
    role: Annotated[Role | None, Meta(description="default: everybody")] = None


class NoticeView(Struct):
    """`told`: it has been published to clients."""

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
        """The notices in force and those to come, the newest first."""
        return Answer(rules_page(self.notices.table, query, view_notice))

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
        """Show everybody a message, from now or a given time until it ends."""
        if body.namespace is not None and body.namespace not in self.namespaces:
            raise RtError("BAD_REQUEST", "There is no such namespace.", field="namespace")
        now_ms = self.rules.now_ms()
        starts_ms = max(now_ms, end_ms(now_ms, body.startsAt, field="startsAt")) if body.startsAt else now_ms
        ends_ms = end_ms(now_ms, body.endsAt, field="endsAt")
        if ends_ms and ends_ms <= starts_ms:
            raise RtError("BAD_REQUEST", "The notice would end before it begins.", field="endsAt")
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
            with contextlib.suppress(RtError):  # the notice is stored: the leading node tries again
                await self.notices.publish(notice)
        return Answer(view_notice(self.notices.table.rules.get(notice.id, notice)), 201)


class NoticeHandler(Handler):
    notices: Notices

    @operation("operator", query=Removal, answer=Ruled, action="notice.end", errors=("NOT_FOUND",))
    async def delete(self, id: RuleId, query: Removal) -> Answer:
        """End a notice; clients receive `server:notice:ended`."""
        done = await self.notices.end(id)
        return Answer(Ruled(id, done.count, done.missing))


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


def notice_routes(admin: Admin, rules: Rules, notices: Notices, namespaces: Collection[str]) -> list[Route]:
    """Return the routes of this file."""
    parts = {"admin": admin, "notices": notices}
    return [
        (r"/api/v1/notices", NoticesHandler, {**parts, "rules": rules, "namespaces": namespaces}),
        (r"/api/v1/notices/([^/]+)", NoticeHandler, parts),
    ]

"""What admins tell everybody: `server:notice`, from its beginning until its end, and `server:notice:ended`.

A notice is logged once in each namespace it is for, so that it comes to all who are connected (and to who comes back
to a session) in order and once, as any event. The node that was asked does so if it begins or ends now; else, and
where that failed, the node that leads: an event of the same id is logged once. Who connects anew is told of those
that hold; in the moment of its beginning that may be a second time, under the same id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import ClassVar, Literal

from msgspec.structs import replace

from insightdesk_rt.engine.dispatch.namespace import EVERYBODY, Outbound
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Role, Severity, iso, role_room
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.moderation.rules import Rule, RuleChange, Rules, RuleTable

MAX_NOTICES = 100


class ServerNotice(Outbound):
    """`endsAt` is left out of one without an end."""

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
    """`until_ms` is its end. `namespace` and `role`: for these alone. `told`: it is in the logs."""

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
    """`tick` every second. `leads`: is this the node that does what must happen once?"""

    def __init__(self, rules: Rules, hub: Hub, leads: Callable[[], bool]) -> None:
        self._rules = rules
        self._hub = hub
        self._leads = leads
        self._ended: dict[str, Notice] = {}  # must still be told
        self.table = RuleTable("notice", Notice, MAX_NOTICES, self._changed)
        rules.add(self.table)

    def greet(self, socket: Socket) -> None:
        """Tell one who has just connected what holds."""
        now_ms = self._rules.now_ms()
        for notice in self.table.rules.values():
            if (
                notice.starts_ms <= now_ms
                and notice.namespace in ("", socket.namespace)
                and notice.role in ("", socket.user.role)
            ):
                out = notice.out()
                socket.emit(out.event, json.encode_struct(out))

    async def tell(self, notice: Notice) -> None:
        """Log a notice whose time has come, for all it concerns. Raises RtError UNAVAILABLE; again changes nothing."""
        await self._emit(notice, notice.out(), f"notice.{notice.id}")
        if not await self._rules.replace(self.table, replace(notice, told=True)):
            await self._tell_ended(notice)  # it was ended meanwhile

    async def end(self, id: str) -> RuleChange:
        """Take a notice back, and tell who was told of it. Raises RtError UNAVAILABLE, NOT_FOUND."""
        notice = self.table.rules.get(id)
        done = await self._rules.remove(self.table, id)
        if notice is not None and notice.told:
            with contextlib.suppress(RtError):  # the node that leads goes on trying
                await self._tell_ended(notice)
        return done

    async def tick(self) -> None:
        """On the node that leads: tell what has begun and what has ended. Raises RtError UNAVAILABLE."""
        if not self._leads():
            self._ended.clear()
            return
        now_ms = self._rules.now_ms()
        for notice in [one for one in self.table.rules.values() if not one.told and one.starts_ms <= now_ms]:
            await self.tell(notice)
        for id, notice in tuple(self._ended.items()):
            await self._tell_ended(notice)
            del self._ended[id]

    async def _changed(self, old: Notice | None, new: Notice | None) -> int:
        if old is not None and new is None and old.told:
            self._ended[old.id] = old
        return 0

    async def _tell_ended(self, notice: Notice) -> None:
        await self._emit(notice, ServerNoticeEnded(notice.id), f"notice.{notice.id}.ended")

    async def _emit(self, notice: Notice, out: Outbound, id: str) -> None:
        namespaces: Collection[str] = [notice.namespace] if notice.namespace else self._hub.namespaces
        roles: Collection[str] = [notice.role] if notice.role else EVERYBODY
        rooms = [role_room(role) for role in sorted(roles)]
        text = json.encode_struct(out)
        for namespace in namespaces:
            await self._hub.emit(namespace, rooms, out.event, text, id=f"{id}{namespace}")

"""Presence: who is here, which nodes say so, and what they chose to be. One hash per user, one set per node.

A user is online while a live node incarnation holds a connection of theirs; nodes say so once per user, not once per
connection, and nothing is refreshed per user: what a dead node held lies in its own set and is reaped from there. The
last connection gone begins a grace; `sweep` ends it. Every change is one script, decided by Valkey's clock, and answers
whether others see a transition: only the caller that got it tells it (untold.py says what happens if that one dies).

Any node may stop at any point. A reaper that dies half-way leaves a set that the next reaper goes on with; a node that
was declared dead and comes back is refused (`HeldPresence.FENCED`) until it has a new incarnation. Cost: one command
per first connect or last disconnect of a user on a node, whatever the number of users.

The keys are listed in lua/presence_lib.lua. The same store under another name keeps who is in the chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from msgspec import Struct

from insightdesk_rt.engine.cluster.valkey import Valkey, load_script
from insightdesk_rt.engine.model import Role, Status, User
from insightdesk_rt.helpdesk import pending_events as untold
from insightdesk_rt.helpdesk.pending_events import PendingEvent, PendingEvents, script

PACKAGE = "insightdesk_rt.helpdesk.presence"

JOIN = script(PACKAGE, "presence_join", "presence_lib")
LEAVE = script(PACKAGE, "presence_leave", "presence_lib")
CHOOSE = script(PACKAGE, "presence_choose", "presence_lib")
SWEEP = script(PACKAGE, "presence_sweep", "presence_lib")
REAP = script(PACKAGE, "presence_reap", "presence_lib")
READ = load_script(PACKAGE, "presence_read")
COUNTS = load_script(PACKAGE, "presence_counts")
STAFF = script(PACKAGE, "presence_staff", "page")
WHO = load_script(PACKAGE, "presence_who")


class HeldPresence(IntEnum):
    """What a node's word about a user did."""

    FENCED = -1  # the incarnation was declared dead; nothing was stored
    QUIETLY = 0  # nobody sees a change
    SEEN = 1  # the user came online; the caller tells it


class PresenceJoin(NamedTuple):
    held: HeldPresence
    untold: list[PendingEvent]


class SeenPresence(NamedTuple):
    """A user as others see them; `last_seen_ms` (Unix) is 0 for one who was never here, or too long ago."""

    key: str
    status: Status
    last_seen_ms: int


class KnownPresence(NamedTuple):
    """The same with what Valkey knows of who it is; empty for one who was never here, or too long ago."""

    seen: SeenPresence
    name: str
    role: Role | None
    team_id: str


class PresenceList(NamedTuple):
    """One of a list: its place in it is status, since when (Unix ms), id."""

    status: Status
    since_ms: int
    key: str


class AgentCounts(Struct, frozen=True):
    """How many agents and admins; `offline` are those who were here within 30 days and are not now."""

    online: int
    busy: int
    away: int
    offline: int


class PresenceStore:
    def __init__(self, valkey: Valkey, grace_ms: int = 5_000, name: str = "presence") -> None:
        self._valkey = valkey
        self._grace_ms = grace_ms
        self.name = name
        self.base = valkey.key(name)
        self.untold = PendingEvents(valkey, name)

    async def join(self, user: User, node: str) -> PresenceJoin:
        """The incarnation `node` holds connections of the user. Again is nothing. Raises RtError UNAVAILABLE."""
        held, records = await self._call(JOIN, user.key, node, user.role, user.team_id, user.name)
        return PresenceJoin(HeldPresence(held), untold.read(self.name, user.key, records))

    async def leave(self, key: str, node: str) -> bool:
        """It holds none any more. Returns whether it was the last node, so that the grace has begun."""
        return bool(await self._call(LEAVE, key, node, self._grace_ms))

    async def choose(self, key: str, status: Status) -> list[PendingEvent]:
        """The user chooses online, busy or away. Returns what to tell: nothing if nobody sees a change."""
        _, records = await self._call(CHOOSE, key, status)
        return untold.read(self.name, key, records)

    async def sweep(self, limit: int = 200) -> list[PendingEvent]:
        """Take at most `limit` users offline whose grace is over. Returns what to tell of them."""
        swept = await self._call(SWEEP, limit)
        return [change for key, records in swept for change in untold.read(self.name, key, records)]

    async def reap(self, node: str, limit: int = 200) -> int:
        """Declare an incarnation dead and take at most `limit` users from it. Returns how many are left to take."""
        return int(await self._call(REAP, node, limit, self._grace_ms))

    async def statuses(self, keys: Sequence[str]) -> list[SeenPresence]:
        """Return how others see each of the users, in that order."""
        rows = await self._valkey.call(READ, [self.base], keys)
        pairs = zip(keys, rows, strict=True)
        return [SeenPresence(key, status or "offline", int(seen or 0)) for key, (status, seen) in pairs]

    async def known(self, keys: Sequence[str]) -> list[KnownPresence]:
        """Return the users, in that order."""
        rows = await self._valkey.call(WHO, [self.base], keys)
        return [
            KnownPresence(
                SeenPresence(key, status or "offline", int(seen or 0)), name or "", role or None, team_id or ""
            )
            for key, (status, seen, role, team_id, name) in zip(keys, rows, strict=True)
        ]

    async def staff(
        self, statuses: Sequence[Status], limit: int, after: PresenceList | None = None
    ) -> list[PresenceList]:
        """Return agents and admins of these statuses: one status after the other, each from the longest on."""
        place = after or ("", "", "")
        rows = await self._valkey.call(STAFF, [self.base], [limit, *place, *statuses])
        return [PresenceList(status, int(since), key) for status, since, key in rows]

    async def agent_counts(self) -> AgentCounts:
        return AgentCounts(*await self._valkey.call(COUNTS, [self.base], []))

    async def incarnations(self) -> set[str]:
        """All that hold anybody, living or dead."""
        return set(await self._valkey.command("SMEMBERS", f"{self.base}-nodes"))

    async def held_count(self, node: str) -> int:
        """How many users the incarnation holds, as far as the others know."""
        return int(await self._valkey.command("SCARD", f"{self.base}-node:{node}"))

    async def held_by(self, node: str) -> set[str]:
        """Those users themselves. O(their number): for when the count is wrong."""
        return set(await self._valkey.command("SMEMBERS", f"{self.base}-node:{node}"))

    async def _call(self, script: Any, *args: Any) -> Any:
        return await self._valkey.call(script, [self.base], args)

"""Presence store: which users are connected, through which nodes, and which status they chose.

There is one hash per user and one set per node. A user is online while a living node incarnation holds a connection of
theirs. A node stores that once per user, not once per connection, and refreshes nothing per user: what a dead node held
is in its own set and is reaped from there. When the last connection goes a grace period begins; `sweep` ends it. Every
change is one script, decided by Valkey's clock, which returns whether others see a change of status. Only the caller
that got the change publishes it; pending_events.py says what happens if that caller dies.

Any node may stop at any point. A reaper that dies half-way leaves a set with which the next reaper continues. A node
that was declared dead and comes back is refused (`HeldPresence.FENCED`) until it has a new incarnation. Cost: one
command per first connect or last disconnect of a user on a node, whatever the number of users.

The keys are listed in lua/presence_lib.lua. The same store under another name holds who is connected to the chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

from insightdesk_rt.engine.cluster.names import Key, Partition
from insightdesk_rt.engine.cluster.valkey import Valkey, load_script
from insightdesk_rt.engine.model import Role, Status, User
from insightdesk_rt.helpdesk.pending_events import PAGE, PENDING_EVENTS, PendingEvent, PendingEvents, read_pending
from insightdesk_rt.helpdesk.presence.settings import PresenceSettings

PACKAGE = "insightdesk_rt.helpdesk.presence"

JOIN = load_script(PACKAGE, "presence_join", PENDING_EVENTS, "presence_lib")
LEAVE = load_script(PACKAGE, "presence_leave", PENDING_EVENTS, "presence_lib")
FORGET = load_script(PACKAGE, "presence_forget", PENDING_EVENTS, "presence_lib")
CHOOSE = load_script(PACKAGE, "presence_choose", PENDING_EVENTS, "presence_lib")
ABSENT = load_script(PACKAGE, "presence_absent", PENDING_EVENTS, "presence_lib")
SWEEP = load_script(PACKAGE, "presence_sweep", PENDING_EVENTS, "presence_lib")
DEAD = load_script(PACKAGE, "presence_dead")
REAP = load_script(PACKAGE, "presence_reap", PENDING_EVENTS, "presence_lib")
READ = load_script(PACKAGE, "presence_read")
COUNTS = load_script(PACKAGE, "presence_counts")
STAFF = load_script(PACKAGE, "presence_staff", PAGE)
WHO = load_script(PACKAGE, "presence_who")


class HeldPresence(IntEnum):
    """The effect of a node's connection on a user's presence."""

    FENCED = -1  # the incarnation was declared dead; nothing was stored
    QUIETLY = 0  # others see no change
    SEEN = 1  # the user came online; the caller publishes that


class PresenceJoin(NamedTuple):
    held: HeldPresence
    pending: list[PendingEvent]


class SeenPresence(NamedTuple):
    """A user as others see them; `last_seen_ms` (Unix) is 0 for a user who was never here, or too long ago."""

    key: str
    status: Status
    last_seen_ms: int


class KnownPresence(NamedTuple):
    """The same with name, role and team; they are empty for a user who was never here, or too long ago."""

    seen: SeenPresence
    name: str
    role: Role | None
    team_id: str


class PresenceForgotten(NamedTuple):
    """Whether anything was kept, and the events to publish."""

    kept: bool
    pending: list[PendingEvent]


class PresenceList(NamedTuple):
    """One entry of the staff list, which is sorted by status, since when (Unix ms), and id."""

    status: Status
    since_ms: int
    key: str


class AgentCounts(Struct, frozen=True):
    """Numbers of agents and admins by status; `offline`: here within the last 30 days, but not now."""

    online: int
    busy: int
    away: int
    offline: int


GRACE_MS = PresenceSettings().presence_grace_ms
STATUSES: tuple[Status, ...] = ("online", "busy", "away", "offline")


class PresenceStore:
    def __init__(self, valkey: Valkey, partition: Partition, grace_ms: int = GRACE_MS, name: str = "presence") -> None:
        self._valkey = valkey
        self._grace_ms = grace_ms
        self.name = name
        self.base = partition.key(name)
        self.crew = Key(f"{self.base}-crew")
        self.agents = [Key(f"{self.base}-agents:{status}") for status in STATUSES]
        self._dead = Key(f"{self.base}-dead")
        self._grace = Key(f"{self.base}-grace")
        self._nodes = Key(f"{self.base}-nodes")
        self.pending = PendingEvents(valkey, partition, name)
        self._family = [self._nodes, self._grace, self.crew, self.pending.index, *self.agents]

    def user(self, key: str) -> Key:
        """The hash of a user."""
        return Key(f"{self.base}:{key}")

    def _held(self, node: str) -> Key:
        """The set of the users that an incarnation holds."""
        return Key(f"{self.base}-node:{node}")

    def _of(self, *users: str) -> list[Key]:
        return [key for user in users for key in (self.user(user), self.pending.of(user))]

    async def join(self, user: User, node: str) -> PresenceJoin:
        """Store that the incarnation `node` holds connections of the user. Idempotent. Raises RtError UNAVAILABLE."""
        keys = [*self._family, self._held(node), self._dead, *self._of(user.key)]
        args = (user.key, node, user.role, user.team_id, user.name)
        held, records = await self._valkey.call(JOIN, keys, args)
        return PresenceJoin(HeldPresence(held), read_pending(self.name, user.key, records))

    async def leave(self, key: str, node: str) -> bool:
        """Store that it holds none any more. Returns whether it was the last node, so that the grace period begins."""
        keys = [*self._family, self._held(node), *self._of(key)]
        return bool(await self._valkey.call(LEAVE, keys, (key, node, self._grace_ms)))

    async def choose(self, key: str, status: Status) -> list[PendingEvent]:
        """Store the status that a user chose. Returns the events to publish: none if others see no change."""
        _, records = await self._valkey.call(CHOOSE, [*self._family, *self._of(key)], (key, status))
        return read_pending(self.name, key, records)

    async def sweep(self, limit: int = 200) -> list[PendingEvent]:
        """Take at most `limit` users offline whose grace period has ended. Returns the events to publish.

        Two steps, since a script names all its keys before it runs. The second one looks at each user again.
        """
        absent = await self._valkey.call(ABSENT, self._family, (limit,))
        if not absent:
            return []
        swept = await self._valkey.call(SWEEP, [*self._family, *self._of(*absent)], absent)
        return [change for key, records in swept for change in read_pending(self.name, key, records)]

    async def reap(self, node: str, limit: int = 200) -> int:
        """Declare an incarnation dead and take at most `limit` users from it. Returns how many are left to take."""
        held = self._held(node)
        users = await self._valkey.call(DEAD, [self._dead, held], (node, limit))
        if not users:
            return 0
        keys = [*self._family, held, *self._of(*users)]
        return int(await self._valkey.call(REAP, keys, (node, self._grace_ms, *users)))

    async def forget(self, key: str) -> PresenceForgotten:
        """Delete what is kept of a user, who is offline from now on."""
        names = await self._valkey.command("HKEYS", self.user(key))
        nodes = [name[1:] for name in names if name.startswith("@")]
        keys = [*self._family, *self._of(key), *map(self._held, nodes)]
        known, records = await self._valkey.call(FORGET, keys, (key, *nodes))
        return PresenceForgotten(bool(known), read_pending(self.name, key, records))

    async def statuses(self, keys: Sequence[str]) -> list[SeenPresence]:
        """Return how others see these users, in the same order."""
        rows = await self._valkey.call(READ, [*map(self.user, keys)], ()) if keys else []
        pairs = zip(keys, rows, strict=True)
        return [SeenPresence(key, status or "offline", int(seen or 0)) for key, (status, seen) in pairs]

    async def known(self, keys: Sequence[str]) -> list[KnownPresence]:
        """Return the stored presence of these users, in the same order."""
        rows = await self._valkey.call(WHO, [*map(self.user, keys)], ()) if keys else []
        return [
            KnownPresence(
                SeenPresence(key, status or "offline", int(seen or 0)), name or "", role or None, team_id or ""
            )
            for key, (status, seen, role, team_id, name) in zip(keys, rows, strict=True)
        ]

    async def staff(
        self, statuses: Sequence[Status], limit: int, after: PresenceList | None = None
    ) -> list[PresenceList]:
        """Return agents and admins with these statuses: status by status, those who have it longest first."""
        place = after or ("", "", "")
        agents = [self.agents[STATUSES.index(status)] for status in statuses]
        rows = await self._valkey.call(STAFF, agents, [limit, *place, *statuses])
        return [PresenceList(status, int(since), key) for status, since, key in rows]

    async def agent_counts(self) -> AgentCounts:
        return AgentCounts(*await self._valkey.call(COUNTS, self.agents, []))

    async def incarnations(self) -> set[str]:
        """Return the incarnations with connected users, living or dead."""
        return set(await self._valkey.command("SMEMBERS", self._nodes))

    async def held_count(self, node: str) -> int:
        """Return how many connected users the incarnation has according to the store."""
        return int(await self._valkey.command("SCARD", self._held(node)))

    async def held_by(self, node: str) -> set[str]:
        """Return those users. O(their number): only for a count that is wrong."""
        return set(await self._valkey.command("SMEMBERS", self._held(node)))

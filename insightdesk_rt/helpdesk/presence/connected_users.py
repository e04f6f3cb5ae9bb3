"""Roster: which users have sockets of a namespace on this node, and that the store knows it.

It owns the count of sockets per user here, and speaks to the store only when a user's first comes or last goes. What
the store should hold follows from that count alone, so whatever failed (Valkey away, this incarnation declared dead,
Valkey emptied) is mended by saying it again: `reconcile` does, every second. A connection is never refused for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from insightdesk_rt.engine.dispatch.namespace import Living
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, UserKey
from insightdesk_rt.helpdesk.event_relay import EventRelay
from insightdesk_rt.helpdesk.presence.store import HeldPresence, PresenceStore

BATCH = 500  # users per pipeline
STEP = 200  # users per script that walks many: 2 to 5 ms of Valkey, in which everybody else waits
COMPARE_EVERY = 10  # turns of `reconcile` between two looks at whether store and node agree


class _Here:
    __slots__ = ("sockets", "user")

    def __init__(self, user: User) -> None:
        self.user = user
        self.sockets = 1


class ConnectedUsers:
    """`incarnation` names this node's present life; it changes when the node was declared dead and comes back."""

    def __init__(self, store: PresenceStore, incarnation: Callable[[], str], teller: EventRelay) -> None:
        self._store = store
        self._incarnation = incarnation
        self._teller = teller
        self._here: dict[UserKey, _Here] = {}
        # Not by sid: a session that came back has the sid it had, and may be here before its old socket's end is told.
        self._sockets: set[Socket] = set()
        self._unsettled: set[UserKey] = set()  # users of whom the store may not know what is true
        self._turn = 0
        # Told of an incarnation that the store takes for dead. The server has the node live on under another one.
        self.on_fenced: Callable[[str], None] = lambda incarnation: None

    async def came(self, socket: Socket) -> None:
        """A socket is here now."""
        user = socket.user
        self._sockets.add(socket)
        here = self._here.get(user.key)
        if here is None:
            self._here[user.key] = _Here(user)
            await self._settle(user.key)
            return
        here.sockets += 1
        if (user.role, user.team_id, user.name) != (here.user.role, here.user.team_id, here.user.name):
            here.user = user
            await self._settle(user.key)

    async def went(self, socket: Socket) -> None:
        """It is gone. One that never came (it was lost while it was being let in) is nothing."""
        if socket not in self._sockets:
            return
        self._sockets.discard(socket)
        here = self._here[socket.user.key]
        here.sockets -= 1
        if here.sockets == 0:
            del self._here[socket.user.key]
            await self._settle(socket.user.key)

    async def reconcile(self) -> None:
        """Say again what may not have come through, and now and then compare. Call it every second."""
        self._turn += 1
        if self._turn % COMPARE_EVERY == 0:
            await self._compare()
        await self._settle_all(list(self._unsettled))

    async def sweep(self) -> None:
        """Take those offline whose grace is over; any node does it for all."""
        while changes := await self._store.sweep(STEP):
            await self._teller.tell(changes)

    async def re_register(self) -> None:
        """Tell the store of everybody here: it forgot them, or this is a new incarnation."""
        await self._settle_all(list(self._here))

    async def node_lost(self, incarnation: str) -> None:
        """Take everybody from a dead incarnation, in bounded steps. Any node may begin, and any other go on.

        Those without another node go offline after the grace. Raises RtError UNAVAILABLE: call it again.
        """
        while await self._store.reap(incarnation, STEP):
            pass

    async def reap_all_except(self, living: Living) -> None:
        """Take everybody from all other incarnations: those that died when nobody was there to see it.

        Raises RtError UNAVAILABLE: call it again.
        """
        # First who holds somebody, then who lives: a node that starts between the two lives before it holds anybody.
        holders = await self._store.incarnations()
        for incarnation in holders.difference(await living()):
            await self.node_lost(incarnation)

    async def _settle_all(self, keys: Collection[UserKey]) -> None:
        todo = list(keys)
        self._unsettled.update(todo)  # what a failed batch leaves is done by the next `reconcile`
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            if not all(await asyncio.gather(*(self._settle(key) for key in batch))):
                return

    async def _settle(self, key: UserKey) -> bool:
        """Tell the store what is true of the user here. Returns whether that came through."""
        here, incarnation = self._here.get(key), self._incarnation()
        self._unsettled.add(key)
        try:
            if here is None:
                await self._store.leave(key, incarnation)
            else:
                joined = await self._store.join(here.user, incarnation)
                if joined.held is HeldPresence.FENCED:
                    self.on_fenced(incarnation)
                    return False  # until the node has another incarnation
                await self._teller.tell(joined.untold)
        except RtError:  # Valkey is away, which its own connection says once; `reconcile` comes back to this user
            return False
        if self._here.get(key) is here and self._incarnation() == incarnation:
            self._unsettled.discard(key)
        return True

    async def _compare(self) -> None:
        """Find what the store believes and is not so, and the other way round: a late command of a lost connection.

        The usual cost is one count. A call still under way may look like a difference; saying it again does no harm.
        """
        incarnation = self._incarnation()
        if await self._store.held_count(incarnation) != len(self._here):
            stored = await self._store.held_by(incarnation)
            self._unsettled |= stored.symmetric_difference(self._here)  # type: ignore[arg-type]

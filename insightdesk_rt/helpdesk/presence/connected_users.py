"""ConnectedUsers: the users with sockets of a namespace on this node, kept in sync with the store.

This object owns the number of sockets per user on this node. It calls the store only when a user's first socket comes
or the last one goes. What the store should hold follows from these numbers alone. So whatever failed (Valkey was
unreachable, this incarnation was declared dead, Valkey was emptied) is repaired by storing it again: `reconcile` does
that every second. A connection is never refused because of it.
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
STEP = 200  # users per call of a script: 2 to 5 ms, during which Valkey serves no other command
COMPARE_EVERY = 10  # calls of `reconcile` between two comparisons of store and node


class _ConnectedUser:
    __slots__ = ("sockets", "user")

    def __init__(self, user: User) -> None:
        self.user = user
        self.sockets = 1


class ConnectedUsers:
    """`incarnation` returns the name of this node's present life, which changes after it was declared dead.

    `fenced` is called with an incarnation that the store takes for dead. The node then goes on under another one.
    """

    def __init__(
        self,
        store: PresenceStore,
        incarnation: Callable[[], str],
        relay: EventRelay,
        fenced: Callable[[str], None] = lambda incarnation: None,
    ) -> None:
        self._store = store
        self._incarnation = incarnation
        self._relay = relay
        self._users: dict[UserKey, _ConnectedUser] = {}
        # Not by sid: a resumed session keeps its sid, and may be here before its old socket has left.
        self._sockets: set[Socket] = set()
        self._unsettled: set[UserKey] = set()  # users whose entry in the store may differ from this node
        self._turn = 0
        self._fenced = fenced

    async def add(self, socket: Socket) -> None:
        """A socket has connected."""
        user = socket.user
        self._sockets.add(socket)
        connected = self._users.get(user.key)
        if connected is None:
            self._users[user.key] = _ConnectedUser(user)
            await self._settle(user.key)
            return
        connected.sockets += 1
        if (user.role, user.team_id, user.name) != (connected.user.role, connected.user.team_id, connected.user.name):
            connected.user = user
            await self._settle(user.key)

    async def remove(self, socket: Socket) -> None:
        """A socket has left. Ignores one that was never added, because its connection broke before it had joined."""
        if socket not in self._sockets:
            return
        self._sockets.discard(socket)
        connected = self._users[socket.user.key]
        connected.sockets -= 1
        if connected.sockets == 0:
            del self._users[socket.user.key]
            await self._settle(socket.user.key)

    async def reconcile(self) -> None:
        """Store again what may have failed, and compare store and node from time to time. Call it every second."""
        self._turn += 1
        if self._turn % COMPARE_EVERY == 0:
            await self._compare()
        await self._settle_all(list(self._unsettled))

    async def sweep(self) -> None:
        """Take users offline whose grace period has ended, of all nodes. Any node may call it."""
        while changes := await self._store.sweep(STEP):
            await self._relay.publish(changes)

    async def forget(self, key: UserKey) -> bool:
        """Delete what the store keeps of a user without connections, and publish that the user is offline.

        Returns whether there was anything. Raises RtError UNAVAILABLE: call it again.
        """
        gone = await self._store.forget(key)
        await self._relay.publish_or_raise(gone.pending)
        return gone.kept

    async def re_register(self) -> None:
        """Store all users who are connected here: Valkey lost them, or this node has a new incarnation."""
        await self._settle_all(list(self._users))

    async def node_lost(self, incarnation: str) -> None:
        """Remove all users from a dead incarnation, in bounded steps. Any node may begin, and another one continue.

        Users that no other node holds go offline after the grace period. Raises RtError UNAVAILABLE: call it again.
        """
        while await self._store.reap(incarnation, STEP):
            pass

    async def reap_all_except(self, living: Living) -> None:
        """Remove all users from incarnations that are not living: nodes that died while no other node was running.

        Raises RtError UNAVAILABLE: call it again.
        """
        # First the nodes with users, then the living: a node that starts in between lives before it has users.
        holders = await self._store.incarnations()
        for incarnation in holders.difference(await living()):
            await self.node_lost(incarnation)

    async def _settle_all(self, keys: Collection[UserKey]) -> None:
        todo = list(keys)
        self._unsettled.update(todo)  # the next `reconcile` does what a failed batch leaves
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            if not all(await asyncio.gather(*(self._settle(key) for key in batch))):
                return

    async def _settle(self, key: UserKey) -> bool:
        """Store whether the user is connected here. Returns whether Valkey accepted it."""
        connected, incarnation = self._users.get(key), self._incarnation()
        self._unsettled.add(key)
        try:
            if connected is None:
                await self._store.leave(key, incarnation)
            else:
                joined = await self._store.join(connected.user, incarnation)
                if joined.held is HeldPresence.FENCED:
                    self._fenced(incarnation)
                    return False  # until the node has another incarnation
                await self._relay.publish(joined.pending)
        except RtError:  # Valkey is unreachable, which its connection logs once; `reconcile` tries this user again
            return False
        if self._users.get(key) is connected and self._incarnation() == incarnation:
            self._unsettled.discard(key)
        return True

    async def _compare(self) -> None:
        """Find users whom the store has and this node has not, or the reverse: a late command of a lost connection.

        Usually this costs one count. A call that is still under way may look like a difference; storing it again does
        no harm.
        """
        incarnation = self._incarnation()
        if await self._store.held_count(incarnation) != len(self._users):
            stored = await self._store.held_by(incarnation)
            self._unsettled |= stored.symmetric_difference(self._users)  # type: ignore[arg-type]

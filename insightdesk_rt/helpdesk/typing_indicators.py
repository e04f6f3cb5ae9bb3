"""Typing indicators: which users of this node type on a ticket or in a conversation, and how others see it.

The first call after a pause is published once it is stored in Valkey (viewer_store.py), so that the other nodes know
what to clear if this node dies. The calls after it are published at once. Clients that open the ticket meanwhile read
the stored entries.

A user with two tabs types until both have stopped. Typing belongs to a socket, not to its sid: a session that comes
back has the same sid, and may be here before its old socket has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Annotated, NamedTuple

from insightdesk_rt.engine.dispatch.namespace import Namespace, Outbound
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Named, Person, Room, named
from insightdesk_rt.engine.settings import Help, Ms
from insightdesk_rt.helpdesk.viewer_store import ViewerStore

TypingMs = Annotated[Ms, Help("how long typing is shown after the last keystroke")]  # the setting typing_ms
TYPING_MS = 5_000


class ShownTyping(NamedTuple):
    """The events of a namespace. `skip(UserKey, sid)`: who does not get them; the sid is "" for an unknown socket."""

    started: Callable[[str, Person], Outbound]
    stopped: Callable[[str, Named], Outbound]
    room: Callable[[str], Room]
    skip: Callable[[str, str], Collection[str]]


class TypingUser:
    """A user who types: in which sockets of this node, and when that was last stored."""

    __slots__ = ("sockets", "stored_ms")

    def __init__(self) -> None:
        self.sockets: set[Socket] = set()
        self.stored_ms: int | None = None


class TypingIndicators:
    def __init__(
        self, namespace: Namespace, store: ViewerStore, shown: ShownTyping, typing_ms: int = TYPING_MS
    ) -> None:
        self._namespace = namespace
        self._store = store
        self._shown = shown
        self._typing_ms = typing_ms
        self._users: dict[tuple[str, str], TypingUser] = {}  # by (ticket or conversation, UserKey)

    def __len__(self) -> int:
        return len(self._users)

    def start(self, socket: Socket, subject: str, now_ms: int) -> None:
        """Show the others that the user types, until `typing_ms` after the last call."""
        user = self._users.setdefault((subject, socket.user.key), TypingUser())
        user.sockets.add(socket)
        if user.stored_ms is None or now_ms - user.stored_ms >= self._typing_ms:
            user.stored_ms = now_ms
            self._namespace.spawn(self._store_and_publish(socket, subject, user), "storing who types")
        else:
            self._publish_started(socket, subject)
        self._namespace.later(_key(socket, subject), self._typing_ms, self.stop, socket, subject)

    async def _store_and_publish(self, socket: Socket, subject: str, user: TypingUser) -> None:
        with suppress(RtError):  # Valkey is unreachable: the next keystroke tries again
            # Valid for two rounds, since it is stored again after one while the user goes on typing.
            await self._store.typing(subject, socket.user.person, 2 * self._typing_ms)
        if self._users.get((subject, socket.user.key)) is user:  # else the user has stopped, which was published
            self._publish_started(socket, subject)

    def _publish_started(self, socket: Socket, subject: str) -> None:
        user, shown = socket.user, self._shown
        skip = shown.skip(user.key, socket.sid)
        self._namespace.publish(shown.started(subject, user.person), shown.room(subject), skip=skip)

    def stop(self, socket: Socket, subject: str) -> None:
        """The socket stops typing. The others see that, unless its user types in another tab. Idempotent."""
        self._namespace.cancel(_key(socket, subject))
        whose = (subject, socket.user.key)
        user = self._users.get(whose)
        if user is None:
            return
        user.sockets.discard(socket)
        if user.sockets:
            return
        del self._users[whose]
        self._namespace.spawn(self._remove(subject, socket.user.key), "removing who stopped typing")
        self._publish_stopped(subject, socket.user.key, socket.sid)

    async def _remove(self, subject: str, key: str) -> None:
        with suppress(RtError):  # Valkey is unreachable: the entry expires
            await self._store.stopped(subject, key)

    def _publish_stopped(self, subject: str, key: str, sid: str = "") -> None:
        shown = self._shown
        self._namespace.publish(shown.stopped(subject, named(key)), shown.room(subject), skip=shown.skip(key, sid))

    async def node_lost(self, node: str) -> None:
        """Clear what the users of a dead node typed. Raises RtError UNAVAILABLE: call it again."""
        async for batch in self._store.drop_node(node):
            await asyncio.gather(*(self._read_and_publish(subject, users) for subject, users in batch.items() if users))

    async def _read_and_publish(self, subject: str, keys: Iterable[str]) -> None:
        self.stopped_on_lost_node(subject, keys, (await self._store.live(subject)).typing)

    def stopped_on_lost_node(self, subject: str, keys: Iterable[str], typing: Iterable[Person]) -> None:
        """Publish that these users of a dead node stopped typing, except those who are `typing` on another node."""
        for key in set(keys) - {person.key for person in typing}:
            self._publish_stopped(subject, key)


def _key(socket: Socket, subject: str) -> tuple[str, str, Socket]:
    return ("typing", subject, socket)

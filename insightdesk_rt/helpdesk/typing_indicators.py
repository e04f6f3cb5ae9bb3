"""Who types where, in the sockets of this node: on a ticket, in a conversation.

The first call of a while is told once it is noted in Valkey (helpdesk/viewer_store.py), so that the others know what
to take back if this node dies; the next ones at once. What is noted also serves those who come meanwhile.

A user with two tabs types until both have stopped. It belongs to a socket, not to its sid: a session that comes back
has the same sid, and may be here before its old socket's end is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

from insightdesk_rt.engine.dispatch.namespace import Namespace, Outbound
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Named, Person, Room, named
from insightdesk_rt.helpdesk.viewer_store import ViewerStore

TYPING_MS = 5_000  # after the last keystroke


class ShownTyping(NamedTuple):
    """How a namespace tells it. `skip(UserKey, sid)`: who is left out; the sid is "" when the socket is not known."""

    started: Callable[[str, Person], Outbound]
    stopped: Callable[[str, Named], Outbound]
    room: Callable[[str], Room]
    skip: Callable[[str, str], Collection[str]]


class Typist:
    """A user who types: in which sockets of this node, and when that was last noted."""

    __slots__ = ("noted_ms", "sockets")

    def __init__(self) -> None:
        self.sockets: set[Socket] = set()
        self.noted_ms: int | None = None


class TypingIndicators:
    def __init__(
        self, namespace: Namespace, store: ViewerStore, shown: ShownTyping, typing_ms: int = TYPING_MS
    ) -> None:
        self._namespace = namespace
        self._store = store
        self._shown = shown
        self._typing_ms = typing_ms
        self._typists: dict[tuple[str, str], Typist] = {}  # by what they type on, and user

    def __len__(self) -> int:
        return len(self._typists)

    def typed(self, socket: Socket, subject: str, now_ms: int) -> None:
        """Tell the others, and forget it `typing_ms` after the last call."""
        typist = self._typists.setdefault((subject, socket.user.key), Typist())
        typist.sockets.add(socket)
        if typist.noted_ms is None or now_ms - typist.noted_ms >= self._typing_ms:
            typist.noted_ms = now_ms
            self._namespace.spawn(self._note_and_tell(socket, subject, typist), "noting who types")
        else:
            self._tell(socket, subject)
        self._namespace.later(_key(socket, subject), self._typing_ms, self.stopped, socket, subject)

    async def _note_and_tell(self, socket: Socket, subject: str, typist: Typist) -> None:
        with suppress(RtError):  # Valkey is away: the next keystroke is noted again
            # Counts for two rounds: noted again after one, while it goes on.
            await self._store.typing(subject, socket.user.person, 2 * self._typing_ms)
        if self._typists.get((subject, socket.user.key)) is typist:  # else it has stopped meanwhile, which was told
            self._tell(socket, subject)

    def _tell(self, socket: Socket, subject: str) -> None:
        user, shown = socket.user, self._shown
        skip = shown.skip(user.key, socket.sid)
        self._namespace.publish(shown.started(subject, user.person), shown.room(subject), skip=skip)

    def stopped(self, socket: Socket, subject: str) -> None:
        """The socket types no more; tell the others, if it did, unless its user does in another tab."""
        self._namespace.cancel(_key(socket, subject))
        whose = (subject, socket.user.key)
        typist = self._typists.get(whose)
        if typist is None:
            return
        typist.sockets.discard(socket)
        if typist.sockets:
            return
        del self._typists[whose]
        self._namespace.spawn(self._forget(subject, socket.user.key), "noting who stopped typing")
        self._tell_stopped(subject, socket.user.key, socket.sid)

    async def _forget(self, subject: str, key: str) -> None:
        with suppress(RtError):  # then it runs out
            await self._store.stopped(subject, key)

    def _tell_stopped(self, subject: str, key: str, sid: str = "") -> None:
        shown = self._shown
        self._namespace.publish(shown.stopped(subject, named(key)), shown.room(subject), skip=shown.skip(key, sid))

    async def node_lost(self, node: str) -> None:
        """Take back what a dead node's users typed. Raises RtError UNAVAILABLE: call it again."""
        async for batch in self._store.drop_node(node):
            await asyncio.gather(*(self._look_and_tell(subject, users) for subject, users in batch.items() if users))

    async def _look_and_tell(self, subject: str, keys: Iterable[str]) -> None:
        self.lost(subject, keys, (await self._store.live(subject)).typing)

    def lost(self, subject: str, keys: Iterable[str], typing: Iterable[Person]) -> None:
        """Tell that these, of a dead node, type no more, but for those who are `typing` all the same: at another."""
        for key in set(keys) - {person.key for person in typing}:
            self._tell_stopped(subject, key)


def _key(socket: Socket, subject: str) -> tuple[str, str, Socket]:
    return ("typing", subject, socket)

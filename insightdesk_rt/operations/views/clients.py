"""This node's connections as admins see them: found, shown, sent away, and remembered for a while when they are gone.

What a question says (`Wanted`) is the same for a list, for one connection and for a bulk action, so that what was
counted before is what it is done to. A connection is named by a public id made of its secret one, or by any of its
sockets' sids. Many connections are looked through in turns: the loop is not held for longer than a millisecond or so.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.addresses import spelled
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Person, Role, Room, iso
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry, in_turns
from insightdesk_rt.engine.wire import json

MAX_ROOMS_SHOWN = 50
MAX_ROOMS_OF_USER = 1_000  # of all sockets; as many as one socket may have, unless told otherwise
MAX_CLOSED = 1_000  # some 400 KB

Transport = Literal["websocket", "polling", "demo"]  # demo: a robot of --demo, over no wire
Sort = Literal[
    "connected", "-connected", "seen", "-seen", "outbox", "-outbox", "dropped", "-dropped", "user", "-user"
]  # fmt: skip


class InNamespace(Struct):
    """One socket. `rooms` are the first 50 of `roomCount`, by name."""

    namespace: str
    sid: str
    rooms: list[str]
    roomCount: int
    connectedAt: str


class Connection(Struct):
    """`user` is null until it is in a namespace. `eventsOut` counts all that was written to it, answers and pings too.

    `outboxBytes` wait for it to read; `dropped` are volatile events it was too slow for. `sessionId` is that claim of
    its token, by which it can be revoked; null: the token has none.
    """

    sid: str
    node: str
    user: Person | None
    role: Role | None
    teamId: str
    ip: str
    agent: str
    transport: Transport | None
    protocol: Literal["socket.io", "native"]
    namespaces: list[str]
    sockets: list[InNamespace]
    connectedAt: str
    lastSeenAt: str
    eventsIn: int
    eventsOut: int
    outboxBytes: int
    dropped: int
    sessionId: str | None = None  # without it a node of the version before would count as one that did not answer


class Closed(Struct):
    """A connection that is gone, and why: a word of Socket.IO's or of ours. `sessionId`: its token's, null for none."""

    sid: str
    node: str
    user: Person | None
    role: Role | None
    teamId: str
    ip: str
    agent: str
    transport: str
    namespaces: list[str]
    connectedAt: str
    closedAt: str
    closeReason: str
    sessionId: str | None = None


class Wanted(Struct, frozen=True, omit_defaults=True):
    """Which connections are meant: all that is said must be true of one. Empty: not said. `user` is a UserKey."""

    user: str = ""
    ip: str = ""
    room: str = ""
    namespace: str = ""
    node: str = ""
    transport: str = ""
    role: str = ""
    sid: str = ""


class AskClients(Struct, frozen=True, omit_defaults=True):
    """For a part of the list: `after` is the key and sid of the last one that was shown."""

    wanted: Wanted
    limit: int
    sort: Sort = "-connected"
    after: tuple[float | str, str] | None = None


class Row(Struct):
    key: float | str
    shown: Connection


class Rows(Struct):
    rows: list[Row]
    total: int


class AskClosed(Struct, frozen=True, omit_defaults=True):
    wanted: Wanted
    limit: int
    before: tuple[str, str] | None = None  # closedAt and sid of the last one that was shown


class OfUser(Struct):
    """`rooms` are the first of `roomCount`, by name; `closedCount` are remembered."""

    rooms: list[str]
    roomCount: int
    closedCount: int


class SendAway(Struct, frozen=True, omit_defaults=True):
    wanted: Wanted
    reconnect: bool = False
    dry: bool = False


_ask = msgspec.json.Decoder(AskClients)
_ask_closed = msgspec.json.Decoder(AskClosed)
_send_away = msgspec.json.Decoder(SendAway)


def public_id(client_id: str) -> str:
    """Return what a connection is called in public: 20 characters, from which its secret id cannot be had."""
    return blake2b(client_id.encode(), digest_size=10).hexdigest()


class Connections:
    """Of one node. Its methods take the words of a cluster call (engine/cluster/node_calls.py)."""

    def __init__(self, node_id: str, host: ClientRegistry, hub: Hub) -> None:
        self._node_id = node_id
        self._host = host
        self._hub = hub
        self._closed: deque[Closed] = deque(maxlen=MAX_CLOSED)
        self._began_ms = (
            int(time.time() * 1000) - host.now_ms()
        )  # Unix time of the clock's zero: each machine has its own
        self._keys = {**_KEYS, "seen": self._seen_ms}
        host.on_end.append(self._remember)

    async def find(self, words: tuple[str, ...]) -> Rows:
        """Return the first of those wanted, in order, and how many there are in all."""
        ask = json.decode(_ask, words[0])
        descending = ask.sort.startswith("-")
        key_of = self._keys[ask.sort.removeprefix("-")]
        total = 0
        keyed: list[tuple[float | str, str, Client]] = []
        async for client in self._wanted(ask.wanted):
            total += 1
            key = (key_of(client), public_id(client.id))
            if ask.after is None or (key < ask.after if descending else key > ask.after):
                keyed.append((*key, client))
        pick = heapq.nlargest if descending else heapq.nsmallest
        first = pick(ask.limit, keyed, key=lambda one: one[:2])
        return Rows([Row(key, self._show(sid, client)) for key, sid, client in first], total)

    async def closed(self, words: tuple[str, ...]) -> list[Any]:
        """Return those that are gone, the newest first."""
        ask = json.decode(_ask_closed, words[0])
        found = (
            one
            for one in reversed(self._closed)
            if _was(one, ask.wanted) and (ask.before is None or (one.closedAt, one.sid) < ask.before)
        )
        return [msgspec.to_builtins(one) for one in islice(found, ask.limit)]

    async def of_user(self, words: tuple[str, ...]) -> OfUser:
        """Return the rooms of a user's sockets, and how many connections of theirs are gone. `words`: the UserKey."""
        wanted = Wanted(user=words[0])
        rooms: set[str] = set()
        async for client in self._wanted(wanted):
            for socket in client.sockets.values():
                rooms |= socket.rooms
        closed = sum(1 for one in self._closed if _was(one, wanted))
        return OfUser(sorted(rooms)[:MAX_ROOMS_OF_USER], len(rooms), closed)

    async def send_away(self, words: tuple[str, ...]) -> int:
        """Close those wanted and return how many; with `reconnect` their clients come back by themselves."""
        ask = json.decode(_send_away, words[0])
        count = 0
        async for client in self._wanted(ask.wanted):
            count += 1
            if ask.dry:
                continue
            if ask.reconnect:
                client.close(CloseReason.SENT_AWAY)
            else:
                client.dismiss(CloseReason.KICKED)
        return count

    # ── looking through them ───────────────────────────────────────────────────────────────────────────────────────

    async def _wanted(self, wanted: Wanted) -> AsyncIterator[Client]:
        if wanted.node not in ("", self._node_id):
            return
        async for client in in_turns(self._candidates(wanted)):
            if _is(client, wanted):
                yield client

    def _candidates(self, wanted: Wanted) -> list[Client]:
        """Return all that may be meant; where one is named by a socket's sid or a room, not the whole table."""
        if wanted.room:
            namespaces = [one for one in self._hub.namespaces if wanted.namespace in ("", one)]
            members = (one for name in namespaces for one in self._hub.members(name, Room(wanted.room)))
            return list({id(one.client): cast(Client, one.client) for one in members}.values())
        if wanted.sid:
            for namespace in self._hub.namespaces:
                if socket := self._hub.sockets(namespace).get(wanted.sid):  # type: ignore[call-overload]
                    return [socket.client]
        return list(self._host.clients.values())

    def _seen_ms(self, client: Client) -> float:
        return float(self._began_ms + client.heard_ms)

    def _show(self, sid: str, client: Client) -> Connection:
        sockets: list[Socket] = list(client.sockets.values())
        first = sockets[0] if sockets else None
        transport = client.transport
        return Connection(
            sid,
            self._node_id,
            first.user.person if first else None,
            first.user.role if first else None,
            first.user.team_id if first else "",
            client.address,
            client.agent,
            transport.name if transport is not None else None,  # type: ignore[arg-type]
            "native" if client.native else "socket.io",
            [socket.namespace for socket in sockets],
            [
                InNamespace(
                    socket.namespace,
                    socket.sid,
                    [*map(str, sorted(socket.rooms)[:MAX_ROOMS_SHOWN])],
                    len(socket.rooms),
                    iso(int(socket.connected_at_s * 1000)),
                )
                for socket in sockets
            ],
            iso(int(client.connected_at_s * 1000)),
            iso(int(client.last_seen * 1000)),
            sum(socket.calls_in for socket in sockets),
            client.outbox.written,
            client.outbox.bytes,
            client.outbox.dropped,
            _session_of(sockets),
        )

    def _remember(self, client: Client, why: CloseReason) -> None:
        """A connection has ended; its sockets are still there."""
        sockets: list[Socket] = list(client.sockets.values())
        first = sockets[0] if sockets else None
        self._closed.append(
            Closed(
                public_id(client.id),
                self._node_id,
                first.user.person if first else None,
                first.user.role if first else None,
                first.user.team_id if first else "",
                client.address,
                client.agent,
                client.transport.name if client.transport is not None else "",
                [socket.namespace for socket in sockets],
                iso(int(client.connected_at_s * 1000)),
                iso(int(time.time() * 1000)),
                why.value,
                _session_of(sockets),
            )
        )


def _is(client: Client, wanted: Wanted) -> bool:
    if wanted.ip and spelled(client.address) != spelled(wanted.ip):
        return False
    if wanted.transport and (client.transport is None or client.transport.name != wanted.transport):
        return False
    sockets: dict[str, Socket] = client.sockets
    if wanted.namespace and wanted.namespace not in sockets:
        return False
    if wanted.user and not any(socket.user.key == wanted.user for socket in sockets.values()):
        return False
    if wanted.role and not any(socket.user.role == wanted.role for socket in sockets.values()):
        return False
    if wanted.sid and wanted.sid != public_id(client.id):
        return any(socket.sid == wanted.sid for socket in sockets.values())
    return True


def _was(closed: Closed, wanted: Wanted) -> bool:
    return (
        wanted.user in ("", closed.user.key if closed.user else "")
        and (not wanted.ip or spelled(closed.ip) == spelled(wanted.ip))
        and wanted.node in ("", closed.node)
        and wanted.transport in ("", closed.transport)
        and wanted.role in ("", closed.role)
        and wanted.sid in ("", closed.sid)
        and (not wanted.namespace or wanted.namespace in closed.namespaces)
    )


def _session_of(sockets: list[Socket]) -> str | None:
    return sockets[0].user.session_id or None if sockets else None


def _user_of(client: Client) -> str:
    return next((socket.user.id for socket in client.sockets.values()), "")


_KEYS: dict[str, Callable[[Client], float | str]] = {
    "connected": lambda client: client.connected_at_s,
    "outbox": lambda client: float(client.outbox.bytes),
    "dropped": lambda client: float(client.outbox.dropped),
    "user": _user_of,
}

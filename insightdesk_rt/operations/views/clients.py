"""This node's connections as admins see them: find, show and disconnect them, and remember closed ones for a while.

The filters (`Wanted`) are the same for a list, for one connection and for a bulk action, so that an action affects what
was counted before. A connection is named by a public id derived from its secret one, or by the sid of any of its
sockets. Many connections are searched in turns, so that the loop is not blocked for more than a millisecond or so.
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
MAX_ROOMS_OF_USER = 1_000  # of all sockets; by default one socket may have as many
MAX_CLOSED = 1_000  # some 400 KB

Transport = Literal["websocket", "polling", "demo"]  # demo: a robot of --demo, without a network connection
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
    """`user` is null until the client is in a namespace. `eventsOut` counts all messages to it, including acks and
    pings.

    `outboxBytes` wait for the client to read; `dropped` are volatile events it was too slow for. `sessionId` is the
    claim of its token by which it can be revoked; null: the token has none.
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
    sessionId: str | None = None  # the default is for nodes of an earlier version, whose answers lack it


class Closed(Struct):
    """A closed connection, and why: one of Socket.IO's reasons or of ours.

    `sessionId` is its token's, null for none.
    """

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
    """Filters: a connection must match all that are not empty. `user` is a UserKey."""

    user: str = ""
    ip: str = ""
    room: str = ""
    namespace: str = ""
    node: str = ""
    transport: str = ""
    role: str = ""
    sid: str = ""


class AskClients(Struct, frozen=True, omit_defaults=True):
    """Asks for a page: `after` is the key and sid of the last connection of the page before."""

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
    before: tuple[str, str] | None = None  # closedAt and sid of the last one of the page before


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
    """Return a connection's public id: 20 characters that do not reveal its secret id."""
    return blake2b(client_id.encode(), digest_size=10).hexdigest()


class Connections:
    """The connections of one node. Its methods take the arguments of a node call (engine/cluster/node_calls.py)."""

    def __init__(self, node_id: str, registry: ClientRegistry, hub: Hub) -> None:
        self._node_id = node_id
        self._registry = registry
        self._hub = hub
        self._closed: deque[Closed] = deque(maxlen=MAX_CLOSED)
        self._began_ms = (
            int(time.time() * 1000) - registry.now_ms()
        )  # Unix time of the monotonic clock's zero, which each machine has its own of
        self._keys = {**_KEYS, "seen": self._seen_ms}
        registry.on_end.append(self._remember)

    async def find(self, arguments: tuple[str, ...]) -> Rows:
        """Return the first matching connections in order, and how many match in all."""
        ask = json.decode(_ask, arguments[0])
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

    async def closed(self, arguments: tuple[str, ...]) -> list[Any]:
        """Return closed connections, the newest first."""
        ask = json.decode(_ask_closed, arguments[0])
        found = (
            one
            for one in reversed(self._closed)
            if _was(one, ask.wanted) and (ask.before is None or (one.closedAt, one.sid) < ask.before)
        )
        return [msgspec.to_builtins(one) for one in islice(found, ask.limit)]

    async def of_user(self, arguments: tuple[str, ...]) -> OfUser:
        """Return the rooms of a user's sockets, and how many closed connections are remembered.

        Argument: the UserKey.
        """
        wanted = Wanted(user=arguments[0])
        rooms: set[str] = set()
        async for client in self._wanted(wanted):
            for socket in client.sockets.values():
                rooms |= socket.rooms
        closed = sum(1 for one in self._closed if _was(one, wanted))
        return OfUser(sorted(rooms)[:MAX_ROOMS_OF_USER], len(rooms), closed)

    async def send_away(self, arguments: tuple[str, ...]) -> int:
        """Close the matching connections and return how many; with `reconnect` their clients reconnect by
        themselves.
        """
        ask = json.decode(_send_away, arguments[0])
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

    # ── searching ───────────────────────────────────────────────────────────────────────────────────────

    async def _wanted(self, wanted: Wanted) -> AsyncIterator[Client]:
        if wanted.node not in ("", self._node_id):
            return
        async for client in in_turns(self._candidates(wanted)):
            if _is(client, wanted):
                yield client

    def _candidates(self, wanted: Wanted) -> list[Client]:
        """Return all connections that may match; for a socket's sid or a room without searching the whole table."""
        if wanted.room:
            namespaces = [one for one in self._hub.namespaces if wanted.namespace in ("", one)]
            members = (one for name in namespaces for one in self._hub.members(name, Room(wanted.room)))
            return list({id(one.client): cast(Client, one.client) for one in members}.values())
        if wanted.sid:
            for namespace in self._hub.namespaces:
                if socket := self._hub.sockets(namespace).get(wanted.sid):  # type: ignore[call-overload]
                    return [socket.client]
        return list(self._registry.clients.values())

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
        """Remember a connection that has ended. Its sockets still exist at this point."""
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

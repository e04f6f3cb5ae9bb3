"""Ten-line stand-ins for the floors above and below: a backplane of one node, a client whose outbox is a list."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from insightdesk_rt.engine.counters import EventCounts
from insightdesk_rt.engine.errors import CloseReason, RtError, used_before
from insightdesk_rt.engine.hub.backplane import Backlog, LocalMembers
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, Sid, User, UserId, new_sid, offset_key
from insightdesk_rt.engine.wire.codec import Codec, Encoded
from insightdesk_rt.engine.wire.native import NativeCodec

CODEC: Codec = NativeCodec()


class OneNode:
    """A backplane of one node whose log is a list; `away` makes it refuse as Valkey would."""

    deliver: Callable[[Event], None]
    members: LocalMembers

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.heard: list[tuple[str, Room]] = []
        self.unheard: list[tuple[str, Room]] = []
        self.published: list[Event] = []
        self.away = False
        self.calls = 0  # of `append_all`
        self.floor = NO_OFFSET
        self.room: int | None = None  # how many events it still takes
        self.full = False  # it is there, and takes nothing
        self._ids: dict[str, Offset] = {}
        self._prints: dict[str, str] = {}
        self._next = itertools.count(1)

    def attach(self, members: LocalMembers) -> None:
        self.members, self.deliver = members, members.deliver

    def available(self, namespace: str) -> bool:
        return not self.away

    async def reach(self, namespace: str) -> None:
        if self.away:
            raise RtError("UNAVAILABLE")

    async def append(self, event: Event) -> Offset:
        if self.away or self.full or self.room == 0:
            raise RtError("UNAVAILABLE")
        if self.room is not None:
            self.room -= 1
        if event.id in self._ids:
            if event.fingerprint != self._prints[event.id]:
                raise used_before("id", "event")
            return self._ids[event.id]
        self._prints[event.id] = event.fingerprint
        offset = self._ids[event.id] = Offset(f"{next(self._next)}-0")
        logged = Event(
            event.namespace,
            event.name,
            event.payload,
            event.rooms,
            event.skip,
            event.id,
            offset,
            event.origin,
            event.was,
        )
        self.log.append(logged)
        self.deliver(logged)
        return offset

    async def append_all(self, events: Sequence[Event]) -> list[Offset | RtError]:
        found: list[Offset | RtError] = []
        self.calls += 1
        for event in events:
            try:
                found.append(await self.append(event))
            except RtError as refused:
                if refused.kind.retry:
                    return found + [refused] * (len(events) - len(found))
                found.append(refused)
        return found

    def publish(self, event: Event) -> None:
        self.published.append(event)

    async def listen(self, namespace: str, room: Room) -> Offset:
        self.heard.append((namespace, room))
        return self.position(namespace)

    def unlisten(self, namespace: str, room: Room) -> None:
        self.unheard.append((namespace, room))

    def position(self, namespace: str) -> Offset:
        return self.log[-1].offset if self.log else NO_OFFSET

    async def read(
        self, namespace: str, rooms: Iterable[Room], since: Offset, most: int = 5_000, user: str = ""
    ) -> Backlog:
        if self.away:
            raise RtError("UNAVAILABLE")
        wanted = set(rooms)
        events = [
            e
            for e in self.log
            if e.namespace == namespace and wanted & set(e.rooms) and offset_key(e.offset) > offset_key(since)
        ]
        return Backlog(events, True, self.position(namespace), self.floor)


class Peer:
    """A client: keeps what it was sent, and how it was ended."""

    id = "n1.secret"
    address = "127.0.0.1"
    agent = "test"
    behind = False

    def __init__(self, full: bool = False) -> None:
        self.texts: list[str] = []
        self.closed: CloseReason | None = None
        self.left: list[str] = []
        self.full = full

    def put(self, message: Encoded) -> CloseReason | None:
        if self.full:
            return CloseReason.SLOW_CONSUMER
        self.texts.append(message.text)
        return None

    def when_room(self, call: Callable[[], None]) -> None:
        raise AssertionError("it is never behind")

    def close(self, why: CloseReason) -> None:
        self.closed = why

    def leave(self, namespace: str) -> None:
        self.left.append(namespace)


class Session:
    """What dispatch tells a session: which namespaces the client is in."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.dropped: list[str] = []

    def accept(self, namespace: str) -> None:
        self.accepted.append(namespace)

    def drop(self, namespace: str) -> None:
        self.dropped.append(namespace)


class AskingClient(Peer):
    """A client as dispatch sees one."""

    def __init__(self, bearer: str = "") -> None:
        super().__init__()
        self.bearer = bearer
        self.native = True
        self.codec = CODEC
        self.recovers = True
        self.session = Session()
        self.sockets: dict[str, Socket] = {}
        self.outbox = self
        self.refusals: list[tuple[str, str]] = []

    def send(self, message: Encoded) -> None:
        self.put(message)

    def refused(self, namespace: str, code: str) -> None:
        self.refusals.append((namespace, code))


class Clock:
    """Timers that fire when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.due: dict[object, tuple[int, Callable[..., None], tuple[object, ...]]] = {}

    def now_ms(self) -> int:
        return self.now

    def later(self, key: object, delay_ms: int, call: Callable[..., None], *args: object) -> None:
        self.due[key] = (self.now + delay_ms, call, args)

    def cancel(self, key: object) -> None:
        self.due.pop(key, None)

    def advance(self, ms: int) -> None:
        self.now += ms
        for key, (at, call, args) in sorted(self.due.items(), key=lambda item: item[1][0]):
            if at <= self.now and self.due.get(key) == (at, call, args):
                del self.due[key]
                call(*args)


def user(id: str = "u1", role: str = "agent", team: str = "", **more: object) -> User:
    return User(UserId(id), role, id.title(), team_id=team, expires_s=4_000_000_000, **more)  # type: ignore[arg-type]


def socket(namespace: str, who: User | None = None, peer: Peer | None = None, sid: Sid | None = None) -> Socket:
    """A socket of a fake client; `socket.client` is the Peer that records what it is sent."""
    peer = peer or Peer()
    return Socket(sid or new_sid(), namespace, who or user(), peer, peer, CODEC, EventCounts())

"""What a namespace file is written in: Payload in, Outbound out, `@event` on a method, `@every` on a clock.

    class Typing(Outbound):
        event: ClassVar = "ticket:typing"
        ticketId: str

    class Tickets(Namespace):
        path = "/tickets"

        @event("ticket:typing", limit=Rate(10, per_s=10))
        def typing(self, socket: Socket, ask: OnTicket) -> None: ...

The dispatcher, the limits and the documentation read the same declarations. A plain `def` runs in place, an
`async def` is awaited while later calls of that socket wait; the return value is the ack, `raise RtError` the refusal.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, get_type_hints

from msgspec import Struct

from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Event, Offset, Right, Role, Room, User
from insightdesk_rt.engine.rate_limits import Rate
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)


class Payload(Struct, gc=False):
    """What a client sends with an event. Unknown fields are ignored, so that clients may be newer than the server."""


class Nothing(Payload):
    """For events without a payload."""


class Outbound(Struct, gc=False, omit_defaults=True):
    """What clients are sent. `event` is its name on the wire; a logged one is never lost, another may be."""

    event: ClassVar[str] = ""
    logged: ClassVar[bool] = False


Handler = Callable[..., Any]
Weigh = Callable[[Any], int]


class EventSpec(NamedTuple):
    """One event a client may send: what dispatch needs to know of it."""

    name: str
    method: str
    payload: type[Struct]
    rate: Rate | None  # None: the configured default
    allow: frozenset[Role]
    waits: bool  # an `async def`
    binary: bool  # the payload may hold attachments; it then arrives untyped
    weigh: Weigh | None  # how many calls one counts as for its rate, where that is not one
    doc: str


class Ticker(NamedTuple):
    """One method that runs on a clock: on every node, or on the one that leads."""

    method: str
    every_ms: int
    on_leader: bool


EVERYBODY: frozenset[Role] = frozenset({"customer", "agent", "admin"})
# What a page does for each thing it shows. One with 150 tickets or 100 chats may be loaded six times in a minute: a
# person who reloads a page that hangs does that, and then must not be shut out for the rest of the minute.
PAGE = Rate(1_000, per_s=60)
TYPING = Rate(30, per_s=10)  # three tabs, each once a second; a client should send it every two or three
STAFF: frozenset[Role] = frozenset({"agent", "admin"})
ADMINS: frozenset[Role] = frozenset({"admin"})


def event(
    name: str,
    *,
    limit: Rate | None = None,
    allow: frozenset[Role] = EVERYBODY,
    binary: bool = False,
    weigh: Weigh | None = None,
) -> Callable[[Handler], Handler]:
    """Declare a method as the handler of a client's event. Its second parameter's type is the payload's.

    `weigh` returns how many calls a payload counts as for the rate limit: as many as it names tickets, for example.
    """

    def mark(method: Handler) -> Handler:
        method.__rt_event__ = (name, limit, allow, binary, weigh)  # type: ignore[attr-defined]
        return method

    return mark


def every(ms: int, *, on: str = "node") -> Callable[[Handler], Handler]:
    """Run an async method every `ms`, start to start, skipping turns it is late for; on="leader": once per cluster."""

    def mark(method: Handler) -> Handler:
        method.__rt_every__ = (ms, on == "leader")  # type: ignore[attr-defined]
        return method

    return mark


class Timers(Protocol):
    """The wheel, as far as a namespace sees it: keyed, and setting a key again replaces its timer."""

    def later(self, key: object, delay_ms: int, call: Callable[..., None], *args: object) -> None: ...

    def cancel(self, key: object) -> None: ...

    def now_ms(self) -> int:
        """Monotonic milliseconds, the clock of all timers and rate windows."""
        ...


class Namespace:
    """A namespace of the server. Subclasses say what each event does; they see users, rooms, events and facts only."""

    path: ClassVar[str] = ""
    allow: ClassVar[frozenset[Role]] = EVERYBODY  # others are refused with FORBIDDEN at connect
    events: ClassVar[dict[str, EventSpec]] = {}
    plain: ClassVar[tuple[str, ...]] = ()  # events it sends that have no Outbound of their own
    # Logged events that say all of a fact which only this server keeps: for `put_down_again`.
    facts: ClassVar[frozenset[str]] = frozenset()
    tickers: tuple[Ticker, ...] = ()

    def __init_subclass__(cls) -> None:
        cls.events = {**cls.events}
        tickers = list(cls.tickers)
        for attribute, method in list(vars(cls).items()):
            if declared := getattr(method, "__rt_event__", None):
                name, rate, allow, binary, weigh = declared
                hints = get_type_hints(method)
                payload = next((t for p, t in hints.items() if p not in ("socket", "return")), Nothing)
                cls.events[name] = EventSpec(
                    name,
                    attribute,
                    payload,
                    rate,
                    allow,
                    inspect.iscoroutinefunction(method),
                    binary,
                    weigh,
                    method.__doc__ or "",
                )
            if clock := getattr(method, "__rt_every__", None):
                tickers.append(Ticker(attribute, *clock))
        cls.tickers = tuple(tickers)

    def __init__(self, hub: Hub, timers: Timers) -> None:
        self.hub = hub
        self._timers = timers
        self._tasks: set[asyncio.Task[None]] = set()

    async def coming(self, user: User) -> None:
        """A socket of the user is about to be let in. Raises RtError UNAVAILABLE."""

    async def keeps(self, user: User, rooms: Collection[Room], starts: Mapping[Room, Right] = {}) -> Collection[Room]:
        """Return those of a returning client's rooms in which its user may be, and might have been all the time.

        `starts` has the right by which it joined each of them. Raises RtError UNAVAILABLE.
        """
        return rooms

    def shut_out(self, socket: Socket, rooms: Collection[Room]) -> None:
        """Tell a returning client, once it is connected, of the rooms `keeps` has kept it out of."""

    async def joined(self, socket: Socket) -> None:
        """The socket is in its first rooms and its CONNECT was answered. Its calls wait until this returns."""

    async def left(self, socket: Socket, why: CloseReason) -> None:
        """The socket is gone and out of all rooms (`rooms` says which they were). Not called for a refused one."""

    async def put_down_again(self, events: Sequence[Event]) -> None:
        """Keep what these events of `facts` say, if Valkey lost it after they were acknowledged; in their order.

        Raises RtError UNAVAILABLE: call it again.
        """

    # ── what handlers use ──────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, socket: Socket, out: Outbound) -> None:
        """Send to this socket alone."""
        socket.emit(out.event, json.encode_struct(out))

    def tell_joined(self, socket: Socket, name: str, payload: str) -> None:
        """Send to this socket alone, with the offset up to which it has everything.

        A client that comes back later is sent what followed that; without it also what its new rooms were told before.
        """
        socket.emit(name, payload, self.hub.position(self.path))

    def publish(self, out: Outbound, *rooms: Room, skip: Collection[str] = ()) -> None:
        """Send a volatile event to the members of the rooms, on all nodes."""
        assert not out.logged, out.event
        self.hub.publish(self.path, rooms, out.event, json.encode_struct(out), skip)

    async def emit(self, out: Outbound, *rooms: Room, skip: Collection[str] = (), id: str = "") -> Offset:
        """Log an event for the members of the rooms, on all nodes. Raises RtError UNAVAILABLE."""
        assert out.logged, out.event
        return await self.hub.emit(self.path, rooms, out.event, json.encode_struct(out), skip, id)

    def later(self, key: object, delay_ms: int, call: Callable[..., None], *args: object) -> None:
        self._timers.later((self.path, key), delay_ms, call, *args)

    def cancel(self, key: object) -> None:
        self._timers.cancel((self.path, key))

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Run something that may wait, from a place that may not (a timer). Its failure is logged, not raised."""

        async def owned() -> None:
            try:
                await work
            except RtError as refused:
                log.log(refused.log_level, "%s %s failed: %s", self.path, what, refused.code)
            except Exception:
                log.exception("%s %s failed", self.path, what)

        task = asyncio.get_running_loop().create_task(owned())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # of a task that was cancelled before it began

    async def close(self) -> None:
        """End what is still running. Called once, when the server stops."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @staticmethod
    def require_joined(socket: Socket, room: Room) -> None:
        """Raise FORBIDDEN unless the socket is in the room: what it may not see it may not touch."""
        if room not in socket.rooms:
            raise RtError("FORBIDDEN")


__all__ = [
    "ADMINS",
    "EVERYBODY",
    "PAGE",
    "STAFF",
    "TYPING",
    "EventSpec",
    "Namespace",
    "Nothing",
    "Outbound",
    "Payload",
    "Rate",
    "event",
    "every",
]

"""The declarations of a feature: `Payload` in, `Outbound` out, `@event` on a method, `@every` on a periodic method.

    class Typing(Outbound):
        event: ClassVar = "ticket:typing"
        ticketId: str

    class Tickets(Namespace):
        path = "/tickets"

        @event("ticket:typing", limit=Rate(10, per_s=10))
        def typing(self, socket: Socket, ask: OnTicket) -> None: ...

The dispatcher, the rate limits and the documentation read the same declarations. A plain `def` runs in place. An
`async def` is awaited, and later calls of that socket wait meanwhile. The return value becomes the ack: a Struct, a
dict, or None for `{"ok": true}`. A raised RtError becomes the error that the client receives.

`Namespace` also declares everything that the server asks of a feature during a client's life and a cluster's life.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, ClassVar, NamedTuple, Protocol, Self, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.access_rechecks import AccessRechecks
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Right, Role, Room, User, UserKey
from insightdesk_rt.engine.rate_limits import Rate
from insightdesk_rt.engine.settings import FeatureSettings, SettingsPart
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)


class Payload(Struct, gc=False):
    """What a client sends with an event. Unknown fields are ignored, so clients may be newer than the server."""


class Nothing(Payload):
    """The payload type of events without a payload."""


class Outbound(Struct, gc=False, omit_defaults=True):
    """An event that the server sends. `event` is its name on the wire. A logged event is never lost; others may be."""

    event: ClassVar[str] = ""
    logged: ClassVar[bool] = False


class Report(Struct, gc=False, omit_defaults=True):
    """The feed entry of a change, for the helpdesk's back end. `type` is its name: "ticket.created"."""

    type: ClassVar[str] = ""


class FeedEntry(NamedTuple):
    """One entry of the back end's feed. `id` is made of the change: the same change again has the same id."""

    id: str
    at_ms: int  # when it happened, in Unix milliseconds
    data: Report


Tell = Callable[[Sequence[FeedEntry]], Awaitable[None]]


async def tell_nobody(entries: Sequence[FeedEntry]) -> None:
    """The `Tell` of a server without a feed."""


Handler = Callable[..., Any]
Living = Callable[[], Awaitable[Collection[str]]]  # returns the incarnations of all nodes that run, this one included
Weigh = Callable[[Any], int]


class EventSpec(NamedTuple):
    """What dispatch needs to know about one event that a client may send."""

    name: str
    method: str
    payload: type[Struct]
    rate: Rate | None  # None: the configured default
    allow: frozenset[Role]
    waits: bool  # an `async def`
    binary: bool  # the payload may hold attachments and arrives untyped
    weigh: Weigh | None  # returns how many calls one call counts as for its rate; None: each counts as one
    doc: str


class Ticker(NamedTuple):
    """A method that runs periodically: on every node, or only on the leader."""

    method: str
    every_ms: int
    on_leader: bool


EVERYBODY: frozenset[Role] = frozenset({"customer", "agent", "admin"})
# For calls that a page makes once for each item it shows. A page with 150 tickets or 100 chats may be loaded six times
# a minute: somebody who reloads a hanging page does that, and must not be refused for the rest of the minute.
PAGE = Rate(1_000, per_s=60)
TYPING = Rate(30, per_s=10)  # three tabs, each once a second; a client should send it every two or three seconds
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
    """Declare a method as the handler of a client's event. The type of its second parameter is the payload's type.

    `weigh` returns how many calls a payload counts as for the rate limit, for example one for each ticket it names.
    """

    def mark(method: Handler) -> Handler:
        method.__rt_event__ = (name, limit, allow, binary, weigh)  # type: ignore[attr-defined]
        return method

    return mark


def every(ms: int, *, on: str = "node") -> Callable[[Handler], Handler]:
    """Run an async method every `ms`, measured from start to start; late turns are skipped.

    on="leader" runs it on one node of the cluster only.
    """

    def mark(method: Handler) -> Handler:
        method.__rt_every__ = (ms, on == "leader")  # type: ignore[attr-defined]
        return method

    return mark


def declared_tickers(cls: type[Any]) -> tuple[Ticker, ...]:
    """Return the methods of a class that are marked with `@every`, those of its base classes first."""
    own = [(name, getattr(method, "__rt_every__", None)) for name, method in vars(cls).items()]
    inherited = (ticker for base in cls.__bases__ for ticker in getattr(base, "tickers", ()))
    return (*inherited, *(Ticker(name, *clock) for name, clock in own if clock))


class Timers(Protocol):
    """The part of the timer wheel that a namespace uses. Timers have keys; setting a key again replaces its timer."""

    def later(self, key: object, delay_ms: int, call: Callable[..., None], *args: object) -> None: ...

    def cancel(self, key: object) -> None: ...

    def now_ms(self) -> int:
        """Return monotonic milliseconds, the clock of all timers and rate windows."""
        ...


class Context(NamedTuple):
    """The parts of this node that a feature may use."""

    hub: Hub
    timers: Timers
    valkey: Valkey
    calls: NodeCalls
    incarnation: Callable[[], str]  # identifies this run of the node; changes after the node was declared dead
    fenced: Callable[[str], None]  # reports an incarnation of this node that is dead according to Valkey
    # Waits until lost data of a namespace is back in Valkey. Raises RtError UNAVAILABLE.
    recovered: Callable[[str], Awaitable[None]]
    # Valkey's time in Unix milliseconds, for each time that an event or an answer contains. A fact gets its time from
    # the script that stores it, which is the same clock.
    now_ms: Callable[[], int]
    settings: FeatureSettings
    tell: Tell = tell_nobody  # stores entries for the helpdesk's back end; RtError UNAVAILABLE


Route = tuple[str, type[Any], dict[str, Any]]  # as Tornado's Application takes them


class Namespace:
    """One feature's namespace. Everything the server may ask of a feature is declared here and does nothing by default.

    A subclass handles a client's events with `@event` methods. It works with users, rooms, events and its own facts.
    """

    path: ClassVar[str] = ""
    allow: ClassVar[frozenset[Role]] = EVERYBODY  # other roles are refused with FORBIDDEN at connect
    settings: ClassVar[type[SettingsPart]] = SettingsPart  # declares the settings of the feature
    events: ClassVar[dict[str, EventSpec]] = {}
    plain: ClassVar[tuple[str, ...]] = ()  # names of events it sends that have no Outbound of their own
    # Names of logged events that carry a whole fact which only this server stores, so that `put_down_again` can store
    # the fact again from the event. An event that is kept nowhere but in the log is none.
    facts: ClassVar[frozenset[str]] = frozenset()
    reports: ClassVar[tuple[type[Report], ...]] = ()  # what it tells the back end
    tickers: tuple[Ticker, ...] = ()

    def __init_subclass__(cls) -> None:
        """Read the declarations. Raises TypeError for a handler whose return type cannot become an ack."""
        cls.events = {**cls.events}
        for attribute, method in list(vars(cls).items()):
            if declared := getattr(method, "__rt_event__", None):
                spec = _read_spec(attribute, method, *declared)
                cls.events[spec.name] = spec
        cls.tickers = declared_tickers(cls)

    def __init__(self, hub: Hub, timers: Timers) -> None:
        self.hub = hub
        self._timers = timers
        self._tasks = OwnedTasks(log)
        self.rechecks = AccessRechecks()  # a feature that takes access away notes it here, before it does

    @classmethod
    def build(cls, context: Context) -> Self:
        """Make the feature of one node. Raises ValueError, in one line, for a setting that cannot be used."""
        return cls(context.hub, context.timers)

    def routes(self, api: Any) -> Iterable[Route]:
        """Return the feature's routes on the admin port. Its handlers take `api` as `admin` (see api/handler.py)."""
        return ()

    # ── a client's life ────────────────────────────────────────────────────────────────────────────────────────────

    async def coming(self, user: User) -> None:
        """A socket of the user is about to join. Raises RtError UNAVAILABLE."""

    async def still_allowed(
        self, user: User, rooms: Collection[Room], starts: Mapping[Room, Right] = {}
    ) -> Collection[Room]:
        """Return the rooms of a returning client that its user may read now, and could read during its whole absence.

        Called before anything is replayed. `starts` holds the right by which the client joined each room.
        Raises RtError UNAVAILABLE.
        """
        return rooms

    def notify_lost_rooms(self, socket: Socket, rooms: Collection[Room]) -> None:
        """Notify a returning client, once it is connected, of the rooms that `still_allowed` left out."""

    async def joined(self, socket: Socket) -> None:
        """The socket is in its first rooms and its CONNECT was answered. Its calls wait until this returns."""

    async def left(self, socket: Socket, why: CloseReason) -> None:
        """The socket has ended and is out of all rooms; `socket.rooms` keeps its last rooms.

        Not called for a socket that was refused.
        """

    # ── the cluster's life; each may raise RtError UNAVAILABLE, and is then called again ───────────────────────────

    async def node_lost(self, incarnation: str) -> None:
        """Clear what a dead node held. Any node may be asked, also after another one died while doing it."""

    async def reap_all_except(self, living: Living) -> None:
        """Clear what all nodes held that are not among the living. Called once, at start."""

    async def re_register(self) -> None:
        """Store again what this node holds, because Valkey lost it or this node has a new incarnation."""

    async def recheck_access(self, subject: str, offset: Offset = NO_OFFSET) -> int:
        """Remove this node's sockets that may not read the subject any more, after the event at `offset`.

        Called on every node after access to a ticket or conversation changed. Returns how many sockets were removed.
        """
        return 0

    async def put_down_again(self, events: Sequence[Event]) -> None:
        """Store the facts of these events again, in order, because Valkey may have lost them after the ack."""

    async def forget(self, key: UserKey) -> Mapping[str, int]:
        """Delete all that the feature keeps of a user, who has no connections any more.

        Returns how many items of each kind were deleted. Raises RtError UNAVAILABLE: call it again.
        """
        return {}

    # ── what handlers use ──────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, socket: Socket, out: Outbound) -> None:
        """Send to this socket alone."""
        socket.emit(out.event, json.encode_struct(out))

    def tell_joined(self, socket: Socket, name: str, payload: str) -> None:
        """Send to this socket alone, with the offset up to which it has received everything.

        A client that returns later receives what followed that offset. Without it, the client would also receive events
        that its new rooms had before it joined them.
        """
        socket.emit(name, payload, self.hub.position(self.path))

    def publish(self, out: Outbound, *rooms: Room, skip: Collection[str] = ()) -> None:
        """Send a volatile event to the members of the rooms, on all nodes."""
        assert not out.logged, out.event
        self.hub.publish(self.path, rooms, out.event, json.encode_struct(out), skip)

    async def emit(
        self, out: Outbound, *rooms: Room, skip: Collection[str] = (), id: str = "", fingerprint: str = ""
    ) -> Offset:
        """Log an event for the members of the rooms, on all nodes. Returns its offset.

        The log knows an `id` for two minutes: the same one again logs nothing and returns the first offset. Raises
        RtError UNAVAILABLE; CONFLICT if the event with that `id` had another `fingerprint`.
        """
        assert out.logged, out.event
        payload = json.encode_struct(out)
        return await self.hub.emit(self.path, rooms, out.event, payload, skip, id, fingerprint)

    def logged(self, out: Outbound, *rooms: Room, skip: Collection[str] = (), id: str) -> Event:
        """Return the event that `emit` would log, for `Hub.append_all`."""
        assert out.logged, out.event
        return Event(self.path, out.event, json.encode_struct(out), rooms, tuple(skip), id)

    def later(self, key: object, delay_ms: int, call: Callable[..., None], *args: object) -> None:
        self._timers.later((self.path, key), delay_ms, call, *args)

    def cancel(self, key: object) -> None:
        self._timers.cancel((self.path, key))

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Start async work from a place that cannot await, such as a timer. Its failure is logged, not raised."""

        self._tasks.spawn(work, f"{self.path} {what}")

    async def close(self) -> None:
        """Cancel the work that is still running. Called once, when the server stops."""
        await self._tasks.close()

    @staticmethod
    def require_joined(socket: Socket, room: Room) -> None:
        """Raise FORBIDDEN unless the socket is in the room: a client may not act on what it may not read."""
        if room not in socket.rooms:
            raise RtError("FORBIDDEN")


def _read_spec(
    attribute: str,
    method: Handler,
    name: str,
    rate: Rate | None,
    allow: frozenset[Role],
    binary: bool,
    weigh: Weigh | None,
) -> EventSpec:
    hints = get_type_hints(method)
    returned = hints.get("return", Any)
    if not all(_becomes_an_ack(one) for one in _members(returned)):
        raise TypeError(f"{method.__qualname__} must return a Struct, a dict or None; its annotation is {returned}")
    payload = next((kind for parameter, kind in hints.items() if parameter not in ("socket", "return")), Nothing)
    waits = inspect.iscoroutinefunction(method)
    return EventSpec(name, attribute, payload, rate, allow, waits, binary, weigh, method.__doc__ or "")


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _becomes_an_ack(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return origin is type(None) or (isinstance(origin, type) and issubclass(origin, Struct | dict))


__all__ = [
    "ADMINS",
    "EVERYBODY",
    "PAGE",
    "STAFF",
    "TYPING",
    "Context",
    "EventSpec",
    "FeedEntry",
    "Namespace",
    "Nothing",
    "Outbound",
    "Payload",
    "Rate",
    "Report",
    "Route",
    "Tell",
    "Ticker",
    "declared_tickers",
    "event",
    "every",
    "tell_nobody",
]

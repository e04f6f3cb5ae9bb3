"""From a client's event to its answer: rate limit → role → typed payload → handler → ack or error.

Calls of one socket run one after the other. While an async handler of a socket runs, `socket.busy` is set and later
calls wait in `socket.waiting`. Calls also wait while the client does not read what it was sent: otherwise a long answer
could close the client that asked for it. A plain handler needs no Task. This file owns every Task that it makes, and
`close` ends them.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.counters import OTHER, Histogram
from insightdesk_rt.engine.dispatch.namespace import EventSpec, Namespace
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, UserKey
from insightdesk_rt.engine.rate_limits import Offenders, Rate, Window
from insightdesk_rt.engine.shared_limits import RateShares, SharedLimits
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import Call
from insightdesk_rt.engine.wire.socketio import with_attachments

log = logging.getLogger(__name__)

UNKNOWN = "?"  # all events that do not exist share one rate window
MAX_WAITING_BYTES = 8_000_000  # for each user; eight messages of the usual maximum size
DEFAULT = "default"  # names the rate of events that have no rate of their own
# Seconds. A handler that does not wait takes 10 µs; one that reads from Valkey takes about a millisecond.
HANDLER_BOUNDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def call_bytes(call: Call) -> int:
    """Return roughly how much memory a waiting call takes."""
    return len(bytes(call.payload)) + sum(map(len, call.attachments)) + 200


class CallCounters:
    """Counters of one event: calls that arrived, and the time it took to answer those within their rate limit."""

    __slots__ = ("seconds", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.seconds = Histogram(HANDLER_BOUNDS)


class Bound(NamedTuple):
    """One event of one namespace with everything that a call of it needs."""

    call: Callable[..., Any]
    decoder: msgspec.json.Decoder[Any]
    spec: EventSpec
    rate: Rate
    counters: CallCounters


Declared = tuple[EventSpec, Callable[..., Any]]  # an event with its handler, which takes a socket and a payload
OwnEvents = Mapping[str, Mapping[str, Declared]]  # by namespace and name; a namespace's own events take precedence


class Calls:
    def __init__(
        self,
        namespaces: Iterable[Namespace],
        now_ms: Callable[[], int],
        default_rate: Rate,
        rates: Mapping[str, Rate],
        built_in: Mapping[str, tuple[EventSpec, Callable[..., Any]]],
        *,
        own_events: OwnEvents = MappingProxyType({}),
        max_waiting: int = 1_000,
        max_depth: int = json.MAX_DEPTH,
        shared: SharedLimits | None = None,
    ) -> None:
        self.now_ms = now_ms
        self._max_waiting = max_waiting  # for each socket; a page with 150 tickets may make three calls for each
        self._max_depth = max_depth  # of the JSON of a payload
        self._default_rate = default_rate
        self._rates = rates
        self._overruled: dict[str, Rate] = {}  # temporary rates that an admin set
        self._tables = {
            namespace.path: self._bind(namespace, {**own_events.get(namespace.path, {}), **built_in})
            for namespace in namespaces
        }
        self._windows: dict[UserKey, dict[str, Window]] = {}
        self._shares = RateShares(shared or SharedLimits(), "calls", self._window_of)
        self.tasks = OwnedTasks(log)
        self._waiting_bytes: Counter[UserKey] = Counter()  # of the waiting calls of all sockets of a user here
        # By namespace and declared event; all other events count as OTHER.
        self.counters = {
            path: {**{name: bound.counters for name, bound in table.items()}, OTHER: CallCounters()}
            for path, table in self._tables.items()
        }
        self.errors: Counter[tuple[str, str, str]] = Counter()  # by namespace, event (as above) and code
        self.too_deep = 0
        self.offenders = Offenders()

    def _bind(
        self, namespace: Namespace, built_in: Mapping[str, tuple[EventSpec, Callable[..., Any]]]
    ) -> dict[str, Bound]:
        own = {name: (spec, getattr(namespace, spec.method)) for name, spec in namespace.events.items()}
        return {
            name: Bound(call, msgspec.json.Decoder(spec.payload), spec, self._rate_of(name, spec), CallCounters())
            for name, (spec, call) in {**built_in, **own}.items()
        }

    # ── rates ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def rates(self) -> dict[str, dict[str, Rate]]:
        """Return the rates in force, by namespace and event; DEFAULT applies to events that do not exist."""
        return {
            path: {**{name: bound.rate for name, bound in table.items()}, DEFAULT: self._default()}
            for path, table in self._tables.items()
        }

    def overrule(self, name: str, rate: Rate | None) -> None:
        """Set a rate that replaces the configured one of an event; None restores the configured one.

        DEFAULT stands for all events that have no rate of their own. The event's count starts at zero for every user.
        """
        if rate is None:
            self._overruled.pop(name, None)
        else:
            self._overruled[name] = rate
        for table in self._tables.values():
            for event, bound in table.items():
                table[event] = bound._replace(rate=self._rate_of(event, bound.spec))
        for windows in self._windows.values():
            if name == DEFAULT:
                windows.clear()
            windows.pop(name, None)
        self._shares.forget(None if name == DEFAULT else name)

    def _rate_of(self, name: str, spec: EventSpec) -> Rate:
        return self._overruled.get(name) or self._rates.get(name) or spec.rate or self._default()

    def _default(self) -> Rate:
        return self._overruled.get(DEFAULT, self._default_rate)

    # ── a call ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def windows_of(self, user: UserKey) -> dict[str, Window]:
        """Return the rate windows that all sockets of the user here share. They outlive the sockets."""
        return self._windows.setdefault(user, {})

    def window_of(self, user: UserKey, windows: dict[str, Window], name: str, rate: Rate) -> Window:
        """Return one of a user's windows, which is made with this rate if there is none. It counts over all nodes."""
        window = windows.get(name)
        if window is None:
            window = windows[name] = self._shares.window(rate, user, name)
        return window

    def _window_of(self, user: str, name: str) -> Window | None:
        return self._windows.get(UserKey(user), {}).get(name)

    def identified(self, socket: Socket, user: User) -> None:
        """Set the user of a socket whose calls have waited until it was known."""
        waiting = socket.waiting or ()
        self._stopped_waiting(socket, waiting)
        socket.user, socket.windows = user, self.windows_of(user.key)
        if waiting:
            self._waiting_bytes[user.key] += sum(map(call_bytes, waiting))

    def take(self, socket: Socket, call: Call) -> None:
        """Run the call now, or after the earlier calls of its socket. hot: once per event of a client."""
        if not socket.busy:
            if not socket.outbox.behind:
                self._run(socket, call)
                return
            self.start(socket, socket.room())
        if socket.waiting is None:
            socket.waiting = deque()
        size, user = call_bytes(call), socket.user.key
        if len(socket.waiting) < self._max_waiting and self._waiting_bytes[user] + size <= MAX_WAITING_BYTES:
            self._waiting_bytes[user] += size
            socket.waiting.append(call)
        else:
            self._answer_error(socket, call, RtError("RATE_LIMITED", "Too many calls are waiting.", retryAfter=1))

    def _run(self, socket: Socket, call: Call) -> None:
        socket.calls_in += 1
        bound = self._tables[socket.namespace].get(call.event)
        began_s = 0.0
        try:
            if bound is None:
                self.counters[socket.namespace][OTHER].taken += 1
                self._limit(socket, UNKNOWN, self._default())
                raise RtError("UNKNOWN_EVENT")
            bound.counters.taken += 1
            self._limit(socket, call.event, bound.rate)
            began_s = perf_counter()
            if socket.user.role not in bound.spec.allow:
                raise RtError("FORBIDDEN")
            payload = self._payload(bound, call)
            if bound.spec.weigh is not None and (more := bound.spec.weigh(payload) - 1) > 0:
                self._limit_more(socket, call.event, more)
            result = bound.call(socket, payload)
            if bound.spec.waits:
                self.start(socket, self._await(socket, call, result, bound.counters, began_s))
                return
            self._answer(socket, call, result)
        except RtError as refused:
            self._answer_error(socket, call, refused)
        except Exception:
            self._failed(socket, call)
        if bound is not None and began_s:
            bound.counters.seconds.add(perf_counter() - began_s)

    def _limit(self, socket: Socket, name: str, rate: Rate) -> None:
        window = socket.windows.get(name) or self.window_of(socket.user.key, socket.windows, name, rate)
        now_ms = self.now_ms()
        wait_ms = window.take(now_ms)
        if wait_ms:
            self._refuse(socket, name, now_ms, wait_ms)

    def _limit_more(self, socket: Socket, name: str, more: int) -> None:
        """Count a call that `_limit` accepted as `more` further calls."""
        now_ms = self.now_ms()
        wait_ms = socket.windows[name].take_more(more, now_ms)
        if wait_ms:
            self._refuse(socket, name, now_ms, wait_ms)

    def _refuse(self, socket: Socket, name: str, now_ms: int, wait_ms: int) -> NoReturn:
        self.offenders.add(socket.user.key, socket.namespace, name, now_ms)
        raise RtError("RATE_LIMITED", f"Too many {name} events.", retryAfter=-(-wait_ms // 1000))

    def _payload(self, bound: Bound, call: Call) -> Any:
        try:
            if bound.spec.binary:
                return with_attachments(call.payload, call.attachments, self._max_depth)
            if call.attachments:
                raise RtError("BAD_REQUEST", "This event takes no binary data.")
            return json.decode(bound.decoder, call.payload or b"{}", self._max_depth)
        except json.BadJson as bad:
            self.too_deep += isinstance(bad, json.TooDeep)
            raise RtError("BAD_REQUEST", bad.why, field=bad.field) from None

    async def _await(
        self, socket: Socket, call: Call, result: Coroutine[Any, Any, Any], counters: CallCounters, began_s: float
    ) -> None:
        try:
            self._answer(socket, call, await result)
        except RtError as refused:
            self._answer_error(socket, call, refused)
        except Exception:
            self._failed(socket, call)
        counters.seconds.add(perf_counter() - began_s)

    def _failed(self, socket: Socket, call: Call) -> None:
        """Log a handler's unexpected error once, with its traceback, and answer INTERNAL. The connection stays."""
        log.exception("handler failed", extra={"event": call.event, **socket.fields()})
        self._answer_error(socket, call, RtError("INTERNAL"))

    def _answer(self, socket: Socket, call: Call, result: Any) -> None:
        if call.ack_id is None or socket.gone:
            return
        codec, namespace = socket.codec, socket.namespace
        if result is None:
            socket.send(codec.ack_text(namespace, call.ack_id, '{"ok":true}'))
        elif isinstance(result, Struct):
            fields = json.encode_struct(result)
            text = '{"ok":true}' if fields == "{}" else '{"ok":true,' + fields[1:]
            socket.send(codec.ack_text(namespace, call.ack_id, text))
        else:
            socket.send(codec.ack(namespace, call.ack_id, {"ok": True, **result}))

    def _answer_error(self, socket: Socket, call: Call, refused: RtError) -> None:
        event = call.event if call.event in self._tables[socket.namespace] else OTHER
        self.errors[socket.namespace, event, refused.code] += 1
        if socket.gone:
            return
        error = {**refused.as_dict(), "event": call.event[:64]}
        if call.ack_id is not None:
            socket.send(socket.codec.ack(socket.namespace, call.ack_id, {"ok": False, "error": error}))
        else:
            socket.emit("error", json.dumps(error))

    def start(self, socket: Socket, work: Coroutine[Any, Any, None]) -> None:
        """Run async work of a socket. The other calls of the socket wait until it is done."""
        socket.busy = True
        socket.task = self.tasks.spawn(self._turn(socket, work), "a call")

    async def _turn(self, socket: Socket, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RtError as refused:  # only from `joined`: the socket is connected, but lacks the events it starts with
            log.log(refused.log_level, "connect not finished", extra={"why": refused.code, **socket.fields()})
            socket.client.close(CloseReason.UNAVAILABLE)
        except Exception:
            log.exception("connect failed", extra=socket.fields())
            socket.client.close(CloseReason.UNAVAILABLE)
        finally:
            socket.busy = False
            socket.task = None
        while socket.waiting and not socket.busy:
            if socket.outbox.behind:
                self.start(socket, socket.room())
                return
            call = socket.waiting.popleft()
            self._stopped_waiting(socket, (call,))
            self._run(socket, call)

    def forget_waiting(self, socket: Socket) -> None:
        """Release the calls that wait in a socket that is about to end."""
        self._stopped_waiting(socket, socket.waiting or ())

    def _stopped_waiting(self, socket: Socket, calls: Collection[Call]) -> None:
        user = socket.user.key
        if not calls:
            return
        self._waiting_bytes[user] -= sum(map(call_bytes, calls))
        if not self._waiting_bytes[user]:
            del self._waiting_bytes[user]

    def sweep(self, here: Callable[[UserKey], bool]) -> None:
        """Forget the expired rate windows of users who are not connected here. Called every minute."""
        now_ms = self.now_ms()
        for user, windows in tuple(self._windows.items()):
            if not here(user) and all(window.expired(now_ms) for window in windows.values()):
                del self._windows[user]

    async def close(self, within_s: float) -> None:
        """Wait for running handlers and their calls of `left`. Cancel what still runs after the deadline."""
        await self.tasks.wait(within_s)
        await self.tasks.close()

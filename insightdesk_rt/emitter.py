"""Publish from any other Python process: a logged event for the members of rooms, on all nodes, without a server.

    from insightdesk_rt.emitter import Emitter

    emitter = Emitter("valkey://localhost:6379")
    offset = emitter.of("/tickets").to("ticket:42").emit("ticket:updated", {"ticketId": "42"})

It runs the same script as the nodes, on its own connection; `AsyncEmitter` is the same with `await`. An event gets its
id before the first try, and all tries use the same id, so that the event is in the log once. If the last try fails too
(within five seconds with the default `timeout_s`), RtError UNAVAILABLE has the id, which may be passed to
`emit(..., id=...)` later. After a failover the next try resolves the server's name again.

Not handled: nodes keep what they published in case Valkey loses its last second, an emitter does not. If that matters,
run Valkey with `appendfsync always`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec
import valkey
import valkey.asyncio
from msgspec import Struct

from insightdesk_rt.engine import ids
from insightdesk_rt.engine.cluster.names import Key, Names
from insightdesk_rt.engine.cluster.publisher import EventLogSettings, append_call, appended, check_event, fingerprint
from insightdesk_rt.engine.cluster.resp import load_script
from insightdesk_rt.engine.cluster.valkey import ValkeySettings, cannot_serve
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, new_id, offset_key
from insightdesk_rt.engine.secret import shown_url, url_fault
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.features import PATHS, refuse_event, refuse_namespace

TRIES = 4
PAUSE_S = 0.1  # doubled after each try; with a second per try, it gives up after about five
LOST = (valkey.ConnectionError, valkey.TimeoutError)  # also while the server loads its file

E = TypeVar("E", "Emitter", "AsyncEmitter")


class Target(Struct, Generic[E], frozen=True):
    """A namespace of an emitter, and rooms in it. Each step returns a new target, so targets can be reused."""

    emitter: E
    namespace: str
    rooms: tuple[Room, ...] = ()
    skip: tuple[str, ...] = ()

    def to(self, *rooms: str) -> Target[E]:
        """Name rooms. Raises ValueError for a text that cannot be the name of a room."""
        for room in rooms:
            _check_room(room)
        return msgspec.structs.replace(self, rooms=self.rooms + tuple(map(Room, rooms)))

    def except_(self, *rooms_or_sids: str) -> Target[E]:
        """Leave out sockets that are in one of these rooms or have one of these sids. Raises ValueError as `to`."""
        for room in rooms_or_sids:
            _check_room(room)
        return msgspec.structs.replace(self, skip=self.skip + rooms_or_sids)

    def emit(self, event: str, data: Any, *, id: str = "") -> Any:
        """Return the event's offset (`Offset`; of an AsyncEmitter: awaitable).

        `data` is what JSON has, or a msgspec Struct. The same event again under the same `id` changes nothing and
        returns the first offset. Raises RtError UNAVAILABLE (field `id`), BAD_REQUEST, PAYLOAD_TOO_LARGE; CONFLICT for
        an `id` that another event of the namespace had within two minutes; INTERNAL for what Valkey refuses; ValueError
        without a room, or for a name that no event may have.
        """
        if not self.rooms:
            raise ValueError("name the rooms first: .to(room)")
        if refusal := refuse_event(event):
            raise ValueError(f"event {event[:40]!a}: {refusal}")
        try:
            payload = json.dumps(data)
        except json.BadJson as why:
            raise RtError("BAD_REQUEST", why.why) from None
        rooms = tuple(dict.fromkeys(self.rooms))
        same = fingerprint(self.namespace, event, payload, rooms, self.skip) if id else ""
        named = Event(self.namespace, event, payload, rooms, self.skip, id or new_id(), fingerprint=same)
        return self.emitter.append(named)


DEFAULTS = EventLogSettings()


class _Emitter:
    """What both emitters share: how an event becomes a script call, and how the answer is decoded."""

    def __init__(self, prefix: str, keep: EventLogSettings) -> None:
        self._names = Names(prefix)
        self._keep = keep
        self._max_event_bytes = keep.max_event_bytes
        self._source = load_script("insightdesk_rt.engine.cluster", "append").source
        self._seen: dict[str, Offset] = {}

    def _call(self, event: Event) -> tuple[list[Key], list[Any]]:
        check_event(event, self._max_event_bytes)
        seen = self._seen.get(event.namespace, NO_OFFSET)
        return append_call(self._names, event, "emitter", self._keep, seen)

    def _answered(self, event: Event, answer: str) -> Offset:
        offset = appended(answer)
        self._seen[event.namespace] = max(self._seen.get(event.namespace, NO_OFFSET), offset, key=offset_key)
        return offset

    @staticmethod
    def _must_be_busy(event: Event, refused: valkey.ResponseError) -> None:
        """Raise RtError INTERNAL for a refusal that another try would not change."""
        if not cannot_serve(refused):
            raise RtError("INTERNAL", id=event.id) from refused


class Emitter(_Emitter):
    """Blocking; threads may share it. `prefix`, `log_max_…` and `max_event_bytes` as the server's settings."""

    def __init__(
        self,
        url: str,
        prefix: str = ValkeySettings().valkey_prefix,
        *,
        timeout_s: float = 1.0,
        log_max_entries: int = DEFAULTS.log_max_entries,
        log_max_bytes: int = DEFAULTS.log_max_bytes,
        max_event_bytes: int = DEFAULTS.max_event_bytes,
    ) -> None:
        super().__init__(prefix, EventLogSettings(log_max_entries, log_max_bytes, max_event_bytes))
        self._client = valkey.Valkey.from_url(url, **_options(url, timeout_s))
        self._script = self._client.register_script(self._source)

    def of(self, namespace: str) -> Target[Emitter]:
        """Name the namespace. Raises ValueError for one that there is not."""
        return Target(self, _known(namespace))

    def append(self, event: Event) -> Offset:
        keys, args = self._call(event)
        failed: Exception | None = None
        for pause_s in _pauses():
            try:
                return self._answered(event, self._script(keys, args))
            except LOST as why:
                failed = why
            except valkey.ResponseError as why:
                self._must_be_busy(event, why)
                failed = why
                self._client.connection_pool.disconnect(inuse_connections=False)  # the name may have moved
            time.sleep(pause_s)
        raise RtError("UNAVAILABLE", id=event.id) from failed

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Emitter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncEmitter(_Emitter):
    """The same for asyncio: `offset = await emitter.of("/tickets").to("ticket:42").emit(event, data)`."""

    def __init__(
        self,
        url: str,
        prefix: str = ValkeySettings().valkey_prefix,
        *,
        timeout_s: float = 1.0,
        log_max_entries: int = DEFAULTS.log_max_entries,
        log_max_bytes: int = DEFAULTS.log_max_bytes,
        max_event_bytes: int = DEFAULTS.max_event_bytes,
    ) -> None:
        super().__init__(prefix, EventLogSettings(log_max_entries, log_max_bytes, max_event_bytes))
        self._client = valkey.asyncio.Valkey.from_url(url, **_options(url, timeout_s))
        self._script = self._client.register_script(self._source)
        # One call at a time, so that events stay in order, and 200 events do not open 200 connections.
        self._turn = asyncio.Lock()
        self._within_s = TRIES * timeout_s + sum(_pauses())

    def of(self, namespace: str) -> Target[AsyncEmitter]:
        """Name the namespace. Raises ValueError for one that there is not."""
        return Target(self, _known(namespace))

    async def append(self, event: Event) -> Offset:
        keys, args = self._call(event)
        failed: Exception | None = None
        try:
            # The timeout includes the wait for its turn, or it would wait for all calls before it when a server hangs.
            async with asyncio.timeout(self._within_s), self._turn:
                for pause_s in _pauses():
                    try:
                        return self._answered(event, await self._script(keys, args))
                    except LOST as why:
                        failed = why
                    except valkey.ResponseError as why:
                        self._must_be_busy(event, why)
                        failed = why
                        await self._client.connection_pool.disconnect(inuse_connections=False)  # as above
                    await asyncio.sleep(pause_s)
        except TimeoutError as late:
            failed = failed or late
        raise RtError("UNAVAILABLE", id=event.id) from failed

    async def close(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> AsyncEmitter:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def _known(namespace: str) -> str:
    """Return the namespace. Raises ValueError for one that no node serves, because nobody would read its log."""
    if refusal := refuse_namespace(namespace, PATHS):
        raise ValueError(f"namespace {str(namespace)[:40]!a}: {refusal}; known are {', '.join(PATHS)}")
    return namespace


def _check_room(room: str) -> None:
    try:
        ids.ROOM.check(room)
    except ValueError as why:
        raise ValueError(f"room {str(room)[:40]!a}: {why}") from None


def _options(url: str, timeout_s: float) -> dict[str, Any]:
    """Return the options of connections. Raises ValueError for a URL whose password is not percent-encoded.

    The library would take a part of such a password for the host or port, and show it in its error.
    """
    if fault := url_fault(url):
        raise ValueError(f"{shown_url(url)}: {fault}")
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
    }
    if url.startswith(("rediss:", "valkeys:")):
        options["ssl_check_hostname"] = True  # valkey-py's default is to check the chain only
    return options


def _pauses() -> Iterator[float]:
    for number in range(TRIES):
        yield 0 if number == TRIES - 1 else PAUSE_S * 2**number

"""Publish from any other Python process: a logged event for the members of rooms, on all nodes, without a server.

    from insightdesk_rt.emitter import Emitter

    emitter = Emitter("valkey://localhost:6379")
    offset = emitter.of("/tickets").to("ticket:42").emit("ticket:updated", {"ticketId": "42"})

It runs the same script as the nodes, on its own connection; `AsyncEmitter` is the same with `await`. An event gets its
id before the first try, and all tries use the same id, so that the event is in the log once. If the last try fails too
(within five seconds with the default `timeout_s`), RtError UNAVAILABLE has the id, which may be passed to
`emit(..., id=...)` later. The URL is one that the server takes: one Valkey, Sentinels, or a Valkey Cluster. After a
failed try the server is looked for again: its name is resolved, or the Sentinels or the cluster are asked.

Not handled: nodes keep what they published in case Valkey loses its last second, an emitter does not. If that matters,
run Valkey with `appendfsync always`. An emitter does not wait for replicas, as nodes do with `min_replicas_to_ack`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import msgspec
import valkey
import valkey.asyncio
from msgspec import Struct

from insightdesk_rt.engine import ids
from insightdesk_rt.engine.cluster.names import Key, Names
from insightdesk_rt.engine.cluster.outage import NoServer
from insightdesk_rt.engine.cluster.publisher import EventLogSettings, append_call, appended, check_event, fingerprint
from insightdesk_rt.engine.cluster.resp import load_script
from insightdesk_rt.engine.cluster.sentinels import SentinelFinder
from insightdesk_rt.engine.cluster.slots import ask_for_map, slot_of
from insightdesk_rt.engine.cluster.valkey import ValkeySettings, cannot_serve
from insightdesk_rt.engine.cluster.valkey_url import Endpoint, Topology, parse
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, new_id, offset_key
from insightdesk_rt.engine.secret import shown_url, url_fault
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.features import PATHS, refuse_event, refuse_namespace

TRIES = 4
PAUSES_S = (0.1, 0.2, 0.4)  # between the tries; with a second per try, it gives up after about five
LOST = (valkey.ConnectionError, valkey.TimeoutError, NoServer)  # also while the server loads its file

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


C = TypeVar("C")


class _Emitter(Generic[C]):
    """What both emitters share: how an event becomes a script call, and which client of valkey-py makes the call.

    One server has one client. A primary behind Sentinels has one, too, until a call fails: then the Sentinels are asked
    again. In a cluster each namespace has one, and when a call fails the cluster is asked who has the namespace now.
    """

    def __init__(self, url: str, prefix: str, keep: EventLogSettings, timeout_s: float, files: tuple[str, str]) -> None:
        if fault := url_fault(url):
            # The library would take a part of such a password for the host or port, and show it in its error.
            raise ValueError(f"{shown_url(url)}: {fault}")
        self._url = parse(url, *files)
        self._finder = SentinelFinder(self._url, timeout_s)
        self._names = Names(prefix)
        self._keep = keep
        self._max_event_bytes = keep.max_event_bytes
        script = load_script("insightdesk_rt.engine.cluster", "append")
        self._sharded = self._url.topology is Topology.CLUSTER
        self._source = script.sharded.source if self._sharded else script.source
        self._seen: dict[str, Offset] = {}
        self._timeout_s = timeout_s
        self._within_s = TRIES * timeout_s + sum(PAUSES_S)
        self._clients: dict[str, C] = {}  # by the tag of the partition; "" without a cluster

    def _tag(self, event: Event) -> str:
        return self._names.namespace(event.namespace).tag if self._sharded else ""

    async def _find(self, tag: str) -> Endpoint:
        """Return the server to connect to. Raises NoServer."""
        if self._url.topology is Topology.SENTINEL:
            return await self._finder.find()
        if self._sharded:
            found = (await ask_for_map(self._url, (), self._timeout_s)).owner(slot_of(tag))
            if found is None:
                raise NoServer("no primary of the cluster has this namespace")
            return self._url.endpoint(found)
        return self._url.endpoint()

    def _options(self, endpoint: Endpoint) -> dict[str, Any]:
        where = {"unix_socket_path": endpoint.path} if endpoint.path else {"host": endpoint.host, "port": endpoint.port}
        times = {"socket_timeout": self._timeout_s, "socket_connect_timeout": self._timeout_s}
        return {**endpoint.options, **where, **times, "ssl": endpoint.tls, "decode_responses": True}

    def _call(self, event: Event) -> tuple[list[Key], list[Any]]:
        check_event(event, self._max_event_bytes)
        seen = self._seen.get(event.namespace, NO_OFFSET)
        return append_call(self._names, event, "emitter", self._keep, seen)

    def _answered(self, event: Event, answer: str) -> Offset:
        offset = appended(answer)
        self._seen[event.namespace] = max(self._seen.get(event.namespace, NO_OFFSET), offset, key=offset_key)
        return offset

    def _pauses(self) -> Iterator[float]:
        """Yield the pause after each try. With one server that fails there are four tries; else as time allows.

        Sentinels and clusters replace a server that fails within seconds, and until then refuse at once.
        """
        end = time.monotonic() + self._within_s
        yield from PAUSES_S
        while self._url.topology is not Topology.ONE and time.monotonic() < end:
            yield PAUSES_S[-1]
        yield 0

    @staticmethod
    def _must_be_busy(event: Event, refused: valkey.ResponseError) -> None:
        """Raise RtError INTERNAL for a refusal that another try would not change."""
        if not cannot_serve(refused):
            raise RtError("INTERNAL", id=event.id) from refused


class Emitter(_Emitter["valkey.Valkey"]):
    """Blocking; threads may share it. `prefix`, `log_max_…`, `max_event_bytes` and files as the server's settings."""

    def __init__(
        self,
        url: str,
        prefix: str = ValkeySettings().valkey_prefix,
        *,
        timeout_s: float = 1.0,
        log_max_entries: int = DEFAULTS.log_max_entries,
        log_max_bytes: int = DEFAULTS.log_max_bytes,
        max_event_bytes: int = DEFAULTS.max_event_bytes,
        password_file: str = "",
        sentinel_password_file: str = "",
    ) -> None:
        keep = EventLogSettings(log_max_entries, log_max_bytes, max_event_bytes)
        super().__init__(url, prefix, keep, timeout_s, (password_file, sentinel_password_file))
        self._lock = threading.Lock()

    def of(self, namespace: str) -> Target[Emitter]:
        """Name the namespace. Raises ValueError for one that there is not."""
        return Target(self, _known(namespace))

    def append(self, event: Event) -> Offset:
        keys, args = self._call(event)
        failed: Exception | None = None
        for pause_s in self._pauses():
            try:
                client = self._client(self._tag(event))
                return self._answered(event, client.register_script(self._source)(keys, args))
            except LOST as why:
                failed = why
            except valkey.ResponseError as why:
                self._must_be_busy(event, why)
                failed = why
            self._forget(self._tag(event))
            time.sleep(pause_s)
        raise RtError("UNAVAILABLE", id=event.id) from failed

    def _client(self, tag: str) -> valkey.Valkey:
        with self._lock:
            client = self._clients.get(tag)
            if client is None:
                client = self._clients[tag] = valkey.Valkey(**self._options(_blocking(self._find(tag))))
            return client

    def _forget(self, tag: str) -> None:
        """Look the server up again for the next call, because it may have moved."""
        with self._lock:
            client = self._clients.pop(tag, None)
        if client is not None:
            # Calls of other threads that are under way go on.
            client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()  # type: ignore[no-untyped-call]
        self._clients.clear()

    def __enter__(self) -> Emitter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncEmitter(_Emitter["valkey.asyncio.Valkey"]):
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
        password_file: str = "",
        sentinel_password_file: str = "",
    ) -> None:
        keep = EventLogSettings(log_max_entries, log_max_bytes, max_event_bytes)
        super().__init__(url, prefix, keep, timeout_s, (password_file, sentinel_password_file))
        # One call of a namespace at a time, so that events stay in order, and 200 do not open 200 connections.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def of(self, namespace: str) -> Target[AsyncEmitter]:
        """Name the namespace. Raises ValueError for one that there is not."""
        return Target(self, _known(namespace))

    async def append(self, event: Event) -> Offset:
        keys, args = self._call(event)
        failed: Exception | None = None
        tag = self._tag(event)
        try:
            # The timeout includes the wait for its turn, or it would wait for all calls before it when a server hangs.
            async with asyncio.timeout(self._within_s), self._turns[tag]:
                for pause_s in self._pauses():
                    try:
                        client = await self._client(tag)
                        return self._answered(event, await client.register_script(self._source)(keys, args))
                    except LOST as why:
                        failed = why
                    except valkey.ResponseError as why:
                        self._must_be_busy(event, why)
                        failed = why
                    await self._forget(tag)
                    await asyncio.sleep(pause_s)
        except TimeoutError as late:
            failed = failed or late
        raise RtError("UNAVAILABLE", id=event.id) from failed

    async def _client(self, tag: str) -> valkey.asyncio.Valkey:
        client = self._clients.get(tag)
        if client is None:
            client = self._clients[tag] = valkey.asyncio.Valkey(**self._options(await self._find(tag)))
        return client

    async def _forget(self, tag: str) -> None:
        client = self._clients.pop(tag, None)
        if client is not None:
            await client.aclose()

    async def close(self) -> None:
        for tag in list(self._clients):
            await self._forget(tag)

    async def __aenter__(self) -> AsyncEmitter:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def _blocking(finding: Coroutine[Any, Any, Endpoint]) -> Endpoint:
    """Run a coroutine for code without a loop. In a thread of its own, because the caller's may have a loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, finding).result()


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

"""Publisher: sends events to the other nodes: logged events through one script, volatile ones as plain messages.

It keeps the events that were confirmed in the last five seconds. A Valkey that comes back with another run id, or with
a shorter log, may have lost its last second. It is then sent these events again under the same ids, and adds those that
it does not have. So an acknowledged event survives unless its publisher and Valkey are lost together. Until that is
done, new events wait, so that a publisher's events stay in order.

Older events are kept for a minute, because this node may have written to a primary that had been replaced. If the log
differs from what this node knows from some point on, all events after that point are sent again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.names import Key, Names
from insightdesk_rt.engine.cluster.resp import Arg, load_script, several_times, together
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError, used_before
from insightdesk_rt.engine.model import Event, Offset, offset_key
from insightdesk_rt.engine.settings import BytesLimit, Help, SettingsPart
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import RESERVED_EVENT, RESERVED_EVENTS

FORK_S = 60.0  # as long as nodes remember the ids of delivered events
FORK_BYTES = 16_000_000  # of the events kept that long; if events dropped before are lost, clients must reload
HEAD_BYTES = 500  # about, of an event beside its payload
KEEP_S = 5.0  # an AOF is on disk a second later; the rest is for a node that notices late
AGAIN_BATCH = 500
MANY = 100  # events that one script logs: some 4 ms of Valkey, in which it serves nobody else
WAIT_S = 1.0  # a command's deadline

APPEND = load_script("insightdesk_rt.engine.cluster", "append")
APPEND_MANY = several_times(APPEND)


class EventLogSettings(SettingsPart, frozen=True):
    """How much of a namespace's log is kept, whichever limit is reached first, and what one event may have."""

    log_max_entries: Annotated[int, Meta(ge=100), Help("events kept per namespace for returning clients")] = 100_000
    # Bytes of payloads and heads; the log takes about as many of Valkey's memory. The log of a busy chat in Chinese or
    # emoji has 16 KB an event: 100,000 of them would be 1.6 GB.
    log_max_bytes: Annotated[
        int, Meta(ge=0, le=100_000_000_000), Help("bytes kept per namespace for returning clients; 0: no limit")
    ] = 134_217_728
    # 256 KiB: one 33 MB event once overflowed the pub/sub buffers of every node of a python-socketio cluster
    max_event_bytes: Annotated[BytesLimit, Help("size of one event between nodes; 0: no limit")] = 262_144
    log_reads_at_once: Annotated[
        int, Meta(ge=1, le=1000), Help("log reads for returning clients that run at once; further ones wait")
    ] = 16  # some 16 ms of Valkey, if each has a full page


class Sent(NamedTuple):
    at_s: float
    event: Event
    offset: Offset


class Publisher:
    def __init__(
        self,
        valkey: Valkey,
        address: str,
        settings: EventLogSettings,
        seen: Callable[[str], Offset],
        watched: Collection[str],
    ) -> None:
        self._valkey = valkey
        self._names = valkey.names
        self._address = address
        self._settings = settings
        self._max_event_bytes = settings.max_event_bytes
        self._seen = seen  # the greatest offset this node has seen in a namespace
        self._watched = watched  # namespaces whose events an admin of a cluster watches
        self._tail: deque[Sent] = deque()
        self._tail_bytes = 0
        self._answered_s = 0.0
        self._dropped: dict[str, Offset] = {}  # namespace → the last event that was dropped to save memory
        self._copies = itertools.count()
        self.recovery: asyncio.Task[Any] | None = None  # set while lost events are being restored
        self.appended = self.published = self.failed = self.again = 0

    async def append(self, event: Event) -> Offset:
        """Log an event; return its offset. Raises RtError UNAVAILABLE, PAYLOAD_TOO_LARGE, CONFLICT as `appended`."""
        check_event(event, self._max_event_bytes)
        await self.recovered()
        try:
            offset = await self._append(event)
        except RtError:
            self.failed += 1
            raise
        self._keep(event, offset)
        return offset

    async def append_all(self, events: Sequence[Event]) -> list[Offset | RtError]:
        """Log events of one namespace, in this order; return the offset of each, or the error that `append` raises.

        Up to MANY are logged in one step, so members receive them together. Events after one that Valkey did not
        confirm are not tried: a later event is never in the log before an earlier one.
        """
        found: list[Offset | RtError] = []
        for start in range(0, len(events), MANY):
            some = events[start : start + MANY]
            try:
                await self.recovered()
                found += await self._append_many(some)
            except RtError as refused:
                self.failed += len(events) - start
                return found + [refused] * (len(events) - start)
        return found

    async def _append_many(self, events: Sequence[Event]) -> list[Offset | RtError]:
        found: list[Offset | RtError | None] = [None] * len(events)
        calls, sent = [], []
        for number, event in enumerate(events):
            try:
                check_event(event, self._max_event_bytes)
            except RtError as refused:
                found[number] = refused
                self.failed += 1
                continue
            seen = self._seen(event.namespace)
            calls.append(append_call(self._names, event, self._address, self._settings, seen))
            sent.append(number)
        answers = await self._valkey.call(APPEND_MANY, *together(calls), replicated=True) if calls else []
        for number, answer in zip(sent, answers, strict=True):
            try:
                offset = found[number] = appended(answer)
                self._keep(events[number], offset)
            except RtError as refused:
                found[number] = refused
                self.failed += 1
        return found  # type: ignore[return-value]  # each is set

    def _keep(self, event: Event, offset: Offset) -> None:
        """Keep a logged event, in case Valkey loses it."""
        self.appended += 1
        self._tail.append(Sent(asyncio.get_running_loop().time(), event, offset))
        self._tail_bytes += len(event.payload) + HEAD_BYTES

    async def recovered(self) -> None:
        """Wait, for a second at most, until lost events are restored. Raises RtError UNAVAILABLE."""
        if self.recovery is not None:
            await asyncio.wait([self.recovery], timeout=WAIT_S)
            if self.recovery is not None:
                raise RtError("UNAVAILABLE")

    def publish(self, event: Event) -> None:
        """Send a volatile event to the other nodes. Raises RtError PAYLOAD_TOO_LARGE."""
        check_event(event, self._max_event_bytes)
        # A node that listens to several of the rooms receives a copy from each.
        once = f"{self._address}/{next(self._copies)}" if len(event.rooms) > 1 else ""
        message = envelope.volatile(event, self._address, once)
        partition = self._names.namespace(event.namespace)
        for room in event.rooms:
            if self._valkey.send("PUBLISH", partition.channel(room), message):
                self.published += 1
        if event.namespace in self._watched:
            self._valkey.send("PUBLISH", partition.monitor, message)

    async def send_again(self, common: Mapping[str, Offset] = {}) -> list[str]:
        """Send the events that Valkey may have lost again, in order. Raises RtError UNAVAILABLE: call it again.

        `common`: namespace → the offset up to which the log is the one that this node knows; all later events are sent.
        Of other namespaces, the events confirmed last are sent. Returns the namespaces of which some of these events
        were not kept any more.
        """
        loop = asyncio.get_running_loop()
        dropped = [(namespace, at, common.get(namespace)) for namespace, at in self._dropped.items()]
        lost = [ns for ns, at, since in dropped if since is not None and offset_key(at) > offset_key(since)]
        kept, owed, done = deque[Sent](), list[Sent](), deque[Sent]()
        for sent in self._tail:
            (owed if self._owed(sent, common) else kept).append(sent)
        known = len(self._tail)
        for start in range(0, len(owed), AGAIN_BATCH):
            batch = owed[start : start + AGAIN_BATCH]
            # One pipeline: Valkey executes the calls in this order.
            offsets = await asyncio.gather(*(self._append(self._moved(sent), sent.offset) for sent in batch))
            for sent, offset in zip(batch, offsets, strict=True):
                event = sent.event if offset == sent.offset else self._moved(sent)
                self.again += offset != sent.offset
                done.append(Sent(loop.time(), event, offset))
        done.extend(itertools.islice(self._tail, known, None))  # confirmed meanwhile
        self._tail = kept + done
        return lost

    def confirmed(self, names: Collection[str], common: Mapping[str, Offset] = {}) -> list[tuple[Offset, Event]]:
        """Return the events of these names that may be lost, with their offsets. `common`: as in `send_again`."""
        return [
            (sent.offset, sent.event) for sent in self._tail if sent.event.name in names and self._owed(sent, common)
        ]

    def _owed(self, sent: Sent, common: Mapping[str, Offset]) -> bool:
        since = common.get(sent.event.namespace)
        parted = since is not None and offset_key(sent.offset) > offset_key(since)
        return parted or sent.at_s >= self._answered_s - KEEP_S

    def forget_older(self, answered_s: float) -> None:
        """Forget events that were confirmed long enough before Valkey's last answer: they are safe."""
        self._answered_s = answered_s
        while self.recovery is None and self._tail:
            oldest = self._tail[0]
            if oldest.at_s >= answered_s - FORK_S:
                if self._tail_bytes <= FORK_BYTES or oldest.at_s >= answered_s - KEEP_S:
                    break
                self._dropped[oldest.event.namespace] = oldest.offset
            self._tail.popleft()
            self._tail_bytes -= len(oldest.event.payload) + HEAD_BYTES

    async def _append(self, event: Event, was: str = "") -> Offset:
        keys, args = append_call(self._names, event, self._address, self._settings, self._seen(event.namespace), was)
        return appended(await self._valkey.call(APPEND, keys, args, replicated=True))

    @staticmethod
    def _moved(sent: Sent) -> Event:
        """Return the event with the first offset it ever had, which clients may have received."""
        return sent.event if sent.event.was else msgspec.structs.replace(sent.event, was=sent.offset)


def append_call(
    names: Names, event: Event, origin: str, keep: EventLogSettings, seen: str, was: str = ""
) -> tuple[list[Key], list[Arg]]:
    """Return the keys and arguments of lua/append.lua; `appended` decodes its answer."""
    own = names.namespace(event.namespace)
    keys = [own.log, own.event(event.id), own.log_state, own.log_bytes, own.log_marks]
    header = envelope.header_of(event, origin)
    args: list[Arg] = [
        keep.log_max_entries,
        seen,
        event.id,
        header,
        event.payload,
        was,
        event.fingerprint,
        keep.log_max_bytes,
    ]
    for room in event.rooms:
        keys.append(own.ids(room))
        args += (room, own.channel(room))
    return keys, args


def appended(answer: str) -> Offset:
    """Return the offset in the append script's answer. Raises RtError CONFLICT: another event has this id."""
    if not answer:
        raise used_before("id", "event")
    return Offset(answer)


def fingerprint(namespace: str, name: str, payload: str, rooms: Iterable[str], skip: Iterable[str]) -> str:
    """Return a hash that two events share only if content and recipients are the same. Raises BadJson."""
    content = [namespace, name, sorted(set(rooms)), sorted(set(skip)), json.loads(payload)]
    return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def check_event(event: Event, max_event_bytes: int) -> None:
    """Raise RtError for an event that must not get into the log: BAD_REQUEST, PAYLOAD_TOO_LARGE.

    A reserved name would end the connection of every client that receives it. A message beyond Valkey's output buffer
    limit would disconnect every node at once.
    """
    if event.name in RESERVED_EVENTS:
        raise RtError("BAD_REQUEST", f"event: {RESERVED_EVENT}", field="event")
    payload = event.payload
    if len(payload) * 4 > max_event_bytes and len(payload.encode("utf-8", "replace")) > max_event_bytes:
        raise RtError("PAYLOAD_TOO_LARGE")

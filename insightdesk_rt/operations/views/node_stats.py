"""This node's statistics: NodeStats, for `GET /api/v1/nodes` and for readiness.

`turn` runs every second and keeps the samples of the last minute for rates and quantiles. Everything else is read on
request. The counters belong to the parts that do the work.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter, deque
from typing import NamedTuple

from msgspec import Struct

from insightdesk_rt.engine.counters import quantile
from insightdesk_rt.engine.dispatch.calls import Calls
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.lag import LoopLag

RATE_S = 10
QUANTILE_S = 60
EVERY_S = 1
POINT_S = 5  # between the points of a chart
HISTORY_S = 900


class Numbers(Struct):
    """Rates are of the last 10 s, quantiles of the last 60 s (None: no logged event was delivered here).

    `deliveryP50Ms` and `deliveryP99Ms` run from an event's publication (Valkey's clock) to its last write on this node;
    `loopLagMs` is the greatest of the last 10 s; `connections` are by transport; `outboxBytes` wait for slow readers.
    """

    connections: dict[str, int]
    eventsInPerSecond: float
    eventsOutPerSecond: float
    deliveryP50Ms: float | None
    deliveryP99Ms: float | None
    loopLagMs: float
    rssBytes: int
    openFiles: int
    outboxBytes: int


class Point(NamedTuple):
    """A point of a chart, for the POINT_S before `at` (Unix seconds). Rates per second; None: nothing was delivered.

    `loopLagMs` is the greatest of the last 10 s, so a stall shows in two points.
    """

    at: float
    connections: int
    eventsIn: float
    eventsOut: float
    deliveryP50Ms: float | None
    deliveryP99Ms: float | None
    loopLagMs: float


class Clients(NamedTuple):
    """The number of clients of a node by transport, and of their queued messages."""

    by_transport: dict[str, int]
    outbox_bytes: int
    outbox_messages: int


class Process(NamedTuple):
    """This process, as the kernel sees it. Seconds, bytes, counts; `started_s` is Unix time."""

    cpu_s: float
    rss_bytes: int
    virtual_bytes: int
    started_s: float
    open_files: int
    max_files: int


class _Sample(NamedTuple):
    at_s: float
    events_in: int
    events_out: int
    deliveries: tuple[int, ...]


class NodeStats:
    """The statistics of one node. Call `turn` once at the start, then every EVERY_S."""

    def __init__(self, registry: ClientRegistry, hub: Hub, calls: Calls, lag: LoopLag) -> None:
        self._registry = registry
        self._hub = hub
        self._calls = calls
        self._lag = lag
        self._samples: deque[_Sample] = deque(maxlen=QUANTILE_S // EVERY_S + 1)
        self._turns = 0
        self.history: deque[Point] = deque(maxlen=HISTORY_S // POINT_S)  # the newest last

    def turn(self) -> None:
        now = self._sample()
        self._samples.append(now)
        if self._turns % (POINT_S // EVERY_S) == 0 and self._turns:
            self.history.append(self._point(now))
        self._turns += 1

    def numbers(self) -> Numbers:
        now = self._sample()
        before = self._before(now, RATE_S)
        past_s = now.at_s - before.at_s or 1.0
        oldest = self._before(now, QUANTILE_S).deliveries
        recent = [new - old for new, old in zip(now.deliveries, oldest, strict=True)]
        bounds = self._registry.flusher.delivery.bounds
        clients = clients_of(self._registry)
        here = this_process()
        return Numbers(
            clients.by_transport,
            round((now.events_in - before.events_in) / past_s, 1),
            round((now.events_out - before.events_out) / past_s, 1),
            _ms(quantile(bounds, recent, 0.5)),
            _ms(quantile(bounds, recent, 0.99)),
            round(self._lag.worst_s() * 1000, 1),
            here.rss_bytes,
            here.open_files,
            clients.outbox_bytes,
        )

    def _point(self, now: _Sample) -> Point:
        before = self._before(now, POINT_S)
        past_s = now.at_s - before.at_s or 1.0
        recent = [new - old for new, old in zip(now.deliveries, before.deliveries, strict=True)]
        bounds = self._registry.flusher.delivery.bounds
        return Point(
            round(time.time(), 1),
            len(self._registry.clients),
            round((now.events_in - before.events_in) / past_s, 1),
            round((now.events_out - before.events_out) / past_s, 1),
            _ms(quantile(bounds, recent, 0.5)),
            _ms(quantile(bounds, recent, 0.99)),
            round(self._lag.worst_s() * 1000, 1),
        )

    def _sample(self) -> _Sample:
        taken = sum(each.taken for table in self._calls.counters.values() for each in table.values())
        sent = sum(counts.total for counts in self._hub.sent.values())
        return _Sample(time.monotonic(), taken, sent, tuple(self._registry.flusher.delivery.counts))

    def _before(self, now: _Sample, past_s: float) -> _Sample:
        """Return the oldest sample that is at most `past_s` old."""
        return next((sample for sample in self._samples if sample.at_s >= now.at_s - past_s - EVERY_S / 2), now)


def clients_of(registry: ClientRegistry) -> Clients:
    """Sum up all clients. Takes 0.4 ms per thousand."""
    transports: Counter[str] = Counter()
    size = messages = 0
    for client in registry.clients.values():
        outbox = client.outbox
        size += outbox.bytes
        messages += outbox.waiting
        if client.transport is not None:
            transports[client.transport.name] += 1
    return Clients(dict(transports), size, messages)


def this_process() -> Process:
    """Read /proc/self only: with systemd's ProcSubset=pid the rest of /proc is hidden."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # proc(5), from field 3 on: a name may hold anything
    ticks = os.sysconf("SC_CLK_TCK")
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return Process(
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
        rss_bytes=int(fields[21]) * resource.getpagesize(),
        virtual_bytes=int(fields[20]),
        started_s=booted_s + int(fields[19]) / ticks,
        open_files=open_files(),
        max_files=max_files(),
    )


def open_files() -> int:
    """Return how many file descriptors this process has open.

    Linux 6.2 and newer has the number; before, they are listed, 3 ms per thousand.
    """
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1


def open_files_beyond(count: int) -> int:
    """Return how many file descriptors are open if more than `count`, else 0. Cheap while it is far fewer."""
    with open("/proc/self/status", "rb") as file:
        room = next(int(line.split()[1]) for line in file if line.startswith(b"FDSize:"))  # the kernel's table of them
    used = open_files() if room > count else 0
    return used if used > count else 0


def max_files() -> int:
    """Return how many file descriptors this process may have; at the limit no connection is accepted."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)

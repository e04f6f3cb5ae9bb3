"""The costs of a node: CPU time per received or appended event, the cost of a lost connection, and its idle load.

The parts are measured with a `BareNode` (backplane, hub, outboxes that are lists), the sum with server processes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, offset_key
from tests.benchmarks.scaling_load import (
    APPEND,
    NS,
    PAYLOAD,
    PREFIX,
    RUNS,
    Bench,
    Lanes,
    Result,
    append,
    process_cpu_s,
    rooms_named,
)
from tests.support import fakes
from tests.support.aio import until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.server import ServerProcess

CPU, VALKEY = "µs of the node", "µs of Valkey"
ROOMS = 1_000
DEADLINE_S = 60.0


class BareNode:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.valkey = Valkey(bench.url, PREFIX)
        self.bus = ValkeyBackplane(self.valkey, (NS,), "node-1")
        self.hub = Hub(self.bus, (NS,))
        self.peer = fakes.Peer()
        self.member = fakes.socket(NS, peer=self.peer)
        self.hub.add(self.member)
        self.delivered = 0
        self._wanted, self._got = 0, asyncio.Event()
        self.bus.attach(self)

    async def start(self) -> BareNode:
        await self.valkey.start()
        await self.bus.start()
        return self

    async def close(self) -> None:
        await self.bus.close()
        await self.valkey.close()

    async def join(self, rooms: list[str]) -> None:
        for start in range(0, len(rooms), 1_000):
            await self.hub.join_all(self.member, [Room(room) for room in rooms[start : start + 1_000]])

    async def got(self, events: int) -> None:
        """Return once this many events were delivered since the last call."""
        self._wanted = events
        if self.delivered < events:
            self._got.clear()
            async with asyncio.timeout(DEADLINE_S):
                await self._got.wait()
        self.delivered = 0
        self.peer.texts.clear()

    def cut(self) -> None:
        """Let Valkey close the subscription connection."""
        name = f"name=rt-{self.bus.address} "
        (line,) = (x for x in self.bench.control.ask("CLIENT", "LIST").splitlines() if name in x)
        self.bench.control.ask("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))

    async def back(self, connects: int, upto: Offset = NO_OFFSET) -> None:
        """Return once there is a newer connection than the `connects`-th and all events up to an offset arrived."""

        def caught_up() -> bool:
            live = self.bus.counters["connects"] > connects and self.bus.subscribed
            return live and offset_key(self.bus.position(NS)) >= offset_key(upto)

        await until(caught_up, "live and caught up", DEADLINE_S)

    def has_members(self, namespace: str, room: Room) -> bool:
        return self.hub.has_members(namespace, room)

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
        self.hub.resync(namespace, rooms)

    def resync_newer(self, namespace: str, rooms: Mapping[Room, Offset]) -> None:
        self.hub.resync_newer(namespace, rooms)

    def deliver(self, event: Event) -> None:
        self.hub.deliver(event)
        self.delivered += 1
        if self.delivered == self._wanted:
            self._got.set()


class Spent(NamedTuple):
    wall_s: float
    node_s: float
    valkey_us: float


class Meter:
    """Context manager that measures the cost of work. Short waits of the node cost almost nothing."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __enter__(self) -> Meter:
        gc.collect()
        self._from = Spent(time.monotonic(), time.process_time(), self._bench.cpu_us())
        return self

    def __exit__(self, *exc: object) -> None:
        now = Spent(time.monotonic(), time.process_time(), self._bench.cpu_us())
        self.spent = Spent(*(after - before for before, after in zip(self._from, now, strict=True)))


async def measure(bench: Bench) -> AsyncIterator[Result]:
    node = await BareNode(bench).start()
    try:
        await node.join(list(rooms_named(ROOMS)))
        async for result in _hearing(node):
            yield result
        async for result in _appending(node):
            yield result
        async for result in _repairing(node):
            yield result
    finally:
        await node.close()
    async for result in _subscribing(bench):
        yield result


async def _hearing(node: BareNode) -> AsyncIterator[Result]:
    meter, idle = Meter(node.bench), []
    for _ in range(RUNS):
        with meter:
            await asyncio.sleep(1)
        idle.append(meter.spent.node_s / meter.spent.wall_s)
    rest = statistics.median(idle)
    for key, what, events, per_s in (
        ("hear", "500 per second", 750, 500),
        ("hear_burst", "as fast as possible", 10_000, 0),
    ):
        runs = []
        for _ in range(RUNS):
            with meter:
                publisher = await _publisher(node.bench, events, per_s)
                await node.got(events)
            await publisher.wait()
            runs.append(1e6 * (meter.spent.node_s - rest * meter.spent.wall_s) / events)
        told = f"an event is received and put into one outbox, {what}"
        yield Result(key, told, CPU, runs)


async def _publisher(bench: Bench, events: int, per_s: int) -> asyncio.subprocess.Process:
    module = ("-m", "tests.benchmarks.scaling_load", str(bench.port), str(events), str(per_s), str(ROOMS))
    return await asyncio.create_subprocess_exec(sys.executable, *module)


async def _appending(node: BareNode) -> AsyncIterator[Result]:
    """Appends to rooms without members on this node, because receiving is another figure."""
    meter = Meter(node.bench)
    for key, what, together in (("emit", "one at a time", 1), ("emit_batched", "50 in a turn of the loop", 50)):
        runs = []
        for _ in range(RUNS):
            with meter:
                for _ in range(1_000 // together):
                    rooms = [Room(f"quiet:{number}") for number in range(together)]
                    await asyncio.gather(*(node.hub.emit(NS, [room], "ticket:updated", PAYLOAD) for room in rooms))
            runs.append(1e6 * meter.spent.node_s / 1_000)
        yield Result(key, f"an event is appended, {what}", CPU, runs)


async def _repairing(node: BareNode) -> AsyncIterator[Result]:
    """The node is subscribed to a quarter of the missed events, and reads all of them."""
    meter, sequencers, rng = Meter(node.bench), Lanes(node.bench.port), random.Random(3)
    node.bench.load(APPEND)
    rooms = list(rooms_named(4 * ROOMS))
    for missed in (1_000, 10_000):
        spent = []
        for _ in range(RUNS):
            commands = [append(rng.choice(rooms)) for _ in range(missed)]
            connects = node.bus.counters["connects"]
            node.cut()  # and the loop of the node stands still until all is appended
            upto = max(map(Offset, sequencers.run(commands)), key=offset_key)
            with meter:
                await node.back(connects, upto)
            spent.append(meter.spent)
            node.delivered = 0
            node.peer.texts.clear()
        what = f"repair of {missed:,} missed events"
        yield Result(f"repair_{missed}_ms", f"{what}, start to live", "ms", [1e3 * s.wall_s for s in spent])
        yield Result(f"repair_{missed}_node", f"{what}, per event", CPU, [1e6 * s.node_s / missed for s in spent])
        yield Result(f"repair_{missed}_valkey", f"{what}, per event", VALKEY, [s.valkey_us / missed for s in spent])
    sequencers.close()


async def _subscribing(bench: Bench) -> AsyncIterator[Result]:
    meter, joined, sizes = Meter(bench), [], []
    names = list(rooms_named(5_000))
    for traced in (False, True):  # tracing memory costs time
        for _ in range(RUNS):
            bench.empty()
            node = await BareNode(bench).start()
            if traced:
                tracemalloc.start()
            with meter:
                await node.join(names)
            if traced:
                sizes.append(tracemalloc.get_traced_memory()[0] / len(names))
                tracemalloc.stop()
            else:
                joined.append(1e6 * meter.spent.node_s / len(names))
            await node.close()
    yield Result("join", "a room is joined, 1,000 at a time", CPU, joined)
    yield Result("room_node_bytes", "a room with one member on the node", "bytes of the node", sizes)
    for channels in (10_000, 50_000):
        bench.empty()
        node = await BareNode(bench).start()
        try:
            await node.join(list(rooms_named(channels)))
            spent = []
            for _ in range(RUNS):
                connects = node.bus.counters["connects"]
                with meter:
                    node.cut()
                    await node.back(connects)
                spent.append(meter.spent)
            what = f"{channels:,} channels subscribed again"
            yield Result(f"resub_{channels}_ms", f"{what}, cut to live", "ms", [1e3 * s.wall_s for s in spent])
            yield Result(f"resub_{channels}_node", f"{what}, each", CPU, [1e6 * s.node_s / channels for s in spent])
            yield Result(f"resub_{channels}_valkey", f"{what}, each", VALKEY, [s.valkey_us / channels for s in spent])
        finally:
            await node.close()


# ── real servers ──────────────────────────────────────────────────────────────────────────────────────────────────────

WINDOW_S = 2.0
CLIENTS, PEOPLE_EACH, PER_S = 50, 10, 300


class Idle(NamedTuple):
    commands: float
    valkey: float
    bytes: float
    node: float


IDLE = (  # in the order of the fields above
    ("commands to Valkey", "per second"),
    ("CPU time of Valkey", "µs of Valkey per second"),
    ("bytes from Valkey", "bytes per second"),
    ("its own CPU time", "µs of the node per second"),
)


def served(bench: Bench) -> Iterator[Result]:
    """One server leads; a second one adds the cost of each further server."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"valkey_url": bench.url, "valkey_prefix": PREFIX, "drain_seconds": 0}
        servers = [ServerProcess(Path(folder) / f"s{n}", node_id=f"s{n}", **settings) for n in (1, 2)]
        try:
            alone = _watch(bench, servers[0])
            both = _watch(bench, servers[1])
            one = Idle(*(statistics.median(column) for column in zip(*alone, strict=True)))
            # Commands and CPU time are the server's own; what Valkey spends and sends is told only as a sum.
            more = [now._replace(valkey=now.valkey - one.valkey, bytes=now.bytes - one.bytes) for now in both]
            for turns, key, who in (
                (alone, "_leader", "the first server, which leads"),
                (more, "", "each further server"),
            ):
                for field, (what, unit) in zip(Idle._fields, IDLE, strict=True):
                    runs = [getattr(turn, field) for turn in turns]
                    yield Result(f"idle_{field}{key}", f"idle, {who}: {what}", unit, runs)
            rest = statistics.median(turn.node for turn in more)
            yield asyncio.run(_reaching_clients(bench, servers[1], rest))
            yield from asyncio.run(_pushes(bench, servers[1], rest))
        finally:
            for server in servers:
                if server.process is not None:
                    server.stop()


def _watch(bench: Bench, server: ServerProcess) -> list[Idle]:
    """Start the server and measure it while it is idle."""
    others = bench.addresses()
    server.start()
    time.sleep(3)  # what a start does is over
    mine = bench.addresses() - others

    def look() -> Idle:
        sent = int(bench.info("stats")["total_net_output_bytes"])
        return Idle(0, bench.cpu_us(), sent, 1e6 * process_cpu_s(server.pid))

    found = []
    for _ in range(RUNS):
        before, began_s = look(), time.monotonic()
        time.sleep(WINDOW_S)
        took_s = time.monotonic() - began_s
        found.append(Idle(*((new - old) / took_s for old, new in zip(before, look(), strict=True))))
    return [turn._replace(commands=bench.watched(mine, 1)) for turn in found]  # watching costs: not in the same turn


async def _reaching_clients(bench: Bench, server: ServerProcess, idle_us_per_s: float) -> Result:
    """From the subscription to a websocket frame on the socket of the room's only client."""
    door, peers, runs = NativeDoor(), [], []
    sequencers = Lanes(bench.port, 1)
    bench.load(APPEND)
    people = [f"person-{number}" for number in range(CLIENTS * PEOPLE_EACH)]
    for number in range(CLIENTS):
        token = server.token(f"agent-{number}", "agent")
        peer = await door.open(server.address, "/presence", {"token": token})
        await peer.ok("presence:subscribe", {"userIds": people[number::CLIENTS]})
        peers.append(peer)
    rng = random.Random(8)
    for _ in range(RUNS):
        chosen = rng.choices(people, k=PER_S * 2)
        commands = [_told_of(person) for person in chosen]
        seen = sum(len(peer.events) for peer in peers)
        cpu_s, began_s = process_cpu_s(server.pid), time.monotonic()
        for number, command in enumerate(commands):
            await asyncio.sleep(max(0.0, began_s + number / PER_S - time.monotonic()))
            sequencers.run([command])
        await until(partial(_have_seen, peers, seen + len(commands)), "all told", DEADLINE_S)
        took_s = time.monotonic() - began_s
        spent_us = 1e6 * (process_cpu_s(server.pid) - cpu_s) - idle_us_per_s * took_s
        runs.append(spent_us / len(commands))
    for peer in peers:
        await peer.close()
    sequencers.close()
    return Result("served", f"an event is received and sent to one client, real server, {PER_S} per second", CPU, runs)


async def _pushes(bench: Bench, server: ServerProcess, idle_us_per_s: float) -> list[Result]:
    """The back end changes tickets over the admin port, eight at a time: checked, stored, logged, published."""
    node, valkey, status = [], [], ("open", "pending")

    async def push(sequencer: int, turn: int) -> None:
        for number in range(25):
            body = {"status": status[(turn + number) % 2], "teamId": "red", "subject": "x" * 100}
            code, answer = await server.push("PUT", f"/api/v1/tickets/bench-{sequencer}", body)
            assert code in (200, 201), answer

    for turn in range(RUNS + 1):
        cpu_s, began_s, valkey_us = process_cpu_s(server.pid), time.monotonic(), bench.cpu_us()
        await asyncio.gather(*(push(sequencer, turn) for sequencer in range(8)))
        took_s = time.monotonic() - began_s
        node.append((1e6 * (process_cpu_s(server.pid) - cpu_s) - idle_us_per_s * took_s) / 200)
        valkey.append((bench.cpu_us() - valkey_us) / 200)
    what = "a ticket is changed over the admin port"
    return [Result("push_node", what, CPU, node[1:]), Result("push_valkey", what, VALKEY, valkey[1:])]


def _have_seen(peers: list[Peer], events: int) -> bool:
    return sum(len(peer.events) for peer in peers) >= events


def _told_of(person: str) -> bytes:
    return append(f"presence:{person}", "/presence", json.dumps({"userId": person, "status": "x" * 250}))

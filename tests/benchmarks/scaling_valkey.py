"""The costs of Valkey: CPU time per command, bytes per stored thing. Each function returns the results of a subject."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.leases import BEAT, BEAT_MS, LEASE_MS
from insightdesk_rt.engine.cluster.resp import Arg, Script, load_script, pack
from insightdesk_rt.engine.cluster.subscription_link import LogState
from insightdesk_rt.helpdesk.features import PATHS
from insightdesk_rt.helpdesk.presence.store import ABSENT, JOIN, LEAVE, PresenceStore
from tests.benchmarks.scaling_load import (
    APPEND,
    NAMES,
    NS,
    PAYLOAD,
    RUNS,
    Bench,
    Connection,
    Crowd,
    Lanes,
    Result,
    append,
    call,
    cost,
    rooms_named,
)
from tests.support import fakes

CPU, BYTES = "µs of Valkey", "bytes of Valkey"
SUBSCRIBERS = 256  # connections; a channel's are drawn from them, so that few messages share a write
ROOMS = 1_000
LISTENING = 64  # nodes whose probes are heard
OWN = NAMES.namespace(NS)
SAVE = load_script("insightdesk_rt.engine.cluster", "session_save")
END = load_script("insightdesk_rt.engine.cluster", "session_end")


def appends(bench: Bench, of: str = "") -> Iterator[Result]:
    """`of`: a variant of Valkey's configuration, for the key of the result."""
    sequencers, rng = Lanes(bench.port), random.Random(1)
    said = ", AOF everysec" if of else ""
    bench.load(APPEND)
    for key, what, rooms in (("hot", "one room", 1), ("many", f"{ROOMS} rooms", ROOMS)):
        bench.empty()
        names, runs, inside = list(rooms_named(rooms)), [], []
        for _ in range(RUNS + 1):
            commands, before_us = [append(rng.choice(names)) for _ in range(5_000)], bench.script_us()
            runs.append(cost(bench, partial(sequencers.run, commands), len(commands)))
            inside.append((bench.script_us() - before_us) / len(commands))
        yield Result(f"append_{key}{of}", f"append to {what}, no subscriber{said}", CPU, runs[1:])
        yield Result(f"append_{key}{of}_script", f"of that, inside the script{said}", CPU, inside[1:])
    if not of:
        runs = []
        for _ in range(RUNS):
            commands = [append(rng.choice(names)) for _ in range(5_000)]
            runs.append(cost(bench, partial(_pipelined, sequencers.connections[0], commands), len(commands)))
        yield Result("append_batched", f"append to {ROOMS} rooms, 50 in a pipeline", CPU, runs)
    sequencers.close()


def _pipelined(line: Connection, commands: list[bytes]) -> None:
    for start in range(0, len(commands), 50):
        part = commands[start : start + 50]
        line.send(*part)
        for _ in part:
            line.reply()


def publishes(bench: Bench) -> Iterator[Result]:
    """PUBLISH of a volatile event, and an append, to rooms that k nodes listen to."""
    rng, sequencers = random.Random(2), Lanes(bench.port)
    rooms = list(rooms_named(ROOMS))
    bench.load(APPEND)
    message = "1V\n" + '{"n":"/tickets","e":"ticket:typing","r":["ticket:1"],"o":"node-1.abcdef01"}\n' + PAYLOAD
    crowd = Crowd(bench.port, SUBSCRIBERS)
    channels = {k: [NAMES.namespace(f"/{k}").channel(room) for room in rooms] for k in (0, 1, 4, 16)}
    for k, names in channels.items():
        crowd.subscribe({name: rng.sample(range(SUBSCRIBERS), k) for name in names})
    crowd.subscribe({OWN.channel(room): rng.sample(range(SUBSCRIBERS), 4) for room in rooms})
    runs: dict[int, list[float]] = {k: [] for k in channels}
    logged = []
    for _ in range(3 * RUNS + 1):  # in turns, so that what else the machine does meets all of them
        for k, names in channels.items():
            commands = [pack(("PUBLISH", rng.choice(names), message)) for _ in range(1_500)]
            runs[k].append(cost(bench, partial(_heard_by, k, sequencers, crowd, commands), len(commands)))
        entries = [append(rng.choice(rooms)) for _ in range(1_500)]
        logged.append(cost(bench, partial(sequencers.run, entries, crowd.drain), len(entries)))
    for k in channels:
        yield Result(f"publish_{k}", f"PUBLISH to {k} of {SUBSCRIBERS} nodes", CPU, runs[k][1:])
    each = [(most - none) / 16 for most, none in zip(runs[16][1:], runs[0][1:], strict=True)]
    yield Result("delivery", "of that, for each node that receives it", CPU, each)
    yield Result("append_heard_4", f"append, received by 4 of {SUBSCRIBERS} nodes", CPU, logged[1:])
    crowd.close()
    sequencers.close()


def _heard_by(k: int, sequencers: Lanes, crowd: Crowd, commands: list[bytes]) -> None:
    assert set(sequencers.run(commands, crowd.drain)) == {k}


def subscriptions(bench: Bench) -> Iterator[Result]:
    """SUBSCRIBE in commands of 512 channels; the memory of a channel and of each further node in it."""
    cpu: tuple[list[float], list[float]] = ([], [])
    sizes: tuple[list[float], list[float]] = ([], [])
    count = 20_480
    for _ in range(RUNS):
        bench.empty()
        crowd = Crowd(bench.port, 2)
        crowd.subscribe({"warm": [0, 1]})
        names = [OWN.channel(f"ticket:{secrets.token_hex(4)}") for _ in range(count)]
        for number in (0, 1):
            before = bench.memory()
            cpu[number].append(cost(bench, partial(crowd.subscribe, {name: [number] for name in names}), count))
            sizes[number].append((bench.memory() - before) / count)
        crowd.close()
        bench.control.ask("PING")
    yield Result("subscribe_first", "SUBSCRIBE, per channel that no node had yet", CPU, cpu[0])
    yield Result("subscribe_more", "SUBSCRIBE, per channel that other nodes have", CPU, cpu[1])
    yield Result("channel_first_bytes", "a channel and its first node", BYTES, sizes[0])
    yield Result("channel_more_bytes", "each further node in a channel", BYTES, sizes[1])
    connections = []
    for _ in range(RUNS):
        time.sleep(0.1)  # until those of the last run are forgotten
        before = bench.memory()
        idle = [Connection(bench.port) for _ in range(200)]
        for connection in idle:
            connection.ask("PING")
        connections.append((bench.memory() - before) / len(idle))
        for connection in idle:
            connection.close()
    yield Result("connection_bytes", "a connection of a node (it makes two)", BYTES, connections)


def clocks(bench: Bench) -> Iterator[Result]:
    """The periodic work of each node, by the number of nodes."""
    sequencers = Lanes(bench.port)
    for script in (BEAT, ABSENT):
        bench.load(script)
    run_id = bench.info("server")["run_id"]
    keys = [NAMES.cluster.key(name) for name in ("nodes", "reaping", "leader", "server", "calm", "lost")]
    for nodes in (10, 1_000):
        bench.empty()
        beats = [call(BEAT, keys, (f"n{n}.abcdef01", LEASE_MS * 100, "1", run_id)) for n in range(nodes)]
        sequencers.run(beats)
        many = (beats * (5_000 // nodes + 1))[:5_000]
        runs = [cost(bench, partial(sequencers.run, many), len(many)) for _ in range(RUNS)]
        yield Result(f"lease_{nodes}", f"renewing a lease, one of {nodes} nodes (1 per {BEAT_MS} ms)", CPU, runs)
    bench.empty()
    for number, namespace in enumerate(PATHS):
        state = ("top", f"179539724267{number}-0", "floor", "1795397242670-0", "epoch", "1795397242-123456")
        bench.control.ask("HSET", NAMES.namespace(namespace).log_state, *state)
    crowd = Crowd(bench.port, LISTENING)
    crowd.subscribe({NAMES.cluster.node(f"n{n}"): [n] for n in range(LISTENING)})
    probes = [_probe(f"n{n % LISTENING}", n) for n in range(5_000)]
    runs = [
        cost(bench, partial(sequencers.run, probes, crowd.drain, replies=len(PATHS) + 1), 5_000) for _ in range(RUNS)
    ]
    yield Result("probe", "a probe of the subscription (4 per second and node)", CPU, runs)
    crowd.close()
    sweeps = _written(lambda store: store.sweep() for _ in range(5_000))
    runs = [cost(bench, partial(sequencers.run, sweeps), len(sweeps)) for _ in range(RUNS)]
    yield Result("sweep", "a search for users whose grace period has ended (3 per second and node)", CPU, runs)
    sequencers.close()


class _Recorder:
    """Stands for a Valkey: keeps what a store asks it to run."""

    names = NAMES

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> list[Any]:
        self.commands.append(call(script, keys, args))
        return [0, []] if script is JOIN else []


def _written(calls: Iterable[Callable[[PresenceStore], Awaitable[object]]]) -> list[bytes]:
    """Return the first command of each of these calls of the presence store."""
    recorder: Any = _Recorder()
    store = PresenceStore(recorder, NAMES.namespace("/presence"), 5_000)

    async def run() -> None:
        for one in calls:
            await one(store)

    asyncio.run(run())
    return list(recorder.commands)


def _probe(node: str, number: int) -> bytes:
    """The pipeline of one probe: it reads the end of each log, then publishes its number."""
    reads = [pack(("HMGET", NAMES.namespace(path).log_state, *LogState._fields)) for path in PATHS]
    return b"".join([*reads, pack(("PUBLISH", NAMES.cluster.node(node), envelope.probe(number)))])


def people(bench: Bench) -> Iterator[Result]:
    """Users who connect and disconnect, and the sessions of their clients."""
    sequencers = Lanes(bench.port)
    for script in (JOIN, LEAVE, SAVE, END):
        bench.load(script)
    count = 5_000
    bench.empty()
    come, go, kept = [], [], []
    for run in range(RUNS):
        before = bench.memory()
        users = [fakes.user(f"user-{run}-{n}", "agent", "red") for n in range(count)]
        joins = _written(partial(PresenceStore.join, user=user, node="n1.abcdef01") for user in users)
        come.append(cost(bench, partial(sequencers.run, joins), count))
        kept.append((bench.memory() - before) / count)
        leaves = _written(partial(PresenceStore.leave, key=user.key, node="n1.abcdef01") for user in users)
        go.append(cost(bench, partial(sequencers.run, leaves), count))
    yield Result("presence_come", "a user comes online", CPU, come)
    yield Result("presence_go", "a user's last connection ends", CPU, go)
    yield Result("presence_bytes", "a user who is online, including a change not published yet", BYTES, kept)
    bench.empty()
    saved, ended, sizes = [], [], []
    rooms = '["role:agent","team:red","ticket:123456","ticket:123457","user:12345"]'
    for _ in range(RUNS):
        pids = [f"node-1.{secrets.token_urlsafe(16)}" for _ in range(count)]
        offset = "1795397242677-0"
        fields = ("rooms", rooms, "namespace", NS, "user", "user-12345", "sid", "x" * 20)
        since = ("start", offset, "from", offset, "quiet", offset, "address", "node-1.abcdef01")
        own = [(NAMES.session(pid), pid) for pid in pids]
        keys = [[partition.session(pid), partition.sessions("n1.abcdef01")] for partition, pid in own]
        opens = [
            call(SAVE, key, ["open", f"node-1.abcdef01/{n}", pids[n], 86_400_000, "pid", pids[n], *fields, *since])
            for n, key in enumerate(keys)
        ]
        before = bench.memory()
        saved.append(cost(bench, partial(sequencers.run, opens), count))
        sizes.append((bench.memory() - before) / count)
        ends = [call(END, key, [f"node-1.abcdef01/{n}", pids[n], 120_000, rooms]) for n, key in enumerate(keys)]
        ended.append(cost(bench, partial(sequencers.run, ends), count))
    yield Result("session_save", "a session's record is written", CPU, saved)
    yield Result("session_end", "the end of a session is recorded", CPU, ended)
    yield Result("session_bytes", "a session's record", BYTES, sizes)
    sequencers.close()


def log_entries(bench: Bench) -> Iterator[Result]:
    """The memory of one event of 300 bytes: in the log, of its id, and of its room's offsets."""
    sequencers, count = Lanes(bench.port), 10_000
    bench.load(APPEND)
    entry, beside, quiet, offsets = [], [], [], []
    for _ in range(RUNS):
        bench.empty()
        before = bench.memory()
        sequencers.run([append("ticket:1") for _ in range(count)])
        grown = bench.memory() - before
        stream = bench.control.ask("MEMORY", "USAGE", OWN.log, "SAMPLES", 0)
        entry.append(stream / count)
        beside.append((grown - stream) / count)
        kept = OWN.ids("ticket:1")
        offsets.append(bench.control.ask("MEMORY", "USAGE", kept, "SAMPLES", 0) / bench.control.ask("LLEN", kept))
        bench.empty()
        before = bench.memory()
        sequencers.run([append(room) for room in rooms_named(count)])
        quiet.append((bench.memory() - before - grown) / count)
    yield Result("entry_bytes", "an event in the log (log_max_entries of them)", BYTES, entry)
    yield Result("id_bytes", "an event's id, kept for two minutes", BYTES, beside)
    yield Result("offset_bytes", "each of a room's last 1,000 offsets, kept for an hour", BYTES, offsets)
    yield Result("room_bytes", "a room that had an event within the hour", BYTES, quiet)
    sequencers.close()

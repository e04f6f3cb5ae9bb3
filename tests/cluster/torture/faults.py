"""The faults, one function each: it causes the fault for a while, heals it, and returns.

Where there are several servers, a fault of "Valkey" concerns the primary of a random partition. `failovers` has the
faults of replicas, Sentinels and clusters.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from valkey.exceptions import ConnectionError, ResponseError

from tests.cluster.torture.cluster import listening
from tests.cluster.torture.publishers import NAMESPACE
from tests.cluster.torture.scene import Scene, fault
from tests.cluster.torture.stores import CLUSTER, NAMES, SINGLE, TICKETS, Cables
from tests.support.aio import until
from tests.support.own_valkey import LoopbackValkey, OwnValkey

# ── connections ───────────────────────────────────────────────────────────────────────────────────────────────────────


@fault("none")
async def nothing(scene: Scene) -> None:
    """No fault: the control."""
    await asyncio.sleep(2)


@fault("kill-subscriptions")
async def kill_subscriptions(scene: Scene) -> None:
    """CLIENT KILL of the subscription connections every 0.5 s."""
    servers = await scene.primaries()
    for _ in range(8):
        for server in servers:
            _kill_connections(server, "pubsub")
        await asyncio.sleep(0.5)


@fault("kill-connections")
async def kill_connections(scene: Scene) -> None:
    """CLIENT KILL of every connection to Valkey, every 0.4 to 0.9 s."""
    servers = await scene.primaries()
    for _ in range(6):
        for server in servers:
            _kill_connections(server, "pubsub")
            _kill_connections(server, "normal")
        await asyncio.sleep(scene.random.uniform(0.4, 0.9))


def _kill_connections(server: OwnValkey, kind: str) -> None:
    with suppress(ConnectionError):  # a Sentinel that makes the server a replica kills its connections, too
        server("CLIENT", "KILL", "TYPE", kind)


@fault("reset")
async def reset(scene: Scene) -> None:
    """The cables to Valkey are reset repeatedly, one or all."""
    for _ in range(6):
        count = scene.random.randint(1, len(scene.cluster.cables))
        for cables in scene.random.sample(scene.cluster.cables, count):
            cables.reset()
        await asyncio.sleep(scene.random.uniform(0.1, 0.8))


@fault("black-hole")
async def black_hole(scene: Scene) -> None:
    """No packet passes between all nodes and Valkey, without an error."""
    await _hushed(scene, len(scene.cluster.cables), "all", 6 if scene.long else 3)


@fault("black-hole-one")
async def black_hole_one(scene: Scene) -> None:
    """One node's connection to Valkey is a black hole; the other nodes continue."""
    await _hushed(scene, 1, "all", 10 if scene.long else 5)


@fault("half-open")
async def half_open(scene: Scene) -> None:
    """Only the subscription connections hang, of one node or all; commands work."""
    await _hushed(scene, scene.random.choice((1, 4)), "subscriptions", 4)


async def _hushed(scene: Scene, count: int, which: str, for_s: float) -> None:
    parties = scene.cluster.cables if count > 1 else [scene.victim().cables]
    for cables in parties:
        cables.hush(which)
    await asyncio.sleep(for_s)
    for cables in parties:
        cables.mend()


@fault("buffer-overflow")
async def buffer_overflow(scene: Scene) -> None:
    """Valkey cuts subscribers off whose output buffer is full: small limits, a frozen node, large messages."""
    valkey = await scene.primary(TICKETS)
    before = valkey("CONFIG", "GET", "client-output-buffer-limit")[1]
    valkey("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 32768 1")
    channel = NAMES.namespace(NAMESPACE).channel("role:agent")
    victim = scene.victim()
    victim.cables.hush("subscriptions")
    for _ in range(40):
        valkey(scene.cluster.store.publish, channel, "x" * 30_000)
        await asyncio.sleep(0.02)
    victim.cables.mend()
    valkey("CONFIG", "SET", "client-output-buffer-limit", before)


# ── Valkey ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault("valkey-restart", on=(SINGLE,))
async def valkey_restart(scene: Scene) -> None:
    """kill -9 of Valkey, started again with its file (appendfsync always), twice."""
    await _restart(scene, "always")


@fault("valkey-restart-everysec", on=(SINGLE,), log_kept=False)
async def valkey_restart_everysec(scene: Scene) -> None:
    """The same with appendfsync everysec: the last second may be gone."""
    await _restart(scene, "everysec")


@fault("valkey-restart-empty", on=(SINGLE,), log_kept=False, facts_kept=False)
async def valkey_restart_empty(scene: Scene) -> None:
    """kill -9 of Valkey; it comes back empty."""
    valkey = scene.cluster.valkey
    await asyncio.to_thread(valkey.kill)
    for file in valkey.folder.glob("appendonlydir/*"):
        file.unlink()
    await asyncio.sleep(scene.random.uniform(0.1, 1.5))
    await asyncio.to_thread(valkey.start)


async def _restart(scene: Scene, appendfsync: str) -> None:
    valkey = scene.cluster.valkey
    valkey("CONFIG", "SET", "appendfsync", appendfsync)
    await asyncio.sleep(1.5)  # under way with it
    for _ in range(2):
        await asyncio.to_thread(valkey.kill)
        await asyncio.sleep(scene.random.uniform(0.1, 1.0))
        await asyncio.to_thread(valkey.start)
        valkey("CONFIG", "SET", "appendfsync", appendfsync)
        await asyncio.sleep(1.5)
    valkey("CONFIG", "SET", "appendfsync", "always")


@fault("valkey-away", on=(SINGLE,))
async def valkey_away(scene: Scene) -> None:
    """Valkey is stopped for 8 s (20 s in a long run) and started again with its file."""
    valkey = scene.cluster.valkey
    await asyncio.to_thread(valkey.kill)
    await asyncio.sleep(20 if scene.long else 8)
    await asyncio.to_thread(valkey.start)


@fault("valkey-frozen")
async def valkey_frozen(scene: Scene) -> None:
    """SIGSTOP of Valkey for some seconds, then CONT."""
    valkey = await scene.primary()
    valkey.freeze()
    await asyncio.sleep(scene.random.uniform(1.5, 5))
    valkey.thaw()


@fault("valkey-paused")
async def valkey_paused(scene: Scene) -> None:
    """CLIENT PAUSE for 2 s: all commands, then only writes."""
    for mode in ("ALL", "WRITE"):
        valkey = await scene.primary()
        valkey("CLIENT", "PAUSE", "2000", mode)
        await asyncio.sleep(2.2)


@fault("flushall", log_kept=False, facts_kept=False)
async def flushall(scene: Scene) -> None:
    """FLUSHALL under load, twice."""
    for _ in range(2):
        await _empty(scene)
        await asyncio.sleep(scene.random.uniform(1, 2))


async def _empty(scene: Scene) -> None:
    """Empty every primary. Nodes do not notice everywhere if only one primary of a cluster is emptied."""
    for server in await scene.primaries():
        server("FLUSHALL")


@fault("flushall-cut-off", log_kept=False, facts_kept=False)
async def flushall_cut_off(scene: Scene) -> None:
    """Valkey is emptied while one node is cut off from it."""
    cables = scene.victim().cables
    cables.hush()
    await asyncio.sleep(0.4)
    await _empty(scene)
    await asyncio.sleep(scene.random.uniform(0.5, 3))
    cables.mend()


@fault("flushall-clients-cut", log_kept=False, facts_kept=False)
async def flushall_clients_cut(scene: Scene) -> None:
    """The same, with clients disconnected in the meantime: they catch up from the refilled log."""
    cables = scene.victim().cables
    cables.hush()
    await asyncio.sleep(0.4)
    with scene.clients_cut():
        await asyncio.sleep(0.4)
        await _empty(scene)
        await asyncio.sleep(scene.random.uniform(0.5, 3))
        cables.mend()


@fault("valkey-full")
async def valkey_full(scene: Scene) -> None:
    """Valkey is at its maxmemory (noeviction) for 3 s and refuses writes."""
    valkey = await scene.primary()
    valkey("CONFIG", "SET", "maxmemory", "1000000")
    await asyncio.sleep(3)
    valkey("CONFIG", "SET", "maxmemory", "0")


@fault("read-only", on=(SINGLE,))
async def read_only(scene: Scene) -> None:
    """Valkey becomes a replica of an unreachable server, so it is read-only for 2 s; then a primary again."""
    scene.cluster.valkey("REPLICAOF", "127.0.0.1", "1")
    await asyncio.sleep(2)
    scene.cluster.valkey("REPLICAOF", "NO", "ONE")


@fault("valkey-busy", on=(SINGLE, CLUSTER))
async def valkey_busy(scene: Scene) -> None:
    """A foreign script does not end: for 2 s every command is answered BUSY."""
    valkey = await scene.primary()
    valkey("CONFIG", "SET", "busy-reply-threshold", "100")
    endless = asyncio.create_task(asyncio.to_thread(_ended, valkey))
    await asyncio.sleep(2)
    valkey("SCRIPT", "KILL")
    await endless


def _ended(valkey: OwnValkey) -> None:
    with suppress(ResponseError):  # it was killed
        valkey("EVAL", "while true do end", "0")


@fault("shut-out")
async def shut_out(scene: Scene) -> None:
    """The nodes' user is switched off for 2 s and its connections are killed, as when a password is changed."""
    valkey = await scene.primary()
    valkey("ACL", "SETUSER", "boss", "reset", "on", ">boss", "~*", "&*", "+@all")
    with valkey.client(username="boss", password="boss") as boss:
        boss.execute_command("ACL SETUSER", "default", "off")
        boss.execute_command("CLIENT KILL", "USER", "default")
        await asyncio.sleep(2)
        boss.execute_command("ACL SETUSER", "default", "on")


@fault("failover", on=(SINGLE,))
async def failover(scene: Scene) -> None:
    """The primary dies with an attached replica; the replica is promoted and the cables lead to it."""
    await _fail_over(scene, 0)


@fault("failover-lagging", on=(SINGLE,), log_kept=False)
async def failover_lagging(scene: Scene) -> None:
    """The same, but the replica was cut off for 1 to 3 s before, so it lacks the writes of that time."""
    await _fail_over(scene, scene.random.uniform(1, 3))


@fault("failover-clients-cut", on=(SINGLE,), log_kept=False)
async def failover_clients_cut(scene: Scene) -> None:
    """The same, with clients disconnected in the meantime: only the nodes still have the events that they missed."""
    with scene.clients_cut():
        await _fail_over(scene, scene.random.uniform(1, 3))
        await scene.cluster.healed()


@fault("two-primaries", on=(SINGLE,), log_kept=False)
async def two_primaries(scene: Scene) -> None:
    """Some nodes reach a promoted replica; the others still write to the old primary for 3 to 9 s. Then it dies."""
    cluster, old = scene.cluster, scene.cluster.valkey
    new = await _replica(scene)
    new("REPLICAOF", "NO", "ONE")
    moved = scene.random.sample(cluster.cables, scene.random.randint(1, len(cluster.cables) - 1))
    with _led(moved, new):
        await asyncio.sleep(scene.random.uniform(3, 9 if scene.long else 6))
        await asyncio.to_thread(old.kill)
        cluster.one.valkey = new
    await asyncio.to_thread(cluster.one.drop_valkey, old)


@contextmanager
def _led(parties: list[Cables], server: LoopbackValkey) -> Iterator[None]:
    """Lead the cables of these parties to another server for a while."""
    routes = [(party.only, party.only.route) for party in parties]
    for cable, _ in routes:
        cable.route = lambda: ("127.0.0.1", server.port)
        cable.reset()
    yield
    for cable, route in routes:
        cable.route = route


@fault("power-loss", on=(SINGLE,), log_kept=False)
async def power_loss(scene: Scene) -> None:
    """Valkey's machine loses power: it comes back with a file that ends a second earlier."""
    valkey = scene.cluster.valkey
    valkey("CONFIG", "SET", "appendfsync", "everysec")
    await asyncio.sleep(1.5)
    files = {file: file.stat().st_size for file in valkey.folder.glob("appendonlydir/*.incr.aof")}
    await asyncio.sleep(1)
    await asyncio.to_thread(valkey.kill)
    for file, size in files.items():
        os.truncate(file, size)
    await asyncio.sleep(scene.random.uniform(0.1, 1))
    await asyncio.to_thread(valkey.start)
    valkey("CONFIG", "SET", "appendfsync", "always")


@fault("new-clients-in-outage", on=(SINGLE,))
async def new_clients_in_outage(scene: Scene) -> None:
    """Valkey is unreachable for 4 s. Clients connect in the meantime that subscribe once and ignore refusals."""
    valkey = scene.cluster.valkey
    await asyncio.to_thread(valkey.kill)
    coming = [asyncio.create_task(one.open()) for one in scene.subscribers.come()]
    await asyncio.sleep(4)
    assert not any(task.done() for task in coming), "nobody has joined while Valkey is unreachable"
    await asyncio.to_thread(valkey.start)
    await asyncio.gather(*coming)


async def _replica(scene: Scene) -> LoopbackValkey:
    """Return a replica that has everything the primary had a moment ago."""
    replica = scene.cluster.one.new_valkey()
    await asyncio.to_thread(replica.start)
    replica("REPLICAOF", "127.0.0.1", str(scene.cluster.valkey.port))
    await until(lambda: replica("ROLE")[3] == "connected", "replication", 10)
    await asyncio.sleep(1)
    return replica


async def _fail_over(scene: Scene, lag_s: float) -> None:
    cluster, primary = scene.cluster, scene.cluster.valkey
    replica = await _replica(scene)
    if lag_s:
        replica("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(lag_s)
        await asyncio.to_thread(primary.kill)
    else:
        await _write_through(primary, replica)
        replica("REPLICAOF", "NO", "ONE")
    cluster.one.valkey = replica
    await asyncio.to_thread(cluster.one.drop_valkey, primary)


async def _write_through(primary: OwnValkey, replica: OwnValkey) -> None:
    """Kill the primary when the replica has all confirmed writes. Writes are paused first, as in a planned failover."""
    primary("CLIENT", "PAUSE", "5000", "WRITE")
    end = primary("INFO", "replication")["master_repl_offset"]
    await until(lambda: replica("INFO", "replication")["slave_repl_offset"] >= end, "the replica has all", 15)
    await asyncio.to_thread(primary.kill)


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault("node-killed")
async def node_killed(scene: Scene) -> None:
    """kill -9 of a node; its clients move to other nodes. It is started again."""
    node = scene.victim()
    await node.kill()
    await asyncio.sleep(scene.random.uniform(1, 3))
    await node.start()


@fault("node-frozen")
async def node_frozen(scene: Scene) -> None:
    """SIGSTOP of a node for 6 to 10 s: the others declare it dead. Then CONT."""
    node = scene.victim()
    node.freeze()
    await asyncio.sleep(scene.random.uniform(6, 10))
    node.thaw()


@fault("rolling-restart")
async def rolling_restart(scene: Scene) -> None:
    """SIGTERM of each node in turn, each started again."""
    for node in scene.cluster.nodes:
        await node.stop()
        await node.start()
        assert listening(node.server.port)


# ── others ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault("clients-cut")
async def clients_cut(scene: Scene) -> None:
    """The clients' own connections are cut repeatedly; some without notice to the server."""
    for _ in range(12):
        for subscriber in scene.random.sample(scene.subscribers.all, 4):
            if scene.random.random() < 0.4:
                subscriber.cable.forsake()
            else:
                subscriber.cable.reset()
        await asyncio.sleep(scene.random.choice((0.01, 0.15, 0.6)))


@fault("clients-cut-in-replay")
async def clients_cut_in_replay(scene: Scene) -> None:
    """Clients are disconnected for a second, and cut repeatedly while they catch up."""
    cut = scene.random.sample(scene.subscribers.all, 6)
    for subscriber in cut:
        subscriber.cable.hush()
        subscriber.cable.reset()
    await asyncio.sleep(1)
    for subscriber in cut:
        subscriber.cable.rations = iter([scene.random.randrange(200, 6_000) for _ in range(8)])
        subscriber.cable.mend()
    await asyncio.sleep(3)
    for subscriber in cut:
        subscriber.cable.rations = None


@fault("poison")
async def poison(scene: Scene) -> None:
    """Invalid messages are published on the channels of nodes and rooms."""
    store = scene.cluster.store
    places = [(server, channel) for server in await scene.primaries() for channel in server(*store.channels)]
    assert places
    for _ in range(300):
        valkey, channel = scene.random.choice(places)
        valkey(store.publish, channel, _nonsense(scene.random))
    await asyncio.sleep(0.5)


def _nonsense(rnd: random.Random) -> bytes:
    kind = rnd.randrange(6)
    if kind == 0:
        return rnd.randbytes(rnd.randrange(200))
    if kind == 1:
        return b"1L 99999999999999-0 99999999999998-0\n{}\n1"
    if kind == 2:
        return b"1L 1-1 \n" + rnd.randbytes(20)
    if kind == 3:
        return rnd.choice((b"1P 99999999\n/tickets not-an-offset", b"1P 99999999\n"))  # no probe got so far
    if kind == 4:
        return b"9" * rnd.randrange(1, 400_000)
    return b'1V /tickets\n{"n":' + b"[" * 2000

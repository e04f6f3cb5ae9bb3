"""The faults of replicas, Sentinels and clusters: a replica takes over, a slot moves, a node loses one primary."""

from __future__ import annotations

import asyncio

from tests.cluster.torture.scene import Scene, fault
from tests.cluster.torture.stores import CHAT, CLUSTER, NAMES, SENTINEL, TICKETS, ClusterStore, SentinelStore
from tests.support.own_cluster import NODE_TIMEOUT_MS, ClusterServer
from tests.support.own_valkey import LoopbackValkey, OwnValkey

REPLICAS = (SENTINEL, CLUSTER)
# The default of Valkey. For so long a primary that the others do not reach any more takes writes, in production.
PRODUCTION_TIMEOUT_MS = 15_000


@fault("primary-killed", on=REPLICAS, log_kept=False)
async def primary_killed(scene: Scene) -> None:
    """kill -9 of a primary; a replica takes over. The killed server comes back as a replica."""
    await _lose(scene, await _primary(scene))


@fault("lagging-replica", on=REPLICAS, log_kept=False)
async def lagging_replica(scene: Scene) -> None:
    """The same, but its replicas were refused for 1 to 3 s before, so the new primary lacks the writes of that time."""
    primary = await _primary(scene)
    await _refuse_replicas(scene, primary)
    await _lose(scene, primary)


@fault("lagging-clients-cut", on=REPLICAS, log_kept=False)
async def lagging_clients_cut(scene: Scene) -> None:
    """The same, with clients disconnected in the meantime: only the nodes still have the events that they missed."""
    primary = await _primary(scene)
    with scene.clients_cut():
        await _refuse_replicas(scene, primary)
        await _lose(scene, primary)
        await scene.cluster.healed()


@fault("servers-killed", on=REPLICAS, log_kept=False)
async def servers_killed(scene: Scene) -> None:
    """kill -9 of every server at once, for 1 to 3 s; all come back with their files (appendfsync everysec)."""
    servers = _servers(scene)
    for server in servers:
        await asyncio.to_thread(server.kill)
    await asyncio.sleep(scene.random.uniform(1, 3))
    for server in servers:
        server.launch()
    for server in servers:
        await asyncio.to_thread(server.wait_until_up)


@fault("one-primary-cut-off", on=(CLUSTER,))
async def one_primary_cut_off(scene: Scene) -> None:
    """One node's connections to one primary are a black hole; its other connections, and the other nodes, go on."""
    primary = await _primary(scene)
    cable = scene.victim().cables.to(primary)
    cable.hush()
    await asyncio.sleep(scene.random.uniform(3, 10 if scene.long else 5))
    cable.mend()


@fault("sentinel-failover", on=(SENTINEL,), log_kept=False)
async def sentinel_failover(scene: Scene) -> None:
    """SENTINEL FAILOVER, twice: a replica is promoted while the former primary still takes writes."""
    own = scene.store(SentinelStore).own
    for _ in range(2):
        await asyncio.to_thread(own.fail_over)
        await asyncio.to_thread(own.until_in_step)


@fault("sentinels-killed", on=(SENTINEL,))
async def sentinels_killed(scene: Scene) -> None:
    """kill -9 of two of the three Sentinels, while a node's connections are reset; then they come back."""
    own = scene.store(SentinelStore).own
    killed = scene.random.sample(own.sentinels, 2)
    for sentinel in killed:
        await asyncio.to_thread(sentinel.kill)
    scene.victim().cables.reset()
    await asyncio.sleep(scene.random.uniform(1, 3))
    for sentinel in killed:
        await asyncio.to_thread(sentinel.start)


@fault("cluster-failover", on=(CLUSTER,), planned=True)
async def cluster_failover(scene: Scene) -> None:
    """CLUSTER FAILOVER, twice: a replica receives everything, and then takes over from a primary that works."""
    own = scene.store(ClusterStore).own
    for _ in range(2):
        await asyncio.to_thread(own.fail_over, await _cluster_primary(scene))
        await asyncio.to_thread(own.until_whole)


@fault("cluster-takeover", on=(CLUSTER,), log_kept=False)
async def cluster_takeover(scene: Scene) -> None:
    """A primary loses the other servers, and CLUSTER FAILOVER TAKEOVER gives its part to its replica: two primaries."""
    own, primary = scene.store(ClusterStore).own, await _cluster_primary(scene)
    replica = await asyncio.to_thread(own.replica_of, primary)
    primary("CONFIG", "SET", "cluster-node-timeout", PRODUCTION_TIMEOUT_MS)
    await asyncio.to_thread(own.isolate, primary)
    replica("CLUSTER", "FAILOVER", "TAKEOVER")
    # Some parties lose the former primary, too, and find the new one. The others go on with the former one.
    count = scene.random.randint(1, len(scene.cluster.cables) - 1)
    moved = [party.to(primary) for party in scene.random.sample(scene.cluster.cables, count)]
    for cable in moved:
        cable.hush()
    await asyncio.sleep(scene.random.uniform(2, 4))
    await asyncio.to_thread(own.rejoin)
    primary("CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT_MS)
    for cable in moved:
        cable.mend()


@fault("slot-migrated", on=(CLUSTER,))
async def slot_migrated(scene: Scene) -> None:
    """The slots of three partitions are migrated to other primaries, some keys at a time, while traffic flows."""
    own = scene.store(ClusterStore).own
    for tag in (TICKETS, CHAT, scene.random.choice((NAMES.cluster, NAMES.feed, *NAMES.sessions)).tag):
        key = f"{{{tag}}}"
        home = await asyncio.to_thread(own.owner, key)
        others = [server for server in await asyncio.to_thread(lambda: own.primaries) if server is not home]
        await asyncio.to_thread(own.move_slot, key, scene.random.choice(others))
        await asyncio.sleep(0.5)


async def _primary(scene: Scene) -> LoopbackValkey:
    primary = await scene.primary()
    assert isinstance(primary, LoopbackValkey)
    return primary


async def _cluster_primary(scene: Scene) -> ClusterServer:
    primary = await scene.primary()
    assert isinstance(primary, ClusterServer)
    return primary


def _servers(scene: Scene) -> list[LoopbackValkey]:
    store = scene.cluster.store
    assert isinstance(store, SentinelStore | ClusterStore)
    return list(store.own.servers)


async def _refuse_replicas(scene: Scene, primary: OwnValkey) -> None:
    """Cut a primary's replicas off, and let it take writes without them for a while. A restart lets them in again."""
    primary("ACL", "SETUSER", "copy", "off")
    primary("CLIENT", "KILL", "TYPE", "replica")
    await asyncio.sleep(scene.random.uniform(1, 3))


async def _lose(scene: Scene, primary: LoopbackValkey) -> None:
    """Kill a primary; start it again once another server has its part."""
    store = scene.cluster.store
    await asyncio.to_thread(primary.kill)
    if isinstance(store, SentinelStore):
        await asyncio.to_thread(store.own.until_primary_changes, primary.port)
    else:
        await asyncio.to_thread(scene.store(ClusterStore).own.until_replaced, primary)
    await asyncio.to_thread(primary.start)

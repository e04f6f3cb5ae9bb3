"""Two real nodes on a real Valkey Cluster: nothing acknowledged is lost, doubled or reordered, whatever moves.

Three primaries with a replica each. The prefix is chosen so that `/tickets`, `/chat` and the cluster's own partition
lie on three different primaries.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from valkey.crc import key_slot

from insightdesk_rt.emitter import AsyncEmitter
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.model import Event, Room, new_id
from tests.cluster.flow import (
    NAMESPACES,
    check_says,
    emitters,
    features_work,
    flowing,
    in_thread,
    is_ready,
    resumes,
    two_nodes,
    watched,
)
from tests.support.aio import aio, until
from tests.support.native_client import NativeDoor
from tests.support.own_cluster import SLOTS, ClusterServer, OwnCluster
from tests.support.own_valkey import ACL
from tests.support.server import ServerProcess


def third(key: str) -> int:
    return key_slot(key.encode()) * 3 // SLOTS


PREFIX = next(
    name
    for name in map("desk{}".format, itertools.count())
    if len({third(tag) for tag in (name, f"{name}/chat", f"{name}/tickets")}) == 3
)
TICKETS, CHAT = f"{{{PREFIX}/tickets}}", f"{{{PREFIX}/chat}}"


class Desk:
    def __init__(self, cluster: OwnCluster, nodes: list[ServerProcess]) -> None:
        self.cluster = cluster
        self.nodes = nodes


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("cluster")
    with OwnCluster() as cluster, two_nodes(folder, valkey_url=cluster.url, valkey_prefix=PREFIX) as nodes:
        yield Desk(cluster, nodes)


@pytest.fixture(autouse=True)
def whole(desk: Desk) -> None:
    """Start every test with a whole cluster: the test before may have left a server that is not back yet."""
    for server in desk.cluster.servers:
        if server.process is not None and server.process.poll() is not None:
            server.start()
    desk.cluster.until_whole()


def sharing(desk: Desk, key: str) -> list[str]:
    """Return the namespaces whose partitions are on the same primary as a key."""
    owner = desk.cluster.owner(key)
    return [path for path in NAMESPACES if desk.cluster.owner(f"{{{PREFIX}{path}}}") is owner]


@aio
async def test_events_reach_clients_on_both_nodes_in_every_namespace(desk: Desk) -> None:
    async with flowing(desk.nodes) as flow:
        await flow.more(20)
    assert not any(publisher.refusals for publisher in flow.publishers.values())


@aio
async def test_a_returning_client_receives_what_it_missed_on_the_other_node(desk: Desk) -> None:
    await resumes(desk.nodes)


@aio
async def test_a_failover_by_hand_costs_publishers_some_503_and_clients_nothing(desk: Desk) -> None:
    async with flowing(desk.nodes) as flow:
        await in_thread(desk.cluster.fail_over, desk.cluster.owner(TICKETS))
        await flow.more(20)


@aio
async def test_a_takeover_without_the_others_consent_loses_nothing(desk: Desk) -> None:
    async with flowing(desk.nodes) as flow:
        await in_thread(desk.cluster.fail_over, desk.cluster.owner(TICKETS), "TAKEOVER")
        await flow.more(20)


@aio
async def test_a_killed_primary_concerns_only_its_own_namespaces(desk: Desk) -> None:
    hit = sharing(desk, TICKETS)
    others = [path for path in NAMESPACES if path not in hit]
    assert others
    async with flowing(desk.nodes) as flow:
        before = {path: sum(flow.publishers[path].refusals.values()) for path in others}
        await in_thread(desk.cluster.owner(TICKETS).kill)
        await flow.more(20, others)
        await flow.more(20)
    after = {path: sum(flow.publishers[path].refusals.values()) for path in others}
    assert after == before, "namespaces on other primaries go on"
    assert any(flow.publishers[path].refusals for path in hit)


@aio
async def test_a_slot_that_is_migrated_under_traffic_loses_nothing(desk: Desk) -> None:
    cluster = desk.cluster
    async with flowing(desk.nodes) as flow:
        home = cluster.owner(TICKETS)
        for target in [*(server for server in cluster.primaries if server is not home), home]:
            await in_thread(cluster.move_slot, TICKETS, target)
            await flow.more(10)
            assert cluster.owner(TICKETS) is target


@aio
async def test_an_atomic_slot_migration_under_traffic_loses_nothing(desk: Desk) -> None:
    """CLUSTER MIGRATESLOTS, which Valkey has since version 9."""
    cluster, slot = desk.cluster, key_slot(TICKETS.encode())
    async with flowing(desk.nodes) as flow:
        home = cluster.owner(TICKETS)
        for target in (next(server for server in cluster.primaries if server is not home), home):
            await in_thread(
                cluster.owner(TICKETS), "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id
            )
            await until(lambda to=target: in_thread(lambda: cluster.owner(TICKETS) is to), "the slot has moved", 30.0)
            await flow.more(10)


@aio
async def test_a_partition_without_any_server_is_named_and_the_others_go_on(desk: Desk) -> None:
    cluster = desk.cluster
    hit = sharing(desk, CHAT)
    others = [path for path in NAMESPACES if path not in hit]
    primary = cluster.owner(CHAT)
    replica = cluster.replica_of(primary)
    async with flowing(desk.nodes) as flow:
        await in_thread(replica.kill)
        await in_thread(primary.kill)
        await flow.more(30, others)
        status, answer = await desk.nodes[0].push("GET", "/readyz")
        whys = " ".join(check.get("why", "") for check in answer["checks"])
        assert status == 503 and primary.address in whys and f"{PREFIX}/chat" in whys, answer
        assert f"{PREFIX}/tickets" not in whys, "it is on another primary"
        code, refusal = await desk.nodes[0].push("POST", "/api/v1/emit", chat_event())
        assert code == 503 and refusal["error"]["code"] == "UNAVAILABLE"
        await refused_client(desk.nodes[0], "/chat")
        await in_thread(start_both, primary, replica)
        await flow.more(10)
    for node in desk.nodes:
        await until(lambda node=node: is_ready(node), "ready again", 20.0)


def chat_event() -> dict[str, Any]:
    return {"namespace": "/chat", "event": "test:number", "room": "user:x", "data": {"n": 1}}


async def refused_client(node: ServerProcess, namespace: str) -> None:
    """A client of a namespace that cannot be served is refused, and may try again."""
    with pytest.raises(AssertionError, match=r"4302|UNAVAILABLE"):
        peer = await NativeDoor().open(node.address, namespace, {"token": node.token("late", "admin")})
        await peer.close()


def start_both(primary: ClusterServer, replica: ClusterServer) -> None:
    primary.start()
    replica.start()


@aio
async def test_emitters_publish_and_survive_a_failover(desk: Desk) -> None:
    await emitters(desk.nodes, desk.cluster.url, PREFIX, lambda: desk.cluster.fail_over(desk.cluster.owner(TICKETS)))


@aio
async def test_chats_tickets_notifications_and_node_calls_survive_a_failover(desk: Desk) -> None:
    def fail_over_all() -> None:
        for primary in desk.cluster.primaries:
            desk.cluster.fail_over(primary)

    await features_work(desk.nodes, desk.cluster, fail_over_all)


@aio
async def test_an_admin_sees_logged_and_volatile_events_live(desk: Desk) -> None:
    await watched(desk.nodes)


@aio
async def test_check_names_the_primaries_and_the_partitions_on_each(desk: Desk, tmp_path: Path) -> None:
    said = await check_says(tmp_path, desk.cluster.url, valkey_prefix=PREFIX)
    assert "a cluster with 3 primaries" in said and "The configuration is valid." in said
    for key, tag in ((TICKETS, f"{PREFIX}/tickets"), (CHAT, f"{PREFIX}/chat")):
        owner = desk.cluster.owner(key)
        (line,) = [line for line in said.splitlines() if line.startswith(f"primary  {owner.address}")]
        assert tag in line and desk.cluster.replica_of(owner).address in line


@aio
async def test_a_cluster_under_the_url_of_another_topology_is_told_its_own(desk: Desk, tmp_path: Path) -> None:
    address = desk.cluster.servers[0].address
    table = {
        f"valkey://{address}": "it is a server of a Valkey Cluster; write valkey+cluster://host:6379",
        f"valkey+sentinel://{address}/desk": "it is not a Sentinel; name the Sentinels' port",
    }
    for url, words in table.items():
        said = await check_says(tmp_path, url)
        assert words in said, said


@aio
async def test_the_users_of_the_acl_file_may_do_in_a_cluster_what_they_need(desk: Desk) -> None:
    """conf/valkey.acl: the nodes' user on the nodes' own connections, the emitters' user on an emitter's."""
    prefix = "aclcheck"
    lines = [line for line in ACL.read_text(encoding="utf-8").splitlines() if line.startswith("user ")]
    for server in desk.cluster.servers:
        for line in lines:
            server("ACL", "SETUSER", *line.replace("{insightdesk", f"{{{prefix}").split()[1:])
    heard: list[str] = []
    node = desk.cluster.url.replace("://", "://insightdesk:PASSWORD@")
    store = Valkey(node, prefix, namespaces=NAMESPACES, min_replicas=1)
    bus = ValkeyBackplane(store, NAMESPACES, "n1")
    bus.attach(Hearing(heard))
    await store.start()
    await bus.start()
    try:
        assert store.available, store.trouble
        await until(lambda: bus.subscribed, "it hears everything")
        await bus.listen("/tickets", Room("r"))
        await bus.append(Event("/tickets", "by:node", "{}", (Room("r"),), (), new_id()))
        emitters_url = desk.cluster.url.replace("://", "://insightdesk-emitter:PASSWORD@")
        async with AsyncEmitter(emitters_url, prefix) as emitter:
            await emitter.of("/tickets").to("r").emit("by:emitter", {})
        await until(lambda: heard == ["by:node", "by:emitter"], f"both events: {heard}")
    finally:
        await bus.close()
        await store.close()


class Hearing:
    """Members of every room: it notes the events' names."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def deliver(self, event: Event) -> None:
        self.heard.append(event.name)

    def has_members(self, namespace: str, room: Room) -> bool:
        return True

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
        raise AssertionError("nothing was lost")

"""A node's cost depends only on the rooms of its own clients: counted on nodes that share one real Valkey.

Every count is exact for its seed, or bounded so that a design that sends everything to all nodes would fail.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.emitter import AsyncEmitter
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.channel_subscriptions import UNLISTEN_S
from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.subscription import BATCH
from insightdesk_rt.engine.cluster.subscription_link import PROBE_S
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Room
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.native_client import NativeDoor
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

pytestmark = pytest.mark.alone

NS = "/tickets"
NODES = 4
ROOMS = [Room(f"ticket:{n}") for n in range(1_000)]


class CountedBackplane(ValkeyBackplane):
    """Counts the messages of the subscription connection by channel."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.heard: Counter[bytes] = Counter()
        (self.group,) = self._groups
        received = self.group.received

        def counted(channel: bytes, message: bytes) -> None:
            self.heard[channel] += 1
            received(channel, message)

        self.group.received = counted  # type: ignore[method-assign]

    @property
    def probes(self) -> int:
        return self.heard[self.group._node_channels[0]]

    @property
    def from_rooms(self) -> int:
        """Return the number of messages for rooms."""
        assert self.heard.total() == self.counters["received"]
        return self.heard.total() - self.probes


class Node:
    """One node without ports: backplane and hub, and clients whose outboxes are lists."""

    def __init__(self, url: str, name: str) -> None:
        self.valkey = Valkey(url, "subscription")
        self.bus = CountedBackplane(self.valkey, (NS,), name)
        self.hub = Hub(self.bus, (NS,))
        self.peers: list[fakes.Peer] = []

    async def start(self) -> Node:
        await self.valkey.start()
        await self.bus.start()
        return self

    async def close(self) -> None:
        await self.bus.close()
        await self.valkey.close()

    def client(self) -> Socket:
        peer = fakes.Peer()
        self.peers.append(peer)
        socket = fakes.socket(NS, peer=peer)
        self.hub.add(socket)
        return socket

    @property
    def delivered(self) -> int:
        return sum(len(peer.texts) for peer in self.peers)

    async def caught_up(self) -> None:
        """Return when everything published before this call has arrived: a probe follows it on the connection."""
        seen = self.bus.probes
        await until(lambda: self.bus.probes >= seen + 2, "two more probes")


@pytest.fixture(scope="module")
def server() -> Iterator[OwnValkey]:
    """A Valkey for this file alone, so that its own counts are those of these tests."""
    with OwnValkey() as own:
        yield own


@asynccontextmanager
async def cluster(server: OwnValkey) -> AsyncIterator[list[Node]]:
    server("FLUSHALL")
    nodes = [await Node(server.url, f"n{n}").start() for n in range(NODES)]
    try:
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


def calls(server: OwnValkey, command: str) -> int:
    """Return how often Valkey has run a command since it started."""
    return int(server("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def say(nodes: list[Node], rng: random.Random, rooms: list[Room], logged: int, volatile: int) -> Counter[Room]:
    """Publish to random rooms from random nodes; return how often to which, after everything has arrived."""
    said: Counter[Room] = Counter()
    for _ in range(volatile):
        room = rng.choice(rooms)
        said[room] += 1
        rng.choice(nodes).hub.publish(NS, [room], "ticket:typing", "{}")
    for _ in range(logged // 100):
        chosen = rng.choices(rooms, k=100)
        said.update(chosen)
        await asyncio.gather(*(rng.choice(nodes).hub.emit(NS, [room], "ticket:updated", "{}") for room in chosen))
    await asyncio.gather(*(node.caught_up() for node in nodes))
    return said


@aio
async def test_a_node_receives_only_the_events_of_its_own_rooms(server: OwnValkey) -> None:
    rng = random.Random(4)
    async with cluster(server) as nodes:
        rooms = rng.sample(ROOMS, len(ROOMS))
        homes = {room: nodes[n % NODES] for n, room in enumerate(rooms)}
        await asyncio.gather(*(node.hub.join(node.client(), room) for room, node in homes.items()))
        channels = server("PUBSUB", "CHANNELS", "{subscription/*}:room:*")
        assert len(channels) == len(ROOMS)
        assert set(server("PUBSUB", "NUMSUB", *channels)[1::2]) == {1}

        said = await say(nodes, rng, rooms, logged=1_000, volatile=500)
        for node in nodes:
            mine = sum(count for room, count in said.items() if homes[room] is node)
            assert node.bus.from_rooms == mine  # sent to all nodes, it would be 1,500
            assert 0.2 * 1_500 < mine < 0.3 * 1_500
            assert node.delivered == mine
            assert node.bus.counters["gaps"] == node.bus.counters["duplicates"] == 0
        assert sum(node.bus.from_rooms for node in nodes) == 1_500


@aio
async def test_the_cost_of_a_room_grows_with_the_nodes_of_its_members(server: OwnValkey) -> None:
    """N(1 - (1 - 1/N)^m) nodes are interested in a room of m members: the figure docs/scaling.md computes with."""
    rng, members = random.Random(3), 3
    async with cluster(server) as nodes:
        places = {room: [rng.randrange(NODES) for _ in range(members)] for room in ROOMS}
        joins = [nodes[n].hub.join(nodes[n].client(), room) for room in ROOMS for n in places[room]]
        await asyncio.gather(*joins)
        said = await say(nodes, rng, ROOMS, logged=2_000, volatile=0)
        came = [node.bus.from_rooms for node in nodes]
        for n, node in enumerate(nodes):
            assert node.bus.from_rooms == sum(count for room, count in said.items() if n in places[room])
            assert node.delivered == sum(count * places[room].count(n) for room, count in said.items())
        interested = NODES * (1 - (1 - 1 / NODES) ** members)
        assert abs(sum(came) / 2_000 - interested) < 0.1  # 2.31 of 4


@aio
async def test_a_room_with_members_everywhere_reaches_all_with_one_message_for_each_node(server: OwnValkey) -> None:
    team = Room("team:all")
    async with cluster(server) as nodes:
        for node in nodes:
            await asyncio.gather(*(node.hub.join(node.client(), team) for _ in range(25)))
        channel = Names("subscription").namespace(NS).channel(team)
        assert server("PUBSUB", "NUMSUB", channel) == [channel, NODES]
        await say(nodes, random.Random(1), [team], logged=100, volatile=20)
        for node in nodes:
            assert node.bus.from_rooms == 120
            assert [len(peer.texts) for peer in node.peers] == [120] * 25


@aio
async def test_a_node_that_only_publishes_receives_nothing(server: OwnValkey) -> None:
    async with cluster(server) as (publisher, *others):
        await asyncio.gather(*(node.hub.join(node.client(), ROOMS[0]) for node in others))
        await say([publisher], random.Random(2), ROOMS[:1], logged=100, volatile=100)
        assert publisher.bus.from_rooms == 0
        assert [node.bus.from_rooms for node in others] == [200] * 3


# ── joining and leaving ───────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_page_reload_costs_no_command_and_an_empty_room_is_unsubscribed_later(server: OwnValkey) -> None:
    async with cluster(server) as (node, other, *_):
        loop = asyncio.get_running_loop()
        rooms = ROOMS[:600]

        def subscribed() -> int:
            return len(server("PUBSUB", "CHANNELS", "{subscription/*}:room:*"))

        page = node.client()
        await node.hub.join_all(page, rooms)
        subscribes, unsubscribes = calls(server, "subscribe"), calls(server, "unsubscribe")
        for _ in range(3):  # a page is reloaded: disconnected for a second, then back
            node.hub.remove(page)
            await asyncio.sleep(1)
            page = node.client()
            await node.hub.join_all(page, rooms)
        left_s = loop.time()
        node.hub.remove(page)

        # The first leave is five seconds old before the last one is.
        await asyncio.sleep(UNLISTEN_S - 1)
        assert subscribed() == 600
        assert (calls(server, "subscribe"), calls(server, "unsubscribe")) == (subscribes, unsubscribes)
        await until(lambda: not subscribed(), "unsubscribed", UNLISTEN_S)
        assert UNLISTEN_S <= loop.time() - left_s < UNLISTEN_S + PROBE_S + 1
        assert calls(server, "unsubscribe") == unsubscribes + 2  # 512 channels in a command

        before = node.bus.from_rooms
        await say([other], random.Random(5), rooms, logged=100, volatile=0)
        assert node.bus.from_rooms == before
        await node.hub.join(node.client(), rooms[0])
        await say([other], random.Random(5), rooms[:1], logged=100, volatile=0)
        assert node.delivered == 100


@aio
async def test_many_joins_at_once_take_a_few_commands(server: OwnValkey) -> None:
    async with cluster(server) as (node, *_):
        before, probes = calls(server, "subscribe"), calls(server, "evalsha")
        began_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(node.hub.join(node.client(), room) for room in ROOMS))
        took_s = asyncio.get_running_loop().time() - began_s
        assert calls(server, "subscribe") - before == -(-len(ROOMS) // BATCH) == 2
        # One probe confirms all of them; the only others are the nodes' own, four a second each.
        assert calls(server, "evalsha") - probes <= 1 + NODES * (1 + took_s / PROBE_S)
        assert len(server("PUBSUB", "CHANNELS", "{subscription/*}:room:*")) == len(ROOMS)


@aio
async def test_a_lost_connection_is_resubscribed_in_a_few_commands(server: OwnValkey) -> None:
    async with cluster(server) as (node, other, *_):
        await asyncio.gather(*(node.hub.join(node.client(), room) for room in ROOMS))
        before = calls(server, "subscribe")
        (victim,) = (line for line in server("CLIENT", "LIST").splitlines() if f"name=rt-{node.bus.address} " in line)
        server("CLIENT", "KILL", "ID", victim.split()[0].removeprefix("id="))
        await until(lambda: node.bus.counters["connects"] == 2 and node.bus.subscribed, "back")
        assert calls(server, "subscribe") - before == -(-(len(ROOMS) + 2) // BATCH) == 2
        await say([other], random.Random(6), ROOMS, logged=100, volatile=0)
        assert node.delivered == 100


# ── the real server ───────────────────────────────────────────────────────────────────────────────────────────────────

PER_CALL, PAYLOAD_BYTES, EVENTS = 50, 4_000, 400


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, server: OwnValkey) -> Iterator[list[ServerProcess]]:
    folder: Path = tmp_path_factory.mktemp("subscription")
    settings = {"valkey_url": server.url, "valkey_prefix": "served", "drain_seconds": 0}
    started = [ServerProcess(folder / f"s{n}", node_id=f"s{n}", **settings) for n in range(NODES)]
    try:
        for process in started:
            process.start()
        yield started
    finally:
        for process in started:
            if process.process is not None:
                process.stop()


def subscriptions(server: OwnValkey) -> dict[str, dict[str, int]]:
    """Return by node Valkey's figures of its subscription connection: `sub` channels, `tot-net-out` bytes so far."""
    found = {}
    for line in server("CLIENT", "LIST", "TYPE", "pubsub").splitlines():
        fields = dict(field.partition("=")[::2] for field in line.split())
        found[fields["name"].removeprefix("rt-")[:2]] = {key: int(fields[key]) for key in ("sub", "tot-net-out")}
    return found


@aio
async def test_each_of_four_servers_receives_a_quarter_by_valkeys_own_count(
    servers: list[ServerProcess], server: OwnValkey
) -> None:
    """An agent at each server watches 250 people; an event about every person is published in turn."""
    people = [f"person-{n}" for n in range(1_000)]
    random.Random(7).shuffle(people)
    door, emitter = NativeDoor(), AsyncEmitter(server.url, prefix="served")
    before, evals = subscriptions(server), calls(server, "subscribe")
    agents = []
    try:
        for n, one in enumerate(servers):
            agents.append(agent := await door.open(one.address, "/presence", {"token": one.token(f"a{n}", "agent")}))
            mine = people[n::NODES]
            groups = [mine[start : start + PER_CALL] for start in range(0, len(mine), PER_CALL)]
            await asyncio.gather(*(agent.ok("presence:subscribe", {"userIds": group}) for group in groups))
        joined = subscriptions(server)
        for node, now in joined.items():
            assert 250 <= now["sub"] - before[node]["sub"] <= 260  # the rooms of the people, and the agent's own
        assert calls(server, "subscribe") - evals <= NODES * 10

        text = "x" * PAYLOAD_BYTES
        for person in people[:EVENTS]:
            await (
                emitter.of("/presence").to(f"presence:{person}").emit("presence:update", {"userId": person, "t": text})
            )
        for n, agent in enumerate(agents):
            told = [(await agent.expect("presence:update", lambda data: "t" in data))["userId"] for _ in range(100)]
            assert told == people[:EVENTS][n::NODES]
            await agent.not_told("presence:update", lambda data: "t" in data)
        volume = EVENTS * PAYLOAD_BYTES
        for node, now in subscriptions(server).items():
            came = now["tot-net-out"] - joined[node]["tot-net-out"]
            assert 0.25 * volume <= came < 0.3 * volume, (node, came / volume)  # the rest is headers and probes
    finally:
        for agent in agents:
            await agent.close()
        await emitter.close()
    for one in servers:
        one.assert_quiet()

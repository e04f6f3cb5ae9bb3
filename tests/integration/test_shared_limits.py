"""Three servers on one Valkey: rates, connections and wrong keys count over all of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.cluster.nodes import three_nodes
from tests.support.aio import aio, until
from tests.support.clients import Refused
from tests.support.native_client import NativePeer
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

CALLS, USER_SOCKETS, ADDRESS_CLIENTS = 60, 20, 40
EVENT = "notification:list"
ALL_KNOW_S = 1.3  # a report a second, and the way to the others
LOST_S = 15.0  # a dead node's report is dropped after five seconds; on a busy machine later


class Nodes:
    """The three nodes, and what a test opens on them, from an address and with users of its own."""

    def __init__(self, servers: list[ServerProcess], valkey: OwnValkey) -> None:
        self.n = servers
        self.valkey = valkey
        self.peers: list[NativePeer] = []
        self.tag = secrets.token_hex(3)
        self.address = f"10.{secrets.randbelow(250)}.{secrets.randbelow(250)}.7"

    async def join(self, number: int, user: str, address: str = "") -> NativePeer:
        """Raises Refused, or ConnectionError if the client is refused before its handshake."""
        peer, server = NativePeer("/notifications"), self.n[number]
        self.peers.append(peer)
        token = server.token(f"{user}-{self.tag}", "agent", "red")
        headers = {"X-Forwarded-For": address or f"10.9.{secrets.randbelow(250)}.{secrets.randbelow(250)}"}
        await peer.start(server.address, {"token": token}, headers)
        await peer.came_in()
        return peer

    async def call_on_all_until_refused(self, user: str, pause_s: float = 0.1) -> int:
        """Call on the three nodes in turn until each refuses; return how many calls were allowed."""
        peers = [await self.join(number, user) for number in range(3)]
        allowed, refusals = 0, [0, 0, 0]
        while min(refusals) < 3:
            for number, peer in enumerate(peers):
                (answer,) = await peer.request(EVENT, {})
                if is_refused(answer):
                    refusals[number] += 1
                else:
                    allowed, refusals[number] = allowed + 1, 0
                await asyncio.sleep(pause_s)
        return allowed


def is_refused(answer: dict[str, Any]) -> bool:
    return bool(answer.get("error", {}).get("code") == "RATE_LIMITED")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    with three_nodes(
        tmp_path_factory.mktemp("limits"),
        trusted_proxies="127.0.0.1",
        rate_limits=f"{EVENT}={CALLS}/60",
        max_connections_per_user=USER_SOCKETS,
        max_connections_per_address=ADDRESS_CLIENTS,
    ) as found:
        yield found


@asynccontextmanager
async def nodes(started: list[Any]) -> AsyncIterator[Nodes]:
    found = Nodes(*started)
    try:
        yield found
    finally:
        for peer in found.peers:
            await peer.close()


@aio
async def test_a_user_on_three_nodes_has_the_rate_of_one(started: list[Any]) -> None:
    async with nodes(started) as n:
        allowed = await n.call_on_all_until_refused("ann")
        assert 0.9 * CALLS <= allowed <= 1.1 * CALLS
        bob = await n.join(0, "bob")
        (answer,) = await bob.request(EVENT, {})
        assert not is_refused(answer), "another user has a count of their own"


@aio
async def test_the_sockets_of_a_user_count_on_all_nodes_until_their_node_dies(started: list[Any]) -> None:
    async with nodes(started) as n:
        for number in range(USER_SOCKETS - 5):
            await n.join(number % 3, "ann")
        for number in range(5):
            await asyncio.sleep(ALL_KNOW_S)
            await n.join(number % 3, "ann")
        await asyncio.sleep(ALL_KNOW_S)
        for number in range(3):
            with pytest.raises(Refused) as refused:
                await n.join(number, "ann")
            assert refused.value.code == "TOO_MANY_CONNECTIONS"

        async def let_in() -> bool:
            try:
                await n.join(0, "ann")
            except Refused:
                await asyncio.sleep(0.3)
                return False
            return True

        n.n[2].kill()
        try:
            await until(let_in, "the sockets of the dead node count no more", LOST_S)
        finally:
            n.n[2].start()


@aio
async def test_the_clients_of_an_address_count_on_all_nodes(started: list[Any]) -> None:
    async with nodes(started) as n:
        for number in range(ADDRESS_CLIENTS - 2):
            await n.join(number % 3, f"user-{number}", n.address)
        for number in range(2):
            await asyncio.sleep(ALL_KNOW_S)
            await n.join(number, f"last-{number}", n.address)
        await asyncio.sleep(ALL_KNOW_S)
        for number in range(3):
            with pytest.raises(Exception, match="HTTP 429"):
                await n.join(number, "late", n.address)
        await n.join(0, "neighbour")


@aio
async def test_wrong_keys_on_one_node_are_limited_on_the_others(started: list[Any]) -> None:
    async with nodes(started) as n:
        wrong = "irt_" + "x" * 43
        for _ in range(10):
            status, _ = await n.n[0].push("GET", "/api/v1/nodes", token=wrong)
            assert status == 401
        for server in n.n[1:]:
            statuses = []
            while 429 not in statuses:
                statuses.append((await server.push("GET", "/api/v1/nodes", token=wrong))[0])
                await asyncio.sleep(0.3)
            assert len(statuses) <= 8, "it would be refused by its own count after ten"
            status, _ = await server.push("GET", "/api/v1/nodes")
            assert status == 200, "a right token from the same address is accepted"


@aio
async def test_without_valkey_each_node_counts_alone_and_afterwards_together(started: list[Any]) -> None:
    async with nodes(started) as n:
        before = [await n.join(number, "ann") for number in range(3)]
        n.valkey.freeze()
        try:
            for peer in before:
                answers = await asyncio.gather(*(peer.request(EVENT, {}) for _ in range(CALLS + 5)))
                assert sum(is_refused(answer) for (answer,) in answers) == 5
        finally:
            n.valkey.thaw()

        async def ready() -> bool:
            return all([(await server.push("GET", "/readyz", token=None))[0] == 200 for server in n.n])

        await until(ready, "all nodes are ready again")
        await asyncio.sleep(ALL_KNOW_S)
        assert 0.9 * CALLS <= await n.call_on_all_until_refused("bob") <= 1.1 * CALLS

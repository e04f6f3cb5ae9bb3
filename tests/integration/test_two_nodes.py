"""Two server processes on one Valkey: clients of one see what is sent to the other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import aio
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.server import ServerProcess

DOOR = NativeDoor()


class Nodes:
    """Two nodes, and connections to them. `tag` separates this test's users from those of other tests."""

    def __init__(self, one: ServerProcess, two: ServerProcess) -> None:
        self.one, self.two = one, two
        self.tag = secrets.token_hex(3)
        self.peers: list[Peer] = []

    async def join(self, server: ServerProcess, namespace: str, name: str, role: str = "agent") -> Peer:
        token = server.token(f"{name}-{self.tag}", role, f"red-{self.tag}" if role == "agent" else "", name=name)
        peer = await DOOR.open(server.address, namespace, {"token": token})
        self.peers.append(peer)
        return peer

    async def push(self, server: ServerProcess, path: str, body: object, method: str = "PUT") -> None:
        status, answer = await server.push(method, "/api/v1" + path, body)
        assert status in (200, 201), answer


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> AsyncIterator[tuple[ServerProcess, ...]]:
    prefix = "nodes" + secrets.token_hex(3)
    folder: Path = tmp_path_factory.mktemp("nodes")
    settings = {"valkey_url": valkey_url, "valkey_prefix": prefix, "presence_grace_ms": 200, "drain_seconds": 0}
    pair = tuple(ServerProcess(folder / name, node_id=name, **settings) for name in ("n1", "n2"))
    for server in pair:
        server.start()
    yield pair  # type: ignore[misc]
    for server in pair:
        server.stop()


@asynccontextmanager
async def nodes(servers: tuple[ServerProcess, ServerProcess]) -> AsyncIterator[Nodes]:
    found = Nodes(*servers)
    try:
        yield found
    finally:
        for peer in found.peers:
            await peer.close()


@aio
async def test_a_push_to_one_node_reaches_the_other_in_order_once(servers: tuple[ServerProcess, ServerProcess]) -> None:
    async with nodes(servers) as n:
        ticket = f"t-{n.tag}"
        await n.push(n.one, f"/tickets/{ticket}", {"subject": "0", "status": "open", "teamId": f"red-{n.tag}"})
        ann, bob = await n.join(n.one, "/tickets", "ann"), await n.join(n.two, "/tickets", "bob")
        for peer in (ann, bob):
            await peer.ok("ticket:subscribe", {"ticketId": ticket})
        for version in range(2, 12):
            await n.push((n.one, n.two)[version % 2], f"/tickets/{ticket}", {"subject": f"{version}"})
        for peer in (ann, bob):
            seen = [(await peer.expect("ticket:updated"))["version"] for _ in range(10)]
            assert seen == list(range(2, 12))
            await peer.not_told("ticket:updated")
        await ann.ok("ticket:typing", {"ticketId": ticket})
        assert (await bob.expect("ticket:typing"))["user"]["id"] == f"ann-{n.tag}"


@aio
async def test_access_that_is_lost_at_one_node_is_lost_at_the_other(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    async with nodes(servers) as n:
        ticket = f"t-{n.tag}"
        await n.push(n.one, f"/tickets/{ticket}", {"subject": "0", "status": "open", "teamId": f"red-{n.tag}"})
        bob = await n.join(n.two, "/tickets", "bob")
        await bob.ok("ticket:subscribe", {"ticketId": ticket})
        await n.push(n.one, f"/tickets/{ticket}", {"teamId": "blue"})
        assert (await bob.expect("ticket:unsubscribed"))["reason"] == "access"
        bob.forget()
        await n.push(n.one, f"/tickets/{ticket}", {"subject": "secret"})
        await bob.not_told("ticket:updated")


@aio
async def test_presence_counts_a_user_once_in_the_cluster(servers: tuple[ServerProcess, ServerProcess]) -> None:
    async with nodes(servers) as n:
        watcher = await n.join(n.one, "/presence", "watcher")
        here, there = await n.join(n.one, "/presence", "bob"), await n.join(n.two, "/presence", "bob")
        bob = {"userId": f"bob-{n.tag}"}
        assert (await watcher.expect("presence:update", bob))["status"] == "online"
        await here.disconnect()
        await watcher.not_told("presence:update", bob)
        await there.disconnect()
        assert (await watcher.expect("presence:update", bob))["status"] == "offline"


@aio
async def test_a_viewer_who_moves_to_another_node_is_not_shown_as_leaving_the_ticket(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    async with nodes(servers) as n:
        ticket = f"t-{n.tag}"
        await n.push(n.two, f"/tickets/{ticket}", {"teamId": f"red-{n.tag}"})
        bob = await n.join(n.two, "/tickets", "bob")
        await bob.ok("ticket:subscribe", {"ticketId": ticket})
        for name in ("ann", "carol"):
            peer = await n.join(n.one, "/tickets", name)
            await peer.ok("ticket:subscribe", {"ticketId": ticket})
        await bob.expect("ticket:viewers", looking(n, "ann", "bob", "carol"))
        bob.forget()
        await asyncio.to_thread(n.one.stop)
        ann = await n.join(n.two, "/tickets", "ann")
        await ann.ok("ticket:subscribe", {"ticketId": ticket})
        seen = bob.pending("ticket:viewers")
        await bob.expect("ticket:viewers", looking(n, "ann", "bob"))
        assert all(looking(n, "ann", "bob", "carol")(each) for each in seen)
        assert bob.pending("ticket:viewers", lambda each: not looking(n, "ann", "bob", "carol")(each)) == []
        n.one.start()


def looking(n: Nodes, *names: str) -> Callable[[dict[str, Any]], bool]:
    wanted = sorted(f"{name}-{n.tag}" for name in names)
    return lambda seen: sorted(viewer["user"]["id"] for viewer in seen["viewers"]) == wanted


@aio
async def test_a_node_that_is_killed_leaves_nobody_online(servers: tuple[ServerProcess, ServerProcess]) -> None:
    """Its lease ends after four seconds; then the other nodes clean up."""
    async with nodes(servers) as n:
        watcher = await n.join(n.one, "/presence", "watcher")
        await n.join(n.two, "/presence", "bob")
        bob = {"userId": f"bob-{n.tag}"}
        assert (await watcher.expect("presence:update", bob))["status"] == "online"
        n.two.kill()
        offline = await watcher.expect("presence:update", bob, deadline_s=15)
        assert offline["status"] == "offline" and offline["lastSeen"]
        await watcher.not_told("presence:update", bob)
        n.two.start()

"""Two nodes behind the real nginx and HAProxy, with the configurations from conf/."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import aio
from tests.support.balancer import Balancer, balancer
from tests.support.clients import Door, Peer
from tests.support.door import Answer, Http
from tests.support.native_client import NativeDoor
from tests.support.node_client import NodeDoor, NodePeer, NodeProcess, why_not
from tests.support.python_client import PythonDoor
from tests.support.server import ServerProcess

PER_ADDRESS = 40
POLL = "/socket.io/?EIO=4&transport=polling"
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Site:
    """Two nodes that do not relay to each other, so that only the balancer can find the right one."""

    def __init__(self, front: Balancer, nodes: list[ServerProcess]) -> None:
        self.front = front
        self.nodes = nodes

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = Http(*await asyncio.open_connection(*self.front.address))
        try:
            async with asyncio.timeout(15):
                return await connection.ask(method, path, body, headers)
        finally:
            await connection.close()

    async def opened(self) -> str:
        answer = await self.ask("GET", POLL)
        assert answer.status == 200, answer
        sid: str = json.loads(answer.body[1:])["sid"]
        return sid

    async def connections(self) -> dict[str, int]:
        _, answer = await self.nodes[0].push("GET", "/api/v1/nodes")
        return {node["node"]: sum(node["connections"].values()) for node in answer["nodes"]}

    async def push(self, ticket: str, **fields: Any) -> None:
        status, answer = await self.nodes[0].push("PUT", f"/api/v1/tickets/{ticket}", fields)
        assert status in (200, 201), answer


@pytest.fixture(params=["nginx", "haproxy"])
def site(request: pytest.FixtureRequest, tmp_path: Path, valkey_url: str) -> Iterator[Site]:
    settings = {
        "valkey_url": valkey_url,
        "valkey_prefix": "lb" + secrets.token_hex(3),
        "trusted_proxies": "127.0.0.1",
        "max_connections_per_address": PER_ADDRESS,
    }
    nodes = [ServerProcess(tmp_path / name, node_id=name, drain_seconds=1, **settings) for name in ("n1", "n2")]
    for node in nodes:
        node.start()
    try:
        with balancer(request.param, tmp_path / "balancer", nodes) as front:
            yield Site(front, nodes)
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.stop()


@asynccontextmanager
async def doors() -> AsyncIterator[list[Door]]:
    if reason := why_not():
        pytest.skip(reason)
    node = NodeProcess()
    try:
        yield [
            NodeDoor(node, "js-polling", ["polling"]),
            NodeDoor(node, "js-websocket", ["websocket"]),
            NodeDoor(node, "js-upgrade", ["polling", "websocket"]),
            PythonDoor("python-polling", "polling"),
            PythonDoor("python-websocket", "websocket"),
            NativeDoor(),
        ]
    finally:
        await node.stop()


@aio
async def test_every_client_works_and_each_session_stays_at_its_node(site: Site) -> None:
    peers: list[Peer] = []
    async with doors() as all_doors:
        await site.push("t1", teamId="red")
        for door in all_doors:
            for n in range(4):
                token = site.nodes[0].token(f"{door.name}{n}", "agent", "red")
                peers.append(await door.open(site.front.address, "/tickets", {"token": token}))
        spread = await site.connections()
        assert sum(spread.values()) == 24 and min(spread.values()) >= 4, spread
        for peer in peers:
            await peer.ok("ticket:subscribe", {"ticketId": "t1"})
        for n in range(5):
            await site.push("t1", subject=str(n))
        for peer in peers:
            assert [(await peer.expect("ticket:updated"))["version"] for _ in range(5)] == [2, 3, 4, 5, 6]
        for peer in peers:
            await peer.close()
    log = site.front.access_log
    assert "/socket.io/" in log and "/rt/tickets" in log
    assert "sid=" not in log and "EIO" not in log and "n1." not in log
    for node in site.nodes:
        node.assert_quiet()
        assert "relay" not in node.log()


@aio
async def test_polls_reach_their_node_by_the_session_id(site: Site) -> None:
    for node in site.nodes:  # without relaying, only the balancer can find the right node
        connection = Http(*await asyncio.open_connection(*node.address))
        assert (await connection.ask("GET", POLL)).status == 200
        await connection.close()
    sids = [await site.opened() for _ in range(6)]
    assert {sid.partition(".")[0] for sid in sids} == {"n1", "n2"}
    for sid in sids:
        posted = await site.ask("POST", f"{POLL}&sid={sid}", b"40/nowhere,")
        assert (posted.status, posted.body) == (200, "ok")
        polled = await site.ask("GET", f"{POLL}&sid={sid}")
        assert polled.body.startswith("44/nowhere"), polled
        worker = sid.replace(".", "-7.", 1)  # a worker's id leads to the same machine, which does not know it
        assert json.loads((await site.ask("GET", f"{POLL}&sid={worker}")).body)["code"] == 1
    for strange in ("n9.abc", "abc", "n1", "%0a", "n1.%20"):
        assert (await site.ask("GET", f"{POLL}&sid={strange}")).status == 400


@aio
async def test_a_client_cannot_choose_its_own_address(site: Site) -> None:
    """All clients count as one address, whatever they claim, so the limit per address applies."""
    ends = {
        (await site.ask("GET", POLL, **{"X-Forwarded-For": f"6.6.6.{n}"})).status for n in range(2 * PER_ADDRESS + 1)
    }
    assert ends - {200}, "the claimed address was trusted"
    node = site.nodes[0]
    for n in range(3):  # the node trusts the proxy's header
        connection = Http(*await asyncio.open_connection(*node.address))
        answer = await connection.ask("GET", POLL, headers={"X-Forwarded-For": f"6.6.6.{n}"})
        assert answer.status == 200
        await connection.close()


@aio
async def test_nothing_but_the_client_port_is_reached(site: Site) -> None:
    for path in ("/", "/api/v1/nodes", "/metrics", "/readyz", "/healthz", "/demo", "/socket.io", "/rt", "/../readyz"):
        answer = await site.ask("GET", path)
        assert answer.status in (301, 400, 404), (path, answer)
    assert (await site.ask("GET", "/rt/client.js")).status == 200
    sid = await site.opened()
    assert (await site.ask("POST", f"{POLL}&sid={sid}", b"4" * 1_000_001)).status == 413
    assert (await site.ask("POST", f"{POLL}&sid={sid}", b"4" * 2_000_000)).status == 413


@aio
async def test_clients_of_a_node_that_is_drained_or_killed_go_on_at_the_other(site: Site) -> None:
    one, two = site.nodes
    async with doors() as all_doors:
        peers: list[Peer] = []
        await site.push("t1", teamId="red")
        try:
            for door in all_doors:
                if door.reconnects:
                    for n in range(2):
                        token = one.token(f"{door.name}{n}", "agent", "red")
                        peers.append(
                            await door.open(site.front.address, "/tickets", {"token": token}, reconnection=True)
                        )
            for peer in peers:
                await peer.ok("ticket:subscribe", {"ticketId": "t1"})
            order = {"overSeconds": 0.5, "reason": "test"}
            assert (await one.push("POST", "/api/v1/nodes/n1/drain", order))[0] == 200
            await moved(site, {"n1": 0, "n2": len(peers)})
            assert (await one.push("POST", "/api/v1/nodes/n1/undrain", {"reason": "test"}))[0] == 200
            await asyncio.sleep(1)  # until haproxy has noticed that it is ready
            before = [peer.connects for peer in peers]
            two.kill()
            for peer, connects in zip(peers, before, strict=True):
                await peer.again(connects + 1, deadline_s=10)
                print(str(peer)[:60], peer.recovered, peer.sid, peer.connects)
                if not isinstance(peer, NodePeer):  # python-socketio's client does not resume
                    await peer.ok("ticket:subscribe", {"ticketId": "t1"})
            await site.push("t1", subject="after it all")
            for peer in peers:
                assert (await peer.expect("ticket:updated", {"version": 2}))["version"] == 2
        finally:
            for peer in peers:
                await peer.close()


@pytest.mark.parametrize("site", ["nginx"], indirect=True)
@aio
async def test_clients_miss_nothing_when_nginx_is_reloaded(site: Site) -> None:
    """nginx's old workers end a second later and close all their connections."""
    async with doors() as all_doors:
        peers: list[Peer] = []
        await site.push("t1", teamId="red")
        try:
            for door in all_doors:
                if door.name.startswith("js-"):
                    token = site.nodes[0].token(door.name, "agent", "red")
                    peers.append(await door.open(site.front.address, "/tickets", {"token": token}, reconnection=True))
            for peer in peers:
                await peer.ok("ticket:subscribe", {"ticketId": "t1"})
            for version in range(2, 62):
                await site.push("t1", subject=str(version))
                if version in (10, 35):
                    site.front.reload()
                await asyncio.sleep(0.05)
            for peer in peers:
                assert [(await peer.expect("ticket:updated"))["version"] for _ in range(60)] == [*range(2, 62)]
                await peer.not_told("ticket:updated")
                assert peer.recovered is (peer.connects > 1)
            assert max(peer.connects for peer in peers) > 1, "nobody was on an old worker"
        finally:
            for peer in peers:
                await peer.close()


async def moved(site: Site, wanted: dict[str, int]) -> None:
    for _ in range(100):
        if (found := await site.connections()) == wanted:
            return
        await asyncio.sleep(0.2)
    pytest.fail(f"{found}, not {wanted}")

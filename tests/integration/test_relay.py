"""Requests that reach the wrong node are passed on to their session's node, handed over, or refused properly."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import valkey

from insightdesk_rt.engine.cluster.names import Names
from tests.support.aio import aio
from tests.support.clients import Door
from tests.support.door import Answer, Http, frame
from tests.support.node_client import NodeDoor, NodeProcess, why_not
from tests.support.python_client import PythonDoor
from tests.support.round_robin import RoundRobin, Sorter
from tests.support.server import ServerProcess

POLL = "/socket.io/?EIO=4&transport=polling"
UNKNOWN = {"code": 1, "message": "Session ID unknown"}
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Pair:
    """Two nodes on one Valkey. Other machines can reach n2, but not n1."""

    def __init__(self, one: ServerProcess, two: ServerProcess, prefix: str, url: str) -> None:
        self.one, self.two, self.prefix = one, two, prefix
        self.valkey = valkey.Valkey.from_url(url, decode_responses=True)

    @property
    def places(self) -> dict[str, dict[str, object]]:
        found = self.valkey.hgetall(Names(self.prefix).cluster.key("places"))
        assert isinstance(found, dict)
        return {name.partition(".")[0]: json.loads(text) for name, text in found.items()}

    def move(self, node: str) -> dict[str, object]:
        """Make a node look as if it were on another machine, and return its address."""
        for name, text in self.valkey.hgetall(Names(self.prefix).cluster.key("places")).items():  # type: ignore[union-attr]
            if name.startswith(f"{node}."):
                place: dict[str, object] = json.loads(text)
                moved = {**place, "local": "elsewhere", "machine": "another"}
                self.valkey.hset(Names(self.prefix).cluster.key("places"), name, json.dumps(moved))
                return place
        raise AssertionError(f"{node} is not known")


@contextmanager
def started(folder: Path, url: str) -> Iterator[Pair]:
    prefix = "relay" + secrets.token_hex(3)
    settings = {"valkey_url": url, "valkey_prefix": prefix, "drain_seconds": 0, "max_payload_bytes": 10_000}
    one = ServerProcess(folder / "n1", node_id="n1", **settings)
    two = ServerProcess(folder / "n2", node_id="n2", relay_address="127.0.0.1", **settings)
    one.start()
    two.start()
    yield Pair(one, two, prefix, url)
    for server in (one, two):
        server.stop()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Pair]:
    with started(tmp_path_factory.mktemp("relay"), valkey_url) as pair:
        yield pair


@pytest.fixture
def own(tmp_path: Path, valkey_url: str) -> Iterator[Pair]:
    """Nodes for tests that kill or move one."""
    with started(tmp_path, valkey_url) as pair:
        yield pair


@asynccontextmanager
async def http(server: ServerProcess) -> AsyncIterator[Http]:
    connection = Http(*await asyncio.open_connection(*server.address))
    try:
        async with asyncio.timeout(20):
            yield connection
    finally:
        await connection.close()


async def opened(server: ServerProcess) -> str:
    async with http(server) as polls:
        answer = await polls.ask("GET", POLL)
        sid: str = json.loads(answer.body[1:])["sid"]
        return sid


async def poll(server: ServerProcess, sid: str, **how: str) -> Answer:
    async with http(server) as polls:
        return await polls.ask("GET", f"{POLL}&sid={sid}", headers=how)


async def post(server: ServerProcess, sid: str, body: str, **how: str) -> Answer:
    async with http(server) as posts:
        return await posts.ask("POST", f"{POLL}&sid={sid}", body.encode(), how)


@aio
async def test_polls_are_answered_by_the_owner_wherever_they_arrive(pair: Pair) -> None:
    sid = await opened(pair.one)
    assert sid.startswith("n1.")
    connect = '40/tickets,{"token":"' + pair.one.token("ann", "agent", "red") + '"}'
    assert (await post(pair.two, sid, connect)).body == "ok"
    answer = await poll(pair.two, sid)
    assert answer.status == 200 and answer.body.startswith('40/tickets,{"sid":')
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.headers["cache-control"] == "no-store"
    waiting = asyncio.create_task(poll(pair.two, sid))
    assert (await post(pair.one, sid, '42/tickets,1["ticket:typing",{"ticketId":"x"}]')).body == "ok"
    assert '"FORBIDDEN"' in (await asyncio.wait_for(waiting, 5)).body


@aio
async def test_a_wrong_poll_gets_the_same_error_as_at_its_owner(pair: Pair) -> None:
    sid = await opened(pair.one)
    for server in (pair.one, pair.two):
        assert (await post(server, sid, "4" + "x" * 10_001)).status == 413
        assert json.loads((await poll(server, sid + "x")).body) == UNKNOWN
        assert json.loads((await poll(server, "n7.abc")).body) == UNKNOWN
        assert json.loads((await poll(server, sid, Origin="https://evil.example")).body)["code"] == 4
        async with http(server) as polls:
            wrong = await polls.ask("GET", f"/socket.io/?EIO=3&transport=polling&sid={sid}")
            assert (wrong.status, json.loads(wrong.body)["code"]) == (400, 3)
            jsonp = await polls.ask("GET", f"{POLL}&sid={sid}&sid={sid}")
            assert jsonp.status == 400
    page = "http://127.0.0.1:5000"
    assert (await post(pair.two, sid, "3", Origin=page)).headers["access-control-allow-origin"] == page
    async with http(pair.two) as polls:
        await post(pair.two, sid, "40/nowhere,")
        answer = await polls.ask("GET", f"{POLL}&sid={sid}&j=3")
        assert answer.status == 200 and answer.body.startswith('___eio[3]("44/nowhere')
        assert answer.headers["content-type"] == "text/javascript; charset=UTF-8"


@aio
async def test_two_polls_at_once_end_the_session_as_they_do_at_its_owner(pair: Pair) -> None:
    sid = await opened(pair.one)
    first = asyncio.create_task(poll(pair.two, sid))
    await asyncio.sleep(0.3)
    assert (await poll(pair.two, sid)).status == 400
    await asyncio.wait_for(first, 5)
    assert json.loads((await poll(pair.two, sid)).body) == UNKNOWN


@aio
async def test_an_aborted_poll_also_ends_at_its_owner(pair: Pair) -> None:
    """Otherwise the client's next poll would be a second one at the same time."""
    sid = await opened(pair.one)
    async with http(pair.two) as polls:
        polls.send("GET", f"{POLL}&sid={sid}")
        await asyncio.sleep(0.3)
    await asyncio.sleep(0.3)
    answer = await poll(pair.two, sid)
    assert json.loads(answer.body) == UNKNOWN, "the owner saw its poll's connection close"


@aio
async def test_an_owner_that_dies_makes_its_sessions_unknown(own: Pair) -> None:
    sid = await opened(own.one)
    waiting = asyncio.create_task(poll(own.two, sid))
    await asyncio.sleep(0.3)
    own.one.kill()
    assert json.loads((await asyncio.wait_for(waiting, 5)).body) == UNKNOWN
    assert json.loads((await poll(own.two, sid)).body) == UNKNOWN
    assert "relay_address" not in own.two.log(), "a node that has just stopped is not reported as a wrong configuration"
    own.one.start()
    again = await opened(own.one)
    await asyncio.sleep(1.1)  # until its address has been read again
    assert (await post(own.two, again, "3")).body == "ok"
    assert own.places["n1"]["since"] > time.time() - 20  # type: ignore[operator]


@aio
async def test_a_node_of_another_machine_is_reached_at_its_relay_address(own: Pair) -> None:
    sid, here = await opened(own.two), await opened(own.one)
    place = own.move("n2")
    own.move("n1")
    assert str(place["address"]).startswith("127.0.0.1:")
    await asyncio.sleep(1.1)
    assert (await post(own.one, sid, "3")).body == "ok"
    for _ in range(2):
        assert json.loads((await post(own.two, here, "3")).body) == UNKNOWN, "it announced no address"
    assert own.two.log().count("has no relay_address") == 1
    async with http(own.one) as upgrade:
        refused = await upgrade.ask("GET", f"/socket.io/?EIO=4&transport=websocket&sid={sid}", headers=UPGRADE)
        assert (refused.status, refused.body) == (400, "Session ID unknown")


@aio
async def test_a_websocket_is_handed_to_the_owner_on_this_machine(own: Pair) -> None:
    sid = await opened(own.one)
    connect = '40/tickets,{"token":"' + own.one.token("ann", "agent", "red") + '"}'
    await post(own.one, sid, connect)
    async with http(own.two) as socket:
        answer = await socket.ask("GET", f"/socket.io/?EIO=4&transport=websocket&sid={sid}", headers=UPGRADE)
        assert answer.status == 101 and "sec-websocket-extensions" not in answer.headers
        socket.writer.write(frame(1, b"2probe"))
        assert await socket.reader.readexactly(8) == b"\x81\x063probe"
        assert (await poll(own.two, sid)).body.startswith("40/tickets,")
        socket.writer.write(frame(1, b"5") + frame(1, b'42/tickets,1["ticket:typing",{"ticketId":"x"}]'))
        assert b"FORBIDDEN" in await socket.reader.readuntil(b"}]")
        own.two.kill()  # no traffic goes through the first node
        socket.writer.write(frame(1, b'42/tickets,2["ticket:typing",{"ticketId":"x"}]'))
        assert b"43/tickets,2[" in await socket.reader.readuntil(b"}]")
    assert (await poll(own.one, sid)).status == 400


@aio
async def test_a_websocket_for_an_unknown_session_is_closed(pair: Pair) -> None:
    async with http(pair.two) as socket:
        answer = await socket.ask("GET", "/socket.io/?EIO=4&transport=websocket&sid=n1.none", headers=UPGRADE)
        assert answer.status == 101
        socket.writer.write(frame(1, b"2probe"))
        assert await socket.eof()
    async with http(pair.two) as socket:
        evil = {**UPGRADE, "Origin": "https://evil.example"}
        answer = await socket.ask("GET", "/socket.io/?EIO=4&transport=websocket&sid=n1.none", headers=evil)
        assert answer.status == 400


@aio
async def test_the_relay_serves_only_nodes(pair: Pair) -> None:
    sid = await opened(pair.two)
    place = pair.places["n2"]
    host, _, port = str(place["address"]).rpartition(":")
    for key, status in ((str(place["key"]), 200), ("wrong", 404), ("", 404), ("\xff", 404)):
        connection = Http(*await asyncio.open_connection(host, int(port)))
        headers = {"X-Insightdesk-Key": key} if key else {}
        answer = await connection.ask("POST", f"{POLL}&sid={sid}", b"3", headers)
        assert answer.status == status
        await connection.close()
    assert str(place["key"]) not in pair.one.log() + pair.two.log()


# ── stock clients behind a balancer without affinity ────────────────────────────────────────────────────────────────


@pytest.fixture
def doors() -> Iterator[list[Door]]:
    if why_not():
        pytest.skip(str(why_not()))
    node = NodeProcess()
    yield [
        NodeDoor(node, "js-polling", ["polling"]),
        NodeDoor(node, "js-upgrade", ["polling", "websocket"]),
        PythonDoor("python-polling", "polling"),
    ]


@aio
async def test_stock_clients_behind_round_robin_poll_and_upgrade(pair: Pair, doors: list[Door]) -> None:
    balancer = RoundRobin([pair.one.address, pair.two.address])
    address = ("127.0.0.1", await balancer.lay())
    try:
        for door in doors:
            peers = [
                await door.open(address, "/tickets", {"token": pair.one.token(f"ann{n}", "agent", "red")})
                for n in range(4)
            ]
            status, answer = await pair.two.push("PUT", f"/api/v1/tickets/{door.name}", {"teamId": "red"})
            assert status == 201, answer
            for peer in peers:
                await peer.ok("ticket:subscribe", {"ticketId": door.name})
            for n in range(20):
                node = (pair.one, pair.two)[n % 2]
                assert (await node.push("PUT", f"/api/v1/tickets/{door.name}", {"subject": str(n)}))[0] == 200
            for peer in peers:
                versions = [(await peer.expect("ticket:updated"))["version"] for _ in range(20)]
                assert versions == list(range(2, 22))
            for peer in peers:
                await peer.close()
    finally:
        for door in doors:
            if isinstance(door, NodeDoor):
                await door._node.stop()
        await balancer.remove()
    for server in (pair.one, pair.two):
        server.assert_quiet()


@aio
async def test_an_upgrade_that_reaches_another_node_of_the_machine_is_handed_over(
    pair: Pair, doors: list[Door]
) -> None:
    upgrade = next(door for door in doors if door.name == "js-upgrade")
    assert isinstance(upgrade, NodeDoor)
    balancer = Sorter(websockets=pair.one.address, others=pair.two.address)
    address = ("127.0.0.1", await balancer.lay())
    try:
        peer = await upgrade.open(address, "/tickets", {"token": pair.one.token("ann", "agent", "red")})
        _, answer = await pair.one.push("GET", "/api/v1/nodes")
        transports = {node["node"]: node["connections"] for node in answer["nodes"]}
        assert transports["n2"].get("websocket") == 1, "the session's node has received the socket"
        assert (await peer.error("ticket:typing", {"ticketId": "x"}))["code"] == "FORBIDDEN"
        await peer.close()
    finally:
        await upgrade._node.stop()
        await balancer.remove()


@aio
async def test_an_upgrade_that_cannot_be_handed_over_leaves_the_client_on_polling(own: Pair, doors: list[Door]) -> None:
    own.move("n1")
    own.move("n2")
    await asyncio.sleep(1.1)
    upgrade = next(door for door in doors if door.name == "js-upgrade")
    assert isinstance(upgrade, NodeDoor)
    # Polls of a session of n2 go to n2; its websocket reaches n1, which believes n2 to be on another machine.
    balancer = Sorter(websockets=own.one.address, others=own.two.address)
    address = ("127.0.0.1", await balancer.lay())
    try:
        token = own.one.token("ann", "agent", "red")
        peer = await upgrade.open(address, "/tickets", {"token": token}, settle=False)
        await asyncio.sleep(1)
        assert peer.transports == ["polling"]  # type: ignore[attr-defined]
        status, _ = await own.one.push("PUT", "/api/v1/tickets/t9", {"teamId": "red"})
        assert status == 201
        await peer.ok("ticket:subscribe", {"ticketId": "t9"})
        await own.one.push("PUT", "/api/v1/tickets/t9", {"subject": "still here"})
        assert (await peer.expect("ticket:updated"))["version"] == 2
        await peer.close()
    finally:
        await upgrade._node.stop()
        await balancer.remove()

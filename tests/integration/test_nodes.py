"""The nodes on the admin port: their description, and a drain that moves clients to the other node and is undone."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.aio import aio, until
from tests.support.native_client import NativeDoor
from tests.support.server import SECRET, ServerProcess, environment

DOOR = NativeDoor()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[list[ServerProcess]]:
    prefix, folder = "nodes" + secrets.token_hex(3), tmp_path_factory.mktemp("nodes")
    settings = {"valkey_url": valkey_url, "valkey_prefix": prefix, "drain_seconds": 0}
    pair = [ServerProcess(folder / name, node_id=name, **settings) for name in ("n1", "n2")]
    for server in pair:
        server.start()
    yield pair
    for server in pair:
        server.stop()
        server.assert_quiet()


async def node(server: ServerProcess, name: str) -> dict[str, Any]:
    status, answer = await server.push("GET", "/api/v1/nodes")
    assert status == 200 and answer["missing"] == []
    found: dict[str, Any] = next(one for one in answer["nodes"] if one["node"] == name)
    return found


async def checks_say(server: ServerProcess, name: str) -> dict[str, str]:
    """Return the failing checks of a node."""
    return {check["name"]: check["why"] for check in (await node(server, name))["checks"] if not check["ok"]}


@aio
async def test_any_node_describes_all_nodes(servers: list[ServerProcess]) -> None:
    one, two = servers
    token = one.token("ann", "agent", "red")
    peer = await DOOR.open(two.address, "/tickets", {"token": token})
    for asked in servers:
        status, answer = await asked.push("GET", "/api/v1/nodes")
        assert status == 200 and [found["node"] for found in answer["nodes"]] == ["n1", "n2"]
        assert [found["leads"] for found in answer["nodes"]].count(True) == 1
        first, second = answer["nodes"]
        assert first["connections"] == {} and second["connections"] == {"websocket": 1}
        assert second["sockets"]["/tickets"] == 1 and second["rooms"] == 3 and second["drain"] is None
        assert first["hears"] and second["hears"] and second["uptimeSeconds"] >= 0
        assert second["incarnation"].startswith("n2.")
        assert 0 < second["openFiles"] < second["maxFiles"]
        _, ready = await two.push("GET", "/readyz", token=None)
        assert second["checks"] == ready["checks"] and len(ready["checks"]) >= 5
    await peer.close()


@aio
async def test_a_drained_node_disconnects_its_clients_and_accepts_them_after_an_undrain(
    servers: list[ServerProcess],
) -> None:
    one, two = servers
    token = one.token("ann", "agent", "red")
    peers = [await DOOR.open(two.address, "/tickets", {"token": token}) for _ in range(4)]
    order = {"overSeconds": 1, "reason": "new kernel"}
    dry = {**order, "dryRun": True}
    assert await one.push("POST", "/api/v1/nodes/n2/drain", dry) == (200, {"node": "n2", "count": 4})
    assert await one.push("POST", "/api/v1/nodes/n1/drain", dry) == (200, {"node": "n1", "count": 0})
    assert (await one.push("POST", "/api/v1/nodes/n9/drain", dry))[0] == 404
    assert (await node(one, "n2"))["drain"] is None and all(peer.connected for peer in peers)
    assert await one.push("POST", "/api/v1/nodes/n2/drain", order) == (200, {"node": "n2"})
    await asyncio.wait_for(asyncio.gather(*(peer.gone() for peer in peers)), 5)
    async with asyncio.timeout(5):
        while not (drain := (await node(one, "n2"))["drain"])["done"]:
            assert drain["overSeconds"] == 1
            await asyncio.sleep(0.05)
    assert (drain["sentAway"], drain["left"]) == (4, 0)
    status, ready = await two.push("GET", "/readyz", token=None)
    assert status == 503 and {"name": "drain", "ok": False, "why": "this node is draining"} in ready["checks"]

    async def told() -> bool:
        return await checks_say(one, "n2") == {"drain": "this node is draining"}

    await until(told, "the node's checks, at most a second old")
    with pytest.raises(Exception, match="503"):
        await DOOR.open(two.address, "/tickets", {"token": token})
    said = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "insightdesk_rt", "status", "--admin-port", str(one.admin_port)],
        env=environment({"jwt_secret": SECRET}),
        cwd=one.folder,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert said.returncode == 0 and said.stderr == ""
    n1, n2 = said.stdout.splitlines()[-2:]
    assert n1.startswith("n1 ") and n2.startswith("n2 ") and n2.endswith("drained") and "drain" not in n1

    assert await one.push("POST", "/api/v1/nodes/n2/undrain", {"reason": "done"}) == (200, {"node": "n2"})
    assert (await node(one, "n2"))["drain"] is None
    back = await DOOR.open(two.address, "/tickets", {"token": token})
    await back.close()


@aio
async def test_wrong_requests_and_requests_without_permission_are_refused(servers: list[ServerProcess]) -> None:
    one, _ = servers
    agent = one.token("ann", "agent", "red")
    for method, path in (("GET", "/nodes"), ("POST", "/nodes/n1/drain"), ("POST", "/nodes/n1/undrain")):
        body = {} if method == "POST" else None
        assert (await one.push(method, "/api/v1" + path, body, token=None))[0] == 401
        assert (await one.push(method, "/api/v1" + path, body, token=agent))[0] == 403
    order = {"overSeconds": 0, "reason": "x"}
    assert (await one.push("POST", "/api/v1/nodes/n9/drain", order))[1]["error"]["code"] == "NOT_FOUND"
    for wrong, field in (
        ({"overSeconds": -1, "reason": "x"}, "overSeconds"),
        ({"overSeconds": 3601, "reason": "x"}, "overSeconds"),
        ({"overSeconds": 1, "reason": ""}, "reason"),
        ({"overSeconds": 1}, "reason"),
        ({"overSeconds": 1, "reason": "x", "more": 1}, "more"),
    ):
        status, answer = await one.push("POST", "/api/v1/nodes/n1/drain", wrong)
        assert (status, answer["error"]["field"]) == (400, field)


@aio
async def test_access_is_changed_once_a_killed_node_is_declared_dead(servers: list[ServerProcess]) -> None:
    """Regression: until the dead node's lease had ended, the change was refused, with the store as the reason."""
    one, two = servers
    ticket = {"teamId": "red", "requesterId": "mia"}
    assert (await two.push("PUT", "/api/v1/tickets/42", ticket))[0] == 201
    peer = await DOOR.open(two.address, "/tickets", {"token": two.token("ann", "agent", "red")})
    await peer.ok("ticket:subscribe", {"ticketId": "42"})
    one.kill()
    status, answer = await two.push("PUT", "/api/v1/tickets/42", {"teamId": "blue"})
    assert status == 200, answer
    assert (await peer.expect("ticket:unsubscribed"))["reason"] == "access"
    await peer.close()

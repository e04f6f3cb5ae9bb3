"""`--workers`: several processes on one port act as one server, survive each other's death, and end together."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_process import children, ports, refused, wait_gone
from tests.support.aio import aio, until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.node_client import NodeDoor, NodeProcess, why_not
from tests.support.server import ServerProcess, environment, free_port

DOOR = NativeDoor()


class Workers(ServerProcess):
    """A server of three processes; its admin port is the first one's."""

    def __init__(self, folder: Path, **settings: object) -> None:
        super().__init__(folder, workers=3, node_id="n1", **settings)
        self.admin_port = free_port(in_a_row=3)

    def pids(self) -> list[int]:
        """Return the workers' process ids, without Valkey's."""
        return [pid for pid in children(self.pid) if b"valkey" not in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def wait_ready(self, worker: int) -> None:
        end = time.monotonic() + 15
        probe = ServerProcess(self.folder)
        probe.admin_port = self.admin_port + worker - 1
        while not probe._ready():
            assert time.monotonic() < end, self.last_words()
            time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Workers]:
    server = Workers(tmp_path, drain_seconds=1, presence_grace_ms=200)
    server.start()
    for worker in (1, 2, 3):
        server.wait_ready(worker)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


async def node_of(server: Workers) -> dict[str, int]:
    """Return the connections each worker has."""
    status, answer = await server.push("GET", "/api/v1/nodes")
    assert status == 200 and answer["missing"] == [], answer
    return {node["node"]: sum(node["connections"].values()) for node in answer["nodes"]}


async def sees(server: Workers, name: str) -> bool:
    """Return whether the first worker knows all living workers, including the one of this name."""
    _, answer = await server.push("GET", "/api/v1/nodes")
    return not answer["missing"] and name in [node["node"] for node in answer["nodes"]]


@aio
async def test_workers_share_a_port_and_act_as_one_server(server: Workers) -> None:
    if reason := why_not():
        pytest.skip(reason)
    node = NodeProcess()
    peers: list[Peer] = []
    try:
        for door in (NodeDoor(node, "js-polling", ["polling"]), NodeDoor(node, "js", ["polling", "websocket"]), DOOR):
            for n in range(6):
                token = server.token(f"a{n}", "agent", "red")
                peers.append(await door.open(server.address, "/tickets", {"token": token}))
        spread = await node_of(server)
        assert sorted(spread) == ["n1-1", "n1-2", "n1-3"] and sum(spread.values()) == 18
        assert max(spread.values()) < 18
        assert (await server.push("PUT", "/api/v1/tickets/t1", {"teamId": "red"}))[0] == 201
        for peer in peers:
            await peer.ok("ticket:subscribe", {"ticketId": "t1"})
        for n in range(5):
            await server.push("PUT", "/api/v1/tickets/t1", {"subject": str(n)})
        for peer in peers:
            assert [(await peer.expect("ticket:updated"))["version"] for _ in range(5)] == [2, 3, 4, 5, 6]
    finally:
        for peer in peers:
            await peer.close()
        await node.stop()
    assert server.stop() == 0
    server.assert_quiet()
    log = server.log()
    assert all(f"node=n1-{worker} msg=stopped" in log for worker in (1, 2, 3))
    assert "nodes n1-1 to n1-3" in log and f":{server.admin_port}…{server.admin_port + 2}/   the console" in log


@aio
async def test_a_worker_that_dies_is_started_again_and_its_clients_resume(server: Workers) -> None:
    if reason := why_not():
        pytest.skip(reason)
    auth = {"token": server.token("ann", "agent", "red")}
    assert (await server.push("PUT", "/api/v1/tickets/t1", {"teamId": "red"}))[0] == 201
    node = NodeProcess()
    peers: list[Peer] = []
    try:
        stock = NodeDoor(node, "js", ["websocket"])
        while (await node_of(server))["n1-2"] < 3 or len(peers) < 9:
            assert len(peers) < 90, await node_of(server)
            peers.append(await stock.open(server.address, "/tickets", auth, reconnection=True))
        for peer in peers:
            await peer.ok("ticket:subscribe", {"ticketId": "t1"})
        before, victims = len(peers), (await node_of(server))["n1-2"]
        victim = server.pids()[1]
        os.kill(victim, signal.SIGKILL)
        assert (await server.push("PUT", "/api/v1/tickets/t1", {"subject": "meanwhile"}))[0] == 200
        for peer in peers:
            assert (await peer.expect("ticket:updated"))["changes"] == {"subject": ["", "meanwhile"]}
        await until(lambda: all(peer.connected for peer in peers), "all clients are back")
        back = [peer for peer in peers if peer.connects > 1]
        assert len(back) == victims and all(peer.recovered for peer in back), [str(peer) for peer in back]

        await until(lambda: len(set(server.pids()) - {victim}) == 3, "three again")
        pids = server.pids()
        await asyncio.to_thread(server.wait_ready, 2)
        assert "a worker died" in server.log() and "code=-9" in server.log()
        await until(lambda: sees(server, "n1-2"), "the other workers know the new one")
        while (await node_of(server))["n1-2"] < 1:
            assert len(peers) < before + 60, await node_of(server)
            peers.append(await stock.open(server.address, "/tickets", auth))
            await peers[-1].ok("ticket:subscribe", {"ticketId": "t1"})
    finally:
        for peer in peers:
            await peer.close()
        await node.stop()
    assert server.stop() == 0
    wait_gone(pids)


def test_all_end_with_their_supervisor(server: Workers) -> None:
    everything = children(server.pid)
    server.kill()
    wait_gone(everything)


def test_a_second_signal_ends_them_at_once(tmp_path: Path) -> None:
    server = Workers(tmp_path, drain_seconds=60)
    server.start()
    everything = children(server.pid)

    async def with_clients() -> None:
        token = server.token("ann", "agent")
        peers = [await DOOR.open(server.address, "/tickets", {"token": token}) for _ in range(60)]
        server.send(signal.SIGTERM)
        await asyncio.sleep(0.3)
        server.send(signal.SIGINT)
        for peer in peers:
            await peer.close()

    asyncio.run(with_clients())
    began = time.monotonic()
    assert server.ended() == 0
    assert time.monotonic() - began < 10 and "msg=drained" not in server.log()
    wait_gone(everything)


def test_a_configuration_that_cannot_work_is_reported_in_one_line(tmp_path: Path, server: Workers) -> None:
    folder = ["--data-dir", str(tmp_path / "other"), "--workers", "2"]
    assert f"port = {server.port}: cannot listen" in refused(*folder, *ports(port=server.port))
    assert f"admin_port = {server.admin_port}: cannot listen" in refused(*folder, *ports(admin_port=server.admin_port))
    assert "demo: " in refused(*folder, "--demo") or "demo =" in refused(*folder, "--demo")
    assert "nothing listens there" in refused(*folder, *ports(), "--valkey-url", "valkey://127.0.0.1:1")
    assert "relay_address" in refused(*folder, *ports(), "--relay-address", "0.0.0.0")
    assert "workers" in refused(*folder, "--admin-port", "65535")


def test_ctrl_c_in_a_terminal_counts_once(tmp_path: Path) -> None:
    """The whole process group receives the signal; the workers still drain."""
    server = Workers(tmp_path, drain_seconds=1)
    with server.log_file.open("ab") as log:
        process = subprocess.Popen(
            [*server.command()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(server.settings),
            start_new_session=True,
        )
    server.process = process
    for worker in (1, 2, 3):
        server.wait_ready(worker)
    os.killpg(process.pid, signal.SIGINT)
    assert server.ended() == 0
    assert server.log().count("msg=stopped") == 4 and "Traceback" not in server.log()

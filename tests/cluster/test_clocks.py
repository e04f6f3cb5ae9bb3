"""A node whose clock is wrong and jumps: nothing ends too early, no node is declared dead, events arrive in order."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.cluster.nodes import DOOR, Cluster
from tests.support.aio import aio
from tests.support.clients import Peer
from tests.support.clocked import ClockedServer
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

HOUR_S = 3600

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None and "cc" not in os.environ.get("INSIGHTDESK_RT_REQUIRE", "").split(","),
    reason="no C compiler: apt-get install gcc libc6-dev",
)


@needs_compiler
@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_by_an_hour_changes_nothing(tmp_path: Path, ahead_s: int) -> None:
    """Leases, log and presence use Valkey's clock, timers the monotonic clock, and tokens the wall clock."""
    with OwnValkey() as valkey:
        common = {"valkey_url": valkey.url, "drain_seconds": 0, "presence_grace_ms": 500}
        right = ServerProcess(tmp_path / "n1", node_id="n1", **common)
        wrong = ClockedServer(tmp_path / "n2", node_id="n2", **common)
        try:
            for node in (right, wrong):
                node.start()
            aio(lambda: story(Cluster([right, wrong], valkey), wrong, ahead_s), deadline_s=90)()
            for node in (right, wrong):
                assert node.stop() == 0
                node.assert_quiet("this machine's clock is")
            assert "this machine's clock is" in wrong.log() and "this machine's clock is" not in right.log()
        finally:
            for node in (right, wrong):
                if node.process is not None and node.process.poll() is None:
                    node.kill()


async def story(c: Cluster, wrong: ClockedServer, ahead_s: int) -> None:
    try:
        await c.push(0, "/tickets/t", {"teamId": f"red-{c.tag}", "subject": "0"})
        watcher = await c.join(0, "/presence", "watcher")
        here = [await c.join(node, "/tickets", name) for node, name in ((0, "ann"), (1, "bob"))]
        online = await c.join(1, "/presence", "bob")
        lost = await DOOR.open(c.n[1].address, "/tickets", {"token": c.token("eve")}, cable=True)
        c.peers.append(lost)
        for peer in (*here, lost):
            await peer.ok("ticket:subscribe", {"ticketId": "t"})
        assert (await watcher.expect("presence:update", {"userId": c.user("bob")}))["status"] == "online"
        watcher.forget()
        wrong.set_clock(ahead_s)
        await goes_on(c, here, 0)
        await asyncio.sleep(6)  # longer than a lease and the time for which a dead node's users stay online
        wrong.set_clock(0)
        await goes_on(c, here, 6)
        assert watcher.pending("presence:update", {"userId": c.user("bob")}) == []
        assert online.ended is None and lost.ended is None
        await online.ok("presence:status", {"status": "busy"})
        assert (await watcher.expect("presence:update", {"userId": c.user("bob")}))["status"] == "busy"
        _, answer = await c.n[0].push("GET", "/api/v1/nodes")
        assert {node["node"] for node in answer["nodes"]} == {"n1", "n2"} and not answer["missing"]
    finally:
        await c.close()


async def goes_on(c: Cluster, here: list[Peer], said: int) -> None:
    """All clients receive all events in one order; typing stops after five seconds, not before."""
    ann, bob = here
    await bob.ok("ticket:typing", {"ticketId": "t"})
    began = time.monotonic()
    await ann.expect("ticket:typing")
    for number in range(said, said + 6):
        await c.push(0, "/tickets/t", {"subject": f"{number + 1}"})
    for peer in here:
        told = [(await peer.expect("ticket:updated"))["changes"]["subject"] for _ in range(6)]
        assert told == [[f"{number}", f"{number + 1}"] for number in range(said, said + 6)]
    await ann.expect("ticket:stopTyping", deadline_s=20)
    assert time.monotonic() - began > 4.5

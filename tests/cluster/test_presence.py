"""Presence, viewers and typing over three nodes that die, stop and are replaced: published once and correct."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.cluster.nodes import Cluster, cluster, three_nodes
from tests.support.aio import aio
from tests.support.clients import Peer
from tests.support.node_client import NodeDoor, NodeProcess, why_not
from tests.support.round_robin import RoundRobin

GONE_WITHIN_S = 15.0
minutes = functools.partial(aio, deadline_s=100)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    with three_nodes(tmp_path_factory.mktemp("presence"), presence_grace_ms=500) as started:
        yield started


@pytest.fixture
def started(shared: list[Any]) -> Iterator[list[Any]]:
    """Start all nodes before each test, whatever the previous one did to them."""
    for node in shared[0]:
        if node.process.poll() is not None:
            node.start()
    yield shared


def of(c: Cluster, name: str) -> dict[str, str]:
    return {"userId": c.user(name)}


def statuses(peer: Peer, user: dict[str, str]) -> list[str]:
    """Return the events about a user that the peer received and the test has not waited for."""
    return [update["status"] for update in peer.pending("presence:update", user)]


async def told_offline_once(peers: list[Peer], user: dict[str, str], began_s: float) -> None:
    for peer in peers:
        update = await peer.expect("presence:update", user, deadline_s=GONE_WITHIN_S - (time.monotonic() - began_s))
        assert update["status"] == "offline" and update["lastSeen"]


@asynccontextmanager
async def quiet(peers: list[Peer], *users: dict[str, str]) -> AsyncIterator[None]:
    """Check that no event about these users is published while the block runs."""
    for peer in peers:
        peer.forget()
    yield
    await asyncio.sleep(1)
    for peer in peers:
        for user in users:
            assert statuses(peer, user) == [], (str(peer), user)


@minutes
async def test_a_user_with_devices_on_all_nodes_counts_once(started: list[Any]) -> None:
    async with cluster(started) as c:
        watchers = [await c.join(node, "/presence", f"watcher{node}") for node in range(3)]
        devices = [await c.join(node, "/presence", "bob") for node in (0, 1, 2, 1)]
        for watcher in watchers:
            assert (await watcher.expect("presence:update", of(c, "bob")))["status"] == "online"
        async with quiet(watchers, of(c, "bob")):
            for device in devices[:3]:
                await device.disconnect()
        await devices[3].disconnect()
        for watcher in watchers:
            assert (await watcher.expect("presence:update", of(c, "bob")))["status"] == "offline"
        await asyncio.sleep(1)
        assert all(statuses(watcher, of(c, "bob")) == [] for watcher in watchers)


@minutes
async def test_users_of_a_killed_node_go_offline_once_and_others_stay_online(started: list[Any]) -> None:
    async with cluster(started) as c:
        team = [await c.join(node, "/presence", f"watcher{node}") for node in (0, 2)]
        other = await c.join(0, "/presence", "dan", team="blue")
        await other.ok("presence:subscribe", {"userIds": [c.user("bob"), c.user("carol")]})
        await c.join(1, "/presence", "bob")
        for node in (1, 2):
            await c.join(node, "/presence", "carol")
        for watcher in (*team, other):
            for name in ("bob", "carol"):
                assert (await watcher.expect("presence:update", of(c, name)))["status"] == "online"
        async with quiet([*team, other], of(c, "carol")):
            began_s = time.monotonic()
            c.n[1].kill()
            await told_offline_once([*team, other], of(c, "bob"), began_s)
            print(f"offline {time.monotonic() - began_s:.1f} s after kill -9")
        for watcher in (*team, other):
            assert statuses(watcher, of(c, "bob")) == [], "told twice"
        async with quiet(team, of(c, "carol")):
            c.n[1].start()
            await asyncio.sleep(1)


@minutes
async def test_users_go_offline_even_if_the_node_that_cleans_up_dies(started: list[Any]) -> None:
    """One survivor is killed while it cleans up; the last one finishes, and nothing is published twice."""
    async with cluster(started) as c:
        watcher = await c.join(0, "/presence", "watcher")
        names = [f"user{n}" for n in range(60)]
        for name in names:
            await c.join(1, "/presence", name)
        for name in names:
            assert (await watcher.expect("presence:update", of(c, name)))["status"] == "online"
        began_s = time.monotonic()
        c.n[1].kill()
        await watcher.expect("presence:update", {"status": "offline"}, deadline_s=GONE_WITHIN_S)
        c.n[2].kill()
        for _ in range(100):
            gone = {update["userId"] for update in watcher.pending("presence:update", {"status": "offline"})}
            if len(gone) >= len(names) - 1:  # the test has waited for the first
                break
            await asyncio.sleep(0.1)
        assert len(gone) == len(names) - 1, f"{len(names) - 1 - len(gone)} ghosts"
        assert time.monotonic() - began_s < 2 * GONE_WITHIN_S
        await asyncio.sleep(2)
        offline = [update["userId"] for update in watcher.pending("presence:update", {"status": "offline"})]
        assert len(offline) == len(set(offline)) == len(names) - 1, "told twice"
        await watcher.ok("presence:subscribe", {"userIds": [c.user(name) for name in names]})
        [entries] = watcher.pending("presence:list") or [await watcher.expect("presence:list")]
        assert {entry["status"] for entry in entries} == {"offline"}


@minutes
async def test_a_node_that_was_stopped_for_half_a_minute_repairs_itself(started: list[Any]) -> None:
    async with cluster(started) as c:
        watcher = await c.join(0, "/presence", "watcher")
        bob = await c.join(1, "/presence", "bob")
        tickets = await c.join(1, "/tickets", "bob")
        ticket = f"t-{c.tag}"
        await c.push(0, f"/tickets/{ticket}", {"teamId": f"red-{c.tag}"})
        await tickets.ok("ticket:subscribe", {"ticketId": ticket})
        assert (await watcher.expect("presence:update", of(c, "bob")))["status"] == "online"
        began_s = time.monotonic()
        c.n[1].send(signal.SIGSTOP)
        await told_offline_once([watcher], of(c, "bob"), began_s)
        for n in range(10):
            await c.push((0, 2)[n % 2], f"/tickets/{ticket}", {"subject": str(n)})
        await asyncio.sleep(max(began_s + 30 - time.monotonic(), 0))
        c.n[1].send(signal.SIGCONT)
        assert (await watcher.expect("presence:update", of(c, "bob"), deadline_s=10))["status"] == "online"
        versions = [(await tickets.expect("ticket:updated", deadline_s=10))["version"] for _ in range(10)]
        assert versions == list(range(2, 12))
        await c.push(1, f"/tickets/{ticket}", {"subject": "and on"})
        assert (await tickets.expect("ticket:updated"))["version"] == 12
        assert bob.connected and tickets.connected
        await asyncio.sleep(3)
        assert statuses(watcher, of(c, "bob")) == [], "told twice"
        assert "declared dead while stopped" in c.n[1].log()
        await bob.disconnect()
        assert (await watcher.expect("presence:update", of(c, "bob")))["status"] == "offline"


@minutes
async def test_a_chosen_status_outlives_the_node_it_was_chosen_on(started: list[Any]) -> None:
    async with cluster(started) as c:
        watcher = await c.join(0, "/presence", "watcher")
        bob = await c.join(1, "/presence", "bob")
        assert (await watcher.expect("presence:update", of(c, "bob")))["status"] == "online"
        await bob.ok("presence:status", {"status": "busy"})
        assert (await watcher.expect("presence:update", of(c, "bob")))["status"] == "busy"
        c.n[1].kill()
        assert (await watcher.expect("presence:update", of(c, "bob"), GONE_WITHIN_S))["status"] == "offline"
        await c.join(2, "/presence", "bob")
        assert (await watcher.expect("presence:update", of(c, "bob")))["status"] == "busy"


@minutes
async def test_viewers_and_typing_users_of_a_killed_node_are_removed(started: list[Any]) -> None:
    async with cluster(started) as c:
        ticket = f"t-{c.tag}"
        await c.push(0, f"/tickets/{ticket}", {"teamId": f"red-{c.tag}"})
        ann, bob = await c.join(0, "/tickets", "ann"), await c.join(1, "/tickets", "bob")
        for peer in (ann, bob):
            await peer.ok("ticket:subscribe", {"ticketId": ticket})
        await ann.expect("ticket:viewers", looking(c, "ann", "bob"))
        await bob.ok("ticket:typing", {"ticketId": ticket})
        await ann.expect("ticket:typing")
        c.n[1].kill()
        await ann.expect("ticket:viewers", looking(c, "ann"), GONE_WITHIN_S)
        await ann.expect("ticket:stopTyping", None, GONE_WITHIN_S)
        await asyncio.sleep(1)
        assert len(ann.pending("ticket:stopTyping")) <= 1, "a second change has no effect, a third would be wrong"
        late = await c.join(2, "/tickets", "carol")
        opened = await late.ok("ticket:subscribe", {"ticketId": ticket})
        assert opened["typing"] == [] and sorted(v["user"]["name"] for v in opened["viewers"]) == ["ann", "carol"]


def looking(c: Cluster, *names: str) -> Callable[[dict[str, Any]], bool]:
    wanted = sorted(c.user(name) for name in names)
    return lambda seen: sorted(viewer["user"]["id"] for viewer in seen["viewers"]) == wanted


@minutes
async def test_chats_go_on_when_the_agents_node_is_killed(started: list[Any]) -> None:
    """An agent with another connection keeps the conversation, with the messages sent on the dead node.

    Typing there ends.
    """
    async with cluster(started) as c:
        mia = await c.join(0, "/chat", "mia", "customer")
        bob, second = await c.join(1, "/chat", "bob"), await c.join(2, "/chat", "bob")
        chat = {"conversationId": (await mia.ok("chat:start", {"text": "hello", "clientId": "1"}))["conversationId"]}
        await bob.ok("chat:accept", chat)
        await bob.ok("chat:message", {**chat, "text": "from the node that dies", "clientId": "2"})
        await mia.expect("chat:message", lambda said: said["text"].startswith("from the node"))
        await bob.ok("chat:typing", chat)
        await mia.expect("chat:typing")
        c.n[1].kill()
        opened = await second.ok("chat:join", chat)
        assert [message["text"] for message in opened["messages"]][-2:] == ["hello", "from the node that dies"]
        await second.ok("chat:message", {**chat, "text": "from the other", "clientId": "3"})
        await mia.expect("chat:message", lambda said: said["text"] == "from the other")
        await mia.ok("chat:message", {**chat, "text": "fine", "clientId": "4"})
        await second.expect("chat:message", lambda said: said["text"] == "fine")
        await mia.expect("chat:stopTyping", None, GONE_WITHIN_S)
        await asyncio.sleep(2)
        assert mia.pending("chat:stopTyping") == []
        assert (await second.ok("chat:join", chat))["conversation"]["state"] == "active"


@minutes
async def test_users_stay_online_when_valkey_is_killed_or_emptied(started: list[Any]) -> None:
    async with cluster(started) as c:
        watcher = await c.join(0, "/presence", "watcher")
        for node in (1, 2):
            await c.join(node, "/presence", f"bob{node}")
        for node in (1, 2):
            assert (await watcher.expect("presence:update", of(c, f"bob{node}")))["status"] == "online"
        async with quiet([watcher], of(c, "bob1"), of(c, "bob2")):
            c.valkey.kill()
            await asyncio.sleep(1)
            c.valkey.start()
            await asyncio.sleep(6)
        c.valkey("FLUSHALL")  # Valkey has lost its data: users are published as online again, and never as offline
        await asyncio.sleep(6)
        late = await c.join(2, "/presence", "late")
        await late.ok("presence:subscribe", {"userIds": [c.user("bob1"), c.user("bob2")]})
        assert [entry["status"] for entry in await late.expect("presence:list")] == ["online", "online"]
        for node in (1, 2):
            assert set(statuses(watcher, of(c, f"bob{node}"))) <= {"online"}


@minutes
async def test_users_who_reconnect_within_the_grace_stay_online_in_a_rolling_restart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Stock clients behind a balancer without affinity; every node is stopped and started once."""
    if reason := why_not():
        pytest.skip(reason)
    with three_nodes(tmp_path_factory.mktemp("rolling")) as started:
        async with cluster(started) as c:
            node_process = NodeProcess()
            balancer = RoundRobin([node.address for node in c.n])
            address = ("127.0.0.1", await balancer.lay())
            door = NodeDoor(node_process, "js", ["polling", "websocket"])
            peers: list[Peer] = []
            try:
                for n in range(9):
                    token = {"token": c.token(f"user{n}")}
                    peers.append(await door.open(address, "/presence", token, reconnection=True))
                await asyncio.sleep(1)
                for peer in peers:
                    peer.forget()
                for node in c.n:
                    assert await asyncio.to_thread(node.stop) == 0
                    await asyncio.to_thread(node.start)
                await asyncio.sleep(1)
                for peer in peers:
                    await peer.settled()
                    assert peer.connected and peer.connects >= 2, str(peer)
                # How often depends on the downtime of a node: this balancer keeps sending requests to it.
                connects = [peer.connects for peer in peers]
                await asyncio.sleep(7)  # a grace period that had begun would have ended
                for peer in peers:
                    told = [update for update in peer.pending("presence:update") if update["status"] == "offline"]
                    assert told == [], f"{peer} was told {told}"
                assert [peer.connects for peer in peers] == connects, "once all nodes run, all users stay online"
            finally:
                for peer in peers:
                    await peer.close()
                await node_process.stop()
                await balancer.remove()

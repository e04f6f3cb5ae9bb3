"""A steady flow of events through two real nodes, which a test disturbs, and the judgement on what arrived.

In each namespace one user is connected to both nodes, and one publisher pushes numbered events to that user's room
through the admin ports of both, one after the other. A publisher that is refused with 503 tries again with the same id;
any other refusal fails the test. At the end both clients must have received every number once, in order, on the
connection that they had from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from insightdesk_rt.emitter import AsyncEmitter, Emitter
from insightdesk_rt.engine.cluster.subscription_link import PROBE_S
from insightdesk_rt.engine.errors import RtError
from tests.cluster.nodes import cluster
from tests.support.aio import until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor, NativePeer
from tests.support.server import SECRET, ServerProcess, environment
from tests.support.sse import watching

NAMESPACES = ("/", "/tickets", "/chat", "/notifications", "/presence", "/dashboard")
EVENT = "test:number"
PAUSE_S = 0.02
GIVE_UP_S = 25.0  # a publisher that is refused for so long has lost its event
ARRIVE_S = 20.0


@contextmanager
def two_nodes(folder: Path, **settings: object) -> Iterator[list[ServerProcess]]:
    """Run two nodes with the same settings; both are gone afterwards, and neither has logged a traceback."""
    nodes = [ServerProcess(folder / name, node_id=name, drain_seconds=0, **settings) for name in ("n1", "n2")]
    try:
        for node in nodes:
            node.start()
        yield nodes
        for node in nodes:
            assert "Traceback" not in node.log(), node.log()[-4000:]
            assert "level=error" not in node.log(), node.log()[-4000:]
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()


class Publisher:
    """Pushes numbers to one room, one after the other."""

    def __init__(self, nodes: Sequence[ServerProcess], namespace: str, user: str) -> None:
        self.namespace = namespace
        self.user = user
        self.acknowledged = 0
        self.refusals: Counter[int] = Counter()
        self.by: dict[int, ServerProcess] = {}  # number → the node that acknowledged it
        self.longest_s = 0.0  # how long an event took at most, with its tries
        self._nodes = nodes
        self._stop = False
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._stop = True

    async def _run(self) -> None:
        while not self._stop:
            await self._publish(self.acknowledged + 1)
            self.acknowledged += 1
            await asyncio.sleep(PAUSE_S)

    async def _publish(self, number: int) -> None:
        body = {
            "namespace": self.namespace,
            "event": EVENT,
            "room": f"user:{self.user}",
            "data": {"n": number},
            "id": f"{self.user}-{self.namespace.strip('/')}-{number}",
        }
        began = time.monotonic()
        for attempt in range(10_000):
            node = self._nodes[(number + attempt) % len(self._nodes)]
            status, answer = await node.push("POST", "/api/v1/emit", body)
            if status == 200:
                self.by[number] = node
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                return
            assert status == 503 and answer["error"]["code"] == "UNAVAILABLE", (status, answer)
            self.refusals[status] += 1
            assert time.monotonic() - began < GIVE_UP_S, f"{self.namespace} {number}: {answer}"
            await asyncio.sleep(0.05)


class Flow:
    """The publishers and their clients. Made by `flowing`."""

    def __init__(self, nodes: Sequence[ServerProcess], namespaces: Sequence[str]) -> None:
        self.nodes = nodes
        self.namespaces = namespaces
        self.user = "u-" + secrets.token_hex(3)
        self.peers: dict[str, list[Peer]] = {}
        self.publishers: dict[str, Publisher] = {}

    async def start(self) -> None:
        for node in self.nodes:
            await until(lambda node=node: is_ready(node), "the nodes are ready", 30.0)
        for namespace in self.namespaces:
            token = {"token": self.nodes[0].token(self.user, "admin")}
            self.peers[namespace] = [await NativeDoor().open(node.address, namespace, token) for node in self.nodes]
        for namespace in self.namespaces:
            self.publishers[namespace] = Publisher(self.nodes, namespace, self.user)

    async def more(self, number: int = 10, namespaces: Sequence[str] = ()) -> None:
        """Wait until so many more events were acknowledged in each namespace."""
        wanted = {path: self.publishers[path].acknowledged + number for path in namespaces or self.namespaces}

        def enough() -> bool:
            for publisher in self.publishers.values():
                if publisher.task.done():
                    publisher.task.result()
            return all(self.publishers[path].acknowledged >= least for path, least in wanted.items())

        await until(enough, f"{number} more events in each of {tuple(wanted)}", 40.0)

    async def judge(self, across_nodes: bool = True) -> None:
        """Stop the publishers, and check what arrived.

        `across_nodes=False`: the order is that of each publishing node. An asynchronous failover discards what only the
        former primary had. Each node sends its own events again, so those of two nodes may come in another order.
        """
        for publisher in self.publishers.values():
            publisher.stop()
        await asyncio.gather(*(publisher.task for publisher in self.publishers.values()))
        for namespace, publisher in self.publishers.items():
            expected = list(range(1, publisher.acknowledged + 1))
            for peer in self.peers[namespace]:
                await until(lambda peer=peer, wanted=expected: len(numbers(peer)) >= len(wanted), str(peer), ARRIVE_S)
        await asyncio.sleep(0.3)  # a double comes late
        for namespace, publisher in self.publishers.items():
            expected = list(range(1, publisher.acknowledged + 1))
            for number, peer in enumerate(self.peers[namespace]):
                where = f"{namespace} on n{number + 1}"
                for node in [None] if across_nodes else self.nodes:
                    mine = [n for n in expected if node is None or publisher.by[n] is node]
                    got = [n for n in numbers(peer) if node is None or publisher.by.get(n, node) is node]
                    assert got == mine, f"{where}: {wrong(got, mine)}"
                assert peer.connected and peer.connects == 1, (
                    f"{namespace}: the client lost its connection: {peer.ended}"
                )

    async def close(self) -> None:
        for publisher in self.publishers.values():
            publisher.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, AssertionError):
                await publisher.task
        for peers in self.peers.values():
            for peer in peers:
                await peer.close()


@asynccontextmanager
async def flowing(
    nodes: Sequence[ServerProcess], namespaces: Sequence[str] = NAMESPACES, *, across_nodes: bool = True
) -> AsyncIterator[Flow]:
    """Yield a flow that runs; it is judged at the end of the block."""
    flow = Flow(nodes, namespaces)
    try:
        await flow.start()
        await flow.more(5)
        yield flow
        await flow.judge(across_nodes)
    finally:
        await flow.close()


async def is_ready(node: ServerProcess) -> bool:
    status, _ = await node.push("GET", "/readyz")
    return status == 200


def numbers(peer: Peer) -> list[int]:
    return [received.data["n"] for received in peer.events if received.event == EVENT]


def wrong(got: list[int], expected: list[int]) -> dict[str, Any]:
    counts = Counter(got)
    return {
        "missing": sorted(set(expected) - set(got))[:20],
        "doubled": sorted(number for number, times in counts.items() if times > 1)[:20],
        "out of order": [pair for pair in itertools.pairwise(got) if pair[0] > pair[1]][:20],
    }


async def in_thread(work: Any, *args: Any) -> Any:
    """Run what waits for processes while the loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)


async def resumes(nodes: Sequence[ServerProcess]) -> None:
    """Let a client miss two events, and come back on the other node."""
    user, token = "resumer", {"token": nodes[0].token("resumer", "admin")}
    peer = await NativeDoor().open(nodes[0].address, "/tickets", token)
    assert isinstance(peer, NativePeer)
    try:
        await emit(nodes[0], user, 1)
        await peer.expect(EVENT, {"n": 1})
        (first,) = [received for received in peer.events if received.event == EVENT]
        session = {"pid": peer.pid, "offset": first.extra[0]}
    finally:
        await peer.close()
    await emit(nodes[0], user, 2)
    await emit(nodes[1], user, 3)
    back = await NativeDoor().open(nodes[1].address, "/tickets", {**token, **session})
    try:
        await until(lambda: numbers(back) == [2, 3], "what was missed")
        assert back.recovered
    finally:
        await back.close()


async def emit(node: ServerProcess, user: str, number: int, **more: Any) -> None:
    room = {} if "rooms" in more else {"room": f"user:{user}"}
    body = {"namespace": "/tickets", "event": EVENT, **room, "data": {"n": number}, **more}
    status, answer = await node.push("POST", "/api/v1/emit", body)
    assert status == 200, answer


async def emitters(nodes: Sequence[ServerProcess], url: str, prefix: str, fail_over: Callable[[], Any]) -> None:
    """Publish with both emitters, before and after a failover; every event must arrive once."""
    user = "reader"
    peer = await NativeDoor().open(nodes[1].address, "/tickets", {"token": nodes[0].token(user, "admin")})
    try:
        async with AsyncEmitter(url, prefix) as asynchronous:
            with Emitter(url, prefix) as blocking:
                for number in range(1, 11):
                    if number == 5:
                        await in_thread(fail_over)
                    target = (asynchronous if number % 2 else blocking).of("/tickets").to(f"user:{user}")
                    await emitted(target, number)
        await until(lambda: numbers(peer) == list(range(1, 11)), f"{peer}")
    finally:
        await peer.close()


async def emitted(target: Any, number: int) -> None:
    """Emit with the same id until it is acknowledged, as a back end does."""
    for _ in range(100):
        try:
            answer = await in_thread(lambda: target.emit(EVENT, {"n": number}, id=f"emitted-{number}"))
            if asyncio.iscoroutine(answer):
                await answer
            return
        except RtError as refused:
            assert refused.code == "UNAVAILABLE"
            await asyncio.sleep(0.1)
    raise AssertionError(f"event {number} was never acknowledged")


async def watched(nodes: Sequence[ServerProcess]) -> None:
    """Watch live events on one node while the other publishes: logged and volatile ones, once each, of one room."""
    async with watching(nodes[0], "events?room=user:seen") as seen, watching(nodes[0], "events") as everything:
        await asyncio.sleep(2 * PROBE_S)  # the nodes' next probes find that somebody watches volatile events
        await emit(nodes[1], "seen", 1, rooms=["user:seen", "user:too"])
        await emit(nodes[1], "unseen", 2)
        await emit(nodes[1], "seen", 3, volatile=True)
        await emit(nodes[1], "seen", 4, event="test:end")
        await seen.expect("event", event="test:end")
        await everything.expect("event", event="test:end")
        names = [data["event"] for kind, data in seen.seen if kind == "event"]
        assert names == [EVENT, EVENT, "test:end"]
        mine = [data for kind, data in everything.seen if kind == "event" and data["event"] in (EVENT, "test:end")]
        assert len(mine) == 4


async def check_says(folder: Path, url: str, **settings: object) -> str:
    """Return what `insightdesk-rt check` prints of a Valkey."""
    given = {"valkey_url": url, "data_dir": str(folder), "jwt_secret": SECRET, **settings}
    command = [sys.executable, "-m", "insightdesk_rt", "check"]
    ended = await in_thread(
        functools.partial(
            subprocess.run, command, env=environment(given), capture_output=True, text=True, timeout=30, check=False
        )
    )
    text: str = ended.stdout + ended.stderr
    assert "Traceback" not in text, text
    return text


async def features_work(nodes: list[ServerProcess], valkey: Any, fail_over: Callable[[], Any]) -> None:
    """Use each feature across both nodes, before and after a failover: facts and memberships must be there."""
    async with cluster([nodes, valkey]) as desk:
        mia = await desk.join(0, "/chat", "mia", "customer")
        bob = await desk.join(1, "/chat", "bob")
        watcher = await desk.join(0, "/presence", "watcher")
        reader = await desk.join(1, "/tickets", "reader")
        bell = await desk.join(1, "/notifications", "reader")
        started = await mia.ok("chat:start", {"text": "hello", "clientId": "1"})
        chat = {"conversationId": started["conversationId"]}
        await bob.ok("chat:accept", chat)
        ticket = f"t-{desk.tag}"
        await desk.push(0, f"/tickets/{ticket}", {"subject": "before"})
        await reader.ok("ticket:subscribe", {"ticketId": ticket})
        await in_thread(fail_over)
        for node in nodes:
            await until(lambda node=node: is_ready(node), "ready after the failover", 30.0)
        await mia.ok("chat:message", {**chat, "text": "after", "clientId": "2"})
        await bob.expect("chat:message", lambda said: said["text"] == "after")
        await desk.push(0, f"/tickets/{ticket}", {"subject": "after"})
        await reader.expect("ticket:updated")
        note = {"userId": desk.user("reader"), "type": "test", "title": "after"}
        await desk.push(0, "/notifications", note, "POST")
        await bell.expect("notification", {"title": "after"})
        late = await desk.join(1, "/presence", "late")
        await watcher.expect("presence:update", {"userId": desk.user("late"), "status": "online"})
        status, found = await nodes[0].push("GET", f"/api/v1/connections?user={desk.user('late')}")
        assert status == 200 and found["total"] == 1 and found["missing"] == [], found
        order = {"reason": "a test of node calls"}
        status, done = await nodes[0].push("POST", f"/api/v1/users/{desk.user('late')}/disconnect", order)
        assert (status, done) == (200, {"count": 1, "missing": []})
        await until(lambda: not late.connected, "the other node has disconnected the user")

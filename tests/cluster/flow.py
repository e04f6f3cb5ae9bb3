"""A steady flow of events through two real nodes, which a test disturbs, and the judgement on what arrived.

In each namespace one user is connected to both nodes, and one publisher pushes numbered events to that user's room
through the admin ports of both, one after the other. A publisher that is refused with 503 tries again with the same id;
any other refusal fails the test. At the end both clients must have received every number once, in order, on the
connection that they had from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.support.aio import until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.server import ServerProcess

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

    async def judge(self) -> None:
        """Stop the publishers, and check what arrived."""
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
                assert numbers(peer) == expected, f"{namespace} on n{number + 1}: {wrong(numbers(peer), expected)}"
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
async def flowing(nodes: Sequence[ServerProcess], namespaces: Sequence[str] = NAMESPACES) -> AsyncIterator[Flow]:
    """Yield a flow that runs; it is judged at the end of the block."""
    flow = Flow(nodes, namespaces)
    try:
        await flow.start()
        await flow.more(5)
        yield flow
        await flow.judge()
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

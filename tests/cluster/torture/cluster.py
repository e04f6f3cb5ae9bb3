"""Three server processes on a Valkey, each behind cables of its own, so that any connection between them can be cut."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import aiohttp

from tests.cluster.torture.stores import PREFIX, SINGLE, STORES, Cables, OneStore
from tests.support.own_valkey import LoopbackValkey
from tests.support.server import ServerProcess

NODES = 3
HEAL_S = 25.0
TEAM = "red"  # the team that may read the tickets


class Node:
    """One server process. `usable` is the result of a balancer's health check."""

    def __init__(self, server: ServerProcess, cables: Cables) -> None:
        self.server = server
        self.cables = cables  # from this node to Valkey
        self.usable = True

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)
        self.usable = True

    async def stop(self) -> None:
        self.usable = False
        await asyncio.to_thread(self.server.stop)

    async def kill(self) -> None:
        self.usable = False
        await asyncio.to_thread(self.server.kill)

    def freeze(self) -> None:
        self.usable = False
        self.server.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.server.send(signal.SIGCONT)
        self.usable = True

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.server.admin_port}"


class Cluster:
    """Use as `async with Cluster(folder) as cluster:`. `publishing` are the cables of emitters."""

    def __init__(self, folder: Path, topology: str = SINGLE, **settings: object) -> None:
        self.folder = folder
        self.topology = topology
        self.store = STORES[topology]()
        self.publishing = Cables("", {})
        self.nodes: list[Node] = []
        self._settings = {
            "chat_waiting_timeout_s": 86_400,
            "webhook_allow_private": "true",
            "valkey_prefix": PREFIX,
            "drain_seconds": 1,
            "log_level": "info",
            **settings,
        }

    async def __aenter__(self) -> Cluster:
        try:
            await asyncio.to_thread(self.store.start)
            for number in range(1, NODES + 1):
                cables = await self.store.lay(number)
                name = f"n{number}"
                server = ServerProcess(self.folder / name, node_id=name, valkey_url=cables.url, **self._settings)
                self.nodes.append(Node(server, cables))
            self.publishing = await self.store.lay(NODES + 1)
            await asyncio.gather(*(node.start() for node in self.nodes))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for node in self.nodes:
            if node.server.process is not None and node.server.process.poll() is None:
                node.thaw()
                await node.kill()
            await node.cables.remove()
        await self.publishing.remove()
        self.store.close()

    @property
    def one(self) -> OneStore:
        """The one server of this cluster, for tests and faults that need just one."""
        assert isinstance(self.store, OneStore)
        return self.store

    @property
    def valkey(self) -> LoopbackValkey:
        return self.one.valkey

    @property
    def cables(self) -> list[Cables]:
        """The cables of every party."""
        return [*(node.cables for node in self.nodes), self.publishing]

    @property
    def usable(self) -> list[Node]:
        return [node for node in self.nodes if node.usable] or self.nodes

    async def healed(self, deadline_s: float = HEAL_S) -> float:
        """Wait until every node is ready; return the seconds that took."""
        began = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as http:
            while whys := [why for node in self.nodes if (why := await _unready(http, node))]:
                if time.monotonic() - began > deadline_s:
                    words = "\n".join([*whys, *(node.server.last_words() for node in self.nodes)])
                    raise AssertionError(f"not every node was ready within {deadline_s} s\n{words}")
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    def assert_no_traceback(self, nodes: Iterable[Node] = ()) -> None:
        for node in nodes or self.nodes:
            log = node.server.log()
            assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]


async def _unready(http: aiohttp.ClientSession, node: Node) -> str:
    """Return why a node is not ready, or ""."""
    try:
        async with http.get(f"{node.admin}/readyz") as answer:
            return "" if answer.status == 200 else f"{node.server.folder.name}: {await answer.text()}"
    except (aiohttp.ClientError, TimeoutError, OSError) as failed:
        return f"{node.server.folder.name}: {failed!r}"


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

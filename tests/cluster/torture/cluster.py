"""Three server processes on one Valkey, each behind its own cable, so that any connection between them can be cut."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import aiohttp

from tests.support.cable import Cable
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess, free_port

NODES = 3
HEAL_S = 25.0
TEAM = "red"  # the team that may read the tickets


class Node:
    """One server process. `usable` is the result of a balancer's health check."""

    def __init__(self, server: ServerProcess, cable: Cable) -> None:
        self.server = server
        self.cable = cable  # from this node to Valkey
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
    """Use as `async with Cluster(folder) as cluster:`. `appendfsync` is the setting of Valkey's file; None: no file.

    `valkey` is the server to which all cables lead; a failover replaces it. `publishing` is the cable of emitters.
    """

    def __init__(self, folder: Path, appendfsync: str | None = "always", **settings: object) -> None:
        self.folder = folder
        self.appendfsync = appendfsync
        self.servers: list[OwnValkey] = []
        self.ports: dict[OwnValkey, int] = {}
        self.valkey = self.new_valkey()
        self.publishing = Cable("127.0.0.1", 0)
        self.publishing_url = ""
        self.nodes: list[Node] = []
        self._settings = {
            "chat_waiting_timeout_s": 86_400,
            "webhook_allow_private": "true",
            "valkey_prefix": "t",
            "drain_seconds": 1,
            "log_level": "info",
            **settings,
        }

    def new_valkey(self) -> OwnValkey:
        """Return another Valkey, not started."""
        port = free_port()
        file = ("--appendonly", "yes", "--appendfsync", self.appendfsync) if self.appendfsync else ()
        made = OwnValkey("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", *file)
        self.servers.append(made)
        self.ports[made] = port
        return made

    async def __aenter__(self) -> Cluster:
        try:
            await asyncio.to_thread(self.valkey.start)
            self.publishing_url = await self._lay(self.publishing)
            for name in (f"n{number}" for number in range(1, NODES + 1)):
                cable = Cable("127.0.0.1", 0)
                url = await self._lay(cable)
                server = ServerProcess(self.folder / name, node_id=name, valkey_url=url, **self._settings)
                self.nodes.append(Node(server, cable))
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
            await node.cable.remove()
        await self.publishing.remove()
        for server in self.servers:
            server.__exit__()

    async def _lay(self, cable: Cable) -> str:
        cable.route = lambda: ("127.0.0.1", self.ports[self.valkey])
        return f"valkey://127.0.0.1:{await cable.lay()}"

    @property
    def cables(self) -> list[Cable]:
        """All cables to Valkey."""
        return [*(node.cable for node in self.nodes), self.publishing]

    @property
    def usable(self) -> list[Node]:
        return [node for node in self.nodes if node.usable] or self.nodes

    async def drop_valkey(self, server: OwnValkey) -> None:
        """Stop a Valkey permanently and forget it."""
        await asyncio.to_thread(server.__exit__)
        self.servers.remove(server)

    async def healed(self, deadline_s: float = HEAL_S) -> float:
        """Wait until every node is ready; return the seconds that took."""
        began = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as http:
            while not all([await _ready(http, node) for node in self.nodes]):
                if time.monotonic() - began > deadline_s:
                    words = "\n".join(node.server.last_words() for node in self.nodes)
                    raise AssertionError(f"not every node was ready within {deadline_s} s\n{words}")
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    def assert_no_traceback(self, nodes: Iterable[Node] = ()) -> None:
        for node in nodes or self.nodes:
            log = node.server.log()
            assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]


async def _ready(http: aiohttp.ClientSession, node: Node) -> bool:
    try:
        async with http.get(f"{node.admin}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

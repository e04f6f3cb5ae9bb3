"""Three real nodes on their own real Valkey, and clients of them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

DOOR = NativeDoor()


class Cluster:
    """`n[0]` … `n[2]` are the nodes n1 … n3. `tag` separates one test's users from those of others."""

    def __init__(self, nodes: list[ServerProcess], valkey: OwnValkey) -> None:
        self.n = nodes
        self.valkey = valkey
        self.tag = secrets.token_hex(3)
        self.peers: list[Peer] = []

    def user(self, name: str) -> str:
        return f"{name}-{self.tag}"

    def token(self, name: str, role: str = "agent", team: str = "red") -> str:
        return self.n[0].token(self.user(name), role, f"{team}-{self.tag}" if role == "agent" else "", name=name)

    async def join(self, node: int, namespace: str, name: str, role: str = "agent", team: str = "red") -> Peer:
        peer = await DOOR.open(self.n[node].address, namespace, {"token": self.token(name, role, team)})
        self.peers.append(peer)
        return peer

    async def push(self, node: int, path: str, body: object, method: str = "PUT") -> Any:
        status, answer = await self.n[node].push(method, "/api/v1" + path, body)
        assert status in (200, 201), answer
        return answer

    async def leader(self, asked: int = 0) -> int:
        """Return the leader."""
        _, answer = await self.n[asked].push("GET", "/api/v1/nodes")
        [name] = [node["node"] for node in answer["nodes"] if node["leads"]]
        return int(name[1:]) - 1

    async def close(self) -> None:
        for peer in self.peers:
            await peer.close()


@contextmanager
def three_nodes(folder: Path, **settings: object) -> Iterator[list[Any]]:
    """Yield [nodes, valkey]; every process has ended afterwards."""
    with OwnValkey("--appendonly", "yes", "--appendfsync", "everysec") as valkey:
        common = {"valkey_url": valkey.url, "drain_seconds": 1, **settings}
        nodes = [ServerProcess(folder / name, node_id=name, **common) for name in ("n1", "n2", "n3")]
        try:
            for node in nodes:
                node.start()
            yield [nodes, valkey]
        finally:
            for node in nodes:
                if node.process is not None and node.process.poll() is None:
                    node.kill()


@asynccontextmanager
async def cluster(started: list[Any]) -> AsyncIterator[Cluster]:
    found = Cluster(*started)
    try:
        yield found
    finally:
        await found.close()

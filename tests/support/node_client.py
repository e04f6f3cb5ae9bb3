"""The door of `socket.io-client` 4.8 from npm: one Node process (node_client.js) holds all stock clients of a run."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.cable import Cable
from tests.support.clients import DEADLINE_S, Change, Door, NotAnswered, Peer, Refused

HERE = Path(__file__).parent
MODULES = HERE.parent / "node_modules"
LINE_BYTES = 4 << 20


def why_not() -> str | None:
    """Return why the stock client cannot run here, or None if it can."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not (MODULES / "socket.io-client").is_dir():
        return "tests/node_modules is missing: npm ci --prefix tests"
    return None


class NodeProcess:
    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()  # several doors may open at once
        self._ids = itertools.count(1)
        self.peers: dict[tuple[int, str], NodePeer] = {}
        self.transports: dict[int, list[str]] = {}
        self.change = Change()
        self._calls: dict[int, asyncio.Future[list[Any]]] = {}

    async def start(self) -> None:
        async with self._starting:
            await self._start()

    async def _start(self) -> None:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                "node",
                str(HERE / "node_client.js"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
            )
            self._reading = asyncio.create_task(self._read())

    async def stop(self) -> None:
        if self._process is not None and self._reading is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            async with asyncio.timeout(10):
                await self._process.wait()
                await self._reading
            self._process = None

    def new_id(self) -> int:
        return next(self._ids)

    def tell(self, op: str, client: int, **fields: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        command = {"op": op, "client": client, **fields}
        self._process.stdin.write(json.dumps(command, default=_bytes).encode() + b"\n")

    async def call(self, client: int, namespace: str, event: str, args: Sequence[Any], deadline_s: float) -> list[Any]:
        call = self.new_id()
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._calls[call] = answer
        ask = {"namespace": namespace, "event": event, "args": args}
        self.tell("call", client, call=call, timeout=int(deadline_s * 1000), **ask)
        async with asyncio.timeout(deadline_s + 5):  # Node's own timer answers first
            return await answer

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._said(json.loads(line))
        for answer in self._calls.values():
            answer.set_exception(NotAnswered("the node process ended"))

    def _said(self, message: dict[str, Any]) -> None:
        if "call" in message:
            answer = self._calls.pop(message["call"])
            if answer.done():
                return
            if "error" in message:
                answer.set_exception(NotAnswered(message["error"]))
            else:
                answer.set_result(message["args"])
        elif message["on"] == "transport":
            self.transports.setdefault(message["client"], []).append(message["name"])
            self.change.happened()
        elif peer := self.peers.get((message["client"], message["namespace"])):
            peer.said(message)


class NodePeer(Peer):
    def __init__(self, node: NodeProcess, client: int, namespace: str, cable: Cable | None) -> None:
        super().__init__(namespace, cable)
        self._node = node
        self._client = client
        self._closed = False

    @property
    def transports(self) -> list[str]:
        """The transports this client has used so far, in order."""
        return self._node.transports.get(self._client, [])

    def said(self, message: dict[str, Any]) -> None:
        if message["on"] == "event":
            self._heard(message["event"], message["args"])
        elif message["on"] == "connect":
            self._in(message["sid"], bool(message.get("recovered")))
        elif message["on"] == "disconnect":
            self._out(message["reason"])
        elif not message["transport"]:
            self._no(Refused(message["message"], message.get("data")))
        elif not self.connects:
            self._out(message["message"])

    async def emit(self, event: str, *args: Any) -> None:
        self._node.tell("emit", self._client, namespace=self.namespace, event=event, args=args)

    async def request(self, event: str, *args: Any, deadline_s: float = DEADLINE_S) -> list[Any]:
        return await self._node.call(self._client, self.namespace, event, args, deadline_s)

    async def next_token(self, token: str) -> None:
        self._node.tell("auth", self._client, auth={"token": token})

    def connect(self) -> None:
        """Come back into the namespace after `disconnect`."""
        self._node.tell("connect", self._client, namespace=self.namespace)

    def mount_in_strict_mode(self, namespace: str) -> NodePeer:
        """Return a socket of the same open Manager after connect(), disconnect(), connect() in one tick."""
        peer = NodePeer(self._node, self._client, namespace, self._cable)
        self._node.peers[self._client, namespace] = peer
        self._node.tell("strict_mode", self._client, namespace=namespace)
        return peer

    def close_engine(self) -> None:
        """Close the client's Engine.IO connection; its Manager then reconnects."""
        self._node.tell("engine_close", self._client)

    async def disconnect(self) -> None:
        self._node.tell("disconnect", self._client, namespace=self.namespace)
        await self.gone()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        del self._node.peers[self._client, self.namespace]
        if not any(client == self._client for client, _ in self._node.peers):
            self._node.tell("close", self._client)
            if self._cable is not None:
                await self._cable.remove()


class NodeDoor(Door):
    """Transports: polling only, websocket only, or polling and then the upgrade, as browsers do by default."""

    needs_node = True

    def __init__(self, node: NodeProcess, name: str, transports: list[str]) -> None:
        self.name = name
        self._node = node
        self._transports = transports

    async def _open(
        self, address: tuple[str, int], namespaces: Sequence[str], auth: Any, cable: Cable | None, reconnection: bool
    ) -> list[Peer]:
        await self._node.start()
        client = self._node.new_id()
        peers = [NodePeer(self._node, client, namespace, cable) for namespace in namespaces]
        for peer in peers:
            self._node.peers[client, peer.namespace] = peer
        options = {
            "transports": self._transports,
            "reconnection": reconnection,
            "reconnectionDelay": 50,
            "reconnectionDelayMax": 250,
        }
        url = f"http://{address[0]}:{address[1]}"
        self._node.tell("open", client, url=url, namespaces=namespaces, auth=auth, options=options)
        return list(peers)

    async def settle(self, peer: Peer) -> None:
        assert isinstance(peer, NodePeer)
        await self._node.change.until(
            lambda: peer.transports[-1:] == self._transports[-1:],
            lambda: f"{self.name} should be on {self._transports[-1]}, used {peer.transports}",
            DEADLINE_S,
        )
        assert peer.transports == self._transports, peer.transports


def _bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"not JSON: {value!r}")

"""The clients: native websockets that resume by themselves, and stock Socket.IO clients of Node and Python.

Each has its own cable to a usable node, as a balancer would choose it. When the connection is lost, a client reconnects
through the same cable, to the same node or another.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
import socketio  # type: ignore[import-untyped]
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.cluster.torture.cluster import Cluster, Node
from tests.cluster.torture.judge import Record
from tests.cluster.torture.publishers import EVENT, NAMESPACE
from tests.support.aio import until
from tests.support.cable import Cable
from tests.support.node_client import NodePeer, NodeProcess
from tests.support.server import ServerProcess

RECONNECT_S = 0.1
ANSWER_S = 5.0
TRY_AGAIN_S = 0.3
TOKEN_S = 86_000


class Subscriber:
    """One client. `stays` of its record are the rooms of its token, and the tickets it subscribes to."""

    def __init__(self, cluster: Cluster, name: str, team: str, tickets: Sequence[str], seed: int) -> None:
        self.name = name
        self.tickets = list(tickets)
        self.rooms = [f"user:{name}", "role:agent", f"team:{team}"]
        self.record = Record(name)
        self.volatile = 0
        self.created: set[tuple[str, int]] = set()  # events of new tickets, which went to the team
        self.cable = Cable("127.0.0.1", 0)
        self.cable.route = self._route
        self.node: Node | None = None
        self._team = team
        self._cluster = cluster
        self._random = random.Random(seed)
        self.asks_once = False  # ignores refused subscriptions, and subscribes again when it reconnects
        self._joins: set[asyncio.Task[None]] = set()
        self._closing = False

    def _route(self) -> tuple[str, int]:
        self.node = self._random.choice(self._cluster.usable)
        return self.node.server.address

    async def open(self) -> None:
        port = await self.cable.lay()
        await self._open(port)
        owed = len(self.rooms) + len(self.tickets)
        await until(lambda: self.record.connected and len(self.record.stays) == owed, f"{self.name} is in", 20)
        self.record.new_sessions = 0  # the first session is not a loss

    async def close(self) -> None:
        self._closing = True
        for task in tuple(self._joins):
            task.cancel()
        await asyncio.gather(*self._joins, return_exceptions=True)
        await self._close()
        await self.cable.remove()

    @property
    def auth(self) -> dict[str, str]:
        return {"token": ServerProcess.token(self.name, "agent", self._team, ttl_s=TOKEN_S)}

    @abstractmethod
    async def _open(self, port: int) -> None: ...

    @abstractmethod
    async def _close(self) -> None: ...

    @abstractmethod
    async def _ask(self, event: str, data: Any) -> Any:
        """Return the answer to a call. Raises any exception if there is none."""

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_in(self, recovered: bool) -> None:
        self.record.came_back(recovered)
        if recovered:
            return
        for room in self.rooms:
            self.record.joined(room, time.monotonic())
        for ticket in self.tickets:
            self._subscribe(ticket)

    def is_out(self) -> None:
        self.record.connected = False
        self.record.cuts += 1

    def received(self, event: str, data: Any, offset: str) -> None:
        now_s = time.monotonic()
        if event == EVENT:
            if offset:
                self.record.hears((data["p"], data["n"]), offset, now_s)
            else:
                self.volatile += 1
        elif event in ("ticket:updated", "ticket:created"):
            new = event == "ticket:created"
            subject = data["ticket"]["subject"] if new else data["changes"].get("subject", ["", ""])[1]
            publisher, _, counter = subject.partition("/")
            if counter:
                key = (publisher, int(counter))
                self.record.hears(key, offset, now_s)
                if new:
                    self.created.add(key)
        elif event == "resync":
            for room in data["rooms"]:
                self.record.resync(room, now_s)
        elif event == "ticket:unsubscribed":
            self.record.end_stays(f"ticket:{data['ticketId']}")
            self._subscribe(data["ticketId"])

    def _subscribe(self, ticket: str) -> None:
        task = asyncio.get_running_loop().create_task(self._until_subscribed(ticket, self.record.new_sessions))
        self._joins.add(task)
        task.add_done_callback(self._joins.discard)

    async def _until_subscribed(self, ticket: str, session: int) -> None:
        """Subscribe until it succeeds. A new session subscribes for itself."""
        while not self._closing and self.record.new_sessions == session:
            try:
                answer = await self._ask("ticket:subscribe", {"ticketId": ticket})
            except Exception:  # whatever the library raises means no answer; the client may reconnect
                answer = {}
            if answer.get("ok") and self.record.new_sessions == session:
                self.record.joined(f"ticket:{ticket}", time.monotonic())
                return
            if self.asks_once:
                return
            await asyncio.sleep(TRY_AGAIN_S)


class Native(Subscriber):
    """A native client that returns with its pid and its last offset."""

    _socket: ClientConnection | None = None
    _running: asyncio.Task[None] | None = None
    _pid = ""
    _offset = ""
    _calls: dict[int, asyncio.Future[Any]]

    async def _open(self, port: int) -> None:
        self._calls = {}
        self._running = asyncio.get_running_loop().create_task(self._run(port))

    async def _close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _ask(self, event: str, data: Any) -> Any:
        if self._socket is None:
            raise ConnectionError
        call = self._random.getrandbits(40)
        answer = self._calls[call] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send(json.dumps({"event": event, "data": data, "id": call}))
            async with asyncio.timeout(ANSWER_S):
                return await answer
        finally:
            del self._calls[call]

    async def _run(self, port: int) -> None:
        while True:
            try:
                async with connect(
                    f"ws://127.0.0.1:{port}/rt{NAMESPACE}", compression=None, ping_interval=None, close_timeout=1
                ) as socket:
                    auth = self.auth
                    if self._pid:
                        auth |= {"pid": self._pid} | ({"offset": self._offset} if self._offset else {})
                    await socket.send(json.dumps({"event": "connect", "data": auth}))
                    self._socket = socket
                    async for text in socket:
                        self._said(json.loads(text))
            except (OSError, WebSocketException, TimeoutError):
                pass
            finally:
                self._socket = None
                for answer in self._calls.values():
                    answer.cancel()
                if self.record.connected:
                    self.is_out()
            await asyncio.sleep(RECONNECT_S * self._random.uniform(0.2, 2))

    def _said(self, frame: dict[str, Any]) -> None:
        if "ack" in frame:
            answer = self._calls.get(frame["ack"])
            if answer is not None and not answer.done():
                answer.set_result(frame["data"])
        elif frame["event"] == "connect":
            data = frame["data"]
            if not data["recovered"]:
                self._offset = ""
            self._pid = data["pid"]
            self.is_in(data["recovered"])
        elif frame["event"] == "connect_error":
            raise AssertionError(f"{self.name} was refused: {frame}")
        else:
            offset = frame.get("offset", "")
            self._offset = offset or self._offset
            self.received(frame["event"], frame.get("data"), offset)


class Stock(Subscriber):
    """socket.io-client of Node, with its own reconnection and recovery."""

    node_process: NodeProcess
    _peer: _StockPeer | None = None

    async def _open(self, port: int) -> None:
        client = self.node_process.new_id()
        self._peer = _StockPeer(self, self.node_process, client)
        self.node_process.peers[client, NAMESPACE] = self._peer
        options = {"transports": ["websocket"], "reconnectionDelay": 50, "reconnectionDelayMax": 400, "timeout": 4000}
        url = f"http://127.0.0.1:{port}"
        self.node_process.tell("open", client, url=url, namespaces=[NAMESPACE], auth=self.auth, options=options)

    async def _close(self) -> None:
        if self._peer is not None:
            await self._peer.close()

    async def _ask(self, event: str, data: Any) -> Any:
        assert self._peer is not None
        return await self._peer.call(event, data, deadline_s=ANSWER_S)


class _StockPeer(NodePeer):
    def __init__(self, owner: Stock, node: NodeProcess, client: int) -> None:
        super().__init__(node, client, NAMESPACE, None)
        self._owner = owner

    def _heard(self, event: str, args: Sequence[Any]) -> None:
        offset = args[-1] if len(args) > 1 and isinstance(args[-1], str) else ""
        self._owner.received(event, args[0] if args else None, offset)

    def _in(self, sid: str, recovered: bool) -> None:
        super()._in(sid, recovered)
        self._owner.is_in(recovered)

    def _out(self, why: str | int) -> None:
        super()._out(why)
        if self._owner.record.connected:
            self._owner.is_out()


class Python(Subscriber):
    """python-socketio, which does not support recovery: every reconnect is a new session."""

    _client: Any = None
    _http: aiohttp.ClientSession | None = None

    async def _open(self, port: int) -> None:
        self.record.resumes = False
        self._http = aiohttp.ClientSession()
        self._client = socketio.AsyncClient(
            reconnection_delay=0.05, reconnection_delay_max=0.4, handle_sigint=False, http_session=self._http
        )
        self._client.on("connect", lambda: self.is_in(False), namespace=NAMESPACE)
        self._client.on("disconnect", lambda *why: self.is_out(), namespace=NAMESPACE)
        self._client.on("*", self._heard, namespace=NAMESPACE)
        url = f"http://127.0.0.1:{port}"
        auth = {**self.auth, "recovery": True}  # with offsets, which the judge needs
        await self._client.connect(url, auth=auth, transports=["websocket"], namespaces=[NAMESPACE])

    async def _close(self) -> None:
        assert self._http is not None
        await self._client.shutdown()
        if self._client.connected:  # a reconnect that was under way has succeeded in the meantime
            await self._client.shutdown()
        await self._http.close()

    async def _ask(self, event: str, data: Any) -> Any:
        return await self._client.call(event, data, namespace=NAMESPACE, timeout=ANSWER_S)

    def _heard(self, event: str, *args: Any) -> None:
        offset = args[-1] if len(args) > 1 and isinstance(args[-1], str) else ""
        self.received(event, args[0] if args else None, offset)


class Subscribers:
    """All clients of a run. `rooms`: the rooms that publishers may choose, so that every event has a recipient."""

    def __init__(self, cluster: Cluster, tickets: list[str], seed: int) -> None:
        self._cluster = cluster
        self._process = NodeProcess()
        kinds: list[type[Subscriber]] = [Native] * 6 + [Stock] * 4 + [Python]
        self.all: list[Subscriber] = []
        self._tickets = tickets
        self._guests: list[Subscriber] = []  # of this round
        self._guests_seen = 0
        for index, kind in enumerate(kinds):
            red = index % 4 != 3
            mine = tickets[: 1 + index % len(tickets)] if red else []
            name = f"{kind.__name__.lower()}{index}"
            self.all.append(self.new(kind, name, "red" if red else "blue", mine, seed * 100 + index))
        users = [f"user:{subscriber.name}" for subscriber in self.all]
        self.rooms = [("team:red",), ("team:blue",), ("role:agent",), ("team:red", "team:blue"), (users[0], users[6])]

    def new(
        self, kind: type[Subscriber], name: str, team: str, tickets: Sequence[str] = (), seed: int = 1
    ) -> Subscriber:
        """Return a client that is not in `all`, not opened."""
        made = kind(self._cluster, name, team, tickets, seed)
        if isinstance(made, Stock):
            made.node_process = self._process
        return made

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(self.all)

    def come(self) -> list[Subscriber]:
        """Return new clients for this round, not opened, which subscribe once at each connect."""
        kinds: list[type[Subscriber]] = [Native, Native, Stock, Stock]
        self._guests_seen += 1
        for index, kind in enumerate(kinds):
            name = f"guest{self._guests_seen}-{index}"
            guest = self.new(kind, name, "red", self._tickets, self._guests_seen * 1000 + index)
            guest.asks_once = True
            self._guests.append(guest)
        return self._guests[-len(kinds) :]

    async def see_off(self) -> None:
        """Close the clients of `come`."""
        guests, self._guests = self._guests, []
        for guest in guests:
            await guest.close()

    async def open(self) -> None:
        await self._process.start()
        for subscriber in self.all:
            await subscriber.open()

    async def close(self) -> None:
        await self.see_off()
        for subscriber in self.all:
            await subscriber.close()
        await self._process.stop()

    @property
    def records(self) -> list[Record]:
        return [subscriber.record for subscriber in (*self.all, *self._guests)]

    @property
    def created(self) -> set[tuple[str, int]]:
        return set().union(*(subscriber.created for subscriber in (*self.all, *self._guests)))

    @contextmanager
    def counting_volatile(self) -> Iterator[list[int]]:
        """Yield a list that afterwards holds how many volatile events each client received during the block."""
        before, found = [subscriber.volatile for subscriber in self.all], []
        yield found
        found += [s.volatile - b for s, b in zip(self.all, before, strict=True)]

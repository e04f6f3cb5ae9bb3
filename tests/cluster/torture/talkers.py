"""Chat and notifications under faults: everything acknowledged must be in the history or the list exactly once.

One customer per round starts a conversation and sends one message after the other. Each is repeated under its clientId
until a node acknowledges it. A back end notifies one user per round, with its own ids. Afterwards both are read
completely and compared.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.cluster.torture.cluster import Cluster
from tests.support.server import ServerProcess

ANSWER_S = 3.0
PAUSE_S = 0.25  # a customer may send five messages a second
GIVE_UP_S = 60.0
TOKEN_S = 86_000


class NotAnswered(Exception):
    """There was no answer, or one that asks to try again."""


class Line:
    """One native connection at a time, to any usable node. A lost one is replaced at the next call."""

    def __init__(self, cluster: Cluster, namespace: str, user: str, seed: int) -> None:
        self._cluster, self._namespace, self._user = cluster, namespace, user
        self._random = random.Random(seed)
        self._socket: ClientConnection | None = None
        self._calls = 0

    async def ask(self, event: str, **data: Any) -> dict[str, Any]:
        """Return the answer. Raises NotAnswered; AssertionError for a final refusal."""
        try:
            async with asyncio.timeout(ANSWER_S):
                socket = self._socket or await self._connected()
                self._calls += 1
                await socket.send(json.dumps({"event": event, "data": data, "id": self._calls}))
                while (frame := json.loads(await socket.recv())).get("ack") != self._calls:
                    pass
        except (OSError, WebSocketException, TimeoutError) as lost:
            await self.close()
            raise NotAnswered from lost
        answer: dict[str, Any] = frame["data"]
        if answer["ok"]:
            return answer
        if answer["error"]["code"] in ("UNAVAILABLE", "RATE_LIMITED", "INTERNAL"):
            raise NotAnswered
        raise AssertionError(f"{event} {data}: {answer}")

    async def until_answered(self, event: str, **data: Any) -> dict[str, Any]:
        """Repeat the call until it is answered."""
        end = time.monotonic() + GIVE_UP_S
        while True:
            try:
                return await self.ask(event, **data)
            except NotAnswered:
                assert time.monotonic() < end, f"{event} {data} is not answered for {GIVE_UP_S} s"
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.transport.abort()

    async def _connected(self) -> ClientConnection:
        host, port = self._random.choice(self._cluster.usable).server.address
        url = f"ws://{host}:{port}/rt{self._namespace}"
        socket = await connect(url, compression=None, ping_interval=None, close_timeout=1, max_size=None)
        token = ServerProcess.token(self._user, "customer", ttl_s=TOKEN_S)
        await socket.send(json.dumps({"event": "connect", "data": {"token": token}}))
        assert json.loads(await socket.recv())["event"] == "connect"
        self._socket = socket
        return socket


class Talkers:
    """`start` and `stop` a round, then `judge` it."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._seed = seed
        self._rounds = 0
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        token = cluster.nodes[0].server.token("bell-ringer", "admin", ttl_s=TOKEN_S)
        self._headers = {"Authorization": f"Bearer {token}"}

    async def start(self) -> None:
        self._rounds += 1
        self._stop.clear()
        self._said: dict[str, tuple[int, str]] = {}  # acknowledged messages by clientId: number and text
        self._rung: set[str] = set()
        self._user = f"round{self._rounds}"
        seed = self._seed * 1000 + self._rounds
        self._chat = Line(self._cluster, "/chat", self._user, seed)
        self._bell = Line(self._cluster, "/notifications", self._user, seed + 1)
        started = await self._chat.until_answered("chat:start", clientId="start")
        self._conversation = started["conversationId"]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._talk()), loop.create_task(self._ring())]

    async def stop(self) -> None:
        """End the round: each finishes its current call."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        self._tasks = []

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._rounds:
            await self._chat.close()
            await self._bell.close()

    @property
    def acknowledged(self) -> int:
        return len(self._said) + len(self._rung)

    @property
    def said(self) -> tuple[str, list[int]]:
        """The conversation of the round, and the numbers of the messages that were acknowledged."""
        return self._conversation, [number for number, _ in self._said.values()]

    async def judge(self) -> list[str]:
        """Return the errors in the history and the notifications; empty if both match what was acknowledged."""
        found = []
        history = await self._history()
        by_client = {message["clientId"]: (message["id"], message["text"]) for message in history}
        for client_id, said in self._said.items():
            if by_client.get(client_id) != said:
                found.append(f"{client_id} was acknowledged as {said}, the history has {by_client.get(client_id)}")
        found += _twice("the history has number", [message["id"] for message in history])
        found += _twice("the history has", [message["clientId"] for message in history])
        bell = [notification["id"] for notification in await self._notifications()]
        found += [f"the bell lacks {one}" for one in sorted(self._rung - set(bell))]
        found += _twice("the bell has", bell)
        await self._chat.until_answered("chat:close", conversationId=self._conversation)
        await self._chat.close()
        await self._bell.close()
        return found

    async def _history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        before: dict[str, int] = {}
        while True:
            page = await self._chat.until_answered("chat:history", conversationId=self._conversation, **before)
            found = page["messages"] + found
            if not page["more"]:
                return found
            before = {"before": page["messages"][0]["id"]}

    async def _notifications(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        before: dict[str, str] = {}
        while True:
            page = await self._bell.until_answered("notification:list", limit=100, **before)
            found += page["notifications"]
            if not page["more"]:
                return found
            before = {"before": found[-1]["id"]}

    async def _talk(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            line = {"clientId": f"line{number}", "text": f"{self._user} says {number}"}
            said = await self._chat.until_answered("chat:message", conversationId=self._conversation, **line)
            self._said[line["clientId"]] = said["id"], line["text"]
            await asyncio.sleep(PAUSE_S)

    async def _ring(self) -> None:
        number = 0
        async with aiohttp.ClientSession(headers=self._headers) as http:
            while not self._stop.is_set():
                number += 1
                one = {"userId": self._user, "type": "torture", "title": str(number), "id": f"bell{number}"}
                await self._until_rung(http, one, number)
                self._rung.add(one["id"])
                await asyncio.sleep(PAUSE_S)

    async def _until_rung(self, http: aiohttp.ClientSession, one: dict[str, str], at: int) -> None:
        end = time.monotonic() + GIVE_UP_S
        while True:
            url = f"{self._cluster.usable[at % len(self._cluster.usable)].admin}/api/v1/notifications"
            try:
                async with http.post(url, json=one, timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as answer:
                    if answer.status == 201:
                        return
                    assert answer.status == 503, f"{answer.status} {await answer.text()}"
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            assert time.monotonic() < end, f"{one} is not taken for {GIVE_UP_S} s"
            at += 1
            await asyncio.sleep(0.1)


def _twice(what: str, ids: list[Any]) -> list[str]:
    return [f"{what} {one} {count} times" for one, count in Counter(ids).items() if count > 1]

"""Tools of a hostile client: raw requests to the ports of a real server, and a Socket.IO client that shows everything.

`Caller` keeps every event that it received, so that a test can check what must not be among them.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from tests.support.door import Http, RawSocket
from tests.support.server import ServerProcess

DEADLINE_S = 10.0
QUIET_S = 0.4  # silence after which nothing more is expected; an event takes some milliseconds
POLL = "/socket.io/?EIO=4&transport=polling"
SOCKET = "/socket.io/?EIO=4&transport=websocket"


class Target:
    """One port of the server, in the form that the raw clients of tests/support/door.py expect."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.connections: list[Http] = []

    async def close(self) -> None:
        for connection in self.connections:
            connection.writer.transport.abort()
        await asyncio.sleep(0.01)  # time for the transports to close

    async def socket(self, target: str = SOCKET, **how: Any) -> RawSocket:
        return await RawSocket.to(self, target, **how)  # type: ignore[arg-type]

    async def http(self) -> Http:
        return await Http.to(self)  # type: ignore[arg-type]

    async def session(self) -> str:
        """Open a polling session and return the path of its requests."""
        http = await self.http()
        opened = await http.ask("GET", POLL)
        await http.close()
        return f"{POLL}&sid={json.loads(opened.body[1:])['sid']}"


async def answers(target: Target, data: bytes, deadline_s: float = 2.0) -> tuple[list[int], bool]:
    """Send bytes to a port; return the status of each answer, and whether the server closed the connection."""
    http = await target.http()
    said, ended = b"", False
    try:
        async with asyncio.timeout(deadline_s):
            http.writer.write(data)
            await http.writer.drain()
            while chunk := await http.reader.read(65_536):
                said += chunk
            ended = True
    except TimeoutError:
        pass
    except ConnectionError:
        ended = True
    http.writer.transport.abort()
    heads = [line for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return [int(line.split()[1]) for line in heads], ended


class Caller:
    """A Socket.IO client over one websocket, in any number of namespaces."""

    def __init__(self, socket: RawSocket) -> None:
        self.socket = socket
        self.events: list[tuple[str, str, Any]] = []  # namespace, event, payload
        self.refused: dict[str, str] = {}  # namespace → code
        self.code: int | None = None  # of the close frame, 1006 without one
        self.pids: dict[str, str] = {}  # namespace → secret of its session
        self.left: set[str] = set()  # namespaces from which the server disconnected it
        self._joined: set[str] = set()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._change = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def to(cls, target: Target, token: Any, *namespaces: str) -> Caller:
        caller = cls(await target.socket())
        for namespace in namespaces:
            await caller.join(namespace, token)
        return caller

    async def join(self, namespace: str, token: Any, **auth: Any) -> bool:
        self.socket.say(f"40{namespace},{json.dumps({'token': token, **auth})}")
        await self.until(lambda: {namespace} & (self._joined | self.refused.keys()), f"an answer of {namespace}")
        return namespace in self._joined

    async def call(self, namespace: str, event: str, payload: Any) -> dict[str, Any]:
        number = len(self._answers) + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.socket.say(f"42{namespace},{number}{json.dumps([event, payload])}")
        async with asyncio.timeout(DEADLINE_S):
            said: dict[str, Any] = await answer
        return said

    async def outcome(self, namespace: str, event: str, payload: Any) -> str:
        """Return "ok", or the code of the refusal."""
        answer = await self.call(namespace, event, payload)
        return "ok" if answer["ok"] else str(answer["error"]["code"])

    async def until(self, true: Any, what: str, deadline_s: float = DEADLINE_S) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                while not true():
                    self._change.clear()
                    await self._change.wait()
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s} s: {what}; there is {self.events}") from None

    def heard(self, event: str) -> list[Any]:
        return [payload for _, name, payload in self.events if name == event]

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self.socket.http.writer.transport.abort()

    async def _read(self) -> None:
        try:
            while self.code is None:
                opcode, payload = await self.socket.receive()
                if opcode == 1:
                    self._said(payload.decode())
                elif opcode == 8:
                    self.code = int.from_bytes(payload[:2], "big") if payload else 1005
                self._change.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.code = 1006
        self._change.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError(f"no answer: the connection ended with {self.code}"))

    def _said(self, text: str) -> None:
        if text == "2":
            self.socket.say("3")
        elif text.startswith("4"):
            namespace, _, rest = text[2:].partition(",")
            if text[1] == "0":
                self._joined.add(namespace)
                self.pids[namespace] = json.loads(rest).get("pid", "")
            elif text[1] == "1":
                self.left.add(namespace)
            elif text[1] == "4":
                self.refused[namespace] = json.loads(rest)["message"]
            elif text[1] == "3":
                number, _, items = rest.partition("[")
                self._answers[int(number)].set_result(json.loads(f"[{items}")[0])
            elif text[1] == "2":
                name, *items = json.loads(rest)
                self.events.append((namespace, name, items[0] if items else None))


def memory_mb(server: ServerProcess) -> float:
    """Return the memory, objects and open files of the server's process."""
    with open(f"/proc/{server.pid}/statm", encoding="utf-8") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(server: ServerProcess) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))

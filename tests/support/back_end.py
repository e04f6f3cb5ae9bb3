"""A helpdesk's back end on loopback: a real HTTP server that answers the hooks as a test says, also wrongly.

async with back_end() as back:
    back.answers["/access"] = lambda asked: {ticket: {"read": True} for ticket in asked.body["ticketIds"]}
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from standardwebhooks.webhooks import Webhook

from tests.support.aio import until

HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwQ3ZZIo2LaLa="


class Asked(NamedTuple):
    """One request, whose signature was verified by the library for receivers."""

    path: str
    headers: dict[str, str]
    body: Any


class Raw(NamedTuple):
    """An answer by the letter: status, body and more headers."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


class Never:
    """No answer at all, until the connection ends."""


class Drop:
    """The connection is closed instead of an answer."""


Answer = Callable[[Asked], Any]


class BackEnd:
    """`answers`: by path, a function of the request. It returns JSON, Raw, Never or Drop, or awaits one of them."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """End the server and all its connections. `up` starts it again at the same port."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await until(lambda: not self._writers, "all connections are closed")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        text = await reader.readexactly(int(headers.get("content-length", "0")))
        body = Webhook(HOOK_SECRET).verify(text, headers)
        asked = Asked(line.split(" ")[1], headers, body)
        self.asked.append(asked)
        answer = self.answers[asked.path](asked)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is Never:
            await reader.read()
            return False
        if answer is Drop:
            return False
        raw = answer if isinstance(answer, Raw) else Raw(200, json.dumps(answer).encode())
        more = "".join(f"{name}: {value}\r\n" for name, value in raw.headers.items())
        writer.write(f"HTTP/1.1 {raw.status} X\r\nContent-Length: {len(raw.body)}\r\n{more}\r\n".encode() + raw.body)
        await writer.drain()
        return True


@asynccontextmanager
async def back_end() -> AsyncIterator[BackEnd]:
    one = BackEnd()
    await one.up()
    try:
        yield one
    finally:
        await one.down()

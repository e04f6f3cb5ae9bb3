"""A reader of server-sent events, as a browser's EventSource is one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.support.server import ServerProcess


class Events:
    """The events of one stream; `expect` takes the next of a kind."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, Any]] = []
        self.signs = 0  # of life
        self.last_id = ""

    async def begin(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def next(self, deadline_s: float = 15.0) -> tuple[str, Any]:
        """Return the next event but signs of life: its name and data. Raises EOFError at the end, TimeoutError."""
        async with asyncio.timeout(deadline_s):
            while True:
                text = await self._block()
                lines = dict(line.split(": ", 1) for line in text.split("\n") if line and not line.startswith(":"))
                self.last_id = lines.get("id", self.last_id)
                if lines.get("event") == "alive":
                    self.signs += 1
                elif lines:
                    found = lines["event"], json.loads(lines["data"])
                    self.seen.append(found)
                    return found

    async def expect(self, name: str, deadline_s: float = 15.0, **fields: Any) -> Any:
        """Return the data of the next event of this name with these fields; others are passed over."""
        async with asyncio.timeout(deadline_s):
            while True:
                event, data = await self.next(deadline_s)
                if event == name and all(data.get(key) == value for key, value in fields.items()):
                    return data

    async def body(self) -> Any:
        """Return the JSON of an answer that is no stream."""
        return json.loads(await self._reader.readexactly(int(self.headers["content-length"])))

    def close(self) -> None:
        self._writer.close()

    async def _block(self) -> str:
        """One event with its empty line; they come in chunks of HTTP/1.1, as the server cut them."""
        while True:
            if (end := self._text.find("\n\n")) >= 0:
                block, self._text = self._text[:end], self._text[end + 2 :]
                return block
            size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
            if not size:
                raise EOFError("the stream has ended")
            self._text += (await self._reader.readexactly(size)).decode()
            await self._reader.readexactly(2)

    _text = ""


@asynccontextmanager
async def watching(
    server: ServerProcess, path: str, token: str | None = None, headers: Mapping[str, str] = {}
) -> AsyncIterator[Events]:
    """Open a stream of the admin port; `path` is behind /api/v1/."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port, limit=2_000_000)
    bearer = server.token("watcher", "admin") if token is None else token
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"GET /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n{more}\r\n"
    writer.write(head.encode())
    events = Events(reader, writer)
    try:
        async with asyncio.timeout(5):
            await events.begin()
        yield events
    finally:
        events.close()

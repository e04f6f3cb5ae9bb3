"""The admin port's handlers on a real socket in this process, and a client that says what came back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from insightdesk_rt.api.audit_store import Entry
from insightdesk_rt.api.handler import Admin, NotFound
from insightdesk_rt.api.keys_and_scopes import AdminAccess, KeyFile
from insightdesk_rt.engine import tokens as auth

SECRET = b"s" * 32
KEYS = auth.VerificationKeys((auth.secret_key(SECRET, ("HS256",)),))


def token(role: str = "admin", ttl_s: int = 600) -> str:
    return auth.sign({"sub": "back-end", "role": role, "exp": int(time.time()) + ttl_s}, KEYS.keys[0])


class Audit(list[Entry]):
    """Keeps what would go into the audit log."""

    async def add(self, entry: Entry) -> None:
        self.append(entry)


def make_admin(max_body_bytes: int = 10_000, keys_file: str = "", audit: Audit | None = None) -> Admin:
    access = AdminAccess(lambda shown: auth.verify(shown, KEYS, time.time()), KeyFile(keys_file))
    record = (Audit() if audit is None else audit).add
    return Admin(access, record, "n1", ["rt.example"], max_body_bytes=max_body_bytes)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    text: str

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert {"code", "message"} <= set(found)
        return found


class Port:
    def __init__(self, number: int) -> None:
        self.number = number

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        bearer: str | None = "admin",
        headers: str = "",
        host: str = "localhost",
        raw: bytes | None = None,
    ) -> Reply:
        """Send a request; `bearer` "admin" is a good token, None none; `raw` is sent after the headers as it is."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}"
        if body is not None and "content-type:" not in headers.lower():
            head += "Content-Type: application/json\r\n"
        if bearer is not None:
            head += f"Authorization: Bearer {token() if bearer == 'admin' else bearer}\r\n"
        if raw is None:
            head += f"Content-Length: {len(content)}\r\n"
        return await self.send(head.encode() + b"\r\n" + (content if raw is None else raw))

    async def send_and_leave(self, method: str, path: str, body: bytes) -> None:
        """Send a whole request of an admin and close the connection without waiting for the answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {token()}\r\nContent-Length: {len(body)}\r\n\r\n"
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection("127.0.0.1", self.number)
            writer.write(head.encode() + body)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def send(self, data: bytes) -> Reply:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
            try:
                writer.write(data)
                await writer.drain()
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
                text = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
                return Reply(int(head[0].split(" ")[1]), headers, text)
            finally:
                writer.close()


@asynccontextmanager
async def a_port(admin: Admin, routes: list[Any]) -> AsyncIterator[Port]:
    application = Application(
        routes, default_handler_class=NotFound, default_handler_args={"admin": admin}, log_function=lambda handler: None
    )
    server = HTTPServer(application)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield Port(sockets[0].getsockname()[1])
    finally:
        server.stop()
        await server.close_all_connections()

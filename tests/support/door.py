"""The client port on a real socket in this process, with a receiver that records; and raw clients for it.

Only what stands above the transports is missing (auth, namespaces): `Recorder` lets everybody in and answers calls with
their own payload.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tornado.netutil import bind_sockets
from tornado.web import Application

from insightdesk_rt.engine.doors.client_port import ClientPort, PortSettings
from insightdesk_rt.engine.doors.engineio import socketio_handlers
from insightdesk_rt.engine.doors.fast_path.fast_path import FastPath, fast_path_allowed
from insightdesk_rt.engine.doors.handlers import ClientHealthHandler, NoHandler
from insightdesk_rt.engine.doors.listener import Times, make_http_server
from insightdesk_rt.engine.doors.native import native_handlers
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.transport.registry import ClientSettings
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.codec import Ack, Call, Connect


class Recorder:
    """A Receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.acks: list[Ack] = []
        self.ends: list[CloseReason] = []
        self.lefts: list[str] = []
        self.clients: list[Client] = []
        self.refuse: tuple[str, str] | None = None
        self.on_call: Callable[[Client, Call], None] | None = None

    def connect_received(self, client: Client, ask: Connect) -> None:
        self.clients.append(client)
        if self.refuse is not None:
            client.send(client.codec.refused(ask.namespace, *self.refuse))
            client.refused(ask.namespace, self.refuse[0])
            return
        client.session.accept(ask.namespace)
        client.send(client.codec.connected(ask.namespace, "sid-of-a-socket", "", False))

    def call_received(self, client: Client, call: Call) -> None:
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(client, call)
        elif call.ack_id is not None:
            client.send(client.codec.ack_text(call.namespace, call.ack_id, bytes(call.payload).decode()))

    def ack_received(self, client: Client, ack: Ack) -> None:
        self.acks.append(ack)

    def leave_received(self, client: Client, namespace: str) -> None:
        self.lefts.append(namespace)

    def client_ended(self, client: Client, why: CloseReason) -> None:
        self.ends.append(why)

    def payloads(self) -> list[str]:
        return [bytes(call.payload).decode() for call in self.calls]


class Door:
    """A running client port. `skew_ms` moves its clock forward."""

    def __init__(self, settings: PortSettings, limits: OutboxLimits, clients: ClientSettings) -> None:
        loop = asyncio.get_running_loop()
        self.skew_ms = 0
        self.recorder = Recorder()
        self.wheel = Wheel(20, lambda: int(loop.time() * 1000) + self.skew_ms)
        self.registry = ClientRegistry(self.wheel, limits=limits, settings=clients)
        self.client_port = ClientPort(self.registry, self.recorder, settings)
        self.number = 0  # of the TCP port
        self.connections: list[Http] = []
        self.by_tornado = 0  # connections that Tornado was given

    def client(self) -> Client:
        """The only client there is."""
        (client,) = self.registry.clients.values()
        return client

    def emit(self, *numbers: int, size: int = 0) -> None:
        """Send the only client a logged event for each number."""
        self.emit_to(self.client(), *numbers, size=size)

    @staticmethod
    def emit_to(client: Client, *numbers: int, size: int = 0) -> None:
        for number in numbers:
            client.send(client.codec.event("/tickets", "n", f'"{number}{"." * size}"'))


@asynccontextmanager
async def door(
    *,
    limits: OutboxLimits = OutboxLimits(),
    turning: bool = True,
    tls: ssl.SSLContext | None = None,
    send_buffer: int = 0,
    head_ms: int = 600_000,
    body_timeout_s: float = 30,
    connect_timeout_ms: int = 45_000,
    upgrade_timeout_ms: int = 10_000,
    message_timeout_ms: int = 120_000,
    max_clients_per_address: int = 0,
    max_connects_per_minute: int = 0,
    **settings: Any,
) -> AsyncIterator[Door]:
    """`turning`: the wheel turns. `send_buffer` makes the kernel's small, so that a slow reader shows early."""
    opened = Door(
        PortSettings(**settings),
        limits,
        ClientSettings(
            connect_timeout_s=connect_timeout_ms / 1000,  # type: ignore[arg-type]
            upgrade_timeout_s=upgrade_timeout_ms / 1000,  # type: ignore[arg-type]
            message_timeout_s=message_timeout_ms / 1000,  # type: ignore[arg-type]
            max_connections_per_address=max_clients_per_address,
            max_connects_per_connection_per_minute=max_connects_per_minute,
            max_unfinished_bytes_per_user=0,
            max_unfinished_bytes=0,
        ),
    )
    port = opened.client_port
    namespaces = ["/tickets", "/chat"]
    routes: list[Any] = [*socketio_handlers(port), *native_handlers(port, namespaces)]
    routes.append(("/healthz", ClientHealthHandler, {"port": port}))
    application = Application(routes, default_handler_class=NoHandler, default_handler_args={"port": port})
    over_limit = opened.registry.over_limit
    times = Times(head_ms / 1000, body_timeout_s, 10)  # type: ignore[arg-type]
    server = make_http_server(application, times, lambda setting: over_limit.update([setting]), ssl_options=tls)

    def take(connection: socket.socket, address: Any, head_s: float) -> None:
        opened.by_tornado += 1
        server.take(connection, address, head_s)

    way = FastPath(port, take, namespaces, head_ms=head_ms, unread_ms=10_000)
    first = None
    if fast_path_allowed(port, tls=tls is not None):
        first = way.take
    sockets = bind_sockets(0, "127.0.0.1")
    if send_buffer:
        for listening in sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server.add_sockets(sockets, first)
    opened.number = sockets[0].getsockname()[1]

    async def turn() -> None:
        while True:
            await asyncio.sleep(0.01)
            opened.wheel.turn()

    turner = asyncio.create_task(turn()) if turning else None
    try:
        yield opened
    finally:
        for connection in opened.connections:
            await connection.close()
        server.stop()
        way.close()
        await opened.registry.close(CloseReason.SHUTDOWN, 0.2)
        await server.close_all_connections()
        if turner is not None:
            turner.cancel()
            await asyncio.gather(turner, return_exceptions=True)


# ── raw HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body.decode()

    def __repr__(self) -> str:
        return f"{self.status} {self.body!r} {self.headers}"


class Http:
    """One TCP connection that speaks HTTP by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, door: Door, **how: Any) -> Http:
        sock = socket.socket()
        # small on purpose: one kernel takes in a megabyte for a client that does not read, another a tenth of it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", door.number))
        if "ssl" in how:
            how.setdefault("server_hostname", "127.0.0.1")
        connection = cls(*await asyncio.open_connection(sock=sock, **how))
        door.connections.append(connection)
        return connection

    def send(self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1"]
        given = dict(headers or {})
        if body is not None and "Transfer-Encoding" not in given:
            given.setdefault("Content-Length", str(len(body)))
        lines += [f"{name}: {value}" for name, value in given.items()]
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    async def receive(self, *, head: bool = False) -> Answer:
        start = await self.reader.readline()
        assert start.startswith(b"HTTP/1.1 "), f"not an answer: {start!r}"
        headers: dict[str, str] = {}
        while (line := await self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            name = name.strip().lower()
            headers[name] = ", ".join(filter(None, [headers.get(name), value.strip()]))
        length = int(headers.get("content-length", "0"))
        body = b"" if head else await self.reader.readexactly(length)
        return Answer(int(start.split()[1]), headers, body)

    async def ask(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        self.send(method, target, body, headers)
        return await self.receive(head=method == "HEAD")

    async def eof(self) -> bool:
        """Does the server end the connection (within the test's deadline)?"""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass  # the other side was first


# ── raw websocket ─────────────────────────────────────────────────────────────────────────────────────────────────────


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """A client's frame."""
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if not mask:
        return head + payload
    key = b"\x37\xfa\x21\x3d"  # RFC 6455 5.7; nothing here depends on which
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


class RawSocket:
    """A websocket by hand, for what no library would send."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.reader = http.reader

    @classmethod
    async def to(
        cls, door: Door, target: str, *, behind: bytes = b"", headers: dict[str, str] | None = None, **how: Any
    ) -> RawSocket:
        """`behind` is sent with the handshake, before its answer."""
        http = await Http.to(door, **how)
        http.send("GET", target, headers={**UPGRADE, **(headers or {})})
        http.writer.write(behind)
        answer = await http.receive()
        assert answer.status == 101, answer
        return cls(http)

    def send(self, data: bytes) -> None:
        self.http.writer.write(data)

    def say(self, text: str) -> None:
        self.send(frame(1, text.encode()))

    async def receive(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload."""
        first, second = await self.reader.readexactly(2)
        assert first & 0x70 == 0, "reserved bits"
        assert second < 0x80, "a server does not mask"
        size = second
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
        return first & 0x0F, await self.reader.readexactly(size)

    async def text(self) -> str:
        opcode, payload = await self.receive()
        assert opcode == 1, (opcode, payload)
        return payload.decode()

    async def closed(self) -> int:
        """Return the code of the close frame (1005: none), passing over messages; then the connection must end."""
        while True:
            opcode, payload = await self.receive()
            if opcode == 8:
                break
        self.send(frame(8, payload))
        assert await self.http.eof(), "the server keeps the connection"
        await self.close()
        return int.from_bytes(payload[:2], "big") if payload else 1005

    async def close(self) -> None:
        await self.http.close()


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}

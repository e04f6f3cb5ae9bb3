"""The same surface over what stays on Tornado: TLS on our own port, and permessage-deflate.

TLS: our frames over Tornado's stream, so the rules and the close codes are those of websocket.py. Deflate: Tornado's
protocol class, which owns the two zlib contexts; it is laxer about broken frames (unmasked ones pass, most errors end
without a code), and a connection of it keeps its handler and some 300 KB of contexts alive. Neither is the fast way:
where many clients are served, a proxy in front ends TLS and deflate is off.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketProtocol13

from insightdesk_rt.errors import CloseReason, TooBig
from insightdesk_rt.transport.websocket import DISCARD_BYTES, READ_BYTES, WebSocketTransport
from insightdesk_rt.wire.codec import Encoded
from insightdesk_rt.wire.frames import MAX_FRAGMENTS, Opcode

if TYPE_CHECKING:
    from insightdesk_rt.transport.client import Client
    from insightdesk_rt.transport.host import ClientHost

DEFLATE_FROM_BYTES = 1024  # below, deflate costs more than it saves; ws has the same threshold


class StreamTransport(WebSocketTransport):
    """Our frames over a Tornado stream. A Task reads it; it ends with the stream."""

    __slots__ = ("_kept", "_reading", "_stream")

    def __init__(
        self,
        stream: IOStream,
        host: ClientHost,
        limit_bytes: int,
        *,
        coded: bool,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        super().__init__(stream.socket, host, limit_bytes, coded=coded, max_fragments=max_fragments)
        self._stream = stream
        self._kept = 0  # bytes that the stream was given and the kernel has not taken
        self._reading: asyncio.Task[None] | None = None

    def start(self, client: Client, leftover: bytes = b"") -> None:
        self._client = client
        self._reader.heed(client.session)
        self._reading = asyncio.get_running_loop().create_task(self._read(leftover))

    async def _read(self, data: bytes) -> None:
        try:
            while True:
                client = self._client
                if client is None:
                    self._discarded += len(data)
                    if self._discarded > DISCARD_BYTES:
                        self.abort()
                elif data:
                    self._received(client, data)
                data = await self._stream.read_bytes(READ_BYTES, partial=True)
        except StreamClosedError as closed:
            lost = CloseReason.TRANSPORT_ERROR if closed.real_error else CloseReason.TRANSPORT_CLOSE
            self._ended(lost)

    def _send(self, data: bytes) -> int:
        self._host.bytes_out += len(data)
        if self._stream.closed():
            return 0  # the reading Task sees it too
        future = self._stream.write(data)
        if not future.done():
            self._kept += len(data)
            self._unsent = memoryview(data)  # something is in the way of pongs and of FIN
            self.writable = False
            future.add_done_callback(lambda _: self._taken(len(data)))
        return self._kept

    def _taken(self, count: int) -> None:
        self._kept -= count
        client = self._client
        if client is not None:
            client.outbox.sent(count)
        if self._kept:
            return
        self._unsent = None
        if client is None:
            self._shut()
            return
        pong, self._pong = self._pong, None
        if pong is not None:
            self._send(pong)
        if self._unsent is None:
            self.writable = True
            client.outbox.drained()

    def _shut(self) -> None:
        if self._stream.closed():
            return
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    def abort(self) -> None:
        self._client = None
        self._host.lingered(self)
        self._stream.close()  # ends the reading Task


class DeflateTransport:
    """Tornado's own protocol, with permessage-deflate. Its handler passes on what it is called for."""

    name = "websocket"
    most = 0
    unfinished = 0  # Tornado does not say
    __slots__ = ("_client", "_coded", "_host", "_kept", "_protocol", "writable")

    def __init__(self, protocol: WebSocketProtocol13, host: ClientHost, *, coded: bool) -> None:
        self._protocol = protocol
        self._host = host
        self._coded = coded
        self._client: Client | None = None
        self._kept = 0
        self.writable = True

    def start(self, client: Client, leftover: bytes = b"") -> None:
        """`leftover` is Tornado's business here."""
        self._client = client

    def received(self, message: str | bytes) -> None:
        client = self._client
        if client is not None:
            self._host.bytes_in += len(message)
            client.heard()
            if len(message) > client.session.most_bytes:  # Tornado has read it, by then
                client.violated(self, TooBig("a message before CONNECT", over="max_connect_bytes"))
                return
            client.received(self, message)

    def heard(self) -> None:
        """A control frame came."""
        if self._client is not None:
            self._client.heard()

    def closed(self) -> None:
        """The connection has ended, by whoever's doing."""
        client, self._client = self._client, None
        self._host.lingered(self)
        if client is not None:
            client.lost(self, CloseReason.TRANSPORT_CLOSE)

    def write(self, messages: list[Encoded]) -> int:
        for message in messages:
            if message.size < DEFLATE_FROM_BYTES or not message.text:
                self._watch(message.size, self._protocol.stream.write, message.frame)
                continue
            self._deflate(Opcode.TEXT, message.text.encode())
            for attachment in message.attachments:
                self._deflate(Opcode.BINARY, attachment)
        return self._kept

    def _deflate(self, opcode: Opcode, payload: bytes) -> None:
        # Of Tornado 6.6: write_message would make a Task for each message, whose failure somebody has to fetch.
        assert self._protocol._compressor is not None
        data = self._protocol._compressor.compress(payload)
        self._watch(len(data), self._protocol._write_frame, True, int(opcode), data, WebSocketProtocol13.RSV1)

    def _watch(self, size: int, write: Callable[..., asyncio.Future[None]], *args: Any) -> None:
        self._host.bytes_out += size
        try:
            future = write(*args)
        except StreamClosedError:
            return  # `closed` follows
        if not future.done():
            self._kept += size
            self.writable = False
            future.add_done_callback(lambda _: self._taken(size))

    def _taken(self, size: int) -> None:
        self._kept -= size
        if self._client is not None:
            self._client.outbox.sent(size)
            if not self._kept:
                self.writable = True
                self._client.outbox.drained()

    def close(self, why: CloseReason, code: int = 0) -> None:
        if self._client is not None:
            self._client = None
            self._host.linger(self)
            self._protocol.close(code or (why.close_code if self._coded else None))

    def abort(self) -> None:
        self._client = None
        self._host.lingered(self)
        self._protocol._abort()

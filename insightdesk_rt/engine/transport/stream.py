"""StreamTransport: websockets on Tornado's stream, for TLS on our own port and for permessage-deflate.

The frames are read and written by our code, so rules, limits and close codes are those of websocket.py. Both are slower
than a plain socket: with many clients, a proxy in front terminates TLS, and deflate is off.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tornado.iostream import IOStream, StreamClosedError

from insightdesk_rt.engine.errors import CloseReason, TooBig, WireError
from insightdesk_rt.engine.transport.websocket import DISCARD_BYTES, READ_BYTES, WebSocketTransport
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.frames import MAX_FRAGMENTS, FrameReader, Opcode, packed_frame

if TYPE_CHECKING:
    from insightdesk_rt.engine.transport.client import Client
    from insightdesk_rt.engine.transport.client_registry import ClientRegistry

LEVEL = 6  # zlib's own, and ws's
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 7.2.1: the end of each message, left out on the wire
DEFLATE_FROM_BYTES = 1024  # below, deflate costs more than it saves; ws has the same threshold


class StreamTransport(WebSocketTransport):
    """Our frames over a Tornado stream. A task reads the stream and ends with it."""

    __slots__ = ("_kept", "_reading", "_stream")

    def __init__(
        self,
        stream: IOStream,
        registry: ClientRegistry,
        limit_bytes: int,
        *,
        coded: bool,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        super().__init__(stream.socket, registry, limit_bytes, coded=coded, max_fragments=max_fragments)
        self._stream = stream
        self._kept = 0  # bytes that the stream has and the kernel has not taken
        self._reading: asyncio.Task[None] | None = None

    def start(self, client: Client, leftover: bytes = b"") -> None:
        self._client = client
        self._reader.limit_by(client.session)
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
        self._registry.bytes_out += len(data)
        if self._stream.closed():
            return 0  # the reading task notices it too
        future = self._stream.write(data)
        if not future.done():
            self._kept += len(data)
            self._unsent = memoryview(data)  # pongs and FIN must wait for it
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
        self._drained(client)

    def _shut(self) -> None:
        if self._stream.closed():
            return
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    def abort(self) -> None:
        self._client = None
        self._registry.lingered(self)
        self._stream.close()  # ends the reading task


class Packer:
    """The two zlib contexts of a connection, as its handshake negotiated them (RFC 7692 7.1): some 300 KB.

    Each is created when it is first needed: a client that has not joined a namespace is sent nothing long, so it has
    none.
    """

    def __init__(self, parameters: Mapping[str, str | None]) -> None:
        own_bits = -int(parameters.get("server_max_window_bits") or zlib.MAX_WBITS)
        peer_bits = -int(parameters.get("client_max_window_bits") or zlib.MAX_WBITS)
        self._new_pack = partial(zlib.compressobj, LEVEL, zlib.DEFLATED, own_bits)
        self._new_unpack = partial(zlib.decompressobj, peer_bits)
        self._keeps_pack = "server_no_context_takeover" not in parameters
        self._keeps_unpack = "client_no_context_takeover" not in parameters
        self._pack: Any = None
        self._unpack: Any = None

    def pack(self, data: bytes) -> bytes:
        pack = self._pack or self._new_pack()
        if self._keeps_pack:
            self._pack = pack
        return (pack.compress(data) + pack.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]

    def unpack(self, data: bytes, max_message_bytes: int) -> bytes:
        """Decompress a message. Raises TooBig before it exceeds `max_message_bytes`, WireError (1007) for bad data."""
        unpack = self._unpack or self._new_unpack()
        if self._keeps_unpack:
            self._unpack = unpack
        try:
            unpacked = unpack.decompress(data + TAIL, max_message_bytes + 1)
        except zlib.error:
            raise WireError("a compressed message is invalid", 1007) from None
        if unpack.eof:
            self._unpack = None  # RFC 7692 7.2.3.4: a message may end its stream
        if len(unpacked) > max_message_bytes:
            raise TooBig(f"message over {max_message_bytes} bytes when unpacked")
        return unpacked


class DeflateTransport(StreamTransport):
    """Compressed messages, over plain TCP or TLS, with the same frames, rules and limits."""

    __slots__ = ("_packer",)

    def __init__(
        self,
        stream: IOStream,
        registry: ClientRegistry,
        limit_bytes: int,
        *,
        coded: bool,
        max_fragments: int,
        parameters: Mapping[str, str | None],
    ) -> None:
        super().__init__(stream, registry, limit_bytes, coded=coded, max_fragments=max_fragments)
        self._packer = Packer(parameters)
        self._reader = FrameReader(limit_bytes, max_fragments, unpack=self._packer.unpack)

    def write(self, messages: list[Encoded]) -> int:
        return self._send(b"".join(map(self._framed, messages)))

    def _framed(self, message: Encoded) -> bytes:
        if message.size < DEFLATE_FROM_BYTES or not message.text:
            return message.frame
        text = packed_frame(Opcode.TEXT, self._packer.pack(message.text.encode()))
        return text + b"".join(packed_frame(Opcode.BINARY, self._packer.pack(one)) for one in message.attachments)

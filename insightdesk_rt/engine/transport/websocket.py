"""WebSocketTransport: a websocket on a plain TCP socket, after the fast path or Tornado has done the handshake.

    OPEN ──close(), peer's CLOSE, an error of the peer──▶ CLOSING ──peer's FIN, or the deadline──▶ ENDED
    OPEN ──peer's FIN or RST──▶ ENDED

Each wake-up is one recv, whose frames are all handled; each flush is one send. Writability is watched only after a
partial send. The class has only slots: an idle websocket costs a socket, a reader and this object. In CLOSING our close
frame has been sent (or is queued behind unsent bytes), the writing side is shut down, and input is discarded, because
closing a socket with unread bytes sends RST, and the peer would lose the close frame.

Measured on one machine: a Socket.IO call with its ack takes a sixth of the CPU of a bare echo on Tornado's frame loop.
Client, session and transport take 1.6 (native) to 1.7 KB of Python's memory. With a joined socket and everything else
the process takes 5 KB per client (docs/performance.md).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tornado.iostream import IOStream

from insightdesk_rt.engine.errors import CloseReason, WireError
from insightdesk_rt.engine.transport.poller import READ, WRITE
from insightdesk_rt.engine.transport.tornado_private import release_socket
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.frames import (
    MAX_FRAGMENTS,
    NO_CODE,
    FrameReader,
    Opcode,
    close_frame,
    parse_close,
    pong_frame,
)

if TYPE_CHECKING:
    from insightdesk_rt.engine.transport.client import Client
    from insightdesk_rt.engine.transport.client_registry import ClientRegistry

READ_BYTES = 16_384  # 2,300 frames of 7 bytes take some 5 ms; then other clients have their turn
TEXT, BINARY, PING, CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.CLOSE
# Discarded after our close frame: enough for data that was in flight, but not for a peer that goes on sending.
DISCARD_BYTES = 4 * 1024 * 1024


def take_over(stream: IOStream) -> tuple[socket.socket, bytes]:
    """Return the socket of a Tornado stream, and the bytes Tornado had read ahead. Closes the stream, not the socket.

    Raises ConnectionError if the stream is closed, or if the answer to the handshake is not sent yet, because then the
    peer does not read at all.
    """
    if stream.closed() or stream.writing():
        stream.close()
        raise ConnectionError("the peer disconnected during the handshake")
    sock, leftover = release_socket(stream)
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # we join what belongs together ourselves
    return sock, leftover


class WebSocketTransport:
    """The transport of one client, which owns it until it is closed. `coded`: close frames carry our close codes.

    The codes are `CloseReason.close_code`. Socket.IO's close frames carry none (its clients expect 1005), except for
    errors in frames (1002, 1007, 1009).
    """

    name = "websocket"
    max_messages = 0  # no limit
    __slots__ = (
        "_client",
        "_coded",
        "_discarded",
        "_held",
        "_pong",
        "_reader",
        "_registry",
        "_sock",
        "_unsent",
        "writable",
    )

    def __init__(
        self,
        sock: socket.socket,
        registry: ClientRegistry,
        limit_bytes: int,
        *,
        coded: bool,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        self._sock = sock
        self._registry = registry
        self._reader = FrameReader(limit_bytes, max_fragments)
        self._coded = coded
        self._client: Client | None = None  # None before `start`, and from CLOSING on
        self._unsent: memoryview | None = None  # bytes that the kernel did not take
        self._pong: bytes | None = None  # the answer to the last ping; waits until `_unsent` is sent
        self._discarded = 0
        self._held = 0  # bytes of an unfinished message, as the registry knows
        self.writable = True

    def start(self, client: Client, leftover: bytes = b"") -> None:
        """Start reading. `leftover` are bytes that were read before."""
        self._client = client
        self._reader.limit_by(client.session)
        self._registry.poller.watch(self._sock.fileno(), self)
        if leftover:
            self._received(client, leftover)

    @property
    def unfinished(self) -> int:
        return self._reader.unfinished

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    def readable(self) -> None:
        """hot: once per wake-up."""
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._ended(CloseReason.TRANSPORT_ERROR)
            return
        client = self._client
        if not data:
            self._ended(CloseReason.TRANSPORT_CLOSE)
        elif client is not None:
            self._received(client, data)
        else:
            self._discarded += len(data)
            if self._discarded > DISCARD_BYTES:
                self.abort()

    def failed(self) -> None:
        self.readable()

    def _received(self, client: Client, data: bytes) -> None:
        self._registry.bytes_in += len(data)
        client.heard()
        wrong: WireError | None = None
        try:
            messages = self._reader.feed(data)
            if self._reader.kept != self._held:
                self._held = self._reader.kept
                client.holds(self._held)
                if self._client is None:  # it holds too much
                    return
        except WireError as error:
            messages, wrong = list(error.messages), error
        else:
            if len(messages) == 1 and messages[0][0] is TEXT:  # nearly always
                client.received(self, messages[0][1])
                return
        pongs: list[bytes] = []
        goodbye: bytes | None = None
        for opcode, message in messages:
            if opcode is TEXT or opcode is BINARY:
                client.received(self, message)
                if self._client is None:
                    return
            elif opcode is PING:
                pongs.append(pong_frame(message))  # type: ignore[arg-type]
            elif opcode is CLOSE:
                goodbye = message  # type: ignore[assignment]
        if pongs:
            self._answer_pings(pongs)
        if goodbye is not None:
            wrong = self._answer_close(client, goodbye)
        if wrong is not None:
            client.violated(self, wrong)

    def _answer_pings(self, pongs: list[bytes]) -> None:
        """Answer each ping if the peer reads, otherwise only the last one (RFC 6455 5.5.3 allows it).

        So a flood of pings queues a single frame (the ws 8.23 advisory).
        """
        if self._unsent is None:
            self._send(b"".join(pongs))
        else:
            self._pong = pongs[-1]

    def _answer_close(self, client: Client, payload: bytes) -> WireError | None:
        try:
            code = parse_close(payload)
        except WireError as wrong:
            return wrong
        self._goodbye(close_frame(None if code == NO_CODE else code))
        client.lost(self, CloseReason.TRANSPORT_CLOSE)
        return None

    # ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, messages: list[Encoded]) -> int:
        """hot: once per client per loop turn."""
        if len(messages) == 1:
            return self._send(messages[0].frame)
        return self._send(b"".join([message.frame for message in messages]))

    def _send(self, data: bytes) -> int:
        self._registry.bytes_out += len(data)
        if self._unsent is not None:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return len(self._unsent)
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return 0  # a broken pipe is also readable, and `readable` may end the client
        if sent == len(data):
            return 0
        self._unsent = memoryview(data)[sent:]
        self.writable = False
        self._registry.poller.wait_for(self._sock.fileno(), READ | WRITE)
        return len(self._unsent)

    def writable_again(self) -> None:
        unsent = self._unsent
        if unsent is None:
            return
        try:
            sent = self._sock.send(unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._ended(CloseReason.TRANSPORT_ERROR)
            return
        client = self._client
        if client is not None:
            client.outbox.sent(sent)
        if sent < len(unsent):
            self._unsent = unsent[sent:]
            return
        self._unsent = None
        self._registry.poller.wait_for(self._sock.fileno(), READ)
        self._drained(client)

    def _drained(self, client: Client | None) -> None:
        """All bytes were taken: send what waited for that, the FIN if there is no client any more, or else a pong."""
        if client is None:
            self._shut()
            return
        pong, self._pong = self._pong, None
        if pong is not None:
            self._send(pong)
        if self._unsent is None:
            self.writable = True
            client.outbox.drained()

    # ── ending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self, why: CloseReason, code: int = 0) -> None:
        if self._client is not None:
            number = code or (why.close_code if self._coded else 0)
            self._goodbye(close_frame(number or None))

    def _goodbye(self, frame: bytes) -> None:
        self._client = None
        self._registry.linger(self)
        self._send(frame)
        if self._unsent is None:
            self._shut()

    def _shut(self) -> None:
        """Shut down writing after our close frame. The peer answers with its close frame and its FIN."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    def _ended(self, why: CloseReason) -> None:
        client = self._client
        self.abort()
        if client is not None:
            client.lost(self, why)

    def abort(self) -> None:
        """Close the socket at once, without a close frame. Idempotent."""
        self._client = None
        if self._sock.fileno() < 0:
            return
        self._registry.lingered(self)
        self._registry.poller.forget(self._sock.fileno())
        self._sock.close()

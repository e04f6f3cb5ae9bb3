"""A connection on the short way: from when it was accepted until a websocket or Tornado takes it, or it ends.

    WAITING ──a request──▶ the way looks ──▶ PARKED, a poll ──`answer`──▶ SENDING ──▶ WAITING
                                         ──▶ a POST         ──`say`─────▶ SENDING ──▶ WAITING
                                         ──▶ `leave`: it is another's

PARKED, it is listened to for its end only; who pipelines is read on when the answer has left. WAITING, it is kept as
long as a head may take; SENDING, as long as its peer reads.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from tornado.httputil import format_timestamp

from insightdesk_rt.engine.doors.fast_path.request_head import RequestHead
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.poller import NOTHING, READ, WRITE
from insightdesk_rt.engine.transport.polling import PollingTransport
from insightdesk_rt.engine.transport.unread import unread_bytes

TEXT = b"text/plain; charset=UTF-8"
HTML = b"text/html"


class FastPathHandlers(Struct, frozen=True):
    """What a visitor needs of the way it is on: its times, who looks at its requests, who is told that it has left."""

    host: ClientRegistry
    head_ms: int
    unread_ms: int
    look: Callable[[HttpConnection], object]
    left: Callable[[HttpConnection], object]


class HttpConnection:
    """Raises nothing: a connection that fails is closed, and the session whose poll it carried is told."""

    __slots__ = (
        "_extra",
        "_last",
        "_left",
        "_polling",
        "_served",
        "_stirred",
        "_unsent",
        "_until_ms",
        "_way",
        "address",
        "sock",
    )

    def __init__(self, way: FastPathHandlers, sock: socket.socket, address: Any) -> None:
        self._way = way
        self.sock = sock
        self.address = address
        self._polling: PollingTransport | None = None  # whose poll is under way
        self._extra = b""  # headers of its answer
        self._unsent: memoryview | None = None  # of an answer; empty: it cannot be sent
        self._left = 0  # bytes that its peer had not read at the last look
        self._last = False  # the connection ends with the answer
        self._stirred = False  # PARKED, and there is more to read
        self._served = False
        self._until_ms = 0  # WAITING, the end of its patience

    def enter(self) -> None:
        self._way.host.poller.watch(self.sock.fileno(), self)
        self._wait()

    def _wait(self) -> None:
        self._until_ms = self._way.host.now_ms() + self._way.head_ms
        self._way.host.wheel.later(self, self._way.head_ms, self._late)

    @property
    def rest_s(self) -> float:
        """How much longer the head may take, of which there is a part."""
        return max(self._until_ms - self._way.host.now_ms(), 0) / 1000

    def _late(self) -> None:
        self._way.host.over_limit["handshake_timeout_s"] += not self._served
        self.close()

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    def readable(self) -> None:
        if self._unsent is not None or self._stirred:
            return  # it was named before that
        if self._polling is None:
            self._way.look(self)
        else:
            data = self.peek(1)
            if data:
                self._stirred = True
                self._way.host.poller.wait_for(self.sock.fileno(), NOTHING)
            elif data is not None:
                self.close()

    def failed(self) -> None:
        self.close()

    def peek(self, most: int) -> bytes | None:
        """Return what is there, and leave it there. Empty: the connection has ended; None: nothing is there."""
        try:
            return self.sock.recv(most, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def take(self, head: RequestHead) -> None:
        """Take a whole request that was peeked at."""
        self._served, self._last = True, head.last
        self.sock.recv(head.length + (head.body or 0))

    # ── answering ──────────────────────────────────────────────────────────────────────────────────────────────────

    def park(self, polling: PollingTransport, headers: Mapping[str, str]) -> None:
        """Let a transport answer the request that was taken, now or later, with `headers`."""
        self._way.host.wheel.cancel(self)
        self._polling = polling
        self._extra = lines(headers)
        polling.poll(self)

    def answer(self, payload: str) -> None:
        self._send(TEXT, payload.encode(), self._extra)

    def say(self, text: bytes, kind: bytes, headers: Mapping[str, str]) -> None:
        """Answer the request that was taken."""
        self._send(kind, text, lines(headers))

    def _send(self, kind: bytes, body: bytes, extra: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
        close = b"Connection: close\r\n" if self._last else b""
        data = b"".join((head % (kind, len(body)), _date.line(), close, extra, b"\r\n", body))
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._unsent = memoryview(b"")  # the kernel calls `failed` for it, where it may be closed
            self._way.host.poller.wait_for(self.sock.fileno(), NOTHING)
            self._wait()
            return
        if sent == len(data):
            self._sent()
            return
        self._unsent = memoryview(data)[sent:]
        self._way.host.poller.wait_for(self.sock.fileno(), WRITE)
        self._left = 0
        self._watch_reader()

    def writable_again(self) -> None:
        unsent = self._unsent
        if not unsent:
            return
        try:
            sent = self.sock.send(unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if sent < len(unsent):
            self._unsent = unsent[sent:]
            return
        self._unsent = None
        self._way.host.poller.wait_for(self.sock.fileno(), READ)
        self._sent()

    def _sent(self) -> None:
        """The answer has left, the next request may come."""
        polling, self._polling = self._polling, None
        if self._stirred:
            self._stirred = False
            self._way.host.poller.wait_for(self.sock.fileno(), READ)
        if self._last:
            self.close()
        else:
            self._wait()
        if polling is not None:
            polling.answered(self)

    def _watch_reader(self) -> None:
        self._way.host.wheel.later(self, self._way.unread_ms, self._look_at_reader)

    def _look_at_reader(self) -> None:
        """Cut who has read nothing since the last look: SENDING has no other end with a peer that only lives."""
        left = unread_bytes(self.sock) + len(self._unsent or b"")
        if left == self._left:
            self._way.host.over_limit["unread_timeout_s"] += 1
            self.close()
        else:
            self._left = left
            self._watch_reader()

    # ── leaving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, *, watched: bool = False) -> None:
        """Let go of the socket. `watched`: its next owner goes on being called when it can be read."""
        self._way.host.wheel.cancel(self)
        if not watched:
            self._way.host.poller.forget(self.sock.fileno())
        self._way.left(self)

    def close(self) -> None:
        self.leave()
        self.sock.close()
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.aborted(self)


class _Date:
    """The Date of answers (RFC 9110 6.6.1), written once a second."""

    def __init__(self) -> None:
        self._line = b""
        self._second = 0

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._line = second, b"Date: %b\r\n" % format_timestamp(second).encode()
        return self._line


_date = _Date()


def lines(headers: Mapping[str, str]) -> bytes:
    return b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()])

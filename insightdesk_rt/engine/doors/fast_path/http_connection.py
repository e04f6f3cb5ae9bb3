"""A connection on the fast path: from accept until a websocket or Tornado takes it, or it ends.

    WAITING ──a request──▶ the fast path looks ──▶ PARKED, a poll ──`answer`──▶ SENDING ──▶ WAITING
                                               ──▶ a POST         ──`say`─────▶ SENDING ──▶ WAITING
                                               ──▶ `leave`: the socket has another owner

A PARKED connection is watched only for its end; a request that was pipelined behind the poll is read when the answer
has been sent. A WAITING connection is kept as long as a head may take; a SENDING one, as long as its peer reads.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from insightdesk_rt.engine.doors.admission import TEXT
from insightdesk_rt.engine.doors.answers import answer_fields, as_bytes
from insightdesk_rt.engine.doors.fast_path.request_head import PlainRequest
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.poller import NOTHING, READ, WRITE
from insightdesk_rt.engine.transport.polling import PollingTransport
from insightdesk_rt.engine.transport.unread import unread_bytes


class FastPathContext(Struct, frozen=True):
    """What a connection needs of its fast path: timeouts, and callbacks for a request and for the connection's end."""

    registry: ClientRegistry
    head_ms: int
    unread_ms: int
    look: Callable[[HttpConnection], object]
    left: Callable[[HttpConnection], object]


class HttpConnection:
    """One connection. It raises nothing: a failed connection is closed, and the session of its poll is notified."""

    __slots__ = (
        "_context",
        "_cors",
        "_last",
        "_left",
        "_pipelined",
        "_polling",
        "_served",
        "_unsent",
        "_until_ms",
        "address",
        "sock",
    )

    def __init__(self, context: FastPathContext, sock: socket.socket, address: Any) -> None:
        self._context = context
        self.sock = sock
        self.address = address
        self._polling: PollingTransport | None = None  # the transport whose poll is parked
        self._cors: Mapping[str, str] = {}  # CORS headers of its answer
        self._unsent: memoryview | None = None  # the rest of an answer; empty if it cannot be sent
        self._left = 0  # bytes that the peer had not read at the last check
        self._last = False  # the connection ends with the answer
        self._pipelined = False  # PARKED, and there is a request behind the poll
        self._served = False
        self._until_ms = 0  # when it is closed, if it is WAITING

    def enter(self) -> None:
        self._context.registry.poller.watch(self.sock.fileno(), self)
        self._wait()

    def _wait(self) -> None:
        self._until_ms = self._context.registry.now_ms() + self._context.head_ms
        self._context.registry.wheel.later(self, self._context.head_ms, self._late)

    @property
    def rest_s(self) -> float:
        """Seconds that the rest of a head may still take."""
        return max(self._until_ms - self._context.registry.now_ms(), 0) / 1000

    def _late(self) -> None:
        self._context.registry.over_limit["handshake_timeout_s"] += not self._served
        self.close()

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    def readable(self) -> None:
        if self._unsent is not None or self._pipelined:
            return  # the event is stale: the state changed after the kernel reported it
        if self._polling is None:
            self._context.look(self)
        else:
            data = self.peek(1)
            if data:
                self._pipelined = True
                self._context.registry.poller.wait_for(self.sock.fileno(), NOTHING)
            elif data is not None:
                self.close()

    def failed(self) -> None:
        self.close()

    def peek(self, max_bytes: int) -> bytes | None:
        """Return the received bytes, which stay in the socket; b"" if the connection has ended; None if none came."""
        try:
            return self.sock.recv(max_bytes, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def take(self, head: PlainRequest) -> None:
        """Remove a complete request from the socket, where it was only peeked at until now."""
        self._served, self._last = True, head.last
        self.sock.recv(head.length + (head.body or 0))

    # ── answering ──────────────────────────────────────────────────────────────────────────────────────────────────

    def park(self, polling: PollingTransport, cors: Mapping[str, str]) -> None:
        """Let a transport answer the taken request, now or later, with these CORS headers."""
        self._context.registry.wheel.cancel(self)
        self._polling = polling
        self._cors = cors
        polling.poll(self)

    def answer(self, payload: str) -> None:
        self.say(payload.encode(), TEXT, self._cors)

    def say(self, body: bytes, content_type: str, cors: Mapping[str, str]) -> None:
        """Answer the taken request. hot: once per request."""
        data = as_bytes(answer_fields(content_type, len(body), cors), body, last=self._last)
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._unsent = memoryview(b"")  # the kernel reports the failure, and then `failed` may close it
            self._context.registry.poller.wait_for(self.sock.fileno(), NOTHING)
            self._wait()
            return
        if sent == len(data):
            self._sent()
            return
        self._unsent = memoryview(data)[sent:]
        self._context.registry.poller.wait_for(self.sock.fileno(), WRITE)
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
        self._context.registry.poller.wait_for(self.sock.fileno(), READ)
        self._sent()

    def _sent(self) -> None:
        """The answer was sent; the next request may come."""
        polling, self._polling = self._polling, None
        if self._pipelined:
            self._pipelined = False
            self._context.registry.poller.wait_for(self.sock.fileno(), READ)
        if self._last:
            self.close()
        else:
            self._wait()
        if polling is not None:
            polling.answered(self)

    def _watch_reader(self) -> None:
        self._context.registry.wheel.later(self, self._context.unread_ms, self._look_at_reader)

    def _look_at_reader(self) -> None:
        """Close the connection if its peer has read nothing since the last check."""
        left = unread_bytes(self.sock) + len(self._unsent or b"")
        if left == self._left:
            self._context.registry.over_limit["unread_timeout_s"] += 1
            self.close()
        else:
            self._left = left
            self._watch_reader()

    # ── leaving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, *, watched: bool = False) -> None:
        """Give up the socket to its next owner. `watched`: the poller goes on watching it."""
        self._context.registry.wheel.cancel(self)
        if not watched:
            self._context.registry.poller.forget(self.sock.fileno())
        self._context.left(self)

    def close(self) -> None:
        self.leave()
        self.sock.close()
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.aborted(self)

"""PollingTransport: long polling. Parks one GET, and takes the packets of one POST at a time.

A Poll is the handler of a GET. It is parked here until there is something to send, and busy until its answer has left.
Between polls the transport is not writable, and messages wait in the outbox. While a websocket probes (`hurry`) no GET
is parked: each is answered at once, with a noop if there is nothing else. One noop would not be enough, because a stock
client may poll again before it has seen `3probe`. Rules: Node's engine.io 6.6, transports/polling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic_ns
from typing import Any, Protocol

from insightdesk_rt.engine.errors import CloseReason, WireError
from insightdesk_rt.engine.transport.base import TransportClient
from insightdesk_rt.engine.transport.registry import Registry
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.engine import CLOSE, NOOP
from insightdesk_rt.engine.wire.engineio import decode_payload, encode_payload

# A payload of a megabyte can hold 500,000 packets (CVE-2020-36048); other clients have a turn in between.
TURN_NS = 2_000_000

# The client ended the session or is unreachable: its next poll finds an unknown session and no close packet.
NO_FAREWELL = frozenset(
    {
        CloseReason.TRANSPORT_CLOSE,
        CloseReason.TRANSPORT_ERROR,
        CloseReason.PING_TIMEOUT,
        CloseReason.PARSE_ERROR,
        CloseReason.TOO_BIG,
        CloseReason.CLIENT_CLOSE,
    }
)

# The client should reconnect by itself. After a close packet on a poll python-socketio's client does not (Node's does).
# Both do if they get their last messages and then find the session unknown.
RECONNECTS = frozenset(
    {
        CloseReason.TOKEN_EXPIRED,
        CloseReason.SLOW_CONSUMER,
        CloseReason.UNAVAILABLE,
        CloseReason.DRAINED,
        CloseReason.SHUTDOWN,
        CloseReason.SENT_AWAY,
    }
)


class Poll(Protocol):
    """A GET that can be answered once. It calls `answered` when the answer has left, or `aborted` if it cannot."""

    def answer(self, payload: str) -> None: ...


class Post(Protocol):
    """A POST whose body is being read."""

    def abort(self) -> None: ...


class PollingTransport:
    name = "polling"
    unfinished = 0  # a POST has a timeout of its own
    max_messages = 15  # python-engineio's client gives up on a payload of more than 16 packets; one is left for CLOSE
    __slots__ = ("_client", "_hurry", "_last", "_poll", "_post", "_registry", "writable")

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry
        self._client: TransportClient | None = None  # None before `start` and after the end
        self._poll: Poll | None = None
        self._post: Post | None = None
        self._last: list[Encoded] = []  # last messages, while no poll was open
        self._hurry = False
        self.writable = False

    def start(self, client: TransportClient) -> None:
        self._client = client

    # ── GET ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def parked(self) -> bool:
        """Is there an open GET, or an answer that has not left yet?"""
        return self._poll is not None

    def poll(self, poll: Poll) -> bool:
        """Answer the GET or park it. False: there is another open GET, and the session is closed."""
        client = self._client
        if client is None:
            return False
        if self._poll is not None:
            client.close(CloseReason.TRANSPORT_ERROR)
            return False
        self._poll = poll
        self.writable = True
        client.outbox.drained()
        if self.writable and self._hurry:
            self._answer([NOOP])
        return True

    def answered(self, poll: Poll) -> None:
        """The answer has left; the next GET may come."""
        if self._poll is poll:
            self._poll = None

    def aborted(self, poll: Poll) -> None:
        """The client aborted its GET or did not read the answer. Messages may be lost, so the session ends."""
        if self._poll is not poll:
            return
        self._poll = None
        self.writable = False
        client, self._client = self._client, None
        if client is not None:
            client.lost(self, CloseReason.TRANSPORT_ERROR)

    def hurry(self, on: bool) -> None:
        """While on (a websocket probes), park no GET, and answer the one that is parked."""
        self._hurry = on
        if on and self.writable:
            self._answer([NOOP])

    def _answer(self, messages: list[Encoded]) -> None:
        assert self._poll is not None
        self.writable = False
        payload = encode_payload(messages)
        self._registry.bytes_out += len(payload)
        self._poll.answer(payload)

    # ── POST ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, post: Post) -> bool:
        """A POST begins. False: another POST is being read; it is aborted, and the session is closed."""
        client, first = self._client, self._post
        if client is None:
            return False
        if first is not None:
            self._post = None
            client.close(CloseReason.TRANSPORT_ERROR)
            first.abort()
            return False
        self._post = post
        return True

    @property
    def posting(self) -> bool:
        return self._post is not None

    async def receive(self, body: str, limit_bytes: int) -> None:
        """Take the packets of a POST, with turns for others in between. If cancelled, some have been taken."""
        end_ns = monotonic_ns() + TURN_NS
        for _ in self.take(body, limit_bytes):
            if monotonic_ns() > end_ns:
                await asyncio.sleep(0)
                end_ns = monotonic_ns() + TURN_NS

    def take(self, body: str, limit_bytes: int) -> Iterator[None]:
        """Take the packets of a POST, in order. A bad packet closes the session after the packets before it.

        Yields after each packet. A session that ends or moves to a websocket in between takes no more.
        """
        client = self._client
        if client is None:
            return
        self._registry.bytes_in += len(body)
        client.heard()
        try:
            for packet in decode_payload(body, limit_bytes):
                client.received(self, packet)
                if self._client is None:
                    return
                yield
        except WireError as wrong:
            client.violated(self, wrong)

    def end(self, post: Post) -> None:
        """The POST was answered, or refused without ending the session."""
        if self._post is post:
            self._post = None

    def broken(self, post: Post) -> None:
        """The connection of a POST was lost before its body was complete."""
        if self._post is post:
            self._post = None
            if self._client is not None:
                self._client.close(CloseReason.TRANSPORT_ERROR)

    # ── the transport's interface ──────────────────────────────────────────────────────────────────────────────────

    def write(self, messages: list[Encoded]) -> int:
        if self.writable:
            self._answer(messages)
            return 0
        self._last += messages
        return sum([message.size for message in messages])

    def close(self, why: CloseReason, code: int = 0) -> None:
        """Send the last messages and the close packet with the parked GET, or with the next one if that makes sense."""
        client, self._client = self._client, None
        if client is None:
            return
        last, self._last = self._last, []
        if why is CloseReason.CLIENT_CLOSE:  # the client sent a close packet: its poll is answered by a noop
            last.append(NOOP)
        elif why not in RECONNECTS:
            last.append(CLOSE)
        if self.writable:
            self._answer(last or [NOOP])
        elif why not in NO_FAREWELL and last:
            self._registry.keep_farewell(client.id, last)

    def retire(self) -> None:
        """End without a close packet: the websocket has taken over."""
        self._client = None
        if self.writable:
            self._answer([NOOP])

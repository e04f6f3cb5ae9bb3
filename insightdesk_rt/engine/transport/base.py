"""The interfaces between a client and its transports. Pure declarations, so that no two files import each other.

A Transport carries a client's bytes (websocket.py, stream.py, polling.py). TransportClient is what a transport uses of
the client it carries; Client (client.py) implements it.
"""

from __future__ import annotations

from typing import Protocol

from insightdesk_rt.engine.errors import CloseReason, WireError
from insightdesk_rt.engine.wire.codec import Encoded


class Transport(Protocol):
    """Carries one client's messages. Owned by its Client; reads by itself and calls `client.received`."""

    name: str  # "websocket" or "polling"; a bounded label of metrics
    max_messages: int  # that one write takes; 0: no limit
    writable: bool  # False: messages wait in the outbox until the transport calls `outbox.drained()`

    @property
    def unfinished(self) -> int:
        """The number of the incoming message that is not complete yet; 0 if there is none."""
        ...

    def write(self, messages: list[Encoded]) -> int:
        """Send the messages, in order. Return how many bytes of them and of earlier ones are still unsent.

        0 means that the kernel (or the parked poll) has taken them all. Called at most once per loop turn while
        `writable`, and once more before `close`, whether it is writable or not.
        """
        ...

    def close(self, why: CloseReason, code: int = 0) -> None:
        """Send the close frame or packet, then end. Does not call `client.lost`: that is for ends by the peer.

        `code` is the websocket close code where it says more than `why`.
        """
        ...


class TransportOutbox(Protocol):
    """What a transport uses of its client's outbox."""

    def sent(self, count: int) -> None: ...

    def drained(self) -> None: ...


class TransportClient(Protocol):
    """What a transport uses of its client; documented in client.py."""

    id: str

    @property
    def outbox(self) -> TransportOutbox: ...

    def heard(self) -> None: ...

    def received(self, transport: Transport, message: str | bytes) -> None: ...

    def violated(self, transport: Transport, wrong: WireError) -> None: ...

    def lost(self, transport: Transport, why: CloseReason) -> None: ...

    def close(self, why: CloseReason) -> None: ...

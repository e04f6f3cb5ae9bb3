"""The two interfaces of this floor: Transport (what carries a client's bytes) and Receiver (who is told what came).

`engine/dispatch/dispatch.py` implements Receiver; this floor only declares it, so that arrows keep pointing down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.wire.codec import Ack, Call, Connect, Encoded

if TYPE_CHECKING:
    from insightdesk_rt.engine.transport.client import Client


class Receiver(Protocol):
    """The up-calls. None of them may block or raise; none is called for a client after `gone`."""

    def asked(self, client: Client, ask: Connect) -> None: ...

    def called(self, client: Client, call: Call) -> None: ...

    def acked(self, client: Client, ack: Ack) -> None: ...

    def left(self, client: Client, namespace: str) -> None: ...

    def gone(self, client: Client, why: CloseReason) -> None: ...


class Transport(Protocol):
    """One carrier of one client's messages. Owned by its Client; reads by itself and calls `client.received`."""

    name: str  # "websocket" or "polling"; a bounded label of metrics
    most: int  # messages it takes at a time; 0: any number
    writable: bool  # False: messages wait in the outbox until the transport calls `outbox.drained()`

    @property
    def unfinished(self) -> int:
        """The number of the message that has begun to come in and is not whole; 0 if there is none."""
        ...

    def write(self, messages: list[Encoded]) -> int:
        """Take the messages, in order. Return how many bytes of them (and of earlier ones) are still unsent.

        0 means the peer's kernel (or parked poll) has them all. Called at most once per loop turn per client while
        `writable`, and once more, whether it is or not, before `close`.
        """
        ...

    def close(self, why: CloseReason, code: int = 0) -> None:
        """Say goodbye as this transport does, then end. Not called back: `client` is told only of ends by the peer.

        `code` is the websocket close code where one says more than `why`.
        """
        ...

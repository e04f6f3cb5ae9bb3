"""Outbox: the unsent messages of one client. Bounded, and written once per loop turn.

`put` queues a message and marks the outbox. At the end of the turn the node's Flusher hands each marked outbox to its
transport, so that all messages of a turn are one send. While the transport is not writable (the kernel did not take
everything, or no GET is parked), messages stay here, where volatile ones can still be dropped. Nothing else is ever
dropped: a client that is too far behind is closed, and resumes from the log.

A client that reads is never closed because of the answers to its own requests. An empty outbox accepts one message of
any size, and further calls of a client that is `behind` wait (`when_room`) until it has read half of its limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from time import monotonic_ns
from typing import Annotated

from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.settings import BytesLimit, CountLimit, Help, SettingsPart
from insightdesk_rt.engine.transport.base import Transport
from insightdesk_rt.engine.wire.codec import Encoded

log = logging.getLogger(__name__)

TURN_NS = 10_000_000  # some 1,500 writes
CLOCK_EVERY = 64  # writes between readings of the clock
CLOSED = 1 << 62  # more bytes than any limit, so a closed outbox takes the slow path of `put` without an extra check


class OutboxLimits(SettingsPart, frozen=True, gc=False):
    """How far a client may fall behind."""

    # engine.io has no limit (its oldest open complaint); centrifugo 1 MiB
    max_outbox_bytes: Annotated[BytesLimit, Help("unsent bytes at which a client is closed; 0: never")] = 1_048_576
    max_outbox_events: Annotated[CountLimit, Help("unsent events at which a client is closed; 0: never")] = 10_000
    volatile_outbox_bytes: Annotated[
        BytesLimit, Help("unsent bytes at which volatile events are dropped; 0: never")
    ] = 65_536


# Seconds. The publisher's time is known to the millisecond, so there are no finer bounds.
DELIVERY_BOUNDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Flusher:
    """Writes the outboxes that got messages in this loop turn, with one `call_soon` for all of them.

    After TURN_NS the rest waits for the next turn of the loop: a broadcast to 100,000 takes 0.7 s and blocks nobody.

    It also counts for all outboxes of the node: every queued message is written, dropped for one of three reasons, or
    still in an outbox.
    """

    __slots__ = ("_dirty", "_events", "_first", "delivery", "dropped_behind", "dropped_closed", "queued", "written")

    def __init__(self) -> None:
        self._dirty: list[Outbox] = []
        self._first = ""  # offset of the first logged event of this turn
        self._events = 0  # how many there are
        self.queued = 0
        self.written = 0  # handed to a transport
        self.dropped_behind = 0  # volatile messages to clients that are behind
        self.dropped_closed = 0  # messages that a client had not been sent when it ended, or was sent afterwards
        self.delivery = Histogram(DELIVERY_BOUNDS)  # seconds from events' publication to the end of the turn's writes

    def delivered(self, offset: str) -> None:
        """Note that a logged event was put into outboxes. Its offset has the millisecond of its publication.

        hot: once per event. All events of a turn count with the time of the first, which is the oldest. If all its
        clients were behind already, nothing is measured, because then the clients take the time.
        """
        if self._dirty:
            self._events += 1
            if self._events == 1:
                self._first = offset

    def mark(self, outbox: Outbox) -> None:
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(outbox)
        self.queued += 1  # the message it is marked for; counted here because this is called anyway

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        written, end_ns = 0, monotonic_ns() + TURN_NS
        for number, outbox in enumerate(dirty, 1):
            try:
                written += outbox.flush()
            except Exception:  # a bug in one client's transport must not cost the others their messages
                log.exception("flush failed")
            if not number % CLOCK_EVERY and monotonic_ns() > end_ns and number < len(dirty):
                self._go_on_with(dirty[number:])
                break
        self.written += written
        if self._events and not self._dirty:
            took_s = time.time() - int(self._first.partition("-")[0]) / 1000
            self.delivery.add_several(max(took_s, 0.0), self._events)  # another machine's clock may be ahead of ours
            self._events = 0

    def _go_on_with(self, rest: list[Outbox]) -> None:
        """Write the rest of a very large room in the next turn, after what else is due in the loop."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty = rest + self._dirty


class Outbox:
    __slots__ = ("_flusher", "_limits", "_queue", "_waiting", "bytes", "dropped", "transport", "written")

    def __init__(self, limits: OutboxLimits, flusher: Flusher) -> None:
        self._limits = limits
        self._flusher = flusher
        self._queue: list[Encoded] | None = None
        self._waiting: list[Callable[[], None]] | None = None  # called once there is room
        self.transport: Transport | None = None
        self.bytes = 0  # queued here, or held by the transport and not yet taken by the kernel
        self.dropped = 0  # volatile messages
        self.written = 0  # messages handed to a transport

    def put(self, message: Encoded) -> CloseReason | None:
        """Queue the message for the end of this turn. Returns why the client must be closed, if it must.

        hot: one call per client per event.
        """
        bytes_before = self.bytes
        held = bytes_before + len(message.frame)  # its `size`, without a call
        limits = self._limits
        if held > limits.max_outbox_bytes or (message.volatile and bytes_before >= limits.volatile_outbox_bytes):
            return self._put_full(message)
        queue = self._queue
        if queue is None:
            self._queue = [message]
            self._flusher.mark(self)
        elif len(queue) < limits.max_outbox_events:
            queue.append(message)
            self._flusher.queued += 1
        else:
            return self._put_full(message)
        self.bytes = held
        return None

    def _put_full(self, message: Encoded) -> CloseReason | None:
        """The client is behind: drop the volatile message, or drop the queued volatile ones in favour of this one."""
        flusher = self._flusher
        if self.bytes >= CLOSED:
            flusher.queued += 1
            flusher.dropped_closed += 1
            return None
        if message.volatile:
            flusher.queued += 1
            self.dropped += 1
            flusher.dropped_behind += 1
            return None
        queue = self._queue or []
        kept = [queued for queued in queue if not queued.volatile]
        freed = sum([queued.size for queued in queue if queued.volatile])
        left = self.bytes - freed
        held = left + message.size
        # An empty outbox takes a message of any size: it is the server's, and a client that reads is not behind.
        if (left and held > self._limits.max_outbox_bytes) or len(kept) >= self._limits.max_outbox_events:
            flusher.queued += 1
            flusher.dropped_closed += 1
            return CloseReason.SLOW_CONSUMER
        self.dropped += len(queue) - len(kept)
        flusher.dropped_behind += len(queue) - len(kept)
        if self._queue is None:
            flusher.mark(self)
        else:
            flusher.queued += 1
        self._queue = [*kept, message]
        self.bytes = held
        return None

    @property
    def behind(self) -> bool:
        """Is the outbox more than half full? Then the client's own requests should not add to it now."""
        return CLOSED > self.bytes > self._limits.max_outbox_bytes >> 1

    def when_room(self, call: Callable[[], None]) -> None:
        """Run `call` once the outbox is not `behind` any more, or closed. It runs during a write and must not write."""
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(call)

    def _room(self) -> None:
        if self._waiting is not None and not self.behind:
            waiting, self._waiting = self._waiting, None
            for call in waiting:
                call()

    @property
    def waiting(self) -> int:
        """How many messages are queued here."""
        return len(self._queue) if self._queue else 0

    def flush(self) -> int:
        """Hand the queue to the transport if it is writable; return the number of messages.

        Called by the Flusher, and when the transport is writable again; the caller counts them.
        """
        queue, transport = self._queue, self.transport
        if queue is None or transport is None or not transport.writable:
            return 0
        max_messages = transport.max_messages
        if max_messages and len(queue) > max_messages:  # the rest goes with the next poll
            self._queue = queue[max_messages:]
            self.bytes = transport.write(queue[:max_messages]) + sum([message.size for message in self._queue])
            self.written += max_messages
            self._room()
            return max_messages
        self._queue = None
        self.bytes = transport.write(queue)
        self.written += len(queue)
        if self._waiting is not None:
            self._room()
        return len(queue)

    def flush_behind(self, head: bytes) -> None:
        """Write the queue now, in one write behind bytes that are not a message: the answer to a handshake."""
        queue, self._queue = self._queue or [], None
        assert self.transport is not None
        self.bytes = self.transport.write([Encoded("", head), *queue])
        self.written += len(queue)
        self._flusher.written += len(queue)

    def sent(self, count: int) -> None:
        """The kernel took `count` of the bytes that the transport was keeping."""
        self.bytes = max(self.bytes - count, 0)
        self._room()

    def drained(self) -> None:
        """The transport has sent everything and is writable again."""
        self.bytes = sum([queued.size for queued in self._queue]) if self._queue else 0
        self._flusher.written += self.flush()
        self._room()

    def take(self) -> list[Encoded]:
        """Return the queue, for the transport, and empty it."""
        queue, self._queue = self._queue, None
        if not queue:
            return []
        self._flusher.written += len(queue)
        self.bytes -= sum([message.size for message in queue])
        self._room()
        return queue

    def close(self) -> None:
        """Drop the queue; messages that are put from now on are dropped at once."""
        self._flusher.dropped_closed += self.waiting
        self._queue = None
        self.transport = None
        self.bytes = CLOSED
        self._room()

"""Server-sent events: framing, keep-alive, and the end of the stream when the reader leaves or loses its permission.

https://html.spec.whatwg.org/multipage/server-sent-events.html. The queue of a slow reader is bounded: when
it is full, new events are dropped and counted. A reader that reads nothing for TAKES_NOTHING_S is disconnected.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from insightdesk_rt.api.handler import Handler
from insightdesk_rt.api.keys_and_scopes import Principal, Scope
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

MAX_WAITING = 1_000  # events
MAX_WAITING_BYTES = 1_000_000
TAKES_NOTHING_S = 20.0
PAUSE = 5  # the pause after a turn of work is at least this many times as long as the turn
ALIVE_S = 10.0  # between keep-alives, and between checks of the permission; proxies wait 60 s or more
ALIVE = "event: alive\ndata: {}\n\n"  # not a comment: EventSource hides comments, and events without data, from scripts
# Enough for two browsers full of tabs: over HTTP/1.1 a browser opens six connections to a server.
MAX_OF_ONE = 12
MAX_STREAMS = 48  # of one node, because each costs work while it is open; four callers can use their maximum


class Streams:
    """Counts the open streams of each caller on this node."""

    def __init__(self) -> None:
        self._open: Counter[Principal] = Counter()

    @contextmanager
    def place(self, who: Principal) -> Iterator[None]:
        """Count a stream as open inside the `with` block.

        Raises RtError RATE_LIMITED if the caller, UNAVAILABLE if the node, has its maximum open.
        """
        if self._open[who] >= MAX_OF_ONE:
            raise RtError("RATE_LIMITED", f"{who.name} has {MAX_OF_ONE} streams open on this node; close one of them.")
        if self._open.total() >= MAX_STREAMS:
            raise RtError("UNAVAILABLE", f"This node has {MAX_STREAMS} streams open, its maximum; try another node.")
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]


class StreamHandler(Handler):
    """The base of handlers that answer with a stream. They must take a place in `streams` before any work for it."""

    streams: Streams
    stream: EventStream | None = None

    def on_connection_close(self) -> None:
        if self.stream is not None:
            self.stream.end("gone")


class EventStream:
    """A stream of events as the answer to a GET. `put` queues events from anywhere; `run` sends them until the end."""

    def __init__(self, handler: StreamHandler, scope: Scope) -> None:
        self._handler = handler
        self._scope = scope  # what the reader must keep
        handler.stream = self
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._dropped = 0
        self._more = asyncio.Event()
        self._sent = asyncio.Event()  # set while nothing waits to be sent
        self._over = ""
        self._looked_s = time.monotonic()  # when its permission was last checked

    def put(self, event: str, data: str, id: str = "") -> bool:
        """Queue an event with JSON text as its data, or count it as dropped. Returns whether it is queued.

        An event of any size fits into an empty queue. A reader that connects again sends the last `id` it received.
        """
        if kept := not self._waiting or (
            len(self._waiting) < MAX_WAITING and self._bytes + len(data) <= MAX_WAITING_BYTES
        ):
            text = f"event: {event}\ndata: {data}\n\n"
            if id:
                text = f"id: {id}\n{text}"
            self._sent.clear()
            self._waiting.append(text)
            self._bytes += len(text)
        else:
            self._dropped += 1
        self._more.set()
        return kept

    async def sent(self) -> None:
        """Wait until all queued events are written: for streams that wait for a slow reader and drop nothing."""
        await self._sent.wait()

    def end(self, code: str) -> None:
        """End the stream with a code of errors.py as the reason."""
        self._over = self._over or code
        self._more.set()

    async def run(self, work: Callable[[], Awaitable[None]] | None = None, every_s: float = ALIVE_S) -> None:
        """Send events until the stream ends. `work` runs at once and then every `every_s`, less often if it takes long.

        An RtError from `work` ends the stream.
        """
        handler = self._handler
        handler.set_header("Content-Type", "text/event-stream")
        handler.set_header("X-Accel-Buffering", "no")  # or nginx buffers it
        tasks = OwnedTasks(log)
        if work is not None:
            tasks.spawn(self._work(work, every_s), "the work for a stream")
        try:
            await self._write(": welcome\n\n")
            while not self._over:
                await self._send()
            await self._send_all()
            await self._write(f"event: end\ndata: {json.dumps({'code': self._over})}\n\n")
        except StreamClosedError:
            pass
        except TimeoutError:  # the reader reads nothing: the written data would wait forever
            cast(HTTP1Connection, handler.request.connection).close()
        finally:
            await tasks.close()

    async def _work(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Not periodic work: the pause grows with the cost of a turn, and a failure ends the stream."""
        while True:
            began_s = time.monotonic()
            try:
                await work()
            except RtError as refused:
                return self.end(refused.code)
            except Exception:  # without an end the reader would wait forever
                log.exception("the work for a stream failed")
                return self.end("INTERNAL")
            await asyncio.sleep(max(every_s, PAUSE * (time.monotonic() - began_s)))

    async def _send(self) -> None:
        """Send queued events, or a keep-alive if there are none. Check the reader's permission every ALIVE_S."""
        if time.monotonic() - self._looked_s >= ALIVE_S:
            self._looked_s = time.monotonic()
            try:
                await self._handler.still_may(self._scope)
            except RtError as refused:
                self._waiting.clear()
                self.end(refused.code)
                return
        try:
            async with asyncio.timeout(ALIVE_S):
                await self._more.wait()
        except TimeoutError:
            await self._write(ALIVE)
            return
        self._more.clear()
        await self._send_all()

    async def _send_all(self) -> None:
        while self._waiting:
            texts, self._bytes = "".join(self._waiting), 0
            self._waiting.clear()
            if self._dropped:  # they came after those in the queue
                texts += f'event: dropped\ndata: {{"count":{self._dropped}}}\n\n'
                self._dropped = 0
            await self._write(texts)
        self._sent.set()

    async def _write(self, text: str) -> None:
        self._handler.write(text)
        async with asyncio.timeout(TAKES_NOTHING_S):
            await self._handler.flush()

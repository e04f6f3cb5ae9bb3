"""Server-sent events of a handler: framing, a sign of life, and an end when the reader or its permission is gone.

https://html.spec.whatwg.org/multipage/server-sent-events.html. What waits for a slow reader is bounded: past it the
newest are dropped and counted, and a reader that takes nothing for a while is cut off.
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
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

MAX_WAITING = 1_000  # events
MAX_WAITING_BYTES = 1_000_000
TAKES_NOTHING_S = 20.0
PAUSE = 5  # times what a turn of work took: the least that it then leaves to others
ALIVE_S = 10.0  # between signs of life, and looks at the permission; a proxy in between waits for 60 s or more
ALIVE = "event: alive\ndata: {}\n\n"  # no comment: EventSource keeps those, and events without data, from scripts
# Two browsers full of tabs: over HTTP/1.1 one keeps six connections to a server, and waits with the seventh.
MAX_OF_ONE = 12
MAX_STREAMS = 48  # of one node: each costs work for as long as it is open; four who have all they may


class Streams:
    """Who has how many streams open on this node."""

    def __init__(self) -> None:
        self._open: Counter[Principal] = Counter()

    @contextmanager
    def place(self, who: Principal) -> Iterator[None]:
        """Count one for as long as this lasts. Raises RtError RATE_LIMITED: they have all they may; UNAVAILABLE: all
        are taken.
        """
        if self._open[who] >= MAX_OF_ONE:
            raise RtError("RATE_LIMITED", f"{who.name} has {MAX_OF_ONE} streams open on this node: close one of them.")
        if self._open.total() >= MAX_STREAMS:
            raise RtError("UNAVAILABLE", f"This node has {MAX_STREAMS} streams open, all it can keep: ask another one.")
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]


class StreamHandler(Handler):
    """The base of handlers whose answer goes on. They take a place before they do anything for it."""

    streams: Streams
    stream: EventStream | None = None

    def on_connection_close(self) -> None:
        if self.stream is not None:
            self.stream.end("gone")


class EventStream:
    """The answer of a GET, for as long as it lasts. `put` events from anywhere; `run` sends them until it is over."""

    def __init__(self, handler: StreamHandler, scope: Scope) -> None:
        self._handler = handler
        self._scope = scope  # what it takes to look on
        handler.stream = self
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._dropped = 0
        self._more = asyncio.Event()
        self._over = ""
        self._looked_s = time.monotonic()  # when its permission was last looked at

    def put(self, event: str, data: str) -> bool:
        """Send an event with JSON text as its data, or count it as dropped. Returns whether it will be sent.

        What waits alone may be as long as it is.
        """
        if kept := not self._waiting or (
            len(self._waiting) < MAX_WAITING and self._bytes + len(data) <= MAX_WAITING_BYTES
        ):
            text = f"event: {event}\ndata: {data}\n\n"
            self._waiting.append(text)
            self._bytes += len(text)
        else:
            self._dropped += 1
        self._more.set()
        return kept

    def end(self, code: str) -> None:
        """Say why and end it: a code of errors.py."""
        self._over = self._over or code
        self._more.set()

    async def run(self, work: Callable[[], Awaitable[None]] | None = None, every_s: float = ALIVE_S) -> None:
        """Return when it is over. `work` is done at once and every so often, less often when it takes long; RtError
        from it ends it.
        """
        handler = self._handler
        handler.set_header("Content-Type", "text/event-stream")
        handler.set_header("X-Accel-Buffering", "no")  # nginx would keep it until there is more
        working = asyncio.get_running_loop().create_task(self._work(work, every_s)) if work is not None else None
        try:
            await self._write(": welcome\n\n")
            while not self._over:
                await self._send()
            await self._send_all()
            await self._write(f"event: end\ndata: {json.dumps({'code': self._over})}\n\n")
        except StreamClosedError:
            pass
        except TimeoutError:  # it takes nothing: what was written would wait forever
            cast(HTTP1Connection, handler.request.connection).close()
        finally:
            if working is not None:
                working.cancel()

    async def _work(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            began_s = time.monotonic()
            try:
                await work()
            except RtError as refused:
                return self.end(refused.code)
            except Exception:  # the reader would wait for something that does not come any more
                log.exception("a stream could not go on")
                return self.end("INTERNAL")
            await asyncio.sleep(max(every_s, PAUSE * (time.monotonic() - began_s)))

    async def _send(self) -> None:
        """Send what waits, or a sign of life if nothing comes; every so often see whether the reader still may."""
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
            if self._dropped:  # when these were waiting already
                texts += f'event: dropped\ndata: {{"count":{self._dropped}}}\n\n'
                self._dropped = 0
            await self._write(texts)

    async def _write(self, text: str) -> None:
        self._handler.write(text)
        async with asyncio.timeout(TAKES_NOTHING_S):
            await self._handler.flush()

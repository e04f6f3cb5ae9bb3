"""Periodic work at a fixed rate: it skips late turns, logs failures, and runs until it is stopped.

It uses the monotonic clock. Tornado's PeriodicCallback uses the wall clock: when that is set back by an hour, it does
not run for an hour, and neither do leases and heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from insightdesk_rt.engine.errors import RtError

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None] | None]


class PeriodicWork:
    """Calls `work` every `every_s` seconds until `stop`. No turn begins while another one runs."""

    def __init__(self, every_s: float, work: Work, what: str) -> None:
        self._every_s = every_s
        self._work = work
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._next_s = self._loop.time() + every_s
        self._handle: asyncio.TimerHandle | None = self._loop.call_at(self._next_s, self._turn)
        self._running: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Stop. A turn that is running goes on to its end."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _turn(self) -> None:
        try:
            done = self._work()
        except Exception as failed:
            self._failed(failed)
            done = None
        if done is None:
            self._again()
        else:
            self._running = self._loop.create_task(self._finish(done), name=self._what)

    async def _finish(self, done: Awaitable[None]) -> None:
        try:
            await done
        except Exception as failed:
            self._failed(failed)
        finally:
            self._running = None
            self._again()

    def _again(self) -> None:
        if self._handle is not None:
            late_s = self._loop.time() - self._next_s
            self._next_s += (math.floor(late_s / self._every_s) + 1) * self._every_s
            self._handle = self._loop.call_at(self._next_s, self._turn)

    def _failed(self, failed: Exception) -> None:
        if isinstance(failed, RtError):
            log.debug("a turn was skipped", extra={"what": self._what, "why": failed.code})
        else:
            log.error("a turn failed", extra={"what": self._what}, exc_info=failed)


def start_periodic(every_ms: float, work: Work, what: str) -> PeriodicWork:
    """Start periodic work. `what` names it in the log."""
    return PeriodicWork(every_ms / 1000, work, what)


def only_if(condition: Callable[[], Awaitable[bool]], work: Callable[[], Awaitable[None]]) -> Work:
    """Return work that does nothing in a turn in which `condition` is false."""

    async def maybe() -> None:
        if await condition():
            await work()

    return maybe

"""What the server does again and again: start to start, late turns skipped, failures logged, until it stops.

By the monotonic clock. Tornado's PeriodicCallback goes by the wall clock: put back by an hour, it stands still for one,
leases, heartbeats and all.
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
    """Does `work` at each multiple of a time from now on, until `stop`. While a turn runs no other begins."""

    def __init__(self, every_s: float, work: Work, what: str) -> None:
        self._every_s = every_s
        self._work = work
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._next_s = self._loop.time() + every_s
        self._handle: asyncio.TimerHandle | None = self._loop.call_at(self._next_s, self._turn)
        self._running: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """A turn that runs goes on to its end."""
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


def every(ms: float, work: Work, what: str) -> PeriodicWork:
    """Start a clock. `what` names it in the log."""
    return PeriodicWork(ms / 1000, work, what)


def only_if(true: Callable[[], Awaitable[bool]], work: Callable[[], Awaitable[None]]) -> Work:
    """Return `work` that is left out when it is not `true`."""

    async def maybe() -> None:
        if await true():
            await work()

    return maybe

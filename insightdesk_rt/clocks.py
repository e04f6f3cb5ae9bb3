"""What the server does again and again: start to start, late turns skipped, failures logged, until it stops."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from tornado.ioloop import PeriodicCallback

from insightdesk_rt.errors import RtError

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None] | None]


def every(ms: float, work: Work, what: str) -> PeriodicCallback:
    """Start a clock; `stop()` ends it. While a turn runs no other begins. `what` names it in the log."""

    async def turn() -> None:
        try:
            done = work()
            if done is not None:
                await done
        except RtError as refused:
            log.debug("a turn was skipped", extra={"what": what, "why": refused.code})
        except Exception:
            log.exception("a turn failed", extra={"what": what})

    clock = PeriodicCallback(turn, ms)
    clock.start()
    return clock


def only_if(true: Callable[[], Awaitable[bool]], work: Callable[[], Awaitable[None]]) -> Work:
    """Return `work` that is left out when it is not `true`."""

    async def maybe() -> None:
        if await true():
            await work()

    return maybe

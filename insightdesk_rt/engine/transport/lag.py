"""LoopLag: how late the event loop runs callbacks, which is how long incoming data waits for its turn.

A callback is scheduled every 100 ms; its delay is the lag. A loop that is blocked for a second shows a lag of a second,
even if nothing else was due.
"""

from __future__ import annotations

import asyncio
from collections import deque

from insightdesk_rt.engine.counters import Histogram

EVERY_S = 0.1
KEEP_S = 10
# Seconds. epoll wakes on whole milliseconds, so an idle loop is up to 1 ms late.
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """Measures from `start` to `stop`. Both are called on the loop that is measured."""

    def __init__(self) -> None:
        self.seconds = Histogram(LAG_BOUNDS)
        self._recent: deque[tuple[float, float]] = deque()  # (time, lag), the greatest of about each second
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + EVERY_S, self._turn, loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def worst_s(self, within_s: float = KEEP_S) -> float:
        """Return the greatest lag of the last seconds, at most KEEP_S of them."""
        since = asyncio.get_running_loop().time() - within_s
        return max((lag for at, lag in self._recent if at >= since), default=0.0)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._timer is not None
        now = loop.time()
        lag = max(now - self._timer.when(), 0.0)
        self.seconds.add(lag)
        recent = self._recent
        if recent and now - recent[-1][0] < 1.0 and recent[-1][1] >= lag:
            pass  # there is a greater one of the same second
        else:
            recent.append((now, lag))
        while recent and recent[0][0] < now - KEEP_S:
            recent.popleft()
        self._timer = loop.call_at(now + EVERY_S, self._turn, loop)

"""Wheel: runs all timers of a node from one periodic callback, so the loop has no timer per heartbeat or expiry.

Time is divided into steps. A timer is in the bucket of its step, so that setting, replacing or cancelling it is one
dictionary operation. Periodic work calls `turn`, which runs the timers that are due. A timer never fires early, and at
most one step late, plus the lag of the loop. The owner chooses the key; setting a key again replaces its timer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


def monotonic_ms() -> int:
    """The wheel's clock outside of tests. hot: once per wake-up of a connection; a third of `loop.time`'s cost."""
    return time.monotonic_ns() // 1_000_000


class Wheel:
    __slots__ = ("_buckets", "_done", "_step_ms", "_where", "now_ms")

    def __init__(self, step_ms: int, now_ms: Callable[[], int]) -> None:
        self._step_ms = step_ms
        self.now_ms = now_ms
        self._done = now_ms() // step_ms  # the last step that was run
        self._buckets: dict[int, dict[object, tuple[object, ...]]] = {}
        self._where: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def later(self, key: object, delay_ms: int, call: Callable[..., object], *args: object) -> None:
        """Run `call(*args)` in `delay_ms`. Replaces the timer that was set under the key before."""
        if key in self._where:
            self.cancel(key)
        # Rounded up, and never into a step that has run: a timer that a timer sets waits for the next turn.
        step = max(-(-(self.now_ms() + delay_ms) // self._step_ms), self._done + 1)
        self._where[key] = step
        bucket = self._buckets.get(step)
        if bucket is None:
            bucket = self._buckets[step] = {}
        bucket[key] = (call, *args)

    def cancel(self, key: object) -> None:
        """Cancel the key's timer, if it has one."""
        step = self._where.pop(key, None)
        if step is None:
            return
        bucket = self._buckets[step]
        del bucket[key]
        if not bucket and step > self._done:
            del self._buckets[step]

    def turn(self) -> None:
        """Run the due timers, the oldest first. A call that raises is logged; the others still run."""
        now = self.now_ms() // self._step_ms
        while self._done < now:
            self._done += 1
            if self._done in self._buckets:
                self._run(self._done)

    def _run(self, step: int) -> None:
        bucket = self._buckets[step]
        # A copy, because a call may cancel another timer of the same bucket; that one is then not in it any more.
        for key, timer in tuple(bucket.items()):
            if bucket.get(key) is not timer:
                continue
            del bucket[key], self._where[key]
            call, *args = timer
            try:
                call(*args)  # type: ignore[operator]
            except Exception:
                log.exception("timer failed")
        del self._buckets[step]

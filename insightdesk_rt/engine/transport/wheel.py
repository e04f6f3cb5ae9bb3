"""Wheel: all the timers of a node on one periodic callback. Heartbeats, typing, expiry: none costs the loop a timer.

Time is cut into steps; a timer lies in the bucket of its step, and setting, replacing or cancelling one is a dictionary
operation. Whoever calls `turn` (a clock) runs what is due. A timer never fires early, and late by at most
one step plus what the loop is late. Keys are the owner's: setting a key again replaces its timer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

STEP_MS = 50  # the finest thing anybody waits for is a typing indicator of 5 s


def monotonic_ms() -> int:
    """The clock a wheel is given outside of tests. hot: once per wake-up of a connection; a third of `loop.time`."""
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
        """Run `call(*args)` in `delay_ms`; what was set under the key before is forgotten."""
        if key in self._where:
            self.cancel(key)
        # Rounded up, and never into a step that was run: a timer set by a timer waits for the next turn.
        step = max(-(-(self.now_ms() + delay_ms) // self._step_ms), self._done + 1)
        self._where[key] = step
        bucket = self._buckets.get(step)
        if bucket is None:
            bucket = self._buckets[step] = {}
        bucket[key] = (call, *args)

    def cancel(self, key: object) -> None:
        """Forget the key's timer, if it has one."""
        step = self._where.pop(key, None)
        if step is None:
            return
        bucket = self._buckets[step]
        del bucket[key]
        if not bucket and step > self._done:
            del self._buckets[step]

    def turn(self) -> None:
        """Run what is due, oldest first. A call that raises is logged; the others still run."""
        now = self.now_ms() // self._step_ms
        while self._done < now:
            self._done += 1
            if self._done in self._buckets:
                self._run(self._done)

    def _run(self, step: int) -> None:
        bucket = self._buckets[step]
        # A copy, because a call may cancel another of the same bucket; that one is then no longer in it.
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

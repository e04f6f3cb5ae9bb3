"""Seldom: limits log lines that outsiders can cause to one per kind and minute, with a count of the others."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable


class Seldom:
    """Logs at most one line per kind and minute.

    The next line of a kind has in `others` how many were left out since the last one. Kinds are bounded: beyond
    `max_kinds` they share one line.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        every_s: float = 60.0,
        max_kinds: int = 64,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = logger
        self._every_s = every_s
        self._max_kinds = max_kinds
        self._now_s = now_s
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}  # time of the last line, and lines left out since

    def say(self, level: int, message: str, kind: str, **fields: object) -> None:
        """Log `message` with the fields, unless it was logged with this kind within the last `every_s`."""
        key = (message, kind)
        if key not in self._kinds and len(self._kinds) >= self._max_kinds:
            key = (message, "")
        logged_s, others = self._kinds.get(key, (-math.inf, 0))
        if self._now_s() - logged_s < self._every_s:
            self._kinds[key] = (logged_s, others + 1)
            return
        self._kinds[key] = (self._now_s(), 0)
        self._log.log(level, message, extra={**fields, **({"others": others} if others else {})})

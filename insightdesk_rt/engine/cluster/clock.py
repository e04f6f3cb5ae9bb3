"""What time it is by Valkey: the one clock that all nodes share. What is ruled at one node holds on all by it.

Valkey is asked once a second; between two answers this machine's monotonic clock counts, which nobody sets. So the time
goes on while Valkey is away, and a wall clock that is set wrong, or set right, moves nothing. Before the first answer
it is the wall clock's. A wall clock that differs is an error of the machine's: tokens and log lines go by it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from insightdesk_rt.engine.cluster.valkey import Valkey

log = logging.getLogger(__name__)

SKEW_MS = 1_000  # as far apart as clocks may be before this node says so; NTP keeps them within some ms
GOOD_ROUND_S = 0.2  # an answer that took longer tells the time to no better than half of it
STALE_S = 30.0  # until then a slow answer is not taken: the one before it is better


class ValkeyClock:
    """`look` every second. `wall_s` and `monotonic_s` are this machine's clocks."""

    def __init__(
        self,
        valkey: Valkey,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._valkey = valkey
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._ahead_s: float | None = None  # of Valkey's clock before the monotonic one
        self._looked_s = 0.0
        self._server = ""
        self._differs = False

    def now_s(self) -> float:
        """Return Valkey's time in Unix seconds."""
        return self._wall_s() if self._ahead_s is None else self._monotonic_s() + self._ahead_s

    def now_ms(self) -> int:
        return int(self.now_s() * 1000)

    @property
    def skew_ms(self) -> int:
        """How far this machine's wall clock is ahead of Valkey's; below 0: behind."""
        return round((self._wall_s() - self.now_s()) * 1000)

    async def look(self) -> None:
        """Ask Valkey for the time, and say so if the wall clock differs from it. Raises RtError UNAVAILABLE."""
        asked_s = self._monotonic_s()
        seconds, micros = await self._valkey.command("TIME")
        now_s = self._monotonic_s()
        another = self._valkey.run_id != self._server
        if another or now_s - asked_s <= GOOD_ROUND_S or now_s - self._looked_s > STALE_S:
            # It was read somewhere between the question and the answer: the middle is wrong by half of that at most.
            self._ahead_s = int(seconds) + int(micros) / 1e6 - (asked_s + now_s) / 2
            self._looked_s, self._server = now_s, self._valkey.run_id
        self._say()

    def _say(self) -> None:
        skew_ms = self.skew_ms
        differs = abs(skew_ms) > SKEW_MS
        if differs and not self._differs:
            how = "ahead of" if skew_ms > 0 else "behind"
            log.warning(
                "this machine's clock is %s Valkey's; set it right (NTP), or tokens end at the wrong time",
                how,
                extra={"seconds": round(abs(skew_ms) / 1000, 1)},
            )
        elif self._differs and not differs:
            log.info("this machine's clock agrees with Valkey's again")
        self._differs = differs

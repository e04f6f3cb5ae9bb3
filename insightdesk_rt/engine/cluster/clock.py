"""ValkeyClock: Valkey's time, the one clock that all nodes share. Rules of admins start and end by it on every node.

Valkey is asked once a second. Between two answers this machine's monotonic clock counts, which nobody sets. So the time
goes on while Valkey is unreachable, and setting the wall clock changes nothing. Before the first answer it is the wall
clock's time. A wall clock that differs is a fault of the machine, because tokens and log lines use it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from insightdesk_rt.engine.cluster.valkey import Valkey

log = logging.getLogger(__name__)

SKEW_MS = 1_000  # clocks that differ by more are logged; NTP keeps them within some ms
GOOD_ROUND_S = 0.2  # an answer's time is uncertain by half of the round trip
STALE_S = 30.0  # a slow answer is used only after this long: the one before it is better


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
        self._ahead_s: float | None = None  # Valkey's clock minus the monotonic one
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
        """Ask Valkey for the time, and log it if the wall clock differs. Raises RtError UNAVAILABLE."""
        asked_s = self._monotonic_s()
        seconds, micros = await self._valkey.command("TIME")
        now_s = self._monotonic_s()
        another = self._valkey.run_id != self._server
        if another or now_s - asked_s <= GOOD_ROUND_S or now_s - self._looked_s > STALE_S:
            # Valkey read its clock between the command and the answer; the middle is wrong by half of that at most.
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

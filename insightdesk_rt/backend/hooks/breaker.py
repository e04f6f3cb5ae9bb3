"""A circuit breaker: stops asking a back end that does not answer, and finds out when it answers again. Pure.

    closed ──5 failures in a row──▶ open ──pause──▶ half open ──success──▶ closed
                                     ▲                  │
                                     └─twice the pause──┘ failure

While it is open, nothing is asked, so a dead back end costs neither connections nor time. When the pause is over, one
question is asked as a trial; all others are refused until it is answered.
"""

from __future__ import annotations

from enum import Enum

FAILURES = 5  # in a row: one slow answer among good ones must not stop all questions
PAUSE_S = 1.0  # a back end that restarts is asked again this soon
LONGEST_PAUSE_S = 30.0


class BreakerState(Enum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """Each question that `allows` lets through must be followed by `succeeded`, `failed` or `abandoned`."""

    def __init__(
        self, *, failures: int = FAILURES, pause_s: float = PAUSE_S, longest_pause_s: float = LONGEST_PAUSE_S
    ) -> None:
        self._most_failures = failures
        self._first_pause_s = self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._failures = 0
        self._until_s = 0.0
        self.state = BreakerState.CLOSED

    def allows(self, now_s: float) -> bool:
        """Return whether a question may be asked now. After the pause it returns True once, for the trial."""
        if self.state is BreakerState.OPEN and now_s >= self._until_s:
            self.state = BreakerState.HALF_OPEN
            return True
        return self.state is BreakerState.CLOSED

    def succeeded(self) -> None:
        self._failures = 0
        self._pause_s = self._first_pause_s
        self.state = BreakerState.CLOSED

    def failed(self, now_s: float) -> None:
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
        elif self.state is BreakerState.OPEN or self._failures < self._most_failures:
            return  # a question from before it opened
        self.state = BreakerState.OPEN
        self._until_s = now_s + self._pause_s

    def abandoned(self, now_s: float) -> None:
        """Nobody waits for the answer any more. An abandoned trial is repeated by the next question."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._until_s = now_s

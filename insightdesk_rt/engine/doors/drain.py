"""Leaving without a loss: clients are sent away a few at a time, in a way that makes them come back, to another node.

A transport that is closed makes stock clients reconnect with their backoff; a DISCONNECT packet would make them stay
away. Spread over a time, so that the nodes that take them see a slope and not a wall. New clients are refused from the
first moment until `undo`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.transport.client_registry import ClientRegistry

log = logging.getLogger(__name__)

BATCH_EVERY_S = 0.1
GOODBYE_S = 5.0  # goodbyes that are not taken by then are cut


class Progress(Struct, frozen=True):
    """How far a drain is. Times are seconds since the epoch."""

    since: float
    overSeconds: float
    sentAway: int
    left: int
    done: bool


class Drain:
    """The drain of one node. `accept(bool)` makes its client port take new clients, or refuse them."""

    def __init__(self, host: ClientRegistry, accept: Callable[[bool], None]) -> None:
        self._host = host
        self._accept = accept
        self._task: asyncio.Task[None] | None = None
        self._since_s = 0.0
        self._pace = _Pace(0.0, 0.0, 0)
        self._sent_away = 0
        self._final = False

    @property
    def progress(self) -> Progress | None:
        """None: the node takes clients."""
        if self._task is None:
            return None
        left = len(self._host.clients)
        return Progress(self._since_s, self._pace.over_s, self._sent_away, left, self._task.done())

    @property
    def clients(self) -> int:
        """How many are here, and would be sent away."""
        return len(self._host.clients)

    def begin(self, over_s: float) -> None:
        """Refuse new clients, and send those here away, evenly over `over_s`. Again: the rest goes at the new pace.

        A node that is about to end does not wait longer for it: somebody may end it by force.
        """
        now_s = time.monotonic()
        if self._final:
            over_s = min(over_s, max(self._pace.began_s + self._pace.over_s - now_s, 0.0))
        if self._task is None:
            self._since_s, self._sent_away = time.time(), 0
        self._pace = _Pace(now_s, over_s, self._sent_away)
        self._accept(False)
        if self._task is None or (self._task.done() and not self._final):
            self._task = asyncio.get_running_loop().create_task(self._send_away())

    async def undo(self) -> None:
        """Take clients again. Those that are still here stay. Raises RtError DRAINING: the node is about to end."""
        if self._final:
            raise RtError("DRAINING")
        task, self._task = self._task, None
        self._accept(True)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def finish(self, over_s: float) -> None:
        """Send everybody away for good and return when they are gone."""
        self.begin(over_s)
        self._final = True  # from here on nobody cancels the task, or puts another in its place
        assert self._task is not None
        await self._task

    @property
    def _why(self) -> CloseReason:
        return CloseReason.SHUTDOWN if self._final else CloseReason.DRAINED

    async def _send_away(self) -> None:
        host = self._host
        while host.clients:
            due = self._pace.due(time.monotonic(), self._sent_away, len(host.clients))
            for client in list(itertools.islice(host.clients.values(), due)):
                client.close(self._why)
                self._sent_away += 1
            if host.clients:
                await asyncio.sleep(BATCH_EVERY_S)
        await host.close(self._why, GOODBYE_S)
        log.info("drained", extra={"clients": self._sent_away})


class _Pace(NamedTuple):
    """From when on, over what time; `before`: how many had been sent away by then."""

    began_s: float  # monotonic
    over_s: float
    before: int

    def due(self, now_s: float, sent_away: int, left: int) -> int:
        """Return how many of those left go now. The first goes at once: who stops a node with one client need not wait.

        Of 6 over 60 s one goes every 10 s, of 6,000 ten go every 0.1 s.
        """
        passed_s = now_s - self.began_s
        if passed_s >= self.over_s:
            return left
        sent = sent_away - self.before
        return min(max(int((sent + left) * passed_s / self.over_s) + 1 - sent, 0), left)

"""Drain: sends the clients of a node to other nodes, a few at a time and without losing events.

It closes their transports, which makes stock clients reconnect with backoff; after a DISCONNECT packet they would not.
A drain takes time, so that the other nodes get the clients gradually. New clients are refused from its beginning until
`undo`.
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
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.transport.client_registry import ClientRegistry

log = logging.getLogger(__name__)

BATCH_EVERY_S = 0.1
GOODBYE_S = 5.0  # connections whose close frame is not answered by then are cut


class Progress(Struct, frozen=True):
    """The progress of a drain. `since` is in seconds since the epoch."""

    since: float
    overSeconds: float
    sentAway: int
    left: int
    done: bool


class Drain:
    """The drain of one node. `accept(bool)` makes its client port accept new clients or refuse them."""

    def __init__(self, registry: ClientRegistry, accept: Callable[[bool], None]) -> None:
        self._registry = registry
        self._accept = accept
        self._tasks = OwnedTasks(log)
        self._task: asyncio.Task[None] | None = None  # the present or last drain
        self._since_s = 0.0
        self._pace = _Pace(0.0, 0.0, 0)
        self._sent_away = 0
        self._final = False

    @property
    def progress(self) -> Progress | None:
        """None while the node accepts clients."""
        if self._task is None:
            return None
        left = len(self._registry.clients)
        return Progress(self._since_s, self._pace.over_s, self._sent_away, left, self._task.done())

    @property
    def clients(self) -> int:
        """The number of connected clients, which a drain would send away."""
        return len(self._registry.clients)

    def begin(self, over_s: float) -> None:
        """Refuse new clients, and send the connected ones away evenly over `over_s`.

        A second call changes the pace for those that are left. A node that is about to end never gets slower: its
        supervisor may kill it.
        """
        now_s = time.monotonic()
        if self._final:
            over_s = min(over_s, max(self._pace.began_s + self._pace.over_s - now_s, 0.0))
        if self._task is None:
            self._since_s, self._sent_away = time.time(), 0
        self._pace = _Pace(now_s, over_s, self._sent_away)
        self._accept(False)
        if self._task is None or (self._task.done() and not self._final):
            self._task = self._tasks.spawn(self._send_away(), "draining")

    async def undo(self) -> None:
        """Accept clients again; those still connected stay. Raises RtError DRAINING if the node is about to end."""
        if self._final:
            raise RtError("DRAINING")
        self._task = None
        self._accept(True)
        await self._tasks.close()

    async def finish(self, over_s: float) -> None:
        """Send all clients away for good, and return when they are gone."""
        self.begin(over_s)
        self._final = True  # from now on the task is neither cancelled nor replaced
        assert self._task is not None
        await self._task

    @property
    def _why(self) -> CloseReason:
        return CloseReason.SHUTDOWN if self._final else CloseReason.DRAINED

    async def _send_away(self) -> None:
        registry = self._registry
        while registry.clients:
            due = self._pace.due(time.monotonic(), self._sent_away, len(registry.clients))
            for client in list(itertools.islice(registry.clients.values(), due)):
                client.close(self._why)
                self._sent_away += 1
            if registry.clients:
                await asyncio.sleep(BATCH_EVERY_S)
        await registry.close(self._why, GOODBYE_S)
        log.info("drained", extra={"clients": self._sent_away})


class _Pace(NamedTuple):
    """The schedule of a drain: its begin, its duration, and how many clients had been sent away `before`."""

    began_s: float  # monotonic
    over_s: float
    before: int

    def due(self, now_s: float, sent_away: int, left: int) -> int:
        """Return how many of the remaining clients must go now.

        The first goes at once, so that a node with one client stops without waiting. Of 6 clients over 60 s, one goes
        every 10 s; of 6,000, ten go every 0.1 s.
        """
        passed_s = now_s - self.began_s
        if passed_s >= self.over_s:
            return left
        sent = sent_away - self.before
        return min(max(int((sent + left) * passed_s / self.over_s) + 1 - sent, 0), left)

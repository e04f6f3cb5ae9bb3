"""The numbers of the dashboard and of the admin API: tickets, the chat queue, the agents.

Each store updates its numbers with every change, in a small hash or in the sizes of sets. So reading them costs the
same for ten tickets and for ten million.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from insightdesk_rt.engine.model import iso
from insightdesk_rt.helpdesk.tickets.store import TicketStore


class TeamQueueStats(Protocol):
    """What helpdesk/chat/store.py returns: waiting chats, their waits, and chats with an agent."""

    @property
    def waiting(self) -> int: ...
    @property
    def longestWaitMs(self) -> int: ...
    @property
    def averageWaitMs(self) -> int: ...
    @property
    def active(self) -> int: ...


class TeamAgentCounts(Protocol):
    """What helpdesk/presence/store.py returns: agents by status."""

    @property
    def online(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def away(self) -> int: ...
    @property
    def offline(self) -> int: ...


class QueueNumbers(Protocol):
    async def queue_stats(self) -> TeamQueueStats: ...


class AgentNumbers(Protocol):
    async def agent_counts(self) -> TeamAgentCounts: ...


class TicketMetrics(Struct, frozen=True):
    """`byPriority` and `unassigned` count open work: tickets neither solved nor closed. `asOf`: ISO 8601."""

    total: int
    unsolved: int
    unassigned: int
    byStatus: dict[str, int]
    byPriority: dict[str, int]
    asOf: str


class QueueMetrics(Struct, frozen=True):
    """Waiting chats, their longest and mean wait, and chats that an agent has taken (`active`)."""

    waiting: int
    longestWaitMs: int
    averageWaitMs: int
    active: int
    asOf: str


class AgentMetrics(Struct, frozen=True):
    """Agents by status; `offline`: connected within the last 30 days, but not now."""

    online: int
    busy: int
    away: int
    offline: int
    asOf: str


class Metrics(Struct, frozen=True):
    tickets: TicketMetrics
    queue: QueueMetrics
    agents: AgentMetrics


class Stats:
    def __init__(
        self, tickets: TicketStore, queue: QueueNumbers, agents: AgentNumbers, now_ms: Callable[[], int]
    ) -> None:
        self._tickets = tickets
        self._queue = queue
        self._agents = agents
        self._now_ms = now_ms

    async def read(self) -> Metrics:
        """Return all three, read at the same time. Raises RtError UNAVAILABLE."""
        tickets, queue, agents = await asyncio.gather(
            self._tickets.counts(), self._queue.queue_stats(), self._agents.agent_counts()
        )
        now = iso(self._now_ms())
        return Metrics(
            TicketMetrics(
                tickets.total, tickets.unsolved, tickets.unassigned, tickets.byStatus, tickets.byPriority, now
            ),
            QueueMetrics(queue.waiting, queue.longestWaitMs, queue.averageWaitMs, queue.active, now),
            AgentMetrics(agents.online, agents.busy, agents.away, agents.offline, now),
        )

"""HTTP routes of the dashboard: the numbers that /dashboard sends, read on request.

GET  /api/v1/metrics/tickets
GET  /api/v1/metrics/queue
GET  /api/v1/metrics/agents
"""

from __future__ import annotations

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.helpdesk.dashboard.stats import AgentMetrics, QueueMetrics, Stats, TicketMetrics


class TicketMetricsHandler(Handler):
    stats: Stats

    @operation("viewer", answer=TicketMetrics)
    async def get(self) -> Answer:
        """Return the current numbers of tickets."""
        return Answer((await self.stats.read()).tickets)


class QueueMetricsHandler(Handler):
    stats: Stats

    @operation("viewer", answer=QueueMetrics)
    async def get(self) -> Answer:
        """Return the current numbers of the chat queue."""
        return Answer((await self.stats.read()).queue)


class AgentMetricsHandler(Handler):
    stats: Stats

    @operation("viewer", answer=AgentMetrics)
    async def get(self) -> Answer:
        """Return the current numbers of agents by status."""
        return Answer((await self.stats.read()).agents)


def dashboard_routes(admin: Admin, stats: Stats) -> list[Route]:
    """Return the routes of this file for a Tornado Application."""
    parts = {"admin": admin, "stats": stats}
    return [
        (r"/api/v1/metrics/tickets", TicketMetricsHandler, parts),
        (r"/api/v1/metrics/queue", QueueMetricsHandler, parts),
        (r"/api/v1/metrics/agents", AgentMetricsHandler, parts),
    ]

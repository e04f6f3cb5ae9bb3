"""The namespace /dashboard: live numbers for admins, on connect and then every few seconds.

    metrics:tickets  {total, unsolved, unassigned, byStatus: {…}, byPriority: {…}, asOf}
    metrics:queue    {waiting, longestWaitMs, averageWaitMs, active, asOf}
    metrics:agents   {online, busy, away, offline, asOf}

stats.py explains the fields. The node that leads reads the numbers and publishes them, once per cluster for any number
of nodes and dashboards. It does so even if no dashboard is open, because finding that out would cost as much as the few
small reads. The events are volatile: a lost one is replaced by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from insightdesk_rt.engine.dispatch.namespace import ADMINS, Context, Namespace, Route, Timers, every
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import DASHBOARD_ROOM
from insightdesk_rt.engine.transport.wheel import monotonic_ms
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.chat.store import CHATTING, ChatStore
from insightdesk_rt.helpdesk.dashboard.settings import DashboardSettings
from insightdesk_rt.helpdesk.dashboard.stats import Metrics, Stats
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.tickets.store import TicketStore

INTERVAL_MS = DashboardSettings().dashboard_interval_ms
STALE_MS = 2_000  # a little over Valkey's deadline: a node that reads longer was suspended, and another one may lead
TICKETS, QUEUE, AGENTS = "metrics:tickets", "metrics:queue", "metrics:agents"


class Dashboard(Namespace):
    path = "/dashboard"
    settings = DashboardSettings
    allow = ADMINS
    plain = (TICKETS, QUEUE, AGENTS)

    def __init__(self, hub: Hub, timers: Timers, stats: Stats, interval_ms: int = INTERVAL_MS) -> None:
        super().__init__(hub, timers)
        self.stats = stats
        self.tickers = tuple(ticker._replace(every_ms=interval_ms) for ticker in type(self).tickers)

    @classmethod
    def build(cls, context: Context) -> Dashboard:
        valkey = context.valkey
        tickets, chat, presence = map(valkey.names.namespace, ("/tickets", "/chat", "/presence"))
        chats = ChatStore(valkey, chat, PresenceStore(valkey, chat, name=CHATTING))
        stats = Stats(TicketStore(valkey, tickets), chats, PresenceStore(valkey, presence), context.now_ms)
        return cls(context.hub, context.timers, stats, context.settings.of(DashboardSettings).dashboard_interval_ms)

    def routes(self, api: Any) -> Iterable[Route]:
        # Not imported above: emitters import the table of features, and run where there is no Tornado.
        from insightdesk_rt.helpdesk.dashboard.routes import dashboard_routes

        return dashboard_routes(api, self.stats)

    async def joined(self, socket: Socket) -> None:
        await self.hub.join(socket, DASHBOARD_ROOM)
        try:
            metrics = await self.stats.read()
        except RtError:  # Valkey is unreachable: the next turn sends the numbers
            return
        for name, payload in _events(metrics):
            socket.emit(name, payload)

    @every(ms=INTERVAL_MS, on="leader")
    async def publish_metrics(self) -> None:
        """Read the numbers and send them to every dashboard of the cluster. Raises RtError UNAVAILABLE."""
        began_ms = monotonic_ms()
        events = _events(await self.stats.read())
        if monotonic_ms() - began_ms < STALE_MS:
            for name, payload in events:
                self.hub.publish(self.path, [DASHBOARD_ROOM], name, payload)


def _events(metrics: Metrics) -> list[tuple[str, str]]:
    return [
        (TICKETS, json.encode_struct(metrics.tickets)),
        (QUEUE, json.encode_struct(metrics.queue)),
        (AGENTS, json.encode_struct(metrics.agents)),
    ]

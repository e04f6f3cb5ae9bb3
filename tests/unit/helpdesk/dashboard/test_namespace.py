"""The dashboard: three events on connect, and for everybody when the leader publishes."""

from __future__ import annotations

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.namespace import Ticker
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.helpdesk.chat.conversation import ChatQueueStats
from insightdesk_rt.helpdesk.dashboard.namespace import Dashboard
from insightdesk_rt.helpdesk.dashboard.stats import Stats
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.tickets.store import TicketChange, TicketStore
from tests.support import fakes
from tests.support.aio import aio
from tests.support.ticketing import told

BOARDS = ["metrics:tickets", "metrics:queue", "metrics:agents"]


class Queue:
    async def queue_stats(self) -> ChatQueueStats:
        return ChatQueueStats(waiting=2, longestWaitMs=900, averageWaitMs=700, active=1)


def build(valkey: Valkey, interval_ms: int = 5_000) -> Dashboard:
    stats = Stats(
        TicketStore(valkey, valkey.names.namespace("/tickets")),
        Queue(),
        PresenceStore(valkey, valkey.names.namespace("/presence")),
        lambda: 0,
    )
    return Dashboard(Hub(fakes.OneNode(), ["/dashboard"]), fakes.Clock(), stats, interval_ms)


async def connect(dashboard: Dashboard) -> Socket:
    socket = fakes.socket("/dashboard", fakes.user("root", "admin"))
    dashboard.hub.add(socket)
    await dashboard.joined(socket)
    return socket


@aio
async def test_the_numbers_come_on_connect_and_at_every_interval(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    dashboard = build(valkey)
    root = await connect(dashboard)
    assert [name for name, _ in told(root)] == BOARDS
    await TicketStore(valkey, valkey.names.namespace("/tickets")).put("42", TicketChange(status="open"))
    await dashboard.publish_metrics()
    boards = dict(told(root))
    assert list(boards) == BOARDS
    tickets = boards["metrics:tickets"]
    assert (tickets["byStatus"]["open"], tickets["unassigned"], tickets["byStatus"]["closed"]) == (1, 1, 0)
    assert {k: v for k, v in boards["metrics:queue"].items() if k != "asOf"} == {
        "waiting": 2, "longestWaitMs": 900, "averageWaitMs": 700, "active": 1
    }  # fmt: skip
    assert set(boards["metrics:agents"]) == {"online", "busy", "away", "offline", "asOf"}
    await valkey.close()


@aio
async def test_admins_can_connect_while_valkey_is_unreachable_and_get_the_numbers_later(
    valkey_url: str, prefix: str
) -> None:
    valkey = Valkey(valkey_url, prefix)
    dashboard = build(valkey)
    root = await connect(dashboard)
    assert told(root) == []
    await valkey.start()
    await dashboard.publish_metrics()
    assert [name for name, _ in told(root)] == BOARDS
    await valkey.close()


def test_only_admins_may_connect_and_the_interval_can_be_set(prefix: str) -> None:
    assert Dashboard.allow == {"admin"}
    dashboard = build(Valkey("unix:///nowhere/s", prefix), 700)
    assert dashboard.tickers == (Ticker("publish_metrics", 700, True),)
    assert Dashboard.tickers == (Ticker("publish_metrics", 5_000, True),)

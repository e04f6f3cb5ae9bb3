"""The dashboard: three boards at once, and again for everybody when the leader says so."""

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
    stats = Stats(TicketStore(valkey), Queue(), PresenceStore(valkey))
    return Dashboard(Hub(fakes.OneNode(), ["/dashboard"]), fakes.Clock(), stats, interval_ms)


async def connect(dashboard: Dashboard) -> Socket:
    socket = fakes.socket("/dashboard", fakes.user("root", "admin"))
    dashboard.hub.add(socket)
    await dashboard.joined(socket)
    return socket


@aio
async def test_the_boards_come_at_connect_and_with_every_turn(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    dashboard = build(valkey)
    root = await connect(dashboard)
    assert [name for name, _ in told(root)] == BOARDS
    await TicketStore(valkey).put("42", TicketChange(status="open"))
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
async def test_while_valkey_is_away_the_door_stays_open_and_the_next_turn_brings_them(
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


def test_only_admins_come_in_and_the_leaders_clock_can_be_set(prefix: str) -> None:
    assert Dashboard.allow == {"admin"}
    dashboard = build(Valkey("unix:///nowhere/s", prefix), 700)
    assert dashboard.tickers == (Ticker("publish_metrics", 700, True),)
    assert Dashboard.tickers == (Ticker("publish_metrics", 5_000, True),)

"""The numbers of the dashboard are those of the stores."""

from __future__ import annotations

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.helpdesk.chat.conversation import ChatQueueStats
from insightdesk_rt.helpdesk.dashboard.stats import Stats
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.tickets.store import TicketChange, TicketStore
from tests.support import fakes
from tests.support.aio import aio


class Queue:
    async def queue_stats(self) -> ChatQueueStats:
        return ChatQueueStats(waiting=2, longestWaitMs=900, averageWaitMs=700, active=1)


@aio
async def test_the_numbers_are_read_from_the_three_stores(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    tickets, presence = (
        TicketStore(valkey, valkey.names.namespace("/tickets")),
        PresenceStore(valkey, valkey.names.namespace("/presence")),
    )
    await tickets.put("1", TicketChange(status="open", priority="high"))
    await tickets.put("2", TicketChange(status="solved"))
    await presence.join(fakes.user("anna"), "n1")
    metrics = await Stats(tickets, Queue(), presence, lambda: 1_795_406_400_000).read()
    assert (metrics.tickets.total, metrics.tickets.unsolved, metrics.tickets.unassigned) == (2, 1, 1)
    assert metrics.tickets.byStatus["solved"] == metrics.tickets.byPriority["high"] == 1
    assert metrics.tickets.byPriority["normal"] == 0, "of open work"
    assert (metrics.queue.waiting, metrics.queue.longestWaitMs, metrics.queue.active) == (2, 900, 1)
    assert (metrics.agents.online, metrics.agents.offline) == (1, 0)
    assert metrics.tickets.asOf == metrics.queue.asOf == metrics.agents.asOf == "2026-11-23T04:00:00.000Z"
    await valkey.close()

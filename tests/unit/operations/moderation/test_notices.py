"""A notice and its end are published whatever happens in between. What clients receive is tested on real processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.operations.moderation.notices import Notice, Notices
from insightdesk_rt.operations.moderation.rule_store import RuleStore
from tests.support.aio import aio
from tests.unit.operations.moderation.test_rules import NOW_S, Node, cluster

NOTICE = Notice(id="a", by="ann", at_ms=1, reason="x", message="Down at ten", severity="info", starts_ms=1)


class Hub:
    """Accepts each id once, as the log does, and may be unreachable."""

    namespaces = ("/tickets", "/chat")

    def __init__(self) -> None:
        self.told: dict[str, tuple[str, str]] = {}
        self.away = False
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def emit(self, namespace: str, rooms: Any, name: str, payload: str, id: str) -> None:
        if self.away:
            raise RtError("UNAVAILABLE")
        self.told[id] = (namespace, name)
        if self.meanwhile is not None:
            does, self.meanwhile = self.meanwhile, None
            await does()

    def names(self) -> list[tuple[str, str]]:
        return list(self.told.values())


def notices(node: Node, hub: Hub, leads: bool = True) -> Notices:
    return Notices(node.rules, hub, lambda: leads)  # type: ignore[arg-type]


BOTH = [("/tickets", "server:notice"), ("/chat", "server:notice")]
ENDED = [("/tickets", "server:notice:ended"), ("/chat", "server:notice:ended")]


@aio
async def test_the_leader_publishes_a_notice_that_another_node_could_not(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as (_, (one, two)):
        hub = Hub()
        follower, leader = notices(one, hub, leads=False), notices(two, hub)
        await one.rules.put(follower.table, NOTICE)
        hub.away = True
        with pytest.raises(RtError):
            await follower.publish(NOTICE)
        with pytest.raises(RtError):
            await leader.tick()
        hub.away = False
        await follower.tick()
        assert hub.told == {}
        await leader.tick()
        assert hub.names() == BOTH and follower.table.rules["a"].told
        hub.told.clear()
        await leader.tick()
        assert hub.told == {}


@aio
async def test_a_notice_that_ends_while_it_is_published_stays_ended(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, nodes=1) as (_, (one,)):
        hub = Hub()
        here = notices(one, hub)
        await one.rules.put(here.table, NOTICE)
        hub.meanwhile = lambda: here.end("a")
        await here.publish(NOTICE)
        assert here.table.rules == {} and hub.names() == BOTH + ENDED
        assert (await RuleStore(one.rules._store._valkey).load("notice")).texts == {}


@aio
async def test_the_end_of_a_notice_is_published_later_if_it_failed(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, nodes=1) as (_, (one,)):
        hub = Hub()
        here = notices(one, hub)
        await one.rules.put(here.table, NOTICE)
        await here.publish(NOTICE)
        hub.told.clear()
        hub.away = True
        await here.end("a")
        with pytest.raises(RtError):
            await here.tick()
        hub.away = False
        await here.tick()
        assert hub.names() == ENDED

        brief = replace(NOTICE, id="b")
        await one.rules.put(here.table, brief)
        await here.tick()
        hub.told.clear()
        one.wall_s = NOW_S + 100
        await one.rules.replace(here.table, replace(here.table.rules["b"], until_ms=int(NOW_S + 50) * 1000))
        await one.rules.tick()
        await here.tick()
        assert hub.names() == ENDED and here.table.rules == {}

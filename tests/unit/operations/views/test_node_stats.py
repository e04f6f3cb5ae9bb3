"""NodeStats: the statistics of a node are correct and cover only the last minute."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from insightdesk_rt.engine.dispatch.calls import Calls
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.rate_limits import Rate
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.lag import LoopLag
from insightdesk_rt.engine.transport.wheel import Wheel, monotonic_ms
from insightdesk_rt.operations.views.node_stats import NodeStats, open_files, open_files_beyond, this_process
from tests.support import fakes
from tests.support.aio import aio


@aio
async def test_rates_and_quantiles_cover_the_last_minute() -> None:
    registry = ClientRegistry(Wheel(50, monotonic_ms))
    hub = Hub(fakes.OneNode(), ["/tickets"])
    calls = Calls([], monotonic_ms, Rate(1, 1), {}, {})
    stats = NodeStats(registry, hub, calls, LoopLag())
    hub.sent["/tickets"].add("anything", 1000)
    stats.turn()
    assert stats.numbers().deliveryP50Ms is None
    began = time.monotonic()
    hub.sent["/tickets"].add("anything", 50)
    for _ in range(99):
        registry.flusher.delivery.add(0.0015)
    registry.flusher.delivery.add(2.0)
    await asyncio.sleep(0.2)
    now = stats.numbers()
    past_s = time.monotonic() - began
    assert now.eventsOutPerSecond == pytest.approx(50 / past_s, rel=0.5)
    assert now.eventsInPerSecond == 0
    assert now.deliveryP50Ms is not None and 1 <= now.deliveryP50Ms <= 2
    assert now.deliveryP99Ms is not None and now.deliveryP99Ms <= 2
    assert (now.connections, now.outboxBytes) == ({}, 0)


def test_the_figures_of_the_process_come_from_the_kernel() -> None:
    here = this_process()
    assert abs(open_files() - len(os.listdir("/proc/self/fd"))) <= 1
    assert here.cpu_s > 0 and 0 < time.time() - here.started_s < 86_400
    assert 1_000_000 < here.rss_bytes < here.virtual_bytes
    assert 0 < here.open_files <= here.max_files


def test_a_shortage_of_file_descriptors_is_reported() -> None:
    used = open_files()
    assert open_files_beyond(used - 2) >= used - 1
    assert open_files_beyond(used + 5) == 0
    assert open_files_beyond(1_000_000) == 0


@aio
async def test_the_history_has_a_point_for_every_five_seconds_of_the_last_fifteen_minutes() -> None:
    registry = ClientRegistry(Wheel(50, monotonic_ms))
    hub = Hub(fakes.OneNode(), ["/tickets"])
    stats = NodeStats(registry, hub, Calls([], monotonic_ms, Rate(1, 1), {}, {}), LoopLag())
    for turn in range(16):
        hub.sent["/tickets"].add("anything", 10)
        stats.turn()
        assert len(stats.history) == turn // 5
    last = stats.history[-1]
    assert last.eventsOut > 0 and last.connections == 0 and last.deliveryP50Ms is None
    assert abs(last.at - time.time()) < 5
    for _ in range(5 * 200):
        stats.turn()
    assert len(stats.history) == 180

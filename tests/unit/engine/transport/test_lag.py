"""The lag of a blocked loop is measured and remembered for a while."""

from __future__ import annotations

import asyncio
import time

from insightdesk_rt.engine.transport.lag import LoopLag
from tests.support.aio import aio


@aio
async def test_a_blocked_loop_shows_for_how_long() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.25)
    calm, seen = lag.worst_s(), lag.seconds.total
    assert seen >= 1
    time.sleep(0.4)  # noqa: ASYNC251
    await asyncio.sleep(0.25)
    lag.stop()
    assert 0.25 < lag.worst_s() - calm < 2
    assert lag.seconds.sum > 0.25


@aio
async def test_an_old_lag_is_forgotten() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.15)
    time.sleep(0.3)  # noqa: ASYNC251
    await asyncio.sleep(0.15)
    assert lag.worst_s(5) > 0.15
    await asyncio.sleep(0.6)
    assert lag.worst_s(0.3) < 0.15, "only the requested time"
    lag.stop()
    seen = lag.seconds.total
    await asyncio.sleep(0.25)
    assert lag.seconds.total == seen, "stopped"

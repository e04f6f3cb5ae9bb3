"""A loop that is held up shows it, for as long as it is asked to remember."""

from __future__ import annotations

import asyncio
import time

from insightdesk_rt.engine.transport.lag import LoopLag
from tests.support.aio import aio


@aio
async def test_a_loop_that_was_held_up_says_for_how_long() -> None:
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
async def test_what_is_past_is_forgotten() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.15)
    time.sleep(0.3)  # noqa: ASYNC251
    await asyncio.sleep(0.15)
    assert lag.worst_s(5) > 0.15
    await asyncio.sleep(0.6)
    assert lag.worst_s(0.3) < 0.15, "only what is asked for"
    lag.stop()
    seen = lag.seconds.total
    await asyncio.sleep(0.25)
    assert lag.seconds.total == seen, "stopped"

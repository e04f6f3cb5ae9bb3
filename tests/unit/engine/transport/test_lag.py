"""The lag of a blocked loop is measured and remembered for a while.

The loop's clock is set forward instead of blocking the loop: to a timer that is the same, and a slow machine adds only
little to the seconds.
"""

from __future__ import annotations

import asyncio

import pytest

from insightdesk_rt.engine.transport.lag import LoopLag
from tests.support.aio import aio, until


def set_forward(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    """Set the running loop's clock forward."""
    loop = asyncio.get_running_loop()
    time_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_s() + by_s)


@aio
async def test_a_blocked_loop_shows_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    lag = LoopLag()
    lag.start()
    await until(lambda: lag.seconds.total >= 1, "a first turn")
    assert lag.worst_s() < 10
    set_forward(monkeypatch, 12)
    await until(lambda: lag.worst_s() > 11, "the turn that came late")
    lag.stop()
    assert lag.worst_s() < 22 and lag.seconds.sum > 11


@aio
async def test_an_old_lag_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    lag = LoopLag()
    lag.start()
    set_forward(monkeypatch, 2)
    await until(lambda: lag.worst_s() > 1.5, "the turn that came late")
    lag.stop()
    set_forward(monkeypatch, 5)
    assert lag.worst_s(9) > 1.5
    assert lag.worst_s(4) == 0.0, "only the requested time"
    seen = lag.seconds.total
    await asyncio.sleep(0.2)
    assert lag.seconds.total == seen, "stopped"

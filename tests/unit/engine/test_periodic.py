"""Periodic work goes on after failures, after turns that take too long, and when the wall clock jumps."""

from __future__ import annotations

import asyncio
import time

import pytest

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.periodic import only_if, start_periodic
from tests.support.aio import aio, until


@aio
async def test_work_runs_at_multiples_of_its_interval_until_it_is_stopped() -> None:
    loop, turns = asyncio.get_running_loop(), list[float]()
    began = loop.time()
    work_again = start_periodic(20, lambda: turns.append(loop.time() - began), "test")
    await until(lambda: len(turns) >= 3, "three turns")
    work_again.stop()
    work_again.stop()
    seen = len(turns)
    await asyncio.sleep(0.06)
    assert len(turns) == seen and turns[0] >= 0.019


@aio
async def test_turns_never_overlap_and_late_ones_are_skipped() -> None:
    running, most, turns = 0, 0, 0

    async def work() -> None:
        nonlocal running, most, turns
        running, turns = running + 1, turns + 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1

    began = time.monotonic()
    work_again = start_periodic(10, work, "test")
    await until(lambda: turns >= 4, "four turns")
    work_again.stop()
    assert most == 1 and time.monotonic() - began > 0.15
    await until(lambda: not running, "the last turn is finished")


@pytest.mark.parametrize("at_once", [True, False])
def test_work_goes_on_after_a_failure_which_is_logged_and_after_a_refusal(
    caplog: pytest.LogCaptureFixture, at_once: bool
) -> None:
    turns = 0

    def fail() -> None:
        nonlocal turns
        turns += 1
        raise RtError("UNAVAILABLE") if turns % 2 else ValueError("broken")

    async def fail_later() -> None:
        fail()

    @aio
    async def story() -> None:
        work_again = start_periodic(5, fail if at_once else fail_later, "test")
        await until(lambda: turns >= 3, "it goes on")
        work_again.stop()

    story()
    assert {record.getMessage() for record in caplog.records if record.levelname == "ERROR"} == {"a turn failed"}


@aio
async def test_setting_the_wall_clock_back_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    def work() -> None:
        nonlocal turns
        turns += 1

    work_again = start_periodic(5, work, "test")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    await until(lambda: turns >= 3, "it goes on")
    work_again.stop()


@aio
async def test_work_is_skipped_while_its_condition_is_false() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    async def yes() -> bool:
        return True

    async def no() -> bool:
        return False

    for true in (yes, no):
        turn = only_if(true, work)()
        assert turn is not None
        await turn
    assert done == [1]

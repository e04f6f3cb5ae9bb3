"""Owned tasks end with their owner, and each failure is logged once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.tasks import OwnedTasks
from tests.support.aio import aio

log = logging.getLogger("owner")


@aio
async def test_close_cancels_tasks_that_still_run() -> None:
    tasks, ended = OwnedTasks(log), list[str]()

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    task = tasks.spawn(wait_for_ever(), "waiting")
    await asyncio.sleep(0)
    assert len(tasks) == 1
    await tasks.close()
    assert task.cancelled() and ended == ["cancelled"] and len(tasks) == 0
    await tasks.close()


@aio
async def test_a_task_returns_its_result_and_is_forgotten() -> None:
    tasks = OwnedTasks(log)

    async def work() -> int:
        return 7

    assert await tasks.spawn(work(), "counting") == 7
    assert len(tasks) == 0


@pytest.mark.parametrize(
    ("failure", "level", "text"),
    [
        (ValueError("oops"), logging.ERROR, "counting failed"),
        (RtError("NOT_FOUND"), logging.WARNING, "counting failed: NOT_FOUND"),
        (RtError("UNAVAILABLE"), logging.DEBUG, "counting failed: UNAVAILABLE"),
    ],
)
@aio
async def test_a_failure_is_logged_once(
    failure: Exception, level: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "owner")
    tasks = OwnedTasks(log)

    async def fail() -> None:
        raise failure

    tasks.spawn(fail(), "counting")
    await tasks.wait()
    await asyncio.sleep(0)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(level, text)]
    assert len(tasks) == 0, "the owner forgets it"


@aio
async def test_a_cancelled_task_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tasks = OwnedTasks(log)
    tasks.spawn(asyncio.sleep(60), "sleeping")
    await tasks.close()
    assert not caplog.records

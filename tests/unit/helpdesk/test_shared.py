"""Shared reads: one for all callers at the same time, and never one that began before the call."""

from __future__ import annotations

import asyncio

import pytest

from insightdesk_rt.helpdesk.shared import Shared
from tests.support.aio import aio


@aio
async def test_callers_that_ask_during_a_read_share_the_next_one() -> None:
    shared: Shared[int] = Shared()
    reads, go_on = 0, asyncio.Event()

    async def read() -> int:
        nonlocal reads
        reads += 1
        number = reads
        await go_on.wait()
        return number

    first = asyncio.create_task(shared.ask("key", read))
    await asyncio.sleep(0)
    later = [asyncio.create_task(shared.ask("key", read)) for _ in range(50)]
    other = asyncio.create_task(shared.ask("another", read))
    await asyncio.sleep(0)
    go_on.set()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {3}, "one more read for all of them"
    assert await other == 2
    assert reads == 3 and not shared._reads


@aio
async def test_the_next_waiting_caller_repeats_a_failed_read() -> None:
    shared: Shared[str] = Shared()

    async def fails() -> str:
        await asyncio.sleep(0)
        raise ConnectionError

    async def works() -> str:
        return "found"

    first = asyncio.create_task(shared.ask("key", fails))
    await asyncio.sleep(0)
    second = asyncio.create_task(shared.ask("key", works))
    with pytest.raises(ConnectionError):
        await first
    assert await second == "found" and not shared._reads

"""engine/doors/drain.py: when each client is sent away, and who may change or end a drain."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from insightdesk_rt.engine.doors.drain import BATCH_EVERY_S, Drain
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from tests.support.aio import aio, until

LATE_S = 0.3  # tolerance beyond a tick, for a busy machine


class Client:
    def __init__(self, registry: Registry, name: str) -> None:
        self.registry = registry
        self.name = name

    def close(self, why: CloseReason) -> None:
        self.registry.whys.add(why)
        del self.registry.clients[self.name]
        self.registry.closed_s.append(time.monotonic() - self.registry.began_s)


class Registry:
    """`goodbyes_s`: seconds that clients take to answer a close frame."""

    def __init__(self, clients: int, goodbyes_s: float = 0.0) -> None:
        self.clients = {str(n): Client(self, str(n)) for n in range(clients)}
        self.closed_s: list[float] = []
        self.whys: set[CloseReason] = set()
        self.began_s = time.monotonic()
        self.goodbyes_s = goodbyes_s

    async def close(self, why: CloseReason, within_s: float) -> None:
        await asyncio.sleep(min(self.goodbyes_s, within_s))


def drain_of(registry: Registry) -> tuple[Drain, list[bool]]:
    said: list[bool] = []
    return Drain(cast(ClientRegistry, registry), said.append), said


def progress_of(drain: Drain) -> Any:
    assert drain.progress is not None
    return drain.progress


@aio
async def test_few_clients_are_spread_over_the_whole_time() -> None:
    """With at least one a tick, six clients were closed within half a second, whatever the duration."""
    registry = Registry(6)
    drain, said = drain_of(registry)
    await drain.finish(1.8)
    assert said == [False]
    for n, at_s in enumerate(registry.closed_s):
        assert 0.3 * n <= at_s < 0.3 * n + BATCH_EVERY_S + LATE_S, registry.closed_s
    assert len(registry.closed_s) == 6 and progress_of(drain).sentAway == 6


@aio
async def test_many_clients_leave_in_equal_batches_and_the_last_in_time() -> None:
    registry = Registry(1_000)
    drain, _ = drain_of(registry)
    await drain.finish(1.0)
    assert registry.closed_s[-1] < 1.0 + BATCH_EVERY_S + LATE_S
    assert 350 < sum(at_s < 0.5 for at_s in registry.closed_s) < 650


@aio
async def test_a_drain_of_at_most_one_client_or_without_time_ends_at_once() -> None:
    for clients, over_s in ((0, 60.0), (1, 60.0), (50, 0.0)):
        registry = Registry(clients)
        drain, _ = drain_of(registry)
        await drain.finish(over_s)
        assert time.monotonic() - registry.began_s < BATCH_EVERY_S + LATE_S and not registry.clients


@aio
async def test_clients_that_leave_by_themselves_do_not_make_others_leave_earlier() -> None:
    registry = Registry(10)
    drain, _ = drain_of(registry)
    drain.begin(60.0)
    await until(lambda: len(registry.clients) == 9, "the first is gone")
    for name in list(registry.clients)[:5]:
        del registry.clients[name]
    await asyncio.sleep(3 * BATCH_EVERY_S)
    assert len(registry.clients) == 4
    await drain.undo()


@aio
async def test_a_second_begin_changes_the_pace_for_the_remaining_clients() -> None:
    registry = Registry(4)
    drain, _ = drain_of(registry)
    drain.begin(3600.0)
    await until(lambda: len(registry.clients) == 3, "the first is gone")
    drain.begin(0.2)
    await until(lambda: progress_of(drain).done, "drained", 0.2 + BATCH_EVERY_S + LATE_S)
    assert (progress_of(drain).sentAway, progress_of(drain).overSeconds) == (4, 0.2)


@aio
async def test_an_admin_may_speed_up_the_drain_of_a_stopping_node() -> None:
    """This used to cancel the drain of the stop, and with it the stop itself."""
    registry = Registry(40)
    drain, _ = drain_of(registry)
    stop = asyncio.create_task(drain.finish(3600.0))
    await until(lambda: len(registry.clients) < 40, "the first is gone")
    drain.begin(0.2)
    await asyncio.wait_for(stop, 0.2 + BATCH_EVERY_S + LATE_S)
    assert not registry.clients and progress_of(drain).sentAway == 40
    drain.begin(10.0)  # too late to matter
    assert progress_of(drain).done


@aio
async def test_an_admin_cannot_slow_down_the_drain_of_a_stopping_node() -> None:
    """A supervisor would kill the process, and with it all remaining clients."""
    registry = Registry(40)
    drain, _ = drain_of(registry)
    stop = asyncio.create_task(drain.finish(0.5))
    await until(lambda: len(registry.clients) < 40, "the first are gone")
    drain.begin(3600.0)
    await asyncio.wait_for(stop, 0.5 + BATCH_EVERY_S + LATE_S)


@aio
async def test_a_stop_waits_for_the_close_frames_that_a_drain_waits_for() -> None:
    registry = Registry(3, goodbyes_s=0.3)
    drain, _ = drain_of(registry)
    drain.begin(0.0)
    await until(lambda: not registry.clients, "all closed")
    began_s = time.monotonic()
    await drain.finish(0.0)
    assert time.monotonic() - began_s > 0.2


@aio
async def test_undo_accepts_clients_again_and_fails_on_a_stopping_node() -> None:
    registry = Registry(3)
    drain, said = drain_of(registry)
    drain.begin(3600.0)
    await until(lambda: len(registry.clients) == 2, "the first is gone")
    await drain.undo()
    assert drain.progress is None and said == [False, True] and len(registry.clients) == 2
    await drain.finish(0.0)
    with pytest.raises(RtError, match="DRAINING"):
        await drain.undo()


@aio
async def test_the_close_reason_says_whether_a_node_is_drained_or_stops() -> None:
    for final, why in ((False, CloseReason.DRAINED), (True, CloseReason.SHUTDOWN)):
        registry = Registry(3)
        drain, _ = drain_of(registry)
        if final:
            await drain.finish(0.0)
        else:
            drain.begin(0.0)
            await until(lambda drain=drain: progress_of(drain).done, "drained")  # type: ignore[misc]
        assert registry.whys == {why}

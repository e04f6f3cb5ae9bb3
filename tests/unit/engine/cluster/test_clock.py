"""A node uses Valkey's time, whatever its own clock says; a quick reply gives a more exact time than a slow one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.engine.cluster.clock import SKEW_MS, ValkeyClock
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from tests.support.aio import aio


class Machine:
    """A machine whose clock is off by some seconds."""

    def __init__(self, off_s: float = 0.0) -> None:
        self.off_s = off_s

    def wall_s(self) -> float:
        return time.time() + self.off_s


@asynccontextmanager
async def a_clock(url: str, prefix: str, machine: Machine) -> AsyncIterator[ValkeyClock]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    try:
        yield ValkeyClock(valkey, machine.wall_s)
    finally:
        await valkey.close()


@pytest.mark.parametrize("off_s", [0.0, -600.0, 600.0])
@aio
async def test_a_node_uses_valkeys_time_even_if_its_own_clock_is_wrong(
    valkey_url: str, prefix: str, off_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(off_s)
    async with a_clock(valkey_url, prefix, machine) as clock:
        assert abs(clock.now_s() - machine.wall_s()) < 1, "the machine's clock is used until Valkey has replied"
        await clock.look()
        assert abs(clock.now_s() - time.time()) < 0.5  # Valkey runs on this machine
        assert abs(clock.skew_ms - off_s * 1000) < 500


@aio
async def test_a_clock_that_is_off_by_more_than_a_second_is_logged_once_and_its_correction_too(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    machine = Machine(-3.0)
    async with a_clock(valkey_url, prefix, machine) as clock:
        for machine.off_s in (0.0, -3.0, -3.0, 0.0, 0.0, SKEW_MS / 1000 + 1):
            await clock.look()
        said = [record.getMessage() for record in caplog.records if record.name.endswith("clock")]
        assert [line.partition(";")[0] for line in said] == [
            "this machine's clock is behind Valkey's",
            "this machine's clock agrees with Valkey's again",
            "this machine's clock is ahead of Valkey's",
        ]


@aio
async def test_setting_the_wall_clock_does_not_change_valkeys_time(valkey_url: str, prefix: str) -> None:
    machine = Machine()
    async with a_clock(valkey_url, prefix, machine) as clock:
        await clock.look()
        before_s = clock.now_s()
        machine.off_s = 7200.0
        assert 0 <= clock.now_s() - before_s < 5


@aio
async def test_a_slow_reply_does_not_replace_the_time_of_a_quick_reply(valkey_url: str, prefix: str) -> None:
    """A process that was stopped between request and reply reads an outdated time."""
    now = [1000.0]
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    clock = ValkeyClock(valkey, monotonic_s=lambda: now[0])
    await clock.look()
    right_s = clock.now_s()
    command = valkey.command

    async def stopped(*args: object) -> object:
        answer = await command(*args)  # type: ignore[arg-type]
        now[0] += 10.0
        return answer

    valkey.command = stopped  # type: ignore[method-assign, assignment]
    await clock.look()
    assert clock.now_s() == right_s + 10.0
    await valkey.close()


@aio
async def test_valkeys_time_goes_on_while_valkey_is_unreachable(prefix: str, valkey_url: str) -> None:
    now = [1000.0]
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    clock = ValkeyClock(valkey, monotonic_s=lambda: now[0])
    await clock.look()
    before_s = clock.now_s()
    await valkey.close()
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await clock.look()
    now[0] += 60.0
    assert clock.now_s() == before_s + 60.0

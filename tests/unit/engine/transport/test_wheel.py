"""The wheel: never early, late by a step at most, one timer per key."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.transport.wheel import Wheel

STEP = 50


class Clock:
    def __init__(self, now_ms: int = 12_345) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def wheel_at(clock: Clock) -> Wheel:
    return Wheel(STEP, clock)


@given(st.lists(st.integers(0, 2_000), max_size=20), st.integers(0, 10_000), st.integers(1, 170))
def test_a_timer_runs_once_not_early_and_at_most_a_step_and_a_turn_late(
    delays: list[int], start: int, turn_ms: int
) -> None:
    clock = Clock(start)
    wheel = wheel_at(clock)
    ran: list[tuple[int, int]] = []
    for number, delay in enumerate(delays):
        wheel.later(number, delay, lambda number, due: ran.append((number, clock.now_ms - due)), number, start + delay)
    while clock.now_ms < start + 2_500:
        clock.now_ms += turn_ms
        wheel.turn()
    assert sorted(number for number, _ in ran) == list(range(len(delays)))
    assert all(0 <= late <= STEP + turn_ms for _, late in ran)
    assert len(wheel) == 0


def test_setting_a_key_again_replaces_its_timer() -> None:
    clock, ran = Clock(), list[str]()
    wheel = wheel_at(clock)
    wheel.later("typing", 100, ran.append, "first")
    wheel.later("typing", 400, ran.append, "second")
    clock.now_ms += 200
    wheel.turn()
    assert ran == []
    clock.now_ms += 300
    wheel.turn()
    wheel.turn()
    assert ran == ["second"]


def test_a_cancelled_timer_does_not_run_and_cancelling_is_idempotent() -> None:
    clock, ran = Clock(), list[str]()
    wheel = wheel_at(clock)
    wheel.later("a", 100, ran.append, "a")
    assert "a" in wheel
    wheel.cancel("a")
    wheel.cancel("a")
    assert "a" not in wheel
    clock.now_ms += 1_000
    wheel.turn()
    assert ran == []


def test_a_timer_may_cancel_another_of_the_same_step() -> None:
    clock, ran = Clock(), list[str]()
    wheel = wheel_at(clock)
    wheel.later("a", 100, wheel.cancel, "b")
    wheel.later("b", 100, ran.append, "b")
    wheel.later("c", 100, ran.append, "c")
    clock.now_ms += 1_000
    wheel.turn()
    assert ran == ["c"]
    assert len(wheel) == 0


def test_a_timer_set_by_a_timer_waits_for_a_later_turn() -> None:
    """Otherwise a timer that sets itself with delay 0 would block the loop for ever."""
    clock, ran = Clock(), list[int]()
    wheel = wheel_at(clock)

    def again() -> None:
        ran.append(clock.now_ms)
        wheel.later("again", 0, again)

    wheel.later("again", 0, again)
    clock.now_ms += STEP
    wheel.turn()
    assert len(ran) == 1
    clock.now_ms += 2 * STEP
    wheel.turn()
    assert len(ran) in (2, 3)


def test_a_timer_that_fails_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    clock, ran = Clock(), list[str]()
    wheel = wheel_at(clock)

    def fails() -> None:
        raise ZeroDivisionError

    calls: list[Callable[[], None]] = [fails, lambda: ran.append("ran")]
    for number, call in enumerate(calls):
        wheel.later(number, 10, call)
    clock.now_ms += 1_000
    with caplog.at_level(logging.ERROR):
        wheel.turn()
    assert ran == ["ran"]
    assert [record.message for record in caplog.records] == ["timer failed"]


def test_due_timers_run_oldest_first_after_a_stall() -> None:
    clock, ran = Clock(), list[int]()
    wheel = wheel_at(clock)
    for delay in (900, 100, 500):
        wheel.later(delay, delay, ran.append, delay)
    clock.now_ms += 10_000
    wheel.turn()
    assert ran == [100, 500, 900]


def test_an_empty_wheel_keeps_nothing() -> None:
    clock = Clock()
    wheel = wheel_at(clock)
    for number in range(100):
        wheel.later(number, number * 40, print)
    for number in range(100):
        wheel.cancel(number)
    assert not wheel._buckets and not wheel._where

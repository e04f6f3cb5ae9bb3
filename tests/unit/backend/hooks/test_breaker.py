"""The circuit breaker as a table of events and times, and for any order of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.backend.hooks.breaker import FAILURES, LONGEST_PAUSE_S, PAUSE_S, Breaker, BreakerState


def fail(breaker: Breaker, times: int, now_s: float) -> None:
    for _ in range(times):
        breaker.failed(now_s)


def test_it_opens_after_some_failures_in_a_row() -> None:
    breaker = Breaker()
    fail(breaker, FAILURES - 1, 0)
    breaker.succeeded()
    fail(breaker, FAILURES - 1, 0)
    assert breaker.state is BreakerState.CLOSED and breaker.allows(0)
    breaker.failed(0)
    assert breaker.state is BreakerState.OPEN and not breaker.allows(PAUSE_S - 0.01)


def test_after_the_pause_one_trial_decides() -> None:
    breaker = Breaker()
    fail(breaker, FAILURES, 0)
    assert breaker.allows(PAUSE_S) and breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows(PAUSE_S), "one trial at a time"
    breaker.failed(PAUSE_S)
    assert not breaker.allows(PAUSE_S + 2 * PAUSE_S - 0.01), "the pause has doubled"
    assert breaker.allows(PAUSE_S + 2 * PAUSE_S)
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED and breaker.allows(4)
    fail(breaker, FAILURES, 10)
    assert breaker.allows(10 + PAUSE_S), "a success has reset the pause"


def test_the_pause_has_a_limit() -> None:
    breaker, now_s = Breaker(), 0.0
    fail(breaker, FAILURES, now_s)
    for _ in range(20):
        now_s += LONGEST_PAUSE_S
        assert breaker.allows(now_s)
        breaker.failed(now_s)


def test_an_abandoned_trial_is_made_again() -> None:
    breaker = Breaker()
    fail(breaker, FAILURES, 0)
    assert breaker.allows(PAUSE_S)
    breaker.abandoned(PAUSE_S)
    assert breaker.allows(PAUSE_S)


@given(st.lists(st.tuples(st.sampled_from(["ask", "succeed", "fail", "abandon"]), st.floats(0, 5))))
def test_it_never_stays_shut_for_longer_than_the_longest_pause(events: list[tuple[str, float]]) -> None:
    breaker, now_s, asked = Breaker(), 0.0, 0
    for what, later_s in events:
        now_s += later_s
        if what == "ask":
            asked += breaker.allows(now_s)
        elif asked:
            asked -= 1
            if what == "succeed":
                breaker.succeeded()
            elif what == "fail":
                breaker.failed(now_s)
            else:
                breaker.abandoned(now_s)
    while asked:
        asked -= 1
        breaker.abandoned(now_s)
    assert breaker.allows(now_s + LONGEST_PAUSE_S)

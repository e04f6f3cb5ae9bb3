"""Rate windows and caps are pure values, so a test of ten minutes takes a microsecond."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.engine.rate_limits import (
    SWEEP_AT,
    Bucket,
    Cap,
    Offenders,
    Rate,
    Window,
    Windows,
    counted_as,
    parse_rate,
)


def test_a_window_allows_max_and_then_returns_the_time_to_wait() -> None:
    """`ticket:typing` 10 in 10 s."""
    window = Window(10, 10_000)
    assert [window.take(1_000 + i) for i in range(10)] == [0] * 10
    assert window.take(1_500) == 9_500
    assert window.take(10_999) == 1


def test_a_window_starts_again_after_it_has_expired() -> None:
    window = Window(1, 1_000)
    assert window.take(0) == 0
    assert window.take(999) == 1
    assert window.take(1_000) == 0
    assert window.take(1_001) == 999


def test_a_window_starts_with_its_first_event() -> None:
    window = Window(2, 1_000)
    assert (window.take(900), window.take(1_100), window.take(1_899), window.take(1_900)) == (0, 0, 1, 0)


def test_a_window_may_be_forgotten_only_after_it_has_expired() -> None:
    window = Window(1, 1_000)
    assert window.expired(0)
    window.take(5)
    assert not window.expired(1_004)
    assert window.expired(1_005)


def test_a_window_of_0_allows_nothing() -> None:
    window = Window(0, 1_000)
    assert window.take(0) == 1_000
    assert window.take(1) == 999


@settings(max_examples=100)
@given(st.integers(1, 5), st.integers(1, 50), st.lists(st.integers(0, 20), max_size=60))
def test_no_window_ever_allows_more_than_max(max: int, per_ms: int, steps: list[int]) -> None:
    window, now, allowed = Window(max, per_ms), 0, list[int]()
    for step in steps:
        now += step
        wait = window.take(now)
        assert 0 <= wait <= per_ms
        if wait == 0:
            allowed.append(now)
    # around its end a fixed window allows at most twice its max
    for start in allowed:
        assert sum(start <= at < start + per_ms for at in allowed) <= 2 * max


def test_windows_are_per_key() -> None:
    windows = Windows(1, 1_000)
    assert (windows.take("a", 0), windows.take("b", 0), windows.take("a", 1)) == (0, 0, 999)


def test_expired_windows_are_removed_as_the_table_grows() -> None:
    windows = Windows(1, 10)
    for i in range(20 * SWEEP_AT):
        windows.take(f"address {i}", i)
    assert len(windows) <= SWEEP_AT


def test_a_cap_counts_enters_and_leaves() -> None:
    cap = Cap(2)
    for key in "aab":
        cap.enter(key)
    assert cap.full("a") and not cap.full("b")
    cap.leave("a")
    assert not cap.full("a")
    cap.enter("a")
    assert cap.count("a") == 2
    cap.leave("b")
    assert cap.count("b") == 0


def test_a_cap_of_0_is_no_limit() -> None:
    cap = Cap(0)
    for _ in range(100):
        cap.enter("a")
    assert cap.count("a") == 100 and not cap.full("a")


def test_a_rate_is_written_max_slash_seconds() -> None:
    assert parse_rate("10/60") == Rate(10, 60)


@pytest.mark.parametrize(
    "text", ["", "10", "/", "10/", "/60", "0/60", "10/0", "-1/60", "1.5/60", "²/60", "1/2/3", "a/b"]
)
def test_an_invalid_rate_is_refused_with_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="max/seconds") as refused:
        parse_rate(text)
    assert repr(text) in str(refused.value)


def test_addresses_of_one_ipv6_network_share_a_limit() -> None:
    assert counted_as("2001:db8:1:2:a::1") == counted_as("2001:db8:1:2:b::2") == "2001:db8:1:2::/64"
    assert counted_as("2001:db8:1:3::1") != counted_as("2001:db8:1:2::1")
    assert counted_as("::ffff:192.0.2.7") == counted_as("192.0.2.7") == "192.0.2.7"
    assert counted_as("::1") == "::1" and counted_as("what:ever") == "what:ever"


def test_offenders_are_sorted_by_refusals_and_forgotten_after_a_while() -> None:
    offenders = Offenders(max_entries=3, remember_ms=1000)
    for user, times in (("ann", 2), ("bob", 5), ("carl", 2)):
        for _ in range(times):
            offenders.add(user, "/chat", "chat:message", 100)
    assert [(one.user, one.refusals) for one in offenders.worst(2, 200)] == [("bob", 5), ("ann", 2)]
    offenders.add("ann", "/chat", "chat:message", 300)
    offenders.add("dora", "/chat", "chat:message", 300)  # the table is full: bob's last refusal is the oldest
    assert [(one.user, one.refusals) for one in offenders.worst(9, 300)] == [("ann", 3), ("carl", 2), ("dora", 1)]
    assert [one.user for one in offenders.worst(9, 1200)] == ["ann", "dora"]
    assert offenders.worst(9, 1301) == []
    offenders.add("ann", "/chat", "chat:message", 2000)
    assert [(one.refusals, one.last_ms) for one in offenders.worst(9, 2000)] == [(1, 2000)]


def test_a_burst_is_allowed_after_a_pause_and_the_average_holds() -> None:
    """`chat:message`: 30 at once, five a second on average. After a burst a user waits for one place, not for all."""
    window = Bucket(Rate(5, 1, burst=30))
    assert [window.take(0) for _ in range(30)] == [0] * 30
    assert window.take(0) == window.wait_ms(0) == 200
    assert window.take(200) == 0 and window.take(200) == 200
    assert not window.expired(200)
    assert window.expired(7_000)
    assert [window.take(7_000) for _ in range(31)].count(0) == 30


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 20), st.lists(st.integers(0, 700), max_size=80))
def test_no_bucket_allows_more_than_its_burst_and_the_average(
    max: int, per_s: int, burst: int, steps: list[int]
) -> None:
    window, now, allowed = Bucket(Rate(max, per_s, burst)), 0, 0
    for step in steps:
        now += step
        wait = window.take(now)
        allowed += not wait
        assert allowed <= burst + now * max / (per_s * 1000) + 1e-6
        if wait:
            assert window.wait_ms(now + wait) == 0, "a call after the returned wait is allowed"


def test_a_call_for_many_items_counts_as_all_or_none_of_them() -> None:
    window = Window(10, 1_000)
    assert window.take(0) == 0 and window.take_more(8, 0) == 0
    assert window.take(1) == 0 and window.take_more(1, 1) == 999
    alone = Window(10, 1_000)
    assert alone.take(0) == 0 and alone.take_more(199, 0) == 0, "bigger than the window, and the only one in it"
    assert alone.take(1) == 999

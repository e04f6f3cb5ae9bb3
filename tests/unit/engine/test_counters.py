"""Counters: every value is in one bucket, quantiles are estimated, unknown names are counted together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.counters import OTHER, EventCounts, Histogram, quantile

BOUNDS = (0.1, 1.0, 10.0)


@given(st.lists(st.floats(0, 1000)))
def test_each_value_is_counted_in_the_first_bucket_not_below_it(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.add(value)
    below = [sum(value <= bound for value in values) for bound in BOUNDS]
    assert [sum(histogram.counts[: n + 1]) for n in range(len(BOUNDS))] == below
    assert histogram.total == len(values) and histogram.sum == pytest.approx(sum(values))


@given(st.lists(st.floats(0, 10, exclude_min=True), min_size=1), st.floats(0.01, 1))
def test_an_estimated_quantile_is_in_the_bucket_of_the_true_one(values: list[float], part: float) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.add(value)
    found = quantile(BOUNDS, histogram.counts, part)
    assert found is not None
    at_most = sum(value <= next(bound for bound in BOUNDS if bound >= found) for value in values)
    assert at_most >= part * len(values) - 1e-6


def test_quantiles_without_values_and_beyond_all_buckets() -> None:
    assert quantile(BOUNDS, [0, 0, 0, 0], 0.5) is None
    assert quantile(BOUNDS, [0, 0, 0, 5], 0.5) == 10.0
    assert quantile(BOUNDS, [10, 0, 0, 0], 0.5) == pytest.approx(0.05)


def test_names_that_are_not_the_servers_are_counted_together() -> None:
    counts = EventCounts(("ticket:updated",))
    counts.add("ticket:updated", 3)
    for n in range(1000):
        counts.add(f"made:up:{n}")
    assert counts.by_name == {"ticket:updated": 3, OTHER: 1000} and counts.total == 1003

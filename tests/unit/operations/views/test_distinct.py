"""Distinct users of several nodes: an exact number while they are few, an estimate when they are many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.operations.views.distinct import BITS, MAX_MARKS, count, mark, marks

names = st.sets(st.text(max_size=8), max_size=60)


def of(*nodes: set[str]) -> int:
    return count([(len(node), marks(node)) for node in nodes])


@given(st.lists(names, max_size=4))
def test_few_users_are_counted_exactly(nodes: list[set[str]]) -> None:
    assert of(*nodes) == len(set().union(*nodes))


@pytest.mark.parametrize("shared", [0, 1_000, 4_000])
def test_many_users_are_counted_within_a_few_percent(shared: int) -> None:
    """Two nodes with 5,000 users each, some of them on both."""
    one = {f"user-{n}" for n in range(5_000)}
    two = {f"user-{n}" for n in range(5_000 - shared, 10_000 - shared)}
    true = len(one | two)
    assert abs(of(one, two) - true) < 0.15 * true
    assert len(marks(one)) == MAX_MARKS


def test_a_single_full_node_returns_its_exact_number() -> None:
    assert of({f"user-{n}" for n in range(5_000)}) == 5_000


def test_hashes_fit_into_a_javascript_number_and_are_the_same_on_all_nodes() -> None:
    assert mark("anna") == 7_327_757_948_776_585 < 2**BITS
    assert mark("anna") != mark("annb")

"""Cut, hanging and poisoned connections between nodes and Valkey: no acknowledged event is missing, doubled or out of
order."""

from __future__ import annotations

from tests.cluster.conftest import Torture


def test_a_run_without_a_fault_has_no_gap_and_no_notice(torture: Torture) -> None:
    """The control, which also checks that the load is as expected."""
    row = torture.play("none", 1)
    assert row.verdict.announced == row.verdict.resyncs == row.verdict.retried == row.refused == 0
    assert row.volatile > 50


def test_nothing_is_lost_when_subscription_connections_are_killed(torture: Torture) -> None:
    row = torture.play("kill-subscriptions", 2)
    assert row.verdict.announced == 0 and row.verdict.recovered == 0, "clients notice nothing"


def test_killed_connections_of_every_kind_lose_nothing(torture: Torture) -> None:
    row = torture.play("kill-connections", 3)
    assert row.verdict.announced == 0 and row.verdict.recovered == 0


def test_reset_connections_lose_nothing(torture: Torture) -> None:
    assert torture.play("reset", 4).verdict.announced == 0


def test_a_black_hole_between_all_nodes_and_valkey_loses_nothing(torture: Torture) -> None:
    row = torture.play("black-hole", 5)
    assert row.refused > 0, "publishers received errors"
    assert row.verdict.announced == 0


def test_a_black_hole_between_one_node_and_valkey_loses_nothing(torture: Torture) -> None:
    assert torture.play("black-hole-one", 6).verdict.announced == 0


def test_a_subscription_that_hangs_while_commands_work_loses_nothing(torture: Torture) -> None:
    row = torture.play("half-open", 7)
    assert row.verdict.announced == 0
    assert row.verdict.longest_gap_s < 4, "noticed after a second, not when the cable is repaired"


def test_an_output_buffer_that_overflows_loses_nothing(torture: Torture) -> None:
    assert torture.play("buffer-overflow", 8).verdict.announced == 0


def test_nonsense_on_the_channels_has_no_effect(torture: Torture) -> None:
    assert torture.play("poison", 9).verdict.announced == 0

"""Valkey killed, away, frozen, emptied, full and replaced: nothing acknowledged is missing, doubled or out of order."""

from __future__ import annotations

import asyncio

from tests.cluster.conftest import Torture
from tests.cluster.torture.publishers import NAMESPACE


def test_a_valkey_that_is_killed_and_comes_back_with_all_it_had(torture: Torture) -> None:
    row = torture.play("valkey-restart", 1)
    assert row.verdict.told == 0 and row.verdict.retried > 0


def test_a_valkey_that_is_killed_and_comes_back_without_its_last_second(torture: Torture) -> None:
    assert torture.play("valkey-restart-everysec", 2).verdict.told == 0


def test_a_valkey_that_is_killed_and_comes_back_empty(torture: Torture) -> None:
    torture.play("valkey-restart-empty", 3)


def test_a_valkey_that_is_away_for_long(torture: Torture) -> None:
    row = torture.play("valkey-away", 4)
    assert row.refused > 0 and row.verdict.longest_gap_s > 7
    assert row.verdict.told == 0 and row.verdict.recovered == 0, "clients stay connected"


def test_volatile_events_go_on_inside_each_node_while_valkey_is_away(torture: Torture) -> None:
    async def body() -> list[int]:
        cluster = torture.run.cluster
        await asyncio.to_thread(cluster.valkey.kill)
        try:
            with torture.run.subscribers.counting_volatile() as heard:
                data = {"p": "alone", "n": 1}
                body = {
                    "namespace": NAMESPACE,
                    "event": "torture",
                    "room": "role:agent",
                    "data": data,
                    "volatile": True,
                }
                for node in cluster.nodes:
                    status, answer = await node.server.push("POST", "/api/v1/emit", body)
                    assert status == 200, answer
                await asyncio.sleep(0.5)
            return heard
        finally:
            await asyncio.to_thread(cluster.valkey.start)
            await cluster.healed()

    assert torture.await_(body()) == [1] * len(torture.run.subscribers.all), "each heard its own node, once"


def test_a_frozen_valkey(torture: Torture) -> None:
    assert torture.play("valkey-frozen", 5).verdict.told == 0


def test_a_paused_valkey(torture: Torture) -> None:
    assert torture.play("valkey-paused", 6).verdict.told == 0


def test_an_emptied_valkey(torture: Torture) -> None:
    torture.play("flushall", 7)


def test_a_valkey_that_is_emptied_while_a_node_is_cut_off(torture: Torture) -> None:
    torture.play("flushall-cut-off", 8)


def test_a_full_valkey(torture: Torture) -> None:
    row = torture.play("valkey-full", 9)
    assert row.refused > 0 and row.verdict.told == 0


def test_a_read_only_valkey(torture: Torture) -> None:
    row = torture.play("read-only", 10)
    assert row.refused > 0 and row.verdict.told == 0


def test_a_valkey_that_is_busy_with_a_script(torture: Torture) -> None:
    row = torture.play("valkey-busy", 14)
    assert row.refused > 0 and row.verdict.told == 0


def test_a_user_of_valkey_that_is_switched_off(torture: Torture) -> None:
    row = torture.play("shut-out", 15)
    assert row.refused > 0 and row.verdict.told == 0


def test_a_failover_to_a_replica_that_has_all(torture: Torture) -> None:
    assert torture.play("failover", 11).verdict.told == 0


def test_a_failover_to_a_replica_that_lags_behind(torture: Torture) -> None:
    torture.play("failover-lagging", 12)


def test_a_failover_to_a_replica_that_lags_behind_while_clients_are_away(torture: Torture) -> None:
    torture.play("failover-clients-cut", 13)


def test_two_primaries_that_both_take_writes(torture: Torture) -> None:
    """Nodes that come together hear what either took, or are told."""
    torture.play("two-primaries", seed=1)


def test_a_power_loss_that_takes_the_last_second(torture: Torture) -> None:
    torture.play("power-loss", seed=1)


def test_clients_that_come_while_valkey_is_away_are_not_deaf_afterwards(torture: Torture) -> None:
    torture.play("new-clients-in-outage", seed=1)

"""Valkey killed, unreachable, frozen, emptied, full or replaced: no acknowledged event is missing, doubled or out of
order."""

from __future__ import annotations

import asyncio

from tests.cluster.conftest import Torture
from tests.cluster.torture.publishers import NAMESPACE


def test_nothing_is_lost_when_valkey_is_killed_and_keeps_its_data(torture: Torture) -> None:
    row = torture.play("valkey-restart", 1)
    assert row.verdict.announced == 0 and row.verdict.retried > 0


def test_nothing_is_lost_when_valkey_is_killed_and_loses_its_last_second(torture: Torture) -> None:
    assert torture.play("valkey-restart-everysec", 2).verdict.announced == 0


def test_nothing_is_lost_when_valkey_is_killed_and_comes_back_empty(torture: Torture) -> None:
    torture.play("valkey-restart-empty", 3)


def test_nothing_is_lost_in_a_long_outage_of_valkey(torture: Torture) -> None:
    row = torture.play("valkey-away", 4)
    assert row.refused > 0 and row.verdict.longest_gap_s > 7
    assert row.verdict.announced == 0 and row.verdict.recovered == 0, "clients stay connected"


def test_volatile_events_continue_inside_each_node_during_an_outage_of_valkey(torture: Torture) -> None:
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

    assert torture.await_(body()) == [1] * len(torture.run.subscribers.all), "each received its node's event once"


def test_nothing_is_lost_when_valkey_is_frozen(torture: Torture) -> None:
    assert torture.play("valkey-frozen", 5).verdict.announced == 0


def test_nothing_is_lost_when_valkey_is_paused(torture: Torture) -> None:
    assert torture.play("valkey-paused", 6).verdict.announced == 0


def test_nothing_is_lost_when_valkey_is_emptied(torture: Torture) -> None:
    torture.play("flushall", 7)


def test_nothing_is_lost_when_valkey_is_emptied_while_a_node_is_cut_off(torture: Torture) -> None:
    torture.play("flushall-cut-off", 8)


def test_nothing_is_lost_when_valkey_is_full(torture: Torture) -> None:
    row = torture.play("valkey-full", 9)
    assert row.refused > 0 and row.verdict.announced == 0


def test_nothing_is_lost_when_valkey_is_read_only(torture: Torture) -> None:
    row = torture.play("read-only", 10)
    assert row.refused > 0 and row.verdict.announced == 0


def test_nothing_is_lost_when_valkey_is_busy_with_a_script(torture: Torture) -> None:
    row = torture.play("valkey-busy", 14)
    assert row.refused > 0 and row.verdict.announced == 0


def test_nothing_is_lost_when_the_valkey_user_is_switched_off(torture: Torture) -> None:
    row = torture.play("shut-out", 15)
    assert row.refused > 0 and row.verdict.announced == 0


def test_nothing_is_lost_in_a_failover_to_a_complete_replica(torture: Torture) -> None:
    assert torture.play("failover", 11).verdict.announced == 0


def test_nothing_is_lost_in_a_failover_to_a_lagging_replica(torture: Torture) -> None:
    torture.play("failover-lagging", 12)


def test_clients_disconnected_during_a_failover_to_a_lagging_replica_are_told_of_gaps(torture: Torture) -> None:
    torture.play("failover-clients-cut", 13)


def test_nothing_is_lost_without_notice_when_two_primaries_take_writes(torture: Torture) -> None:
    """Nodes that reach the new primary receive the events of both, or clients are told of the gap."""
    torture.play("two-primaries", seed=1)


def test_nothing_is_lost_in_a_power_loss_that_takes_the_last_second(torture: Torture) -> None:
    torture.play("power-loss", seed=1)


def test_clients_that_connect_during_an_outage_of_valkey_receive_events_afterwards(torture: Torture) -> None:
    torture.play("new-clients-in-outage", seed=1)

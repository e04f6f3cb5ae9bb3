"""Nodes that die, freeze and are restarted: their clients go on elsewhere and miss nothing."""

from __future__ import annotations

import asyncio

from tests.cluster.conftest import Torture
from tests.cluster.torture.subscribers import Python


def test_clients_of_a_killed_node_miss_nothing(torture: Torture) -> None:
    """Who can resume does: only python-socketio's clients begin anew, as they do after every cut."""
    row = torture.play("node-killed", 1)
    assert row.verdict.recovered > 0
    anew = {s.name for s in torture.run.subscribers if s.record.begun_anew}
    assert anew <= {s.name for s in torture.run.subscribers if isinstance(s, Python)}


def test_clients_of_a_frozen_node_miss_nothing(torture: Torture) -> None:
    """The others take it for dead meanwhile; it catches up before it goes on."""
    row = torture.play("node-frozen", 2)
    assert row.verdict.longest_gap_s > 5


def test_clients_miss_nothing_in_a_rolling_restart(torture: Torture) -> None:
    row = torture.play("rolling-restart", 3)
    assert row.verdict.recovered > 0
    assert torture.await_(_spread(torture)) > 1


async def _spread(torture: Torture) -> int:
    """Return to how many nodes the clients are connected."""
    await asyncio.sleep(0)
    return len({id(subscriber.node) for subscriber in torture.run.subscribers})

"""Nodes that die, freeze or are restarted: their clients move to other nodes and miss nothing."""

from __future__ import annotations

import asyncio

from tests.cluster.conftest import Torture
from tests.cluster.torture.subscribers import Python


def test_clients_of_a_killed_node_miss_nothing(torture: Torture) -> None:
    """All clients resume, except those of python-socketio, which always start a new session."""
    row = torture.play("node-killed", 1)
    assert row.verdict.recovered > 0
    anew = {s.name for s in torture.run.subscribers if s.record.new_sessions}
    assert anew <= {s.name for s in torture.run.subscribers if isinstance(s, Python)}


def test_clients_of_a_frozen_node_miss_nothing(torture: Torture) -> None:
    """The others declare it dead in the meantime; it catches up before it continues."""
    row = torture.play("node-frozen", 2)
    assert row.verdict.longest_gap_s > 5


def test_clients_miss_nothing_in_a_rolling_restart(torture: Torture) -> None:
    row = torture.play("rolling-restart", 3)
    assert row.verdict.recovered > 0
    assert torture.await_(_spread(torture)) > 1


async def _spread(torture: Torture) -> int:
    """Return the number of nodes that have clients."""
    await asyncio.sleep(0)
    return len({id(subscriber.node) for subscriber in torture.run.subscribers})

"""The table of another client's waiting times has a row without an attack and one for each attack."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.benchmarks.neighbour import ATTACKS, SETTINGS, rows
from tests.support.server import ServerProcess

pytestmark = pytest.mark.alone


def test_a_neighbour_is_timed_without_and_during_attacks(tmp_path: Path) -> None:
    names = ["messages of 1 MB", "incomplete request heads"]
    assert set(names) < ATTACKS.keys()
    server = ServerProcess(tmp_path, **SETTINGS)
    server.start()
    try:
        table = asyncio.run(rows(server, names, 0.5, 0.5))
        server.stop()
        server.assert_quiet()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[0] for row in cells] == ["no attack", *names]
    for row in cells:
        p50_ms, p99_ms, max_ms, answers = map(float, row[1:])
        assert 0 < p50_ms <= p99_ms <= max_ms and answers >= 1

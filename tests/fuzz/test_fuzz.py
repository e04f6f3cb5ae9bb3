"""A short turn of bin/fuzz, with the same inputs every time, and what longer ones have found."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fuzz import codecs, live
from tests.support.server import ServerProcess


@pytest.mark.parametrize("name", codecs.READERS)
def test_a_reader_refuses_nonsense_in_its_one_way(name: str) -> None:
    for seed in range(1_500):
        codecs.one(name, seed)


def test_nonsense_at_every_door_harms_nobody(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, **live.SOON)
    server.start()
    try:
        report = asyncio.run(live.run(server, 7, 10))
        before, after = report.memory_mb
        assert report.attacks > 100 and after < before + 30, report
        assert server.stop() == 0
        server.assert_quiet()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()

"""A short run of bin/fuzz, with the same inputs every time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import codecs, heads, live, long
from tests.support.server import ServerProcess


@pytest.mark.parametrize("name", codecs.READERS)
def test_a_decoder_refuses_malformed_input_with_its_own_error(name: str) -> None:
    for seed in range(1_500):
        codecs.one(name, seed)


@pytest.mark.alone
@pytest.mark.parametrize("unit", long.UNITS)
def test_a_megabyte_of_one_unit_takes_little_longer_than_an_ordinary_one(unit: str) -> None:
    """While one message is read, other clients wait."""
    slow = []
    for name in long.READERS:
        try:
            long.look(name, long.made(long.UNITS[unit]))
        except codecs.Found as why:
            slow.append(str(why))
    assert not slow, "\n".join(slow)


def test_tornado_reads_requests_of_the_fast_path_in_the_same_way() -> None:
    accepted = sum(heads.same(heads.head(Random(seed))) for seed in range(5_000))
    assert accepted > 1_000, "most of them are not plain"


def test_malformed_input_at_every_door_does_not_affect_other_clients(tmp_path: Path) -> None:
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

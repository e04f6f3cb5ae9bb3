"""One real server for all attacks. Its log must contain no unexpected warning afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("hostile"), presence_grace_ms=500, drain_seconds=0)
    server.start()
    yield server
    code = server.stop()
    server.assert_quiet()
    assert code == 0, server.last_words()

"""Servers that cannot run beside each other: the later one ends with one line. A killed server can start again."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest

from tests.support.server import ServerProcess


def test_a_server_with_a_taken_name_or_another_secret_ends_with_one_line(tmp_path: Path, valkey_url: str) -> None:
    common = {"valkey_url": valkey_url, "valkey_prefix": "rivals" + secrets.token_hex(3), "drain_seconds": 0}
    first = ServerProcess(tmp_path / "first", node_id="n1", **common)
    others = {
        "node_id = n1: a node of this name runs already": {"node_id": "n1"},
        "jwt_secret: node n1, which runs, has another": {"node_id": "n2", "jwt_secret": "x" * 32},
        "cluster_secret: node n1, which runs, has another": {"node_id": "n2", "cluster_secret": "x" * 32},
    }
    try:
        first.start()
        for number, (line, settings) in enumerate(others.items()):
            other = ServerProcess(tmp_path / f"other{number}", **{**common, **settings})
            with pytest.raises(AssertionError, match="the server ended with"):
                other.start()
            said = [text for text in other.log().splitlines() if line in text]
            assert len(said) == 1 and "Traceback" not in other.log()
        second = ServerProcess(tmp_path / "second", node_id="n2", **common)
        second.start()
        for _ in range(2):  # its lease still runs
            first.kill()
            began_s = time.monotonic()
            first.start()
            assert time.monotonic() - began_s < 4.0, "it did not wait for the end of its old lease"
        second.stop()
    finally:
        if first.process is not None:
            first.stop()

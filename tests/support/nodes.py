"""Two server processes on one Valkey."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.server import ServerProcess


@contextmanager
def two_nodes(
    folder: Path, valkey_url: str, announced: Collection[str] = (), **settings: object
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Run nodes n1 and n2; what is in Valkey is theirs alone. Afterwards they have logged nothing that would alarm, but
    for lines with one of the `announced` texts.
    """
    common = {"valkey_url": valkey_url, "valkey_prefix": "nodes" + secrets.token_hex(3), "drain_seconds": 0}
    one, two = (ServerProcess(folder / name, node_id=name, **{**common, **settings}) for name in ("n1", "n2"))
    try:
        for server in (one, two):
            server.start()
        yield one, two
    finally:
        for server in (one, two):
            if server.process is not None:
                server.stop()
    for server in (one, two):
        server.assert_quiet(*announced)

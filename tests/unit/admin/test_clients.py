"""What connections are sorted by. Finding them and sending them away is tested on real processes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from insightdesk_rt.admin.clients import Ask, Connections, Wanted
from insightdesk_rt.wire import json
from tests.support.aio import aio


def node(name: str, clock_ms: int, heard_ms: int) -> Connections:
    """A node whose clock says `clock_ms`, with a client that was heard at `heard_ms` of it."""
    client = SimpleNamespace(
        id=name,
        gone=False,
        address="",
        agent="",
        native=True,
        sockets={},
        transport=None,
        connected_at_s=0.0,
        heard_ms=heard_ms,
        last_seen=0.0,
        outbox=SimpleNamespace(written=0, bytes=0, dropped=0),
    )
    host: Any = SimpleNamespace(clients={name: client}, now_ms=lambda: clock_ms)
    hub: Any = SimpleNamespace(namespaces=())
    return Connections(name, host, hub)


@aio
async def test_when_a_client_was_seen_compares_between_machines() -> None:
    """Their monotonic clocks begin when they boot: the nodes' lists were put together as if that had been at once."""
    ask = json.encode_struct(Ask(Wanted(), 10, "-seen"))
    young, old = node("young", 60_000, 59_000), node("old", 900_000_000, 899_000_000)
    (seen_lately,), (seen_before,) = (await young.find((ask,))).rows, (await old.find((ask,))).rows
    assert isinstance(seen_lately.key, float) and isinstance(seen_before.key, float)
    assert seen_lately.key > seen_before.key
    assert abs(seen_lately.key - (time.time() - 1) * 1000) < 5_000

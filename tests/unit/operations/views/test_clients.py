"""The sort keys of connections. Finding and disconnecting them is tested on real processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Room
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.views.clients import MAX_ROOMS_OF_USER, AskClients, Connections, Wanted
from tests.support import fakes
from tests.support.aio import aio


def node(name: str, clock_ms: int, heard_ms: int, sockets: Sequence[Socket] = ()) -> Connections:
    """A node whose clock is at `clock_ms`, with a client that was last seen at `heard_ms` of that clock."""
    client = SimpleNamespace(
        id=name,
        gone=False,
        address="",
        agent="",
        native=True,
        sockets={one.namespace: one for one in sockets},
        transport=None,
        connected_at_s=0.0,
        heard_ms=heard_ms,
        last_seen=0.0,
        outbox=SimpleNamespace(written=0, bytes=0, dropped=0),
    )
    host: Any = SimpleNamespace(on_end=[], clients={name: client}, now_ms=lambda: clock_ms)
    hub: Any = SimpleNamespace(namespaces=())
    return Connections(name, host, hub)


@aio
async def test_last_seen_times_are_comparable_between_machines() -> None:
    """Monotonic clocks begin at boot, so their values cannot be compared between machines."""
    ask = json.encode_struct(AskClients(Wanted(), 10, "-seen"))
    young, old = node("young", 60_000, 59_000), node("old", 900_000_000, 899_000_000)
    (seen_lately,), (seen_before,) = (await young.find((ask,))).rows, (await old.find((ask,))).rows
    assert isinstance(seen_lately.key, float) and isinstance(seen_before.key, float)
    assert seen_lately.key > seen_before.key
    assert abs(seen_lately.key - (time.time() - 1) * 1000) < 5_000


@aio
async def test_all_rooms_of_a_user_are_counted_even_if_not_all_are_shown() -> None:
    sockets = [fakes.socket(path, fakes.user("ann")) for path in ("/tickets", "/chat")]
    for at, socket in enumerate(sockets):
        socket.rooms |= {Room("user:ann"), *(Room(f"ticket:{at}-{number:04}") for number in range(700))}
    told = await node("n1", 0, 0, sockets).of_user(("ann",))
    assert (told.roomCount, len(told.rooms), told.rooms[0]) == (1_401, MAX_ROOMS_OF_USER, "ticket:0-0000")
    assert told.rooms == sorted(told.rooms)
    nobody = await node("n1", 0, 0, sockets).of_user(("bob",))
    assert (nobody.roomCount, nobody.rooms, nobody.closedCount) == (0, [], 0)

"""Finding the blocks and revocations that concern a user. Their effects are tested on real processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from insightdesk_rt.operations.moderation.blocks import Block
from insightdesk_rt.operations.moderation.blocks_and_revocations import BlocksAndRevocations
from insightdesk_rt.operations.moderation.revocations import Revocation
from insightdesk_rt.operations.moderation.rules import Rules
from tests.support.aio import aio


@aio
async def test_the_rules_about_a_user_are_found_by_id_address_and_session() -> None:
    store: Any = None
    registry: Any = SimpleNamespace(clients={})
    access = BlocksAndRevocations(Rules(store), registry)
    blocks = {
        "name": {"user_id": "ann"},
        "ip": {"ip": "192.0.2.7"},
        "net": {"cidr": "192.0.2.0/24"},
        "twice": {"cidr": "192.0.2.7/32"},
        "other": {"user_id": "bob"},
        "far": {"ip": "198.51.100.1"},
    }
    for at, (id, what) in enumerate(blocks.items()):
        await access.blocks.table.changed(None, Block(id=id, by="x", at_ms=at, reason="y", **what))
    for at, (id, what) in enumerate(
        {"s1": {"session_id": "s1"}, "s2": {"session_id": "s2"}, "u": {"user_id": "ann"}}.items()
    ):
        await access.revocations.table.changed(None, Revocation(id=id, by="x", at_ms=at, reason="y", **what))
    found = access.blocks.of("ann", {"::ffff:192.0.2.7", "192.0.2.8", "no address"})
    assert [one.id for one in found] == ["twice", "net", "ip", "name"]  # each once, the newest first
    assert access.blocks.of("nobody", ["203.0.113.1"]) == []
    assert [one.id for one in access.revocations.of("ann", ["s2", "s9"])] == ["u", "s2"]
    await access.blocks.table.changed(found[0], None)
    assert [one.id for one in access.blocks.of("", ["192.0.2.7"])] == ["net", "ip"] and access.blocks.blocks_address(
        "192.0.2.7"
    )

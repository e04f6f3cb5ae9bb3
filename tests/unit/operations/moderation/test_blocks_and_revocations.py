"""Addresses and networks as blocks read them. What a block or revocation does is tested on real processes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from insightdesk_rt.engine.addresses import parse_address
from insightdesk_rt.operations.moderation.blocks_and_revocations import (
    MAX_BLOCKS,
    Block,
    BlocksAndRevocations,
    Revocation,
    parse_network,
)
from insightdesk_rt.operations.moderation.rules import Rules
from tests.support.aio import aio


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        ("unix:", None),
        ("192.0.2.256", None),
        ("192.0.2.1/32", None),
    ],
)
def test_an_address_has_one_spelling(text: str, found: str | None) -> None:
    parsed = parse_address(text)
    assert (str(parsed) if parsed is not None else None) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.77/24", "192.0.2.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8:7::1/48", "2001:db8:7::/48"),
        ("::ffff:192.0.2.77/120", "192.0.2.0/24"),
    ],
)
def test_a_network_has_one_spelling(text: str, found: str) -> None:
    assert parse_network(text) == found


@pytest.mark.parametrize(
    "text", ["0.0.0.0/0", "10.0.0.0/7", "::/0", "2001::/15", "::ffff:0.0.0.0/96", "x", "", "1/2/3"]
)
def test_what_is_no_network_or_too_wide_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not blocked|does not appear"):
        parse_network(text)


@aio
async def test_as_many_blocks_as_there_may_be_are_taken_in_quickly() -> None:
    """A node that starts takes all at once; with a look at all others for each it stood still for half a minute."""
    store: Any = None
    host: Any = SimpleNamespace(clients={})
    gate = BlocksAndRevocations(Rules(store), host, lambda token: pytest.fail("nobody asked"))
    began_s = time.perf_counter()
    for number in range(MAX_BLOCKS):
        address = f"100.64.{number // 256}.{number % 256}"
        block = Block(id=f"b{number}", by="ann", at_ms=number, reason="many", ip=address)
        assert await gate.blocks.changed(None, block) == 0
    assert time.perf_counter() - began_s < 3.0
    assert gate.shuts_out("100.64.39.15") and not gate.shuts_out("100.64.39.16")


@aio
async def test_what_is_ruled_about_somebody_is_found_by_name_address_and_session() -> None:
    store: Any = None
    host: Any = SimpleNamespace(clients={})
    gate = BlocksAndRevocations(Rules(store), host, lambda token: pytest.fail("nobody asked"))
    blocks = {
        "name": {"user_id": "ann"},
        "ip": {"ip": "192.0.2.7"},
        "net": {"cidr": "192.0.2.0/24"},
        "twice": {"cidr": "192.0.2.7/32"},
        "other": {"user_id": "bob"},
        "far": {"ip": "198.51.100.1"},
    }
    for at, (id, what) in enumerate(blocks.items()):
        await gate.blocks.changed(None, Block(id=id, by="x", at_ms=at, reason="y", **what))
    for at, (id, what) in enumerate(
        {"s1": {"session_id": "s1"}, "s2": {"session_id": "s2"}, "u": {"user_id": "ann"}}.items()
    ):
        await gate.revocations.changed(None, Revocation(id=id, by="x", at_ms=at, reason="y", **what))
    found = gate.blocks_of("ann", {"::ffff:192.0.2.7", "192.0.2.8", "no address"})
    assert [one.id for one in found] == ["twice", "net", "ip", "name"]  # each once, the newest first
    assert gate.blocks_of("nobody", ["203.0.113.1"]) == []
    assert [one.id for one in gate.revocations_of("ann", ["s2", "s9"])] == ["u", "s2"]
    await gate.blocks.changed(found[0], None)
    assert [one.id for one in gate.blocks_of("", ["192.0.2.7"])] == ["net", "ip"] and gate.shuts_out("192.0.2.7")

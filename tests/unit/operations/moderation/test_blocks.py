"""Addresses and networks of blocks. The effects of a block are tested on real processes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from insightdesk_rt.engine.addresses import parse_address
from insightdesk_rt.operations.moderation.blocks import MAX_BLOCKS, Block, Blocks, parse_network
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
def test_an_address_is_written_in_canonical_form(text: str, found: str | None) -> None:
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
def test_a_network_is_written_in_canonical_form(text: str, found: str) -> None:
    assert parse_network(text) == found


@pytest.mark.parametrize(
    "text", ["0.0.0.0/0", "10.0.0.0/7", "::/0", "2001::/15", "::ffff:0.0.0.0/96", "x", "", "1/2/3"]
)
def test_text_that_is_not_a_network_and_networks_that_are_too_wide_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not blocked|does not appear"):
        parse_network(text)


@aio
async def test_the_maximum_number_of_blocks_is_applied_quickly() -> None:
    """A starting node applies all of them. Comparing each with all others took half a minute."""
    store: Any = None
    registry: Any = SimpleNamespace(clients={})
    blocks = Blocks(Rules(store), registry)
    began_s = time.perf_counter()
    for number in range(MAX_BLOCKS):
        address = f"100.64.{number // 256}.{number % 256}"
        block = Block(id=f"b{number}", by="ann", at_ms=number, reason="many", ip=address)
        assert await blocks.table.changed(None, block) == 0
    assert time.perf_counter() - began_s < 3.0
    assert blocks.blocks_address("100.64.39.15") and not blocks.blocks_address("100.64.39.16")

"""Addresses and networks as blocks read them. What a block or revocation does is tested on real processes."""

from __future__ import annotations

import pytest

from insightdesk_rt.moderation.gate import parse_address, parse_network


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

"""Addresses have one canonical text."""

from __future__ import annotations

import pytest

from insightdesk_rt.engine.addresses import parse_address, parse_net, spelled


@pytest.mark.parametrize(
    ("written", "one"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:0207", "192.0.2.7"),
        ("0:0:0:0:0:ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", "unknown"),
        ("", ""),
        ("192.0.2.07", "192.0.2.07"),
    ],
)
def test_an_address_is_written_in_canonical_form_and_other_text_is_unchanged(written: str, one: str) -> None:
    assert spelled(written) == one == spelled(one)
    assert (parse_address(written) is None) is (one in ("unknown", "", "192.0.2.07"))


def test_an_ipv4_network_written_as_ipv6_is_parsed_as_ipv4() -> None:
    assert str(parse_net("::ffff:10.0.0.0/104")) == "10.0.0.0/8"
    assert str(parse_net("::ffff:10.1.2.3")) == "10.1.2.3/32"
    assert str(parse_net("10.1.2.3/8", strict=False)) == "10.0.0.0/8"
    assert str(parse_net("::/0")) == "::/0"
    with pytest.raises(ValueError, match="host bits"):
        parse_net("10.1.2.3/8")

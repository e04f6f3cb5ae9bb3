"""Origins: a text that no browser sends is refused with a correction, and equivalent texts compare as equal."""

from __future__ import annotations

import pytest

from insightdesk_rt.engine.doors.admission import OriginPolicy
from insightdesk_rt.engine.origins import comparable, misfit

GOOD = [
    "https://desk.example.com",
    "https://desk.example.com:8443",
    "http://localhost:5173",
    "http://127.0.0.1",
    "http://[::1]:3000",
    "http://[2001:db8::1]",
    "capacitor://localhost",
    "ionic://localhost",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "https://xn--bcher-kva.example",
    "https://my_host",
    "null",
    "file://",
    "*",
    # accepted, although browsers write them differently
    "http://ok.example:80",
    "https://ok.example:443",
    "wss://desk.example.com",
]
NEVER_MATCHES = [
    ("https://*.example.com", "a star stands alone"),
    ("*.example.com", "a star stands alone"),
    ("https://*", "a star stands alone"),
    ("desk.example.com", "scheme://host"),
    ("https://", "scheme://host"),
    ("https://:443", "scheme://host"),
    ("https://desk.example.com:99999", "scheme://host"),
    ("https://desk.example.com:0", "scheme://host"),
    ("https://desk.example.com:0443", "scheme://host"),
    ("https://desk.example.com:", "scheme://host"),
    ("https://[::1", "scheme://host"),
    ("file:///", "write file://"),
    ("file:///home/app/index.html", "write file://"),
    ("https://desk.example.com/", "write https://desk.example.com"),
    ("https://desk.example.com/app", "write https://desk.example.com"),
    ("https://desk.example.com?x", "write https://desk.example.com"),
    ("https://ann@desk.example.com", "no user or password"),
    ("https://Desk.example.com", "lower case: https://desk.example.com"),
    ("HTTPS://desk.example.com", "lower case: https://desk.example.com"),
    ("https://bücher.example", "xn--bcher-kva.example"),
    ("http://[0:0::1]", "write the address as [::1]"),
    ("http://127.1", "neither a name nor an address"),
    ("https://desk.example.com, https://b.example", "no host's name"),
    ("https://a b.example", "no host's name"),
    ("https://a..example", "no host's name"),
    ("", "scheme://host"),
]


@pytest.mark.parametrize("text", GOOD)
def test_an_origin_that_a_page_can_have_can_be_listed_and_is_accepted(text: str) -> None:
    assert misfit(text) == ""
    policy = OriginPolicy((text,))
    sent = {
        "*": "https://anywhere.example",
        "http://ok.example:80": "http://ok.example",
        "https://ok.example:443": "https://ok.example",
        "wss://desk.example.com": "https://desk.example.com",
    }.get(text, text)
    assert policy.allows(sent, "http", "server.example")
    assert policy.any or not policy.allows(sent + "x", "http", "server.example")


@pytest.mark.parametrize(("text", "why"), NEVER_MATCHES)
def test_an_origin_that_can_never_match_is_refused_with_a_correction(text: str, why: str) -> None:
    assert why in misfit(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("wss://desk.example.com", "https://desk.example.com"),
        ("ws://desk.example.com:80", "http://desk.example.com"),
        ("https://desk.example.com:443", "https://desk.example.com"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_equivalent_texts_of_an_origin_are_equal(one: str, other: str) -> None:
    assert comparable(one) == comparable(other) == other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://desk.example.com:80", "https://desk.example.com"),
        ("http://desk.example.com:443", "https://desk.example.com:443"),
        ("http://desk.example.com", "https://desk.example.com"),
        ("http://desk.example.com:8080", "http://desk.example.com"),
        ("ftp://desk.example.com:80", "ftp://desk.example.com"),
        ("null", "http://null"),
    ],
)
def test_different_origins_are_not_equal(one: str, other: str) -> None:
    assert comparable(one) != comparable(other)


def test_a_program_that_sends_the_address_it_connects_to_is_of_the_same_origin() -> None:
    """Clients that are not browsers send the websocket's URL as their Origin."""
    policy = OriginPolicy()
    for origin in ("wss://own.example", "wss://own.example:443", "https://own.example", "https://own.example:443"):
        assert policy.allows(origin, "https", "own.example"), origin
        assert not policy.allows(origin, "http", "own.example"), origin
    assert policy.allows("wss://own.example:8443", "https", "OWN.example:8443")
    assert not policy.allows("wss://other.example", "https", "own.example")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:3001", True),
        ("127.0.0.1:3001", True),
        ("[::1]:3001", True),
        ("LOCALHOST", True),
        ("desk.example.com", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_a_local_page_is_trusted_if_the_server_is_called_by_a_local_name(host: str, allowed: bool) -> None:
    """Behind a proxy the server may be bound to loopback, and then a user's localhost is another machine."""
    for origin in ("http://localhost:8888", "http://127.0.0.1:5173", "https://[::1]:1"):
        assert OriginPolicy((), loopback=True).allows(origin, "http", host) is allowed
        assert not OriginPolicy((), loopback=False).allows(origin, "http", host)

"""engine/doors/peers.py: the sender of a request behind trusted proxies and behind others."""

from __future__ import annotations

import pytest

from insightdesk_rt.engine.doors.peers import RemotePeer, TrustedProxies, bearer_of

PROXIES = TrustedProxies(("127.0.0.1", "10.0.0.0/8"))


@pytest.mark.parametrize(
    ("remote", "headers", "expected"),
    [
        ("127.0.0.1", {}, ("127.0.0.1", "http")),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.7"}, ("192.0.2.7", "http")),
        ("127.0.0.1", {"x-forwarded-for": "6.6.6.6, 192.0.2.7, 10.1.1.1"}, ("192.0.2.7", "http")),
        ("127.0.0.1", {"x-forwarded-for": "[2001:DB8::7]:50123"}, ("2001:db8::7", "http")),
        ("127.0.0.1", {"x-forwarded-proto": "https"}, ("127.0.0.1", "https")),
        ("127.0.0.1", {"x-forwarded-proto": "ftp"}, ("127.0.0.1", "http")),
        ("192.0.2.9", {"x-forwarded-for": "6.6.6.6", "x-forwarded-proto": "https"}, ("192.0.2.9", "http")),
    ],
)
def test_only_forwarded_headers_of_trusted_proxies_are_used(
    remote: str, headers: dict[str, str], expected: tuple[str, str]
) -> None:
    assert PROXIES.peer(remote, "http", headers) == RemotePeer(*expected)


def test_a_bearer_token_is_read_from_its_header() -> None:
    assert bearer_of("Bearer t.o.k") == bearer_of("bearer  t.o.k ") == "t.o.k"
    assert bearer_of("Basic abc") == bearer_of("") == bearer_of("Bearer " + "x" * 20_000) == ""

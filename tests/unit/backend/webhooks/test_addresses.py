"""Which addresses a webhook may call: none that only the server's own network can reach."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from insightdesk_rt.backend.webhooks.addresses import CheckedResolver, RefusedAddress, check_url, refusal_of
from insightdesk_rt.engine.errors import RtError
from tests.support.aio import aio

REFUSED = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
    "100.100.100.200", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.255.255.250", "255.255.255.255",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1", "2002:a00:1::1", "64:ff9b:1::1", "fec0::1", "3fff::1", "5f00::1",
    "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:10.0.0.1",
]  # fmt: skip
NO_URLS = [
    "", "ftp://example.com/", "https://", "https:///path", "//example.com", "example.com/hook", "https://a b/",
    "http://example.com/", "https://user@example.com/", "https://user:pw@example.com/", "https://example.com/#x",
    "https://exämple.com/", "https://example.com:99999/", "https://[::1/", "https://example.com/\n",
    "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert refusal_of(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert refusal_of(address) == ""


@pytest.mark.parametrize("url", NO_URLS)
def test_a_url_that_no_webhook_may_have_is_refused(url: str) -> None:
    with pytest.raises(RtError) as refused:
        check_url(url, allow_private=False)
    assert refused.value.code == "BAD_REQUEST" and refused.value.fields == {"field": "url"}


def test_plain_http_needs_the_setting() -> None:
    check_url("https://example.com:8443/hook?x=1", allow_private=False)
    check_url("http://localhost:8080/", allow_private=True)
    with pytest.raises(RtError):
        check_url("https://user@example.com/", allow_private=True)


def answers(*addresses: str) -> Any:
    def getaddrinfo(host: str, port: int, *more: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    return getaddrinfo


@aio
async def test_a_name_with_one_private_address_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name with a public and a private address a client would try the second one when the first fails."""
    resolver = CheckedResolver(allow_private=False)
    monkeypatch.setattr(socket, "getaddrinfo", answers("93.184.215.14", "127.0.0.1"))
    with pytest.raises(RefusedAddress):
        await resolver.resolve("evil.example", 443)
    monkeypatch.setattr(socket, "getaddrinfo", answers("93.184.215.14"))
    assert await resolver.resolve("good.example", 443) == [(socket.AF_INET, ("93.184.215.14", 443))]
    resolver.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0x7f.1", "2130706433", "127.1", "0177.0.0.1"])
@aio
async def test_this_machine_is_refused_however_it_is_written(host: str) -> None:
    """The system's resolver reads numbers in other bases too, so the check is made on its result."""
    resolver = CheckedResolver(allow_private=False)
    with pytest.raises(OSError):
        await resolver.resolve(host, 443)
    resolver.close()

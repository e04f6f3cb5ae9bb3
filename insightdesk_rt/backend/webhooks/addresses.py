"""Which addresses a webhook may call.

An admin names the URL, and the server calls it from inside its network. So it must not reach what only that network can
reach: other services on private addresses, this machine, or a cloud's metadata service (OWASP: SSRF). A name is
resolved for each request, and only the addresses that were checked are connected to. A name that is public when the
webhook is made and private later (DNS rebinding) is refused then. Redirects are not followed at all.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

from tornado.netutil import Resolver

from insightdesk_rt.engine.errors import RtError

MAX_URL = 2_000
RESOLVERS = 32  # threads; one for each webhook, so that a name server that hangs delays only who asks it
RESOLVE_S = 5.0

# Prefixes whose addresses hold an IPv4 address to which a translator in the network sends the packets.
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # the middle of an address whose packets a tunnel sends over IPv4 (RFC 5214)
UNICAST = IPv6Network("2000::/3")  # all that is assigned for use across the internet (RFC 4291 2.4)
DOCUMENTATION = IPv6Network("3fff::/20")  # RFC 9637, later than Python 3.11


class RefusedAddress(OSError):
    """The URL leads to an address that a webhook may not call."""


def refusal_of(address: str) -> str:
    """Return why a webhook may not call an IP address, or "" if it may."""
    parsed = ip_address(address.partition("%")[0])
    if all(map(_is_public, (parsed, *_embedded(parsed)))):
        return ""
    return f"{address} is not a public address"


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (address not in UNICAST or address in DOCUMENTATION):
        return address in NAT64
    return address.is_global and not address.is_multicast


def _embedded(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that packets to an IPv6 address may reach."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or int(address) >> 32 & 0xFFFF_FFFF in ISATAP:
        found.append(IPv4Address(int(address) & 0xFFFF_FFFF))
    return [one for one in found if one is not None]


def check_url(url: str, allow_private: bool) -> None:
    """Raise RtError BAD_REQUEST, naming the field `url`, for a URL that no webhook may have."""
    why = _wrong_with(url, allow_private)
    if why:
        raise RtError("BAD_REQUEST", why, field="url")


def _wrong_with(url: str, allow_private: bool) -> str:
    if len(url) > MAX_URL or not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        return f"Expected a URL of at most {MAX_URL} visible ASCII characters."
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "This is not a URL."
    if parts.scheme not in ("https", "http") or not host:
        return "Expected a URL that begins with https:// and names a host."
    if parts.scheme == "http" and not allow_private:
        return "Expected https://; http:// needs the setting webhook_allow_private."
    if parts.username is not None or parts.password is not None:
        return "A URL must not hold a user name or password."
    if parts.fragment:
        return "A URL must not have a fragment (#)."
    return ""


class CheckedResolver(Resolver):
    """Resolves names for Tornado's client, which connects to the addresses it gets and to no others."""

    def initialize(self, allow_private: bool = False) -> None:  # Tornado's own way of constructing
        self._allow_private = allow_private
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="webhook-names")

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """Return the addresses of a host. Raises RefusedAddress if any of them may not be called, OSError."""
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await asked
        except TimeoutError:
            raise OSError(f"the name {host} is not resolved within {RESOLVE_S:.0f} s") from None
        if not self._allow_private:
            # If one is refused all are: a name with a public and a private address is an attempt to get through.
            for *_, address in found:
                if why := refusal_of(str(address[0])):
                    raise RefusedAddress(why)
        return [(kind, address) for kind, *_, address in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

"""IP addresses in a canonical form, so that a client has one address, however a proxy or the kernel wrote it.

Dual-stack sockets and some proxies write 192.0.2.7 as `::ffff:192.0.2.7`. `2001:DB8::0:1` and `2001:db8::1` are the
same address, and so are, outside of their own machine, `fe80::1%eth0` and `fe80::1`.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# Headers that proxies add. A request that has one did not begin on this machine, wherever its connection comes from.
FORWARDED = (
    "Forwarded", "Via", "X-Real-Ip", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
    "X-Forwarded-Server", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For", "True-Client-Ip",
    "Cf-Connecting-Ip", "Fastly-Client-Ip", "X-Amzn-Trace-Id", "X-Envoy-External-Address",
)  # fmt: skip


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, without its zone, and an IPv4-mapped address as IPv4; None for other text."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def is_loopback(text: str) -> bool:
    """Return whether only this machine can reach the address or name."""
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return text == "localhost"


@lru_cache(maxsize=4096)
def spelled(text: str) -> str:
    """Return an address in its canonical form, other text unchanged."""
    parsed = parse_address(text)
    return str(parsed) if parsed is not None else text


def parse_net(text: str, *, strict: bool = True) -> IPv4Network | IPv6Network:
    """Parse a network or a single address, and an IPv4-mapped one as IPv4. Raises ValueError.

    `strict` refuses a network with host bits set.
    """
    network = ip_network(text, strict=strict)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
        return ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}", strict=strict)
    return network

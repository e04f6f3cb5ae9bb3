"""The sender of a request: the client's address and scheme, as reported by trusted proxies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct
from tornado.httputil import HTTPServerRequest

from insightdesk_rt.engine.addresses import parse_address, parse_net, spelled

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d*)?|([^:]*):\d*", re.ASCII).fullmatch  # as some proxies write an address
MAX_ADDRESS = 64  # characters of a forwarded address that are read
MAX_BEARER = 16_384  # an Authorization header longer than this holds no token of ours


class RemotePeer(Struct, frozen=True, gc=False):
    """Who sent a request. The address is in its one spelling."""

    address: str
    scheme: str


def direct_peer(request: HTTPServerRequest) -> RemotePeer:
    """Return who sent a request, if no proxy is trusted."""
    return RemotePeer(request.remote_ip or "", request.protocol)


class TrustedProxies:
    """The addresses and networks whose X-Forwarded-* headers are believed."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = [parse_net(proxy) for proxy in trusted]

    def peer(self, remote_ip: str | None, protocol: str, headers: Mapping[str, str]) -> RemotePeer:
        """Return who sent a request. X-Forwarded-For is read from its end, as far as its writers are trusted.

        The address is in its one spelling, so that the address that is compared, counted, shown and searched for is
        always the same text.
        """
        address = spelled(remote_ip or "")
        if not self._trusts(address):
            return RemotePeer(address, protocol)
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            if not (hop := hop.strip()):
                break
            port = _WITH_PORT(hop)  # each connection of a client has another port
            address = spelled((port.group(1) or port.group(2) or hop if port else hop)[:MAX_ADDRESS])
            if not self._trusts(address):
                break
        forwarded = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        return RemotePeer(address, forwarded if forwarded in ("http", "https") else protocol)

    def _trusts(self, address: str) -> bool:
        if not self._networks:
            return False
        parsed = parse_address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def bearer_of(authorization: str) -> str:
    """Return the token of an Authorization header, "" if it holds none of ours."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and len(token) <= MAX_BEARER else ""

"""The client port: whose page may come in, who a peer is, whether anybody new is taken, and the clients that are made.

The Origin is judged here, for polling and websockets alike, against one list: Tornado 6.6 no longer asks `check_origin`
about requests it takes for same-origin, and compares no scheme. A request without Origin comes from no browser (or
from a page of ours) and is let in: nothing here is authenticated by what a browser adds by itself.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct
from tornado.httputil import HTTPServerRequest

from insightdesk_rt.engine.addresses import parse_address, parse_net, spelled
from insightdesk_rt.engine.doors.makers import uses_recovery
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.origins import comparable, is_loopback_host, is_loopback_page
from insightdesk_rt.engine.rate_limits import Windows, counted_as
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.transport.client import Client, Receiver
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.wire.engine import EngineSession, EngineSettings
from insightdesk_rt.engine.wire.frames import MAX_FRAGMENTS
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession

log = logging.getLogger(__name__)

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d*)?|([^:]*):\d*", re.ASCII).fullmatch  # as some proxies write an address
MAX_LINES = 20  # a minute, about refused origins; a server has few that are its own by mistake
MAX_ORIGIN = 200  # characters of one that are logged
MAX_AGENT = 256  # characters of a User-Agent that are kept
MAX_BEARER = 16_384  # an Authorization header longer than this holds no token of ours
RETRY_AFTER_S = 5


class OriginPolicy:
    """Which pages may connect: those of the same origin, those listed, and with `loopback` any of this machine.

    Listed origins are `scheme://host[:port]`, `null` or `file://`; "*" is every page, and then no credentials are
    allowed. With `loopback`, pages of this machine are trusted while the server is called by a name of this machine:
    behind a proxy it is called by another.
    """

    def __init__(self, allowed: Iterable[str] = (), loopback: bool = False) -> None:
        self.listed = tuple(allowed)
        self._allowed = frozenset(comparable(origin.lower()) for origin in self.listed)
        self._loopback = loopback
        self.any = "*" in self._allowed

    def allows(self, origin: str, scheme: str, host: str) -> bool:
        """`origin` is the header's value, "" if there is none; `scheme` and `host` are of the request."""
        if not origin or self.any or origin in self._allowed:
            return True
        same = comparable(origin)
        if same in self._allowed or same == comparable(f"{scheme}://{host.lower()}"):
            return True
        return self._loopback and is_loopback_page(origin) and is_loopback_host(host)

    def headers(self, origin: str, allowed: bool) -> dict[str, str]:
        """Return the CORS headers of an answer, errors included. An origin is only echoed when it was found allowed."""
        if self.any:
            return {"Access-Control-Allow-Origin": "*"}
        if not origin or not allowed:
            return {"Vary": "Origin"}
        if origin == "null":  # of many pages; what a browser adds by itself is none of theirs
            return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }


class PortSettings(Struct, frozen=True):
    """What the doors need of the configuration."""

    allowed_origins: tuple[str, ...] = ()
    loopback: bool = False  # the server listens on a loopback address only
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* headers are believed
    transports: tuple[str, ...] = ("polling", "websocket")
    trailing_slash: bool = True  # False: /socket.io is served beside /socket.io/
    ping_interval_ms: int = 25_000
    ping_timeout_ms: int = 30_000
    max_payload_bytes: int = 1_000_000  # ws default 100 MiB, Node socket.io 1 MB
    max_fragments: int = MAX_FRAGMENTS  # of one websocket message
    packets: PacketLimits = PacketLimits()
    recovery: bool = True
    deflate: bool = False
    connects_per_address_per_second: int = 0  # 0: any number


class RemotePeer(Struct, frozen=True, gc=False):
    """Who sent a request, proxies that are trusted looked through."""

    address: str
    scheme: str


class ClientPort:
    """The client port's parts in one hand, given to every handler. `accepting` is False while the node drains.

    `shuts_out` says whether an address is blocked.
    """

    def __init__(
        self,
        host: ClientRegistry,
        receiver: Receiver,
        settings: PortSettings = PortSettings(),
        shuts_out: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self.host = host
        self.receiver = receiver
        self.settings = settings
        self.origins = OriginPolicy(settings.allowed_origins, settings.loopback)
        self.accepting = True
        self._shuts_out = shuts_out
        self._proxies = [parse_net(proxy) for proxy in settings.trusted_proxies]
        upgrades = ("websocket",) if "websocket" in settings.transports else ()
        self._engine = EngineSettings(
            settings.ping_interval_ms, settings.ping_timeout_ms, settings.max_payload_bytes, upgrades
        )
        rate = settings.connects_per_address_per_second
        self._connects = Windows(rate, 1000) if rate else None
        self.refused: Counter[str] = Counter()  # clients that were not let in, by code
        self._seldom = Seldom(log, most=MAX_LINES)
        self._socketio = SocketIOCodec(settings.recovery)
        self._native = NativeCodec(settings.recovery)

    def engine_client(self, address: str, agent: str, query: str, *, on_websocket: bool = False) -> Client:
        """Return a new client of Socket.IO, not started. `query` is that of its first request, as it was written."""
        sid = self.host.new_id()
        session = EngineSession(sid, SocketIOSession(self._socketio, self.settings.packets), self._engine, on_websocket)
        client = Client(session, self.receiver, self.host, id=sid, address=address, agent=agent[:MAX_AGENT])
        client.recovers = uses_recovery(agent, query)
        return client

    def native_client(self, namespace: str, address: str, agent: str, authorization: str) -> Client:
        """Return a new client of the JSON protocol, not started. `authorization` is its request's header."""
        session, bearer = self.make_native_session(namespace), bearer_of(authorization)
        return Client(session, self.receiver, self.host, address=address, agent=agent[:MAX_AGENT], bearer=bearer)

    def make_native_session(self, namespace: str) -> NativeSession:
        settings = self.settings
        return NativeSession(
            namespace, self._native, settings.ping_interval_ms, settings.ping_timeout_ms, settings.packets
        )

    def transport_of(self, sid: str) -> str | None:
        """Return the transport of a live Engine.IO session, None if there is none. One past its deadline ends here."""
        client = self.host.clients.get(sid)
        if client is None or client.native:
            return "polling" if sid in self.host.farewells else None
        if client.overdue() or client.transport is None:
            return None
        return client.transport.name

    def allows_page(self, request: HTTPServerRequest) -> bool:
        """May the page that sends a request connect? No page sends one without Origin."""
        scheme = self.peer(request).scheme
        return self.origins.allows(request.headers.get("Origin", ""), scheme, request.headers.get("Host", ""))

    def say_refused_page(self, request: HTTPServerRequest) -> None:
        """Log that a page may not connect, and what would let it: a browser tells its author nothing of it.

        Once a minute for each origin, and for so many of them: anybody can make up origins.
        """
        origin = request.headers.get("Origin", "")[:MAX_ORIGIN]
        scheme, host = self.peer(request).scheme, request.headers.get("Host", "").lower()
        hint = "add it to allowed_origins if it is yours"
        if comparable(origin) in (comparable(f"http://{host}"), comparable(f"https://{host}")):
            proxy = spelled(request.remote_ip or "")
            hint = f"its scheme differs: X-Forwarded-Proto is believed of trusted_proxies alone; this came from {proxy}"
        allowed = ",".join((f"{scheme}://{host}", *self.origins.listed))
        what = "a page may not connect: its origin is not allowed"
        self._seldom.say(logging.INFO, what, origin, origin=origin, allowed=allowed, hint=hint)

    def refusal(self, address: str) -> RtError | None:
        """Return why no new client is taken from an address now: HTTP 403; 503 or 429, with when to come back."""
        if self._shuts_out(address):
            self.refused["FORBIDDEN"] += 1
            return RtError("FORBIDDEN", "This address is blocked.")
        wait_ms = self._connects.take(counted_as(address), self.host.now_ms()) if self._connects is not None else 0
        if not self.accepting:
            refused = RtError("DRAINING", retryAfter=RETRY_AFTER_S)
        elif wait_ms:
            refused = RtError("RATE_LIMITED", "Too many new connections from this address.", retryAfter=1)
        elif self.host.addresses.full(counted_as(address)):
            refused = RtError("TOO_MANY_CONNECTIONS", retryAfter=RETRY_AFTER_S)
        else:
            return None
        self.refused[refused.code] += 1
        return refused

    def takes(self, address: str) -> bool:
        """Take a new client from an address, if `refusal` would let one in; else nothing is kept of being asked."""
        if not self.accepting or self._shuts_out(address):
            return False
        key, connects = counted_as(address), self._connects
        if self.host.addresses.full(key):
            return False
        if connects is None:
            return True
        now_ms = self.host.now_ms()
        return not connects.wait_ms(key, now_ms) and not connects.take(key, now_ms)

    def peer(self, request: HTTPServerRequest) -> RemotePeer:
        return self.peer_of(request.remote_ip, request.protocol, request.headers)

    def peer_of(self, remote_ip: str | None, protocol: str, headers: Mapping[str, str]) -> RemotePeer:
        """Return who sent the request. X-Forwarded-For is read from its end, as far as its writers are trusted.

        The address is in its one spelling: what is compared, counted, shown and searched for is the same text.
        """
        address, scheme = spelled(remote_ip or ""), protocol
        if not self._trusted(address):
            return RemotePeer(address, scheme)
        for hop in reversed(headers.get("X-Forwarded-For", "").split(",")):
            if not (hop := hop.strip()):
                break
            port = _WITH_PORT(hop)  # each of a client's connections has another
            address = spelled((port.group(1) or port.group(2) or hop if port else hop)[:64])
            if not self._trusted(address):
                break
        forwarded = headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
        return RemotePeer(address, forwarded if forwarded in ("http", "https") else scheme)

    def _trusted(self, address: str) -> bool:
        if not self._proxies:
            return False
        parsed = parse_address(address)
        return parsed is not None and any(parsed in network for network in self._proxies)


def bearer_of(authorization: str) -> str:
    """Return the token of an Authorization header, "" if it holds none of ours."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and len(token) <= MAX_BEARER else ""

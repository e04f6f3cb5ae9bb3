"""What both doors of the client port share: whose page may come in, who the peer is, and the way from a handshake to a
client.

The Origin is judged here, for polling and websockets alike, against one list: Tornado 6.6 no longer asks `check_origin`
about requests it takes for same-origin, and compares no scheme. A request without Origin comes from no browser (or
from a page of ours) and is let in: nothing here is authenticated by what a browser adds by itself.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from msgspec import Struct
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream, SSLIOStream
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13, _WebSocketParams

from insightdesk_rt.errors import RtError
from insightdesk_rt.limits import Windows, counted_as
from insightdesk_rt.transport.base import Receiver
from insightdesk_rt.transport.host import ClientHost
from insightdesk_rt.transport.stream import DeflateTransport, StreamTransport
from insightdesk_rt.transport.websocket import WebSocketTransport, take_over
from insightdesk_rt.wire.engine import EngineSession, EngineSettings
from insightdesk_rt.wire.frames import MAX_FRAGMENTS
from insightdesk_rt.wire.native import NativeCodec, NativeSession
from insightdesk_rt.wire.socketio import SocketIOCodec, SocketIOSession

_LOOPBACK = re.compile(r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.ASCII)
MAX_AGENT = 256  # characters of a User-Agent that are kept
MAX_BEARER = 16_384  # an Authorization header longer than this holds no token of ours
RETRY_AFTER_S = 5


class OriginPolicy:
    """Which pages may connect: those of the same origin, those listed, and with `loopback` any of this machine.

    Listed origins are `scheme://host[:port]`, compared letter by letter with what the browser sends (which is lower
    case and without a default port); "*" is every page, and then no credentials are allowed.
    """

    def __init__(self, allowed: Iterable[str] = (), loopback: bool = False) -> None:
        self._allowed = frozenset(origin.lower().rstrip("/") for origin in allowed)
        self._loopback = loopback
        self.any = "*" in self._allowed

    def allows(self, origin: str, scheme: str, host: str) -> bool:
        """`origin` is the header's value, "" if there is none; `scheme` and `host` are of the request."""
        if not origin or self.any or origin in self._allowed:
            return True
        if origin == f"{scheme}://{host.lower()}":
            return True
        return self._loopback and _LOOPBACK.fullmatch(origin) is not None

    def headers(self, origin: str, allowed: bool) -> dict[str, str]:
        """Return the CORS headers of an answer, errors included. An origin is only echoed when it was found allowed."""
        if self.any:
            return {"Access-Control-Allow-Origin": "*"}
        if not origin or not allowed:
            return {"Vary": "Origin"}
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
    ping_interval_ms: int = 25_000
    ping_timeout_ms: int = 30_000
    max_payload_bytes: int = 1_000_000  # ws default 100 MiB, Node socket.io 1 MB
    max_fragments: int = MAX_FRAGMENTS  # of one websocket message
    recovery: bool = True
    deflate: bool = False
    connects_per_address_per_second: int = 0  # 0: any number


class Peer(Struct, frozen=True, gc=False):
    """Who sent a request, proxies that are trusted looked through."""

    address: str
    scheme: str


class ClientPort:
    """The client port's parts in one hand, given to every handler. `accepting` is False while the node drains.

    `shuts_out` says whether an address is blocked.
    """

    def __init__(
        self,
        host: ClientHost,
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
        self._proxies: list[IPv4Network | IPv6Network] = [ip_network(proxy) for proxy in settings.trusted_proxies]
        upgrades = ("websocket",) if "websocket" in settings.transports else ()
        self._engine = EngineSettings(
            settings.ping_interval_ms, settings.ping_timeout_ms, settings.max_payload_bytes, upgrades
        )
        rate = settings.connects_per_address_per_second
        self._connects = Windows(rate, 1000) if rate else None
        self.refused: Counter[str] = Counter()  # clients that were not let in, by code
        self._socketio = SocketIOCodec(settings.recovery)
        self._native = NativeCodec(settings.recovery)

    def make_engine_session(self, sid: str, on_websocket: bool = False) -> EngineSession:
        return EngineSession(sid, SocketIOSession(self._socketio), self._engine, on_websocket)

    def make_native_session(self, namespace: str) -> NativeSession:
        return NativeSession(namespace, self._native, self.settings.ping_interval_ms, self.settings.ping_timeout_ms)

    def transport_of(self, sid: str) -> str | None:
        """Return the transport of a live Engine.IO session, None if there is none. One past its deadline ends here."""
        client = self.host.clients.get(sid)
        if client is None or client.native:
            return "polling" if sid in self.host.farewells else None
        if client.overdue() or client.transport is None:
            return None
        return client.transport.name

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

    def peer(self, request: HTTPServerRequest) -> Peer:
        """Return who sent the request. X-Forwarded-For is read from its end, as far as its writers are trusted."""
        address, scheme = request.remote_ip or "", request.protocol
        if not self._trusted(address):
            return Peer(address, scheme)
        for hop in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
            if not (hop := hop.strip()):
                break
            address = hop[:64]
            if not self._trusted(address):
                break
        forwarded = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
        return Peer(address, forwarded if forwarded in ("http", "https") else scheme)

    def _trusted(self, address: str) -> bool:
        if not self._proxies:
            return False
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)


class QuietHandler(RequestHandler):
    """A handler of the client port: knows the port, says nothing of itself, and logs no URL, since sids are secret."""

    port: ClientPort

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def compute_etag(self) -> None:
        return None

    def _log(self) -> None:
        """Not each request is an event of note. Tornado's hook for that, kept for those who override it."""

    def _request_summary(self) -> str:
        return f"{self.request.method} {self.request.path}"

    @property
    def origin(self) -> str:
        return self.request.headers.get("Origin", "")

    def origin_allowed(self) -> bool:
        scheme = self.port.peer(self.request).scheme
        return self.port.origins.allows(self.origin, scheme, self.request.headers.get("Host", ""))

    def agent(self) -> str:
        return self.request.headers.get("User-Agent", "")[:MAX_AGENT]

    def turned_away(self) -> bool:
        """Answer and return True if no new client is taken from this address now."""
        refused = self.port.refusal(self.port.peer(self.request).address)
        if refused is None:
            return False
        self.set_status(refused.kind.http)
        if "retryAfter" in refused.fields:
            self.set_header("Retry-After", str(refused.fields["retryAfter"]))
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(refused.message)
        return True


class NoHandler(QuietHandler):
    """Every path that is none."""

    def initialize(self, port: ClientPort) -> None:
        self.port = port

    def prepare(self) -> None:
        self.set_status(404)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish("There is no such path.")


class _Handshake(WebSocketProtocol13):
    """Tornado's handshake. What comes after it is ours, unless deflate was agreed on."""

    async def _receive_frame_loop(self) -> None:
        if self._compressor is not None:
            try:
                await super()._receive_frame_loop()
            except zlib.error:  # the peer's stream is broken; Tornado would log it as a bug of ours
                self._abort()
            return
        handler = self.handler
        assert isinstance(handler, SocketHandler)
        handler.hand_over(self.stream)


class SocketHandler(QuietHandler, WebSocketHandler):
    """A websocket's handshake. It ends by giving the connection to a transport; then nothing of the request is kept.

    Of Tornado 6.6: `_receive_frame_loop` is awaited once, when 101 is written and the stream is detached.
    """

    _deflate: DeflateTransport | None = None
    coded = False  # do close frames carry our codes?

    def initialize(self, port: ClientPort) -> None:
        self.port = port

    def opened(self, transport: WebSocketTransport | StreamTransport | DeflateTransport, leftover: bytes) -> None:
        """Put a client on the transport, and start it. `leftover` was read with the handshake."""
        raise NotImplementedError

    def check_origin(self, origin: str) -> bool:
        return True  # `prepare` has judged it

    def get_compression_options(self) -> dict[str, Any] | None:
        return {} if self.port.settings.deflate else None

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        limit, deflate = self.port.settings.max_payload_bytes, self.get_compression_options()
        return _Handshake(self, False, _WebSocketParams(max_message_size=limit, compression_options=deflate))

    def open(self, *args: str, **kwargs: str) -> None:
        protocol = self.ws_connection
        if isinstance(protocol, _Handshake) and protocol._compressor is not None:
            self._deflate = DeflateTransport(protocol, self.port.host, coded=self.coded)
            self.opened(self._deflate, b"")

    def hand_over(self, stream: IOStream) -> None:
        host, settings = self.port.host, self.port.settings
        limit, max_fragments = settings.max_payload_bytes, settings.max_fragments
        self.let_go()
        if isinstance(stream, SSLIOStream):
            self.opened(StreamTransport(stream, host, limit, coded=self.coded, max_fragments=max_fragments), b"")
            return
        try:
            sock, leftover = take_over(stream)
        except OSError:
            return  # the peer is gone already; nobody was told of it
        self.opened(WebSocketTransport(sock, host, limit, coded=self.coded, max_fragments=max_fragments), leftover)

    def let_go(self) -> None:
        """Free the handler and Tornado's parts now, and not by the garbage collector."""
        self.ws_connection = None
        self._on_close_called = True  # else `_break_cycles` waits for it
        self._break_cycles()

    def on_message(self, message: str | bytes) -> None:
        if self._deflate is not None:
            self._deflate.received(message)

    def on_ping(self, data: bytes) -> None:
        if self._deflate is not None:
            self._deflate.heard()

    on_pong = on_ping

    def on_close(self) -> None:
        if self._deflate is not None:
            self._deflate.closed()

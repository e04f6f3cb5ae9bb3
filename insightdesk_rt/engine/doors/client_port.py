"""ClientPort: what every handler of the client port and the fast path share: admission, and creating clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated
from urllib.parse import parse_qs

from tornado.httputil import HTTPServerRequest

from insightdesk_rt.engine.addresses import is_loopback
from insightdesk_rt.engine.cluster.sessions import RecoverySettings
from insightdesk_rt.engine.doors.admission import (
    NATIVE_ORIGIN,
    OF_ENGINE,
    Accept,
    AdmissionRules,
    OriginPolicy,
    Refusal,
    RefusedPages,
    RequestHead,
)
from insightdesk_rt.engine.doors.makers import uses_recovery
from insightdesk_rt.engine.doors.peers import RemotePeer, TrustedProxies, bearer_of
from insightdesk_rt.engine.rate_limits import Rate
from insightdesk_rt.engine.secret import SecretUrl
from insightdesk_rt.engine.settings import BytesLimit, Count, CountLimit, Help, Ms, Names, Port, SettingsPart
from insightdesk_rt.engine.shared_limits import SharedLimits, SharedWindows
from insightdesk_rt.engine.transport.client import NOTHING_FORWARDED, Client, Receiver
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.wire.engine import EngineSession, EngineSettings
from insightdesk_rt.engine.wire.engineio import BAD_VERSION, FORBIDDEN
from insightdesk_rt.engine.wire.frames import MAX_FRAGMENTS
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession

MAX_AGENT = 256  # characters of a User-Agent that are kept
OLD_VERSION = "another version of Engine.IO: this server speaks 4, which is Socket.IO 3 and 4"
_BAD_VERSION = (OF_ENGINE[BAD_VERSION, False], OF_ENGINE[BAD_VERSION, True])
_BAD_PAGE = (OF_ENGINE[FORBIDDEN, False], OF_ENGINE[FORBIDDEN, True], NATIVE_ORIGIN)


class PortSettings(SettingsPart, frozen=True):
    """The settings of the client port."""

    # Both families of loopback: `localhost` is ::1 first for Node 18 and others.
    address: Annotated[Names, Help("addresses of the client port; :: means all of IPv4 and IPv6")] = (
        "127.0.0.1",
        "::1",
    )
    port: Annotated[Port, Help("client port; 0 takes a free one")] = 3001
    allowed_origins: Annotated[Names, Help('further web origins that may connect; "*" for any')] = ()
    trusted_proxies: Annotated[Names, Help("addresses or networks of proxies whose X-Forwarded-For is trusted")] = ()
    transports: Annotated[Names, Help("transports that Engine.IO clients may use")] = ("polling", "websocket")
    # of the name that Socket.IO's own server and clients give it
    add_trailing_slash: Annotated[bool, Help("serve Socket.IO at /socket.io/ only; false: also at /socket.io")] = True
    websocket_deflate: Annotated[bool, Help("compress websocket messages; costs memory and CPU")] = False
    ping_interval_ms: Annotated[Ms, Help("time between heartbeats")] = 25_000
    ping_timeout_ms: Annotated[Ms, Help("how long a client may take to answer a heartbeat")] = 30_000
    max_fragments_per_message: Annotated[CountLimit, Help("websocket frames of one message; 0: no limit")] = (
        MAX_FRAGMENTS
    )
    max_connects_per_address_per_second: Annotated[
        Count, Help("new clients of one address, per cluster; 0: no limit")
    ] = 0
    max_payload_bytes: BytesLimit = PacketLimits().max_payload_bytes  # ws default 100 MiB, Node socket.io 1 MB
    connection_recovery: bool = RecoverySettings().connection_recovery
    connect_url: SecretUrl = SecretUrl()
    connect_headers: Names = ("cookie",)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the client port."""
        return all(map(is_loopback, self.address))


class ClientPort:
    """What every handler of the client port and the fast path share."""

    def __init__(
        self,
        registry: ClientRegistry,
        receiver: Receiver,
        settings: PortSettings = PortSettings(),
        is_blocked: Callable[[str], bool] = lambda address: False,
        packets: PacketLimits = PacketLimits(),
        shared: SharedLimits | None = None,
    ) -> None:
        self.registry = registry
        self.receiver = receiver
        self.settings = settings
        self._packets = packets
        self.origins = OriginPolicy(settings.allowed_origins, settings.on_loopback)
        rate = settings.max_connects_per_address_per_second
        connects = SharedWindows(Rate(rate, 1), shared or SharedLimits(), "new clients") if rate else None
        self.admission = AdmissionRules(self.origins, settings.transports, registry.addresses, connects, is_blocked)
        self._refused_pages = RefusedPages(self.origins.listed)
        self._proxies = TrustedProxies(settings.trusted_proxies)
        upgrades = ("websocket",) if "websocket" in settings.transports else ()
        self._engine = EngineSettings(
            settings.ping_interval_ms, settings.ping_timeout_ms, settings.max_payload_bytes, upgrades
        )
        self._forwarded = settings.connect_headers if settings.connect_url else ()
        self._socketio = SocketIOCodec(settings.connection_recovery)
        self._native = NativeCodec(settings.connection_recovery)

    # ── admission ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def accepting(self) -> bool:
        """False while the node drains."""
        return self.admission.accepting

    @accepting.setter
    def accepting(self, accepting: bool) -> None:
        self.admission.accepting = accepting

    @property
    def refused(self) -> Mapping[str, int]:
        """Requests that were refused before a client was created, by code."""
        return self.admission.refused

    def peer(self, request: HTTPServerRequest) -> RemotePeer:
        return self._proxies.peer(request.remote_ip, request.protocol, request.headers)

    def peer_of(self, remote_ip: str, headers: Mapping[str, str]) -> RemotePeer:
        """Return the sender of a request over plain TCP. `headers` is looked up with names in lower case."""
        return self._proxies.peer(remote_ip, "http", headers)

    def judge(self, head: RequestHead, peer: RemotePeer, *, of_another_node: bool = False) -> Accept | Refusal:
        """Return admission's verdict on a request. Nothing is counted, so the request may be judged again.

        Assumes that a session of another node polls: its owner knows the session, and judges the request again.
        """
        session = None
        if head.sid:
            session = "polling" if of_another_node else self.transport_of(head.sid)
        return self.admission.judge(head, peer, session, self.registry.now_ms())

    def count(self, verdict: Accept | Refusal, peer: RemotePeer) -> None:
        """Count a verdict."""
        self.admission.count(verdict, peer, self.registry.now_ms())

    def report(self, refusal: Refusal, head: RequestHead, peer: RemotePeer, sender: str) -> None:
        """Log a refusal whose reason the client's author cannot see. `sender` is the address of the connection."""
        if refusal in _BAD_PAGE:
            self._refused_pages.report(head.headers, peer, sender)
        elif refusal in _BAD_VERSION:
            self.registry.log_not_understood(OLD_VERSION, peer.address, head.headers.get("user-agent", ""))

    # ── clients ────────────────────────────────────────────────────────────────────────────────────────────────────

    def engine_client(self, head: RequestHead, peer: RemotePeer) -> Client:
        """Create a Socket.IO client for its first request, without starting it."""
        agent = head.headers.get("user-agent", "")
        sid = self.registry.new_id()
        packets = SocketIOSession(self._socketio, self._packets)
        session = EngineSession(sid, packets, self._engine, head.upgrade)
        client = Client(session, self.receiver, self.registry, id=sid, address=peer.address, agent=agent[:MAX_AGENT])
        client.recovers = uses_recovery(agent, head.query)
        client.forwarded = self._headers_of(head)
        return client

    def native_client(self, head: RequestHead, peer: RemotePeer) -> Client:
        """Create a client of the JSON protocol for its handshake, without starting it."""
        session = self.make_native_session(head.namespace)
        agent, bearer = head.headers.get("user-agent", ""), bearer_of(head.headers.get("authorization", ""))
        if "authorization" in self._forwarded:
            bearer = ""  # it is for the back end to read
        client = Client(
            session, self.receiver, self.registry, address=peer.address, agent=agent[:MAX_AGENT], bearer=bearer
        )
        client.forwarded = self._headers_of(head)
        return client

    def _headers_of(self, head: RequestHead) -> Mapping[str, str]:
        """Return the headers of a client's first request that `connect_url` is sent.

        A page of another site can make a browser send a JSONP poll with its user's cookies, without an Origin, and can
        read the answer: it could then go on with that session elsewhere. So the headers of JSONP count for nothing.
        """
        if not self._forwarded or "j" in parse_qs(head.query, keep_blank_values=True):
            return NOTHING_FORWARDED
        found = {name: head.headers.get(name, "") for name in self._forwarded}
        return {name: value for name, value in found.items() if value}

    def make_native_session(self, namespace: str) -> NativeSession:
        settings = self.settings
        return NativeSession(
            namespace, self._native, settings.ping_interval_ms, settings.ping_timeout_ms, self._packets
        )

    def transport_of(self, sid: str) -> str | None:
        """Return the transport of a live Engine.IO session, None if there is none. A session past its deadline ends."""
        client = self.registry.clients.get(sid)
        if client is None or client.native:
            return "polling" if sid in self.registry.farewells else None
        if client.overdue() or client.transport is None:
            return None
        return client.transport.name

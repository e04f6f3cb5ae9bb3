"""The short way in: plain websockets and polls are answered from their first bytes, before Tornado has seen them.

Tornado's way from a connection to an answer goes over a stream, an HTTP connection with Task and timeout, a routed
handler and a response. An open websocket has no use for any of them, and they cost more than half of a connect's CPU,
token and session included; a poll is nothing else. So a connection is looked at when its bytes are there, without
taking them (MSG_PEEK):

    a websocket, a poll or a short POST that nothing is odd about ──▶ answered here
    anything else, also half a request                            ──▶ Tornado, as if nobody had looked, for good
    nothing, for as long as a head may take                       ──▶ closed

Nothing is odd about the targets stock clients ask for (`heads.py`), an origin that is allowed, a server that takes new
clients, a session that is here and waits for just this. This file only ever says 101 and 200: each refusal is the
Application's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

from tornado.websocket import WebSocketProtocol13

from insightdesk_rt.engine.doors.admission import ClientPort, RemotePeer
from insightdesk_rt.engine.doors.engineio import probe
from insightdesk_rt.engine.doors.fast_path.http_connection import HTML, FastPathHandlers, HttpConnection
from insightdesk_rt.engine.doors.fast_path.request_head import MAX_HEAD, RequestHead, parse, subprotocol
from insightdesk_rt.engine.transport.polling import PollingTransport
from insightdesk_rt.engine.transport.websocket import WebSocketTransport
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.engineio import SEPARATOR

MAX_PACKETS = 32  # of a POST: some 1 ms; with more others have their turn in between, which is the long way's

Otherwise = Callable[[socket.socket, Any, float], object]  # with the seconds that its head may take

_WELCOME = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "


def takes_short_way(port: ClientPort, *, tls: bool) -> bool:
    """May a client port be given a ShortWay? Not with TLS or compression of its own."""
    return not tls and not port.settings.deflate


class FastPath:
    """Takes connections before Tornado does; `otherwise` is Tornado. `close` ends those that are here.

    A head may take `head_ms`, and a connection be kept so long for nothing; an answer may lie unread for `unread_ms`.
    """

    def __init__(
        self, port: ClientPort, otherwise: Otherwise, namespaces: Iterable[str], *, head_ms: int, unread_ms: int
    ) -> None:
        self._port = port
        self._otherwise = otherwise
        self._namespaces = frozenset(namespaces)
        self._here: set[HttpConnection] = set()
        self._way = FastPathHandlers(port.host, head_ms, unread_ms, self._look, self._here.discard)

    def take(self, connection: socket.socket, address: Any) -> None:
        """hot: once per connection. Raises OSError, and keeps nothing of it, if it cannot be watched."""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # we join what belongs together ourselves
        visitor = HttpConnection(self._way, connection, address)
        visitor.enter()
        self._here.add(visitor)

    def close(self) -> None:
        for visitor in tuple(self._here):
            visitor.close()

    def _look(self, visitor: HttpConnection) -> None:
        """hot: once per request. A request is there, or a part of one, or the end."""
        data = visitor.peek(MAX_HEAD)
        if data is None:
            return
        if not data:
            visitor.close()
            return
        head = parse(data)
        if head is None or not self._let_in(visitor, head, data):
            visitor.leave()
            self._otherwise(visitor.sock, visitor.address, visitor.rest_s)

    def _let_in(self, visitor: HttpConnection, head: RequestHead, data: bytes) -> bool:
        """Answer a request, or return False and leave all as it was."""
        peer = self._sender(head, visitor.address)
        if peer is None or not (head.namespace or head.transport in self._port.settings.transports):
            return False
        if head.method == "POST":
            return self._post(visitor, head, data)
        if head.transport == "polling":
            return self._poll(visitor, head, peer)
        return self._probe(visitor, head) if head.sid else self._websocket(visitor, head, peer)

    def _sender(self, head: RequestHead, address: Any) -> RemotePeer | None:
        get = head.headers.get
        forwarded = {name: get(name.lower(), "") for name in ("X-Forwarded-For", "X-Forwarded-Proto")}
        peer, origin = self._port.peer_of(address[0], "http", forwarded), get("origin", "")
        if not origin:
            return peer
        plain = origin.isascii() and origin.isprintable()
        return peer if plain and self._port.origins.allows(origin, peer.scheme, get("host", "")) else None

    # ── websockets ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _websocket(self, visitor: HttpConnection, head: RequestHead, peer: RemotePeer) -> bool:
        port, headers = self._port, head.headers
        if (head.namespace and head.namespace not in self._namespaces) or not port.takes(peer.address):
            return False
        agent = headers.get("user-agent", "")
        if head.namespace:
            client = port.native_client(head.namespace, peer.address, agent, headers.get("authorization", ""))
        else:
            client = port.engine_client(peer.address, agent, head.query, on_websocket=True)
        transport = self._transport(visitor, head)
        client.start(transport)
        client.outbox.flush_behind(welcome(head))
        transport.start(client)
        return True

    def _probe(self, visitor: HttpConnection, head: RequestHead) -> bool:
        """Let it try to take over from the polls of its session."""
        if self._polling(head.sid) is None:
            return False
        transport = self._transport(visitor, head)
        transport.write([Encoded("", welcome(head))])
        probe(self._port, head.sid, transport, b"")
        return True

    def _transport(self, visitor: HttpConnection, head: RequestHead) -> WebSocketTransport:
        """Take the request, and make a transport of the visitor."""
        settings, coded = self._port.settings, bool(head.namespace)
        visitor.take(head)
        visitor.leave(watched=True)
        return WebSocketTransport(
            visitor.sock, self._port.host, settings.max_payload_bytes, coded=coded, max_fragments=settings.max_fragments
        )

    # ── polls ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _polling(self, sid: str) -> PollingTransport | None:
        """Return the transport of a session that polls, and polls here."""
        client = self._port.host.clients.get(sid) if self._port.transport_of(sid) == "polling" else None
        return client.transport if client is not None and isinstance(client.transport, PollingTransport) else None

    def _poll(self, visitor: HttpConnection, head: RequestHead, peer: RemotePeer) -> bool:
        host = self._port.host
        polling = self._polling(head.sid) if head.sid else None
        if polling is not None and not polling.parked:
            visitor.take(head)
        elif not head.sid and self._port.takes(peer.address):
            visitor.take(head)
            polling = PollingTransport(host)
            client = self._port.engine_client(peer.address, head.headers.get("user-agent", ""), head.query)
            polling.start(client)
            client.start(polling)
        else:
            return False
        visitor.park(polling, self._cors(head))
        return True

    def _post(self, visitor: HttpConnection, head: RequestHead, data: bytes) -> bool:
        polling, limit = self._polling(head.sid), self._port.settings.max_payload_bytes
        end = head.length + (head.body or 0)
        if polling is None or polling.posting or end > len(data) or end - head.length > limit:
            return False
        try:
            body = data[head.length : end].decode()
        except UnicodeDecodeError:
            return False
        if body.count(SEPARATOR) >= MAX_PACKETS:
            return False
        visitor.take(head)
        for _ in polling.take(body, limit):
            pass
        visitor.say(b"ok", HTML, self._cors(head))
        return True

    def _cors(self, head: RequestHead) -> dict[str, str]:
        return self._port.origins.headers(head.headers.get("origin", ""), True)


def welcome(head: RequestHead) -> bytes:
    """Return the answer to a websocket's request (RFC 6455 4.2.2)."""
    accept = WebSocketProtocol13.compute_accept_value(head.headers["sec-websocket-key"])
    chosen = subprotocol(head.headers.get("sec-websocket-protocol", ""))
    echo = f"\r\nSec-WebSocket-Protocol: {chosen}" if chosen else ""
    return b"%b%b%b\r\n\r\n" % (_WELCOME, accept.encode(), echo.encode())

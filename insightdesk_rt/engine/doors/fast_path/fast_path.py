"""The fast path: answers the requests that stock clients send from their first bytes, before Tornado parses them.

    It takes:   a websocket handshake, a poll, or a POST of up to 8 KB and 32 packets, on plain TCP without compression.
                The request must have arrived completely, be in the strict syntax of RFC 9112 (request_head.py) and be
                accepted by admission. Its session, if it names one, must be on this node and wait for this request.
    It leaves:  everything else to Tornado's handlers: refusals, other nodes' sessions, long or partial requests, TLS.
    It is safe: it peeks at the bytes (MSG_PEEK), so Tornado can read a request that is left to it from the beginning,
                and then keeps the connection. The fast path sends only 101 and 200, by the same functions as Tornado's
                handlers, and only after the same `judge`. tests/fuzz/heads.py compares how both read a head;
                tests/hostile/test_both_paths.py compares the answers.
    A connection that sends nothing is closed when its time for a head has passed.

Tornado uses a stream, an HTTP connection with a Task and a timeout, a routed handler and a response. An open websocket
needs none of them, and they cost more than half of a connect's CPU, token and session included.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from insightdesk_rt.engine.doors.admission import HTML, Accept
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.doors.engineio import probe
from insightdesk_rt.engine.doors.fast_path.http_connection import FastPathContext, HttpConnection
from insightdesk_rt.engine.doors.fast_path.request_head import MAX_HEAD, PlainRequest, parse
from insightdesk_rt.engine.doors.handshake import switching_protocols
from insightdesk_rt.engine.doors.peers import RemotePeer
from insightdesk_rt.engine.transport.polling import PollingTransport
from insightdesk_rt.engine.transport.websocket import WebSocketTransport
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.engineio import SEPARATOR

MAX_PACKETS = 32  # of a POST; they take some 1 ms. Tornado's handler lets other clients have their turn in between

# Called with a connection, its address, and the seconds left for its head.
Otherwise = Callable[[socket.socket, Any, float], object]


def fast_path_allowed(port: ClientPort, *, tls: bool) -> bool:
    """Return whether a client port can have a fast path. With TLS or compression of its own it cannot."""
    return not tls and not port.settings.websocket_deflate


class FastPath:
    """Takes accepted connections before Tornado. `otherwise` passes one to Tornado. `close` ends those held here.

    A head may take `head_ms`, and an idle connection is kept as long; an answer may stay unread for `unread_ms`.
    """

    def __init__(
        self, port: ClientPort, otherwise: Otherwise, namespaces: Iterable[str], *, head_ms: int, unread_ms: int
    ) -> None:
        self._port = port
        self._otherwise = otherwise
        self._namespaces = frozenset(namespaces)
        self._connections: set[HttpConnection] = set()
        self._context = FastPathContext(port.registry, head_ms, unread_ms, self._look, self._connections.discard)

    def take(self, sock: socket.socket, address: Any) -> None:
        """Accept a connection. Raises OSError, and keeps nothing, if it cannot be watched. hot: once per connection."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what belongs together is sent in one write
        connection = HttpConnection(self._context, sock, address)
        connection.enter()
        self._connections.add(connection)

    def close(self) -> None:
        for connection in tuple(self._connections):
            connection.close()

    def _look(self, connection: HttpConnection) -> None:
        """Handle what a connection received: a request, a part of one, or its end. hot: once per request."""
        data = connection.peek(MAX_HEAD)
        if data is None:
            return
        if not data:
            connection.close()
            return
        head = parse(data)
        if head is None or not self._answer(connection, head, data):
            connection.leave()
            self._otherwise(connection.sock, connection.address, connection.rest_s)

    def _answer(self, connection: HttpConnection, head: PlainRequest, data: bytes) -> bool:
        """Answer a request, or return False and change nothing."""
        if head.namespace and head.namespace not in self._namespaces:
            return False
        peer = self._port.peer_of(connection.address[0], head.headers)
        verdict = self._port.judge(head, peer)
        if verdict is Accept.NEW_CLIENT:
            self._port.count(verdict, peer)
            if head.upgrade:
                self._open_websocket(connection, head, peer)
            else:
                self._open_poll(connection, head, peer)
            return True
        polling = self._polling(head.sid) if verdict is Accept.SESSION else None
        if polling is None:
            return False
        if head.upgrade:
            self._probe(connection, head)
            return True
        return (
            self._poll(connection, head, polling) if head.body is None else self._post(connection, head, polling, data)
        )

    # ── websockets ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_websocket(self, connection: HttpConnection, head: PlainRequest, peer: RemotePeer) -> None:
        port = self._port
        client = port.native_client(head, peer) if head.namespace else port.engine_client(head, peer)
        transport = self._transport(connection, head)
        client.start(transport)
        client.outbox.flush_behind(switching_protocols(head.headers))
        transport.start(client)

    def _probe(self, connection: HttpConnection, head: PlainRequest) -> None:
        """Let a websocket probe the upgrade of its polling session."""
        transport = self._transport(connection, head)
        transport.write([Encoded("", switching_protocols(head.headers))])
        probe(self._port, head.sid, transport, b"")

    def _transport(self, connection: HttpConnection, head: PlainRequest) -> WebSocketTransport:
        """Take the request, and make a transport of its connection."""
        settings, coded = self._port.settings, bool(head.namespace)
        connection.take(head)
        connection.leave(watched=True)
        return WebSocketTransport(
            connection.sock,
            self._port.registry,
            settings.max_payload_bytes,
            coded=coded,
            max_fragments=settings.max_fragments_per_message,
        )

    # ── polls ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _polling(self, sid: str) -> PollingTransport | None:
        """Return the transport of a live polling session; None for an ended one whose last messages are kept."""
        client = self._port.registry.clients.get(sid)
        return client.transport if client is not None and isinstance(client.transport, PollingTransport) else None

    def _open_poll(self, connection: HttpConnection, head: PlainRequest, peer: RemotePeer) -> None:
        connection.take(head)
        polling = PollingTransport(self._port.registry)
        client = self._port.engine_client(head, peer)
        polling.start(client)
        client.start(polling)
        connection.park(polling, self._cors(head))

    def _poll(self, connection: HttpConnection, head: PlainRequest, polling: PollingTransport) -> bool:
        if polling.parked:
            return False
        connection.take(head)
        connection.park(polling, self._cors(head))
        return True

    def _post(self, connection: HttpConnection, head: PlainRequest, polling: PollingTransport, data: bytes) -> bool:
        limit, end = self._port.settings.max_payload_bytes, head.length + (head.body or 0)
        if polling.posting or end > len(data) or end - head.length > limit:
            return False
        try:
            body = data[head.length : end].decode()
        except UnicodeDecodeError:
            return False
        if body.count(SEPARATOR) >= MAX_PACKETS:
            return False
        connection.take(head)
        for _ in polling.take(body, limit):
            pass
        connection.say(b"ok", HTML, self._cors(head))
        return True

    def _cors(self, head: PlainRequest) -> Mapping[str, str]:
        return self._port.origins.headers(head.headers.get("origin", ""), True)

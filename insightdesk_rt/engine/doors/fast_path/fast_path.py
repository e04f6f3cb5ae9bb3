"""The fast path: answers the requests that stock clients send from their first bytes, before Tornado parses them.

    It takes:   a websocket handshake, a poll, or a POST of up to 8 KB and 32 packets, on plain TCP without compression,
                whose bytes are all there, whose syntax is the strict part of RFC 9112 (request_head.py), that admission
                accepts, and whose session, if it names one, is here and waits for just this request.
    It leaves:  everything else to Tornado's handlers: refusals, other nodes' sessions, long or partial requests, TLS.
    It is safe: it looks at the bytes without taking them (MSG_PEEK), so a request that it leaves is read by Tornado as
                if nobody had looked, and Tornado keeps the connection for good. It only ever sends 101 and 200, both
                written by the functions that Tornado's handlers use, and only after `judge`, which they ask, too.
                tests/fuzz/heads.py compares how both read a head; tests/hostile/test_both_paths.py compares answers.
    A connection that sends nothing is closed when its time for a head is over.

Tornado goes through a stream, an HTTP connection with a Task and a timeout, a routed handler and a response. An open
websocket needs none of them, and they cost more than half of a connect's CPU, token and session included.
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

MAX_PACKETS = 32  # of a POST: some 1 ms. Tornado's handler lets others have their turn in between

# Called with a connection, its address, and the seconds that are left for its head.
Otherwise = Callable[[socket.socket, Any, float], object]


def fast_path_allowed(port: ClientPort, *, tls: bool) -> bool:
    """Return whether a client port can have a fast path: not with TLS or compression of its own."""
    return not tls and not port.settings.websocket_deflate


class FastPath:
    """Takes accepted connections before Tornado does. `otherwise` gives one to Tornado. `close` ends those held here.

    A head may take `head_ms`, and an idle connection is kept as long; an answer may stay unread for `unread_ms`.
    """

    def __init__(
        self, port: ClientPort, otherwise: Otherwise, namespaces: Iterable[str], *, head_ms: int, unread_ms: int
    ) -> None:
        self._port = port
        self._otherwise = otherwise
        self._namespaces = frozenset(namespaces)
        self._connections: set[HttpConnection] = set()
        self._context = FastPathContext(port.host, head_ms, unread_ms, self._look, self._connections.discard)

    def take(self, sock: socket.socket, address: Any) -> None:
        """hot: once per connection. Raises OSError, and keeps nothing of it, if it cannot be watched."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what belongs together is sent in one write
        connection = HttpConnection(self._context, sock, address)
        connection.enter()
        self._connections.add(connection)

    def close(self) -> None:
        for connection in tuple(self._connections):
            connection.close()

    def _look(self, connection: HttpConnection) -> None:
        """hot: once per request. A request has come, or a part of one, or the end of the connection."""
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
        """Let a websocket try to take over from the polls of its session."""
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
            self._port.host,
            settings.max_payload_bytes,
            coded=coded,
            max_fragments=settings.max_fragments_per_message,
        )

    # ── polls ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _polling(self, sid: str) -> PollingTransport | None:
        """Return the transport of a live session that polls; None for one whose last messages wait to be fetched."""
        client = self._port.host.clients.get(sid)
        return client.transport if client is not None and isinstance(client.transport, PollingTransport) else None

    def _open_poll(self, connection: HttpConnection, head: PlainRequest, peer: RemotePeer) -> None:
        connection.take(head)
        polling = PollingTransport(self._port.host)
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

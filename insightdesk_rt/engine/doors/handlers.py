"""What the handlers of the client port have in common, and Tornado's way from a handshake to a websocket of ours."""

from __future__ import annotations

from typing import Any

from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, SSLIOStream
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13, _WebSocketParams

from insightdesk_rt.engine.doors.admission import ClientPort
from insightdesk_rt.engine.doors.deflate import NAME, Parameters, agreed
from insightdesk_rt.engine.doors.fast_path.request_head import KEY, subprotocol
from insightdesk_rt.engine.transport.stream import DeflateTransport, StreamTransport
from insightdesk_rt.engine.transport.websocket import WebSocketTransport, take_over


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
        return self.port.allows_page(self.request)

    def agent(self) -> str:
        return self.request.headers.get("User-Agent", "")

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


class ClientHealthHandler(QuietHandler):
    """/healthz: whether this node takes new clients, for a balancer that reaches no other port.

    What Valkey does is not asked: while it is unreachable that is so for every node, and clients that are connected
    stay. /readyz of the admin port says more.
    """

    def initialize(self, port: ClientPort) -> None:
        self.port = port

    def get(self) -> None:
        accepting = self.port.accepting
        self.set_status(200 if accepting else 503)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.set_header("Cache-Control", "no-store")
        self.finish("ok" if accepting else "draining")

    head = get


class _Handshake(WebSocketProtocol13):
    """Tornado's handshake. What comes after it is ours. `agreed` are the parameters of compression, if there is any.

    Of Tornado 6.6: a ValueError in `_handle_websocket_headers` is answered with 400, one that comes later with 500 and
    a traceback. So whatever is read of the request is judged here, before Tornado uses it.
    """

    agreed: Parameters | None = None

    def _handle_websocket_headers(self, handler: WebSocketHandler) -> None:
        super()._handle_websocket_headers(handler)
        if not KEY(handler.request.headers["Sec-WebSocket-Key"]):
            raise ValueError("Sec-WebSocket-Key is not 16 bytes in base64")  # RFC 6455 4.2.1

    def _parse_extensions_header(self, headers: HTTPHeaders) -> list[tuple[str, Any]]:
        """Return the one extension that is agreed on, with the parameters that Tornado answers."""
        if self._compression_options is None:
            return []
        self.agreed = agreed(headers.get("Sec-WebSocket-Extensions", ""))
        return [] if self.agreed is None else [(NAME, dict(self.agreed))]

    def _create_compressors(self, *args: Any, **kwargs: Any) -> None:
        """Tornado's are not used."""

    async def _receive_frame_loop(self) -> None:
        handler = self.handler
        assert isinstance(handler, SocketHandler)
        handler.hand_over(self.stream)


class SocketHandler(QuietHandler, WebSocketHandler):
    """A websocket's handshake. It ends by giving the connection to a transport; then nothing of the request is kept.

    Of Tornado 6.6: `_receive_frame_loop` is awaited once, when 101 is written and the stream is detached.
    """

    coded = False  # do close frames carry our codes?

    def initialize(self, port: ClientPort) -> None:
        self.port = port

    def opened(self, transport: WebSocketTransport, leftover: bytes) -> None:
        """Put a client on the transport, and start it. `leftover` was read with the handshake."""
        raise NotImplementedError

    def check_origin(self, origin: str) -> bool:
        return True  # `prepare` has judged it

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocol(subprotocols[0]) or None if subprotocols else None

    def get_compression_options(self) -> dict[str, Any] | None:
        return {} if self.port.settings.deflate else None

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        limit, deflate = self.port.settings.max_payload_bytes, self.get_compression_options()
        return _Handshake(self, False, _WebSocketParams(max_message_size=limit, compression_options=deflate))

    def open(self, *args: str, **kwargs: str) -> None:
        """Tornado's, of whose frames none is read."""

    def on_message(self, message: str | bytes) -> None:
        """Tornado's, of whose frames none is read."""

    def hand_over(self, stream: IOStream) -> None:
        host, settings, protocol = self.port.host, self.port.settings, self.ws_connection
        parameters = protocol.agreed if isinstance(protocol, _Handshake) else None
        limit, max_fragments = settings.max_payload_bytes, settings.max_fragments
        self.let_go()
        if parameters is not None:
            transport = DeflateTransport(
                stream, host, limit, coded=self.coded, max_fragments=max_fragments, parameters=parameters
            )
            self.opened(transport, b"")
            return
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

"""Base classes of the client port's handlers: reading a request, admission, answering, opening a websocket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from insightdesk_rt.engine.doors.admission import TEXT, Accept, Refusal, RequestHead
from insightdesk_rt.engine.doors.answers import refusal_fields
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.doors.deflate import Parameters, agreed, extension_header
from insightdesk_rt.engine.doors.handshake import handshake_refusal, switching_protocols
from insightdesk_rt.engine.doors.peers import RemotePeer
from insightdesk_rt.engine.transport.stream import DeflateTransport, StreamTransport
from insightdesk_rt.engine.transport.tornado_private import UnloggedHandler
from insightdesk_rt.engine.transport.websocket import WebSocketTransport, take_over


class QuietHandler(UnloggedHandler):
    """A handler of the client port. It sends no Server header and no ETag, and no request is logged."""

    port: ClientPort

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def compute_etag(self) -> None:
        return None

    def peer(self) -> RemotePeer:
        return self.port.peer(self.request)

    def decide(self, head: RequestHead, *, of_another_node: bool = False) -> Accept | Refusal:
        """Return admission's verdict on a request. Counts it, and logs what an operator should know."""
        peer = self.peer()
        verdict = self.port.judge(head, peer, of_another_node=of_another_node)
        self.port.count(verdict, peer)
        if isinstance(verdict, Refusal):
            self.port.report(verdict, head, peer, self.request.remote_ip or "")
        return verdict

    def refuse(self, refusal: Refusal) -> None:
        self.set_fields(refusal.status, refusal_fields(refusal))
        self.finish(refusal.body)

    def set_fields(self, status: int, fields: Mapping[str, str]) -> None:
        self.set_status(status)
        for name, value in fields.items():
            self.set_header(name, value)

    def say_text(self, status: int, text: str) -> None:
        self.set_fields(status, {"Content-Type": TEXT})
        self.finish(text)


class NoHandler(QuietHandler):
    """Answers paths that are not served."""

    def initialize(self, port: ClientPort) -> None:
        self.port = port

    def prepare(self) -> None:
        self.say_text(404, "There is no such path.")


class ClientHealthHandler(QuietHandler):
    """/healthz: whether this node accepts new clients, for a balancer that reaches no other port.

    The state of Valkey is not part of the answer: an outage affects every node alike, and connected clients stay.
    /readyz of the admin port says more.
    """

    def initialize(self, port: ClientPort) -> None:
        self.port = port

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        if self.port.accepting:
            self.say_text(200, "ok")
        else:
            self.say_text(503, "draining")

    head = get


class SocketHandler(QuietHandler, WebSocketHandler):
    """A websocket handshake. It passes the connection to a transport; then nothing of the request is kept.

    Tornado's own handshake and frames are not used: the 101 is the same as on the fast path, and the frames are ours
    (RFC 6455; engine/wire/frames.py).
    """

    coded = False  # do close frames carry our codes?
    request_head: RequestHead  # set by `prepare`

    def initialize(self, port: ClientPort) -> None:
        self.port = port

    def opened(self, transport: WebSocketTransport, leftover: bytes) -> None:
        """Start a client on the transport. `leftover` are bytes that were read with the handshake."""
        raise NotImplementedError

    def open(self, *args: str, **kwargs: str) -> None:
        """Required by Tornado, and not called."""

    def on_message(self, message: str | bytes) -> None:
        """Required by Tornado, and not called."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        refusal = handshake_refusal(self.request.headers)
        if refusal is not None:
            self.refuse(refusal)
            return
        parameters = self.compression()
        extension = extension_header(parameters) if parameters is not None else ""
        stream = self.detach()
        self.ui = None  # type: ignore[assignment]  # a reference cycle; without it the handler is freed at once
        try:
            stream.write(switching_protocols(self.request.headers, extension))
        except StreamClosedError:
            return  # the peer is gone already; nobody was notified of it
        self.hand_over(stream, parameters)

    def compression(self) -> Parameters | None:
        """Return the negotiated parameters of permessage-deflate, None for no compression."""
        offered = self.request.headers.get("Sec-WebSocket-Extensions", "")
        return agreed(offered) if self.port.settings.websocket_deflate else None

    def hand_over(self, stream: IOStream, parameters: Parameters | None) -> None:
        """Pass the connection, whose 101 is written, to a transport."""
        registry, settings = self.port.registry, self.port.settings
        limit, max_fragments = settings.max_payload_bytes, settings.max_fragments_per_message
        if parameters is not None:
            transport = DeflateTransport(
                stream, registry, limit, coded=self.coded, max_fragments=max_fragments, parameters=parameters
            )
            self.opened(transport, b"")
            return
        if isinstance(stream, SSLIOStream):
            self.opened(StreamTransport(stream, registry, limit, coded=self.coded, max_fragments=max_fragments), b"")
            return
        try:
            sock, leftover = take_over(stream)
        except OSError:
            return  # the peer is gone already
        self.opened(WebSocketTransport(sock, registry, limit, coded=self.coded, max_fragments=max_fragments), leftover)

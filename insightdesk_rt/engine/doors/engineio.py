"""Tornado's handlers of /socket.io/: GET polls or opens a session, POST brings packets, Upgrade opens a websocket.

Every answer has CORS headers, also errors, because a page could not read it otherwise. Refusals have Engine.IO's codes
and are not logged. A POST is checked before its body is read (session, type, length) and while it is read (length). If
it is refused early, the rest of its body is read and discarded instead of cutting the connection, so that the client
sees the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, Rule
from tornado.web import stream_request_body

from insightdesk_rt.engine.doors.admission import HTML, OF_ENGINE, TEXT, Accept, Refusal, RequestHead
from insightdesk_rt.engine.doors.answers import answer_fields, refusal_fields
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.doors.framing import declared_bytes, has_body, misframed
from insightdesk_rt.engine.doors.handlers import QuietHandler, SocketHandler
from insightdesk_rt.engine.errors import CloseReason, WireError
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.polling import PollingTransport
from insightdesk_rt.engine.transport.tornado_private import answer_later, body_is_read, last_write
from insightdesk_rt.engine.transport.websocket import WebSocketTransport
from insightdesk_rt.engine.wire.engineio import (
    BAD_REQUEST,
    UNKNOWN_SID,
    EngineRefusal,
    encode_payload,
    engine_parameters,
    jsonp_answer,
    jsonp_index,
    jsonp_payload,
)

PATH = r"/socket\.io/.*"  # Node matches by prefix; without the slash it is another path
BARE_PATH = r"/socket\.io(?:/.*)?"  # Node's addTrailingSlash: false
METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"  # as Node's cors; a method that is not served gets its own refusal
CONNECTS_AT_ONCE = 10  # the default limit of namespaces per connection
DISCARD_BYTES = 8_000_000  # of a refused body; a client that sends more is disconnected
JAVASCRIPT = "text/javascript; charset=UTF-8"


def socketio_handlers(port: ClientPort) -> list[Rule]:
    """Return the routes of /socket.io/ for a tornado Application."""
    path = path_of(port)
    return [
        Rule(_WebSocketRequest(path), EngineSocketHandler, {"port": port}),
        Rule(PathMatches(path), SocketIOHandler, {"port": port}),
    ]


def path_of(port: ClientPort) -> str:
    """Return the pattern of the paths at which Engine.IO is served."""
    return PATH if port.settings.add_trailing_slash else BARE_PATH


class _WebSocketRequest(PathMatches):
    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return super().match(request) if wants_websocket(request) else None


def wants_websocket(request: HTTPServerRequest) -> bool:
    return request.method == "GET" and request.headers.get("Upgrade", "").lower() == "websocket"


class EngineHandler(QuietHandler):
    """The first steps of both handlers of /socket.io/."""

    def head_of(self, *, upgrade: bool) -> RequestHead:
        request, asked = self.request, engine_parameters(self.request.query_arguments)
        return RequestHead(request.method or "", "", upgrade, *asked, request.query, request.headers)


class EngineSocketHandler(SocketHandler, EngineHandler):
    """A websocket: of a new client, or one that a polling client wants to upgrade to."""

    def prepare(self) -> None:
        self.request_head = self.head_of(upgrade=True)
        verdict = self.decide(self.request_head)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)

    def opened(self, transport: WebSocketTransport, leftover: bytes) -> None:
        if self.request_head.sid:
            probe(self.port, self.request_head.sid, transport, leftover)
            return
        client = self.port.engine_client(self.request_head, self.peer())
        client.start(transport)
        transport.start(client, leftover)


def probe(port: ClientPort, sid: str, transport: WebSocketTransport, leftover: bytes) -> None:
    """Let a websocket probe the upgrade of a polling session."""
    client = port.registry.clients.get(sid)
    if client is None:
        transport.abort()
    elif client.probe(transport):
        transport.start(client, leftover)
    else:  # a second websocket of the session: Node accepts and closes it, and the first one is unaffected
        transport.start(client)
        transport.close(CloseReason.TRANSPORT_CLOSE)


@stream_request_body
class SocketIOHandler(EngineHandler):
    """One HTTP request of long polling: a Poll while its GET is parked, a Post while its body is read."""

    def initialize(self, port: ClientPort) -> None:
        self.port = port
        self._polling: PollingTransport | None = None
        self._client: Client | None = None
        self._body = bytearray()
        self._answered = False  # True if it was answered before the body was read
        self._discarded = 0
        self._cors: Mapping[str, str] = {}

    def prepare(self) -> Awaitable[None] | None:
        # The server's limit for other paths is less than what is read here, or discarded so that a client sees its 413.
        max_bytes = self.port.settings.max_payload_bytes + DISCARD_BYTES
        self.request.connection.set_max_body_size(max(max_bytes, declared_bytes(self.request.headers)))  # type: ignore[union-attr]
        self._set_cors()
        self._answered = misframed(self.request.headers)  # Tornado will refuse it
        return self._begin_post() if self.request.method == "POST" and not self._answered else None

    def _set_cors(self) -> None:
        headers = self.request.headers
        allowed = self.port.admission.allows_page(headers, self.peer())
        self._cors = self.port.origins.headers(headers.get("Origin", ""), allowed)
        self.set_fields(self.get_status(), self._cors)

    def _session(self, sid: str) -> bool:
        client = self.port.registry.clients.get(sid)
        if client is None or not isinstance(client.transport, PollingTransport):
            return False
        self._client, self._polling = client, client.transport
        return True

    # ── GET ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self) -> None:
        head = self.head_of(upgrade=False)
        verdict = self.decide(head)
        answer_later(self)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)
        elif verdict is Accept.NEW_CLIENT:
            self._open(head)
        elif self._session(head.sid):
            self._park()
        elif last := self.port.registry.farewell(head.sid):
            self._say(encode_payload(last))
        else:
            self._refuse(UNKNOWN_SID)

    def _open(self, head: RequestHead) -> None:
        polling = self._polling = PollingTransport(self.port.registry)
        client = self._client = self.port.engine_client(head, self.peer())
        polling.start(client)
        client.start(polling)
        self._park()

    def _park(self) -> None:
        assert self._polling is not None
        if not self._polling.poll(self):
            self._polling = None
            self.set_status(400)
            self.finish()

    def answer(self, payload: str) -> None:
        polling = self._polling
        assert polling is not None
        self._say(payload)
        written = last_write(self.request)
        if written is None or written.done():
            self._left(written)
        else:
            written.add_done_callback(self._left)

    def _left(self, written: asyncio.Future[None] | None) -> None:
        """The answer was sent, or sending it failed."""
        polling, self._polling = self._polling, None
        if polling is None:
            return
        if written is None or written.cancelled() or written.exception() is not None:
            polling.aborted(self)
        else:
            polling.answered(self)

    def _say(self, payload: str) -> None:
        index = jsonp_index(self.request.query_arguments)
        if index is None:
            self._answer(TEXT, payload.encode())
        else:
            self._answer(JAVASCRIPT, jsonp_answer(index, payload).encode())

    def _answer(self, content_type: str, body: bytes) -> None:
        self.set_fields(200, answer_fields(content_type, len(body), self._cors))
        self.finish(body)

    # ── POST ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin_post(self) -> Awaitable[None] | None:
        """Check the POST by its headers. Answers it if it is refused."""
        head = self.head_of(upgrade=False)
        verdict = self.decide(head)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)
        elif not self._session(head.sid):
            self._refuse(UNKNOWN_SID)
        elif self.request.headers.get("Content-Type", "").startswith("application/octet-stream"):
            # Only Engine.IO 3 had binary payloads. CVE-2026-59725: such a request was never answered.
            self._violated(WireError("binary payload"))
            self._refuse(BAD_REQUEST)
        elif declared_bytes(self.request.headers) > self._max_bytes():
            self._refuse_body()
        elif self._polling is not None and not self._polling.begin(self):
            self.set_status(400)
            self._finish_early(b"")
        return None

    def _max_bytes(self) -> int:
        """Return the limit of the body in bytes.

        Until a client has joined a namespace, that is the size of the CONNECT packets that stock clients send together.
        """
        max_bytes = self.port.settings.max_payload_bytes
        return (
            max_bytes
            if self._client is None
            else min(max_bytes, CONNECTS_AT_ONCE * self._client.session.max_message_bytes)
        )

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._answered or self.request.method != "POST":
            self._discarded += len(chunk)
            if self._discarded > DISCARD_BYTES:
                self.abort()
            return None
        self._body += chunk
        if len(self._body) > self._max_bytes():
            self._body.clear()
            self._refuse_body()
        if self._client is not None and not self._client.gone:
            self._client.holds(len(self._body))
            if self._client.gone:  # closed because it holds too many unfinished bytes
                self._body.clear()
                self._refuse(UNKNOWN_SID)
        return None

    async def post(self) -> None:
        if self._answered:
            self.finish()
            return
        client, polling = self._client, self._polling
        assert client is not None and polling is not None
        client.holds(0)
        if client.transport is polling and not client.overdue():
            body = self._text()
            if body is not None:
                await polling.receive(body, self.port.settings.max_payload_bytes)
            polling.end(self)
            self._answer(HTML, b"ok")  # Node's type: text/plain made some browsers offer a download
        else:
            self._refuse(UNKNOWN_SID if client.gone else BAD_REQUEST)

    def _text(self) -> str | None:
        """Return the payload. None if the body has no valid one; then the session has been closed."""
        try:
            text = self._body.decode()
            return text if jsonp_index(self.request.query_arguments) is None else jsonp_payload(text)
        except UnicodeDecodeError:
            self._violated(WireError("body is not UTF-8"))
        except WireError as wrong:
            self._violated(wrong)
        return None

    def _violated(self, wrong: WireError) -> None:
        if self._client is not None and self._polling is not None:
            self._client.violated(self._polling, wrong)

    def _refuse_body(self) -> None:
        """Refuse a body that is too long. The session stays open, and the client sees the reason."""
        early = self._max_bytes() < self.port.settings.max_payload_bytes
        self.port.registry.over_limit["max_connect_bytes" if early else "max_payload_bytes"] += 1
        if self._polling is not None:
            self._polling.end(self)
        self.set_status(413)
        self._finish_early(b"")

    # ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────

    def options(self) -> None:
        """CORS preflight."""
        asked = self.request.headers.get("Access-Control-Request-Headers")
        self.set_status(204)
        self.set_header("Access-Control-Allow-Methods", METHODS)
        if asked and self.port.admission.allows_page(self.request.headers, self.peer()):
            self.set_header("Access-Control-Allow-Headers", asked)
        self.add_header("Vary", "Access-Control-Request-Headers")
        self.finish()

    def head(self) -> None:
        """Refuse a method that is not served. Node answers 500 if a session is named, but the client is at fault."""
        verdict = self.decide(self.head_of(upgrade=False))
        self.refuse(verdict if isinstance(verdict, Refusal) else OF_ENGINE[BAD_REQUEST, False])

    put = patch = delete = head

    def refuse(self, refusal: Refusal) -> None:
        self.set_fields(refusal.status, refusal_fields(refusal))
        self._finish_early(refusal.body.encode())

    def _refuse(self, why: EngineRefusal) -> None:
        """Refuse a request that admission accepted, but whose session has ended since."""
        self.refuse(OF_ENGINE[why, False])

    def _finish_early(self, body: bytes) -> None:
        """Answer, whether or not the body has been read."""
        self._polling = None
        if not has_body(self.request.headers) or body_is_read(self.request):
            self.finish(body)
            return
        self._answered = True
        if "Expect" in self.request.headers:
            self.finish(body)  # the client waits for leave to send its body; this closes the connection
            return
        self.set_header("Content-Length", len(body))
        self.write(body)
        self.flush()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado for unknown methods and for bugs."""
        self._set_cors()
        self.finish()

    def on_connection_close(self) -> None:
        super().on_connection_close()  # ends the wait for the body
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.aborted(self)
            polling.broken(self)

    def abort(self) -> None:
        """Cut the connection of a POST that overlaps with another one, or that does not end."""
        self.request.connection.close()  # type: ignore[union-attr]

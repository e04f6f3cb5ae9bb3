"""/socket.io/: Engine.IO's door. GET polls or opens, POST brings packets, a GET with Upgrade is a websocket.

Every answer has its CORS headers, errors too, or a page cannot read them. What is refused is refused with Engine.IO's
codes, and quietly. A body is judged before it is read (session, type, length) and while it is (length); a POST that is
refused early has its body thrown away rather than its connection cut, so that the client sees the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, Rule
from tornado.web import stream_request_body

from insightdesk_rt.engine.doors.admission import ClientPort
from insightdesk_rt.engine.doors.framing import declared_bytes, has_body, misframed
from insightdesk_rt.engine.doors.handlers import QuietHandler, SocketHandler
from insightdesk_rt.engine.errors import CloseReason, WireError
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.polling import PollingTransport
from insightdesk_rt.engine.transport.websocket import WebSocketTransport
from insightdesk_rt.engine.wire.engineio import (
    BAD_REQUEST,
    BAD_VERSION,
    FORBIDDEN,
    UNKNOWN_SID,
    EngineQuery,
    Refusal,
    check_query,
    encode_payload,
    jsonp_answer,
    jsonp_index,
    jsonp_payload,
)

PATH = r"/socket\.io/.*"  # Node matches by prefix; without the slash it is another path
BARE_PATH = r"/socket\.io(?:/.*)?"  # Node's addTrailingSlash: false
METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"  # as Node's cors; what is not served is refused by its own code
CONNECTS_AT_ONCE = 10  # as many namespaces as a connection may have by default
DISCARD_BYTES = 8_000_000  # of a body nobody wants; past it the connection is cut


def socketio_handlers(port: ClientPort) -> list[Rule]:
    """Return the routes of /socket.io/ for a tornado Application."""
    path = path_of(port)
    return [
        Rule(_WebSocketRequest(path), EngineSocketHandler, {"port": port}),
        Rule(PathMatches(path), SocketIOHandler, {"port": port}),
    ]


def path_of(port: ClientPort) -> str:
    """Return the pattern of the paths at which Engine.IO is served."""
    return PATH if port.settings.trailing_slash else BARE_PATH


class _WebSocketRequest(PathMatches):
    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return super().match(request) if wants_websocket(request) else None


def wants_websocket(request: HTTPServerRequest) -> bool:
    return request.method == "GET" and request.headers.get("Upgrade", "").lower() == "websocket"


class _Judge(QuietHandler):
    def transport_of(self, sid: str) -> str | None:
        return self.port.transport_of(sid)

    def judge(self, *, upgrade: bool) -> EngineQuery | Refusal:
        """Return what the request asks for, or why it may not: transport, session, then whose page it is."""
        verdict = check_query(
            self.request.query_arguments,
            self.request.method or "",
            transports=self.port.settings.transports,
            transport_of=self.transport_of,
            upgrade=upgrade,
            origin=self.origin,
        )
        if isinstance(verdict, EngineQuery) and not self.origin_allowed():
            verdict = FORBIDDEN
            self.port.say_refused_page(self.request)
        if verdict is BAD_VERSION:
            why = "another version of Engine.IO: this server speaks 4, which is Socket.IO 3 and 4"
            self.port.host.log_not_understood(why, self.port.peer(self.request).address, self.agent())
        if isinstance(verdict, Refusal):
            self.port.refused[verdict.message.upper().replace(" ", "_")] += 1
        return verdict

    def new_client(self, *, on_websocket: bool = False) -> Client:
        address, query = self.port.peer(self.request).address, self.request.query
        return self.port.engine_client(address, self.agent(), query, on_websocket=on_websocket)


class EngineSocketHandler(SocketHandler, _Judge):
    """A websocket: a client of its own, or the one that a polling client wants to move to."""

    def prepare(self) -> None:
        verdict = self.judge(upgrade=True)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)
        elif verdict.sid or not self.turned_away():
            self._sid = verdict.sid

    def refuse(self, refusal: Refusal) -> None:
        """Node answers a refused upgrade with the bare message, and always 400."""
        self.set_status(400)
        self.set_header("Content-Type", "text/html")
        self.finish(refusal.message)

    def opened(self, transport: WebSocketTransport, leftover: bytes) -> None:
        if self._sid:
            probe(self.port, self._sid, transport, leftover)
            return
        client = self.new_client(on_websocket=True)
        client.start(transport)
        transport.start(client, leftover)


def probe(port: ClientPort, sid: str, transport: WebSocketTransport, leftover: bytes) -> None:
    """Let a websocket try to take over from the polls of a session."""
    client = port.host.clients.get(sid)
    if client is None:
        transport.abort()
    elif client.probe(transport):
        transport.start(client, leftover)
    else:  # a second websocket of the session: Node takes it and closes it, the first is unaffected
        transport.start(client)
        transport.close(CloseReason.TRANSPORT_CLOSE)


@stream_request_body
class SocketIOHandler(_Judge):
    """One HTTP request of long polling: a Poll while it is parked, a Post while its body is read."""

    def initialize(self, port: ClientPort) -> None:
        self.port = port
        self._polling: PollingTransport | None = None
        self._client: Client | None = None
        self._body = bytearray()
        self._answered = False  # before the body was read
        self._discarded = 0

    def prepare(self) -> Awaitable[None] | None:
        # What the server allows to any path is less than this door takes, or throws away to let a client see its 413.
        most = self.port.settings.max_payload_bytes + DISCARD_BYTES
        self.request.connection.set_max_body_size(max(most, declared_bytes(self.request.headers)))  # type: ignore[union-attr]
        self._set_cors()
        self._answered = misframed(self.request.headers)  # by Tornado, in a moment
        return self._begin_post() if self.request.method == "POST" and not self._answered else None

    def _set_cors(self) -> None:
        for name, value in self.port.origins.headers(self.origin, self.origin_allowed()).items():
            self.set_header(name, value)

    def _session(self, sid: str) -> bool:
        client = self.port.host.clients.get(sid)
        if client is None or not isinstance(client.transport, PollingTransport):
            return False
        self._client, self._polling = client, client.transport
        return True

    # ── GET ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self) -> None:
        verdict = self.judge(upgrade=False)
        self._auto_finish = False  # Tornado's switch for handlers that finish after their method has returned
        if isinstance(verdict, Refusal):
            self._refuse(verdict)
        elif not verdict.sid:
            self._open()
        elif self._session(verdict.sid):
            self._park()
        elif last := self.port.host.farewell(verdict.sid):
            self._say(encode_payload(last))
        else:
            self._refuse(UNKNOWN_SID)

    def _open(self) -> None:
        if self.turned_away():
            return
        polling = self._polling = PollingTransport(self.port.host)
        client = self._client = self.new_client()
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
        # Of Tornado 6.6: the future of `finish` hides that the connection was lost under it; the write's own does not.
        written = self.request.connection._pending_write  # type: ignore[union-attr]
        if written is None or written.done():
            self._left(written)
        else:
            written.add_done_callback(self._left)

    def _left(self, written: asyncio.Future[None] | None) -> None:
        """The answer has left, or cannot."""
        polling, self._polling = self._polling, None
        if polling is None:
            return
        if written is None or written.cancelled() or written.exception() is not None:
            polling.aborted(self)
        else:
            polling.answered(self)

    def _say(self, payload: str) -> None:
        self.set_header("Cache-Control", "no-store")
        index = jsonp_index(self.request.query_arguments)
        if index is None:
            self.set_header("Content-Type", "text/plain; charset=UTF-8")
        else:
            self.set_header("Content-Type", "text/javascript; charset=UTF-8")
            payload = jsonp_answer(index, payload)
        self.finish(payload)

    # ── POST ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin_post(self) -> Awaitable[None] | None:
        """Judge the POST by its headers. What is refused here is answered here."""
        verdict = self.judge(upgrade=False)
        if isinstance(verdict, Refusal):
            self._refuse(verdict)
        elif not self._session(verdict.sid):
            self._refuse(UNKNOWN_SID)
        elif self.request.headers.get("Content-Type", "").startswith("application/octet-stream"):
            # Binary payloads were Engine.IO 3's; CVE-2026-59725 is the request that is then never answered.
            self._violated(WireError("binary payload"))
            self._refuse(BAD_REQUEST)
        elif declared_bytes(self.request.headers) > self._most_bytes():
            self._refuse_body()
        elif self._polling is not None and not self._polling.begin(self):
            self.set_status(400)
            self._finish_early(b"")
        return None

    def _most_bytes(self) -> int:
        """How long the body may be: of who has joined nothing, as the CONNECTs that stock clients send together."""
        most = self.port.settings.max_payload_bytes
        return most if self._client is None else min(most, CONNECTS_AT_ONCE * self._client.session.max_message_bytes)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._answered or self.request.method != "POST":
            self._discarded += len(chunk)
            if self._discarded > DISCARD_BYTES:
                self.abort()
            return None
        self._body += chunk
        if len(self._body) > self._most_bytes():
            self._body.clear()
            self._refuse_body()
        if self._client is not None and not self._client.gone:
            self._client.holds(len(self._body))
            if self._client.gone:  # it holds too much
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
            self.set_header("Cache-Control", "no-store")
            self.set_header("Content-Type", "text/html")  # Node's: text/plain made some browsers offer a download
            self.finish("ok")
        else:
            self._refuse(UNKNOWN_SID if client.gone else BAD_REQUEST)

    def _text(self) -> str | None:
        """Return the payload; None if the body holds none, and then the session is closed."""
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
        """Too long. The session stays open, and the client sees why."""
        early = self._most_bytes() < self.port.settings.max_payload_bytes
        self.port.host.over_limit["max_connect_bytes" if early else "max_payload_bytes"] += 1
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
        if asked and self.origin_allowed():
            self.set_header("Access-Control-Allow-Headers", asked)
        self.add_header("Vary", "Access-Control-Request-Headers")
        self.finish()

    def head(self) -> None:
        """Node answers 500 where a session is named; that would be our fault, and it is not."""
        verdict = self.judge(upgrade=False)
        self._refuse(verdict if isinstance(verdict, Refusal) else BAD_REQUEST)

    put = patch = delete = head

    def _refuse(self, refusal: Refusal) -> None:
        self.set_status(refusal.status)
        self.set_header("Content-Type", "application/json")
        self._finish_early(refusal.body.encode())

    def _finish_early(self, body: bytes) -> None:
        """Answer, whether the body has been read or not."""
        self._polling = None
        if not has_body(self.request.headers) or self.request._body_future.done():
            self.finish(body)
            return
        self._answered = True
        if "Expect" in self.request.headers:
            self.finish(body)  # nothing was sent yet, and nothing has to be: this closes the connection
            return
        self.set_header("Content-Length", len(body))
        self.write(body)
        self.flush()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Only for what is not ours: a method Tornado does not know, a bug."""
        self._set_cors()
        self.finish()

    def on_connection_close(self) -> None:
        super().on_connection_close()  # ends the wait for the body
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.aborted(self)
            polling.broken(self)

    def abort(self) -> None:
        """Cut the connection: of a POST that overlapped with another, or that does not end."""
        self.request.connection.close()  # type: ignore[union-attr]

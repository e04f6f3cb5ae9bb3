"""Relays requests for Engine.IO sessions of other nodes, which a load balancer without sticky sessions sends here.

A poll is passed on to the node that owns the session, and the answer is passed back. A websocket that probes an upgrade
is handed to the owner as a socket if the owner is a process of this machine. Otherwise it is refused, and the client
stays on polling.

    sid=n2.…  ─▶  Directory.find("n2")  ─▶  its relay: HTTP on a unix socket of this machine, or on `relay_address`

The relay accepts a request only with the owner's key, and passes none on, so there are no loops. The node that received
the request has checked its Origin. A session whose owner is unreachable is unknown, and the client begins a new one.

A POST whose sid names no known node is answered when its head has arrived. Otherwise its body is passed on as it
arrives, and the owner checks the head as it does for its own clients. This node keeps one piece of the body at a time.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import socket
from collections.abc import Awaitable
from typing import Annotated, Any, NamedTuple

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, SSLIOStream, UnsatisfiableReadError
from tornado.routing import PathMatches, Rule
from tornado.tcpclient import TCPClient
from tornado.web import RequestHandler

from insightdesk_rt.engine.cluster.directory import Directory, NodePlace
from insightdesk_rt.engine.doors.admission import OF_ENGINE, Accept, Refusal, RequestHead
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.doors.deflate import Parameters
from insightdesk_rt.engine.doors.engineio import (
    BARE_PATH,
    EngineSocketHandler,
    SocketIOHandler,
    path_of,
    probe,
    wants_websocket,
)
from insightdesk_rt.engine.doors.framing import declared_bytes
from insightdesk_rt.engine.settings import Help, Port, SettingsPart
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.transport.handover import hand_over, is_here
from insightdesk_rt.engine.transport.neighbours import Stranger, is_ours, say_refused, this_machine
from insightdesk_rt.engine.transport.tornado_private import body_is_read
from insightdesk_rt.engine.transport.websocket import WebSocketTransport, take_over
from insightdesk_rt.engine.wire.engineio import UNKNOWN_SID

log = logging.getLogger(__name__)

CONNECT_S = 2.0  # to a node of the same network
ALIVE = "/alive"
ALIVE_S = 1.0  # a node whose loop is blocked for longer cannot serve clients either
SLACK_S = 10.0  # an owner answers a poll within a heartbeat; one that takes longer is dead
MAX_ANSWER = 64_000_000  # bytes; an outbox holds less
KEY = "X-Insightdesk-Key"
_NODE = re.compile(r"([A-Za-z0-9_-]{1,40})\.")


class RelaySettings(SettingsPart, frozen=True):
    relay_address: Annotated[
        str, Help("address at which nodes of other machines relay polls to this one; empty: none")
    ] = ""
    relay_port: Annotated[Port, Help("port for relayed polls; 0 takes a free one")] = 0


class RelayedAnswer(NamedTuple):
    status: int
    headers: HTTPHeaders
    body: bytes


class Relay:
    """Passes requests on to other nodes, and accepts the sockets that they hand over."""

    def __init__(self, port: ClientPort, directory: Directory) -> None:
        self._port = port
        self._directory = directory
        settings = port.settings
        self._complained: set[str] = set()  # nodes
        self._within_s = (settings.ping_interval_ms + settings.ping_timeout_ms) / 1000 + SLACK_S
        self.passed = self.failed = 0

    async def find(self, node_id: str) -> NodePlace | None:
        return await self._directory.find(node_id)

    async def begin(self, node_id: str, request: HTTPServerRequest, exchange: Exchange) -> bool:
        """Send the head of a request to its owner. False if it is unreachable, or the exchange was ended."""
        place = await self._directory.find(node_id)
        begun = False
        if place is not None and not exchange.ended:
            try:
                begun = await exchange.begin(place, request)
            except OSError:  # also TimeoutError and StreamClosedError
                self._unreachable(place)
        self.failed += not begun
        return begun

    async def answer(self, exchange: Exchange) -> RelayedAnswer | None:
        """Return the owner's answer to a request that was sent completely; None if no answer comes in time."""
        answer = None
        try:
            async with asyncio.timeout(self._within_s):
                answer = await exchange.answer()
        except TimeoutError:
            exchange.end()
        self.passed += answer is not None
        self.failed += answer is None
        return answer

    def _unreachable(self, place: NodePlace) -> None:
        """Log that a node lacks a relay_address. A node of this machine needs none: it has just ended."""
        elsewhere = place.machine != this_machine()
        if elsewhere and not place.address and place.node not in self._complained:
            self._complained.add(place.node)
            log.warning(
                "a poll could not be passed on: its node is not on this machine, and has no relay_address for others",
                extra={"owner": place.node},
            )

    def hand_over(self, place: NodePlace, sid: str, sock: socket.socket, read_ahead: bytes) -> None:
        hand_over(place.local, place.key, sid, sock, read_ahead)

    def take(self, sid: str, sock: socket.socket, read_ahead: bytes) -> None:
        """Let a socket that was handed to this node probe the upgrade of its polling session."""
        sock.setblocking(False)
        registry, limit, max_fragments = (
            self._port.registry,
            self._port.settings.max_payload_bytes,
            self._port.settings.max_fragments_per_message,
        )
        probe(
            self._port,
            sid,
            WebSocketTransport(sock, registry, limit, coded=False, max_fragments=max_fragments),
            read_ahead,
        )


class Exchange(HTTPMessageDelegate):
    """One request to another node. `end` cancels it; then the owner sees the connection of the poll close."""

    def __init__(self) -> None:
        self.ended = False
        # The owner's answer, which may arrive before the body is sent; None if the connection ends without one.
        self.answered: asyncio.Future[RelayedAnswer | None] = asyncio.get_running_loop().create_future()
        self._stream: IOStream | None = None
        self._connection: HTTP1Connection | None = None
        self._tasks = OwnedTasks(log)  # they end with the stream
        self._status = 0
        self._headers = HTTPHeaders()
        self._body = bytearray()

    def end(self) -> None:
        self.ended = True
        if self._stream is not None:
            self._stream.close()

    async def begin(self, place: NodePlace, request: HTTPServerRequest) -> bool:
        """Connect and send the head. False if the exchange was ended meanwhile. Raises OSError, TimeoutError."""
        stream = self._stream = await _connect(place)
        if self.ended:
            stream.close()
            return False
        headers = HTTPHeaders({"Host": request.host or "localhost", KEY: place.key})
        for name in ("Content-Type", "Content-Length"):
            if value := request.headers.get(name):
                headers[name] = value
        parameters = HTTP1ConnectionParameters(no_keep_alive=True, max_body_size=MAX_ANSWER)
        connection = self._connection = HTTP1Connection(stream, True, parameters)
        uri = f"{request.path}?{request.query}"
        await connection.write_headers(RequestStartLine(request.method or "GET", uri, "HTTP/1.1"), headers)
        self._tasks.spawn(self._read(connection, stream), "reading a relayed answer")
        return True

    async def send(self, chunk: bytes) -> None:
        """Send a piece of the body and wait until the kernel has taken it, so that a slow owner slows the client."""
        assert self._connection is not None
        # Tornado 6.6 never completes the future of a write once the answer has been read.
        written: asyncio.Future[Any] = self._connection.write(chunk)
        await asyncio.wait({written, self.answered}, return_when=asyncio.FIRST_COMPLETED)

    async def answer(self) -> RelayedAnswer | None:
        """Finish the request and return its answer; None if the owner gave none."""
        assert self._connection is not None
        if not self.answered.done():
            self._connection.finish()
        return await asyncio.shield(self.answered)

    async def _read(self, connection: HTTP1Connection, stream: IOStream) -> None:
        try:
            await connection.read_response(self)
        except OSError:
            pass
        finally:
            stream.close()
            self._settle(None)

    def _settle(self, answer: RelayedAnswer | None) -> None:
        if not self.answered.done():
            self.answered.set_result(answer)

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        assert isinstance(start_line, ResponseStartLine)
        self._status, self._headers = start_line.code, headers

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def finish(self) -> None:
        """The answer is complete. Closes the stream, because Tornado 6.6 would read on until the request is sent."""
        self._settle(RelayedAnswer(self._status, self._headers, bytes(self._body)))
        if self._stream is not None:
            self._stream.close()


async def answers(place: NodePlace) -> bool:
    """Return whether a node answers other nodes within ALIVE_S, whatever Valkey says about it.

    A node on another machine answers only at its `relay_address`.
    """
    ask = f"GET {ALIVE} HTTP/1.1\r\nHost: localhost\r\n{KEY}: {place.key}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(ALIVE_S):
            stream = await _connect(place)
            try:
                await stream.write(ask.encode())
                line = await stream.read_until(b"\r\n", max_bytes=200)
            finally:
                stream.close()
    except (OSError, UnsatisfiableReadError):  # also TimeoutError and StreamClosedError
        return False
    return b" 204 " in line


async def _connect(place: NodePlace) -> IOStream:
    """Return a stream to a node: to its unix socket if it runs on this machine. Raises OSError, TimeoutError."""
    async with asyncio.timeout(CONNECT_S):
        stream = IOStream(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            await stream.connect("\0" + place.local)
            if not is_ours(stream.socket):
                stream.close()
                say_refused("a process of another user listens under the name of a node; it is sent nothing")
                raise Stranger
        except OSError:  # not of this machine, or gone; StreamClosedError is one
            host, _, port = place.address.rpartition(":")
            if not host:
                raise
            return await TCPClient().connect(host.strip("[]"), int(port))
        return stream


# ── requests of clients ─────────────────────────────────────────────────────────────────────────────────────────────


class RelayHandler(SocketIOHandler):
    """A poll of another node's session. The owner repeats every check except that of the Origin."""

    def initialize(self, port: ClientPort, relay: Relay) -> None:  # type: ignore[override]
        super().initialize(port)
        self._relay = relay
        self._exchange = Exchange()
        self._passed_bytes = 0
        self._gone = False  # the client

    def decide(self, head: RequestHead, *, of_another_node: bool = True) -> Accept | Refusal:
        return super().decide(head, of_another_node=of_another_node)

    async def get(self) -> None:  # type: ignore[override]
        head = self.head_of(upgrade=False)
        verdict = self.decide(head)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)
        elif await self._begin(head.sid):
            await self._pass_back()

    async def _begin_post(self) -> None:
        """Check the POST's head and send it to the owner. Tornado reads the body after this has returned."""
        head = self.head_of(upgrade=False)
        verdict = self.decide(head)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)
        elif declared_bytes(self.request.headers) > self._max_bytes():
            self._refuse_body()
        elif await self._begin(head.sid):
            self._exchange.answered.add_done_callback(self._answered_early)

    async def _begin(self, sid: str) -> bool:
        begun = await self._relay.begin(sid.partition(".")[0], self.request, self._exchange)
        if not begun and not self._gone:
            self._refuse(UNKNOWN_SID)
        return begun

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._answered or self.request.method != "POST":
            return super().data_received(chunk)
        self._passed_bytes += len(chunk)
        if self._passed_bytes > self._max_bytes():
            self._refuse_body()
            self._exchange.end()
            return None
        return self._exchange.send(chunk)

    async def post(self) -> None:
        if self._answered:
            self.finish()
        else:
            await self._pass_back()

    def _answered_early(self, answered: asyncio.Future[RelayedAnswer | None]) -> None:
        """The owner has answered or disconnected. The rest of the body, if there is any, is discarded."""
        if not (self._answered or self._gone or body_is_read(self.request)):
            self._say_answer(answered.result())

    async def _pass_back(self) -> None:
        answer = await self._relay.answer(self._exchange)
        if not self._gone:
            self._say_answer(answer)

    def _say_answer(self, answer: RelayedAnswer | None) -> None:
        if answer is None:
            self._refuse(UNKNOWN_SID)
            return
        passed = ("Content-Type", "Cache-Control")
        self.set_fields(answer.status, {name: answer.headers[name] for name in passed if name in answer.headers})
        self._finish_early(answer.body)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._gone = True
        self._exchange.end()


class HandOverHandler(EngineSocketHandler):
    """A websocket for another node's session."""

    def initialize(self, port: ClientPort, relay: Relay) -> None:  # type: ignore[override]
        super().initialize(port)
        self._relay = relay
        self._place: NodePlace | None = None

    def compression(self) -> None:
        return None  # its state could not be handed over

    async def prepare(self) -> None:  # type: ignore[override]
        self.request_head = self.head_of(upgrade=True)
        verdict = self.decide(self.request_head, of_another_node=True)
        if not isinstance(verdict, Refusal):
            place = await self._relay.find(self.request_head.sid.partition(".")[0])
            plain = not isinstance(self.request.connection.stream, SSLIOStream)  # type: ignore[union-attr]
            if place is not None and plain and is_here(place.local):
                self._place = place
                return
            verdict = OF_ENGINE[UNKNOWN_SID, True]
        self.refuse(verdict)

    def hand_over(self, stream: IOStream, parameters: Parameters | None) -> None:
        assert self._place is not None
        try:
            sock, read_ahead = take_over(stream)
        except OSError:
            return  # the peer is gone already
        self._relay.hand_over(self._place, self.request_head.sid, sock, read_ahead)


class _OfAnother(PathMatches):
    """Matches requests that name a session of another node."""

    def __init__(self, path: str, node_id: str, *, upgrade: bool) -> None:
        super().__init__(path)
        self._node_id = node_id
        self._upgrade = upgrade

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        sid = request.query_arguments.get("sid")
        named = _NODE.match(sid[0].decode("latin-1")) if sid else None
        if named is None or named.group(1) == self._node_id:
            return None
        return super().match(request) if wants_websocket(request) is self._upgrade else None


def foreign_routes(port: ClientPort, relay: Relay, node_id: str) -> list[Rule]:
    """Return the routes of the client port for sessions of other nodes; they come before those of its own."""
    parts, path = {"port": port, "relay": relay}, path_of(port)
    return [
        Rule(_OfAnother(path, node_id, upgrade=True), HandOverHandler, parts),
        Rule(_OfAnother(path, node_id, upgrade=False), RelayHandler, parts),
    ]


# ── requests of other nodes ─────────────────────────────────────────────────────────────────────────────────────────


class _Keyed(PathMatches):
    """Matches requests that carry this node's key."""

    def __init__(self, key: str, path: Any = BARE_PATH) -> None:
        super().__init__(path)
        self._key = key.encode()

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        shown = request.headers.get(KEY, "").encode()
        return super().match(request) if hmac.compare_digest(shown, self._key) else None


def relay_routes(port: ClientPort, key: str) -> list[Rule]:
    """Return the routes of the relay: polls that other nodes pass on."""
    return [Rule(_Keyed(key), SocketIOHandler, {"port": port}), Rule(_Keyed(key, ALIVE), AliveHandler)]


class AliveHandler(RequestHandler):
    """Answers another node that asks whether this one runs, because its lease in Valkey was not renewed for a while."""

    def get(self) -> None:
        self.set_status(204)


def bind_local(place: NodePlace) -> socket.socket:
    """Return a listening socket for nodes of this machine."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind("\0" + place.local)
    listener.listen(1024)
    return listener

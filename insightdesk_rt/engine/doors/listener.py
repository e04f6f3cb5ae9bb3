"""The listeners of the ports, and the HTTP server behind them.

Listeners are bound before anything else is started, so that a port in use is noticed first. The server accepts few
connections at a time, and ends those whose peers are too slow.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Sequence
from copy import copy
from math import inf
from time import monotonic
from typing import Annotated, Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPMessageDelegate
from tornado.ioloop import IOLoop
from tornado.web import Application

from insightdesk_rt.engine.periodic import PeriodicWork, start_periodic
from insightdesk_rt.engine.settings import Help, SecondsLimit, SettingsPart
from insightdesk_rt.engine.transport.neighbours import refused_stranger
from insightdesk_rt.engine.transport.tornado_private import (
    add_listener,
    body_timeout_s,
    close_after_answer,
    open_connections,
    serve_connection,
    unread_input_bytes,
    written_bytes,
)
from insightdesk_rt.engine.transport.unread import unread_bytes

log = logging.getLogger(__name__)

EVERY = {"::": ("0.0.0.0", "::")}  # a socket for IPv6 alone beside one for IPv4: addresses then come in their own form
MAY_BE_MISSING = ("::", "::1")
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
PORT_ATTEMPTS = 10
BACKLOG = 1024  # connections that wait in the kernel: after an outage all clients reconnect at once


# Accepted in one turn of the loop, some 2 ms of work. Tornado accepts 128; when 5,000 come at once, clients that are
# already connected then wait 4.9 s instead of 0.2 s.
ACCEPT_AT_ONCE = 8
SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC)  # the last: too many watched files
PAUSE_S = 1.0
LOG_EVERY_S = 60.0


class StartError(Exception):
    """The server cannot start. The text is one line for the terminal."""


def bind(setting: str, addresses: Sequence[str], port: int, *, shared: bool = False) -> list[socket.socket]:
    """Return listening sockets, one per address, all on one port. Raises StartError with the name of the setting.

    `::` means all addresses of both families. An address in MAY_BE_MISSING is skipped on a machine without IPv6, if
    there is another address. `shared`: other processes of this user may bind the same port, and the kernel spreads
    connections over them.
    """
    wanted = list(dict.fromkeys(one for address in addresses for one in EVERY.get(address, (address,))))
    for attempts_left in reversed(range(PORT_ATTEMPTS)):
        try:
            return _bind_each(setting, wanted, port, shared)
        except _Taken as why:
            if port or not attempts_left:  # a free port of one address need not be free on the next
                raise StartError(str(why)) from None
    raise AssertionError


class _Taken(StartError):
    """A port is in use."""


def _bind_each(setting: str, addresses: list[str], port: int, shared: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            found = socket.getaddrinfo(address, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
            for family, _, _, _, where in sorted(dict.fromkeys(found)):  # IPv4 first
                at = (where[0], port_of(sockets) if sockets else port, *where[2:])
                try:
                    sockets.append(_listen(family, at, shared))
                except OSError as why:
                    several = len(addresses) + len(found) > 2
                    if not (several and why.errno in NO_IPV6 and where[0] in MAY_BE_MISSING):
                        raise
                    log.info("there is no such address here; others are served", extra={"address": where[0]})
    except (OSError, OverflowError) as why:  # gaierror is an OSError
        close_all(sockets)
        reason = getattr(why, "strerror", None) or str(why)
        kind = _Taken if getattr(why, "errno", 0) == errno.EADDRINUSE else StartError
        raise kind(f"{setting} = {port}: cannot listen on {address}: {reason}") from None
    if not sockets:
        raise StartError(f"{setting} = {port}: cannot listen on {', '.join(addresses)}: there is no such address here")
    return sockets


def _listen(family: int, where: tuple[Any, ...], shared: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def bind_shared(setting: str, addresses: Sequence[str], port: int, count: int) -> list[list[socket.socket]]:
    """Return `count` sets of listeners on one port, which must be free. Raises StartError."""
    alone = bind(setting, addresses, port)  # two servers that share a port by mistake would be hard to find
    port = port_of(alone)
    close_all(alone)
    return [bind(setting, addresses, port, shared=True) for _ in range(count)]


def port_of(sockets: list[socket.socket]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port


def close_all(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


class ClientHttpServer(HTTPServer):
    """An HTTPServer that accepts few connections in a turn, so that open ones are served in between.

    A connection whose peer has read nothing of its answer for `unread_s` (at most twice that) is closed: Tornado would
    wait for ever. `on_late` is called with the name of the setting that such a connection exceeded, and when a head or
    a body does not come in time.
    """

    def initialize(
        self,
        *args: Any,
        unread_s: float = 30.0,
        on_late: Callable[[str], None] = lambda setting: None,
        **kwargs: Any,
    ) -> None:
        super().initialize(*args, **kwargs)
        self._unread_s = unread_s
        self._on_late = on_late
        self._unread: dict[Any, int] = {}  # connection → bytes that its peer had read at the last check
        self._cutting: PeriodicWork | None = None
        self._head_s: float | None = None  # for the connection that is being taken, if it is not the usual time
        self._heads_s: dict[Any, float] = {}  # the same for those taken in this turn, by stream
        self._requests: dict[Any, _Request] = {}  # the last of each connection

    def add_sockets(self, sockets: Any, first: Callable[[socket.socket, Any], object] | None = None) -> None:
        """Accept connections. `first` is called with each, and passes those that it leaves to `take`."""
        for each in sockets:
            add_listener(self, each, accept_few(each, first or self.take))
        if self._cutting is None:
            self._cutting = start_periodic(
                self._unread_s * 1000, self._cut_unread, "closing connections of slow readers"
            )

    def stop(self) -> None:
        if self._cutting is not None:
            self._cutting.stop()
        super().stop()

    def _cut_unread(self) -> None:
        """Close the connections whose peers have read nothing since the last check.

        A peer has read what the kernel was given minus what the kernel still holds, which can be megabytes.
        """
        unread, self._unread = self._unread, {}
        for connection in open_connections(self):
            stream = connection.stream
            if stream.writing() and not stream.closed():
                taken = written_bytes(stream) - unread_bytes(stream.socket)
                if unread.get(connection) == taken:
                    self._on_late("unread_timeout_s")
                    stream.close()
                else:
                    self._unread[connection] = taken

    def take(self, connection: socket.socket, address: Any, head_s: float | None = None) -> None:
        """Serve a connection as if it had just been accepted, with `head_s` left for its first head.

        A unix socket serves other nodes of this machine, which must run as the user of this process.
        """
        if refused_stranger(connection):
            return
        self._head_s = head_s
        serve_connection(self, connection, address)
        self._head_s = None

    def handle_stream(self, stream: Any, address: Any) -> None:
        if self._head_s is not None:
            self._heads_s[stream] = self._head_s
        super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: Any) -> HTTPMessageDelegate:
        """Called by Tornado when it starts to wait for a head, with the timeout in `params.header_timeout`."""
        head_s = self._heads_s.pop(request_conn.stream, None)
        if head_s is not None:
            request_conn.params = copy(request_conn.params)
            request_conn.params.header_timeout = head_s
        first = server_conn not in self._requests
        inner = super().start_request(server_conn, request_conn)
        request = self._requests[server_conn] = _Request(inner, request_conn, first, self._on_late)
        return request

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        request = self._requests.pop(server_conn, None)
        if request is not None:
            request.ended()


class _Request(HTTPMessageDelegate):
    """Passes a request on, and reports one that does not arrive in time."""

    def __init__(
        self, inner: HTTPMessageDelegate, connection: Any, first: bool, on_late: Callable[[str], None]
    ) -> None:
        self._inner = inner
        self._connection = connection
        self._stream = connection.stream
        self._first = first  # of its connection; before a later one the connection was idle, which is not counted
        self._on_late = on_late
        self._awaits = "handshake_timeout_s"
        self._until_s = monotonic() + connection.params.header_timeout

    def headers_received(self, start_line: Any, headers: Any) -> Any:
        self._awaits = "body_timeout_s"
        self._until_s = monotonic() + (body_timeout_s(self._connection) or inf)
        if start_line.version == "HTTP/1.0" and "Transfer-Encoding" in headers:
            # RFC 9112 6.1: an HTTP/1.0 proxy may see the end of this body elsewhere, so nothing that follows on the
            # connection can be trusted. Without the header Tornado does not answer "keep-alive".
            close_after_answer(self._connection)
            headers.pop("Connection", None)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._awaits = ""
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()

    def ended(self) -> None:
        """The connection has ended. Reports it if a timeout ended it."""
        begun = self._awaits == "body_timeout_s" or self._first or unread_input_bytes(self._stream)
        if self._awaits and begun and monotonic() >= self._until_s:
            self._on_late(self._awaits)


class Times(SettingsPart, frozen=True):
    """Timeouts of the parts of an HTTP exchange."""

    handshake_timeout_s: Annotated[
        SecondsLimit, Help("how long HTTP headers may take, and a connection be idle; 0: no limit")
    ] = 10
    # a megabyte in 30 s is 270 kbit/s; a slower client is a slow loris, or should use a websocket
    body_timeout_s: Annotated[SecondsLimit, Help("how long the body of a POST may take; 0: no limit")] = 30
    unread_timeout_s: Annotated[
        SecondsLimit, Help("how long a client may leave an HTTP answer unread; 0: no limit")
    ] = 30


def make_http_server(
    application: Application, times: Times, on_late: Callable[[str], None] = lambda setting: None, **options: Any
) -> ClientHttpServer:
    return ClientHttpServer(
        application,
        idle_connection_timeout=times.handshake_timeout_s,
        body_timeout=times.body_timeout_s,
        unread_s=times.unread_timeout_s,
        on_late=on_late,
        **options,
    )


def accept_few(listening: socket.socket, taken: Callable[[socket.socket, Any], object]) -> Callable[[], None]:
    """Call `taken` with each connection and its address, and return a function that stops it.

    A connection for which `taken` raises OSError is closed. When the process has no file descriptor left, or the
    machine no memory, nothing is accepted for a while: connections wait in the kernel's queue, and the loop does not
    spin.
    """
    return _Accepting(listening, taken).stop


class _Accepting:
    def __init__(self, listening: socket.socket, taken: Callable[[socket.socket, Any], object]) -> None:
        self._listening = listening
        self._taken = taken
        self._loop = IOLoop.current()
        self._paused: object | None = None
        self._logged_until_s = 0.0
        self._loop.add_handler(listening, self._accept, IOLoop.READ)

    def stop(self) -> None:
        if self._paused is not None:
            self._loop.remove_timeout(self._paused)
        else:
            self._loop.remove_handler(self._listening)

    def _accept(self, _: object, __: int) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as why:
                if why.errno not in SHORT_OF:
                    raise
                self._pause_accepting(why)
                return
            try:
                self._taken(connection, address)
            except OSError as why:  # from the connection itself, or from watching it: too many files
                connection.close()
                if why.errno in SHORT_OF:
                    self._pause_accepting(why)
                    return

    def _pause_accepting(self, why: OSError) -> None:
        if self._loop.time() >= self._logged_until_s:
            log.error("no new connections for a while", extra={"why": why.strerror})
            self._logged_until_s = self._loop.time() + LOG_EVERY_S
        self._loop.remove_handler(self._listening)
        self._paused = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_handler(self._listening, self._accept, IOLoop.READ)

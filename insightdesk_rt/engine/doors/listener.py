"""The sockets of the ports: bound before anything is started, so that a port that is taken costs nothing; and how many
connections are taken from them at a time."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Sequence
from copy import copy
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPMessageDelegate
from tornado.ioloop import IOLoop
from tornado.web import Application

from insightdesk_rt.engine.periodic import PeriodicWork, every
from insightdesk_rt.engine.transport.neighbours import refused_stranger
from insightdesk_rt.engine.transport.unread import unread_bytes

log = logging.getLogger(__name__)

EVERY = {"::": ("0.0.0.0", "::")}  # a socket for IPv6 alone beside one for IPv4: addresses then come in their own form
MAY_BE_MISSING = ("::", "::1")
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
PORT_ATTEMPTS = 10
BACKLOG = 1024  # connections the kernel holds for us: a storm of reconnects comes at once


# Taken in one turn of the loop, some 2 ms of work; Tornado takes 128, and when 5,000 come at once whoever is connected
# already waits for nearly all of them: 4.9 s where it is 0.2 s like this.
ACCEPT_AT_ONCE = 8
SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC)  # the last: of what is watched
REST_S = 1.0
SAID_S = 60.0  # once in this time


class StartError(Exception):
    """Why the server did not start, in one line for the terminal."""


def bind(setting: str, addresses: Sequence[str], port: int, *, shared: bool = False) -> list[socket.socket]:
    """Return listening sockets, one per address, all of one port. Raises StartError naming the setting.

    `::` is every address of both families. An IPv6 address of those below may be missing on a machine that has no IPv6,
    if there is another to listen on. `shared`: others of this user may bind the same port, and the kernel spreads
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
    """Return `count` times the sockets of one port, which nobody else had. Raises StartError."""
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
    """An HTTPServer that takes few connections in a turn, so that those it has are served in between.

    With `first` set before `add_sockets`, connections are given to it; what it does not want it gives to `take`.
    A connection of whose answer nothing was read for `unread_s`, at most twice that, is cut: Tornado waits for ever.
    `on_late` is told of that, and of heads and bodies that did not come in time, with the setting it was.
    """

    first: Callable[[socket.socket, Any], object] | None = None
    unread_s = 30.0
    on_late: Callable[[str], None] = staticmethod(lambda setting: None)

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._unread: dict[Any, int] = {}  # connection → bytes that were taken at the last look
        self._cutting: PeriodicWork | None = None
        self._head_s: float | None = None  # of the connection that is being taken, if it is not the usual time
        self._heads_s: dict[Any, float] = {}  # the same of those that were taken in this turn, by their streams
        self._requests: dict[Any, _Request] = {}  # the last of each connection

    def add_sockets(self, sockets: Any) -> None:
        """Of Tornado 6.6: `_sockets` and `_handlers` are what `stop` takes back."""
        for each in sockets:
            self._sockets[each.fileno()] = each
            self._handlers[each.fileno()] = accept_few(each, self.first or self.take)
        if self._cutting is None:
            self._cutting = every(self.unread_s * 1000, self._cut_unread, "cutting who does not read")

    def stop(self) -> None:
        if self._cutting is not None:
            self._cutting.stop()
        super().stop()

    def _cut_unread(self) -> None:
        """Of Tornado 6.6: `_connections`, and how many bytes of a stream the kernel was given.

        Less those that still lie there, some megabytes, which a slow network takes its time for.
        """
        unread, self._unread = self._unread, {}
        for connection in tuple(self._connections):
            stream = connection.stream
            if stream.writing() and not stream.closed():
                taken = stream._total_write_done_index - unread_bytes(stream.socket)
                if unread.get(connection) == taken:
                    self.on_late("unread_timeout_s")
                    stream.close()
                else:
                    self._unread[connection] = taken

    def take(self, connection: socket.socket, address: Any, head_s: float | None = None) -> None:
        """Serve a connection as if it had just been accepted, but for the time that is left for its first head.

        On a unix socket other nodes of this machine are served, and they run as this process's user.
        """
        if refused_stranger(connection):
            return
        self._head_s = head_s
        self._handle_connection(connection, address)
        self._head_s = None

    def handle_stream(self, stream: Any, address: Any) -> None:
        if self._head_s is not None:
            self._heads_s[stream] = self._head_s
        super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: Any) -> HTTPMessageDelegate:
        """Of Tornado 6.6: called when a head begins to be waited for, with what its `params` say."""
        head_s = self._heads_s.pop(request_conn.stream, None)
        if head_s is not None:
            request_conn.params = copy(request_conn.params)
            request_conn.params.header_timeout = head_s
        first = server_conn not in self._requests
        inner = super().start_request(server_conn, request_conn)
        request = self._requests[server_conn] = _Request(inner, request_conn, first, self.on_late)
        return request

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        request = self._requests.pop(server_conn, None)
        if request is not None:
            request.ended()


class _Request(HTTPMessageDelegate):
    """Passes on what comes of a request, and counts the one that does not come in time.

    Of Tornado 6.6: `_body_timeout`, `_read_buffer_size`, `_disconnect_on_finish`.
    """

    def __init__(
        self, inner: HTTPMessageDelegate, connection: Any, first: bool, on_late: Callable[[str], None]
    ) -> None:
        self._inner = inner
        self._connection = connection
        self._stream = connection.stream
        self._first = first  # of its connection: before a later one it was kept open, which is nothing to count
        self._on_late = on_late
        self._awaits = "handshake_timeout_s"
        self._until_s = monotonic() + connection.params.header_timeout

    def headers_received(self, start_line: Any, headers: Any) -> Any:
        self._awaits = "body_timeout_s"
        self._until_s = monotonic() + (self._connection._body_timeout or inf)
        if start_line.version == "HTTP/1.0" and "Transfer-Encoding" in headers:
            # RFC 9112 6.1: a proxy of HTTP/1.0 may have taken the end of this body for elsewhere; nothing that follows
            # on the connection can be trusted. Tornado also reads from `Connection` what it answers.
            self._connection._disconnect_on_finish = True
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
        """Its connection has ended."""
        begun = self._awaits == "body_timeout_s" or self._first or self._stream._read_buffer_size
        if self._awaits and begun and monotonic() >= self._until_s:
            self._on_late(self._awaits)


class Times(NamedTuple):
    """How long a head may take, and a connection be kept open for nothing; a body; and an answer that nobody reads."""

    head_s: float
    body_s: float
    unread_s: float


def patient_server(
    application: Application, times: Times, on_late: Callable[[str], None] = lambda setting: None, **options: Any
) -> ClientHttpServer:
    server = ClientHttpServer(application, idle_connection_timeout=times.head_s, body_timeout=times.body_s, **options)
    server.unread_s, server.on_late = times.unread_s, on_late
    return server


def accept_few(listening: socket.socket, taken: Callable[[socket.socket, Any], object]) -> Callable[[], None]:
    """Call `taken` with each connection and its address; if it raises OSError, that is closed. Returns how to stop.

    When the process has as many files as it may, or the machine has no memory for another, nobody is taken for a
    while: those who wait stay in the kernel's queue, where they would have the loop turn for nothing otherwise.
    """
    return _Accepting(listening, taken).stop


class _Accepting:
    def __init__(self, listening: socket.socket, taken: Callable[[socket.socket, Any], object]) -> None:
        self._listening = listening
        self._taken = taken
        self._loop = IOLoop.current()
        self._pause: object | None = None
        self._quiet_until_s = 0.0
        self._loop.add_handler(listening, self._accept, IOLoop.READ)

    def stop(self) -> None:
        if self._pause is not None:
            self._loop.remove_timeout(self._pause)
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
                self._rest(why)
                return
            try:
                self._taken(connection, address)
            except OSError as why:  # of the connection itself, or of watching it: the next file too many
                connection.close()
                if why.errno in SHORT_OF:
                    self._rest(why)
                    return

    def _rest(self, why: OSError) -> None:
        if self._loop.time() >= self._quiet_until_s:
            log.error("no new connections for a while", extra={"why": why.strerror})
            self._quiet_until_s = self._loop.time() + SAID_S
        self._loop.remove_handler(self._listening)
        self._pause = self._loop.call_later(REST_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_handler(self._listening, self._accept, IOLoop.READ)

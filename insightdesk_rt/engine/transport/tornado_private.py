"""All private parts of Tornado that the client port uses, in one file: each function names those it uses.

All of it was read in Tornado 6.6.1. `setup.cfg` has an upper bound for the version, and the server refuses to start if
one of the names is missing (app/private_parts.py has the table). The files around this one use Tornado's public API.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import BaseIOStream, IOStream
from tornado.web import RequestHandler

# ── handlers and requests ───────────────────────────────────────────────────────────────────────────────────────────


class UnloggedHandler(RequestHandler):
    """A handler whose requests are not logged; the log of an exception has no query, since that holds session ids.

    Tornado 6.6: `_log` is called for each finished request, `_request_summary` describes it in error logs.
    """

    def _log(self) -> None:
        """Log nothing."""

    def _request_summary(self) -> str:
        return f"{self.request.method} {self.request.path}"


def answer_later(handler: RequestHandler) -> None:
    """Let a handler finish its answer after its method has returned.

    Tornado 6.6: `_auto_finish` is what its decorator `asynchronous` of before 6.0 set.
    """
    handler._auto_finish = False


def body_is_read(request: HTTPServerRequest) -> bool:
    """Return whether the whole body of a request has come (with `stream_request_body`).

    Tornado 6.6: `_body_future` is done then.
    """
    return request._body_future.done()


def last_write(request: HTTPServerRequest) -> asyncio.Future[None] | None:
    """Return the future of the last write of an answer.

    Tornado 6.6: the future that `finish` returns is also done when the connection was lost; `_pending_write`, which is
    the stream's, has the exception.
    """
    written: asyncio.Future[None] | None = request.connection._pending_write  # type: ignore[union-attr]
    return written


# ── connections ─────────────────────────────────────────────────────────────────────────────────────────────────────


def body_timeout_s(connection: Any) -> float | None:
    """Return the timeout of a request's body, or None. Tornado 6.6: HTTP1Connection._body_timeout."""
    timeout: float | None = connection._body_timeout
    return timeout


def close_after_answer(connection: Any) -> None:
    """Close the connection after this answer. Tornado 6.6: HTTP1Connection._disconnect_on_finish."""
    connection._disconnect_on_finish = True


def unread_input_bytes(stream: BaseIOStream) -> int:
    """Return how many bytes were received and not parsed yet. Tornado 6.6: `_read_buffer_size`."""
    size: int = stream._read_buffer_size
    return size


def written_bytes(stream: BaseIOStream) -> int:
    """Return how many bytes the kernel has taken in all. Tornado 6.6: `_total_write_done_index`."""
    count: int = stream._total_write_done_index
    return count


def release_socket(stream: IOStream) -> tuple[socket.socket, bytes]:
    """Return the socket of an open stream, and what the stream had read ahead. The stream closes, the socket does not.

    Tornado 6.6: `_state` is not None while the loop watches the socket, `_read_buffer` is a bytearray.
    """
    if stream._state is not None:
        stream.io_loop.remove_handler(stream.socket)
        stream._state = None
    leftover = bytes(stream._read_buffer)
    old = stream.socket
    sock = socket.socket(old.family, old.type, old.proto, fileno=old.detach())
    stream.close()  # its socket object has no file descriptor any more
    return sock, leftover


# ── the HTTP server ─────────────────────────────────────────────────────────────────────────────────────────────────


def add_listener(server: HTTPServer, listener: socket.socket, stop: Callable[[], None]) -> None:
    """Let `server.stop` end a listener. Tornado 6.6: TCPServer._sockets and _handlers are what it takes back."""
    server._sockets[listener.fileno()] = listener
    server._handlers[listener.fileno()] = stop


def serve_connection(server: HTTPServer, connection: socket.socket, address: Any) -> None:
    """Serve an accepted connection. Tornado 6.6: TCPServer._handle_connection makes its stream, with TLS or without."""
    server._handle_connection(connection, address)


def open_connections(server: HTTPServer) -> tuple[Any, ...]:
    """Return a server's open connections. Tornado 6.6: HTTPServer._connections."""
    return tuple(server._connections)

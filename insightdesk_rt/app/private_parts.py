"""The private parts of libraries that this server uses, in one table that is checked before the server starts.

Limits and delivery depend on them: for example a timeout is read from an attribute of Tornado's connection. A version
that renamed the attribute would cause no error; it would silently switch the limit off. So `setup.cfg` has upper bounds
for the versions, and the server refuses to start, with one line, when a part is missing. `read_in` is the version in
which the part was read. Tornado's parts are used in engine/transport/tornado_private.py only.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple


class Part(NamedTuple):
    """Private attributes and methods of a class.

    `parameters` are pairs of a public method and a parameter that is passed to it by name.
    """

    library: str
    read_in: str
    module: str
    owner: str
    names: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()


TORNADO, VALKEY = "6.6.1", "6.2.0"

PARTS = (
    Part("tornado", TORNADO, "tornado.tcpserver", "TCPServer", ("_handle_connection", "_handlers", "_sockets")),
    Part("tornado", TORNADO, "tornado.httpserver", "HTTPServer", ("_connections",)),
    Part(
        "tornado",
        TORNADO,
        "tornado.http1connection",
        "HTTP1Connection",
        ("_body_timeout", "_disconnect_on_finish", "_pending_write"),
    ),
    Part(
        "tornado",
        TORNADO,
        "tornado.iostream",
        "BaseIOStream",
        ("_read_buffer", "_read_buffer_size", "_state", "_total_write_done_index"),
    ),
    # _body_future is an attribute of the request, which RequestHandler's module sets
    Part(
        "tornado",
        TORNADO,
        "tornado.web",
        "RequestHandler",
        ("_auto_finish", "_body_future", "_log", "_request_summary"),
    ),
    Part(
        "valkey",
        VALKEY,
        "valkey.asyncio.connection",
        "Connection",
        (),
        (("send_packed_command", "check_health"), ("disconnect", "nowait")),
    ),
    Part("valkey", VALKEY, "valkey.asyncio.connection", "SSLConnection", ("ssl_context",)),
)


def lacking(parts: tuple[Part, ...] = PARTS) -> str:
    """Return a line that names the first missing part and the version to install, or "" if none is missing."""
    for part in parts:
        gone = next(_gone(part), "")
        if gone:
            version = metadata.version(part.library)
            return (
                f"{part.library} {version} has no {part.module}.{part.owner}.{gone}, which this server needs; "
                f"install {wanted(part.library)}"
            )
    return ""


def wanted(library: str) -> str:
    """Return the versions of a library that this server supports, as in setup.cfg: `tornado<6.7,>=6.6.1`."""
    lines = metadata.requires("insightdesk_rt") or []
    bare = (line.partition(";")[0].strip() for line in lines)
    return next((line for line in bare if line.startswith(library)), library)


def _gone(part: Part) -> Iterator[str]:
    """Yield the names of the missing attributes and parameters."""
    try:
        owner: Any = getattr(importlib.import_module(part.module), part.owner)
    except (ImportError, AttributeError):
        yield "…"
        return
    known = _names_of(owner)
    yield from (name for name in part.names if name not in known)
    for method, parameter in part.parameters:
        found = getattr(owner, method, None)
        if found is None or parameter not in inspect.signature(found).parameters:
            yield f"{method}({parameter})"


def _names_of(owner: type) -> set[str]:
    """Return the names that a class and its bases define, and those that their methods use on `self`."""
    names: set[str] = set()
    for each in owner.__mro__:
        names |= vars(each).keys()
        for method in vars(each).values():
            code = getattr(inspect.unwrap(method) if callable(method) else method, "__code__", None)
            names |= set(code.co_names) if code is not None else set()
    return names

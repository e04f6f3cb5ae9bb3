"""The private parts of libraries that this server relies on: one table, looked at before anything is started.

Limits and delivery hang on them: a timeout that is read from Tornado's own attribute, a frame that is written past its
queue. A version that renamed one would not fail, it would switch the limit off without a word. So `setup.cfg` has upper
bounds, and the start is refused with one line when a part is gone. Read in Tornado 6.6.1 and valkey-py 6.2.0.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple


class Part(NamedTuple):
    """Attributes and methods of a class; `parameters`: of its public methods, what is passed to them by name."""

    library: str
    module: str
    owner: str
    names: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()


PARTS = (
    Part("tornado", "tornado.tcpserver", "TCPServer", ("_handle_connection", "_handlers", "_sockets")),
    Part("tornado", "tornado.httpserver", "HTTPServer", ("_connections",)),
    Part(
        "tornado",
        "tornado.http1connection",
        "HTTP1Connection",
        ("_body_timeout", "_disconnect_on_finish", "_pending_write"),
    ),
    Part(
        "tornado",
        "tornado.iostream",
        "BaseIOStream",
        ("_read_buffer", "_read_buffer_size", "_state", "_total_write_done_index"),
    ),
    Part("tornado", "tornado.web", "RequestHandler", ("_auto_finish", "_body_future", "_log", "_request_summary")),
    Part(
        "valkey",
        "valkey.asyncio.connection",
        "Connection",
        (),
        (("send_packed_command", "check_health"), ("disconnect", "nowait")),
    ),
    Part("valkey", "valkey.asyncio.connection", "SSLConnection", ("ssl_context",)),
)


def lacking(parts: tuple[Part, ...] = PARTS) -> str:
    """Return a line that names the first part that is gone, and what to install; "" if all are there."""
    for part in parts:
        gone = next(_gone(part), "")
        if gone:
            version = metadata.version(part.library)
            return (
                f"{part.library} {version} has no {part.module}.{part.owner}.{gone}, on which this server relies; "
                f"install {wanted(part.library)}"
            )
    return ""


def wanted(library: str) -> str:
    """Return the versions of a library that this server is made for, as setup.cfg says: `tornado<6.7,>=6.6.1`."""
    lines = metadata.requires("insightdesk_rt") or []
    bare = (line.partition(";")[0].strip() for line in lines)
    return next((line for line in bare if line.startswith(library)), library)


def _gone(part: Part) -> Iterator[str]:
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
    """Return the names of a class and its bases: what it defines, and what its methods set or read on `self`."""
    names: set[str] = set()
    for each in owner.__mro__:
        names |= vars(each).keys()
        for method in vars(each).values():
            code = getattr(inspect.unwrap(method) if callable(method) else method, "__code__", None)
            names |= set(code.co_names) if code is not None else set()
    return names

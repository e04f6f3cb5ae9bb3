"""Parses Valkey URLs, for connections of valkey-py and for our own subscription connection."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple

from valkey.asyncio.connection import Connection, SSLConnection, parse_url


class Endpoint(NamedTuple):
    """Where a URL points: a unix socket's `path`, or host and port, with or without `tls`."""

    path: str
    host: str
    port: int
    username: str
    password: str
    tls: ssl.SSLContext | None


def endpoint(url: str) -> Endpoint:
    """Return what our own connection needs. Raises ValueError for a text that is not a Valkey URL."""
    kind, kwargs = parse(url)
    tls = kind(**kwargs).ssl_context.get() if issubclass(kind, SSLConnection) else None
    return Endpoint(
        kwargs.get("path", ""),
        kwargs.get("host", "localhost"),
        kwargs.get("port", 6379),
        kwargs.get("username") or "",
        kwargs.get("password") or "",
        tls,
    )


def parse(url: str) -> tuple[Any, dict[str, Any]]:
    """Return valkey-py's connection class and its arguments. Raises ValueError."""
    kwargs = parse_url(url)
    kind = kwargs.pop("connection_class", Connection)
    if issubclass(kind, SSLConnection):
        kwargs.setdefault("ssl_check_hostname", True)  # valkey-py's default is to check the chain only
    return kind, kwargs

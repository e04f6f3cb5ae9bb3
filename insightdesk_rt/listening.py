"""The sockets of the ports: bound before anything is started, so that a port that is taken costs nothing."""

from __future__ import annotations

import socket

from tornado.netutil import bind_sockets

BACKLOG = 1024  # connections the kernel holds for us: a storm of reconnects comes at once


class StartError(Exception):
    """Why the server did not start, in one line for the terminal."""


def bind(setting: str, address: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Return listening sockets, one per address of the name. Raises StartError naming the setting.

    `shared`: others of this user may bind the same port, and the kernel spreads connections over them.
    """
    try:
        return bind_sockets(port, address, backlog=BACKLOG, reuse_port=shared)
    except (OSError, OverflowError) as why:
        reason = getattr(why, "strerror", None) or str(why)
        raise StartError(f"{setting} = {port}: cannot listen on {address}: {reason}") from None


def bind_shared(setting: str, address: str, port: int, count: int) -> list[list[socket.socket]]:
    """Return `count` times the sockets of one port, which nobody else had. Raises StartError."""
    alone = bind(setting, address, port)  # two servers that share a port by mistake would be hard to find
    port = port_of(alone)
    close_all(alone)
    return [bind(setting, address, port, shared=True) for _ in range(count)]


def port_of(sockets: list[socket.socket]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port


def close_all(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()

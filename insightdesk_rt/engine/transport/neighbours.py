"""Unix sockets between the processes of one machine: checks of the other end's user, and an id of the machine.

Everybody can read the names of abstract sockets in /proc/net/unix, and a name is free again when its process dies. So
each end asks the kernel for the other's user (SO_PEERCRED, unix(7)) before it sends or reads a byte. The nodes of one
server run as one user, so a key or a client's connection never reaches another user's process.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path

from insightdesk_rt.engine.seldom import Seldom

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid

_seldom = Seldom(log)


class Stranger(OSError):
    """The process at the other end of a unix socket runs as another user."""


def is_ours(sock: socket.socket) -> bool:
    """Does the peer of a connected unix socket run as this process's user?

    The peer of a connecting socket is the process that called listen(); of an accepted one, the one that connected.
    """
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.geteuid())


def refused_stranger(sock: socket.socket) -> bool:
    """Close and log a connected unix socket of another user's process. Returns whether it was one."""
    if sock.family != socket.AF_UNIX or is_ours(sock):
        return False
    sock.close()
    say_refused("a process of another user connected to a socket of this node and was refused")
    return True


def say_refused(what: str) -> None:
    """Log a warning about another user's process, at most once a minute for each text, with a count."""
    _seldom.say(logging.WARNING, what, "")


@cache
def this_machine() -> str:
    """Return an id of this machine and its network namespace, within which abstract sockets are visible."""
    name = socket.gethostname()
    for file in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):  # systemd's ProcSubset=pid hides the first
        with suppress(OSError):
            name = Path(file).read_text(encoding="utf-8").strip()
            break
    with suppress(OSError):
        name += "/" + os.readlink("/proc/self/ns/net")
    return name

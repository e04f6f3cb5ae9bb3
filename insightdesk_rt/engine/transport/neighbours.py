"""Unix sockets between the processes of one machine: whose process is at the other end, and on which machine this is.

Names of abstract sockets stand in /proc/net/unix for everybody, and are free again when their process dies. So each end
asks the kernel for the other's user (SO_PEERCRED, unix(7)) before it sends or reads a byte: nodes of one server run as
one user, and a key or a client's connection goes to nobody else.
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

    For who connected, the peer is who called listen(); for who accepted, it is who called connect().
    """
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.geteuid())


def refused_stranger(sock: socket.socket) -> bool:
    """Return True if a connected socket is a unix socket of another user's process; it is closed and logged then."""
    if sock.family != socket.AF_UNIX or is_ours(sock):
        return False
    sock.close()
    say_refused("a process of another user connected to a socket of this node and was refused")
    return True


def say_refused(what: str) -> None:
    """Log a warning about somebody else on this machine, at most once a minute for each text, with how many."""
    _seldom.say(logging.WARNING, what, "")


@cache
def this_machine() -> str:
    """Return a name of the machine and of the network namespace: abstract sockets reach as far as that."""
    name = socket.gethostname()
    for file in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):  # systemd's ProcSubset=pid hides the first
        with suppress(OSError):
            name = Path(file).read_text(encoding="utf-8").strip()
            break
    with suppress(OSError):
        name += "/" + os.readlink("/proc/self/ns/net")
    return name

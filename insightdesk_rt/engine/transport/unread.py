"""How much of what the kernel was given its peer has not taken."""

from __future__ import annotations

import fcntl
import sys
import termios
from socket import socket


def unread_bytes(connection: socket) -> int:
    """Return the bytes that lie in the kernel, sent or not, and are not acknowledged (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

"""Bytes in the kernel's send buffer that the peer has not acknowledged."""

from __future__ import annotations

import fcntl
import sys
import termios
from socket import socket


def unread_bytes(connection: socket) -> int:
    """Return how many bytes the kernel holds, sent or not, that the peer has not acknowledged (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

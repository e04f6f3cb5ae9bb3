"""Websockets that reached another process of this machine than the one that has their session: passed as file
descriptors (unix(7), SCM_RIGHTS) in datagrams between abstract unix sockets, which leave nothing behind.

    {"key":"…","sid":"n1-2.…"}\\n and what was read ahead; with it the descriptor

The handshake is done by whoever was reached; from then on the socket is the owner's, and nothing is relayed. There is
no answer: an owner that does not want the socket closes it, which its client sees as a failed upgrade.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import socket
from collections.abc import Callable

import msgspec
from msgspec import Struct

from insightdesk_rt.wire import json

log = logging.getLogger(__name__)

MAX_MESSAGE = 131_072  # below what a datagram may have (net.core.wmem_default, 212,992)


class Head(Struct):
    key: str
    sid: str


_head = msgspec.json.Decoder(Head)


class Handover:
    """The taking end. `take(sid, socket, read_ahead)` becomes the socket's owner."""

    def __init__(self, name: str, key: str, take: Callable[[str, socket.socket, bytes], None]) -> None:
        self._key = key
        self._take = take
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._inbox.bind("\0" + name)
        self.taken = self.refused = 0

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._inbox.fileno(), self._readable)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._inbox.fileno())
        self._inbox.close()

    def _readable(self) -> None:
        try:
            message, descriptors, flags, _ = socket.recv_fds(self._inbox, MAX_MESSAGE, 4)
        except (BlockingIOError, InterruptedError):
            return
        head = self._head(message.partition(b"\n")[0])
        if head is None or len(descriptors) != 1 or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            self.refused += 1
            for descriptor in descriptors:
                os.close(descriptor)
            log.warning("a socket was handed over by somebody who is no node, or not whole")
            return
        self.taken += 1
        self._take(head.sid, socket.socket(fileno=descriptors[0]), message.partition(b"\n")[2])

    def _head(self, text: bytes) -> Head | None:
        try:
            head = json.decode(_head, text)
        except json.BadJson:
            return None
        return head if hmac.compare_digest(head.key.encode(), self._key.encode()) else None


def hand_over(name: str, key: str, sid: str, sock: socket.socket, read_ahead: bytes) -> bool:
    """Pass a socket to the process that listens under `name`, and close it here. False: it could not be passed."""
    message = json.encode_struct(Head(key, sid)).encode() + b"\n" + read_ahead
    with sock, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as outbox:
        if len(message) > MAX_MESSAGE:
            return False
        try:
            outbox.connect("\0" + name)
            socket.send_fds(outbox, [message], [sock.fileno()])
        except OSError:  # nobody of that name here (any more), or it does not keep up
            return False
    return True


def is_here(name: str) -> bool:
    """Does a process of this machine listen under this name?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect("\0" + name)
        except OSError:
            return False
    return True

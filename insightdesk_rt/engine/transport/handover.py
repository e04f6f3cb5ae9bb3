"""Handover: passes a websocket to the process of this machine that has its session, when another one accepted it.

The socket is passed as a file descriptor (unix(7), SCM_RIGHTS) over abstract unix sockets, which preserve message
boundaries (SOCK_SEQPACKET) and leave no files behind. One connection carries one message:

    {"key":"…","sid":"n1-2.…"}\\n and the bytes that were read ahead; with it the descriptor

Each end asks the kernel for the other's user before it sends or reads (neighbours.py); with datagrams the receiver
could not do that. The node that accepted the websocket completes the handshake. From then on the session's owner has
the socket, and nothing is relayed. There is no reply: an owner that refuses the socket closes it, which its client sees
as a failed upgrade.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from collections.abc import Callable

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.transport.neighbours import is_ours, refused_stranger, say_refused
from insightdesk_rt.engine.wire import json

MAX_MESSAGE = 131_072  # bytes; below the system's limit (net.core.wmem_default, 212,992)
BACKLOG = 256
MESSAGE_S = 5.0  # a sender connects and sends in one go
PAUSE_S = 1.0  # when no file descriptor is left: each accept would fail at once and be logged


class HandedHead(Struct):
    key: str
    sid: str


_head = msgspec.json.Decoder(HandedHead)


class Handover:
    """The receiving end. `take(sid, socket, read_ahead)` becomes the owner of the socket."""

    def __init__(self, name: str, key: str, take: Callable[[str, socket.socket, bytes], None]) -> None:
        self._key = key
        self._take = take
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listening.bind("\0" + name)
        self._listening.listen(BACKLOG)
        self._senders: dict[socket.socket, asyncio.TimerHandle] = {}  # connected, and nothing received yet
        self._pause: asyncio.TimerHandle | None = None
        self.taken = self.refused = 0

    def start(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._listening.fileno())
        self._listening.close()
        for sender in tuple(self._senders):
            self._forget(sender)

    def _accept(self) -> None:
        try:
            sender, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # accept(2): no file descriptors left; waiting senders are accepted after the pause
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listening.fileno())
            self._pause = loop.call_later(PAUSE_S, self.start)
            return
        if refused_stranger(sender):
            self.refused += 1
            return
        sender.setblocking(False)
        loop = asyncio.get_running_loop()
        self._senders[sender] = loop.call_later(MESSAGE_S, self._forget, sender)
        loop.add_reader(sender.fileno(), self._receive, sender)

    def _forget(self, sender: socket.socket) -> None:
        self._senders.pop(sender).cancel()
        asyncio.get_running_loop().remove_reader(sender.fileno())
        sender.close()

    def _receive(self, sender: socket.socket) -> None:
        try:
            message, descriptors, flags, _ = socket.recv_fds(sender, MAX_MESSAGE, 4)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            message, descriptors, flags = b"", [], 0
        self._forget(sender)
        if not message and not descriptors:
            return  # a node that only checked whether this one is here
        head = self._head(message.partition(b"\n")[0])
        if head is None or len(descriptors) != 1 or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            self.refused += 1
            for descriptor in descriptors:
                os.close(descriptor)
            say_refused("a handed-over socket was refused: its message lacked this node's key or was incomplete")
            return
        self.taken += 1
        self._take(head.sid, socket.socket(fileno=descriptors[0]), message.partition(b"\n")[2])

    def _head(self, text: bytes) -> HandedHead | None:
        try:
            head = json.decode(_head, text)
        except json.BadJson:
            return None
        return head if hmac.compare_digest(head.key.encode(), self._key.encode()) else None


def hand_over(name: str, key: str, sid: str, sock: socket.socket, read_ahead: bytes) -> bool:
    """Pass a socket to the process that listens under `name`, and close it here. Returns whether it was passed."""
    message = json.encode_struct(HandedHead(key, sid)).encode() + b"\n" + read_ahead
    with sock, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as outbox:
        if len(message) > MAX_MESSAGE:
            return False
        try:
            outbox.connect("\0" + name)
            if not is_ours(outbox):
                say_refused("a process of another user listens under the name of a node; nothing was sent to it")
                return False
            socket.send_fds(outbox, [message], [sock.fileno()])
        except OSError:  # no process listens under that name (any more), or it is too slow
            return False
    return True


def is_here(name: str) -> bool:
    """Does a process of this user on this machine listen under this name?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect("\0" + name)
        except OSError:
            return False
        return is_ours(probe)

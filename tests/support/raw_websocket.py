"""A websocket client on a plain blocking socket, which can say how many writes of the server it received."""

from __future__ import annotations

import base64
import os
import socket
import struct
import time
from collections.abc import Callable

DATA_SEGS_IN = 152  # in Linux's struct tcp_info: tcpi_data_segs_in


class RawWebSocket:
    """Connects to a path of 127.0.0.1. `texts` are all text messages so far."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._buffer = b""
        self.texts: list[str] = []
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._socket.recv(4096)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert b" 101 " in head, head

    def close(self) -> None:
        self._socket.close()

    def send(self, text: str) -> None:
        data = text.encode()
        length = struct.pack("!B", 0x80 | len(data)) if len(data) < 126 else struct.pack("!BH", 0x80 | 126, len(data))
        self._socket.sendall(b"\x81" + length + b"\0\0\0\0" + data)  # a mask of zeros changes nothing

    def writes(self) -> int:
        """Return how many segments with data the kernel has received: on loopback one for each write up to 64 KB."""
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        return int(struct.unpack_from("=I", info, DATA_SEGS_IN)[0])

    def read_until(self, done: Callable[[list[str]], object], within_s: float = 10.0) -> None:
        """Read messages until `done(texts)`."""
        end = time.monotonic() + within_s
        while True:
            while (frame := self._frame()) is not None:
                self.texts.append(frame)
            if done(self.texts):
                return
            assert time.monotonic() < end, self.texts
            self._socket.settimeout(max(end - time.monotonic(), 0.01))
            self._buffer += self._socket.recv(65536)

    def _frame(self) -> str | None:
        data = self._buffer
        if len(data) < 2:
            return None
        length, at = data[1] & 127, 2
        if length == 126:
            if len(data) < 4:
                return None
            length, at = struct.unpack_from("!H", data, 2)[0], 4
        assert data[1] & 127 < 127, "longer than any message of these tests"
        if len(data) < at + length:
            return None
        self._buffer = data[at + length :]
        return data[at : at + length].decode()

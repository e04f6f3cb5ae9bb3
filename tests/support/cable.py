"""A cable that can be pulled: a TCP relay between one client and the server.

`cut` resets what runs through it, on both sides, without a goodbye of any protocol: what a crash or a lost network
does; until `mend` nothing gets through. Not handled: flow control; what the slower side has not read is kept.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

# A long-polling client between two polls has no connection whose end the server could see. One that was silent for so
# long is the parked poll (or a websocket).
PARKED_S = 0.05


class Cable:
    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._down = False

    async def lay(self) -> int:
        """Return the port to connect to instead of the server's."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._answer, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def cut(self, deadline_s: float = 5.0) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while not any(e.heard_at_s < loop.time() - PARKED_S for e in self._ends):
            assert loop.time() < end, "nothing is parked on this cable"
            await asyncio.sleep(0.01)
        self._down = True
        self._reset()

    def mend(self) -> None:
        self._down = False

    async def remove(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def _answer(self) -> _Near:
        return _Near(self._ends, None if self._down else self._to)

    def _reset(self) -> None:
        for end in tuple(self._ends):
            end.reset()


class _End(asyncio.Protocol):
    """One side of one connection: what it hears the other side says."""

    def __init__(self, ends: set[_End]) -> None:
        self._ends = ends
        self._early: list[bytes] = []  # heard before the other side was there
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self.heard_at_s = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at_s = asyncio.get_running_loop().time()
        if self.other is not None:
            self.other.heard_at_s = self.heard_at_s
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        return False  # one side has said all: close both

    def connection_lost(self, error: Exception | None) -> None:
        self._ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def meet(self, other: _End) -> None:
        self.other, other.other = other, self
        for data in self._early:
            assert other.transport is not None
            other.transport.write(data)
        self._early.clear()

    def reset(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            # linger 0: close sends RST, and what was buffered is gone
            ends = self.transport.get_extra_info("socket")
            ends.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Near(_End):
    """The client's side: it calls the server when the client calls."""

    def __init__(self, ends: set[_End], to: tuple[str, int] | None) -> None:
        super().__init__(ends)
        self._to = to
        self._calling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._to is None:
            self.reset()
            return
        self._calling = asyncio.get_running_loop().create_task(self._call())

    async def _call(self) -> None:
        assert self._to is not None
        try:
            _, far = await asyncio.get_running_loop().create_connection(lambda: _End(self._ends), *self._to)
        except OSError:
            self.reset()
            return
        self.meet(far)
        if self.transport is None or self.transport.is_closing():
            far.reset()

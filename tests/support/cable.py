"""A cable that can be pulled: a TCP relay between one client and the server.

`cut` resets what runs through it, on both sides, without a goodbye of any protocol: what a crash or a lost network
does; until `mend` nothing gets through. `hush` lets it hang instead: nothing comes through and nobody is told, as with
a firewall that drops; what was under way comes with `mend`. Not handled: flow control; what the slower side has not
read is kept. `rations` lets only so many bytes of the server's through per connection, and then cuts it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from typing import cast

# A long-polling client between two polls has no connection whose end the server could see. A GET that was not answered
# for so long is parked.
PARKED_S = 0.05


class Cable:
    def __init__(self, host: str, port: int) -> None:
        self.route: Callable[[], tuple[str, int]] = lambda: (host, port)  # where the next connection goes
        self.rations: Iterator[int] | None = None  # of each next connection: bytes that come through from the server
        self.renamed: tuple[bytes, bytes] | None = None  # a text in the server's answers, and another of its length
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._down = False
        self.bad_gateway = False  # for the next GET
        self._open = asyncio.Event()
        self._open.set()

    async def lay(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Return the port to connect to instead of the server's; 0: any."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), host, port)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def cut(self, deadline_s: float = 15.0) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while not any(e.holds and e.heard_at_s < loop.time() - PARKED_S for e in self._ends):
            assert loop.time() < end, "nothing is parked on this cable"
            await asyncio.sleep(0.01)
        self._down = True
        self.reset()

    def reset(self) -> None:
        """Cut what runs through it now; the next connection gets through, unless the cable is cut."""
        for end in tuple(self._ends):
            end.reset()

    def forsake(self) -> None:
        """Cut the clients off; the server is not told, and keeps its ends."""
        for end in tuple(self._ends):
            if isinstance(end, _Near):
                end.forsake()

    def answer_502(self) -> None:
        """Answer the next GET with 502 and do not pass it on, as a proxy does that reloads or limits requests."""
        self.bad_gateway = True

    def hush(self, which: str = "all") -> None:
        """Let everything hang, new connections too; or only those that have subscribed by now ("subscriptions")."""
        for end in self._ends:
            end.hushed = which == "all" or end.subscribes
        if which == "all":
            self._open.clear()

    def mend(self) -> None:
        self._down = False
        self._open.set()
        for end in tuple(self._ends):
            end.hushed = False
            end.forward()

    async def remove(self) -> None:
        if self._server is not None:
            self._server.close()
        self._open.set()
        self.reset()
        await asyncio.sleep(0)  # transports close in the loop's next turn

    # ── what the ends ask ──────────────────────────────────────────────────────────────────────────────────────────

    def add(self, end: _End) -> None:
        self._ends.add(end)

    def discard(self, end: _End) -> None:
        self._ends.discard(end)

    async def way(self) -> tuple[str, int] | None:
        """Return where a new connection goes, once it may; None: nowhere."""
        await self._open.wait()
        return None if self._down else self.route()


class Renamer:
    """Replaces a text in a stream by another of the same length, also where the text comes in two pieces."""

    def __init__(self, old: bytes, new: bytes) -> None:
        assert len(old) == len(new)
        self._old, self._new = old, new
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        data = (self._rest + data).replace(self._old, self._new)
        begun = next((n for n in range(len(self._old) - 1, 0, -1) if data.endswith(self._old[:n])), 0)
        self._rest = data[len(data) - begun :]
        return data[: len(data) - begun]


class _End(asyncio.Protocol):
    """One side of one connection: what it hears the other side says."""

    def __init__(self, cable: Cable) -> None:
        self._cable = cable
        self._held: list[bytes] = []  # heard before the other side was there, or while the cable is hushed
        self._over = False
        self.subscribes = self.hushed = False
        self.holds = False  # would the server see its end? A websocket's, or an open poll's
        self.left: int | None = None  # how many more bytes of it come through; None: all
        self.rename: Renamer | None = None
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self.heard_at_s = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._cable.add(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at_s = asyncio.get_running_loop().time()
        if self.other is not None:
            self.other.heard_at_s = self.heard_at_s
            if data.startswith(b"HTTP/1.1 200 "):  # a poll's answer; a websocket's is 101
                self.other.holds = False
        self._held.append(self.rename(data) if self.rename is not None else data)
        self.forward()

    def eof_received(self) -> bool:
        return False  # one side has said all: close both

    def connection_lost(self, error: Exception | None) -> None:
        self._over = True
        self.forward()
        if self.other is None:
            self._cable.discard(self)

    def forward(self) -> None:
        """Say to the other side what was heard, and the end, if the cable lets it."""
        if self.other is None or self.other.transport is None or self.hushed:
            return
        for data in self._held:
            if self.left is not None:
                data, self.left = data[: self.left], self.left - len(data)
            if not self.other.transport.is_closing():
                self.other.transport.write(data)
            if self.left is not None and self.left <= 0:
                self._held.clear()
                if self.transport is not None:
                    self.transport.abort()
                self.other.transport.close()  # what came through until now arrives
                return
        self._held.clear()
        if self._over:
            self._cable.discard(self)
            self.other.transport.close()

    def meet(self, other: _End) -> None:
        self.other, other.other = other, self
        self.forward()

    def reset(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            # linger 0: close sends RST, and what was buffered is gone
            ends = self.transport.get_extra_info("socket")
            ends.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Near(_End):
    """The client's side: it calls the server when the client calls."""

    def __init__(self, cable: Cable) -> None:
        super().__init__(cable)
        self._calling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._calling = asyncio.get_running_loop().create_task(self._call())

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET ") and self._cable.bad_gateway and self.transport is not None:
            self._cable.bad_gateway = False
            self.transport.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()
            return
        if data.startswith(b"GET "):
            self.holds = True
        if b"SUBSCRIBE" in data:
            self.subscribes = True
            if self.other is not None:
                self.other.subscribes = True
        super().data_received(data)

    def forsake(self) -> None:
        if self.other is not None:
            self.other.other = None
            self.other = None
        self.reset()

    async def _call(self) -> None:
        try:
            to = await self._cable.way()
            if to is None:
                self.reset()
                return
            _, far = await asyncio.get_running_loop().create_connection(lambda: _End(self._cable), *to)
        except OSError:
            self.reset()
            return
        if self._cable.rations is not None:
            far.left = next(self._cable.rations, None)
        if self._cable.renamed is not None:
            far.rename = Renamer(*self._cable.renamed)
        self.meet(far)
        if self.transport is None or self.transport.is_closing():
            far.reset()

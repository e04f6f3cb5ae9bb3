"""Peers that send small frames as fast as they can do not block other clients."""

from __future__ import annotations

import secrets
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.hostile.kit import SOCKET, Caller, Target
from tests.hostile.test_frames import text
from tests.support.aio import aio, until
from tests.support.door import RawSocket, frame
from tests.support.server import ServerProcess

FLOODERS = 8
ANSWERS = 5


class Flood:
    """Writes as much as possible to sockets, in its own thread. `sent` is in bytes."""

    def __init__(self, sockets: list[RawSocket], data: bytes) -> None:
        self._data = data
        self._over = False
        self._sockets = [each.http.writer.get_extra_info("socket").dup() for each in sockets]
        self._thread = threading.Thread(target=self._run)
        self._offsets = dict.fromkeys(self._sockets, 0)
        self.sent = 0

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over = True
        self._thread.join()
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in self._sockets:
                selector.register(each, selectors.EVENT_WRITE)
            while not self._over:
                for key, _ in selector.select(0.1):
                    self._write(key.fileobj)  # type: ignore[arg-type]

    def _write(self, to: socket.socket) -> None:
        sent = to.send(memoryview(self._data)[self._offsets[to] :])
        self._offsets[to] = (self._offsets[to] + sent) % len(self._data)
        self.sent += sent


@contextmanager
def flooding(sockets: list[RawSocket], data: bytes) -> Iterator[Flood]:
    flood = Flood(sockets, data)
    flood.start()
    try:
        yield flood
    finally:
        flood.end()


@pytest.mark.parametrize(("path", "one"), [(SOCKET, text("3")), (SOCKET, frame(10)), ("/rt/tickets", frame(10))])
@aio
async def test_floods_of_small_frames_do_not_block_other_clients(server: ServerProcess, path: str, one: bytes) -> None:
    """New clients can connect during the flood, over every path. A server that handled sockets in the kernel's order
    would serve the flood's first sockets for ever."""
    target = Target(server.port)
    flooders = [await target.socket(path) for _ in range(FLOODERS)]
    with flooding(flooders, one * 20_000) as flood:
        await until(lambda: flood.sent > FLOODERS * 500_000, "the kernel's buffers are full")
        neighbour = await Caller.to(target, server.token(f"nell-{secrets.token_hex(3)}", "agent"), "/tickets")
        session = await target.session()
        before = flood.sent
        for _ in range(ANSWERS):
            answer = await neighbour.call("/tickets", "nothing:such", {})
            assert answer["error"]["code"] == "UNKNOWN_EVENT"
            posted = await (await target.http()).ask("POST", session, b"3")
            assert (posted.status, posted.body) == (200, "ok")
        await until(lambda: flood.sent > before + 1_000_000, "the flooding clients are still read as well")
    assert neighbour.code is None
    await neighbour.close()
    await target.close()

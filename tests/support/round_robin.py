"""Balancers that know nothing of sessions: one by turns, and one that sends websockets elsewhere than the rest."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial

from tests.support.cable import Cable


class RoundRobin(Cable):
    """Each connection goes to the next node, whatever was said on the one before."""

    def __init__(self, targets: Sequence[tuple[str, int]]) -> None:
        super().__init__(*targets[0])
        self.route = partial(next, itertools.cycle(targets))


class Sorter:
    """Connections that begin with a websocket's handshake go to one node, all others to another."""

    def __init__(self, websockets: tuple[str, int], others: tuple[str, int]) -> None:
        self._websockets = websockets
        self._others = others
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()

    async def lay(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def remove(self) -> None:
        assert self._server is not None
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = self._websockets if b"upgrade: websocket" in head.lower() else self._others
            far_reader, far_writer = await asyncio.open_connection(*target)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        far_writer.write(head)
        for pipe in (_pipe(reader, far_writer), _pipe(far_reader, writer)):
            task = asyncio.create_task(pipe)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

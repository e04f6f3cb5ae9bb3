"""A client whose message does not arrive completely within the timeout is closed, even if it keeps sending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import count, repeat
from typing import Any

import pytest

from insightdesk_rt.engine.errors import CloseReason
from tests.support.aio import aio, until
from tests.support.door import Door, RawSocket, door, frame

SOCKET, NATIVE = "/socket.io/?EIO=4&transport=websocket", "/rt/tickets"
LIMIT_MS = 600
TIMES: dict[str, Any] = {"message_timeout_ms": LIMIT_MS, "ping_interval_ms": 200, "ping_timeout_ms": 200}
WHOLE = frame(1, b"x" * 300)
STARTS = {
    "a fragment": frame(1, b"4", fin=False),
    "a slow frame": WHOLE[:200],
    "missing attachments": frame(1, b'451-/tickets,["x",{"_placeholder":true,"num":0}]'),
}


async def joined(d: Door, target: str) -> RawSocket:
    socket = await RawSocket.to(d, target)
    socket.say("40/tickets," if target == SOCKET else '{"event":"connect"}')
    await until(lambda: len(d.recorder.clients) == 1, "it has joined")
    return socket


async def lives(d: Door, socket: RawSocket, alive: Iterator[bytes]) -> float:
    """Keep the client alive until it is closed. Return how long that took."""
    began = time.monotonic()
    while not d.recorder.ends and time.monotonic() < began + 5:
        socket.send(next(alive))
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize(("target", "start"), [(SOCKET, one) for one in STARTS] + [(NATIVE, "a fragment")])
@aio
async def test_a_client_that_does_not_finish_a_message_is_closed_and_counted(target: str, start: str) -> None:
    async with door(**TIMES) as d:
        socket = await joined(d, target)
        socket.send(STARTS[start])
        alive = {
            "a fragment": repeat(frame(0, b"x", fin=False)),
            "a slow frame": (WHOLE[n : n + 1] for n in count(200)),
        }
        took_s = await lives(d, socket, alive.get(start, repeat(frame(10))))
        assert LIMIT_MS / 1000 <= took_s < 3 * LIMIT_MS / 1000
        assert d.registry.over_limit == {"message_timeout_s": 1}
        assert d.recorder.ends == [CloseReason.PARSE_ERROR]
        assert await socket.closed() == (1008 if target == NATIVE else 1005)


@aio
async def test_a_client_that_finishes_messages_in_time_or_has_no_limit_stays_connected() -> None:
    async with door(**TIMES) as d:
        socket = await joined(d, SOCKET)
        for _ in range(15):  # one after the other, so that there is an unfinished one at every check
            socket.send(frame(1, b"42/tic", fin=False))
            await asyncio.sleep(0.05)
            socket.send(frame(0, b'kets,["x"]', fin=False) + frame(0, b"") + frame(1, b"3"))
        await until(lambda: len(d.recorder.calls) == 15, "all messages arrived completely")
        await socket.close()
    async with door(**TIMES | {"message_timeout_ms": 0}) as d:
        socket = await joined(d, SOCKET)
        socket.send(STARTS["a fragment"])
        for _ in range(30):
            socket.send(frame(0, b"x", fin=False))
            await asyncio.sleep(0.05)
        assert not d.recorder.ends
        await socket.close()

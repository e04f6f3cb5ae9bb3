"""A request head has one deadline on every path. A slower connection is cut off, and counted if its head had begun."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.aio import aio, until
from tests.support.certificates import contexts
from tests.support.door import Http, door

HEAD_S = 0.6
POLL = "/socket.io/?EIO=4&transport=polling"


async def cut_after_s(http: Http, *pieces: tuple[float, bytes]) -> float:
    began = time.monotonic()
    for after_s, piece in pieces:
        await asyncio.sleep(after_s)
        http.writer.write(piece)
    assert await http.eof()
    return time.monotonic() - began


@aio
async def test_a_head_that_starts_late_gets_only_the_remaining_time() -> None:
    async with door(head_ms=int(HEAD_S * 1000)) as d:
        took_s = await cut_after_s(await Http.to(d), (HEAD_S * 0.9, b"GET / HTTP/1.1\r\nHost: x\r\nX: "))
        assert took_s < 1.6 * HEAD_S  # twice that time, if Tornado started its own timer
        await until(lambda: d.registry.over_limit == {"handshake_timeout_s": 1}, "it is counted")


@pytest.mark.parametrize("way", ["plain", "deflate", "tls"])
@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
@aio
async def test_connections_without_a_complete_head_are_counted(start: bytes, way: str) -> None:
    server, client = contexts() if way == "tls" else (None, None)
    how: dict[str, Any] = {"ssl": client} if client else {}
    async with door(head_ms=300, tls=server, websocket_deflate=way == "deflate") as d:
        await cut_after_s(await Http.to(d, **how), (0, start))
        await until(lambda: d.registry.over_limit == {"handshake_timeout_s": 1}, "it is counted")


@pytest.mark.parametrize("target", [POLL, "/nowhere"])
@aio
async def test_an_idle_kept_connection_is_not_counted_but_half_a_second_head_is(target: str) -> None:
    async with door(head_ms=300) as d:
        kept, half = await Http.to(d), await Http.to(d)
        for http in (kept, half):
            assert (await http.ask("GET", target)).status in (200, 404)
        half.writer.write(b"GET / HTTP")
        assert await kept.eof() and await half.eof()
        await until(lambda: d.registry.over_limit == {"handshake_timeout_s": 1}, "one connection is counted")

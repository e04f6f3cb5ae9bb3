"""Before a client has joined a namespace, its messages must be short: a CONNECT holds only one token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from insightdesk_rt.engine.errors import CloseReason
from tests.support.aio import aio, until
from tests.support.certificates import contexts
from tests.support.door import Door, Http, RawSocket, door, frame

SOCKET, POLL = "/socket.io/?EIO=4&transport=websocket", "/socket.io/?EIO=4&transport=polling"
MOST = 16_384
TOKEN = "t" * 16_300  # with the text around it, just short enough
EVENT = "x" * 50_000


def connect(target: str, token: str) -> str:
    if target == SOCKET:
        return f'40/tickets,{{"token":"{token}"}}'
    return f'{{"event":"connect","data":{{"token":"{token}"}}}}'


def event(target: str) -> str:
    return f'42/tickets,["x","{EVENT}"]' if target == SOCKET else f'{{"event":"x","data":"{EVENT}"}}'


async def counted(d: Door, times: int) -> None:
    await until(lambda: d.registry.over_limit["max_connect_bytes"] == times, f"it is counted: {d.registry.over_limit}")


async def joined(target: str, d: Door, **how: Any) -> RawSocket:
    socket, before = await RawSocket.to(d, target, **how), len(d.recorder.clients)
    socket.say(connect(target, TOKEN))
    await until(lambda: len(d.recorder.clients) > before, "it has joined")
    return socket


@pytest.mark.parametrize("target", [SOCKET, "/rt/tickets"])
@pytest.mark.parametrize("way", ["plain", "tls", "deflate"])
@aio
async def test_messages_before_joining_must_be_short_and_later_ones_may_be_long(target: str, way: str) -> None:
    server, client = contexts() if way == "tls" else (None, None)
    how: dict[str, Any] = {"ssl": client} if client else {}
    if way == "deflate":
        how["headers"] = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    async with door(tls=server, websocket_deflate=way == "deflate") as d:
        socket = await joined(target, d, **how)
        socket.say(event(target))
        await until(lambda: len(d.recorder.calls) == 1, "a long event after joining")
        await socket.close()
        early = await RawSocket.to(d, target, **how)
        early.say(connect(target, "t" * MOST))
        assert await early.closed() == 1009
        await counted(d, 1)
        assert d.recorder.ends[-1] is CloseReason.TOO_BIG


@pytest.mark.parametrize("target", [SOCKET, "/rt/tickets"])
@aio
async def test_a_long_message_before_joining_is_refused_by_its_header(target: str) -> None:
    """Nothing of it is kept in memory, in one frame or in many."""
    async with door() as d:
        for data in (frame(1, b"x" * 900_000)[:14], frame(1, b"x" * 9_000, fin=False) + frame(0, b"x" * 9_000)[:8]):
            socket = await RawSocket.to(d, target)
            socket.send(data)
            assert await socket.closed() == 1009
        await counted(d, 2)


@aio
async def test_a_second_connect_must_be_short_too() -> None:
    async with door() as d:
        socket = await joined(SOCKET, d)
        socket.say(f'40/chat,{{"token":"{"t" * MOST}"}}')
        assert await socket.closed() == 1009
        await counted(d, 1)


@pytest.mark.parametrize("chunked", [False, True])
@aio
async def test_a_post_before_joining_may_hold_some_connects_and_later_any_packet(chunked: bool) -> None:
    async with door() as d:
        http = await Http.to(d)
        session = f"{POLL}&sid={json.loads((await http.ask('GET', POLL)).body[1:])['sid']}"

        async def post(body: str) -> int:
            if not chunked:
                return (await http.ask("POST", session, body.encode())).status
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body.encode())
            http.send("POST", session, data, {"Transfer-Encoding": "chunked"})
            return (await http.receive()).status

        assert await post("4" + "x" * 170_000) == 413
        await counted(d, 1)
        assert (
            await post("\x1e".join([connect(SOCKET, TOKEN), connect(SOCKET, TOKEN).replace("tickets", "chat")])) == 200
        )
        assert len(d.recorder.clients) == 2
        assert await post(event(SOCKET) + "\x1e" + "\x1e".join([event(SOCKET)] * 5)) == 200
        assert len(d.recorder.calls) == 6
        await http.close()


@aio
async def test_a_connect_by_post_has_the_same_limit() -> None:
    async with door() as d:
        http = await Http.to(d)
        session = f"{POLL}&sid={json.loads((await http.ask('GET', POLL)).body[1:])['sid']}"
        await http.ask("POST", session, connect(SOCKET, "t" * MOST).encode())
        await counted(d, 1)
        assert d.recorder.ends == [CloseReason.TOO_BIG]
        await http.close()

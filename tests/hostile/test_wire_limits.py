"""Limits of one message: a low limit closes the client that exceeds it and is counted; 0 accepts the same message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.hostile.kit import SOCKET, Target
from tests.hostile.test_frames import joined, text
from tests.hostile.test_limits import running
from tests.support.aio import aio, until
from tests.support.door import RawSocket, frame
from tests.support.scrape import scrape
from tests.support.server import ServerProcess

DEEP = "[" * 20 + "]" * 20


class Case(NamedTuple):
    low: int
    data: bytes  # the input that exceeds the limit
    code: int  # code of the close frame
    native: tuple[bytes, int] | None = None  # close code on /rt


def in_bytes(packet: str) -> bytes:
    """Return a message of one frame per byte."""
    first, *rest = (bytes([byte]) for byte in packet.encode())
    return frame(1, first, fin=False) + b"".join(frame(0, one, fin=False) for one in rest[:-1]) + frame(0, rest[-1])


def event(name: str, data: str = "{}") -> str:
    return f'{{"event":{json.dumps(name)},"data":{data}}}'


CASES = {
    "max_payload_bytes": Case(
        2048, text(f'42/tickets,["x","{"y" * 3000}"]'), 1009, (text(event("x", f'"{"y" * 3000}"')), 1009)
    ),
    "max_fragments_per_message": Case(8, in_bytes('42/tickets,["x"]'), 1009, (in_bytes(event("x")), 1009)),
    "max_attachments_per_packet": Case(
        2,
        text('453-/tickets,["x",' + ",".join(f'{{"_placeholder":true,"num":{n}}}' for n in range(3)) + "]")
        + frame(2, b"x") * 3,
        1005,
    ),
    "max_json_depth": Case(8, text(f'40/chat,{{"token":"none","more":{DEEP}}}'), 1005),
    "max_event_name_chars": Case(20, text(f'42/tickets,["{"n" * 30}"]'), 1005, (text(event("n" * 30)), 1002)),
    "max_namespace_chars": Case(20, text(f"40/{'n' * 30},"), 1005),
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    low = {name: case.low for name, case in CASES.items()} | {
        "handshake_timeout_s": 1,
        "upgrade_timeout_s": 1,
        "unread_timeout_s": 1,
    }
    with running(tmp_path_factory.mktemp("strict"), **low) as server:
        yield server


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    off = dict.fromkeys(
        [*CASES, "handshake_timeout_s", "connect_timeout_s", "upgrade_timeout_s", "unread_timeout_s"], 0
    )
    off |= dict.fromkeys(
        [
            *("max_connect_bytes", "max_event_bytes", "max_outbox_bytes", "max_outbox_events"),
            *("volatile_outbox_bytes", "max_unfinished_bytes", "max_unfinished_bytes_per_user"),
        ],
        0,
    )
    with running(tmp_path_factory.mktemp("easy"), **off) as server:
        yield server


async def on_rt(server: ServerProcess) -> RawSocket:
    socket = await Target(server.port).socket("/rt/tickets")
    socket.say(event("connect", json.dumps({"token": server.token("mallory", "customer")})))
    assert '"sid"' in await socket.text()
    return socket


async def goes_on(socket: RawSocket, call: str, answer: str) -> None:
    socket.say(call)
    while not (await socket.text()).startswith(answer):
        pass


async def counted(server: ServerProcess, setting: str) -> float:
    return (await scrape(server)).of("over_limit_total", setting=setting)


@pytest.mark.parametrize("name", CASES)
@aio
async def test_a_client_that_exceeds_a_message_limit_is_closed_and_counted(strict: ServerProcess, name: str) -> None:
    case, before = CASES[name], await counted(strict, name)
    socket = await joined(Target(strict.port), strict)
    socket.send(case.data)
    assert await socket.closed() == case.code
    assert await counted(strict, name) == before + 1
    if case.native is not None:
        data, code = case.native
        socket = await on_rt(strict)
        socket.send(data)
        assert await socket.closed() == code
        assert await counted(strict, name) == before + 2


@pytest.mark.parametrize("name", CASES)
@aio
async def test_a_limit_of_0_accepts_the_same_message(easy: ServerProcess, name: str) -> None:
    case = CASES[name]
    socket = await joined(Target(easy.port), easy)
    socket.send(case.data)
    await goes_on(socket, '42/tickets,424242["session:refresh",{}]', "43/tickets,424242[")
    await socket.close()
    if case.native is not None:
        socket = await on_rt(easy)
        socket.send(case.native[0])
        await goes_on(socket, '{"event":"session:refresh","data":{},"id":7}', '{"ack":7')
        await socket.close()
    assert await counted(easy, name) == 0


@aio
async def test_a_call_that_is_too_deep_is_refused_and_counted_and_its_client_stays(strict: ServerProcess) -> None:
    before = await counted(strict, "max_json_depth")
    socket = await joined(Target(strict.port), strict)
    await goes_on(socket, f'42/tickets,7["ticket:subscribe",{{"ticketId":{DEEP}}}]', '43/tickets,7[{"ok":false')
    plain = await on_rt(strict)
    await goes_on(plain, event("ticket:subscribe", DEEP)[:-1] + ',"id":7}', '{"ack":7,"data":{"ok":false')
    assert await counted(strict, "max_json_depth") == before + 2
    await socket.close()
    await plain.close()


@aio
async def test_a_post_that_is_too_long_is_counted_and_without_a_limit_accepted(
    strict: ServerProcess, easy: ServerProcess
) -> None:
    body = ("4" + "x" * 3000).encode()  # not a Socket.IO packet: if it is read, it ends the session
    before = await counted(strict, "max_payload_bytes")
    for server, status in ((strict, 413), (easy, 200)):
        target = Target(server.port)
        http = await target.http()
        assert (await http.ask("POST", await target.session(), body)).status == status
        await http.close()
        await target.close()
    assert await counted(strict, "max_payload_bytes") == before + 1


@aio
async def test_clients_that_take_too_long_are_counted(strict: ServerProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", strict.port)
    target = Target(strict.port)
    socket = await target.socket(f"{SOCKET}&sid={(await target.session()).partition('sid=')[2]}")
    socket.say("2probe")
    assert await socket.text() == "3probe"
    assert await reader.read() == b""
    assert await socket.closed() == 1005
    writer.close()
    await target.close()
    assert [await counted(strict, name) for name in ("handshake_timeout_s", "upgrade_timeout_s")] == [1, 1]


@aio
async def test_a_client_that_reads_no_answer_is_cut_off_and_counted(strict: ServerProcess) -> None:
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(strict.address)
    deaf.setblocking(False)
    with contextlib.suppress(BlockingIOError):  # the server stops reading when it cannot write
        for _ in range(1000):
            deaf.send(b"GET /rt/client.js HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)

    async def cut() -> bool:
        return await counted(strict, "unread_timeout_s") == 1

    await until(cut, "it is cut", 30)
    deaf.close()


@aio
async def test_without_a_limit_a_long_post_in_chunks_is_accepted(easy: ServerProcess) -> None:
    target, size = Target(easy.port), 10_000_000
    http = await target.http()
    http.send("POST", await target.session(), headers={"Transfer-Encoding": "chunked"})
    for _ in range(size // 1_000_000):
        http.writer.write(b"f4240\r\n" + b"4" * 1_000_000 + b"\r\n")
        await http.writer.drain()
    http.writer.write(b"0\r\n\r\n")
    assert (await http.receive()).status == 200
    await http.close()
    await target.close()


@aio
async def test_without_a_handshake_timeout_a_slow_head_is_waited_for(easy: ServerProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", easy.port)
    writer.write(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n")
    await asyncio.sleep(1.5)
    writer.write(b"Host: x\r\n\r\n")
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.transport.abort()

"""Security advisories of other servers and of Tornado whose attack takes more than one packet or request."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.hostile.kit import QUIET_S, SOCKET, Caller, Target, memory_mb
from tests.hostile.test_frames import text
from tests.support.aio import aio
from tests.support.door import UPGRADE, Http, RawSocket, frame
from tests.support.server import ServerProcess


@asynccontextmanager
async def at(server: ServerProcess) -> AsyncIterator[Target]:
    target = Target(server.port)
    yield target
    await target.close()


async def says(http: Http, path: str, packet: str) -> None:
    answer = await http.ask("POST", path, packet.encode())
    assert (answer.status, answer.body) == (200, "ok")


@aio
async def test_session_ids_cannot_be_guessed(server: ServerProcess) -> None:
    """CVE-2017-16031."""
    async with at(server) as target:
        secrets = [(await target.session()).partition("sid=")[2].partition(".")[2] for _ in range(100)]
        assert len(set(secrets)) == 100 and {len(secret) for secret in secrets} == {22}, "128 bits"
        for place in range(21):  # the last letter holds two of the 128 bits
            assert len({secret[place] for secret in secrets}) > 20, f"letter {place} is not random"


@pytest.mark.parametrize("version", ["", "EIO=3&"])
@aio
async def test_an_upgrade_in_another_version_harms_neither_session_nor_server(
    server: ServerProcess, version: str
) -> None:
    """CVE-2026-102599: a heartbeat packet of Engine.IO 3 on a session of Engine.IO 4."""
    async with at(server) as target:
        path, http = await target.session(), await target.http()
        sid = path.partition("sid=")[2]
        refused = await http.ask("GET", f"/socket.io/?{version}transport=websocket&sid={sid}", headers=UPGRADE)
        assert refused.status == 400
        socket = await target.socket(f"{SOCKET}&sid={sid}")
        socket.say("2")
        assert await socket.closed() == 1005
        await says(await target.http(), path, f"40/tickets,{json.dumps({'token': server.token('ann', 'agent')})}")
        answer = await (await target.http()).ask("GET", path)
        assert answer.body.startswith("40/tickets,")


@aio
async def test_a_compressed_body_is_not_unpacked(server: ServerProcess) -> None:
    """Tornado's `decompress_request`, which is off: a body that would unpack to a large one is not a valid packet."""
    async with at(server) as target:
        path, http = await target.session(), await target.http()
        before_mb = memory_mb(server)
        bomb = gzip.compress(b"4" * 50_000_000)
        await http.ask("POST", path, bomb, headers={"Content-Encoding": "gzip"})
        assert memory_mb(server) < before_mb + 10
        assert (await (await target.http()).ask("GET", path)).status == 400, "the session is closed"


@aio
async def test_chunks_of_one_byte_do_not_block_other_clients(server: ServerProcess) -> None:
    """Tornado 6.6: each chunk takes its own turn of the event loop."""
    async with at(server) as target:
        path, http, neighbour = await target.session(), await target.http(), await target.http()
        await http.ask("POST", path, f"40/tickets,{json.dumps({'token': server.token('ann', 'agent')})}".encode())
        http.send("POST", path, b"", headers={"Transfer-Encoding": "chunked"})
        packet = b'43/tickets,7["' + b"x" * 30_000 + b'"]'
        http.writer.write(b"".join(b"1\r\n%c\r\n" % byte for byte in packet) + b"0\r\n\r\n")
        answer = asyncio.create_task(http.receive())
        answers = 0
        while not answer.done():
            await neighbour.ask("GET", "/socket.io/?EIO=3")
            answers += 1
        assert (await answer).body == "ok"
        assert answers > 10


@aio
async def test_calls_before_the_connect_is_answered_have_no_effect(server: ServerProcess) -> None:
    """python-socketio 5.17, python-engineio 4.15: calls sent while the connect is still being checked."""
    await server.push("PUT", "/api/v1/tickets/early", {"subject": "x", "requesterId": "carl"})
    subscribe = '["ticket:subscribe",{"ticketId":"early"}]'
    tokens = ("nonsense", server.token("mallory", "customer"), server.token("carl", "customer"))
    async with at(server) as target:
        for token in tokens:
            socket = await target.socket()
            await socket.text()
            socket.send(text(f"40/tickets,{json.dumps({'token': token})}") + text(f"42/tickets,1{subscribe}"))
            assert await socket.closed() == 1005, "it may call after the connect was answered"
            path, http = await target.session(), await target.http()
            await http.ask(
                "POST", path, f"40/tickets,{json.dumps({'token': token})}\x1e42/tickets,1{subscribe}".encode()
            )
            assert (await (await target.http()).ask("GET", path)).status == 400, "closed"
        for token, good in zip(tokens, (False, False, True), strict=True):
            socket = await target.socket("/rt/tickets")
            socket.say(json.dumps({"event": "connect", "data": {"token": token}}))
            socket.say('{"event":"ticket:subscribe","data":{"ticketId":"early"},"id":1}')
            said = await everything(socket)
            assert ('{"ack":1,"data":{"ok":true' in said) is good, said


async def everything(socket: RawSocket) -> str:
    """Return the messages that arrive within a moment."""
    said = ""
    try:
        async with asyncio.timeout(QUIET_S):
            while True:
                said += (await socket.receive())[1].decode("utf-8", "replace") + "\n"
    except (TimeoutError, asyncio.IncompleteReadError):
        return said


@pytest.mark.parametrize("path", [SOCKET, "/rt/tickets"])
@aio
async def test_pings_are_answered_and_not_queued_for_a_client_that_does_not_read(
    server: ServerProcess, path: str
) -> None:
    """ws 8.23: an answer was queued for each ping."""
    async with at(server) as target:
        neighbour = await Caller.to(target, server.token("nell", "agent"), "/tickets")
        reader, deaf = await target.socket(path), await target.socket(path)
        if path == SOCKET:
            await reader.text()
        reader.send(frame(9, b"x") * 20_000)
        for _ in range(20_000):
            assert await reader.receive() == (10, b"x")
        deaf.http.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before_mb = memory_mb(server)
        for _ in range(40):
            deaf.send(frame(9, b"x" * 125) * 2_000)
            await asyncio.sleep(0)
            began = time.monotonic()
            await neighbour.call("/tickets", "nothing:such", {})
            assert time.monotonic() - began < 5
        assert memory_mb(server) < before_mb + 10
        assert neighbour.code is None
        await neighbour.close()

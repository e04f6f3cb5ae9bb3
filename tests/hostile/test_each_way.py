"""Every limit holds on every path to the handlers: fast path, Tornado, TLS, compression, another node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from insightdesk_rt.engine.transport.intake import Intake
from tests.support.aio import aio, until
from tests.support.door import RawSocket, frame
from tests.support.ways import POLL, WAYS, ByWay, door_by

MOST = 1_000_000
BEFORE_JOINING = 163_840  # the limit of a POST: ten CONNECTs
UNKNOWN = {"code": 1, "message": "Session ID unknown"}


async def refused_at_head(by: ByWay, sid: str, length: int) -> tuple[int, str]:
    """Send the head of a POST without its body; return the answer."""
    http = await by.http()
    http.send("POST", f"{POLL}&sid={sid}", b"", {"Content-Length": str(length)})
    async with asyncio.timeout(10):
        answer = await http.receive()
    await http.close()
    return answer.status, answer.body


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_a_post_for_an_unknown_session_is_refused_when_its_head_has_come(way: str) -> None:
    """Nothing of the body is kept for a client without a token, whichever node the sid names."""
    async with door_by(way) as by:
        for sid in ("n1.none", "n2.none", "zz9.none", "none"):
            status, body = await refused_at_head(by, sid, 990_000)
            assert (status, json.loads(body)) == (400, UNKNOWN), sid


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_a_post_that_announces_too_much_is_refused_when_its_head_has_come(way: str) -> None:
    async with door_by(way) as by:
        sid = await by.session()
        assert (await refused_at_head(by, sid, MOST + 1))[0] == 413
        assert (await refused_at_head(by, sid, BEFORE_JOINING + 1))[0] == 413, "nothing is joined yet"
        assert sum(by.over_limit.values()) == 2 and by.over_limit["max_connect_bytes"] >= 1


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_a_chunked_post_is_refused_when_it_exceeds_the_limit(way: str) -> None:
    """Its head announces no length, so it is refused while it is read, and the session stays."""
    async with door_by(way) as by:
        sid = await by.session()
        http = await by.http()
        http.send("POST", f"{POLL}&sid={sid}", b"", {"Transfer-Encoding": "chunked"})
        for _ in range(6):  # and the body does not end
            http.writer.write(b"8000\r\n" + b"4" * 32_768 + b"\r\n")
        async with asyncio.timeout(10):
            assert (await http.receive()).status == 413
        await http.close()
        assert by.over_limit == {"max_connect_bytes": 1}
        again = await by.http()
        assert (await again.ask("POST", f"{POLL}&sid={sid}", b"3")).body == "ok"


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_an_unfinished_post_is_kept_by_its_owner_alone_and_ends_the_session_when_aborted(way: str) -> None:
    """The node that passes a POST on holds one piece of it at a time."""
    async with door_by(way) as by:
        sid = await by.session()
        http = await by.http()
        http.send("POST", f"{POLL}&sid={sid}", b"x" * 100_000, {"Content-Length": "160000"})
        await until(lambda: by.door.client().transport.posting, "the owner has its head")  # type: ignore[union-attr]
        await http.close()
        await until(lambda: not by.door.registry.clients, "a POST that breaks off ends its session")
        assert by.relay is None or by.relay.passed == 0


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_a_body_that_does_not_come_ends_its_connection(way: str) -> None:
    async with door_by(way, body_timeout_s=0.3) as by:
        sid = await by.session()
        http = await by.http()
        http.send("POST", f"{POLL}&sid={sid}", b"4", {"Content-Length": "2"})
        async with asyncio.timeout(10):
            assert await http.eof()
        await until(lambda: not by.door.registry.clients, "its session ends")
        await until(lambda: by.over_limit == {"body_timeout_s": 1}, f"it is counted: {by.over_limit}")


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_a_head_that_does_not_come_ends_its_connection(way: str) -> None:
    async with door_by(way, head_ms=300) as by:
        http = await by.http()
        http.writer.write(b"POST /socket.io/ HTTP/1.1\r\nHost: x\r\n")
        async with asyncio.timeout(10):
            assert await http.eof()
        await until(lambda: by.over_limit == {"handshake_timeout_s": 1}, f"it is counted: {by.over_limit}")


# ── websockets: the input, the close code, the metric ───────────────────────────────────────────────────────────────

Sends = Callable[[RawSocket], Awaitable[None]]


async def too_long(socket: RawSocket) -> None:
    socket.say("40/tickets,")
    assert (await socket.text()).startswith("40/tickets,")
    socket.send(frame(1, b"4" * (MOST + 1))[:20])  # the head is enough


async def too_long_before_joining(socket: RawSocket) -> None:
    socket.say('40/tickets,{"token":"' + "t" * 16_384 + '"}')


async def in_many_frames(socket: RawSocket) -> None:
    socket.say("40/tickets,")
    assert (await socket.text()).startswith("40/tickets,")
    socket.send(frame(1, b"4", fin=False) + frame(0, b"", fin=False) * 20)


async def unmasked(socket: RawSocket) -> None:
    socket.send(frame(1, b"40/tickets,", mask=False))


async def not_utf8(socket: RawSocket) -> None:
    socket.send(frame(1, b"\xff\xfe"))


SENT: dict[str, tuple[Sends, int, dict[str, int]]] = {
    "a message over max_payload_bytes": (too_long, 1009, {"max_payload_bytes": 1}),
    "a message over max_connect_bytes": (too_long_before_joining, 1009, {"max_connect_bytes": 1}),
    "more frames than max_fragments_per_message": (in_many_frames, 1009, {"max_fragments_per_message": 1}),
    "an unmasked frame": (unmasked, 1002, {}),
    "text that is not UTF-8": (not_utf8, 1007, {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SENT)
@aio
async def test_a_websocket_over_a_limit_is_closed_and_counted(name: str, way: str) -> None:
    sends, code, counted = SENT[name]
    async with door_by(way, max_fragments_per_message=16) as by:
        socket = await by.socket()
        await sends(socket)
        async with asyncio.timeout(10):
            assert await socket.closed() == code
        await until(lambda: by.over_limit == counted, f"it is counted: {by.over_limit}")
        await until(lambda: not by.door.registry.clients, "nothing is left of it")


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_a_client_that_joins_nothing_is_closed(way: str) -> None:
    async with door_by(way, connect_timeout_ms=300) as by:
        socket = await by.socket()
        async with asyncio.timeout(10):
            await socket.closed()


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_an_upgrade_that_is_not_finished_is_closed(way: str) -> None:
    async with door_by(way, upgrade_timeout_ms=300) as by:
        sid = await by.session()
        target = f"/socket.io/?EIO=4&transport=websocket&sid={sid}"
        socket = await RawSocket.to(by, target, **by.how)  # type: ignore[arg-type]
        socket.say("2probe")
        async with asyncio.timeout(10):
            assert await socket.text() == "3probe"
            await socket.closed()
        await until(lambda: by.over_limit == {"upgrade_timeout_s": 1}, f"it is counted: {by.over_limit}")
        assert sid in by.door.registry.clients, "the client stays on polling"


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_a_message_that_is_not_finished_is_closed(way: str) -> None:
    async with door_by(way, message_timeout_ms=200, ping_interval_ms=100, ping_timeout_ms=60_000) as by:
        socket = await by.socket()
        socket.send(frame(1, b"40/tickets,", fin=False))
        async with asyncio.timeout(10):
            assert await socket.closed() == 1005, "only /rt sends a close code"
        await until(lambda: by.over_limit == {"message_timeout_s": 1}, f"it is counted: {by.over_limit}")


@pytest.mark.parametrize("way", WAYS)
@aio
async def test_unfinished_input_is_bounded_per_user(way: str) -> None:
    """An unfinished frame and an unfinished POST both count for the user who sends them."""
    async with door_by(way) as by:
        by.door.registry.intake = Intake(10_000, 1_000_000)
        socket = await by.socket()
        socket.send(frame(1, b"4" * 12_000, fin=False))
        async with asyncio.timeout(10):
            assert await socket.closed() == 1005
        sid = await by.session()
        http = await by.http()
        http.send("POST", f"{POLL}&sid={sid}", b"4" * 12_000, {"Content-Length": "15000"})
        await until(lambda: by.over_limit == {"max_unfinished_bytes_per_user": 2}, f"it is counted: {by.over_limit}")
        await until(lambda: not by.door.registry.clients, "both sessions have ended")

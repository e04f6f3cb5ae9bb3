"""engine/doors/fast_path/fast_path.py: which requests it answers, and that Tornado answers all others."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from insightdesk_rt.engine.doors.client_port import ClientPort, PortSettings
from insightdesk_rt.engine.doors.fast_path.fast_path import fast_path_allowed
from insightdesk_rt.engine.doors.fast_path.http_connection import HttpConnection
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport import polling
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.wheel import Wheel, monotonic_ms
from tests.support.aio import aio, until
from tests.support.door import UPGRADE, Door, Http, RawSocket, door, frame

FRESH = "/socket.io/?EIO=4&transport=websocket"
NATIVE = "/rt/tickets"
POLL = "/socket.io/?EIO=4&transport=polling"
ELSEWHERE = {"Origin": "https://elsewhere.example.com"}


def test_tls_or_compression_switch_the_fast_path_off() -> None:
    def port(**settings: Any) -> ClientPort:
        return ClientPort(ClientRegistry(Wheel(50, monotonic_ms)), None, PortSettings(**settings))  # type: ignore[arg-type]

    assert fast_path_allowed(port(), tls=False)
    assert not fast_path_allowed(port(), tls=True)
    assert not fast_path_allowed(port(websocket_deflate=True), tls=False)


# ── which requests it answers ────────────────────────────────────────────────────────────────────────────────────────


async def status(d: Door, target: str, headers: dict[str, str] | None = None) -> tuple[int, int]:
    """Return the answer's status, and how many connections Tornado was given for it."""
    before = d.by_tornado
    http = await Http.to(d)
    asks = {**UPGRADE, **(headers or {})} if target in (FRESH, NATIVE) else headers
    http.send("GET", target, headers=asks)
    return (await http.receive()).status, d.by_tornado - before


@pytest.mark.parametrize(("target", "good", "refused"), [(FRESH, 101, 400), (NATIVE, 101, 403), (POLL, 200, 403)])
@aio
async def test_refused_requests_are_left_to_tornado(target: str, good: int, refused: int) -> None:
    async with door(address=("0.0.0.0",)) as d:
        assert await status(d, target) == (good, 0)
        assert await status(d, target, ELSEWHERE) == (refused, 1)
        assert await status(d, target, {"Origin": f"http://127.0.0.1:{d.number}"}) == (refused, 1), "another origin"
        assert await status(d, target, {"Origin": "http://127.0.0.1"}) == (good, 0), "the same as Host"
        d.client_port.accepting = False
        assert await status(d, target) == (503, 1)
    async with door(allowed_origins=("*",)) as d:
        assert await status(d, target, ELSEWHERE) == (good, 0)
        assert (await status(d, target, {"Origin": "https://b\xf6se.example.com"}))[1] == 1
    async with door(max_connects_per_address_per_second=2, turning=False) as d:
        assert await status(d, target) == (good, 0)
        assert await status(d, target) == (good, 0)
        assert await status(d, target) == (429, 1), "each new client counts once on the fast path, too"
        d.skew_ms = 1_001
        assert await status(d, target) == (good, 0)
    async with door(max_clients_per_address=1) as d:
        assert await status(d, target) == (good, 0)
        assert await status(d, target) == (429, 1)


@aio
async def test_a_transport_that_is_switched_off_is_left_to_tornado() -> None:
    async with door(transports=("polling",)) as d:
        assert await status(d, FRESH) == (400, 1)
        assert await status(d, POLL) == (200, 0)
        assert await status(d, NATIVE) == (101, 0)
    async with door(transports=("websocket",)) as d:
        assert await status(d, FRESH) == (101, 0)
        assert await status(d, POLL) == (400, 1)


@aio
async def test_the_address_is_read_from_a_trusted_proxys_header() -> None:
    named = {"X-Forwarded-For": "198.51.100.9"}
    async with door(trusted_proxies=("127.0.0.0/8",)) as d:
        await status(d, POLL, named)
        assert d.client().address == "198.51.100.9"
    async with door() as d:
        await status(d, POLL, named)
        assert d.client().address == "127.0.0.1"


@aio
async def test_unknown_namespaces_and_sessions_are_left_to_tornado() -> None:
    async with door() as d:
        assert await status(d, "/rt/nowhere") == (404, 1)
        assert await status(d, f"{POLL}&sid=nobody") == (400, 1)
        http = await Http.to(d)
        http.send("GET", f"{FRESH}&sid=nobody", headers=UPGRADE)
        assert (await http.receive()).status == 400
        assert not d.registry.clients and len(d.registry.poller) == 0


@aio
async def test_a_head_that_comes_in_pieces_is_left_to_tornado() -> None:
    async with door() as d:
        for line in (f"GET {FRESH}", f"GET {POLL}"):
            http = await Http.to(d)
            fields = UPGRADE if line.endswith("websocket") else {}
            head = "\r\n".join([f"{line} HTTP/1.1", "Host: x", *(f"{n}: {v}" for n, v in fields.items())]) + "\r\n\r\n"
            for piece in (head[:30], head[30:]):
                http.writer.write(piece.encode())
                await asyncio.sleep(0.05)
            assert (await http.receive()).status in (101, 200)
        assert d.by_tornado == 2 and len(d.registry.clients) == 2
        assert await status(d, "/socket.io/?EIO=3&transport=websocket") == (400, 1)


@aio
async def test_a_connection_that_sends_nothing_is_closed() -> None:
    async with door(head_ms=10_000) as d:
        gone, silent = await Http.to(d), await Http.to(d)
        await until(lambda: len(d.registry.poller) == 2, "both are waited for")
        await gone.close()
        await until(lambda: len(d.registry.poller) == 1, "one has ended")
        d.skew_ms = 11_000
        assert await silent.eof()
        assert len(d.registry.poller) == 0 and len(d.registry.wheel) == 0 and not d.registry.clients
        assert d.registry.over_limit["handshake_timeout_s"] == 1


# ── websockets ────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_the_101_and_the_first_packet_are_sent_together_and_early_frames_are_read() -> None:
    async with door() as d:
        http = await Http.to(d)
        http.send("GET", FRESH, headers=UPGRADE)
        http.writer.write(frame(1, b"40/tickets,{}"))
        first = await http.reader.read(65_536)
        head, _, rest = first.partition(b"\r\n\r\n")
        assert head.splitlines() == [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # RFC 6455 1.3
        ]
        assert rest[2:4] == b"0{" or rest[4:6] == b"0{"
        assert b"40/tickets," in rest or b"40/tickets," in await http.reader.read(65_536)
        assert d.recorder.clients and d.by_tornado == 0


async def comes_in(d: Door) -> tuple[Any, ...]:
    socket = await RawSocket.to(d, FRESH, headers={"User-Agent": "x" * 300})
    opened = await socket.text()
    client = d.client()
    assert d.registry.flusher.written == d.registry.flusher.queued == 1
    assert client.outbox.bytes == 0
    await socket.close()
    phase = client.session.phase  # type: ignore[attr-defined]
    return client.address, client.agent, opened[:2], len(opened), phase, client.outbox.written


async def comes_in_at_rt(d: Door) -> tuple[Any, ...]:
    headers = {"User-Agent": "x" * 300, "Authorization": "Bearer t.o.k"}
    socket = await RawSocket.to(d, NATIVE, headers=headers, behind=frame(1, b'{"event":"connect","data":{}}'))
    said = await socket.text()
    client = d.client()
    assert (client.bearer, client.native) == ("t.o.k", True)
    socket.send(frame(2, b"not text"))
    return client.address, client.agent, said, await socket.closed(), d.recorder.ends


async def moves_over(d: Door) -> tuple[Any, ...]:
    """The first second of a stock client: polls, then a websocket that upgrades while a poll is parked."""
    gets, posts = await Http.to(d), await Http.to(d)
    headers = {"User-Agent": "x" * 300}
    opened = await gets.ask("GET", POLL, headers=headers)
    sid = json.loads(opened.body[1:])["sid"]
    target = f"{POLL}&t=a&sid={sid}"
    posted = await posts.ask("POST", target, b"40/tickets,", {"Content-Type": "text/plain;charset=UTF-8"})
    answered = await gets.ask("GET", target, headers={"Origin": f"http://127.0.0.1:{d.number}"})
    gets.send("GET", target)
    probing = await RawSocket.to(d, f"{FRESH}&sid={sid}", behind=frame(1, b"2probe"))
    assert await probing.text() == "3probe"
    noop = await gets.receive()
    probing.send(frame(1, b"5"))
    await until(lambda: d.registry.upgraded, "the upgrade is done")
    d.emit(1)
    said = await probing.text()
    client = d.client()
    seen = [(a.status, sorted(a.headers), a.body) for a in (posted, answered, noop)]
    kinds = [(a.headers["content-type"], a.headers.get("access-control-allow-origin", "")) for a in (posted, noop)]
    return client.address, client.agent, len(opened.body), sorted(opened.headers), seen, kinds, said


@pytest.mark.parametrize(("come", "connections"), [(comes_in, 1), (comes_in_at_rt, 1), (moves_over, 3)])
@aio
async def test_both_paths_create_the_same_client(
    come: Callable[[Door], Awaitable[Any]], connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door() as d:
        short = await come(d)
        assert d.by_tornado == 0
    monkeypatch.setattr("insightdesk_rt.engine.doors.fast_path.fast_path.parse", lambda data: None)
    async with door() as d:
        assert await come(d) == short
        assert d.by_tornado == connections


# ── polls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def opened(d: Door) -> tuple[Http, str]:
    """Open a session. Returns its connection and the target of its polls."""
    http = await Http.to(d)
    answer = await http.ask("GET", POLL)
    return http, f"{POLL}&sid={json.loads(answer.body[1:])['sid']}"


async def joined(d: Door) -> tuple[Http, str]:
    """The same, with the session in /tickets."""
    http, target = await opened(d)
    assert (await http.ask("POST", target, b"40/tickets,")).body == "ok"
    assert (await http.ask("GET", target)).body.startswith("40/tickets,")
    return http, target


@aio
async def test_one_connection_may_carry_polls_and_posts_of_several_sessions() -> None:
    """The connection of a proxy does so."""
    async with door() as d:
        http, one = await opened(d)
        two = f"{POLL}&sid={json.loads((await http.ask('GET', POLL)).body[1:])['sid']}"
        for target in (one, two):
            assert (await http.ask("POST", target, b"40/tickets,")).body == "ok"
            assert (await http.ask("GET", target)).body.startswith("40/tickets,")
        assert len(d.registry.clients) == 2 and d.by_tornado == 0


@aio
async def test_pipelined_requests_are_answered_in_order_and_do_not_wake_the_loop_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with door() as d:
        http, target = await opened(d)
        for body in (b"40/tickets,", b"3"):
            http.send("POST", target, body)
        http.send("GET", target)  # 40/tickets,…
        http.send("GET", target)  # parked
        http.send("POST", target, b'42/tickets,["n",1]')
        assert [(await http.receive()).body[:11] for _ in range(3)] == ["ok", "ok", "40/tickets,"]
        await until(lambda: d.client().transport.writable, "the second GET is parked")  # type: ignore[union-attr]
        await asyncio.sleep(0.05)
        looks = []
        monkeypatch.setattr(HttpConnection, "readable", looks.append)
        await asyncio.sleep(0.1)
        monkeypatch.undo()
        assert len(looks) == 0 and d.recorder.payloads() == [], "a request behind a poll waits for its answer"
        d.emit(7)
        assert (await http.receive()).body == '42/tickets,["n","7"]'
        assert (await http.receive()).body == "ok"
        assert d.recorder.payloads() == ["1"]
        assert d.by_tornado == 0


@aio
async def test_connection_close_ends_the_connection_with_its_answer() -> None:
    """As a proxy without keep-alive sends it: nginx with the usual configuration."""
    async with door() as d:
        _, target = await opened(d)
        close = {"Connection": "close"}
        posting, polling = await Http.to(d), await Http.to(d)
        posted = await posting.ask("POST", target, b"40/tickets,", close)
        assert (posted.body, posted.headers["connection"]) == ("ok", "close") and await posting.eof()
        polled = await polling.ask("GET", target, headers=close)
        assert polled.body.startswith("40/tickets,") and await polling.eof()
        parked = await Http.to(d)
        parked.send("GET", target, headers=close)
        await until(lambda: d.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]
        d.emit(1)
        assert (await parked.receive()).body.startswith("42/tickets") and await parked.eof()
        assert d.by_tornado == 0 and d.recorder.ends == []
        assert len(d.registry.poller) == 1, "the first connection"


@aio
async def test_a_session_ends_when_the_connection_of_its_parked_poll_is_lost() -> None:
    for pipelined in (False, True):
        async with door() as d:
            http, target = await opened(d)
            http.send("GET", target)
            await until(lambda: d.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]
            if pipelined:
                http.send("GET", target)
                await asyncio.sleep(0.05)
                linger = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                http.writer.get_extra_info("socket").setsockopt(*linger)  # RST; a FIN would wait
                http.writer.transport.abort()
            else:
                await http.close()
            await until(lambda: d.recorder.ends, "the session has ended")
            assert d.recorder.ends == [CloseReason.TRANSPORT_ERROR]
            assert len(d.registry.poller) == 0 and len(d.registry.wheel) == 0


@aio
async def test_an_answer_to_a_lost_connection_ends_the_session_and_frees_everything() -> None:
    async with door() as d:
        http, target = await opened(d)
        http.send("GET", target)
        await until(lambda: d.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]
        sock = http.writer.get_extra_info("socket").dup()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        http.writer.transport.abort()
        await asyncio.sleep(0)
        sock.close()  # RST
        d.emit(1)  # before the loop notices the reset
        await until(lambda: d.recorder.ends, "the session has ended")
        assert d.recorder.ends == [CloseReason.TRANSPORT_ERROR]
        assert len(d.registry.poller) == 0 and len(d.registry.wheel) == 0


@aio
async def test_a_long_answer_is_sent_in_parts_and_the_next_request_is_served() -> None:
    async with door(send_buffer=4_096) as d:
        http, target = await joined(d)
        http.writer.transport.pause_reading()  # type: ignore[attr-defined]
        d.emit(*range(9), size=100_000)
        http.send("GET", target)
        http.send("POST", target, b"3")
        await until(lambda: d.client().outbox.bytes == 0, "the answer is on its way")
        await asyncio.sleep(0.05)
        http.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await http.receive()).body) > 900_000
        assert (await http.receive()).body == "ok"
        assert d.recorder.ends == [] and d.by_tornado == 0


@aio
async def test_a_stale_event_of_the_poller_is_ignored() -> None:
    """The answer to the poll was sent after the kernel reported the event and before it was handled."""
    async with door(send_buffer=4_096) as d:
        http, target = await joined(d)
        http.send("GET", target)
        await until(lambda: d.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]
        (connection,) = (each for each in d.registry.poller._watched.values() if isinstance(each, HttpConnection))
        http.writer.transport.pause_reading()  # type: ignore[attr-defined]
        http.send("POST", target, b"3")
        connection.readable()
        connection.readable()
        d.emit(*range(9), size=100_000)
        await until(lambda: d.client().outbox.bytes == 0, "the answer is on its way")
        connection.readable()
        http.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await http.receive()).body) > 900_000
        assert (await http.receive()).body == "ok"
        assert d.recorder.ends == [] and d.by_tornado == 0


@aio
async def test_an_unread_answer_ends_the_connection_and_a_slow_reader_keeps_it() -> None:
    async with door(send_buffer=4_096, connect_timeout_ms=0, ping_interval_ms=86_400_000) as d:
        http, target = await opened(d)
        d.emit(*range(9), size=100_000)
        http.send("GET", target)
        await until(lambda: d.client().outbox.bytes == 0, "the answer is on its way")
        for _ in range(5):
            d.skew_ms += 10_001
            await asyncio.sleep(0.05)
            await http.reader.readexactly(120_000)
        assert d.recorder.ends == []
        http.writer.transport.pause_reading()  # type: ignore[attr-defined]

        def looked() -> bool:
            d.skew_ms += 10_001
            return bool(d.recorder.ends)

        await until(looked, "the connection is closed")
        assert d.recorder.ends == [CloseReason.TRANSPORT_ERROR]
        assert d.registry.over_limit["unread_timeout_s"] == 1


@pytest.mark.parametrize("body", [b"\xff", b"x" * 9_000, b"4" * 2_000])
@aio
async def test_a_post_that_is_not_utf8_or_too_long_is_left_to_tornado(body: bytes) -> None:
    async with door(max_payload_bytes=1_000 if len(body) == 2_000 else 1_000_000) as d:
        http, target = await opened(d)
        http.send("POST", target, body)
        expected = 413 if len(body) == 2_000 else 200
        assert (await http.receive()).status == expected
        assert d.by_tornado == 1


@aio
async def test_a_second_poll_of_a_session_is_left_to_tornado_and_ends_it() -> None:
    async with door() as d:
        http, target = await opened(d)
        http.send("GET", target)
        await until(lambda: d.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]
        assert (await (await Http.to(d)).ask("GET", target)).status == 400
        assert d.recorder.ends == [CloseReason.TRANSPORT_ERROR] and d.by_tornado == 1
        assert (await http.receive()).body == "1"


@pytest.mark.parametrize(("packets", "by_tornado"), [(32, 0), (33, 1), (400, 1)])
@aio
async def test_a_post_of_many_packets_is_left_to_tornado_which_yields_to_other_clients(
    packets: int, by_tornado: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "TURN_NS", 0)
    async with door() as d:
        http, target = await joined(d)
        turns: list[int] = []  # packets taken each time that other work had its turn
        d.recorder.on_call = lambda client, call: asyncio.get_running_loop().call_soon(
            lambda: turns.append(len(d.recorder.calls))
        )
        http.send("POST", target, "\x1e".join(f'42/tickets,["n",{n}]' for n in range(packets)).encode())
        http.send("POST", target, b'42/tickets,["n","last"]')
        assert [(await http.receive()).body for _ in range(2)] == ["ok", "ok"]
        assert d.recorder.payloads() == [*map(str, range(packets)), '"last"']
        assert d.by_tornado == by_tornado
        assert (len(set(turns)) > packets // 2) == bool(by_tornado), "other work had its turn in between"

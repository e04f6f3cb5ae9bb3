"""/socket.io/ over real sockets: every rule of Engine.IO 4 about HTTP, and requests that no well-behaved client sends.

Source of the rules: engine.io 6.6 as observed. A test that logs a warning or a traceback fails (`quiet`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from tests.support.aio import aio, until
from tests.support.door import UPGRADE as HANDSHAKE
from tests.support.door import Answer, Door, Http, RawSocket, door, frame

OPEN = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No input of a peer may cause a warning."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture(params=["fast", "tornado"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs twice: with the fast path, and with Tornado's handlers for all requests."""
    if request.param == "tornado":
        monkeypatch.setattr("tests.support.door.fast_path_allowed", lambda *_, **__: False)


class Polling:
    """A polling client by hand: one connection for its GETs, one for its POSTs."""

    def __init__(self, door: Door, gets: Http, posts: Http, sid: str) -> None:
        self.door = door
        self.gets = gets
        self.posts = posts
        self.sid = sid
        self.target = f"{OPEN}&sid={sid}"

    @classmethod
    async def open(cls, door: Door, *, join: bool = True) -> Polling:
        gets = await Http.to(door)
        opened = await gets.ask("GET", OPEN)
        client = cls(door, gets, await Http.to(door), json.loads(opened.body[1:])["sid"])
        if join:
            assert (await client.post("40/tickets,")).body == "ok"
            assert (await client.get()).body.startswith("40/tickets,")
        return client

    async def get(self) -> Answer:
        return await self.gets.ask("GET", self.target)

    async def park(self) -> None:
        """Send a GET and see it parked."""
        self.gets.send("GET", self.target)
        await until(lambda: self.door.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]

    async def post(self, body: str, headers: dict[str, str] | None = None) -> Answer:
        return await self.posts.ask("POST", self.target, body.encode(), headers)

    async def is_gone(self, why: CloseReason) -> None:
        """The session has ended, for this reason, and its sid is unknown."""
        await until(lambda: self.door.recorder.ends, "the receiver is told")
        assert self.door.recorder.ends == [why]
        await self.close()
        self.gets = await Http.to(self.door)
        answer = await self.gets.ask("GET", self.target)
        assert (answer.status, json.loads(answer.body)["code"]) == (400, 1)
        await self.gets.close()

    async def close(self) -> None:
        await self.gets.close()
        await self.posts.close()


async def ask(door: Door, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
    http = await Http.to(door)
    try:
        return await http.ask(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
    finally:
        await http.close()


# ── handshake and refusals ────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_the_handshake_contains_the_sid_and_the_heartbeat_settings() -> None:
    async with door() as d:
        answer = await ask(d, "GET", OPEN)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers and "etag" not in answer.headers
        hello = json.loads(answer.body[1:])
        assert answer.body[0] == "0" and hello.pop("sid") == d.client().id
        expected = {"upgrades": ["websocket"], "pingInterval": 25000, "pingTimeout": 30000, "maxPayload": 1000000}
        assert hello == expected


@aio
async def test_a_server_without_websocket_offers_and_accepts_no_upgrade() -> None:
    async with door(transports=("polling",)) as d:
        answer = await ask(d, "GET", OPEN)
        assert json.loads(answer.body[1:])["upgrades"] == []
        answer = await ask(d, "GET", WEBSOCKET, Upgrade="websocket", Connection="Upgrade")
        assert (answer.status, answer.body) == (400, "Transport unknown")


NEW = "/socket.io/?"
REFUSALS = [
    ("GET", "EIO=4", 0, "Transport unknown"),
    ("GET", "EIO=4&transport=tobi", 0, "Transport unknown"),
    ("GET", "EIO=3&transport=tobi", 0, "Transport unknown"),
    ("GET", "EIO=4&transport=constructor", 0, "Transport unknown"),
    ("GET", "EIO=4&transport=polling&transport=polling", 0, "Transport unknown"),
    ("GET", "EIO=4&transport=%ff", 0, "Transport unknown"),
    ("GET", "EIO=4&transport=polling&sid=unknown", 1, "Session ID unknown"),
    ("GET", "EIO=4&transport=polling&sid=__proto__", 1, "Session ID unknown"),
    ("GET", "EIO=4&transport=polling&sid=a&sid=b", 1, "Session ID unknown"),
    ("POST", "EIO=4&transport=polling&sid=unknown", 1, "Session ID unknown"),
    ("POST", "EIO=4&transport=polling", 2, "Bad handshake method"),
    ("PUT", "EIO=4&transport=polling", 2, "Bad handshake method"),
    ("DELETE", "EIO=4&transport=polling", 2, "Bad handshake method"),
    ("PATCH", "EIO=4&transport=polling", 2, "Bad handshake method"),
    ("GET", "EIO=4&transport=websocket", 3, "Bad request"),
    ("GET", "EIO=3&transport=polling", 5, "Unsupported protocol version"),
    ("GET", "transport=polling", 5, "Unsupported protocol version"),
    ("GET", "EIO=4&EIO=4&transport=polling", 5, "Unsupported protocol version"),
    ("GET", "EIO=044&transport=polling", 5, "Unsupported protocol version"),
]


@pytest.mark.parametrize(("method", "query", "code", "message"), REFUSALS)
@aio
async def test_each_refusal_has_its_code(method: str, query: str, code: int, message: str) -> None:
    async with door() as d:
        answer = await ask(d, method, NEW + query, b"4" if method != "GET" else None)
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(answer.body) == {"code": code, "message": message}
        assert d.registry.clients == {}


@aio
async def test_head_and_unknown_methods_are_a_client_error() -> None:
    async with door() as d:
        client = await Polling.open(d)
        for method in ("HEAD", "PUT", "DELETE", "PATCH"):
            assert (await ask(d, method, client.target)).status == 400
            assert (await ask(d, method, OPEN)).status == 400
        assert (await ask(d, "BREW", OPEN)).status == 405
        assert (await ask(d, "BREW", client.target)).status == 405
        assert (await client.post("40/chat,")).body == "ok"  # the session continues
        await client.close()


@aio
async def test_the_path_is_a_prefix_with_a_slash() -> None:
    async with door() as d:
        assert (await ask(d, "GET", "/socket.io/extra/?EIO=4&transport=polling")).status == 200
        assert (await ask(d, "GET", "/socket.io?EIO=4&transport=polling")).status == 404


@aio
async def test_the_path_without_a_slash_is_served_if_the_setting_allows_it() -> None:
    """As in Node with `addTrailingSlash: false`; clients with that option use only this path."""
    async with door(add_trailing_slash=False) as d:
        answer = await ask(d, "GET", "/socket.io?EIO=4&transport=polling")
        assert answer.status == 200
        sid = json.loads(answer.body[1:])["sid"]
        assert (await ask(d, "POST", f"/socket.io?EIO=4&transport=polling&sid={sid}", b"40/tickets,")).body == "ok"
        socket = await RawSocket.to(d, "/socket.io?EIO=4&transport=websocket")
        assert (await socket.text()).startswith("0{")
        await socket.close()
        assert (await ask(d, "GET", OPEN)).status == 200, "the usual path stays"
        for other in ("/socket.iox?EIO=4&transport=polling", "/socket"):
            assert (await ask(d, "GET", other)).status == 404


@aio
async def test_a_balancer_may_ask_the_client_port_whether_it_takes_clients() -> None:
    async with door() as d:
        for accepting, status, body in ((True, 200, "ok"), (False, 503, "draining")):
            d.client_port.accepting = accepting
            answer = await ask(d, "GET", "/healthz")
            assert (answer.status, answer.body, answer.headers["cache-control"]) == (status, body, "no-store")
            assert (await ask(d, "HEAD", "/healthz")).status == status
        assert d.registry.clients == {} and not d.client_port.refused


@aio
async def test_a_draining_node_refuses_new_clients_and_serves_connected_ones() -> None:
    async with door() as d:
        client = await Polling.open(d)
        d.client_port.accepting = False
        answer = await ask(d, "GET", OPEN)
        assert answer.status == 503 and int(answer.headers["retry-after"]) > 0
        answer = await ask(d, "GET", WEBSOCKET, Upgrade="websocket", Connection="Upgrade")
        assert answer.status == 503
        assert (await client.post("41/tickets,")).body == "ok"
        await client.close()


# ── POST ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_post_is_answered_ok_after_its_packets_were_processed() -> None:
    async with door() as d:
        client = await Polling.open(d)
        answer = await client.post('42/tickets,["a",1]\x1e42/tickets,["b",2]\x1e452-/tickets,["c"]\x1ebAQ==\x1ebAg==')
        assert [call.event for call in d.recorder.calls] == ["a", "b", "c"]
        assert d.recorder.calls[2].attachments == (b"\1", b"\2")
        assert (answer.status, answer.body) == (200, "ok")
        assert answer.headers["content-type"] == "text/html" and answer.headers["content-length"] == "2"
        assert answer.headers["cache-control"] == "no-store"
        await client.close()


@aio
async def test_packets_of_a_payload_are_limited_by_bytes_and_not_by_number() -> None:
    """python-engineio refuses more than 16 packets, which breaks stock clients."""
    async with door() as d:
        client = await Polling.open(d)
        assert (await client.post("\x1e".join(f'42/tickets,["a",{n}]' for n in range(3_000)))).body == "ok"
        assert d.recorder.payloads() == [str(n) for n in range(3_000)]
        await client.close()


@pytest.mark.parametrize(
    "bad",
    ["", "x", "9", "4\x1e", "\x1e", "bA", "b!", "40/tickets,[]", "42/nowhere,[1]", "2", "2probe", "4z", "\ufeff4"],
)
@aio
async def test_a_bad_packet_closes_the_session_after_those_before_it(bad: str) -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        answer = await client.post('42/tickets,["first"]\x1e' + bad if bad else "")
        assert answer.status in (200, 400)
        assert [call.event for call in d.recorder.calls] == (["first"] if bad else [])
        assert (await client.gets.receive()).body == "1"
        await client.is_gone(CloseReason.PARSE_ERROR)


@aio
async def test_a_body_that_is_not_utf8_closes_the_session() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.posts.ask("POST", client.target, b"4\xff")
        await client.is_gone(CloseReason.PARSE_ERROR)


@aio
async def test_a_binary_post_is_refused_and_closes_the_session() -> None:
    """CVE-2026-59725: such a request was never answered, and each kept a file descriptor."""
    async with door() as d:
        client = await Polling.open(d)
        answer = await client.post("4", {"Content-Type": "application/octet-stream"})
        assert answer.status == 400
        await client.is_gone(CloseReason.PARSE_ERROR)


@aio
async def test_a_body_that_is_too_long_gets_413_and_the_session_stays_open() -> None:
    async with door(max_payload_bytes=1_000) as d:
        client = await Polling.open(d)
        # declared and sent: the answer is not lost in a reset, and the connection stays usable
        assert (await client.post("4" + "x" * 50_000)).status == 413
        assert (await client.post("40/chat,")).body == "ok"
        # declared, and never sent
        other = await Http.to(d)
        other.send("POST", client.target, headers={"Content-Length": "5000000"})
        assert (await other.receive()).status == 413
        await other.close()
        # declared, by a client that waits for 100 Continue
        other = await Http.to(d)
        other.send("POST", client.target, headers={"Content-Length": "5000000", "Expect": "100-continue"})
        assert (await other.receive()).status == 413
        assert await other.eof()
        await other.close()
        # chunked
        other = await Http.to(d)
        other.send("POST", client.target, b"", headers={"Transfer-Encoding": "chunked"})
        for _ in range(20):
            other.writer.write(b"64\r\n" + b"x" * 100 + b"\r\n")
        assert (await other.receive()).status == 413
        await other.close()
        assert (await client.post("41/chat,")).body == "ok"
        await until(lambda: d.recorder.lefts, "the packet was processed")
        assert d.recorder.ends == []
        await client.close()


@aio
async def test_a_body_as_long_as_the_limit_is_accepted_also_chunked() -> None:
    async with door(max_payload_bytes=1_000) as d:
        client = await Polling.open(d)
        packet = '42/tickets,["a","' + "x" * (1_000 - 19) + '"]'
        assert len(packet) == 1_000 and (await client.post(packet)).body == "ok"
        client.posts.send("POST", client.target, b"", headers={"Transfer-Encoding": "chunked"})
        for at in range(0, 1_000, 100):
            client.posts.writer.write(b"64\r\n" + packet[at : at + 100].encode() + b"\r\n")
        client.posts.writer.write(b"0\r\n\r\n")
        assert (await client.posts.receive()).body == "ok"
        assert len(d.recorder.calls) == 2
        await client.close()


@aio
async def test_a_client_that_keeps_sending_a_refused_body_is_disconnected() -> None:
    async with door(max_payload_bytes=1_000) as d:
        http = await Http.to(d)
        http.send("POST", OPEN, headers={"Content-Length": "90000000"})
        assert (await http.receive()).status == 400
        try:
            for _ in range(300):
                http.writer.write(b"x" * 100_000)
                await http.writer.drain()
        except ConnectionError:
            pass
        assert await http.eof()
        await http.close()


@pytest.mark.parametrize("session", [True, False])
@aio
async def test_a_body_that_does_not_come_ends_its_connection(session: bool) -> None:
    """A slow loris holds a connection for `body_timeout_s`, and its own session with it."""
    async with door(body_timeout_s=0.2) as d:
        client = await Polling.open(d)
        client.posts.send("POST", client.target if session else OPEN, headers={"Content-Length": "100"})
        client.posts.writer.write(b"4")
        if not session:
            assert (await client.posts.receive()).status == 400
        assert await client.posts.eof()
        if session:
            await client.is_gone(CloseReason.TRANSPORT_ERROR)
        await until(lambda: d.registry.over_limit == {"body_timeout_s": 1}, "it is counted")


@aio
async def test_a_body_that_comes_in_time_or_is_aborted_by_the_client_is_not_counted() -> None:
    async with door(body_timeout_s=0.2) as d:
        client = await Polling.open(d)
        assert (await client.post("3" * 9_000)).status == 200
        await asyncio.sleep(0.3)
        assert (await client.post("3")).status == 200
        gone = await Http.to(d)
        gone.send("POST", client.target, headers={"Content-Length": "100"})
        await gone.close()
        await until(lambda: not d.registry.clients, "the session ended with its POST")
        assert not d.registry.over_limit


@aio
async def test_the_body_timeout_also_holds_at_an_unknown_path() -> None:
    async with door(body_timeout_s=0.2) as d:
        http = await Http.to(d)
        http.send("POST", "/nowhere", headers={"Content-Length": "100"})
        assert await http.eof()
        await until(lambda: d.registry.over_limit == {"body_timeout_s": 1}, "it is counted")


@aio
async def test_two_posts_at_once_end_both_and_the_session() -> None:
    async with door() as d:
        client = await Polling.open(d)
        client.posts.send("POST", client.target, headers={"Content-Length": "100"})
        client.posts.writer.write(b"4")
        await until(lambda: d.client().transport._post, "the first body is being read")  # type: ignore[union-attr]
        second = await Http.to(d)
        assert (await second.ask("POST", client.target, b"40/chat,")).status == 400
        assert await client.posts.eof()
        await second.close()
        await client.is_gone(CloseReason.TRANSPORT_ERROR)


@aio
async def test_a_post_that_breaks_off_ends_the_session() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        client.posts.send("POST", client.target, headers={"Content-Length": "100"})
        await until(lambda: d.client().transport._post, "it is being read")  # type: ignore[union-attr]
        await client.posts.close()
        assert (await client.gets.receive()).body == "1"
        await client.is_gone(CloseReason.TRANSPORT_ERROR)


@aio
async def test_a_close_packet_releases_the_poll_and_ends_the_session() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        assert (await client.post("1")).body == "ok"
        assert (await client.gets.receive()).body == "6"
        await client.is_gone(CloseReason.CLIENT_CLOSE)


@pytest.mark.parametrize("packet", ["3", "0", "5", "6"])
@aio
async def test_packets_without_meaning_for_a_server_are_ignored(packet: str) -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.post(packet)
        assert (await client.post('42/tickets,["a"]')).body == "ok"
        assert len(d.recorder.calls) == 1
        await client.close()


# ── GET ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_poll_waits_for_messages_and_gets_all_of_them() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        d.emit(1, 2, 3)
        d.client().send(d.client().codec.ack("/tickets", 7, {"data": b"\1\2"}))
        answer = await client.gets.receive()
        assert answer.body.split("\x1e") == [
            *(f'42/tickets,["n","{n}"]' for n in (1, 2, 3)),
            '461-/tickets,7[{"data":{"_placeholder":true,"num":0}}]',
            "bAQI=",
        ]
        d.emit(4)
        assert (await client.get()).body == '42/tickets,["n","4"]'
        await client.close()


@aio
async def test_a_second_poll_is_refused_and_ends_the_session() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        second = await ask(d, "GET", client.target)
        assert (second.status, second.body) == (400, "")
        assert (await client.gets.receive()).body == "1"
        await client.is_gone(CloseReason.TRANSPORT_ERROR)


@aio
async def test_a_poll_that_the_client_aborts_ends_the_session() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        await client.gets.close()
        await client.is_gone(CloseReason.TRANSPORT_ERROR)


@aio
async def test_a_new_poll_ends_the_session_if_the_last_answer_was_not_read() -> None:
    """Otherwise a client could leave a megabyte in the kernel's buffers with every poll."""
    async with door(send_buffer=4_096) as d:
        client = await Polling.open(d)
        await client.close()
        stuck = await Http.to(d, limit=1_024)
        d.emit(*range(12), size=70_000)
        stuck.send("GET", client.target)
        await until(lambda: d.client().outbox.bytes == 0, "the answer is on its way")
        assert (await ask(d, "GET", client.target)).status == 400
        await until(lambda: d.recorder.ends, "the session is closed")
        assert d.recorder.ends == [CloseReason.TRANSPORT_ERROR]
        await stuck.close()


@aio
async def test_an_answer_that_could_not_be_delivered_ends_the_session() -> None:
    """engine.io #5540: the transport stayed stuck."""
    async with door(send_buffer=4_096) as d:
        client = await Polling.open(d)
        await client.close()
        stuck = await Http.to(d, limit=1_024)
        d.emit(*range(12), size=70_000)
        stuck.send("GET", client.target)
        await until(lambda: d.client().outbox.bytes == 0, "the answer is on its way")
        stuck.writer.transport.abort()
        await until(lambda: d.recorder.ends, "the session is closed")
        assert d.recorder.ends == [CloseReason.TRANSPORT_ERROR]


@aio
async def test_polls_may_be_pipelined_on_one_connection() -> None:
    async with door() as d:
        client = await Polling.open(d)
        for _ in range(3):
            client.gets.send("GET", client.target)
        for number in range(3):
            await until(lambda: d.client().transport.writable, "the next GET is parked")  # type: ignore[union-attr]
            d.emit(number)
            assert (await client.gets.receive()).body == f'42/tickets,["n","{number}"]'
        assert d.recorder.ends == []
        await client.close()


@aio
async def test_connection_close_ends_the_connection_and_not_the_session() -> None:
    async with door() as d:
        client = await Polling.open(d)
        d.emit(1)
        http = await Http.to(d)
        assert (await http.ask("GET", client.target, headers={"Connection": "close"})).status == 200
        assert await http.eof()
        await http.close()
        d.emit(2)
        assert (await client.get()).body == '42/tickets,["n","2"]'
        await client.close()


@aio
async def test_a_request_of_another_protocol_version_is_refused_and_the_session_stays() -> None:
    """CVE-2026-102599."""
    async with door() as d:
        client = await Polling.open(d)
        for version in ("EIO=3&", ""):
            answer = await ask(d, "GET", f"/socket.io/?{version}transport=polling&sid={client.sid}")
            assert json.loads(answer.body)["code"] == 3
        assert (await client.post("40/chat,")).body == "ok"
        await client.close()


# ── heartbeat and ends ────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_ping_is_sent_after_the_interval_and_a_pong_extends_the_deadline() -> None:
    async with door(ping_interval_ms=100, ping_timeout_ms=400) as d:
        client = await Polling.open(d)
        for _ in range(3):
            assert (await client.get()).body == "2"
            assert (await client.post("3")).body == "ok"
        assert (await client.get()).body == "2"
        await client.park()
        assert (await client.gets.receive()).body == "1"
        await client.is_gone(CloseReason.PING_TIMEOUT)


@aio
async def test_a_poll_after_the_ping_timeout_is_refused_even_if_the_timer_is_late() -> None:
    async with door(turning=False) as d:
        client = await Polling.open(d)
        d.skew_ms = 25_050
        d.wheel.turn()
        assert (await client.get()).body == "2"
        d.skew_ms += 29_000
        assert (await client.post('42/tickets,["alive"]')).body == "ok"  # any packet is a sign of life
        d.skew_ms += 30_000
        assert json.loads((await client.get()).body)["code"] == 1
        await client.is_gone(CloseReason.PING_TIMEOUT)


@aio
async def test_a_client_that_joins_nothing_is_closed_by_the_connect_timeout() -> None:
    async with door(connect_timeout_ms=100) as d:
        client = await Polling.open(d, join=False)
        await client.park()
        assert (await client.gets.receive()).body == "1"
        await client.is_gone(CloseReason.CONNECT_TIMEOUT)
    async with door(connect_timeout_ms=100) as d:
        client = await Polling.open(d)
        assert (await client.post("41/tickets,")).body == "ok"
        await asyncio.sleep(0.2)
        assert d.recorder.ends == []
        await client.close()


@aio
async def test_queued_messages_and_a_close_packet_wait_for_the_next_poll() -> None:
    async with door() as d:
        client = await Polling.open(d)
        d.emit(1)
        d.client().close(CloseReason.KICKED)
        assert d.recorder.ends == [CloseReason.KICKED] and d.registry.clients == {}
        assert json.loads((await client.post("40/chat,")).body)["code"] == 1
        assert (await client.get()).body == '42/tickets,["n","1"]\x1e1'
        answer = await client.get()
        assert (answer.status, json.loads(answer.body)["code"]) == (400, 1)
        await client.close()


@pytest.mark.parametrize("parked", [False, True])
@aio
async def test_a_client_that_should_reconnect_gets_its_last_messages_and_no_close_packet(parked: bool) -> None:
    """python-socketio's client does not reconnect after a close packet on a poll; it does after "unknown session"."""
    async with door() as d:
        client = await Polling.open(d)
        if parked:
            client.gets.send("GET", client.target)
            await asyncio.sleep(0.05)
        d.emit(1)
        d.client().close(CloseReason.SHUTDOWN)
        answer = await (client.gets.receive() if parked else client.get())
        assert answer.body == '42/tickets,["n","1"]'
        answer = await client.get()
        assert (answer.status, json.loads(answer.body)["code"]) == (400, 1)
        await client.close()


@aio
async def test_the_queue_of_a_client_that_never_polls_is_bounded() -> None:
    async with door(limits=OutboxLimits(max_outbox_bytes=100_000)) as d:
        client = await Polling.open(d)
        d.emit(*range(95), size=1_000)
        assert d.recorder.ends == []
        d.emit(*range(95, 100), size=1_000)
        assert d.recorder.ends == [CloseReason.SLOW_CONSUMER]
        answer = await client.get()
        assert (answer.status, json.loads(answer.body)["code"]) == (400, 1)  # it comes back and resumes
        await client.close()


# ── upgrade ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def probe(client: Polling) -> RawSocket:
    socket = await RawSocket.to(client.door, f"{WEBSOCKET}&sid={client.sid}")
    socket.say("2probe")
    assert await socket.text() == "3probe"
    return socket


@aio
async def test_a_client_moves_from_polling_to_websocket_and_nothing_is_lost() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        socket = await probe(client)
        assert (await client.gets.receive()).body == "6"
        d.emit(1)
        assert (await client.get()).body == '42/tickets,["n","1"]'  # still the transport
        assert (await client.post('42/tickets,["during"]')).body == "ok"
        d.emit(2)
        socket.say("5")
        await until(lambda: d.client().transport.name == "websocket", "the swap")  # type: ignore[union-attr]
        d.emit(3)
        assert [await socket.text(), await socket.text()] == ['42/tickets,["n","2"]', '42/tickets,["n","3"]']
        socket.say('42/tickets,7["after"]')
        assert await socket.text() == "43/tickets,7[]"
        assert [call.event for call in d.recorder.calls] == ["during", "after"]
        for method in ("GET", "POST"):
            answer = await ask(d, method, client.target, b"4" if method == "POST" else None)
            assert json.loads(answer.body)["code"] == 3
        socket.say('42/tickets,8["alive"]')
        assert await socket.text() == "43/tickets,8[]"
        assert d.recorder.ends == [] and d.registry.upgraded == 1
        await socket.close()
        await client.close()


@aio
async def test_every_poll_during_a_probe_is_answered_at_once() -> None:
    """A stock client may poll again before it has seen 3probe; a parked poll would stall it for 25 s."""
    async with door() as d:
        client = await Polling.open(d)
        socket = await probe(client)
        for _ in range(3):
            assert (await client.get()).body == "6"
        socket.say("2probe")
        assert await socket.text() == "3probe"
        assert (await client.get()).body == "6"
        await socket.close()
        await until(lambda: not d.client()._probe, "the probe ended")
        await client.park()  # polls wait again
        d.emit(1)
        assert (await client.gets.receive()).body == '42/tickets,["n","1"]'
        await client.close()


@aio
async def test_an_upgrade_needs_no_probe() -> None:
    async with door() as d:
        client = await Polling.open(d)
        await client.park()
        socket = await RawSocket.to(d, f"{WEBSOCKET}&sid={client.sid}")
        socket.say("5")
        assert (await client.gets.receive()).body == "6"
        d.emit(1)
        assert await socket.text() == '42/tickets,["n","1"]'
        await socket.close()
        await client.close()


@pytest.mark.parametrize("first", ["4", "2", "1", "probe", "40/chat,", b"\1", b""])
@aio
async def test_a_wrong_first_packet_closes_only_the_probing_websocket(first: str | bytes) -> None:
    async with door() as d:
        client = await Polling.open(d)
        socket = await RawSocket.to(d, f"{WEBSOCKET}&sid={client.sid}")
        socket.send(frame(1, first.encode()) if isinstance(first, str) else frame(2, first))
        assert await socket.closed() == 1005
        assert (await client.post("40/chat,")).body == "ok"
        socket = await probe(client)  # and it may try again
        await socket.close()
        assert d.recorder.ends == []
        await client.close()


@pytest.mark.parametrize("when", ["probing", "upgraded"])
@aio
async def test_a_second_probing_websocket_is_closed_and_the_first_continues(when: str) -> None:
    async with door() as d:
        client = await Polling.open(d)
        first = await probe(client)
        if when == "upgraded":
            first.say("5")
            await until(lambda: d.registry.upgraded, "the swap")
        second = await RawSocket.to(d, f"{WEBSOCKET}&sid={client.sid}")
        second.say("2probe")
        assert await second.closed() == 1005
        if when == "probing":
            first.say("5")
        first.say('42/tickets,1["on"]')
        assert await first.text() == "43/tickets,1[]"
        await first.close()
        await client.close()


@aio
async def test_polling_continues_when_a_probing_websocket_is_lost() -> None:
    async with door() as d:
        client = await Polling.open(d)
        for end in ("eof", "reset", "close", "garbage"):
            socket = await probe(client)
            if end == "reset":
                socket.http.writer.transport.abort()
            elif end == "close":
                socket.send(frame(8))
                assert await socket.closed() == 1005
            elif end == "garbage":
                socket.send(frame(1, b"\xff"))
                assert await socket.closed() == 1007
            await socket.close()
            await until(lambda: not d.client()._probe, "the probe ended")
        await client.park()
        d.emit(1)
        assert (await client.gets.receive()).body == '42/tickets,["n","1"]'
        assert d.recorder.ends == []
        await client.close()


@aio
async def test_the_upgrade_timeout_closes_only_the_probing_websocket() -> None:
    async with door(upgrade_timeout_ms=100) as d:
        client = await Polling.open(d)
        socket = await probe(client)
        assert await socket.closed() == 1005
        await client.park()
        d.emit(1)
        assert (await client.gets.receive()).body == '42/tickets,["n","1"]'
        await client.close()


@aio
async def test_the_end_of_a_session_closes_its_probing_websocket() -> None:
    async with door() as d:
        client = await Polling.open(d)
        socket = await probe(client)
        await client.post("1")
        assert await socket.closed() == 1005
        await client.is_gone(CloseReason.CLIENT_CLOSE)


@aio
async def test_heartbeats_continue_by_polling_during_a_probe() -> None:
    async with door(ping_interval_ms=100, ping_timeout_ms=10_000) as d:
        client = await Polling.open(d)
        socket = await probe(client)
        bodies = [(await client.get()).body]
        while bodies[-1] == "6":
            await asyncio.sleep(0.02)
            bodies.append((await client.get()).body)
        assert bodies[-1] == "2"
        await socket.close()
        await client.close()


@aio
async def test_a_post_that_ends_after_the_upgrade_is_refused_and_the_websocket_stays() -> None:
    async with door() as d:
        client = await Polling.open(d)
        client.posts.send("POST", client.target, headers={"Content-Length": "8"})
        await until(lambda: d.client().transport._post, "it is being read")  # type: ignore[union-attr]
        socket = await probe(client)
        socket.say("5")
        await until(lambda: d.registry.upgraded, "the swap")
        client.posts.writer.write(b"40/chat,")
        assert json.loads((await client.posts.receive()).body)["code"] == 3
        d.emit(1)
        assert await socket.text() == '42/tickets,["n","1"]'
        await socket.close()
        await client.close()


# ── websocket from the start ──────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_websocket_handshake_offers_no_upgrade() -> None:
    async with door() as d:
        socket = await RawSocket.to(d, WEBSOCKET)
        hello = await socket.text()
        assert json.loads(hello[1:])["upgrades"] == [] and json.loads(hello[1:])["sid"] == d.client().id
        socket.say("40/tickets,")
        assert (await socket.text()).startswith("40/tickets,")
        # a POST or GET for it is another transport
        answer = await ask(d, "GET", f"{OPEN}&sid={d.client().id}")
        assert json.loads(answer.body)["code"] == 3
        await socket.close()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/socket.io/?EIO=4&transport=tobi", "Transport unknown"),
        ("/socket.io/?EIO=4&transport=__proto__", "Transport unknown"),  # CVE-2023-31125
        ("/socket.io/?EIO=4&transport=websocket&sid=unknown", "Session ID unknown"),
        ("/socket.io/?EIO=4&transport=polling", "Bad request"),
        ("/socket.io/?EIO=3&transport=websocket", "Unsupported protocol version"),
    ],
)
@aio
async def test_a_refused_upgrade_is_answered_with_the_bare_message(target: str, message: str) -> None:
    async with door() as d:
        answer = await ask(d, "GET", target, Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Version="13")
        assert (answer.status, answer.body) == (400, message)
        assert answer.headers["content-type"] == "text/html"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Connection": "keep-alive"}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Extensions": "constructor, __proto__"}, 101),  # GHSA-5v72-xg48-5rpm
        ({"Sec-WebSocket-Protocol": "b" + " " * 30_000 + "x"}, 101),  # CVE-2021-32640
    ],
)
@aio
async def test_the_handshake_follows_rfc_6455(change: dict[str, str], status: int) -> None:
    async with door() as d:
        http = await Http.to(d)
        headers = {
            "Upgrade": "WebSocket",
            "Connection": "keep-alive, Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
            **change,
        }
        answer = await http.ask("GET", WEBSOCKET, headers=headers)
        assert answer.status == status
        if status == 101:
            assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 1.3
            assert "sec-websocket-extensions" not in answer.headers
        await http.close()


@aio
async def test_frames_sent_with_the_handshake_are_not_lost() -> None:
    async with door() as d:
        socket = await RawSocket.to(d, WEBSOCKET, behind=frame(1, b"40/tickets,") + frame(1, b'42/tickets,1["a"]'))
        assert (await socket.text())[0] == "0"
        assert (await socket.text()).startswith("40/tickets,")
        assert await socket.text() == "43/tickets,1[]"
        await socket.close()


@aio
async def test_a_bad_frame_behind_the_handshake_harms_only_its_sender() -> None:
    """CVE-2022-21676."""
    async with door() as d:
        socket = await RawSocket.to(d, WEBSOCKET, behind=frame(1, b"4", rsv=0x30))
        assert await socket.closed() == 1002
        await until(lambda: d.recorder.ends == [CloseReason.PARSE_ERROR], "the end")


@pytest.mark.parametrize(
    ("bad", "code", "why"),
    [
        (frame(1, b"4", rsv=0x40), 1002, CloseReason.PARSE_ERROR),
        (frame(3, b"4"), 1002, CloseReason.PARSE_ERROR),
        (frame(1, b"4", mask=False), 1002, CloseReason.PARSE_ERROR),
        (frame(9, b"x" * 126), 1002, CloseReason.PARSE_ERROR),
        (frame(9, b"x", fin=False), 1002, CloseReason.PARSE_ERROR),
        (frame(1, b"\xff"), 1007, CloseReason.PARSE_ERROR),
        (frame(8, b"\x03"), 1002, CloseReason.PARSE_ERROR),
        (frame(8, b"\x03\xed"), 1002, CloseReason.PARSE_ERROR),
        (frame(1, b"4" * 5_001), 1009, CloseReason.TOO_BIG),
        (frame(1, b"40/tickets,[]"), 1005, CloseReason.PARSE_ERROR),
        (frame(1, b"2"), 1005, CloseReason.PARSE_ERROR),
        (frame(1, b"x"), 1005, CloseReason.PARSE_ERROR),
        (frame(1, b"42[]"), 1005, CloseReason.PARSE_ERROR),
        (frame(2, b"x"), 1005, CloseReason.PARSE_ERROR),
        (frame(1, b"1"), 1005, CloseReason.CLIENT_CLOSE),
    ],
)
@aio
async def test_each_violation_has_its_close_code(bad: bytes, code: int, why: CloseReason) -> None:
    async with door(max_payload_bytes=5_000) as d:
        socket = await RawSocket.to(d, WEBSOCKET)
        socket.say("40/tickets,")
        socket.send(frame(1, b'42/tickets,["before"]') + bad)
        assert await socket.closed() == code
        await until(lambda: d.recorder.ends == [why], "the end")
        assert [call.event for call in d.recorder.calls] == ["before"]


@aio
async def test_a_text_frame_may_contain_base64() -> None:
    async with door() as d:
        socket = await RawSocket.to(d, WEBSOCKET)
        socket.say("40/tickets,")
        socket.say('451-/tickets,["a",{"_placeholder":true,"num":0}]')
        socket.say("bAQI=")
        await until(lambda: d.recorder.calls, "the call")
        assert d.recorder.calls[0].attachments == (b"\1\2",)
        await socket.close()


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        ("v1.mine", "v1.mine"),
        ("json, x", "json"),
        ("bearer,x", "bearer"),
        (" a , b", "a"),
        ("", None),
        (",a", None),
        ("not a token, b", None),
        ("a" * 300, None),
    ],
)
@pytest.mark.parametrize("target", [WEBSOCKET, "/rt/tickets"])
@aio
async def test_the_first_offered_subprotocol_is_echoed(target: str, offered: str, echoed: str | None) -> None:
    """RFC 6455 4.1: browsers and Node's `ws` close a websocket whose offered subprotocols were not answered."""
    async with door() as d:
        http = await Http.to(d)
        answer = await http.ask("GET", target, headers={**HANDSHAKE, "Sec-WebSocket-Protocol": offered})
        assert answer.status == 101
        assert answer.headers.get("sec-websocket-protocol") == echoed
        await http.close()


@aio
async def test_a_probing_websocket_gets_its_subprotocol_echoed() -> None:
    async with door() as d:
        client = await Polling.open(d)
        http = await Http.to(d)
        target = f"{WEBSOCKET}&sid={client.sid}"
        answer = await http.ask("GET", target, headers={**HANDSHAKE, "Sec-WebSocket-Protocol": "v1.mine, v2.mine"})
        assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, "v1.mine")
        await http.close()


# ── clients that cannot be understood ────────────────────────────────────────────────────────────────────────────────

MSGPACK_CONNECT = b"\x83\xa4type\x00\xa4data\x81\xa5token\xa1x\xa3nsp\xa8/tickets"  # socket.io-msgpack-parser's


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@aio
async def test_a_client_with_another_parser_is_logged_once_and_counted(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a client reconnects for ever; the log line says why it is refused."""
    caplog.set_level(logging.INFO)
    async with door() as d:
        for _ in range(5):
            if transport == "websocket":
                socket = await RawSocket.to(d, WEBSOCKET)
                await socket.text()
                socket.send(frame(2, MSGPACK_CONNECT))
                assert await socket.closed() == 1005
            else:
                client = await Polling.open(d, join=False)
                await client.post("b" + b64encode(MSGPACK_CONNECT).decode())
                await client.close()
        assert d.registry.not_understood == 5
    (line,) = [record for record in caplog.records if record.getMessage() == "a client cannot be understood"]
    assert "another parser, such as msgpack" in line.why  # type: ignore[attr-defined]


@aio
async def test_a_client_of_another_version_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with door() as d:
        http = await Http.to(d)
        for _ in range(5):
            assert (await http.ask("GET", "/socket.io/?EIO=3&transport=polling")).status == 400
        assert d.registry.not_understood == 5
    (line,) = [record for record in caplog.records if record.getMessage() == "a client cannot be understood"]
    assert "another version of Engine.IO" in line.why  # type: ignore[attr-defined]


@aio
async def test_a_client_that_was_understood_before_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with door() as d:
        socket = await RawSocket.to(d, WEBSOCKET)
        socket.say("40/tickets,")
        socket.say("nonsense")
        assert await socket.closed() == 1005
        assert d.registry.not_understood == 0
    assert not [record for record in caplog.records if record.getMessage() == "a client cannot be understood"]


# ── origins ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ALLOWED = "https://app.example.com"
FOREIGN = [
    "https://evil.example",
    "null",
    "https://app.example.com.evil.tld",
    "https://evil.tld?app.example.com",
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://APP.example.com",
    "https://app.example.com.",
    "https://app.example.com, https://evil.example",
    "http://localhost:3001",
    "http://[::1]",
    "file://",
]


@pytest.mark.parametrize("origin", FOREIGN)
@aio
async def test_a_foreign_page_is_refused_on_every_transport(origin: str) -> None:
    async with door(allowed_origins=(ALLOWED,), address=("0.0.0.0",)) as d:
        answer = await ask(d, "GET", OPEN, Origin=origin)
        assert answer.status == 403 and json.loads(answer.body) == {"code": 4, "message": "Forbidden"}
        assert "access-control-allow-origin" not in answer.headers
        # Tornado does not call check_origin if Sec-Fetch-Site says same-origin; here the header proves nothing
        for site in ({}, {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "cross-site"}):
            for target in (WEBSOCKET, "/rt/tickets"):
                answer = await ask(
                    d,
                    "GET",
                    target,
                    Origin=origin,
                    Upgrade="websocket",
                    Connection="Upgrade",
                    Sec_WebSocket_Version="13",
                    Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
                    **site,
                )
                assert answer.status in (400, 403) and answer.status != 101
        assert d.registry.clients == {}
        client = await Polling.open(d)
        answer = await ask(d, "POST", client.target, b"41/tickets,", Origin=origin)
        assert answer.status == 403 and d.recorder.lefts == []
        await client.close()


@aio
async def test_an_allowed_page_gets_its_cors_headers_on_errors_too() -> None:
    async with door(allowed_origins=(ALLOWED,), address=("0.0.0.0",)) as d:
        for target, status in ((OPEN, 200), ("/socket.io/?EIO=4", 400)):
            answer = await ask(d, "GET", target, Origin=ALLOWED)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == ALLOWED
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert answer.headers["vary"] == "Origin"
        for site in ("same-site", "cross-site"):
            socket = await RawSocket.to(d, WEBSOCKET, headers={"Origin": ALLOWED, "Sec-Fetch-Site": site})
            await socket.close()
        # the same origin is the same scheme, host and port
        port = d.number
        for origin, status in (
            ("http://127.0.0.1", 200),
            ("https://127.0.0.1", 403),
            (f"http://127.0.0.1:{port}", 403),
        ):
            assert (await ask(d, "GET", OPEN, Origin=origin)).status == status


@aio
async def test_a_star_allows_every_page_but_no_credentials() -> None:
    async with door(allowed_origins=("*",), address=("0.0.0.0",)) as d:
        answer = await ask(d, "GET", OPEN, Origin="https://anywhere.example")
        assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@aio
async def test_pages_of_this_machine_may_connect_while_the_server_is_on_loopback() -> None:
    async with door() as d:
        for origin in ("http://localhost:8080", "http://127.0.0.1:1", "https://[::1]:3000", "http://localhost"):
            assert (await ask(d, "GET", OPEN, Origin=origin)).status == 200
        for origin in (
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://127.0.0.1@evil.example",
        ):
            assert (await ask(d, "GET", OPEN, Origin=origin)).status == 403


@pytest.mark.parametrize("target", [OPEN, WEBSOCKET, "/rt/tickets"])
@aio
async def test_a_refused_page_is_logged_once_with_the_setting_that_would_allow_it(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser shows the author of a page only "CORS error", so they look into the server's log."""
    upgrade = {} if target == OPEN else {name.replace("-", "_"): value for name, value in HANDSHAKE.items()}
    with caplog.at_level(logging.INFO):
        async with door(allowed_origins=(ALLOWED,), address=("0.0.0.0",)) as d:
            for _ in range(5):
                await ask(d, "GET", target, Origin="https://new.example.com", **upgrade)
            await ask(d, "GET", target, Origin="https://127.0.0.1", X_Forwarded_Proto="https", **upgrade)
    first, second = [record for record in caplog.records if "may not connect" in record.getMessage()]
    assert first.origin == "https://new.example.com" and first.allowed == f"http://127.0.0.1,{ALLOWED}"  # type: ignore[attr-defined]
    assert "allowed_origins" in first.hint  # type: ignore[attr-defined]
    assert "trusted_proxies" in second.hint and "127.0.0.1" in second.hint  # type: ignore[attr-defined]


@aio
async def test_invented_origins_cause_a_bounded_number_of_log_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        async with door(address=("0.0.0.0",)) as d:
            for number in range(40):
                await ask(d, "GET", OPEN, Origin=f"https://{number}.example{'x' * 3000}")
            assert len(caplog.records) == 21 and all(len(record.origin) == 200 for record in caplog.records)  # type: ignore[attr-defined]


@aio
async def test_a_page_without_an_origin_of_its_own_may_connect_if_that_is_listed() -> None:
    """Files and sandboxed frames send `null`; Electron and Cordova send `file://`."""
    for origin in ("null", "file://"):
        for listed, status in (((origin,), 200), ((), 403)):
            async with door(allowed_origins=listed, address=("0.0.0.0",)) as d:
                answer = await ask(d, "GET", OPEN, Origin=origin)
                assert answer.status == status
                if listed:
                    assert answer.headers["access-control-allow-origin"] == origin
                    assert ("access-control-allow-credentials" in answer.headers) is (origin != "null")


@aio
async def test_an_origin_with_a_control_character_is_a_bad_request() -> None:
    async with door() as d:
        answer = await ask(d, "GET", OPEN, Origin="http://a\x7fb")
        assert answer.status == 400


@aio
async def test_a_preflight_is_answered() -> None:
    async with door(allowed_origins=(ALLOWED,), address=("0.0.0.0",)) as d:
        answer = await ask(
            d,
            "OPTIONS",
            OPEN,
            Origin=ALLOWED,
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="x-a",
        )
        assert (answer.status, answer.body) == (204, "")
        assert answer.headers["access-control-allow-methods"] == "GET,HEAD,PUT,PATCH,POST,DELETE"
        assert answer.headers["access-control-allow-headers"] == "x-a"
        assert answer.headers["access-control-allow-origin"] == ALLOWED
        assert answer.headers["vary"] == "Origin, Access-Control-Request-Headers"
        answer = await ask(d, "OPTIONS", OPEN, Origin="https://evil.example", Access_Control_Request_Headers="x-a")
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-headers" not in answer.headers


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("192.0.2.7:50123", "192.0.2.7"),
        ("[2001:db8::7]:50123", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("192.0.2.7, 10.1.1.1:80", "192.0.2.7"),
        ("unknown", "unknown"),
        (":", ":"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::FFFF:192.0.2.7]:50123", "192.0.2.7"),
        ("192.0.2.7, ::ffff:10.1.2.3", "192.0.2.7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
    ],
)
@aio
async def test_a_port_in_a_forwarded_address_is_ignored(written: str, address: str) -> None:
    """Each connection has another port, so with it every connection would be an address of its own.

    An address written as IPv6 is the IPv4 address that it is, also where it is a trusted proxy's.
    """
    async with door(trusted_proxies=("127.0.0.1", "10.0.0.0/8")) as d:
        http = await Http.to(d)
        await http.ask("GET", OPEN, headers={"X-Forwarded-For": written})
        assert d.client().address == address
        await http.close()


@aio
async def test_only_a_trusted_proxy_may_name_the_client_address() -> None:
    forwarded = {"X-Forwarded-For": "6.6.6.6, 10.0.0.9, 192.0.2.7, 10.1.1.1", "X-Forwarded-Proto": "https"}
    page = {"Origin": "https://127.0.0.1"}
    for proxies, address in (((), "127.0.0.1"), (("127.0.0.1", "10.0.0.0/8"), "192.0.2.7")):
        async with door(trusted_proxies=proxies, address=("0.0.0.0",)) as d:
            http = await Http.to(d)
            await http.ask("GET", OPEN, headers={**forwarded, "User-Agent": "a" * 999})
            assert d.client().address == address and len(d.client().agent) == 256
            answer = await http.ask("GET", OPEN, headers={**forwarded, **page})
            assert answer.status == (200 if proxies else 403)
            await http.close()


@pytest.mark.parametrize("key", ["abc", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ==, x", "*" * 22 + "=="])
@pytest.mark.parametrize("target", [WEBSOCKET, "/rt/tickets"])
@aio
async def test_a_websocket_key_that_is_not_16_bytes_is_refused(target: str, key: str) -> None:
    """RFC 6455 4.2.1; Node answers 400 too."""
    async with door() as d:
        http = await Http.to(d)
        answer = await http.ask("GET", target, headers={**HANDSHAKE, "Sec-WebSocket-Key": key})
        assert answer.status == 400 and d.registry.clients == {}


@pytest.mark.parametrize("target", [WEBSOCKET, "/rt/tickets"])
@aio
async def test_no_offer_of_compression_makes_the_handshake_fail(target: str) -> None:
    """RFC 7692 5.1: an unacceptable offer is declined, and the connection continues without compression."""
    offers = {
        "permessage-deflate; server_max_window_bits=8": None,
        "permessage-deflate; server_max_window_bits=8, permessage-deflate": "permessage-deflate",
        "permessage-deflate; unknown=1": None,
        'permessage-deflate; server_max_window_bits="': None,
        "permessage-deflate; client_max_window_bits=\xb2": None,
        "permessage-deflate; server_no_context_takeover": "permessage-deflate; server_no_context_takeover",
        "a=;;;\xff,,": None,
    }
    async with door(websocket_deflate=True) as d:
        for offer, answered in offers.items():
            http = await Http.to(d)
            answer = await http.ask("GET", target, headers={**HANDSHAKE, "Sec-WebSocket-Extensions": offer})
            assert (answer.status, answer.headers.get("sec-websocket-extensions")) == (101, answered), offer


@aio
async def test_a_client_that_keeps_no_context_can_read_every_compressed_message() -> None:
    """RFC 7692 7.1.1.1: `server_no_context_takeover` binds the server; each message can be unpacked by itself."""
    async with door(websocket_deflate=True) as d:
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover"}
        socket = await RawSocket.to(d, WEBSOCKET, headers=offer)
        socket.say("40/tickets,")
        await until(lambda: d.recorder.clients, "connected")
        for number in range(3):
            socket.say(f'42/tickets,{number}["x","{"long " * 500}"]')
        texts: list[str] = []
        while len(texts) < 3:
            first, second = await socket.reader.readexactly(2)
            size = int.from_bytes(await socket.reader.readexactly(2), "big") if second == 126 else second
            data = await socket.reader.readexactly(size)
            if first == 0xC1:  # compressed; short messages are not
                texts.append(zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff").decode())
        assert [text[:12] for text in texts] == ["43/tickets,0", "43/tickets,1", "43/tickets,2"]
        await socket.close()


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@aio
async def test_a_chunked_body_of_http_1_0_ends_its_connection(connection: str) -> None:
    """RFC 9112 6.1: the end of such a body is uncertain, so nothing behind it is read as a request."""
    async with door() as d:
        http = await Http.to(d)
        head = (
            f"POST {OPEN} HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        http.writer.write(head.encode() + b"0\r\n\r\n" + b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        said = await http.reader.read()
        assert said.startswith(b"HTTP/1.1 400 ") and said.count(b"HTTP/1.1 ") == 1
        assert b"keep-alive" not in said.lower()


# ── JSONP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_jsonp_wraps_answers_and_unwraps_forms() -> None:
    async with door() as d:
        opened = await ask(d, "GET", OPEN + "&j=1;alert(2)")
        assert opened.body.startswith('___eio[12]("0{') and opened.body.endswith('");')
        assert opened.headers["content-type"] == "text/javascript; charset=UTF-8"
        sid = d.client().id
        form = "d=" + quote('42/tickets,["a","line\\\\nline"]')
        await ask(d, "POST", f"{OPEN}&sid={sid}&j=0", b"d=40/tickets,")
        assert (await ask(d, "POST", f"{OPEN}&sid={sid}&j=0", form.encode())).body == "ok"
        assert d.recorder.payloads() == ['"line\\nline"']
        d.client().send(d.client().codec.event("/tickets", "a", '"\u2028"'))
        answer = await ask(d, "GET", f"{OPEN}&sid={sid}&j=0")
        assert "\\u2028" in answer.body and "\u2028" not in answer.body
        await ask(d, "POST", f"{OPEN}&sid={sid}&j=0", b"e=4")
        assert d.recorder.ends == [CloseReason.PARSE_ERROR]


# ── what no client would send ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET %s HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        b"GET %s&" + b"a=1&" * 1_200 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET %s HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET %s HTTP/9.9\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03%s\r\n\r\n",
    ],
)
@aio
async def test_broken_http_harms_only_its_sender(request_bytes: bytes) -> None:
    async with door() as d:
        other, sender = await Polling.open(d), await Polling.open(d)
        http = await Http.to(d)
        http.writer.write(request_bytes.replace(b"%s", sender.target.encode()))
        try:
            assert (await http.receive()).status in (400, 413, 431)
        except (AssertionError, ConnectionError):
            assert await http.eof()
        assert (await other.post("40/chat,")).body == "ok"


@aio
async def test_an_upgrade_to_an_unknown_path_followed_by_a_reset_harms_nobody() -> None:
    """CVE-2022-41940."""
    async with door() as d:
        http = await Http.to(d)
        http.send("GET", "/elsewhere", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        http.writer.transport.abort()
        for _ in range(20):
            http = await Http.to(d)
            http.send("GET", WEBSOCKET, headers={"Upgrade": "websocket", "Connection": "Upgrade"})
            http.writer.transport.abort()
        assert (await ask(d, "GET", OPEN)).status == 200


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "a"}


@aio
async def test_new_clients_of_one_address_are_limited_by_rate() -> None:
    targets = [(OPEN, {}), (WEBSOCKET, UPGRADE), ("/rt/chat", UPGRADE)]
    async with door(max_connects_per_address_per_second=3) as d:
        await asyncio.gather(*(ask(d, "GET", OPEN) for _ in range(3)))
        answers = await asyncio.gather(*(ask(d, "GET", target, **headers) for target, headers in targets))
        assert [(answer.status, answer.headers["retry-after"]) for answer in answers] == [(429, "1")] * 3
        assert d.client_port.refused["RATE_LIMITED"] == 3
        d.skew_ms += 1_000
        assert (await ask(d, "GET", OPEN)).status == 200


@pytest.mark.parametrize("target", [OPEN, WEBSOCKET, f"{WEBSOCKET}&long=way", "/rt/chat"])
@aio
async def test_an_address_never_has_more_clients_than_allowed_even_if_all_connect_at_once(target: str) -> None:
    async def status(d: Door, target: str) -> int:
        http = await Http.to(d)
        return (await http.ask("GET", target, headers=None if target == OPEN else HANDSHAKE)).status

    async with door(max_clients_per_address=3) as d:
        let_in = 200 if target == OPEN else 101
        statuses = await asyncio.gather(*(status(d, target) for _ in range(20)))
        assert sorted(statuses) == [let_in] * 3 + [429] * 17
        assert len(d.registry.clients) == 3 and d.client_port.refused["TOO_MANY_CONNECTIONS"] == 17
        assert [await status(d, other) for other in (OPEN, WEBSOCKET, "/rt/chat")] == [429] * 3
        for client in tuple(d.registry.clients.values()):
            client.close(CloseReason.SHUTDOWN)
        assert await status(d, target) == let_in


@aio
async def test_an_address_at_its_limit_may_connect_again_when_a_client_leaves() -> None:
    async with door(max_clients_per_address=2) as d:
        first, _ = await Polling.open(d), await Polling.open(d)
        assert (await ask(d, "GET", OPEN)).status == 429
        await first.post("1")
        assert (await ask(d, "GET", OPEN)).status == 200


@aio
async def test_connects_per_minute_do_not_accumulate_over_time() -> None:
    async with door(max_connects_per_minute=5, turning=False) as d:
        socket = await RawSocket.to(d, WEBSOCKET)
        await socket.text()
        d.skew_ms += 3_600_000
        for minute in range(3):
            for _ in range(5):
                socket.say("40/chat,")
                assert (await socket.text()).startswith("40/chat")
                socket.say("41/chat,")
            d.skew_ms += 60_000 * (minute < 2)
        socket.say("40/chat,")
        assert await socket.closed() == 1005
        assert d.recorder.ends == [CloseReason.CONNECT_FLOOD]

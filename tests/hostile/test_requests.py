"""HTTP that no browser sends, on both ports: it gets an answer or is closed, without a traceback or kept memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.hostile.kit import POLL, SOCKET, Target, answers, memory_mb
from tests.support.aio import aio
from tests.support.door import UPGRADE
from tests.support.server import ServerProcess

HOST = b"Host: 127.0.0.1\r\n"
WEBSOCKET = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items()).encode()


def request(line: str, headers: bytes = b"", body: bytes = b"", method: str = "GET") -> bytes:
    return f"{method} {line} HTTP/1.1\r\n".encode() + HOST + headers + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked\r\n"
# The request to the client port, and the status of the first answer; 0: the connection is closed without one.
ASKED: dict[str, tuple[bytes, int]] = {
    "a sid that is a property of every object": (request(f"{SOCKET}&sid=__proto__", WEBSOCKET), 400),
    "a transport that is a method": (request("/socket.io/?EIO=4&transport=toString", WEBSOCKET), 400),
    "an upgrade to polling": (request(POLL, WEBSOCKET), 400),
    "two sids": (request(f"{POLL}&sid=a&sid=b"), 400),
    "a sid that is not text": (request(f"{POLL}&sid=%ff%fe"), 400),
    "an extension called constructor": (
        request(SOCKET, WEBSOCKET + b"Sec-WebSocket-Extensions: constructor, __proto__\r\n"),
        101,
    ),
    "30,000 spaces in a protocol": (
        request(SOCKET, WEBSOCKET + b"Sec-WebSocket-Protocol: b" + b" " * 30_000 + b"x\r\n"),
        101,
    ),
    "a thousand headers": (
        request(SOCKET, WEBSOCKET + b"".join(b"X-%d: a\r\n" % number for number in range(1000))),
        101,
    ),
    "a header a thousand times": (request(SOCKET, WEBSOCKET + b"X: a\r\n" * 1000), 101),
    "a header's parameters without end": (
        request(
            POLL, b"Content-Type: multipart/form-data" + b"; a=b" * 8000 + b"\r\nContent-Length: 1\r\n", b"4", "POST"
        ),
        400,
    ),
    "parts without end": (
        request(
            POLL,
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n",
            (b"--x\r\n\r\na\r\n" * 10_000)[:100_000],
            "POST",
        ),
        400,
    ),
    "a form's fields without end": (
        request(
            POLL,
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 80000\r\n",
            b"&a=1" * 20_000,
            "POST",
        ),
        400,
    ),
    "escapes without end": (request(POLL + "&x=" + "%25" * 20_000), 200),
    "a line break in the query": (request(POLL + "%0d%0aX-Y:%20z"), 400),
    "a path out of its folder": (request("/rt/../../../etc/passwd"), 404),
    "a path out of its folder, escaped": (request("/rt/%2e%2e/%2e%2e/etc/passwd"), 404),
    "a path that is another's address": (request("//evil.example/%2f.."), 404),
    "a websocket without a version of Engine.IO": (request("/socket.io/?transport=websocket", WEBSOCKET), 400),
    "a websocket of Engine.IO 3": (request("/socket.io/?EIO=3&transport=websocket", WEBSOCKET), 400),
    "a body longer than its length": (request(POLL, b"Content-Length: 1\r\n", b"4" * 100, "POST"), 400),
    "a cookie of backslashes": (request(POLL, b'Cookie: a="' + b"\\" * 30_000 + b"\r\n"), 200),
    "a thousand extra arguments": (request(POLL + "&a=1" * 2000), 400),
    "headers over 64 KB": (request(POLL + "&x=" + "a" * 70_000), 0),
    "a folded header": (request(POLL, b"X: a\r\n b\r\n"), 400),
    "both lengths": (request(POLL, CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n", "POST"), 400),
    "chunked twice": (request(POLL, CHUNKED * 2, b"0\r\n\r\n", "POST"), 400),
    "a negative length": (request(POLL, b"Content-Length: -1\r\n", b"", "POST"), 400),
    "malformed multipart": (
        request(
            POLL, b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9\r\n", b"--x\r\nabc\n", "POST"
        ),
        400,
    ),
    "an unknown method": (request(POLL, method="FOO"), 405),
    "TRACE": (request(POLL, method="TRACE"), 405),
    "no host": (f"GET {POLL} HTTP/1.1\r\n\r\n".encode(), 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a page of another site": (request(POLL, b"Origin: https://evil.example\r\n"), 403),
    "a websocket of another site's page": (request(SOCKET, WEBSOCKET + b"Origin: null\r\n"), 400),
    "an origin that begins like ours": (
        request(SOCKET, WEBSOCKET + b"Origin: http://127.0.0.1.evil.example\r\n"),
        400,
    ),
    "two origins": (request(SOCKET, WEBSOCKET + b"Origin: http://127.0.0.1\r\nOrigin: http://evil.example\r\n"), 400),
    "a native websocket of another site's page": (request("/rt/tickets", WEBSOCKET + b"Origin: null\r\n"), 403),
    "an old websocket": (request(SOCKET, WEBSOCKET.replace(b": 13", b": 8")), 426),
}


SELDOM = ("a page may not connect", "a client cannot be understood")


@pytest.mark.parametrize("name", ASKED)
def test_an_odd_request_is_answered_and_the_next_client_is_served(server: ServerProcess, name: str) -> None:
    @aio
    async def story() -> None:
        data, status = ASKED[name]
        target, before = Target(server.port), len(server.log())
        got, ended = await answers(target, data, 0.4)
        assert (got[0] == status) if got else (status == 0 and ended), (got, ended)
        assert (await (await target.http()).ask("GET", POLL)).status == 200
        said = [line for line in server.log()[before:].splitlines() if not any(text in line for text in SELDOM)]
        assert said == [], "strangers cause only log lines that are written at most once a minute"
        await target.close()

    story()


def test_a_websocket_that_is_reset_during_its_handshake_leaves_no_trace(server: ServerProcess) -> None:
    @aio
    async def story() -> None:
        target = Target(server.port)
        for path in ("/foreign", SOCKET, "/rt/chat"):
            http = await target.http()
            http.writer.write(request(path, WEBSOCKET))
            http.writer.transport.abort()
        await asyncio.sleep(0.2)
        assert (await (await target.http()).ask("GET", POLL)).status == 200
        await target.close()

    story()


def test_a_post_of_500000_packets_does_not_block_other_clients(server: ServerProcess) -> None:
    @aio
    async def story() -> None:
        target = Target(server.port)
        path, neighbour = await target.session(), await target.http()
        connect = f"40/tickets,{json.dumps({'token': server.token('posty', 'customer')})}"
        await neighbour.ask("POST", path, connect.encode())
        assert (await neighbour.ask("GET", path)).body.startswith("40/tickets")
        post = asyncio.create_task((await target.http()).ask("POST", path, b"3" + b"\x1e3" * 499_999))
        answers = 0
        while not post.done():
            await neighbour.ask("GET", "/socket.io/?EIO=3")
            answers += 1
        assert (await post).status == 200
        assert answers > 10
        await target.close()

    story()


@pytest.mark.parametrize("path", ["/rt/tickets", "/nowhere", f"{POLL}&sid=none"])
def test_a_body_that_nobody_reads_is_not_kept_in_memory(server: ServerProcess, path: str) -> None:
    @aio
    async def story() -> None:
        target = Target(server.port)
        before_mb = memory_mb(server)
        most_mb = 0.0
        for _ in range(3):
            http = await target.http()
            http.writer.write(request(path, b"Content-Length: 40000001\r\n", method="POST"))
            try:
                async with asyncio.timeout(3):
                    for _ in range(40):
                        http.writer.write(b"x" * 1_000_000)
                        await http.writer.drain()
            except (ConnectionError, TimeoutError):
                pass  # the server may cut it off
            most_mb = max(most_mb, memory_mb(server))
        await target.close()
        assert most_mb < before_mb + 40, f"{most_mb - before_mb:.0f} MB are held for three strangers"

    story()


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


SLOW: dict[str, tuple[str, bytes]] = {
    "headers at the client port": ("port", b"GET /socket.io/ HTTP/1.1\r\nHost: a\r\nX: a"),
    "nothing at the client port": ("port", b""),
    "headers at the admin port": ("admin_port", b"GET /readyz HTTP/1.1\r\nHost: a\r\nX: a"),
    "nothing at the admin port": ("admin_port", b""),
}


def test_a_client_slower_than_the_handshake_timeout_is_cut_off(tmp_path: Path) -> None:
    impatient = ServerProcess(tmp_path, handshake_timeout_s=1, drain_seconds=0)
    impatient.start()

    async def story() -> None:
        asked = (answers(Target(getattr(impatient, port)), start, 4.0) for port, start in SLOW.values())
        ends = await asyncio.gather(*asked)
        still_open = [name for name, (_, ended) in zip(SLOW, ends, strict=True) if not ended]
        assert not still_open, f"after four times handshake_timeout_s: {still_open}"

    try:
        aio(story)()
    finally:
        assert impatient.stop() == 0


# ── admin port ────────────────────────────────────────────────────────────────────────────────────────────────────────

API = [
    ("GET", "/api/v1/tickets/t1"),
    ("PUT", "/api/v1/tickets/t1"),
    ("DELETE", "/api/v1/tickets/t1"),
    ("POST", "/api/v1/tickets/t1/comments"),
    ("POST", "/api/v1/notifications"),
    ("POST", "/api/v1/emit"),
]


@pytest.mark.parametrize(("method", "path"), API)
def test_only_admins_may_use_the_admin_api(server: ServerProcess, method: str, path: str) -> None:
    @aio
    async def story() -> None:
        for token, status in (
            (None, 401),
            ("a.b.c", 401),
            (server.token("ada", "agent", "red"), 403),
            (server.token("carl", "customer"), 403),
        ):
            assert (await server.push(method, path, {}, token=token))[0] == status

    story()


@pytest.mark.parametrize("ticket_id", ["..%2f..%2fx", "a%0a", "*", "%00", "a" * 100, "%ef%bd%94"])
def test_an_invalid_ticket_id_from_the_back_end_is_a_bad_request(server: ServerProcess, ticket_id: str) -> None:
    @aio
    async def story() -> None:
        assert (await server.push("PUT", f"/api/v1/tickets/{ticket_id}", {"subject": "x"}))[0] in (400, 404)

    story()

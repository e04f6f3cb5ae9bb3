"""The fast path and Tornado's handlers give the same answer, byte for byte, to every request of a table.

Each request is sent twice to a new client port: once with the fast path in front, once to Tornado's handlers alone.
Status line, header fields in their order, body, whether the connection stays open, and the metrics must be equal;
only the Date is not compared. The table also says which of the two answers if both are present. An intended
difference would be listed in MEANT, with its reason; there is none.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any, NamedTuple

import pytest

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from tests.support.aio import aio, until
from tests.support.door import UPGRADE, Door, Http, RawSocket, door, frame

POLL = "/socket.io/?EIO=4&transport=polling"
SOCKET = "/socket.io/?EIO=4&transport=websocket"
NATIVE = "/rt/tickets"
SID = "n1.s1"  # the session id that a prelude opens
FAST, TORNADO = "fast path", "Tornado"
MEANT: dict[str, str] = {}
SILENCE_S = 0.05  # an answer followed by this one is complete


class Case(NamedTuple):
    answered_by: str
    data: bytes
    before: str = ""  # what happens on other connections before: a key of PRELUDES
    settings: dict[str, Any] = {}


def request(line: str, headers: dict[str, str | None] | None = None, body: str | bytes = b"") -> bytes:
    """Return a request of HTTP/1.1; a header whose value is None is left out."""
    fields = {"Host": "127.0.0.1", **(headers or {})}
    lines = [f"{line} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body.encode() if isinstance(body, str) else body)


def get(target: str = POLL, **headers: str | None) -> bytes:
    return request(f"GET {target}", {name.replace("_", "-"): value for name, value in headers.items()})


def post(body: str | bytes, target: str = f"{POLL}&sid={SID}", **headers: str | None) -> bytes:
    size = str(len(body.encode() if isinstance(body, str) else body))
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(f"POST {target}", {"Content-Length": size, **fields}, body)


def upgrade(target: str = SOCKET, **headers: str | None) -> bytes:
    fields: dict[str, str | None] = {**UPGRADE}
    return request(f"GET {target}", {**fields, **{name.replace("_", "-"): value for name, value in headers.items()}})


PAGE = {"Origin": "https://app.example.com"}
EVIL = {"Origin": "https://evil.example"}
LISTED = {"allowed_origins": ("https://app.example.com",), "address": ("0.0.0.0",)}
PROXY = {"trusted_proxies": ("127.0.0.1",), "address": ("0.0.0.0",)}
BOTH = f"{POLL}&sid={SID}"

CASES: dict[str, Case] = {
    # ── plain: what stock clients send ──
    "a poll opens a session": Case(FAST, get()),
    "a poll with a time stamp": Case(FAST, get(f"{POLL}&t=P9x_-.a")),
    "a poll with the parameters in Python's order": Case(FAST, get("/socket.io/?transport=polling&EIO=4")),
    "a poll that ends its connection": Case(FAST, get(Connection="close")),
    "a poll that keeps its connection": Case(FAST, get(Connection="keep-alive")),
    "a poll of a page of the same origin": Case(
        FAST, get(Origin="http://127.0.0.1"), settings={"address": ("0.0.0.0",)}
    ),
    "a poll of a listed page": Case(FAST, get(**PAGE), settings=LISTED),
    "a poll of any page": Case(FAST, get(**EVIL), settings={"allowed_origins": ("*",)}),
    "a poll of a page without an origin": Case(FAST, get(Origin="null"), settings={"allowed_origins": ("null",)}),
    "a poll that gets messages": Case(FAST, get(BOTH), "joined"),
    "a poll that gets messages and ends its connection": Case(FAST, get(BOTH, Connection="close"), "joined"),
    "a poll of a listed page that gets messages": Case(FAST, get(BOTH, **PAGE), "joined", LISTED),
    "a POST": Case(FAST, post("40/tickets,"), "session"),
    "a POST that ends its connection": Case(FAST, post("40/tickets,", Connection="close"), "session"),
    "a POST of a listed page": Case(FAST, post("40/tickets,", **PAGE), "session", LISTED),
    "a POST of several packets": Case(FAST, post("40/tickets,\x1e3\x1e40/chat,"), "session"),
    "a POST with letters outside ASCII": Case(FAST, post('42/tickets,["n","é😀"]'), "joined"),
    "a POST that closes the session": Case(FAST, post("1"), "session"),
    "two requests in one packet": Case(FAST, post("40/tickets,") + get(BOTH), "session"),
    "a websocket": Case(FAST, upgrade()),
    "a websocket with its first message": Case(FAST, upgrade() + frame(1, b"40/tickets,")),
    "a websocket as Firefox asks for it": Case(FAST, upgrade(Connection="keep-alive, Upgrade")),
    "a websocket that offers subprotocols": Case(FAST, upgrade(Sec_WebSocket_Protocol="chat, x")),
    "a websocket that offers an illegal subprotocol": Case(FAST, upgrade(Sec_WebSocket_Protocol="a b")),
    "a websocket that offers compression": Case(FAST, upgrade(Sec_WebSocket_Extensions="permessage-deflate")),
    "a websocket that probes": Case(FAST, upgrade(f"{SOCKET}&sid={SID}") + frame(1, b"2probe"), "session"),
    "a second websocket that probes": Case(FAST, upgrade(f"{SOCKET}&sid={SID}"), "probing"),
    "a native websocket": Case(FAST, upgrade(NATIVE)),
    "a native websocket that connects": Case(FAST, upgrade(NATIVE) + frame(1, b'{"event":"connect","data":{}}')),
    "a native websocket with a token": Case(FAST, upgrade(NATIVE, Authorization="Bearer t.o.k")),
    "a native websocket that sends nonsense": Case(FAST, upgrade(NATIVE) + frame(1, b"{")),
    # ── unusual: valid, but not sent by stock clients ──
    "a poll of HTTP/1.0": Case(TORNADO, get().replace(b"HTTP/1.1", b"HTTP/1.0")),
    "a poll of HTTP/1.0 that keeps its connection": Case(
        TORNADO, get(Connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    ),
    "a poll with an escaped parameter": Case(TORNADO, get("/socket.io/?EIO=4&transport=%70olling")),
    "a poll with an unknown parameter": Case(TORNADO, get(f"{POLL}&b64=1")),
    "a poll with JSONP": Case(TORNADO, get(f"{POLL}&j=0")),
    "a poll of a longer path": Case(TORNADO, get("/socket.io/extra?EIO=4&transport=polling")),
    "a poll with a header twice": Case(TORNADO, get().replace(b"Host:", b"X: a\r\nX: b\r\nHost:")),
    "a poll with lines that end with LF": Case(TORNADO, get().replace(b"\r\n", b"\n")),
    "a HEAD": Case(TORNADO, request(f"HEAD {POLL}")),
    "an OPTIONS of a listed page": Case(
        TORNADO, request(f"OPTIONS {POLL}", {**PAGE, "Access-Control-Request-Headers": "x-a"}), settings=LISTED
    ),
    "a POST with an empty body": Case(FAST, post(""), "session"),
    "a POST that is chunked": Case(
        TORNADO,
        request(f"POST {BOTH}", {"Transfer-Encoding": "chunked"}, b"1\r\n3\r\n0\r\n\r\n"),
        "session",
    ),
    "a POST that waits for 100 Continue": Case(TORNADO, post("3", Expect="100-continue"), "session"),
    "a POST over 8 KB": Case(TORNADO, post('42/tickets,["n","' + "x" * 9_000 + '"]'), "joined"),
    "a POST of 40 packets": Case(TORNADO, post("\x1e".join(["3"] * 40)), "session"),
    "a websocket with TLS in front": Case(
        FAST, upgrade(X_Forwarded_Proto="https", Origin="https://127.0.0.1"), settings=PROXY
    ),
    "a poll through a proxy": Case(FAST, get(X_Forwarded_For="192.0.2.7, 127.0.0.1"), settings=PROXY),
    "/healthz": Case(TORNADO, get("/healthz")),
    # ── refused by admission ──
    "a poll of a page that is not listed": Case(TORNADO, get(**EVIL), settings=LISTED),
    "a websocket of a page that is not listed": Case(TORNADO, upgrade(**EVIL), settings=LISTED),
    "a native websocket of a page that is not listed": Case(TORNADO, upgrade(NATIVE, **EVIL), settings=LISTED),
    "a POST of a page that is not listed": Case(TORNADO, post("3", **EVIL), "session", LISTED),
    "a poll while the node drains": Case(TORNADO, get(), "draining"),
    "a websocket while the node drains": Case(TORNADO, upgrade(), "draining"),
    "a native websocket while the node drains": Case(TORNADO, upgrade(NATIVE), "draining"),
    "/healthz while the node drains": Case(TORNADO, get("/healthz"), "draining"),
    "a poll over the rate": Case(TORNADO, get(), "session", {"max_connects_per_address_per_second": 1}),
    "a websocket over the rate": Case(TORNADO, upgrade(), "session", {"max_connects_per_address_per_second": 1}),
    "a POST over the rate": Case(FAST, post("3"), "session", {"max_connects_per_address_per_second": 1}),
    "a poll of an address with too many clients": Case(TORNADO, get(), "session", {"max_clients_per_address": 1}),
    "a websocket of an address with too many clients": Case(
        TORNADO, upgrade(NATIVE), "session", {"max_clients_per_address": 1}
    ),
    "a poll of a blocked address": Case(TORNADO, get(), "blocked"),
    "a websocket of a blocked address": Case(TORNADO, upgrade(), "blocked"),
    "a native websocket of a blocked address": Case(TORNADO, upgrade(NATIVE), "blocked"),
    "a poll of an unknown session": Case(TORNADO, get(f"{POLL}&sid=n1.none")),
    "a POST of an unknown session": Case(TORNADO, post("3", f"{POLL}&sid=n1.none")),
    "a websocket of an unknown session": Case(TORNADO, upgrade(f"{SOCKET}&sid=n1.none")),
    "a poll of a websocket's session": Case(TORNADO, get(BOTH), "websocket"),
    "a POST of a websocket's session": Case(TORNADO, post("3"), "websocket"),
    "a second poll of a session": Case(TORNADO, get(BOTH), "parked"),
    "a poll of a closed session with a last message": Case(TORNADO, get(BOTH), "farewell"),
    "a poll without a version": Case(TORNADO, get("/socket.io/?transport=polling")),
    "a poll of version 3": Case(TORNADO, get("/socket.io/?EIO=3&transport=polling")),
    "a websocket of version 3": Case(TORNADO, upgrade("/socket.io/?EIO=3&transport=websocket")),
    "an unknown transport": Case(TORNADO, get("/socket.io/?EIO=4&transport=tobi")),
    "no transport": Case(TORNADO, get("/socket.io/?EIO=4")),
    "a transport that is not offered": Case(TORNADO, upgrade(), settings={"transports": ("polling",)}),
    "a websocket that asks to poll": Case(TORNADO, upgrade(POLL)),
    "a poll that asks for a websocket": Case(TORNADO, get(SOCKET)),
    "a POST without a session": Case(TORNADO, post("3", POLL)),
    "a PUT": Case(TORNADO, request(f"PUT {POLL}", {"Content-Length": "0"})),
    "an unknown method": Case(TORNADO, request(f"BREW {POLL}")),
    "an unknown path": Case(TORNADO, get("/nowhere")),
    "an unknown namespace": Case(TORNADO, upgrade("/rt/nowhere")),
    "a namespace without an upgrade": Case(TORNADO, get(NATIVE)),
    # ── hostile ──
    "a websocket of version 8": Case(TORNADO, upgrade(Sec_WebSocket_Version="8")),
    "a websocket without a key": Case(TORNADO, upgrade(Sec_WebSocket_Key=None)),
    "a websocket with a short key": Case(TORNADO, upgrade(Sec_WebSocket_Key="abc")),
    "a websocket without Connection: Upgrade": Case(TORNADO, upgrade(Connection="keep-alive")),
    "a native websocket with two keys": Case(TORNADO, upgrade(NATIVE, Sec_WebSocket_Key="a==, b==")),
    "a session id twice": Case(TORNADO, get(f"{BOTH}&sid=x"), "session"),
    "a transport twice": Case(TORNADO, get(f"{POLL}&transport=websocket")),
    "a poll of __proto__": Case(TORNADO, get(f"{POLL}&sid=__proto__")),
    "a poll without Host": Case(TORNADO, get(Host=None)),
    "a poll with two Hosts": Case(TORNADO, get().replace(b"Host:", b"Host: a\r\nHost:")),
    "a poll with a wrong Host": Case(TORNADO, get(Host="evil@example.com")),
    "a folded header": Case(TORNADO, get().replace(b"Host:", b"X: a\r\n b\r\nHost:")),
    "a space before the colon": Case(TORNADO, get().replace(b"Host:", b"Host :")),
    "a NUL in a header": Case(TORNADO, get(User_Agent="a\0b")),
    "an Origin with a control character": Case(TORNADO, get(Origin="http://a\x7fb")),
    "an Origin outside ASCII": Case(TORNADO, get(Origin="http://b\xf6se"), settings={"allowed_origins": ("*",)}),
    "two lengths": Case(TORNADO, post("3").replace(b"Content-Length: 1", b"Content-Length: 1\r\nContent-Length: 2")),
    "a length and chunks": Case(TORNADO, post("3", Transfer_Encoding="chunked"), "session"),
    "a negative length": Case(TORNADO, post("3", Content_Length="-1"), "session"),
    "a length with a sign": Case(TORNADO, post("3", Content_Length="+1"), "session"),
    "a length with leading zeros": Case(FAST, post("3", Content_Length="01"), "session"),
    "a GET with a body": Case(TORNADO, get(Content_Length="3") + b"abc"),
    "a POST that is too long": Case(TORNADO, post("4" * 2_000), "session", {"max_payload_bytes": 1_000}),
    "a POST that announces too much": Case(TORNADO, post("", Content_Length="2000000"), "session"),
    "a POST that is not UTF-8": Case(TORNADO, post(b"4\xff"), "joined"),
    "a binary POST": Case(TORNADO, post("4", Content_Type="application/octet-stream"), "session"),
    "a POST with a bad packet": Case(FAST, post("x"), "session"),
    "a POST with a bad packet behind a good one": Case(FAST, post("40/tickets,\x1ex"), "session"),
    "a POST into an unknown namespace": Case(FAST, post("42/nowhere,[1]"), "session"),
    "an unmasked frame behind a handshake": Case(FAST, upgrade() + frame(1, b"40/tickets,", mask=False)),
    "a huge frame behind a handshake": Case(FAST, upgrade() + b"\x81\xff" + b"\x7f" * 8),
    "a request behind a refused one": Case(TORNADO, get("/socket.io/?EIO=3&transport=polling") + get()),
    "HTTP/9.9": Case(TORNADO, get().replace(b"HTTP/1.1", b"HTTP/9.9")),
    "a TLS hello": Case(TORNADO, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n"),
    "half a head": Case(TORNADO, get()[:30], settings={"head_ms": 200}),
}


# ── preludes ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def opened(d: Door, *bodies: str) -> Http:
    """Open a polling session at the door and POST to it."""
    http = await Http.to(d)
    await http.ask("GET", POLL)
    for body in bodies:
        await http.ask("POST", BOTH, body.encode())
    return http


async def before(d: Door, prelude: str) -> None:
    match prelude:
        case "session":
            await opened(d)
        case "joined":
            await opened(d, "40/tickets,")
        case "parked":
            http = await opened(d)
            http.send("GET", BOTH)
            await until(lambda: d.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]
        case "probing":
            await opened(d)
            (await RawSocket.to(d, f"{SOCKET}&sid={SID}")).say("2probe")
            await asyncio.sleep(SILENCE_S)
        case "websocket":
            await RawSocket.to(d, SOCKET)
        case "farewell":
            await opened(d, "40/tickets,")
            d.client().close(CloseReason.KICKED)
        case "draining":
            d.client_port.accepting = False
        case "blocked":
            d.client_port.admission._is_blocked = lambda address: True


async def answer(d: Door, data: bytes) -> bytes:
    """Send bytes on a new connection; return all bytes that come back, and whether the connection stays open."""
    http = await Http.to(d)
    http.writer.write(data)
    got, wait_s = b"", 1.0
    while True:
        try:
            async with asyncio.timeout(wait_s):
                more = await http.reader.read(65_536)
        except TimeoutError:
            return got + b"<open>"
        except ConnectionError:
            return got + b"<closed>"
        if not more:
            return got + b"<closed>"
        got, wait_s = got + more, SILENCE_S


async def outcome(case: Case) -> tuple[dict[str, Any], str]:
    async with door(**case.settings) as d:
        await before(d, case.before)
        by_tornado = d.by_tornado
        got = await answer(d, case.data)
        seen = {
            "answer": re.sub(rb"Date: [^\r]*", b"Date: x", got),
            "clients": sorted(d.registry.clients),
            "refused": dict(d.client_port.refused),
            "over": dict(d.registry.over_limit),
            "ends": list(d.recorder.ends),
        }
        return seen, TORNADO if d.by_tornado > by_tornado else FAST


@pytest.mark.parametrize("name", CASES)
@aio
async def test_both_paths_give_the_same_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    numbers = itertools.count(1)
    monkeypatch.setattr(ClientRegistry, "new_id", lambda self: f"n1.s{next(numbers)}")
    with_fast_path, answered_by = await outcome(case)
    monkeypatch.setattr("tests.support.door.fast_path_allowed", lambda *_, **__: False)
    numbers = itertools.count(1)
    by_tornado, _ = await outcome(case)
    assert answered_by == case.answered_by
    assert with_fast_path["answer"], "there is an answer"
    if name not in MEANT:
        assert with_fast_path == by_tornado


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 60 and set(MEANT) <= set(CASES)
    assert {case.answered_by for case in CASES.values()} == {FAST, TORNADO}

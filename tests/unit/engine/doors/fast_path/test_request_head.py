"""engine/doors/fast_path/request_head.py: which heads are plain, and that no input is misread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.doors.fast_path.request_head import PlainRequest, parse
from tests.support.door import UPGRADE

FRESH = "/socket.io/?EIO=4&transport=websocket"
NATIVE = "/rt/tickets"
POLL = "/socket.io/?EIO=4&transport=polling"
HOST = {"Host": "desk.example.com:3001"}


def head_of(line: str, headers: dict[str, str], **changed: str | None) -> bytes:
    """Return a head with some headers changed; None takes one out."""
    renamed = {name.replace("_", "-"): value for name, value in changed.items()}
    kept = {name: value for name, value in {**HOST, **headers, **renamed}.items() if value is not None}
    return (
        "".join(each + "\r\n" for each in (line, *(f"{n}: {v}" for n, v in kept.items()))).encode("latin-1") + b"\r\n"
    )


def upgrade(target: str = FRESH, method: str = "GET", version: str = "1.1", **changed: str | None) -> bytes:
    return head_of(f"{method} {target} HTTP/{version}", UPGRADE, **changed)


def poll(query: str = "&t=a&sid=n1.abc", method: str = "GET", **changed: str | None) -> bytes:
    return head_of(f"{method} {POLL}{query} HTTP/1.1", {"User-Agent": "x"}, **changed)


def post(query: str = "&sid=n1.abc", **changed: str | None) -> bytes:
    return poll(query, "POST", **{"Content_Length": "2", "Content_Type": "text/plain;charset=UTF-8", **changed})


def summary(head: PlainRequest | None) -> tuple[object, ...] | None:
    return None if head is None else (head.method, head.namespace, head.transport, head.sid, head.body)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (upgrade(), ("GET", "", "websocket", "", None)),
        (upgrade(f"{FRESH}&t=P9x_-.a"), ("GET", "", "websocket", "", None)),
        (upgrade(f"{FRESH}&t=P9x&sid=n1.abc-_"), ("GET", "", "websocket", "n1.abc-_", None)),
        (upgrade("/socket.io/?transport=websocket&EIO=4&sid=s"), ("GET", "", "websocket", "s", None)),  # Python's
        (upgrade(NATIVE), ("GET", "/tickets", "websocket", "", None)),
        (upgrade(Connection="keep-alive, Upgrade"), ("GET", "", "websocket", "", None)),  # Firefox
        (upgrade(Upgrade="WebSocket"), ("GET", "", "websocket", "", None)),
        (upgrade(Host="[::1]:3001"), ("GET", "", "websocket", "", None)),
        (upgrade(Sec_WebSocket_Extensions="permessage-deflate; x"), ("GET", "", "websocket", "", None)),
        (upgrade().replace(b"Upgrade: ", b"uPGRADE:\t "), ("GET", "", "websocket", "", None)),
        (upgrade(User_Agent="café"), ("GET", "", "websocket", "", None)),
        (poll(), ("GET", "", "polling", "n1.abc", None)),
        (poll(""), ("GET", "", "polling", "", None)),
        (poll(Connection="keep-alive"), ("GET", "", "polling", "n1.abc", None)),
        (poll(Connection="close"), ("GET", "", "polling", "n1.abc", None)),
        (post(), ("POST", "", "polling", "n1.abc", 2)),
        (post(Content_Length="0"), ("POST", "", "polling", "n1.abc", 0)),
        (post(Content_Type=None), ("POST", "", "polling", "n1.abc", 2)),
    ],
)
def test_requests_of_stock_clients_are_read(data: bytes, expected: tuple[object, ...]) -> None:
    head = parse(data + b"more")
    assert summary(head) == expected
    assert head is not None and head.length == len(data) and head.headers["host"]
    assert head.last is (b"Connection: close" in data)


@pytest.mark.parametrize(
    "data",
    [
        upgrade(method="POST"),
        upgrade(version="1.0"),
        upgrade(f"http://localhost{FRESH}"),
        upgrade("/socket.io/?EIO=3&transport=websocket"),
        upgrade("/socket.io/?EIO=4"),
        upgrade("/socket.io/?transport=websocket"),
        upgrade("/socket.io/"),
        upgrade("/socket.io"),
        upgrade(f"{FRESH}&transport=polling"),
        upgrade(f"{FRESH}&transport=websocket"),
        upgrade(f"{FRESH}&sid=a&sid=b"),
        upgrade(f"{FRESH}&sid="),
        upgrade(f"{FRESH}&"),
        upgrade(f"{FRESH}&b64=1"),
        upgrade(f"{FRESH}&EIO=4"),
        upgrade(f"{FRESH}&sid=" + "x" * 65),
        upgrade(f"{FRESH}&sid=a%20b"),
        upgrade("/other/?EIO=4&transport=websocket"),
        upgrade(f"{NATIVE}/"),
        upgrade(f"{NATIVE}?token=t.o.k"),
        upgrade("/rt/"),
        upgrade("/rt/%74ickets"),
        upgrade(NATIVE).replace(b"Host:", b"Authorization: a\r\nauthorization: b\r\nHost:"),
        upgrade(POLL),
        upgrade(Upgrade=None),
        upgrade(Upgrade="h2c"),
        upgrade(Connection="keep-alive"),
        upgrade(Sec_WebSocket_Version="8"),
        upgrade(Sec_WebSocket_Key=None),
        upgrade(Sec_WebSocket_Key="short"),
        upgrade(Host=None),
        upgrade(Host="one.example.com,two.example.com"),
        upgrade(Host="evil@example.com"),
        upgrade(Content_Length="3"),
        upgrade(Content_Length="0"),
        upgrade(Transfer_Encoding="chunked"),
        upgrade(Expect="100-continue"),
        upgrade().replace(b"Host:", b"Upgrade: websocket\r\nHost:"),  # a field twice
        upgrade().replace(b"Host:", b"HOST: other\r\nHost:"),
        upgrade().replace(b"Host:", b"Host :"),  # RFC 9112 5.1
        upgrade().replace(b"Host:", b"X: a\r\n b\r\nHost:"),  # folded, RFC 9112 5.2
        upgrade().replace(b"\r\n", b"\n"),
        upgrade(User_Agent="a\rb"),
        upgrade(User_Agent="a\0b"),
        b" " + upgrade(),
        upgrade()[:-2],  # not whole yet
        poll("&j=0&sid=a"),  # JSONP
        poll(method="OPTIONS"),
        poll(method="HEAD"),
        poll(Connection="close, TE"),
        poll(Upgrade="h2c"),
        poll(Content_Length="0"),
        poll(Transfer_Encoding="chunked"),
        post(""),  # no session
        post(Content_Length=None),
        post(Content_Length="+2"),
        post(Content_Length="2, 2"),
        post(Content_Length="-1"),
        post(Content_Length="²"),
        post(Content_Length="10000"),
        post(Transfer_Encoding="chunked"),
        post(Expect="100-continue"),
        post(Content_Type="application/octet-stream"),
        post().replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 3"),
        post().replace(b"Content-Length", b"Content_Length"),
    ],
)
def test_every_other_request_is_left_to_tornado(data: bytes) -> None:
    assert parse(data) is None


@given(st.binary(max_size=300), st.integers(0, 200), st.sampled_from([upgrade(), upgrade(NATIVE), poll(), post()]))
def test_no_input_makes_the_parser_raise(data: bytes, at: int, whole: bytes) -> None:
    assert parse(data) is None
    head = parse(whole[:at] + data + whole[at:])
    assert head is None or (head.headers["host"] and head.length <= len(whole) + len(data))

"""Reads the head of a request that nothing is odd about: RFC 9112's strict part, and the targets stock clients ask for.

    parse(b"GET /socket.io/?EIO=4&transport=polling&t=a&sid=n1.x HTTP/1.1\r\nHost: …\r\n\r\n…")  ─▶  Head, or None

None says only that another reader must look: Tornado, as if nobody had looked before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

MAX_HEAD = 8_192  # bytes, with the body of a short POST; what is longer goes the long way
# RFC 9112 2.2 and 5: tokens, one colon, no folded lines, no control characters, CRLF.
_HEAD = re.compile(
    rb"(GET|POST) (?:/rt(/[a-z]{1,64})|/socket\.io/\?([\w.\-=&]{1,256})) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
).match
_PARAMETER = re.compile(r"EIO=4|transport=(polling|websocket)|t=[\w.\-]{1,32}|sid=[\w.\-]{1,64}", re.ASCII).fullmatch
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](?::[0-9]{1,5})?").fullmatch
KEY = re.compile(r"[A-Za-z0-9+/]{22}==").fullmatch  # RFC 6455 4.1: 16 bytes
# RFC 6455 4.1: tokens (RFC 9110 5.6.2), separated by commas; the first of them.
_SUBPROTOCOL = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII).fullmatch
_LENGTH = re.compile(r"[0-9]{1,4}", re.ASCII).fullmatch


class RequestHead(Struct, frozen=True, gc=False):
    """`namespace` is that of /rt, "" at /socket.io/; `sid` is "" for a new session. `length` is the head's, in bytes.

    `body` is the body's in bytes, None if the head announces none. `last`: the connection is not to be kept.
    """

    method: str
    namespace: str
    transport: str
    sid: str
    query: str  # as it was written
    headers: Mapping[str, str]  # names in lower case
    length: int
    body: int | None
    last: bool


def parse(data: bytes) -> RequestHead | None:
    """Return the head that the bytes begin with. None: it is not whole, or odd."""
    found = _HEAD(data)
    if found is None:
        return None
    method, namespace, query, lines = found.groups(b"")
    headers = fields(lines)
    asked = parameters(query.decode()) if query else {"EIO": "4", "transport": "websocket"}
    if headers is None or asked is None or "EIO" not in asked or "transport" not in asked:
        return None
    if _HOST(headers.get("host", "")) is None or "transfer-encoding" in headers or "expect" in headers:
        return None
    length = headers.get("content-length")
    if length is not None and _LENGTH(length) is None:
        return None
    head = RequestHead(
        method.decode(),
        namespace.decode(),
        asked["transport"],
        asked.get("sid", ""),
        query.decode(),
        headers,
        found.end(),
        None if length is None else int(length),
        headers.get("connection", "").lower() == "close",
    )
    return head if (_is_websocket(head) if head.transport == "websocket" else _is_poll(head)) else None


def fields(lines: bytes) -> dict[str, str] | None:
    """Return a head's fields by name in lower case; None if one is there twice."""
    pairs = [line.split(":", 1) for line in lines.decode("latin-1").split("\r\n")[:-1]]
    found = {name.lower(): value.strip(" \t") for name, value in pairs}
    return found if len(found) == len(pairs) else None


def parameters(query: str) -> dict[str, str] | None:
    """Return the parameters that stock clients write; None if there is another, or one twice."""
    found: dict[str, str] = {}
    for pair in query.split("&"):
        known = _PARAMETER(pair)
        if known is None:
            return None
        name, _, value = pair.partition("=")
        if name in found:
            return None
        found[name] = value
    return found


def _is_websocket(head: RequestHead) -> bool:
    get = head.headers.get
    return (
        head.method == "GET"
        and head.body is None
        and get("upgrade", "").lower() == "websocket"
        and "upgrade" in [word.strip() for word in get("connection", "").lower().split(",")]
        and get("sec-websocket-version") == "13"
        and KEY(get("sec-websocket-key", "")) is not None
    )


def _is_poll(head: RequestHead) -> bool:
    """A GET has no body, a POST has a session and a text."""
    if "upgrade" in head.headers or head.headers.get("connection", "").lower() not in ("", "keep-alive", "close"):
        return False
    if head.method == "GET":
        return head.body is None
    return (
        bool(head.sid) and head.body is not None and "octet-stream" not in head.headers.get("content-type", "").lower()
    )


def subprotocol(offered: str) -> str:
    """Return the subprotocol to echo for a Sec-WebSocket-Protocol header: the first one offered, as Node's `ws` does.

    Without an echo, browsers and `ws` close the websocket (RFC 6455 4.1). "" if none is offered or it is not a token.
    """
    first = offered.partition(",")[0].strip(" \t")
    return first if _SUBPROTOCOL(first) else ""

"""Reads the head of a plain request: the strict part of RFC 9112, and the targets that stock clients ask for.

    parse(b"GET /socket.io/?EIO=4&transport=polling&t=a&sid=n1.x HTTP/1.1\r\nHost: …\r\n\r\n…")  ─▶  PlainRequest

It returns None for a request that is left to Tornado, which then reads it from its first byte.
"""

from __future__ import annotations

import re

from insightdesk_rt.engine.doors.admission import RequestHead
from insightdesk_rt.engine.doors.handshake import KEY, asks_upgrade

MAX_HEAD = 8_192  # bytes, with the body of a short POST; a longer request is left to Tornado
# RFC 9112 2.2 and 5: tokens, one colon, no folded lines, no control characters, CRLF.
_HEAD = re.compile(
    rb"(GET|POST) (?:/rt(/[a-z]{1,64})|/socket\.io/\?([\w.\-=&]{1,256})) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
).match
_PARAMETER = re.compile(r"EIO=4|transport=(polling|websocket)|t=[\w.\-]{1,32}|sid=[\w.\-]{1,64}", re.ASCII).fullmatch
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](?::[0-9]{1,5})?").fullmatch
_LENGTH = re.compile(r"[0-9]{1,4}", re.ASCII).fullmatch


class PlainRequest(RequestHead, frozen=True, gc=False):
    """A request head as the fast path reads it. `headers` have names in lower case; `length` is the head's, in bytes.

    `body` is the length of the body in bytes, None if the head announces none. `last`: the connection ends with the
    answer.
    """

    length: int
    body: int | None
    last: bool


def parse(data: bytes) -> PlainRequest | None:
    """Return the head at the beginning of the data; None if it is incomplete or not plain."""
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
    length, origin = headers.get("content-length"), headers.get("origin", "")
    if (length is not None and _LENGTH(length) is None) or not (origin.isascii() and origin.isprintable()):
        return None
    head = PlainRequest(
        method.decode(),
        namespace.decode(),
        asked["transport"] == "websocket",
        asked["transport"],
        asked.get("sid", ""),
        asked["EIO"],
        query.decode(),
        headers,
        found.end(),
        None if length is None else int(length),
        headers.get("connection", "").lower() == "close",
    )
    return head if (_is_websocket(head) if head.upgrade else _is_poll(head)) else None


def fields(lines: bytes) -> dict[str, str] | None:
    """Return the fields of a head by name in lower case; None if one occurs twice."""
    pairs = [line.split(":", 1) for line in lines.decode("latin-1").split("\r\n")[:-1]]
    found = {name.lower(): value.strip(" \t") for name, value in pairs}
    return found if len(found) == len(pairs) else None


def parameters(query: str) -> dict[str, str] | None:
    """Return the query parameters; None if one occurs twice, or is not among those that stock clients write."""
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


def _is_websocket(head: PlainRequest) -> bool:
    get = head.headers.get
    return (
        head.method == "GET"
        and head.body is None
        and get("upgrade", "").lower() == "websocket"
        and asks_upgrade(head.headers)
        and get("sec-websocket-version") == "13"
        and KEY(get("sec-websocket-key", "")) is not None
    )


def _is_poll(head: PlainRequest) -> bool:
    """Return whether a GET has no body, or a POST has a session and a text body."""
    if "upgrade" in head.headers or head.headers.get("connection", "").lower() not in ("", "keep-alive", "close"):
        return False
    if head.method == "GET":
        return head.body is None
    return (
        bool(head.sid) and head.body is not None and "octet-stream" not in head.headers.get("content-type", "").lower()
    )

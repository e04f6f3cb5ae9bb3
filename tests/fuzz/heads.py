"""Nearly valid heads of HTTP requests, and Tornado's reading of them.

`parse` reads plain heads and leaves all others to Tornado. Tornado must read each head that `parse` accepts in the same
way, because a request must not have another meaning on the fast path.
"""

from __future__ import annotations

import re
from random import Random
from typing import NamedTuple

from tornado.httputil import HTTPHeaders, HTTPServerRequest, parse_request_start_line

from insightdesk_rt.engine.doors.fast_path.request_head import PlainRequest, parse
from tests.fuzz import mutate
from tests.support.door import UPGRADE

POLL = "/socket.io/?EIO=4&transport=polling"
SOCKET = "/socket.io/?EIO=4&transport=websocket"
TARGETS = (
    POLL, POLL + "&sid=n1.x", "/socket.io/?transport=polling&EIO=4&t=x", POLL + "&t=a-b.c", POLL + "&a=1", SOCKET,
    SOCKET + "&sid=none", "/rt/tickets", "/rt/chat", "/rt/nope", "/rt/tickets?a=b", POLL + "&sid=", POLL + "&t=%41",
)  # fmt: skip
LINES = (
    "Cookie: a=b", "Cookie: \xff\x80", "Accept: */*", "X_Y: 1", "Content-Type: text/plain", "Content-Encoding: gzip",
    "Content-Type: application/octet-stream", "Origin: http://127.0.0.1", "Origin: ", "Origin: http://127.0.0.1:80",
    "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: x, y", "TE: trailers", "Trailer: x",
    "Connection: keep-alive", "Connection: close", "Connection: Upgrade, close", "Connection: upgrade,keep-alive",
    "Connection: \tclose", "Connection: close ", "Upgrade: WebSocket", "Upgrade: websocket, h2c", "Host: x:99999",
    "Host: [::1]:1", "Host: a..b", "Host: -", "Host: a:", "Host: a,b", "Host: ", "Range: bytes=0-1", "X:\t a\t", "X:",
    "X: \x85", "X: \xa0a\xa0", "X: a\x0bb", "Content-Length:0", "Content-Length: 03", "Content-Length: 3 ",
    "Content-Length: +3", "Content-Length: 3, 3", "Keep-Alive: timeout=5", "Transfer-Encoding: chunked",
    "Expect: 100-continue", "Authorization: Basic x", "X-HTTP-Method-Override: DELETE", "X-Forwarded-For: 1.2.3.4",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB==", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Origin: http://evil",
)  # fmt: skip


class Read(NamedTuple):
    """The parts of a request that both readers are compared by."""

    method: str
    namespace: str
    arguments: dict[str, list[str]]  # of /socket.io/
    headers: dict[str, str]
    length: int
    body: int | None
    last: bool


def head(random: Random) -> bytes:
    """Return a request. About half of them are ordinary."""
    target, method = random.choice(TARGETS), random.choice(("GET", "GET", "POST"))
    lines = ["Host: 127.0.0.1"]
    if ("polling" not in target) ^ (random.random() < 0.05):
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
    if method == "POST":
        lines.append("Content-Length: 3")
    for line in random.sample(LINES, random.randrange(4)):
        name = line.partition(":")[0].lower()
        if random.random() < 0.8:
            lines = [each for each in lines if each.partition(":")[0].lower() != name]
        lines.append(line if random.random() < 0.8 else line.replace(": ", random.choice((":", ":\t", ":  ", " : "))))
    random.shuffle(lines)
    text = f"{method} {target} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n" + ("abc" if method == "POST" else "")
    return text.encode("latin-1")


def ours(found: PlainRequest) -> Read:
    """Return the reading of `parse`."""
    asked = {"EIO": ["4"], "transport": [found.transport]} | ({"sid": [found.sid]} if found.sid else {})
    said = {} if found.namespace else asked
    return Read(found.method, found.namespace, said, dict(found.headers), found.length, found.body, found.last)


def tornados(data: bytes) -> Read:
    """Return the reading of Tornado 6, by the steps of its HTTP1Connection. Raises HTTPInputError, as it does."""
    end = re.search(rb"\r?\n\r?\n", data)
    assert end is not None, "Tornado waits for more of it"
    first, _, lines = data[: end.end()].decode("latin-1").lstrip("\r\n").partition("\n")
    line, headers = parse_request_start_line(first.rstrip("\r")), HTTPHeaders.parse(lines)
    request = HTTPServerRequest(start_line=line, headers=headers)
    asked = {name: [value.decode() for value in values] for name, values in request.query_arguments.items()}
    assert line.version == "HTTP/1.1" and request.path.startswith(("/rt/", "/socket.io/"))
    asked.pop("t", None)  # of no meaning: it keeps caches away
    namespace = request.path.removeprefix("/rt") if request.path.startswith("/rt/") else ""
    length = headers.get("Content-Length")
    fields = {name.lower(): value for name, value in headers.items()}
    last = headers.get("Connection", "").lower() == "close"
    body = None if length is None else int(length)
    return Read(line.method, namespace, asked, fields, end.end(), body, last)


def same(data: bytes) -> bool:
    """Return whether the fast path accepts it. Raises AssertionError if Tornado reads it differently."""
    found = parse(data)
    if found is None:
        return False
    try:
        its = tornados(data)
    except Exception as why:
        raise AssertionError(f"only the fast path accepts {data!r}: {type(why).__name__}: {why}") from why
    assert ours(found) == its, f"{data!r} is {ours(found)}, and for Tornado {its}"
    return True


def heads(random: Random) -> None:
    data = bytearray(head(random))
    for _ in range(random.choice((0, 0, 1, 2, 4))):
        data = mutate.broken(random, data)
    same(bytes(data[:8_192]))

"""The header fields of the client port's answers, in their order.

The fast path and Tornado's handlers give the same answer to a poll, a POST and a refused request. Tornado's handlers
set these fields one by one; the fast path writes them as bytes. The answer to a handshake is in handshake.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from tornado.httputil import format_timestamp

from insightdesk_rt.engine.doors.admission import Refusal


class _Date:
    """The Date header of answers (RFC 9110 6.6.1), formatted once a second."""

    def __init__(self) -> None:
        self._text = ""
        self._second = 0

    def text(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, format_timestamp(second)
        return self._text


_date = _Date()


def answer_fields(content_type: str, length: int, cors: Mapping[str, str]) -> dict[str, str]:
    """Return the header fields of the 200 that answers a poll or a POST. hot: once per poll."""
    return {
        "Content-Type": content_type,
        "Date": _date.text(),
        **cors,
        "Cache-Control": "no-store",
        "Content-Length": str(length),
    }


def refusal_fields(refusal: Refusal) -> dict[str, str]:
    """Return the header fields of a refusal; the CORS headers of its request are added by the handler."""
    fields = {"Content-Type": refusal.content_type}
    if refusal.retry_after_s:
        fields["Retry-After"] = str(refusal.retry_after_s)
    if refusal.status == 426:
        fields["Sec-WebSocket-Version"] = "13"  # RFC 6455 4.4
    return fields


def as_bytes(fields: Mapping[str, str], body: bytes, *, last: bool) -> bytes:
    """Return a complete 200. `last`: close the connection after it, and say so. hot: once per poll."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    close = "Connection: close\r\n" if last else ""
    return f"HTTP/1.1 200 OK\r\n{lines}{close}\r\n".encode("latin-1") + body

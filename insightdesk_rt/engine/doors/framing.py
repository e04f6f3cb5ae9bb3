"""The framing of a request's body: where it ends, and whether that is certain."""

from __future__ import annotations

from tornado.httputil import HTTPHeaders


def misframed(headers: HTTPHeaders) -> bool:
    """Return whether it is uncertain where the body ends (RFC 9112 6.3).

    Tornado answers such a request with 400 and closes the connection when it reads the body. A handler must not answer
    it before: on a connection of a proxy, the second answer would be taken for that of another client's request.
    """
    lengths, coding = headers.get_list("Content-Length"), headers.get("Transfer-Encoding")
    if coding is not None:
        return bool(lengths) or coding.lower() != "chunked"
    values = {length.strip() for text in lengths for length in text.split(",")}
    return len(values) > 1 or not all(one.isascii() and one.isdigit() for one in values)


def declared_bytes(headers: HTTPHeaders) -> int:
    """Return the length of the body that the head announces; 0 if it announces none, or not a number."""
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0


def has_body(headers: HTTPHeaders) -> bool:
    """Return whether the head announces a body."""
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

"""Where the body of a request ends, and whether that is sure."""

from __future__ import annotations

from tornado.httputil import HTTPHeaders


def misframed(headers: HTTPHeaders) -> bool:
    """Is it not sure where the body ends (RFC 9112 6.3)?

    Tornado answers that with 400 and closes, when it comes to the body. An answer to the head would be a first one on
    a connection that may be a proxy's, which then takes the second for the answer to another's request.
    """
    lengths, coding = headers.get_list("Content-Length"), headers.get("Transfer-Encoding")
    if coding is not None:
        return bool(lengths) or coding.lower() != "chunked"
    said = {length.strip() for text in lengths for length in text.split(",")}
    return len(said) > 1 or not all(one.isascii() and one.isdigit() for one in said)


def declared_bytes(headers: HTTPHeaders) -> int:
    """Return the length that the head says its body has; 0 if it says none, or nothing that is one."""
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0


def has_body(headers: HTTPHeaders) -> bool:
    """Does the head announce a body?"""
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

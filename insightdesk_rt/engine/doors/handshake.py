"""The websocket handshake (RFC 6455 4.2): the checks of a request, and the 101 that answers it.

The fast path and Tornado's handlers both use it, so there is one 101. deflate.py negotiates compression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tornado.websocket import WebSocketProtocol13

from insightdesk_rt.engine.doors.admission import HTML_UTF8, Refusal

KEY = re.compile(r"[A-Za-z0-9+/]{22}==").fullmatch  # RFC 6455 4.1: 16 bytes
VERSION = "13"
# RFC 6455 4.1: tokens (RFC 9110 5.6.2), separated by commas; the first of them.
_SUBPROTOCOL = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII).fullmatch

# The texts of Tornado 6.6, whose handshake was used here before.
NO_UPGRADE = Refusal("", 400, HTML_UTF8, 'Can "Upgrade" only to "WebSocket".')
NO_CONNECTION = Refusal("", 400, HTML_UTF8, '"Connection" must be "Upgrade".')
OTHER_VERSION = Refusal("", 426, HTML_UTF8, "")
NO_KEY = Refusal("", 400, HTML_UTF8, "Missing/Invalid WebSocket headers")

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "


def asks_upgrade(headers: Mapping[str, str]) -> bool:
    """Return whether the Connection header names the upgrade. `headers` is looked up with names in lower case."""
    return "upgrade" in [word.strip() for word in headers.get("connection", "").lower().split(",")]


def handshake_refusal(headers: Mapping[str, str]) -> Refusal | None:
    """Return why a request is not a websocket handshake; None if it is one."""
    if headers.get("upgrade", "").lower() != "websocket":
        return NO_UPGRADE
    if not asks_upgrade(headers):
        return NO_CONNECTION
    if headers.get("sec-websocket-version") != VERSION:
        return OTHER_VERSION
    if not headers.get("host") or KEY(headers.get("sec-websocket-key", "")) is None:
        return NO_KEY
    return None


def switching_protocols(headers: Mapping[str, str], extension: str = "") -> bytes:
    """Return the 101 for a checked handshake (RFC 6455 4.2.2), with the negotiated extension."""
    accept = WebSocketProtocol13.compute_accept_value(headers["sec-websocket-key"])
    chosen = subprotocol(headers.get("sec-websocket-protocol", ""))
    more = f"\r\nSec-WebSocket-Protocol: {chosen}" if chosen else ""
    if extension:
        more += f"\r\nSec-WebSocket-Extensions: {extension}"
    return b"%b%b%b\r\n\r\n" % (_SWITCHING, accept.encode(), more.encode())


def subprotocol(offered: str) -> str:
    """Return the subprotocol to echo for a Sec-WebSocket-Protocol header: the first one offered, as Node's `ws` does.

    Without an echo, browsers and `ws` close the websocket (RFC 6455 4.1). "" if none is offered or it is not a token.
    """
    first = offered.partition(",")[0].strip(" \t")
    return first if _SUBPROTOCOL(first) else ""

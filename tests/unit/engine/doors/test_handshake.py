"""engine/doors/handshake.py: the checks of a websocket handshake, and its 101 (RFC 6455 4.2)."""

from __future__ import annotations

import pytest

from insightdesk_rt.engine.doors.admission import Refusal
from insightdesk_rt.engine.doors.handshake import (
    NO_CONNECTION,
    NO_KEY,
    NO_UPGRADE,
    OTHER_VERSION,
    handshake_refusal,
    subprotocol,
    switching_protocols,
)

GOOD = {
    "host": "a",
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"upgrade": "WebSocket"}, None),
        ({"upgrade": "h2c"}, NO_UPGRADE),
        ({"connection": "keep-alive"}, NO_CONNECTION),
        ({"connection": "not-an-upgrade"}, NO_CONNECTION),
        ({"sec-websocket-version": "8"}, OTHER_VERSION),
        ({"sec-websocket-key": "abc"}, NO_KEY),
        ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==, x"}, NO_KEY),
        ({"host": ""}, NO_KEY),
    ],
)
def test_a_handshake_that_lacks_something_is_refused(changed: dict[str, str], expected: Refusal | None) -> None:
    assert handshake_refusal({**GOOD, **changed}) == expected


def test_the_101_has_the_accept_value_the_subprotocol_and_the_extension() -> None:
    assert switching_protocols({**GOOD, "sec-websocket-protocol": "chat, x"}, "permessage-deflate").split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # RFC 6455 1.3
        b"Sec-WebSocket-Protocol: chat",
        b"Sec-WebSocket-Extensions: permessage-deflate",
        b"",
        b"",
    ]


@pytest.mark.parametrize(("offered", "chosen"), [("", ""), ("a", "a"), ("a, b", "a"), (" a\t,b", "a"), ("a b", "")])
def test_the_first_subprotocol_that_is_offered_is_chosen(offered: str, chosen: str) -> None:
    assert subprotocol(offered) == chosen

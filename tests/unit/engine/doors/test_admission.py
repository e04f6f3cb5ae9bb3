"""engine/doors/admission.py: the verdicts of `judge`, the order of its checks, and that it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.doors.admission import (
    BLOCKED,
    DRAINING,
    NATIVE_ORIGIN,
    OF_ENGINE,
    TOO_FAST,
    TOO_MANY,
    Accept,
    AdmissionRules,
    OriginPolicy,
    Refusal,
    RequestHead,
)
from insightdesk_rt.engine.doors.peers import RemotePeer
from insightdesk_rt.engine.rate_limits import Cap, Windows
from insightdesk_rt.engine.wire.engineio import BAD_REQUEST, BAD_VERSION, FORBIDDEN, UNKNOWN_SID, UNKNOWN_TRANSPORT

PEER = RemotePeer("192.0.2.7", "http")
EVIL = {"origin": "https://evil.example", "host": "desk.example.com"}


def admission(blocked: str = "", rate: int = 0, cap: int = 0) -> AdmissionRules:
    connects = Windows(rate, 1000) if rate else None
    return AdmissionRules(
        OriginPolicy(), ("polling", "websocket"), Cap(cap), connects, lambda address: address == blocked
    )


def head(**changed: Any) -> RequestHead:
    usual = {"method": "GET", "namespace": "", "upgrade": False, "transport": "polling", "sid": "", "version": "4"}
    return RequestHead(**{**usual, "query": "", "headers": {}, **changed})


SOCKET = {"upgrade": True, "transport": "websocket"}
NATIVE = {**SOCKET, "namespace": "/tickets", "version": ""}


@pytest.mark.parametrize(
    ("asked", "session", "expected"),
    [
        ({}, None, Accept.NEW_CLIENT),
        (SOCKET, None, Accept.NEW_CLIENT),
        (NATIVE, None, Accept.NEW_CLIENT),
        ({"sid": "a"}, "polling", Accept.SESSION),
        ({"sid": "a", "method": "POST"}, "polling", Accept.SESSION),
        ({"sid": "a", **SOCKET}, "polling", Accept.SESSION),
        ({"sid": "a"}, None, OF_ENGINE[UNKNOWN_SID, False]),
        ({"sid": "a", **SOCKET}, None, OF_ENGINE[UNKNOWN_SID, True]),
        ({"sid": "a"}, "websocket", OF_ENGINE[BAD_REQUEST, False]),
        ({"transport": "tobi", "headers": EVIL}, None, OF_ENGINE[UNKNOWN_TRANSPORT, False]),
        ({"version": "3"}, None, OF_ENGINE[BAD_VERSION, False]),
        ({"version": "3", "headers": EVIL}, None, OF_ENGINE[BAD_VERSION, False]),
        ({"headers": EVIL}, None, OF_ENGINE[FORBIDDEN, False]),
        ({"headers": EVIL, **SOCKET}, None, OF_ENGINE[FORBIDDEN, True]),
        ({"headers": EVIL, "sid": "a"}, "polling", OF_ENGINE[FORBIDDEN, False]),
        ({"headers": EVIL, **NATIVE}, None, NATIVE_ORIGIN),
    ],
)
def test_a_request_is_judged_by_its_query_its_session_and_its_page(
    asked: dict[str, Any], session: str | None, expected: Accept | Refusal
) -> None:
    assert admission().judge(head(**asked), PEER, session, 0) == expected


@pytest.mark.parametrize("asked", [{}, SOCKET, NATIVE])
def test_a_new_client_is_judged_by_its_address_in_a_fixed_order(asked: dict[str, Any]) -> None:
    rules = admission(rate=1, cap=1)
    assert rules.judge(head(**asked), PEER, None, 0) is Accept.NEW_CLIENT
    rules._addresses.enter(PEER.address)
    assert rules.judge(head(**asked), PEER, None, 0) == TOO_MANY
    rules.count(Accept.NEW_CLIENT, PEER, 0)
    assert rules.judge(head(**asked), PEER, None, 0) == TOO_FAST
    rules.accepting = False
    assert rules.judge(head(**asked), PEER, None, 0) == DRAINING
    rules._is_blocked = lambda address: True
    assert rules.judge(head(**asked), PEER, None, 0) == BLOCKED
    assert rules.judge(head(sid="a"), PEER, "polling", 0) is Accept.SESSION, "its session exists"


@given(st.lists(st.integers(0, 3_000), max_size=30))
def test_judging_changes_nothing_however_often_it_is_done(times_ms: list[int]) -> None:
    rules = admission(rate=1)
    for now_ms in sorted(times_ms):
        assert rules.judge(head(), PEER, None, now_ms) is Accept.NEW_CLIENT
    assert not rules.refused


def test_every_attempt_to_connect_counts_for_the_rate_unless_the_address_is_blocked() -> None:
    rules = admission(rate=2, cap=1)
    rules.count(BLOCKED, PEER, 0)
    rules.count(OF_ENGINE[BAD_VERSION, False], PEER, 0)
    rules.count(Accept.SESSION, PEER, 0)
    rules.count(TOO_MANY, PEER, 0)
    rules.count(Accept.NEW_CLIENT, PEER, 0)
    assert rules.judge(head(), PEER, None, 0) == TOO_FAST
    assert rules.refused == {"FORBIDDEN": 1, "UNSUPPORTED_PROTOCOL_VERSION": 1, "TOO_MANY_CONNECTIONS": 1}
    assert rules.judge(head(), PEER, None, 1_001) is Accept.NEW_CLIENT

"""EngineSession, without a socket: the wire reference 2.1 (heartbeat, close) and 2.2 (upgrade)."""

from __future__ import annotations

import json as standard

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.engine.errors import WireError
from insightdesk_rt.engine.wire.codec import Call, Connect, WireSession
from insightdesk_rt.engine.wire.engine import (
    CLOSE,
    NOOP,
    PING,
    PROBE_PONG,
    EnginePhase,
    EngineSession,
    EngineSettings,
    Goodbye,
    ProbeStep,
)
from insightdesk_rt.engine.wire.limits import LATE_MS
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession

SETTINGS = EngineSettings(ping_interval_ms=25_000, ping_timeout_ms=30_000, max_payload_bytes=1_000_000)
OPENED_MS = 1_000


def opened(*, on_websocket: bool = False) -> EngineSession:
    session = EngineSession("n1.abc", SocketIOSession(SocketIOCodec()), SETTINGS, on_websocket)
    session.opened(OPENED_MS)
    return session


def test_an_engine_session_implements_the_session_protocol() -> None:
    session: WireSession = opened()
    assert session.waiting
    session.accept("/")
    assert not session.waiting
    session.drop("/")


@pytest.mark.parametrize(("on_websocket", "upgrades"), [(False, ["websocket"]), (True, [])])
def test_the_first_packet_has_the_parameters_of_the_session(on_websocket: bool, upgrades: list[str]) -> None:
    session = EngineSession("n1.abc", SocketIOSession(SocketIOCodec()), SETTINGS, on_websocket)
    (hello,) = session.opened(0)
    assert hello.text[0] == "0"
    assert standard.loads(hello.text[1:]) == {
        "sid": "n1.abc",
        "upgrades": upgrades,
        "pingInterval": 25_000,
        "pingTimeout": 30_000,
        "maxPayload": 1_000_000,
    }


def test_fixed_packets_are_as_in_the_protocol() -> None:
    assert [packet.text for packet in (PING, NOOP, CLOSE, PROBE_PONG)] == ["2", "6", "1", "3probe"]
    assert PING.frame == b"\x81\x012"


# ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_are_passed_to_socket_io() -> None:
    session = opened()
    assert session.receive('40{"token":"t"}', 0)[0].namespace == "/"
    session.accept("/")
    assert isinstance(session.receive('42["a"]', 0)[0], Call)
    assert session.receive('451-["a",{"_placeholder":true,"num":0}]', 0) == ()
    assert isinstance(session.receive(b"raw", 0)[0], Call)


def test_a_text_message_may_be_an_attachment_in_base64() -> None:
    session = opened()
    session.receive("40", 0)
    session.accept("/")
    session.receive('451-["a",{"_placeholder":true,"num":0}]', 0)
    (call,) = session.receive("bAQIDBA==", 0)
    assert isinstance(call, Call)
    assert call.attachments == (b"\1\2\3\4",)


@pytest.mark.parametrize("packet", ["0", "5", "6", "0{}", "6abc"])
def test_packets_without_a_meaning_after_the_open_are_ignored(packet: str) -> None:
    assert opened().receive(packet, 0) == ()


@pytest.mark.parametrize("packet", ["", "7", "abc", "²", "b=", "b", "[", "4", "4²", "47"])
def test_an_invalid_packet_closes_the_connection(packet: str) -> None:
    with pytest.raises(WireError):
        opened().receive(packet, 0)


@pytest.mark.parametrize("packet", ["2", "2probe"])
def test_a_ping_by_the_client_closes_the_connection(packet: str) -> None:
    """Wire reference 2.1: invalid heartbeat direction."""
    with pytest.raises(WireError, match="heartbeat"):
        opened().receive(packet, 0)


def test_a_close_packet_ends_the_session_and_is_not_a_violation() -> None:
    session = opened()
    with pytest.raises(Goodbye):
        session.receive("1", 0)
    assert session.phase is EnginePhase.CLOSING
    assert session.receive("40", 0) == ()
    assert session.receive("nonsense", 0) == ()
    assert session.heartbeat(10**9) is None


# ── heartbeat ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_server_pings_once_after_the_interval() -> None:
    session = opened()
    due = OPENED_MS + 25_000
    assert session.deadline_ms() == due
    assert session.heartbeat(due - 1) is None
    assert session.heartbeat(due) is PING
    assert session.heartbeat(due + 1) is None


def test_a_peer_that_does_not_answer_is_dead_at_interval_plus_timeout_exactly() -> None:
    session = opened()
    session.heartbeat(OPENED_MS + 25_000 + 40)  # the wheel may be a step late
    assert session.deadline_ms() == OPENED_MS + 55_000
    assert not session.dead(OPENED_MS + 54_999)
    assert session.dead(OPENED_MS + 55_000)


def test_a_stall_of_the_server_does_not_time_out_the_peer() -> None:
    session = opened()
    late = OPENED_MS + 25_000 + LATE_MS + 60_000
    assert not session.dead(late)
    assert session.heartbeat(late) is PING
    assert not session.dead(late + 29_999)
    assert session.dead(late + 30_000)


def test_the_next_ping_is_due_an_interval_after_the_last_one_was_due() -> None:
    """Neither a late timer nor a slow pong delays later pings."""
    session = opened()
    due = OPENED_MS + 25_000
    session.heartbeat(due + 40)
    assert session.receive("3", due + 500) == ()
    assert session.deadline_ms() == session.due_ms() == due + 25_000
    assert not session.dead(10**9)


def test_any_byte_keeps_a_peer_with_a_late_pong_alive() -> None:
    """A pong behind a large upload."""
    session = opened()
    session.heartbeat(26_000)
    session.heard(50_000)
    assert session.deadline_ms() == 80_000
    assert not session.dead(79_999)
    assert session.dead(80_000)


def test_other_traffic_does_not_delay_a_ping() -> None:
    """A stock client closes when no ping came for interval plus timeout."""
    session = opened()
    session.heard(20_000)
    assert session.heartbeat(26_000) is PING


def test_a_flood_of_pongs_has_no_effect() -> None:
    """CVE-2026-48802: each pong scheduled another ping."""
    session = opened()
    for now_ms in range(2_000, 3_000):
        assert session.receive("3", now_ms) == ()
    assert session.deadline_ms() == OPENED_MS + 25_000


# ── upgrade ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TABLE = [
    (EnginePhase.OPEN, "2probe", EnginePhase.PROBING, ProbeStep.PONG),
    (EnginePhase.OPEN, "5", EnginePhase.UPGRADED, ProbeStep.UPGRADE),
    (EnginePhase.OPEN, "40", EnginePhase.OPEN, ProbeStep.REFUSE),
    (EnginePhase.PROBING, "2probe", EnginePhase.PROBING, ProbeStep.PONG),
    (EnginePhase.PROBING, "5", EnginePhase.UPGRADED, ProbeStep.UPGRADE),
    (EnginePhase.PROBING, "2", EnginePhase.OPEN, ProbeStep.REFUSE),
    (EnginePhase.PROBING, "5x", EnginePhase.OPEN, ProbeStep.REFUSE),
    (EnginePhase.PROBING, b"5", EnginePhase.OPEN, ProbeStep.REFUSE),
    (EnginePhase.UPGRADED, "2probe", EnginePhase.UPGRADED, ProbeStep.REFUSE),
    (EnginePhase.UPGRADED, "5", EnginePhase.UPGRADED, ProbeStep.REFUSE),
    (EnginePhase.CLOSING, "2probe", EnginePhase.CLOSING, ProbeStep.REFUSE),
    (EnginePhase.CLOSING, "5", EnginePhase.CLOSING, ProbeStep.REFUSE),
]


@pytest.mark.parametrize(("phase", "message", "then", "step"), TABLE)
def test_a_probing_websocket_is_answered_by_the_table(
    phase: EnginePhase, message: str | bytes, then: EnginePhase, step: ProbeStep
) -> None:
    session = opened()
    session.phase = phase
    assert session.probe(message) is step
    assert session.phase is then


def test_a_failed_probe_leaves_the_session_unchanged() -> None:
    session = opened()
    session.probe("2probe")
    session.probe_lost()
    assert session.phase is EnginePhase.OPEN
    session.probe("2probe")
    session.probe("41")
    assert session.phase is EnginePhase.OPEN
    assert isinstance(session.receive("40", 0)[0], Connect)
    assert session.probe("2probe") is ProbeStep.PONG
    assert session.probe("5") is ProbeStep.UPGRADE
    session.probe_lost()
    assert session.probe("5") is ProbeStep.REFUSE, "the upgrade remains"


def test_messages_and_heartbeats_go_on_during_a_probe() -> None:
    session = opened()
    session.probe("2probe")
    assert isinstance(session.receive("40", 0)[0], Connect)
    assert session.heartbeat(OPENED_MS + 25_000) is PING
    assert session.receive("3", OPENED_MS + 26_000) == ()


def test_a_client_that_began_on_a_websocket_cannot_upgrade() -> None:
    assert opened(on_websocket=True).probe("2probe") is ProbeStep.REFUSE


# ── any order of anything ─────────────────────────────────────────────────────────────────────────────────────────────

said = st.one_of(
    st.text(max_size=8), st.binary(max_size=8), st.sampled_from(["40", '42["a"]', "1", "2", "3", "5", "bAA"])
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["receive", "probe", "beat"]), said, st.integers(0, 90_000)), max_size=12))
def test_any_input_raises_only_wire_error_or_goodbye(steps: list[tuple[str, str | bytes, int]]) -> None:
    session, now_ms = opened(), OPENED_MS
    for step, message, later_ms in steps:
        now_ms += later_ms
        session.heard(now_ms)
        try:
            if step == "receive":
                session.receive(message, now_ms)
            elif step == "probe":
                session.probe(message)
            else:
                session.heartbeat(now_ms)
        except (WireError, Goodbye):
            continue
        assert session.deadline_ms() > OPENED_MS
        assert not session.dead(now_ms)

"""The JSON protocol of /rt/<namespace>."""

from __future__ import annotations

import json as standard
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from insightdesk_rt.engine.errors import WireError
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS as RESERVED
from insightdesk_rt.engine.wire.codec import Ack, Call, Codec, Connect, WireSession
from insightdesk_rt.engine.wire.frames import ping_frame
from insightdesk_rt.engine.wire.native import PING, NativeCodec, NativeSession

CODEC = NativeCodec()


def new() -> NativeSession:
    session = NativeSession("/tickets", CODEC, 25_000, 30_000)
    assert session.opened(1_000) == ()
    return session


def joined() -> NativeSession:
    session = new()
    session.receive('{"event":"connect"}', 0)
    session.accept("/tickets")
    return session


def refuse(message: str | bytes, session: NativeSession | None = None) -> int:
    with pytest.raises(WireError) as wrong:
        (session or joined()).receive(message, 0)
    return wrong.value.close


def test_the_native_classes_implement_the_protocols() -> None:
    session: WireSession = new()
    codec: Codec = session.codec
    assert codec is CODEC


# ── what comes in ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_connect_joins_the_namespace() -> None:
    session = new()
    (ask,) = session.receive('{"event":"connect","data":{"token":"t","pid":"p","offset":"1-0"}}', 0)
    assert ask == Connect("/tickets", Raw(b'{"token":"t","pid":"p","offset":"1-0"}'))
    assert new().receive('{"event":"connect"}', 0) == (Connect("/tickets", Raw(b"{}")),)


@pytest.mark.parametrize("message", ['{"event":"a"}', '{"ack":1}', '{"event":"a","id":1,"data":{}}'])
def test_a_frame_before_connect_is_refused(message: str) -> None:
    assert refuse(message, new()) == 1002


def test_a_second_connect_is_refused() -> None:
    session = new()
    session.receive('{"event":"connect"}', 0)
    refuse('{"event":"connect"}', session)
    refuse('{"event":"connect"}', joined())


@pytest.mark.parametrize("data", ["[]", '"t"', "1", "null"])
def test_connect_data_that_is_not_an_object_is_refused(data: str) -> None:
    refuse('{"event":"connect","data":' + data + "}", new())


def test_calls_may_follow_connect_before_its_answer() -> None:
    session = new()
    session.receive('{"event":"connect"}', 0)
    assert session.waiting
    assert isinstance(session.receive('{"event":"a"}', 0)[0], Call)
    session.accept("/tickets")
    assert not session.waiting


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ('{"event":"a"}', Call("/tickets", "a", Raw(b""))),
        ('{"event":"a","data":{"n":9007199254740993}}', Call("/tickets", "a", Raw(b'{"n":9007199254740993}'))),
        ('{"event":"a","data":null,"id":0}', Call("/tickets", "a", Raw(b"null"), 0)),
        ('{"event":"a","id":9007199254740992}', Call("/tickets", "a", Raw(b""), 2**53)),
        ('{"event":"a","id":null,"x":[1]}', Call("/tickets", "a", Raw(b""))),
        (' { "id" : 7 , "event" : "é" } ', Call("/tickets", "é", Raw(b""), 7)),
        ('{"event":"error"}', Call("/tickets", "error", Raw(b""))),
    ],
)
def test_a_call_is_read(message: str, call: Call) -> None:
    assert joined().receive(message, 0) == (call,)


def test_an_ack_is_read() -> None:
    assert joined().receive('{"ack":7,"data":{"a":1}}', 0) == (Ack("/tickets", 7, Raw(b'[{"a":1}]')),)
    assert joined().receive('{"ack":0}', 0) == (Ack("/tickets", 0, Raw(b"[]")),)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        "{}",
        "null",
        "hello",
        '{"event":1}',
        '{"event":null}',
        '{"event":"a","id":"7"}',
        '{"event":"a","id":-1}',
        '{"event":"a","id":1.5}',
        '{"event":"a","id":true}',
        '{"event":"a","id":9007199254740993}',
        '{"event":"a","id":' + "9" * 100_000 + "}",
        '{"event":"a","data":NaN}',
        '{"event":"a","data":{"b":1}',
        '{"event":"a"}x',
        '{"event":"a","ack":1}',
        '{"ack":"1"}',
        '{"ack":-1}',
        '{"event":"' + "a" * 257 + '"}',
        '{"event":"a","data":' + "[" * 6_000 + "]" * 6_000 + "}",
    ],
)
def test_an_invalid_frame_closes_the_connection(message: str) -> None:
    assert refuse(message) == 1002


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_never_reach_a_handler(name: str) -> None:
    refuse(f'{{"event":"{name}"}}')


def test_binary_frames_are_refused() -> None:
    assert refuse(b"\x00") == 1003
    assert refuse(b"\x00", new()) == 1003


def test_frames_of_a_refused_client_are_ignored() -> None:
    session = new()
    session.receive('{"event":"connect"}', 0)
    session.drop("/tickets")
    assert session.receive('{"event":"a"}', 0) == ()
    assert not session.waiting


@settings(max_examples=200)
@given(st.text(st.sampled_from('{}[]",:eventdaick019\\u ')) | st.text() | st.binary())
def test_any_message_is_decoded_or_raises_wire_error(message: str | bytes) -> None:
    for session in (new(), joined()):
        try:
            session.receive(message, 0)
        except WireError as wrong:
            assert wrong.close in (1002, 1003)


# ── heartbeat ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_heartbeat_is_a_ping_frame() -> None:
    session = new()
    assert session.heartbeat(25_999) is None
    ping = session.heartbeat(26_000)
    assert ping is PING
    assert (ping.text, ping.frame) == ("", ping_frame())
    assert session.heartbeat(26_001) is None


def test_a_silent_peer_is_dead_after_the_timeout_and_any_byte_answers() -> None:
    session = new()
    session.heartbeat(26_000)
    assert session.deadline_ms() == 56_000
    assert not session.dead(55_999)
    assert session.dead(56_000)
    session.heard(30_000)
    assert not session.dead(56_000)
    assert session.deadline_ms() == session.due_ms() == 51_000, "an interval after the last ping was due"


def test_other_bytes_do_not_delay_the_next_ping() -> None:
    session = new()
    session.heard(20_000)
    assert session.deadline_ms() == 26_000


# ── what we write ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("codec", "payload", "offset", "ack_id", "text"),
    [
        (CODEC, '{"a":1}', "1-0", None, '{"event":"x","data":{"a":1},"offset":"1-0"}'),
        (CODEC, '{"a":1}', "", None, '{"event":"x","data":{"a":1}}'),
        (CODEC, "", "", 0, '{"event":"x","id":0}'),
        (CODEC, "null", "1-0", 7, '{"event":"x","data":null,"offset":"1-0","id":7}'),
        (NativeCodec(recovery=False), '{"a":1}', "1-0", None, '{"event":"x","data":{"a":1}}'),
    ],
)
def test_an_event_is_written(codec: NativeCodec, payload: str, offset: str, ack_id: int | None, text: str) -> None:
    message = codec.event("/tickets", "x", payload, offset, volatile=True, ack_id=ack_id)
    assert message.text == text
    assert message.frame.endswith(text.encode())
    assert message.volatile


def test_the_other_frames_are_written() -> None:
    texts = [
        CODEC.connected("/t", "s", "p", True).text,
        CODEC.connected("/t", "s", "", False).text,
        NativeCodec(recovery=False).connected("/t", "s", "p", False).text,
        CODEC.refused("/t", "FORBIDDEN", "No.").text,
        CODEC.refused("/t", "", "Invalid namespace").text,
        CODEC.left("/t").text,
        CODEC.ack("/t", 7, {"ok": True}).text,
        CODEC.ack("/t", 7, None).text,
        CODEC.ack_text("/t", 7, '{"ok":true}').text,
        CODEC.ack_text("/t", 7, "").text,
    ]
    assert texts == [
        '{"event":"connect","data":{"sid":"s","pid":"p","recovered":true}}',
        '{"event":"connect","data":{"sid":"s","recovered":false}}',
        '{"event":"connect","data":{"sid":"s","recovered":false}}',
        '{"event":"connect_error","data":{"code":"FORBIDDEN","message":"No."}}',
        '{"event":"connect_error","data":{"message":"Invalid namespace"}}',
        '{"event":"disconnect"}',
        '{"ack":7,"data":{"ok":true}}',
        '{"ack":7,"data":null}',
        '{"ack":7,"data":{"ok":true}}',
        '{"ack":7,"data":null}',
    ]


def test_bytes_are_written_as_base64() -> None:
    assert CODEC.ack("/t", 7, {"f": [b"\1\2\3\4"]}).text == '{"ack":7,"data":{"f":["AQIDBA=="]}}'
    assert CODEC.ack("/t", 1, b"").text == '{"ack":1,"data":""}'


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name not in RESERVED)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(names, plain, st.none() | st.integers(0, 2**53))
def test_an_event_is_read_back_as_it_was_written(name: str, data: Any, ack_id: int | None) -> None:
    (call,) = joined().receive(CODEC.event("/tickets", name, standard.dumps(data), ack_id=ack_id).text, 0)
    assert isinstance(call, Call)
    assert (call.event, call.ack_id, standard.loads(bytes(call.payload))) == (name, ack_id, data)


@settings(max_examples=100)
@given(st.integers(0, 2**53), plain)
def test_an_ack_is_read_back_as_it_was_written(ack_id: int, data: Any) -> None:
    (ack,) = joined().receive(CODEC.ack("/tickets", ack_id, data).text, 0)
    assert isinstance(ack, Ack)
    assert (ack.ack_id, standard.loads(bytes(ack.payload))) == (ack_id, [data])

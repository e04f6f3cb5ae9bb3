"""Socket.IO 5: the wire reference 2.3, and hostile inputs."""

from __future__ import annotations

import json as standard
import time
from collections.abc import Sequence
from copy import deepcopy as copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.wire.attachments import take_out
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS as RESERVED
from insightdesk_rt.engine.wire.codec import Ack, Call, Codec, Connect, Encoded, Inbound, Leave
from insightdesk_rt.engine.wire.frames import FrameReader
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession, with_attachments

CODEC = SocketIOCodec(recovery=True)


def joined(*namespaces: str, limits: PacketLimits = PacketLimits()) -> SocketIOSession:
    session = SocketIOSession(CODEC, limits)
    for namespace in namespaces or ("/",):
        session.receive_text("0" if namespace == "/" else f"0{namespace},")
        session.accept(namespace)
    return session


def one(said: Sequence[Inbound]) -> Inbound:
    (packet,) = said
    return packet


def call(text: str, session: SocketIOSession | None = None) -> Call:
    packet = one((session or joined()).receive_text(text))
    assert isinstance(packet, Call)
    return packet


def refuse(text: str, session: SocketIOSession | None = None) -> WireError:
    with pytest.raises(WireError) as wrong:
        (session or joined()).receive_text(text)
    return wrong.value


# ── CONNECT, DISCONNECT ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "namespace", "auth"),
    [
        ("0", "/", "{}"),
        ('0{"token":"a,b"}', "/", '{"token":"a,b"}'),
        ("0/tickets", "/tickets", "{}"),
        ("0/tickets,", "/tickets", "{}"),
        ('0/tickets,{"token":"/x"}', "/tickets", '{"token":"/x"}'),
        ("0/tickets?a=b,", "/tickets?a=b", "{}"),
        ("0/,{}", "/", "{}"),
        ('0{"a":"\\ud800"}', "/", '{"a":"\\ud800"}'),
    ],
)
def test_a_connect_is_read(text: str, namespace: str, auth: str) -> None:
    packet = one(SocketIOSession(CODEC).receive_text(text))
    assert isinstance(packet, Connect)
    assert (packet.namespace, bytes(packet.auth).decode()) == (namespace, auth)


@pytest.mark.parametrize(
    "text", ['0"a"', "0[]", "0null", "01", "0{", "0{}x", '0/a,"t"', "0/a,[]", "0abc", '0{"a":NaN}', "0" + "{" * 9]
)
def test_auth_that_is_not_an_object_is_refused(text: str) -> None:
    refuse(text, SocketIOSession(CODEC))


@pytest.mark.parametrize("depth", [65, 6_000, 100_000])
def test_deep_auth_is_refused(depth: int) -> None:
    refuse('0{"a":' + "[" * depth + "]" * depth + "}", SocketIOSession(CODEC))


@pytest.mark.parametrize("packet", ['2/a,["e"]', '2/a,1["e"]', "3/a,1[]", '51-/a,["e",{"_placeholder":true,"num":0}]'])
def test_a_second_connect_is_a_violation_once_the_client_has_used_the_namespace(packet: str) -> None:
    session = joined("/a", "/b")
    session.receive_text(packet)
    if packet.startswith("5"):
        session.receive_binary(b"x")
    refuse("0/a,", session)


def test_a_client_that_cannot_have_seen_the_answer_may_connect_again() -> None:
    """React's StrictMode: connect(), disconnect(), connect() in one tick sends CONNECT twice on an open Manager."""
    session = SocketIOSession(CODEC)
    for _ in range(3):  # before the answer
        assert one(session.receive_text("0/a,")) == Connect("/a", Raw(b"{}"))
    refuse('2/a,["e"]', copy(session))  # no events before the answer
    session.accept("/a")
    for _ in range(3):  # after the answers were sent
        assert one(session.receive_text("0/a,")) == Connect("/a", Raw(b"{}"))
    assert isinstance(one(session.receive_text('2/a,["e"]')), Call), "it was joined before it asked again"
    session.accept("/a")
    assert isinstance(one(session.receive_text('2/a,["e"]')), Call)
    refuse("0/a,", session)


def test_a_client_with_a_second_connect_may_leave_or_be_refused() -> None:
    session = joined("/a")
    session.receive_text("0/a,")
    assert session.receive_text("1/a,") == (Leave("/a"),)
    refuse('2/a,["e"]', copy(session))
    session.receive_text("0/a,")
    session.accept("/a")
    session.receive_text("0/a,")
    session.drop("/a")  # the second was refused, as another user perhaps
    assert session.receive_text('2/a,["e"]') == (), "it may have crossed the refusal"


def test_a_client_may_leave_and_join_again() -> None:
    session = joined("/a", "/")
    assert session.receive_text("1/a,") == (Leave("/a"),)
    refuse("1/a,", session)
    assert one(session.receive_text("0/a")) == Connect("/a", Raw(b"{}"))
    session.accept("/a")
    assert session.receive_text("1/a") == (Leave("/a"),)
    assert session.receive_text("1") == (Leave("/"),)
    assert not session.waiting


@pytest.mark.parametrize("text", ["1{}", "1/,[]", '1"a"', "112"])
def test_a_disconnect_with_a_payload_is_refused(text: str) -> None:
    refuse(text)


def test_a_refused_client_may_connect_again_but_not_send_events() -> None:
    session = SocketIOSession(CODEC)
    for _ in range(1000):
        session.receive_text("0/random,")
        session.drop("/random")
    refuse('2/random,["a"]', session)
    assert session.waiting


@pytest.mark.parametrize("packet", ['2{},["a"]', "3{},1[]", "1{},", '51-{},["a",{"_placeholder":true,"num":0}]'])
def test_a_packet_for_a_namespace_not_joined_closes_the_connection(packet: str) -> None:
    """Before CONNECT, before its answer, and after DISCONNECT."""
    asked, left = joined("/"), joined("/", "/a")
    asked.receive_text("0/a,")
    left.receive_text("1/a,")
    for session in (SocketIOSession(CODEC), joined("/"), asked, left):
        refuse(packet.replace("{}", "/a", 1), session)
    refuse(packet.replace("{},", "", 1), SocketIOSession(CODEC))


def test_packets_that_cross_our_disconnect_are_ignored() -> None:
    session = joined("/a", "/b")
    session.drop("/a")
    for text in ('2/a,["x"]', "2/a,", "3/a,1[]", "1/a,"):
        assert session.receive_text(text) == ()
    assert call('2/b,["x"]', session).namespace == "/b"
    session.receive_text("0/a,")
    refuse('2/a,["x"]', session)


def test_attachments_that_cross_our_disconnect_are_ignored_too() -> None:
    session = joined("/a", "/b")
    session.receive_text('51-/a,["x",{"_placeholder":true,"num":0}]')
    session.drop("/a")
    assert session.receive_binary(b"late") == ()
    session.receive_text('51-/a,["x",{"_placeholder":true,"num":0}]')
    assert session.receive_binary(b"later") == ()
    assert call('2/b,["x"]', session)


def test_a_client_is_waiting_until_it_joins_its_first_namespace() -> None:
    session = SocketIOSession(CODEC)
    session.receive_text("0")
    assert session.waiting
    session.accept("/")
    assert not session.waiting
    session.drop("/")
    assert not session.waiting


def test_the_number_of_namespaces_per_connection_is_limited() -> None:
    """1,000 namespaces joined by one connection."""
    session = SocketIOSession(CODEC, PacketLimits(max_namespaces=3))
    for name in "abc":
        session.receive_text(f"0/{name},")
    refuse("0/d,", session)


@pytest.mark.parametrize("name", ["/" + "a" * 128, "/" + "a" * 1_000_000, "/a\x00", "/a\x1eb", "/a\nb", "/\u2028"])
def test_a_namespace_of_a_megabyte_or_with_control_characters_is_refused(name: str) -> None:
    for text in (f"0{name}", f"0{name},", f'2{name},["a"]', f"1{name}"):
        refuse(text)


# ── EVENT ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "event", "payload", "ack_id"),
    [
        ('2["a"]', "a", "", None),
        ('2["a",{"b":[1]}]', "a", '{"b":[1]}', None),
        ('20["a",1]', "a", "1", 0),
        ('2007["a",1]', "a", "1", 7),
        ('29007199254740991["a",1]', "a", "1", 9007199254740991),
        ('2["a",1,2,3]', "a", "1", None),
        ("2[1,2]", "1", "2", None),
        ('2["error"]', "error", "", None),
        ('2["__proto__",1]', "__proto__", "1", None),
        ('2["é€😀","é"]', "é€😀", '"é"', None),
        ('2/,["a"]', "a", "", None),
        ('2/,12["a"]', "a", "", 12),
        ('2["a",{"_placeholder":true,"num":"splice"}]', "a", '{"_placeholder":true,"num":"splice"}', None),
        ('2["a",9007199254740993]', "a", "9007199254740993", None),
        ('2["a",{"n":1e400,"m":' + "9" * 400 + "}]", "a", '{"n":1e400,"m":' + "9" * 400 + "}", None),
    ],
)
def test_an_event_is_read(text: str, event: str, payload: str, ack_id: int | None) -> None:
    found = call(text)
    assert (found.namespace, found.event, bytes(found.payload).decode(), found.ack_id) == ("/", event, payload, ack_id)
    assert found.attachments == ()


def test_an_event_for_a_namespace_is_read() -> None:
    found = call('2/tickets,7["ticket:subscribe",{"ticketId":"42"}]', joined("/tickets"))
    assert found == Call("/tickets", "ticket:subscribe", Raw(b'{"ticketId":"42"}'), 7)


@pytest.mark.parametrize("text", ["2", "2/,", "212", "2/,12"])
def test_an_event_without_payload_is_ignored(text: str) -> None:
    assert joined().receive_text(text) == ()


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_name_closes_the_connection(name: str) -> None:
    refuse(f'2["{name}"]')
    refuse(f'2["{name}",1]')
    refuse(f'212["{name}",1,2]')
    refuse(f'51-["{name}",{{"_placeholder":true,"num":0}}]')


@pytest.mark.parametrize(
    "text",
    [
        "2[]",
        "2{}",
        '2{"0":"a"}',
        "2null",
        '2"a"',
        "2[null]",
        "2[true]",
        "2[[]]",
        '2[{"toString":"foo"}]',
        '2["a"',
        '2["a",]',
        '2["a",NaN]',
        '2["a"]x',
        '2 ["a"]',
        '2["a\x01"]',
        "2²[1]",
        '2²["a"]',
        '2١["a"]',
        '2-1["a"]',
        '2+1["a"]',
        '21.5["a"]',
        '21e3["a"]',
        '212345678901234567["a"]',
        '2/["a"]',
    ],
)
def test_an_invalid_event_closes_the_connection(text: str) -> None:
    """CVE-2023-32695 and Unicode digits (python's isdigit) are among them."""
    refuse(text)


def test_the_length_of_an_event_name_is_limited() -> None:
    assert call('2["' + "a" * 256 + '"]')
    refuse('2["' + "a" * 257 + '"]')


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    found = call('2["\\udfff",{"text":"a\\ud800"}]')
    assert found.event == "�"
    assert with_attachments(found.payload) == {"text": "a�"}


@pytest.mark.parametrize("depth", [6_000, 100_000])
def test_a_very_deep_event_closes_the_connection(depth: int) -> None:
    """The known vulnerability of socket.io 4.8.4."""
    refuse('2["message",' + "[" * depth + "]" * depth + "]")


@pytest.mark.parametrize(
    "text",
    ["2/" + "a" * 10**6, "25" + "9" * 10**6, "2" + "9" * 10**6, "5" + "9" * 10**6, "3" + "9" * 10**5 + "[]", "7", ""],
)
def test_huge_headers_are_refused_at_once(text: str) -> None:
    """CVE-2020-36049: linear and bounded; an ack id of 100,000 digits."""
    start = time.process_time()
    refuse(text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("text", ['4{"message":"x"}', "4", "7[]", "a", "", "²", '["a"]', "\x00"])
def test_other_packet_types_close_the_connection(text: str) -> None:
    """CONNECT_ERROR is sent only by servers."""
    refuse(text)


# ── ACK ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_ack_is_read() -> None:
    assert one(joined().receive_text('313["a",{"b":1}]')) == Ack("/", 13, Raw(b'["a",{"b":1}]'))
    assert one(joined("/a").receive_text("3/a,0[]")) == Ack("/a", 0, Raw(b"[]"))
    assert one(joined().receive_text("35")) == Ack("/", 5, Raw(b"[]"))


def test_an_ack_without_an_id_is_ignored() -> None:
    assert joined().receive_text('3["a"]') == ()


@pytest.mark.parametrize("text", ["31{}", '31"a"', "31null", "31[", "31[1,]", "3²[]", "3-1[]", "3" + "9" * 17 + "[]"])
def test_an_ack_that_is_not_an_array_or_has_a_long_id_is_refused(text: str) -> None:
    refuse(text)


# ── BINARY_EVENT, BINARY_ACK ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_binary_event_comes_with_its_last_attachment() -> None:
    session = joined("/a")
    text = '52-/a,7["x",{"f":[{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}],"n":9007199254740993}]'
    assert session.receive_text(text) == ()
    assert session.receive_binary(b"zero") == ()
    found = one(session.receive_binary(b"one"))
    assert isinstance(found, Call)
    assert (found.namespace, found.event, found.ack_id, found.attachments) == ("/a", "x", 7, (b"zero", b"one"))
    assert b"_placeholder" in bytes(found.payload)
    assert with_attachments(found.payload, found.attachments) == {"f": [b"one", b"zero"], "n": 9007199254740993}
    assert call('2/a,["y"]', session)


def test_a_binary_ack_comes_with_its_last_attachment() -> None:
    session = joined()
    assert session.receive_text('61-9[{"_placeholder":true,"num":0}]') == ()
    assert one(session.receive_binary(b"a")) == Ack("/", 9, Raw(b'[{"_placeholder":true,"num":0}]'), (b"a",))


@pytest.mark.parametrize("num", ['"splice"', "1", "-1", "0.5", "true", "null"])
def test_an_invalid_placeholder_is_refused_before_the_attachment_arrives(num: str) -> None:
    """CVE-2022-2421: `"num":"splice"`."""
    refuse('51-["x",{"_placeholder":true,"num":NUM}]'.replace("NUM", num))
    refuse('51-["x",{},[{"_placeholder":true,"num":NUM}]]'.replace("NUM", num))
    refuse('61-1[{"_placeholder":true,"num":NUM}]'.replace("NUM", num))


@pytest.mark.parametrize(
    "count",
    ["", "0", "00", "11", "4599999", "99999", "-1", "1.5", "²", "١", "1e1", " 1", "+1", "999999999999999999999"],
)
def test_the_number_of_attachments_is_from_1_to_10(count: str) -> None:
    """CVE-2026-33151 (`4599999-["x"]`) and CVE-2026-69185 (`450-["x"]`)."""
    refuse(f'5{count}-["x"]')
    refuse(f"6{count}-1[]")


@pytest.mark.parametrize(
    "text", ['5["x"]', '51["x"]', "51-", "51-12", "61-", "61-12", '61-["x"]', "51-{}", "51-[1", '5-["x"]']
)
def test_a_binary_packet_without_number_or_payload_is_refused(text: str) -> None:
    refuse(text)


def test_attachments_without_a_placeholder_are_accepted() -> None:
    session = joined()
    session.receive_text('51-["x",1]')
    found = one(session.receive_binary(b"a"))
    assert isinstance(found, Call)
    assert found.attachments == (b"a",)


def test_text_while_attachments_are_due_closes_the_connection() -> None:
    session = joined()
    session.receive_text('52-["x"]')
    session.receive_binary(b"a")
    refuse('2["y"]', session)


def test_an_unannounced_attachment_closes_the_connection() -> None:
    with pytest.raises(WireError):
        joined().receive_binary(b"a")


def test_the_bytes_of_a_packets_attachments_are_limited() -> None:
    session = joined(limits=PacketLimits(max_attachments_bytes=10))
    for _ in range(3):  # counted per packet
        session.receive_text('52-["x"]')
        session.receive_binary(b"a" * 5)
        assert session.receive_binary(b"a" * 5)
    session.receive_text('52-["x"]')
    session.receive_binary(b"a" * 5)
    with pytest.raises(TooBig) as wrong:
        session.receive_binary(b"a" * 6)
    assert wrong.value.limit_name == "max_payload_bytes", "of which it is four times"


def test_the_json_of_a_binary_packet_is_limited_to_65_536_characters() -> None:
    session = joined()
    session.receive_text(f'51-["x","{"y" * 65_000}"]')
    assert session.receive_binary(b"a")
    with pytest.raises(TooBig):
        session.receive_text(f'51-["x","{"y" * 66_000}"]')


@pytest.mark.parametrize("limit", [1, 10, 128])
def test_the_number_of_attachments_is_configurable(limit: int) -> None:
    """socket.io#5489: a fixed cap broke applications."""
    limits = PacketLimits(max_attachments_per_packet=limit)
    session = joined(limits=limits)
    assert session.receive_text(f'5{limit}-["x"]') == ()
    assert [len(session.receive_binary(b"")) for _ in range(limit)] == [0] * (limit - 1) + [1]
    refuse(f'5{limit + 1}-["x"]', joined(limits=limits))


# ── any bytes, both ways ──────────────────────────────────────────────────────────────────────────────────────────────

heads = st.sampled_from(["2", "3", "0", "1", "51-", "61-", "52-", "50-", "5", "6", "4", ""])
spaces = st.sampled_from(["", "/,", "/a,", "/a", "/zzz,"])
tails = (
    st.text(st.sampled_from('[]{}",:0123456789abc\\u-é²')) | st.text() | st.just('["a",{"_placeholder":true,"num":0}]')
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(heads, spaces, st.sampled_from(["", "7", "²"]), tails).map("".join) | st.binary(), max_size=6)
)
def test_any_messages_are_decoded_or_raise_wire_error(messages: list[str | bytes]) -> None:
    session = joined("/", "/a")
    for message in messages:
        try:
            said = session.receive_binary(message) if isinstance(message, bytes) else session.receive_text(message)
        except WireError:
            continue
        assert all(isinstance(packet, (Call, Ack, Connect, Leave)) for packet in said)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name not in RESERVED)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ack_ids = st.none() | st.integers(0, 10**15)
paths = st.sampled_from(["/", "/tickets", "/é"])


def event_of_a_client(namespace: str, name: str, data: Any, ack_id: int | None) -> Encoded:
    """Encode an event as a stock client does: as a BINARY_EVENT if its data contains bytes."""
    attachments: list[bytes] = []
    items = take_out([name, data], attachments)
    kind = f"5{len(attachments)}-" if attachments else "2"
    path, number = "" if namespace == "/" else f"{namespace},", "" if ack_id is None else str(ack_id)
    return Encoded(f"4{kind}{path}{number}{standard.dumps(items)}", b"", attachments=tuple(attachments))


def read_back(message: Encoded, namespace: str) -> Inbound:
    """Return the packet that a session reads from this message."""
    session = joined(namespace, limits=PacketLimits(max_attachments_per_packet=50))
    said = session.receive_text(message.text[1:])
    for attachment in message.attachments:
        assert said == ()
        said = session.receive_binary(attachment)
    return one(said)


@settings(max_examples=150)
@given(paths, names, plain, ack_ids)
def test_an_event_is_read_back_as_it_was_written(namespace: str, name: str, data: Any, ack_id: int | None) -> None:
    found = read_back(event_of_a_client(namespace, name, data, ack_id), namespace)
    assert isinstance(found, Call)
    assert (found.namespace, found.event, found.ack_id) == (namespace, name, ack_id)
    assert with_attachments(found.payload, found.attachments) == data


@settings(max_examples=100)
@given(paths, plain.filter(lambda data: data is not None), st.integers(0, 10**15))
def test_an_ack_is_read_back_as_it_was_written(namespace: str, data: Any, ack_id: int) -> None:
    found = read_back(CODEC.ack(namespace, ack_id, data), namespace)
    assert isinstance(found, Ack)
    assert (found.namespace, found.ack_id) == (namespace, ack_id)
    assert with_attachments(found.payload, found.attachments) == [data]


# ── what we write ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("recovery", "namespace", "offset", "ack_id", "payload", "text"),
    [
        (True, "/", "1-0", None, '{"a":1}', '42["x",{"a":1},"1-0"]'),
        (True, "/t", "1-0", None, '{"a":1}', '42/t,["x",{"a":1},"1-0"]'),
        (True, "/t", "", None, '{"a":1}', '42/t,["x",{"a":1}]'),
        (False, "/t", "1-0", None, '{"a":1}', '42/t,["x",{"a":1}]'),
        (True, "/t", "", 7, "null", '42/t,7["x",null]'),
        (True, "/", "", 0, "", '420["x"]'),
        (True, "/t", "1-0", None, "", '42/t,["x","1-0"]'),
    ],
)
def test_an_event_is_written_as_node_writes_it(
    recovery: bool, namespace: str, offset: str, ack_id: int | None, payload: str, text: str
) -> None:
    """Wire reference 1.1: the offset is the last argument."""
    message = SocketIOCodec(recovery).event(namespace, "x", payload, offset, volatile=True, ack_id=ack_id)
    assert message.text == text
    assert message.frame.endswith(text.encode())
    assert message.volatile


def test_event_names_are_escaped_and_payloads_are_raw_utf_8() -> None:
    assert CODEC.event("/", 'a"\\é/', '"é"').text == '42["a\\"\\\\é/","é"]'


def test_answers_to_connect_are_as_stock_clients_expect_them() -> None:
    assert CODEC.connected("/", "s", "p", False).text == '40{"sid":"s","pid":"p"}'
    assert CODEC.connected("/t", "s", "", False).text == '40/t,{"sid":"s"}'
    assert SocketIOCodec(recovery=False).connected("/t", "s", "p", False).text == '40/t,{"sid":"s"}'
    assert CODEC.refused("/random", "", "Invalid namespace").text == '44/random,{"message":"Invalid namespace"}'
    assert standard.loads(CODEC.refused("/", "FORBIDDEN", 'No "entry".').text[2:]) == {
        "message": "FORBIDDEN",
        "data": {"code": "FORBIDDEN", "message": 'No "entry".'},
    }
    assert CODEC.left("/t").text == "41/t,"
    assert CODEC.left("/").text == "41"


def test_acks_are_written_from_values_or_from_text() -> None:
    assert CODEC.ack("/t", 7, {"ok": True}).text == '43/t,7[{"ok":true}]'
    assert CODEC.ack("/", 0, None).text == "430[]"
    assert CODEC.ack_text("/t", 7, '{"ok":true}').text == '43/t,7[{"ok":true}]'


def test_an_ack_with_bytes_is_binary() -> None:
    message = CODEC.ack("/t", 5, {"f": b"\1\2"})
    assert message.text == '461-/t,5[{"f":{"_placeholder":true,"num":0}}]'
    assert message.attachments == (b"\1\2",)
    assert message.frame.endswith(b"\x82\x02\1\2")
    assert CODEC.ack("/", 5, [b"", b""]).text == '462-5[[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]]'


def test_the_codec_implements_the_codec_protocol() -> None:
    codec: Codec = SocketIOCodec()
    assert codec.event("/", "x", "1").size == len(codec.event("/", "x", "1").frame)


# ── attachments that nobody takes ─────────────────────────────────────────────────────────────────────────────────────


def masked(payload: bytes, opcode: int = 2) -> bytes:
    """A client's frame of more than 64 KiB with a mask of four zeros."""
    return bytes([0x80 | opcode, 0x80 | 127]) + len(payload).to_bytes(8, "big") + bytes(4) + payload


def kept(reader: FrameReader) -> int:
    return len(getattr(reader._message, "_data", b""))


@pytest.mark.parametrize("together", [True, False])
def test_attachments_of_an_event_that_takes_none_are_not_kept(together: bool) -> None:
    """60 connections of one customer held 228 MB for two minutes. Also if packet and attachment arrive together."""
    session = joined("/a", limits=PacketLimits(binary={("/a", "file")}))
    reader = FrameReader(1_000_000)
    reader.limit_by(session)
    head, frame = '52-/a,7["x",{"_placeholder":true,"num":0},1]', masked(b"b" * 900_000)
    if together:
        assert reader.feed(frame[:16_000]) == []
        assert session.receive_text(head) == ()
    else:
        assert session.receive_text(head) == ()
        reader.feed(frame[:16_000])
    for at in range(16_000, 880_000, 16_000):
        reader.feed(frame[at : at + 16_000])
        assert kept(reader) == 0
    for _, message in reader.feed(frame[880_000:]):
        assert session.receive_binary(message) == ()  # type: ignore[arg-type]
    assert session.unfinished
    found = one(session.receive_binary(b"a" * 900_000))
    assert isinstance(found, Call) and found.attachments == (b"", b""), "dispatch refuses the call"
    assert not session.skips_binary and not session.unfinished


def test_attachments_of_an_event_that_takes_them_are_kept() -> None:
    session = joined("/a", limits=PacketLimits(binary={("/a", "file")}))
    reader = FrameReader(1_000_000)
    reader.limit_by(session)
    session.receive_text('51-/a,7["file",{"_placeholder":true,"num":0}]')
    frame = masked(b"b" * 100_000)
    reader.feed(frame[:50_000])
    ((_, message),) = reader.feed(frame[50_000:])
    assert one(session.receive_binary(message)).attachments == (b"b" * 100_000,)  # type: ignore[arg-type, union-attr]


def test_attachments_of_an_ack_that_takes_none_are_not_kept() -> None:
    session = joined("/a", limits=PacketLimits(binary=frozenset()))
    session.receive_text('61-/a,7[{"_placeholder":true,"num":0}]')
    assert session.skips_binary
    assert one(session.receive_binary(b"a")).attachments == (b"",)  # type: ignore[union-attr]

"""RFC 6455: which frames are accepted or refused, and when. `websockets` is the oracle where it follows the RFC."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError as OracleProtocolError
from websockets.frames import Frame as OracleFrame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.wire import frames
from insightdesk_rt.engine.wire.frames import FrameReader, Opcode

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = Opcode
MASK = b"\x12\x34\x56\x78"


def frame(first: int, payload: bytes = b"", mask: bytes = MASK, wide: int = 0) -> bytes:
    """Build a client's frame, without optimisations. `wide` forces a longer form of the length."""
    size = len(payload)
    masked = 0x80 if mask else 0
    if wide == 8 or size > 0xFFFF:
        length = bytes([masked | 127]) + size.to_bytes(8, "big")
    elif wide == 2 or size > 125:
        length = bytes([masked | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([masked | size])
    key = mask or b"\0\0\0\0"
    return bytes([first]) + length + mask + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def whole(opcode: int, payload: bytes = b"", mask: bytes = MASK) -> bytes:
    return frame(0x80 | opcode, payload, mask)


class Bouncer:
    max_message_bytes = 20
    skips_binary = False


def test_the_limit_source_is_read_again_when_a_message_is_over_its_limit() -> None:
    reader, bouncer = FrameReader(300), Bouncer()
    reader.limit_by(bouncer)
    assert reader.feed(whole(TEXT, b"a" * 20)) == [(TEXT, "a" * 20)]
    bouncer.max_message_bytes = 1000
    assert reader.feed(whole(BINARY, b"a" * 300)) == [(BINARY, b"a" * 300)]
    with pytest.raises(TooBig) as wrong:
        reader.feed(whole(BINARY, b"a" * 301))
    assert wrong.value.limit_name == "max_payload_bytes"


def test_a_message_over_the_limit_sources_limit_is_refused_by_its_header() -> None:
    for data in (whole(BINARY, b"a" * 200)[:8], frame(1, b"a" * 15) + frame(0, b"a" * 126)[:8]):
        reader = FrameReader(300)
        reader.limit_by(Bouncer())
        with pytest.raises(TooBig) as wrong:
            reader.feed(data)
        assert wrong.value.limit_name == "max_connect_bytes"


def refused(data: bytes, *, limit: int = 1000, max_fragments: int = 16) -> WireError:
    with pytest.raises(WireError) as wrong:
        FrameReader(limit, max_fragments).feed(data)
    return wrong.value


class Sent(NamedTuple):
    """The bytes a client sends and the messages a server must read: a fragmented message with control frames."""

    data: bytes
    messages: list[frames.Message]


@st.composite
def sent_messages(draw: st.DrawFn) -> Sent:
    masks = st.binary(min_size=4, max_size=4)
    data, messages = b"", list[frames.Message]()
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        text = draw(st.text(max_size=200))
        payload = text.encode()
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        parts = [payload[a:b] for a, b in pairwise([0, *cuts, len(payload)])]
        for i, part in enumerate(parts):
            first = (opcode if i == 0 else CONTINUATION) | (0x80 if i == len(parts) - 1 else 0)
            data += frame(first, part, draw(masks))
            if i < len(parts) - 1 and draw(st.booleans()):
                control = draw(st.sampled_from([PING, PONG]))
                said = draw(st.binary(max_size=125))
                data += whole(control, said, draw(masks))
                messages.append((control, said))
        messages.append((opcode, text if opcode is TEXT else payload))
    return Sent(data, messages)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    return [data[a:b] for a, b in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)])]


@settings(max_examples=150, deadline=None)
@given(sent_messages(), st.lists(st.integers(0, 3000), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_messages(sent: Sent, cuts: list[int]) -> None:
    reader = FrameReader(10_000)
    read = [message for part in split(sent.data, cuts) for message in reader.feed(part)]
    assert read == sent.messages
    assert [type(message) for _, message in read] == [str if opcode is TEXT else bytes for opcode, _ in read]


@settings(max_examples=30, deadline=None)
@given(sent_messages())
def test_byte_by_byte_gives_the_same_messages(sent: Sent) -> None:
    reader = FrameReader(10_000)
    assert [m for byte in sent.data for m in reader.feed(bytes([byte]))] == sent.messages


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_arbitrary_bytes_raise_only_wire_error(parts: list[bytes], require_mask: bool) -> None:
    reader = FrameReader(200, 4, require_mask)
    for part in parts:
        try:
            reader.feed(part)
        except WireError as wrong:
            assert wrong.close in (1002, 1007, 1009)


shapes = st.tuples(
    st.booleans(),  # FIN
    st.sampled_from([0, 0, 0, 0, 0x40, 0x20, 0x10]),  # RSV
    st.sampled_from([0, 1, 1, 2, 8, 9, 10, 3, 7, 11, 15]),
    st.binary(max_size=6) | st.text(max_size=40).map(str.encode) | st.binary(min_size=120, max_size=300),
    st.booleans() | st.just(True),  # masked
)


@settings(max_examples=300, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=5))
def test_the_reader_agrees_with_websockets_on_messages_and_close_codes(
    shapes: list[tuple[bool, int, int, bytes, bool]],
) -> None:
    data = b"".join(
        # a close frame whose code and reason are both bad is refused for either
        frame((0x80 if fin else 0) | rsv | opcode, payload[:2] if opcode == CLOSE else payload, MASK if masked else b"")
        for fin, rsv, opcode, payload, masked in shapes
    )
    assume(not closes_within_a_message(shapes))
    assert ours(data) == oracle(data)


def closes_within_a_message(shapes: list[tuple[bool, int, int, bytes, bool]]) -> bool:
    """RFC 6455 5.4 lets any control frame stand between fragments; websockets refuses a close frame there."""
    unfinished = False
    for fin, _, opcode, _, _ in shapes:
        if opcode == CLOSE:
            return unfinished
        if opcode < CLOSE:
            unfinished = not fin
    return False


def ours(data: bytes) -> tuple[list[object], int]:
    """Return the messages read, and the close code of the error, 0 for none."""
    reader, code = FrameReader(10_000), 0
    messages: list[frames.Message] = []
    try:
        messages = reader.feed(data)
    except WireError as wrong:
        messages, code = list(wrong.messages), wrong.close
    if messages and messages[-1][0] is CLOSE:
        try:
            frames.parse_close(bytes(messages.pop()[1]))  # type: ignore[arg-type]
        except WireError as wrong:
            code = wrong.close
    return [message for _, message in messages], code


def oracle(data: bytes) -> tuple[list[object], int]:
    protocol = ServerProtocol(state=OPEN, max_size=None)
    protocol.receive_data(data)
    failure = protocol.parser_exc
    code = 1007 if isinstance(failure, UnicodeDecodeError) else 1002 if isinstance(failure, OracleProtocolError) else 0
    messages: list[object] = []
    opcode, payload, decoder = CONTINUATION, b"", codecs.getincrementaldecoder("utf-8")()
    for event in protocol.events_received():
        assert isinstance(event, OracleFrame)
        kind = Opcode(event.opcode)
        if kind in (PING, PONG):
            messages.append(bytes(event.data))
        elif kind is not CLOSE:
            if kind is not CONTINUATION:
                opcode, payload, decoder = kind, b"", codecs.getincrementaldecoder("utf-8")()
            payload += event.data
            try:  # websockets leaves this check to the layer above
                if opcode is TEXT:
                    decoder.decode(event.data, event.fin)
            except UnicodeDecodeError:
                return messages, 1007
            if event.fin:
                messages.append(payload.decode() if opcode is TEXT else payload)
    return messages, code


# ── what RFC 6455 forbids ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("data", [whole(TEXT, b"a", mask=b""), whole(PING, b"", mask=b""), b"\x81\x00"])
def test_an_unmasked_frame_is_refused(data: bytes) -> None:
    """RFC 6455 5.1; Tornado 6.6 accepts it."""
    assert refused(data).close == 1002


def test_an_unmasked_frame_is_read_where_masks_are_not_required() -> None:
    reader = FrameReader(1000, require_mask=False)
    assert reader.feed(frames.text_frame("é")) == [(TEXT, "é")]
    assert reader.feed(frames.binary_frame(b"b" * 300)) == [(BINARY, b"b" * 300)]


@pytest.mark.parametrize("bits", [0x40, 0x20, 0x10, 0x70])
def test_reserved_bits_are_refused_by_the_first_byte(bits: int) -> None:
    """RFC 6455 5.2; CVE-2022-21676: right after the upgrade."""
    assert refused(bytes([0x81 | bits])).close == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_refused_by_the_first_byte(opcode: int) -> None:
    assert refused(bytes([0x80 | opcode])).close == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_long_or_fragmented_control_frames_are_refused(opcode: Opcode) -> None:
    """RFC 6455 5.5: decided by the first two bytes."""
    assert refused(bytes([opcode])).close == 1002
    assert refused(bytes([0x80 | opcode, 0x80 | 126])).close == 1002
    assert refused(bytes([0x80 | opcode, 0x80 | 127])).close == 1002
    assert FrameReader(10).feed(whole(opcode, b"x" * 125)) == [(opcode, b"x" * 125)]


def test_fragments_out_of_order_are_refused() -> None:
    assert refused(whole(CONTINUATION, b"a")).close == 1002
    assert refused(frame(TEXT, b"a") + whole(TEXT, b"b")).close == 1002
    assert refused(frame(TEXT, b"a") + whole(BINARY, b"b")).close == 1002
    assert refused(frame(TEXT, b"a") + whole(CONTINUATION, b"b") + whole(CONTINUATION, b"c")).close == 1002


@pytest.mark.parametrize("data", [frame(0x81, b"a", wide=2), frame(0x81, b"a" * 200, wide=8)])
def test_a_length_that_is_not_in_its_shortest_form_is_refused(data: bytes) -> None:
    """RFC 6455 5.2."""
    assert refused(data).close == 1002


def test_a_length_of_64_bits_is_refused() -> None:
    wrong = refused(b"\x82\xff" + b"\xff" * 8)
    assert (wrong.close, isinstance(wrong, TooBig)) == (1002, False)


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [101, 126, 70_000, 2**40])
def test_a_message_over_the_limit_is_refused_by_its_header(size: int) -> None:
    """No byte of the payload has come."""
    length = size.to_bytes(2, "big") if size < 2**16 else size.to_bytes(8, "big")
    head = bytes([0x82, 0x80 | size]) if size < 126 else bytes([0x82, 0xFE if size < 2**16 else 0xFF]) + length
    wrong = refused(head, limit=100)
    assert isinstance(wrong, TooBig)
    assert wrong.close == 1009


def test_a_message_of_exactly_the_limit_is_read() -> None:
    for size in (10, 125, 126, 200):
        assert FrameReader(size).feed(whole(TEXT, b"a" * size)) == [(TEXT, "a" * size)]
        assert isinstance(refused(whole(TEXT, b"a" * (size + 1)), limit=size), TooBig)


def test_the_limit_applies_to_all_fragments_together() -> None:
    reader = FrameReader(100)
    assert reader.feed(frame(BINARY, b"a" * 60)) == []
    with pytest.raises(TooBig):
        reader.feed(frame(CONTINUATION, b"a" * 41)[:6])


@pytest.mark.parametrize("payload", [b"", b"a"])
def test_the_number_of_fragments_is_limited(payload: bytes) -> None:
    """CVE-2026-48779: 1-byte and 0-byte fragments, FIN never."""
    reader = FrameReader(1000, max_fragments=8)
    assert reader.feed(frame(TEXT, payload) + frame(CONTINUATION, payload) * 7) == []
    with pytest.raises(TooBig) as wrong:
        reader.feed(frame(CONTINUATION, payload))
    assert wrong.value.close == 1009


def test_the_number_of_fragments_is_counted_per_message() -> None:
    reader = FrameReader(1000, max_fragments=2)
    for _ in range(5):
        assert reader.feed(frame(TEXT, b"a") + whole(CONTINUATION, b"b")) == [(TEXT, "ab")]


def test_empty_messages_are_messages() -> None:
    reader = FrameReader(100)
    assert reader.feed(whole(TEXT) + whole(BINARY) + whole(PING)) == [(TEXT, ""), (BINARY, b""), (PING, b"")]
    assert reader.feed(frame(TEXT) + frame(CONTINUATION) + whole(CONTINUATION)) == [(TEXT, "")]


def test_a_megabyte_in_one_frame_in_small_reads_is_one_message() -> None:
    text = "é€😀" * 100_000
    data = whole(TEXT, text.encode())
    reader = FrameReader(1_000_000)
    read = [m for at in range(0, len(data), 1448) for m in reader.feed(data[at : at + 1448])]
    assert read == [(TEXT, text)]


# ── UTF-8 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

BAD_UTF_8 = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"a\xf8"]


@pytest.mark.parametrize("bad", BAD_UTF_8)
@pytest.mark.parametrize("padding", [0, 200])
def test_text_that_is_not_utf_8_is_refused(bad: bytes, padding: int) -> None:
    assert refused(whole(TEXT, b"a" * padding + bad)).close == 1007


@pytest.mark.parametrize("bad", BAD_UTF_8)
def test_invalid_text_is_refused_before_the_rest_has_arrived(bad: bytes) -> None:
    data = whole(TEXT, b"a" * 150 + bad + b"b" * 100)
    assert refused(data[: 8 + 150 + len(bad)]).close == 1007
    assert refused(frame(TEXT, bad)).close == 1007


def test_a_character_may_be_split_between_frames_but_not_at_the_end() -> None:
    euro = "€".encode()
    reader = FrameReader(100)
    assert reader.feed(frame(TEXT, euro[:1]) + frame(CONTINUATION, euro[1:2]) + whole(CONTINUATION, euro[2:])) == [
        (TEXT, "€")
    ]
    assert refused(frame(TEXT, euro[:2]) + whole(CONTINUATION)).close == 1007
    assert refused(whole(TEXT, euro[:2])).close == 1007


def test_binary_messages_may_contain_any_bytes() -> None:
    assert FrameReader(100).feed(whole(BINARY, b"\xff\xfe")) == [(BINARY, b"\xff\xfe")]


# ── errors, ends ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_complete_before_an_error_are_returned() -> None:
    wrong = refused(whole(TEXT, b"a") + whole(PING, b"b") + whole(BINARY, b"c") + b"\xff\xff")
    assert wrong.messages == [(TEXT, "a"), (PING, b"b"), (BINARY, b"c")]
    assert refused(b"\xff\xff").messages == []
    assert list(refused(whole(TEXT, b"\xff")).messages) == []


@pytest.mark.parametrize("end", [whole(CLOSE), b"\xff", whole(TEXT, b"\xff")])
def test_bytes_after_a_close_frame_or_an_error_are_ignored(end: bytes) -> None:
    """RFC 6455 5.5.1 and 7.1.7."""
    reader = FrameReader(100)
    try:
        assert reader.feed(end + whole(TEXT, b"a")) == [(CLOSE, b"")]
    except WireError:
        assert end != whole(CLOSE)
    assert reader.feed(whole(TEXT, b"a")) == []
    assert reader.feed(b"\xff") == []


def test_a_close_frame_within_a_message_ends_it() -> None:
    assert FrameReader(100).feed(frame(TEXT, b"a") + whole(CLOSE, b"\x03\xe8")) == [(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4401, 4999])
def test_a_close_code_that_may_be_sent_is_read(code: int) -> None:
    """RFC 6455 7.4 and the IANA registry."""
    assert frames.parse_close(code.to_bytes(2, "big") + "bye €".encode()) == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent_is_refused(code: int) -> None:
    with pytest.raises(WireError) as wrong:
        frames.parse_close(code.to_bytes(2, "big"))
    assert wrong.value.close == 1002


def test_a_close_frame_with_half_a_code_or_invalid_text_is_refused() -> None:
    assert frames.parse_close(b"") == 1005
    for payload, close in ((b"\x03", 1002), (b"\x03\xe8\xff", 1007)):
        with pytest.raises(WireError) as wrong:
            frames.parse_close(payload)
        assert wrong.value.close == close


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.sampled_from([0, 1, 124, 125, 126, 127, 65_535, 65_536]))
def test_a_written_message_is_one_unmasked_frame(text: str, padding: int) -> None:
    text += "x" * padding
    reader = FrameReader(10**6, require_mask=False)
    assert reader.feed(frames.text_frame(text)) == [(TEXT, text)]
    assert reader.feed(frames.binary_frame(text.encode())) == [(BINARY, text.encode())]


@pytest.mark.parametrize(
    ("write", "opcode"), [(frames.ping_frame, PING), (frames.pong_frame, PONG), (frames.binary_frame, BINARY)]
)
def test_control_frames_are_written(write: Callable[[bytes], bytes], opcode: Opcode) -> None:
    assert write(b"abc") == bytes([0x80 | opcode, 3]) + b"abc"


def test_a_long_control_frame_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="125"):
        frames.ping_frame(b"x" * 126)


def test_close_frames_have_code_and_reason_or_nothing() -> None:
    assert frames.close_frame() == b"\x88\x00"
    assert frames.close_frame(4401, "AUTH") == b"\x88\x06\x11\x31AUTH"


def test_a_long_close_reason_is_cut_between_characters() -> None:
    data = frames.close_frame(1000, "€" * 100)
    assert data[1] <= 125
    assert frames.parse_close(data[2:]) == 1000


def test_a_message_is_encoded_once_for_all_transports() -> None:
    message = frames.encoded("4é", volatile=True, attachments=(b"a", b"bc"))
    assert message.text == "4é"
    assert message.volatile
    assert message.attachments == (b"a", b"bc")
    assert message.size == len(message.frame)
    reader = FrameReader(100, require_mask=False)
    assert reader.feed(message.frame) == [(TEXT, "4é"), (BINARY, b"a"), (BINARY, b"bc")]

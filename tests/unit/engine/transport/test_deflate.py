"""Compressed messages: fragmented, with pings in between, with and without context takeover, and within limits."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.transport.stream import Packer
from insightdesk_rt.engine.wire.frames import FrameReader, Opcode, packed_frame
from tests.support.door import frame

RSV1 = 0x40
PARAMETERS = [
    {},
    {"server_no_context_takeover": None},
    {"client_no_context_takeover": None},
    {"server_max_window_bits": "9", "client_max_window_bits": "10"},
]


def turned(parameters: dict[str, str | None]) -> Packer:
    """Return the contexts of the other side."""
    names = {"server": "client", "client": "server"}
    return Packer({names[name[:6]] + name[6:]: value for name, value in parameters.items()})


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@given(texts=st.lists(st.text(max_size=300), min_size=1, max_size=5), cut=st.integers(1, 50), pieces=st.integers(1, 40))
def test_compressed_messages_are_read_however_they_are_fragmented(
    parameters: dict[str, str | None], texts: list[str], cut: int, pieces: int
) -> None:
    """RFC 7692 6.1: RSV1 is set on the first frame of a message; control frames may come in between."""
    server, client = Packer(parameters), turned(parameters)
    reader, data = FrameReader(10_000, unpack=server.unpack), b""
    for text in texts:
        packed = client.pack(text.encode())
        data += frame(1, packed[:cut], fin=False, rsv=RSV1) + frame(9, b"ping") + frame(0, packed[cut:])
    messages = [one for at in range(0, len(data), pieces) for one in reader.feed(data[at : at + pieces])]
    assert [message for opcode, message in messages if opcode is Opcode.TEXT] == texts
    assert [message for opcode, message in messages if opcode is Opcode.PING] == [b"ping"] * len(texts)
    back = FrameReader(10_000, require_mask=False, unpack=client.unpack)
    for text in texts:
        assert back.feed(packed_frame(Opcode.TEXT, server.pack(text.encode()))) == [(Opcode.TEXT, text)]


def test_a_small_message_that_inflates_beyond_the_limit_is_refused_early() -> None:
    packed = Packer({}).pack(b"x" * 10_000_000)
    assert len(packed) < 10_500
    reader = FrameReader(20_000, unpack=Packer({}).unpack)
    with pytest.raises(TooBig) as wrong:
        reader.feed(frame(1, packed, rsv=RSV1))
    assert (wrong.value.close, wrong.value.limit_name) == (1009, "max_payload_bytes")
    exact = FrameReader(20_000, unpack=Packer({}).unpack)
    assert exact.feed(frame(2, Packer({}).pack(b"x" * 20_000), rsv=RSV1)) == [(Opcode.BINARY, b"x" * 20_000)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"\xff\xff\xff", rsv=RSV1), 1007),
        (frame(1, Packer({}).pack(b"\xff\xfe"), rsv=RSV1), 1007),
        (frame(9, b"x", rsv=RSV1), 1002),
        (frame(1, b"x", fin=False) + frame(0, b"x", rsv=RSV1), 1002),
        (frame(1, b"x", rsv=0x20), 1002),
        (frame(1, b"x", rsv=0x60), 1002),
    ],
)
def test_each_violation_has_its_close_code(data: bytes, code: int) -> None:
    with pytest.raises(WireError) as wrong:
        FrameReader(20_000, unpack=Packer({}).unpack).feed(data)
    assert wrong.value.close == code


def test_a_compressed_message_is_refused_without_negotiation() -> None:
    with pytest.raises(WireError):
        FrameReader(20_000).feed(frame(1, Packer({}).pack(b"x"), rsv=RSV1))


def test_a_message_after_a_final_block_is_read() -> None:
    """RFC 7692 7.2.3.4: a block may have BFINAL set."""
    whole = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = whole.compress(b"one") + whole.flush(zlib.Z_FINISH) + b"\x00"
    packer = Packer({})
    assert packer.unpack(data, 100) == b"one"
    assert packer.unpack(Packer({}).pack(b"two"), 100) == b"two"


def test_contexts_are_created_with_the_first_long_message() -> None:
    """A compressor takes 250 KB, and a handshake that offers compression needs no token."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    packers = [Packer({}) for _ in range(20)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / len(packers) < 2_000

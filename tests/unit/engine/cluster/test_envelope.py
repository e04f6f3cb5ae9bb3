"""Messages on the channels: each is read as it was written, and invalid ones raise only Poison."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.envelope import (
    BusCall,
    Logged,
    Poison,
    Probe,
    Volatile,
    checked_key,
    entry,
    header_of,
    probe,
    read,
)
from insightdesk_rt.engine.model import Event, Offset, Room
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS

texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)
events = st.builds(
    Event,
    namespace=texts,
    name=texts.filter(lambda name: name not in RESERVED_EVENTS),  # a node refuses to publish these
    payload=texts,
    rooms=st.lists(texts, min_size=1, max_size=3).map(lambda rooms: tuple(map(Room, rooms))),
    skip=st.lists(texts, max_size=2).map(tuple),
    id=texts,
    was=st.sampled_from([Offset(""), Offset("5-1")]),
)


def logged(event: Event, offset: str, previous: str, origin: str) -> bytes:
    """As lua/append.lua joins it."""
    return f"1L {offset} {previous}\n{header_of(event, origin)}\n{event.payload}".encode()


@given(events, texts)
def test_a_logged_event_is_read_as_it_was_written(event: Event, origin: str) -> None:
    got = read(logged(event, "17-3", "16-0", origin))
    assert isinstance(got, Logged)
    assert (got.at, got.offset, got.previous) == ((17, 3), "17-3", (16, 0))
    back = got.event()
    for name in ("namespace", "name", "payload", "rooms", "skip", "id", "was"):
        assert getattr(back, name) == getattr(event, name)
    assert (back.offset, back.origin) == ("17-3", origin)


@given(events)
def test_a_volatile_event_is_read_as_it_was_written(event: Event) -> None:
    got = read(envelope.volatile(event, "n1", "n1/7").encode())
    assert isinstance(got, Volatile)
    assert (got.event.payload, got.event.rooms, got.event.origin) == (event.payload, event.rooms, "n1")
    assert got.once == ("n1/7" if len(event.rooms) > 1 else "")


def test_a_payload_may_contain_line_breaks() -> None:
    event = Event("/t", "x", '{"a":\n1\n}', (Room("r"),), id="i")
    got = read(logged(event, "1-0", "", "n"))
    assert isinstance(got, Logged) and got.previous is None and got.event().payload == event.payload


def test_probes_and_calls_are_read() -> None:
    assert read(probe(7).encode()) == Probe(7)
    assert read(b"1C 17 ab\nany\nthing") == BusCall(b"17 ab", b"any\nthing")
    assert read(b"1C\nany\nthing") == BusCall(b"", b"any\nthing")


def test_unknown_fields_of_a_newer_node_are_ignored() -> None:
    event = entry(Offset("1-0"), '{"n":"/t","e":"x","r":["a"],"zz":[1]}', "{}")
    assert (event.namespace, event.name, event.rooms) == ("/t", "x", ("a",))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_raise_poison(data: bytes) -> None:
    for prefix in (b"", b"1", b"1L ", b"1L 5-0 \n", b"1V\n", b"1P ", b'1L 5-0 \n{"n":"/t","e":"x","r":["a"]}\n'):
        try:
            got: Any = read(prefix + data)
            if isinstance(got, Logged):
                got.event()
        except Poison:
            pass


@pytest.mark.parametrize(
    "bad",
    [b"", b"2C\nx", b"1Z", b"1L 5-0\n{}\n{}", b"1L 5-0 x\n{}\n{}", b"1L 5-0 4-0\n{}", b"1P 5\na", b"1P 5\na 1-0 b"],
)
def test_an_invalid_message_raises_poison(bad: bytes) -> None:
    with pytest.raises(Poison):
        read(bad)


@pytest.mark.parametrize("offset", ["", "1", "-", "a-b", f"{2**53}-0", f"0-{2**53}", "١-0"])
def test_an_offset_that_valkey_cannot_compare_is_refused(offset: str) -> None:
    with pytest.raises(ValueError):
        checked_key(offset)

r"""The messages on the channels: a short first line that says what it is, then its parts. Pure.

    1L <offset> <previous offset of this room, or empty>\n<header>\n<payload>      a logged event
    1V\n<header>\n<payload>                                                           a volatile event
    1P <number>\n                                                                    a probe
    1C <time, ms> <MAC>\n<text>                                                       a call between nodes (seal.py)

The header is JSON on one line. The payload is the publisher's text, which is passed on and never parsed. The first
character is the version. Messages of another version are dropped and unknown fields of a header are ignored, so that
two versions can share a cluster. Whoever may write to Valkey may publish anything: a message that cannot be decoded is
`Poison`, which is counted and dropped.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.model import Event, Offset, Room, offset_key
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS

VERSION = b"1"
MAX_NUMBER = 2**53  # what Lua's numbers hold exactly


class Poison(ValueError):
    """The message cannot be decoded, so it is not from a node of ours."""


class Header(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={
        "namespace": "n",
        "name": "e",
        "rooms": "r",
        "skip": "s",
        "id": "i",
        "origin": "o",
        "was": "w",
        "once": "v",
    },
):
    """An event without payload and offset. `once` identifies a volatile event whose copies go to several rooms."""

    namespace: str
    name: str
    rooms: tuple[str, ...]
    skip: tuple[str, ...] = ()
    id: str = ""
    origin: str = ""
    was: str = ""
    once: str = ""


_header = msgspec.json.Decoder(Header)


class Logged(NamedTuple):
    """A logged event as received. `at`: the key of its offset; `previous`: of the room's event before it, if known."""

    at: tuple[int, int]
    offset: Offset
    previous: tuple[int, int] | None
    header: bytes
    payload: bytes

    def event(self) -> Event:
        return entry(self.offset, self.header, self.payload)


class Volatile(NamedTuple):
    event: Event
    once: str


class Probe(NamedTuple):
    number: int


class BusCall(NamedTuple):
    stamp: bytes
    text: bytes


def header_of(event: Event, origin: str, once: str = "") -> str:
    return json.encode_struct(
        Header(event.namespace, event.name, event.rooms, event.skip, event.id, origin, event.was, once)
    )


def volatile(event: Event, origin: str, once: str = "") -> str:
    return f"1V\n{header_of(event, origin, once)}\n{event.payload}"


def probe(number: int) -> str:
    return f"1P {number}\n"


def call(stamp: str, text: str) -> str:
    return f"1C {stamp}\n{text}"


def entry(offset: Offset, header: str | bytes, payload: str | bytes) -> Event:
    """Return the event of a log entry. Raises Poison."""
    try:
        head = json.decode(_header, header)
        text = payload if isinstance(payload, str) else payload.decode()
    except ValueError as why:  # BadJson and Unicode errors are ValueErrors
        raise Poison(str(why)) from None
    if head.name in RESERVED_EVENTS:  # from a publisher of another version, or a foreign one
        raise Poison("a reserved event name")
    # Rooms were checked when they were published; NewType costs a call, and this is one per event and node.
    rooms: tuple[Room, ...] = head.rooms  # type: ignore[assignment]
    return Event(head.namespace, head.name, text, rooms, head.skip, head.id, offset, head.origin, Offset(head.was))


def read(data: bytes) -> Logged | Volatile | Probe | BusCall:
    """Decode a message of a channel. Raises Poison. hot: once per message."""
    line, _, rest = data.partition(b"\n")
    if line[:1] != VERSION or len(line) > 200:
        raise Poison("not this version")
    kind = line[1:2]
    try:
        if kind == b"L":
            return _logged(line.decode("ascii"), rest)
        if kind == b"V":
            header, _, payload = rest.partition(b"\n")
            event = entry(Offset(""), header, payload)
            return Volatile(event, json.decode(_header, header).once if len(event.rooms) > 1 else "")
        if kind == b"P":
            if rest:
                raise Poison("a probe with a body")
            return Probe(int(line[3:]))
        if kind == b"C":
            return BusCall(line[3:], rest)
    except ValueError as why:
        raise Poison(str(why)) from None
    raise Poison("no such kind")


def checked_key(offset: str) -> tuple[int, int]:
    """Return the key that compares an offset from outside. Raises ValueError for one that Valkey cannot compare."""
    key = offset_key(offset)
    if max(key) >= MAX_NUMBER:
        raise ValueError("not an offset")
    return key


def _logged(line: str, rest: bytes) -> Logged:
    _, offset, previous = line.split(" ")
    header, newline, payload = rest.partition(b"\n")
    if not newline:
        raise Poison("no payload")
    return Logged(checked_key(offset), Offset(offset), checked_key(previous) if previous else None, header, payload)

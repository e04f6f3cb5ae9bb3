"""A session as it is kept: what its record says, how it is written next, and from where its client is given the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from insightdesk_rt.engine.cluster.envelope import checked_key
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import NO_OFFSET, Offset, Right, Room, Sid, offset_key


class Resumed(NamedTuple):
    """A session that a client came back to: its socket keeps this identity and these rooms."""

    sid: Sid
    pid: str
    rooms: tuple[Room, ...]
    offset: Offset  # everything in its rooms up to here it has
    start: Offset
    owner: str
    role: str  # these two as they were when it began
    team_id: str
    starts: Mapping[Room, Right] = {}  # of rooms it joined after it began


class SessionRecord:
    """A connected socket and how its record is to be written next."""

    __slots__ = ("mode", "owner", "socket", "start", "touched_s")

    def __init__(self, socket: Socket, owner: str, start: Offset, mode: str, now_s: float) -> None:
        self.socket = socket
        self.owner = owner
        self.start = start
        self.mode = mode
        self.touched_s = now_s


class Ended(NamedTuple):
    owner: str
    holder: str  # incarnation that listed it
    keep_ms: int
    rooms: str
    starts: str
    until_s: float


_starts = msgspec.json.Decoder(dict[str, Right])


def starts_text(socket: Socket) -> str:
    return msgspec.json.encode(socket.starts).decode() if socket.starts else ""


def read_starts(text: str) -> Mapping[Room, Right]:
    return {Room(room): right for room, right in _starts.decode(text).items()} if text else {}


def since(offset: str, start: str, said: str, quiet: str) -> Offset:
    """Return from where a client must be given the log. Pure.

    `offset` is what the client says ("" or nonsense: nothing); between `said` and `quiet` its rooms had no event. What
    was said before its session began (`start`) is not for it, whatever it says.
    """
    try:
        checked_key(offset)
        has = Offset(offset)
    except ValueError:
        has = NO_OFFSET
    has = max(has, Offset(start or NO_OFFSET), key=offset_key)
    if offset_key(has) >= offset_key(said) and offset_key(quiet) > offset_key(has):
        return Offset(quiet)
    return has

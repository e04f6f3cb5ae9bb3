"""A session's record: its fields, how it is written next, and from where its client reads the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from insightdesk_rt.engine.cluster.envelope import checked_key
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import NO_OFFSET, Offset, Right, Room, Sid, offset_key


class Resumed(NamedTuple):
    """A session that a client resumes: its socket keeps this identity and these rooms."""

    sid: Sid
    pid: str
    rooms: tuple[Room, ...]
    offset: Offset  # the client has everything in its rooms up to here
    start: Offset
    owner: str
    role: str  # role and team when the session began
    team_id: str
    starts: Mapping[Room, Right] = {}  # of the rooms that it joined after it began


class SessionRecord:
    """A connected socket, and how its record is written next (`mode`, see lua/session_save.lua)."""

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


def since(offset: str, start: str, quiet_from: str, quiet: str) -> Offset:
    """Return the offset from which a client must be sent the log. Pure.

    `offset` is the client's ("" or invalid: none). Between `quiet_from` and `quiet` its rooms had no event. A client is
    never sent events from before its session began (`start`), whatever offset it names.
    """
    try:
        checked_key(offset)
        has = Offset(offset)
    except ValueError:
        has = NO_OFFSET
    has = max(has, Offset(start or NO_OFFSET), key=offset_key)
    if offset_key(has) >= offset_key(quiet_from) and offset_key(quiet) > offset_key(has):
        return Offset(quiet)
    return has

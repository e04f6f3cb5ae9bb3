"""Rooms: the members of rooms, for one namespace on this node: room → codec → sockets, and socket → rooms.

The two maps change together, in `join` and `leave` and nowhere else; `check` compares them. The sockets of a room are
grouped by codec, so that a broadcast encodes once per codec and then only iterates. A disconnect costs as much as the
socket has rooms, and never as much as there are rooms.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, KeysView

from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Room
from insightdesk_rt.engine.wire.codec import Codec

Groups = dict[Codec, set[Socket]]


class Rooms:
    def __init__(self) -> None:
        self._members: dict[Room, Groups] = {}

    def join(self, socket: Socket, room: Room) -> bool:
        """Return whether the socket is this node's first member of the room."""
        socket.rooms.add(room)
        groups = self._members.get(room)
        if groups is None:
            self._members[room] = {socket.codec: {socket}}
            return True
        groups.setdefault(socket.codec, set()).add(socket)
        return False

    def leave(self, socket: Socket, room: Room) -> bool:
        """Return whether the room has no member on this node any more. Idempotent."""
        if room not in socket.rooms:
            return False
        socket.rooms.discard(room)
        groups = self._members[room]
        group = groups[socket.codec]
        group.discard(socket)
        if group:
            return False
        del groups[socket.codec]
        if groups:
            return False
        del self._members[room]
        return True

    def groups(self, rooms: Collection[Room], skip: Collection[str] = ()) -> Groups:
        """Return the members of any of the rooms, each once, without those who are in a room (or have a sid) of `skip`.

        hot: with one room and nothing to skip this returns the room's own map, not a copy; do not change it.
        """
        if len(rooms) == 1 and not skip:
            (room,) = rooms
            return self._members.get(room, {})
        found: Groups = {}
        for room in rooms:
            for codec, sockets in self._members.get(room, {}).items():
                found.setdefault(codec, set()).update(sockets)
        if skip:
            for codec, sockets in found.items():
                found[codec] = {s for s in sockets if s.sid not in skip and s.rooms.isdisjoint(skip)}
        return found

    def members(self, room: Room) -> Iterator[Socket]:
        for sockets in self._members.get(room, {}).values():
            yield from sockets

    def names(self) -> KeysView[Room]:
        return self._members.keys()

    def count(self, room: Room) -> int:
        return sum(map(len, self._members.get(room, {}).values()))

    def __contains__(self, room: Room) -> bool:
        return room in self._members

    def check(self, sockets: Iterable[Socket]) -> None:
        """Raise AssertionError if the two maps disagree. For tests."""
        mine = {(room, s) for room, groups in self._members.items() for group in groups.values() for s in group}
        theirs = {(room, s) for s in sockets for room in s.rooms}
        assert mine == theirs, mine ^ theirs
        assert all(group for groups in self._members.values() for group in groups.values())

"""Hub: the sockets of this node, their rooms, and the only way to send to rooms.

`emit` is for the cluster (through the backplane), `deliver` is for this node, and only `deliver` iterates over members.
A logged event goes to the backplane and comes back before any client sees it, so that all members of a room see the
same order. A volatile event is delivered on this node at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, NamedTuple

from insightdesk_rt.engine.counters import EventCounts
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.access_rechecks import AccessChanged
from insightdesk_rt.engine.hub.backplane import Backplane
from insightdesk_rt.engine.hub.rooms import Groups, Rooms
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Right, Room, Sid, new_id, offset_key
from insightdesk_rt.engine.settings import Count, Help, SettingsPart
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.wire import json

_ANY = Right(NO_OFFSET)
DELIVERED_WITHIN_S = 1.0  # taking access away matters more than that every client gets its last event first
PAGE_BYTES = 262_144  # as one event
HEAD_BYTES = 100  # about, of an event on the wire beside its payload


class JoinResult(NamedTuple):
    """`offset`: everything after it will be delivered.

    `complete` is False if the log, or the right to the room, does not reach back to `since`.
    """

    offset: Offset
    complete: bool


class Missed(NamedTuple):
    events: list[Event]
    complete: bool


class HubSettings(SettingsPart, frozen=True):
    max_rooms_per_socket: Annotated[Count, Help("rooms a socket may be in; 0: no limit")] = 1000


class Replay(NamedTuple):
    """How much of the log one client is sent at a time. A client that missed more is told to reload."""

    events: int
    size_bytes: int

    @staticmethod
    def within(limits: OutboxLimits) -> Replay:
        """Return half of what an outbox holds: the other half is for what comes meanwhile."""
        return Replay(limits.max_outbox_events // 2, limits.max_outbox_bytes // 2)


class Hub:
    """`events` are the names that the server itself sends; events of other names are counted together.

    `delivered` is called with the offset of each logged event that was put into outboxes.
    """

    def __init__(
        self,
        backplane: Backplane,
        namespaces: Iterable[str],
        max_rooms_per_socket: int = 0,
        replay: Replay = Replay.within(OutboxLimits()),
        events: Iterable[str] = (),
        delivered: Callable[[str], None] = lambda offset: None,
    ) -> None:
        self._backplane = backplane
        self._replay = replay
        self._rooms = {namespace: Rooms() for namespace in namespaces}
        self._sockets: dict[str, dict[Sid, Socket]] = {namespace: {} for namespace in self._rooms}
        self._max_rooms = max_rooms_per_socket
        self.on_rooms: list[Callable[[Socket], None]] = []  # called when the rooms of a living socket changed
        names = tuple(events)
        self.sent = {namespace: EventCounts(names) for namespace in self._rooms}  # events put into outboxes
        self._delivered = delivered
        backplane.attach(self)

    def add(self, socket: Socket) -> None:
        """Add the socket, unless its client disconnected while its token was checked."""
        if socket.gone:
            return
        self._sockets[socket.namespace][socket.sid] = socket

    def forget(self, socket: Socket) -> None:
        """Undo `add`: the socket will be added again under another sid."""
        self._take_out(socket)

    def remove(self, socket: Socket) -> None:
        """Remove the socket from all rooms. Idempotent. `rooms` and `starts` keep their last values.

        The session's record is written from both. Without `starts` the server would not know when, and by which right,
        a client that resumes had joined a room.
        """
        if not self._take_out(socket):
            return
        rooms, starts = set(socket.rooms), dict(socket.starts or {})
        for room in rooms:
            self._leave(socket, room)
        socket.rooms, socket.starts = rooms, starts or None
        socket.ended()

    def _take_out(self, socket: Socket) -> bool:
        """Return whether it was there. A socket that resumed its session has the same sid."""
        sockets = self._sockets[socket.namespace]
        if sockets.get(socket.sid) is not socket:
            return False
        del sockets[socket.sid]
        return True

    async def join(self, socket: Socket, room: Room, since: Offset | None = None) -> JoinResult:
        """Make the socket a member; with `since`, first send it what the room's log holds after that offset.

        No event is missed or sent twice between the two. Idempotent. Raises RtError TOO_MANY_ROOMS; UNAVAILABLE (only
        with `since`). A socket that disconnects meanwhile joins nothing.
        """
        return await self.join_all(socket, (room,), since)

    async def join_all(
        self,
        socket: Socket,
        rooms: Collection[Room],
        since: Offset | None = None,
        right: Right | Mapping[Room, Right] = Right(),
        still: Callable[[], bool] = lambda: True,
    ) -> JoinResult:
        """Join several rooms at once. What their logs hold is sent in one order, as if it had come live.

        `since` is the client's own offset. Nothing from before `right` began (one right for all rooms, or one for each)
        is sent, now or when the socket resumes. `still` is called before anything is sent. It says whether the access
        that the caller has checked is unchanged; if not, AccessChanged is raised and nothing is joined.
        """
        rights = dict.fromkeys(rooms, right) if isinstance(right, Right) else right
        begins = {room: max(since, rights[room].since, key=offset_key) for room in rooms} if since is not None else {}
        new = [room for room in rooms if room not in socket.rooms]
        if self._max_rooms and new and len(socket.rooms) + len(new) > self._max_rooms:
            raise RtError("TOO_MANY_ROOMS")
        with self._heard_if_joined(socket.namespace, rooms):
            heard = await asyncio.gather(*(self._backplane.listen(socket.namespace, room) for room in rooms))
            missed = Missed([], True)
            if since is not None and new:
                missed = await self._missed(socket, {room: begins[room] for room in new})
            # no await between the last look at the log and the join: an event would be lost
            if not still():
                raise AccessChanged
            if not socket.gone:
                self._send(missed.events, socket, set(rooms))
            if self._become_member(socket, rooms) and new:
                since_in = socket.since_in = {} if socket.since_in is None else socket.since_in
                position = self.position(socket.namespace)
                since_in.update(dict.fromkeys(new, position))
                starts = socket.starts = {} if socket.starts is None else socket.starts
                if socket.shut:
                    socket.shut.difference_update(new)
                starts.update({room: Right(begins.get(room, position), rights[room].life) for room in new})
                self._rooms_changed(socket)
            complete = missed.complete and all(begin == since for begin in begins.values())
            return JoinResult(max(*heard, self.position(socket.namespace), key=offset_key), complete)

    async def enter(self, socket: Socket, rooms: Collection[Room]) -> None:
        """Make the socket a member of its first rooms. One round trip, or two where no room of them has members here.

        Raises RtError UNAVAILABLE while the store is unreachable: then no room could be subscribed, and a client that
        ignores that refusal would stay connected and never receive anything.
        """
        await self._backplane.reach(socket.namespace)
        known = self._rooms[socket.namespace]
        new = [room for room in rooms if room not in known]
        with self._heard_if_joined(socket.namespace, rooms):
            if len(new) == 1:  # the user's own, nearly always; a gather would be two Tasks
                await self._backplane.listen(socket.namespace, new[0])
            elif new:
                await asyncio.gather(*(self._backplane.listen(socket.namespace, room) for room in new))
            if not self._backplane.available(socket.namespace):  # it may have been lost while this waited
                raise RtError("UNAVAILABLE")
            if self._become_member(socket, rooms):
                socket.since = self.position(socket.namespace)

    async def resume(
        self,
        socket: Socket,
        rooms: Collection[Room],
        since: Offset,
        greet: Callable[[], None] = lambda: None,
        starts: Mapping[Room, Right] = {},
        still: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Make the socket a member of all rooms it had, after sending it what their log holds since its last offset.

        `greet` is called before the first missed event, because a stock client counts an event as received (and moves
        its offset) only once it is connected. It would keep earlier events over a disconnect and emit them again. For a
        room in `starts` nothing from before its start is sent.

        Returns False, without sending or joining anything, if the log does not reach back. Raises RtError UNAVAILABLE;
        AccessChanged, without sending or joining anything, if `still` says no (as in `join_all`).
        """
        with self._heard_if_joined(socket.namespace, rooms):
            await asyncio.gather(*(self._backplane.listen(socket.namespace, room) for room in rooms))
            floors = {room: max(since, starts.get(room, _ANY).since, key=offset_key) for room in rooms}
            missed = await self._missed(socket, floors)
            # no await from here to the joins: an event would be lost
            if socket.gone or not missed.complete:
                return False
            if not still():
                raise AccessChanged
            greet()
            self._send(missed.events, socket, set(rooms))
            socket.since = self.position(socket.namespace)  # it has been sent everything up to here
            socket.starts = dict(starts) or None
            return self._become_member(socket, rooms)

    async def _missed(self, socket: Socket, floors: Mapping[Room, Offset]) -> Missed:
        """Return what the log holds for each room after its floor, up to what this node has delivered at the return.

        Later events in the log are still on their way to this node; a socket that joins now receives them live.
        """
        found: list[Event] = []
        if not floors:
            return Missed(found, True)
        keys, rooms = {room: offset_key(floor) for room, floor in floors.items()}, tuple(floors)
        namespace, most, user = socket.namespace, self._replay.events, socket.user.key
        size, upto = 0, min(floors.values(), key=offset_key)
        newest = max(floors.values(), key=offset_key)
        while True:
            backlog = await self._backplane.read(namespace, rooms, upto, most, user)
            if not backlog.complete:
                return Missed([], False)
            if not await self.until_delivered(namespace, newest):  # then this node would send it again what it has
                raise RtError("UNAVAILABLE", "This node is behind your offset; try again.")
            delivered, floor = offset_key(self.position(namespace)), offset_key(backlog.floor)
            for event in backlog.events:
                if offset_key(event.offset) > delivered:
                    break
                first = offset_key(event.was or event.offset)  # an event that was logged again keeps its age
                if any(room in keys and first > keys[room] for room in event.rooms):
                    found.append(event)
                    size += len(event.payload) + HEAD_BYTES
                elif event.was and first < floor <= max(keys.get(room, floor) for room in event.rooms):
                    # It was lost with a log, and the client's offset is of the next log: it may or may not have had it.
                    return Missed([], False)
            if len(found) > self._replay.events or size > self._replay.size_bytes:
                return Missed([], False)  # the client would be closed as too slow, resume, and be sent the same again
            if offset_key(backlog.upto) >= delivered:
                return Missed(found, True)
            upto = max(upto, backlog.upto, key=offset_key)

    def leave(self, socket: Socket, room: Room) -> None:
        if room in socket.rooms:
            self._leave(socket, room)
            self._rooms_changed(socket)
        elif socket.shut and room in socket.shut:
            socket.shut.discard(room)
            self._rooms_changed(socket)

    def _rooms_changed(self, socket: Socket) -> None:
        for listener in self.on_rooms:
            listener(socket)

    def _leave(self, socket: Socket, room: Room) -> None:
        if socket.since_in:
            socket.since_in.pop(room, None)
        if socket.starts:
            socket.starts.pop(room, None)
        if self._rooms[socket.namespace].leave(socket, room):
            self._backplane.unlisten(socket.namespace, room)

    async def emit(
        self,
        namespace: str,
        rooms: Collection[Room],
        name: str,
        payload: str,
        skip: Collection[str] = (),
        id: str = "",
        fingerprint: str = "",
    ) -> Offset:
        """Log an event and have it delivered to the rooms' members on all nodes. Returns its offset.

        The same `id` again changes nothing and returns the first offset. Raises RtError UNAVAILABLE; CONFLICT if the
        id was that of an event with another `fingerprint`.
        """
        event = Event(namespace, name, payload, tuple(rooms), tuple(skip), id or new_id(), fingerprint=fingerprint)
        return await self._backplane.append(event)

    async def append_all(self, events: Sequence[Event]) -> list[Offset | RtError]:
        """Log events of one namespace together, in this order; members receive them in one write.

        Returns for each its offset, or the error that `emit` raises for it.
        """
        return await self._backplane.append_all(events)

    def publish(
        self, namespace: str, rooms: Collection[Room], name: str, payload: str, skip: Collection[str] = ()
    ) -> None:
        """Deliver a volatile event to members on this node and send it to the others; it may be lost on the way."""
        event = Event(namespace, name, payload, tuple(rooms), tuple(skip))
        self.deliver(event)
        self._backplane.publish(event)

    def deliver(self, event: Event) -> None:
        """Put the event into the outboxes of the members on this node.

        hot: one codec call per codec, one put per member; no await, no JSON, no formatting per client.
        """
        groups = self._rooms[event.namespace].groups(event.rooms, event.skip)
        if event.was:
            groups = _concerned(groups, event.rooms, event.was)
        lost: list[tuple[Socket, CloseReason]] = []
        count = 0
        for codec, sockets in groups.items():
            message = codec.event(
                event.namespace,
                event.name,
                event.payload,
                event.offset or self._stamp(event),
                volatile=not event.logged,
            )
            for socket in sockets:
                why = socket.outbox.put(message)
                if why is not None:
                    lost.append((socket, why))
            count += len(sockets)
        if count:
            self.sent[event.namespace].add(event.name, count)
            if event.offset:
                self._delivered(event.offset)
        for socket, why in lost:  # closing changes the sets that were just walked
            socket.client.close(why)

    def has_members(self, namespace: str, room: Room) -> bool:
        return room in self._rooms[namespace]

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
        """Tell the rooms' members on this node that events are lost for good and that they must reload."""
        for room in rooms:
            self.deliver(Event(namespace, "resync", json.dumps({"rooms": [room]}), (room,)))

    def resync_newer(self, namespace: str, rooms: Mapping[Room, Offset]) -> None:
        """Tell the members that came to a room after its offset that they must reload. See LocalMembers."""
        for room, offset in rooms.items():
            at, payload = offset_key(offset), json.dumps({"rooms": [room]})
            for socket in list(self._rooms[namespace].members(room)):
                if offset_key((socket.since_in or {}).get(room, socket.since)) >= at:
                    socket.emit("resync", payload)

    def position(self, namespace: str) -> Offset:
        """Everything of this node's rooms up to here was delivered."""
        return self._backplane.position(namespace)

    async def until_delivered(self, namespace: str, offset: Offset) -> bool:
        """Wait, for DELIVERED_WITHIN_S at most, until this node has delivered the log up to the offset.

        Returns whether it has.
        """
        now, at = asyncio.get_running_loop().time, offset_key(offset)
        end_s = now() + DELIVERED_WITHIN_S
        # The backplane announces no positions, and few wait: a change of access, a client that is ahead of this node.
        while offset_key(self.position(namespace)) < at and now() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return offset_key(self.position(namespace)) >= at

    @property
    def page_bytes(self) -> int:
        """The most bytes of a list in an answer, as JSON: at most a quarter of what a client may leave unread."""
        return min(PAGE_BYTES, self._replay.size_bytes // 2)

    @property
    def namespaces(self) -> KeysView[str]:
        return self._sockets.keys()

    def sockets(self, namespace: str) -> Mapping[Sid, Socket]:
        return self._sockets[namespace]

    def members(self, namespace: str, room: Room) -> Iterator[Socket]:
        return self._rooms[namespace].members(room)

    def rooms(self, namespace: str) -> Rooms:
        return self._rooms[namespace]

    def check(self) -> None:
        """Raise AssertionError if sockets and rooms disagree. For tests."""
        for namespace, rooms in self._rooms.items():
            rooms.check(self._sockets[namespace].values())

    @staticmethod
    def _send(events: list[Event], socket: Socket, joining: set[Room]) -> None:
        if not events:  # nearly always; a socket may be in very many rooms
            return
        rooms = joining | socket.rooms
        for event in events:
            if socket.sid not in event.skip and rooms.isdisjoint(event.skip):
                socket.emit(event.name, event.payload, event.offset)

    def _stamp(self, event: Event) -> str:
        # A stock client takes any event's last argument, if it is a string, for its offset (its socket.ts):
        # a string payload without an offset behind it would break the client's resume.
        return self.position(event.namespace) if event.payload[:1] == '"' else ""

    def _become_member(self, socket: Socket, rooms: Collection[Room]) -> bool:
        """Add the socket to rooms that are listened to. False: it has ended and may not have read what it was sent."""
        if socket.gone:
            return False
        for room in rooms:
            self._rooms[socket.namespace].join(socket, room)
        return True

    @contextmanager
    def _heard_if_joined(self, namespace: str, rooms: Collection[Room]) -> Iterator[None]:
        """Unlisten the rooms that have no member afterwards: the read failed, or the socket has ended."""
        try:
            yield
        finally:
            for room in rooms:
                if room not in self._rooms[namespace]:
                    self._backplane.unlisten(namespace, room)


def _concerned(groups: Groups, rooms: Collection[Room], was: Offset) -> Groups:
    """Return the members that an event which was logged again concerns: not those that joined, or got it, after `was`.

    A node that begins to listen to a room does not know the ids of its older events. It would send them to new members
    after later events of the same publisher.
    """
    at = offset_key(was)

    def concerns(socket: Socket) -> bool:
        own, rooms_here = socket.since_in or {}, socket.rooms.intersection(rooms)
        return any(at > offset_key(own.get(room, socket.since)) for room in rooms_here)

    return {codec: set(filter(concerns, sockets)) for codec, sockets in groups.items()}

"""One namespace's logged events on one node, in the order of their log. Pure: no clock, no await.

Everything up to `position` that concerned this node's rooms was delivered, each event once. Two things move it: an
event heard on a channel, and a probe, which says how far the log had got when it was sent through the same connection.
One thing stops it: a hole (an event names a predecessor in its room that was not seen) or a lost connection. The lane
is then *held*: what is heard waits in a buffer, while the log is read from `position` on (`catch_up`); `release` then
works off the buffer by the same rules, and what the log had already given falls out as known.

Order is per namespace and not per room, because a client keeps one offset for all its rooms. The price: a hole in one
room holds up its namespace for the milliseconds of a repair.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from insightdesk_rt.engine.cluster.envelope import Logged, Poison
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, offset_key

KNOWN_S = 60.0  # ids of what was delivered are remembered for at least so long
END_EVERY_S = 1.0  # so many doubles are read again at most, and fall out by their ids


class End(NamedTuple):
    """A position that the log has reached. `seen_s`: when that was so last; `event_id`: "" if it is not known."""

    offset: Offset
    seen_s: float
    event_id: str


class Interest:
    """A room this node listens to.

    `settled`: the channel is confirmed, and everything from the lane's position on will be heard. Until then holes are
    no holes, and whoever waits for it waits on `done`; `probe` is the number of the probe that will settle it.
    """

    __slots__ = ("channel", "done", "generation", "lane", "probe", "room", "settled")

    def __init__(self, lane: Sequencer, room: Room, channel: bytes) -> None:
        self.lane = lane
        self.room = room
        self.channel = channel
        self.generation = 0  # one more for each listen: an unlisten that was overtaken is seen by it
        self.settled = False
        self.probe = 0
        self.done: asyncio.Future[None] | None = None

    def settle(self) -> None:
        self.settled = True
        self.let_go()

    def let_go(self) -> None:
        """Wake who waits, settled or not."""
        if self.done is not None and not self.done.done():
            self.done.set_result(None)
        self.done = None


class Sequencer:
    __slots__ = (
        "_at",
        "_buffer",
        "_deliver",
        "_event_id",
        "_older",
        "_recent",
        "duplicates",
        "ends",
        "epoch",
        "forgot",
        "gaps",
        "held",
        "namespace",
        "poison",
        "position",
        "repaired",
        "rooms",
        "settling",
        "skipped",
        "started",
        "verified",
    )

    def __init__(self, namespace: str, deliver: Callable[[Event], None]) -> None:
        self.namespace = namespace
        self._deliver = deliver
        self.position: Offset = NO_OFFSET
        self._at = (0, 0)
        self.verified: Offset = NO_OFFSET  # a position that the log is known to have reached
        # Such positions of the last minute, the newest last: where the log turns out to be another one, it is read on
        # from the newest of them that it has.
        self.ends: deque[End] = deque()
        self.forgot = False  # were there older ones?
        self._event_id = ""  # of the event at the position, if it is known
        self.epoch = ""  # of the Valkey whose log this is; another one was emptied meanwhile
        self.started = False
        self.held = True  # until its log was read for the first time
        self.rooms: dict[Room, Interest] = {}
        self.settling: list[Interest] = []
        self._buffer: list[tuple[Logged, Interest] | tuple[int, Offset | None]] = []
        # Ids of what was delivered: an event that was published again after Valkey lost it has a new offset.
        self._recent: set[str] = set()
        self._older: set[str] = set()
        self.gaps = self.duplicates = self.skipped = self.poison = 0
        self.repaired = 0  # delivered because the log was read: they had not come through the subscription

    def start(self, top: Offset) -> None:
        """Begin at the log's end: there was nobody here to miss what is before it."""
        self.started = True
        self.advance(top)
        self.verified = self.position

    def verify(self, position: Offset, now_s: float) -> None:
        """The log is known to have reached a position up to which everything was delivered."""
        self.verified = position
        event_id = self._event_id if position == self.position else ""
        if self.ends and self.ends[-1].offset == position:
            self.ends[-1] = End(position, now_s, event_id or self.ends[-1].event_id)
        elif not self.ends or now_s - self.ends[-1].seen_s >= END_EVERY_S:
            self.ends.append(End(position, now_s, event_id))
        while len(self.ends) > 1 and self.ends[0].seen_s < now_s - KNOWN_S:
            self.ends.popleft()
            self.forgot = True

    def known_ends(self) -> list[tuple[Offset, str]]:
        """Return the ends, from the oldest to the position, each with the id of its event, "" if it is not known."""
        return [*((end.offset, end.event_id) for end in self.ends), (self.position, self._event_id)]

    def begin_anew(self, top: Offset) -> None:
        """Go on at the log's end: what is before it cannot be told from what was delivered."""
        self.position, self._at, self._event_id = top, offset_key(top), ""
        self.ends.clear()
        self.forgot = False

    def hear(self, message: Logged, interest: Interest) -> bool:
        """Take a logged event off a channel. Returns False if one before it is missing: the lane must be repaired.

        hot: once per event and channel.
        """
        if self.held:
            self._buffer.append((message, interest))
            return True
        if message.at <= self._at:
            self.duplicates += 1  # came through another of its rooms, or from the log
            return True
        if message.previous is not None and message.previous > self._at and interest.settled:
            self.gaps += 1
            self.held = True
            self._buffer.append((message, interest))
            return False
        try:
            event = message.event()
            if event.namespace != self.namespace:
                raise Poison("another namespace's event")
        except Poison:
            self.poison += 1
            return True
        self._at, self.position, self._event_id = message.at, message.offset, event.id
        self._once(event)
        return True

    def probed(self, number: int, top: Offset | None) -> None:
        """A probe came through: everything up to `top` was heard before it."""
        if self.held:
            self._buffer.append((number, top))
            return
        if top is not None:
            self.advance(top)
        if self.settling:
            for interest in self.settling:
                if interest.probe <= number:
                    interest.settle()
            self.settling = [interest for interest in self.settling if not interest.settled]

    def catch_up(self, events: Iterable[Event], upto: Offset) -> None:
        """Deliver what the log holds after `position`, as far as rooms of this node are concerned."""
        for event in events:
            key = offset_key(event.offset)
            if key > self._at:
                self._at, self.position, self._event_id = key, event.offset, event.id
                if not self.rooms.keys().isdisjoint(event.rooms):
                    self.repaired += self._once(event)
        self.advance(upto)

    def release(self, *, forgiving: bool = False) -> bool:
        """End a hold and work off the buffer. Returns False if that found another hole: repair again.

        `forgiving`: take the buffer as it is. For a hole that no reading of the log fills: its event was made up.
        """
        self.held = False
        waiting, self._buffer = self._buffer, []
        for first, second in waiting:
            if isinstance(first, Logged):
                self.hear(first._replace(previous=None) if forgiving else first, second)  # type: ignore[arg-type]
            else:
                self.probed(first, second)  # type: ignore[arg-type]
        return not self.held

    def lose(self) -> None:
        """The connection is gone, and what it had brought in waits for nothing: the log will tell."""
        self.held = True
        self._buffer.clear()
        self.settling.clear()

    def advance(self, offset: Offset) -> None:
        key = offset_key(offset)
        if key > self._at:
            self._at, self.position, self._event_id = key, offset, ""

    def go_back(self, offset: Offset) -> None:
        """Read on from an earlier offset: the log was found to be another one after it.

        Never from later than what was verified: the position itself may come from an event that was made up, and what
        was delivered since is known by its ids.
        """
        self.position = min(offset, self.verified, key=offset_key)
        self._at, self._event_id = offset_key(self.position), ""
        while self.ends and offset_key(self.ends[-1].offset) > self._at:
            self.ends.pop()  # of the log that was lost
        if not self.ends:
            self.forgot = False

    def forget_older(self) -> None:
        """Called every minute while the connection lives: ids are remembered for one to two, as in the log."""
        self._older, self._recent = self._recent, set()

    def _once(self, event: Event) -> bool:
        """Return whether it was new."""
        if event.id in self._recent or event.id in self._older:
            self.skipped += 1
            self._recent.add(event.id)  # it is sent again after each loss
            return False
        self._recent.add(event.id)
        self._deliver(event)
        return True

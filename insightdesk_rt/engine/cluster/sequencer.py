"""One namespace's logged events on one node, in the order of their log. Pure: no clock, no await.

Everything up to `position` that concerned this node's rooms was delivered, each event once. Two things move the
position: an event heard on a channel, and a probe. The server first reads the end of the log for a probe and then
publishes the probe's number through the same connection as the events. So once the number has come in (`probed`)
and the end is known (`log_reached`), in whichever order, everything up to that end was heard. Two things stop the
position: a gap (an event names a predecessor in its room that was not seen) and a lost connection. The sequencer is
then *held*: messages wait in a buffer while the log is read from `position` on (`catch_up`). `release` then processes
the buffer by the same rules, and drops what the log has already given.

Order is per namespace and not per room, because a client keeps one offset for all its rooms. The cost: a gap in one
room delays its namespace for the milliseconds of a repair.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from insightdesk_rt.engine.cluster.envelope import Logged, Poison
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, offset_key

KNOWN_S = 60.0  # ids of delivered events are remembered for at least this long
END_EVERY_S = 1.0  # at most this much is read twice; the doubles are recognised by their ids


class LogEnd(NamedTuple):
    """A position that the log has reached. `seen_s`: when that was last seen; `event_id`: "" if it is not known."""

    offset: Offset
    seen_s: float
    event_id: str


class ChannelSubscription:
    """A room that this node listens to.

    `settled`: the subscription is confirmed, and everything after the sequencer's position will be heard. Until then a
    missing predecessor is no gap, and callers that need the room wait for `done`. `probe` is the number of the probe
    that will settle it.
    """

    __slots__ = ("channel", "done", "generation", "probe", "room", "sequencer", "settled")

    def __init__(self, sequencer: Sequencer, room: Room, channel: bytes) -> None:
        self.sequencer = sequencer
        self.room = room
        self.channel = channel
        self.generation = 0  # counts listens, so that an unlisten which a listen has overtaken is ignored
        self.settled = False
        self.probe = 0
        self.done: asyncio.Future[None] | None = None

    def settle(self) -> None:
        self.settled = True
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Wake the callers that wait, whether it is settled or not."""
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
        "_probed",
        "_reached",
        "_recent",
        "_rewound_from",
        "duplicates",
        "ends",
        "epoch",
        "forgot_ends",
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
        "uncertain",
        "verified",
    )

    def __init__(self, namespace: str, deliver: Callable[[Event], None]) -> None:
        self.namespace = namespace
        self._deliver = deliver
        self.position: Offset = NO_OFFSET
        self._at = (0, 0)
        self.verified: Offset = NO_OFFSET  # the log is known to have reached this position
        # Verified positions of the last minute, the newest last. If the log turns out to be another one, reading goes
        # on from the newest of them that it has.
        self.ends: deque[LogEnd] = deque()
        self.forgot_ends = False  # were older ends dropped?
        self._event_id = ""  # of the event at the position, if it is known
        self._rewound_from = (0, 0)  # the greatest position before it went back
        # Room → offset of its first event that was read a second time and that this node does not know: nobody was in
        # the room here when the event was published. A client that came later may have had it at another node.
        self.uncertain: dict[Room, Offset] = {}
        self.epoch = ""  # of the Valkey that has this log; it changes when Valkey was emptied
        self.started = False
        self.held = True  # until its log was read for the first time
        self.rooms: dict[Room, ChannelSubscription] = {}
        self.settling: list[ChannelSubscription] = []
        self._buffer: list[tuple[Logged, ChannelSubscription] | int] = []  # events, and numbers of probes
        self._probed = 0  # number of the last probe that came in, of those that are not in the buffer
        # Number and log's end of the probes that the server has answered and that have not come in; in their order.
        self._reached: deque[tuple[int, Offset | None]] = deque()
        # Ids of delivered events: an event that was published again after Valkey lost it has a new offset.
        self._recent: set[str] = set()
        self._older: set[str] = set()
        self.gaps = self.duplicates = self.skipped = self.poison = 0
        self.repaired = 0  # events delivered from the log that had not come through the subscription

    def start(self, top: Offset) -> None:
        """Begin at the log's end: no client was here before, so none missed anything."""
        self.started = True
        self.advance(top)
        self.verified = self.position

    def verify(self, position: Offset, now_s: float) -> None:
        """Note that the log has reached a position up to which everything was delivered."""
        self.verified = position
        event_id = self._event_id if position == self.position else ""
        if self.ends and self.ends[-1].offset == position:
            self.ends[-1] = LogEnd(position, now_s, event_id or self.ends[-1].event_id)
        elif not self.ends or now_s - self.ends[-1].seen_s >= END_EVERY_S:
            self.ends.append(LogEnd(position, now_s, event_id))
        while len(self.ends) > 1 and self.ends[0].seen_s < now_s - KNOWN_S:
            self.ends.popleft()
            self.forgot_ends = True

    def known_ends(self) -> list[tuple[Offset, str]]:
        """Return the ends, from the oldest to the position, each with the id of its event, "" if it is not known."""
        return [*((end.offset, end.event_id) for end in self.ends), (self.position, self._event_id)]

    def restart_at(self, top: Offset) -> None:
        """Go on at the log's end: what is before it cannot be compared with what was delivered."""
        self.position, self._at, self._event_id = top, offset_key(top), ""
        self._reached.clear()
        self.ends.clear()
        self.forgot_ends = False

    def hear(self, message: Logged, subscription: ChannelSubscription) -> bool:
        """Take a logged event that came on a channel. Returns False if one before it is missing: repair the sequencer.

        hot: once per event and channel.
        """
        if self.held:
            self._buffer.append((message, subscription))
            return True
        if message.at <= self._at:
            self.duplicates += 1  # it came through another of its rooms, or from the log
            return True
        if message.previous is not None and message.previous > self._at and subscription.settled:
            self.gaps += 1
            self.held = True
            self._buffer.append((message, subscription))
            return False
        try:
            event = message.event()
            if event.namespace != self.namespace:
                raise Poison("another namespace's event")
        except Poison:
            self.poison += 1
            return True
        self._at, self.position, self._event_id = message.at, message.offset, event.id
        self._deliver_once(event)
        return True

    def probed(self, number: int) -> None:
        """Take the number of a probe that came in: everything published before the probe was heard before it."""
        if self.held:
            self._buffer.append(number)
            return
        self._probed = max(self._probed, number)
        self._use_probes()

    def log_reached(self, number: int, top: Offset | None) -> None:
        """Note that the log had reached `top` before the probe was published. None: the server has no such log."""
        self._reached.append((number, top))
        if not self.held:
            self._use_probes()

    def _use_probes(self) -> None:
        """Move on to the log's end of each probe that has come in, and settle the subscriptions made before it."""
        while self._reached and self._reached[0][0] <= self._probed:
            number, top = self._reached.popleft()
            if top is not None:
                self.advance(top)
            if self.settling:
                for subscription in self.settling:
                    if subscription.probe <= number:
                        subscription.settle()
                self.settling = [subscription for subscription in self.settling if not subscription.settled]

    def catch_up(self, events: Iterable[Event], upto: Offset) -> None:
        """Deliver the events that the log holds after `position` and that concern rooms of this node."""
        for event in events:
            key = offset_key(event.offset)
            if key > self._at:
                self._at, self.position, self._event_id = key, event.offset, event.id
                if not self.rooms.keys().isdisjoint(event.rooms):
                    if key <= self._rewound_from:
                        self._read_again(event)
                    # With `was` it is only for members that came before it: others may have it from another node.
                    self.repaired += self._deliver_once(
                        event if event.was else msgspec.structs.replace(event, was=event.offset)
                    )
        self.advance(upto)

    def _read_again(self, event: Event) -> None:
        """Note an event before the point from which this node went back, if it does not know it."""
        if event.id not in self._recent and event.id not in self._older:
            for room in self.rooms.keys() & set(event.rooms):
                self.uncertain.setdefault(room, event.offset)

    def release(self, *, accept_gaps: bool = False) -> bool:
        """End a hold and work off the buffer. Returns False if that found another gap: repair again.

        `accept_gaps`: take the buffer as it is. Use it for a gap that the log cannot fill, which means that the
        predecessor was forged.
        """
        self.held = False
        buffered, self._buffer = self._buffer, []
        for each in buffered:
            if isinstance(each, int):
                self.probed(each)
            else:
                message, subscription = each
                self.hear(message._replace(previous=None) if accept_gaps else message, subscription)
        if not self.held:
            self._use_probes()
        return not self.held

    def connection_lost(self) -> None:
        """Hold and drop the buffer: the connection is lost, and the log will be read."""
        self.held = True
        self._buffer.clear()
        self._reached.clear()
        self.settling.clear()

    def advance(self, offset: Offset) -> None:
        key = offset_key(offset)
        if key > self._at:
            self._at, self.position, self._event_id = key, offset, ""

    def rewind(self, offset: Offset) -> None:
        """Go back to an earlier offset, because the log was found to differ after it.

        Never to a later one than was verified: the position itself may come from a forged event. Events that were
        delivered since are recognised by their ids.
        """
        self._reached.clear()  # ends of the log that was lost
        self._rewound_from = max(self._rewound_from, self._at)
        self.position = min(offset, self.verified, key=offset_key)
        self._at, self._event_id = offset_key(self.position), ""
        while self.ends and offset_key(self.ends[-1].offset) > self._at:
            self.ends.pop()  # of the log that was lost
        if not self.ends:
            self.forgot_ends = False

    def forget_older(self) -> None:
        """Forget old ids. Called every minute while the connection is live: ids are kept for one to two minutes."""
        self._older, self._recent = self._recent, set()

    def _deliver_once(self, event: Event) -> bool:
        """Deliver the event unless its id was delivered before. Returns whether it was new."""
        if event.id in self._recent or event.id in self._older:
            self.skipped += 1
            self._recent.add(event.id)  # keep it longer: it is sent again after each loss
            return False
        self._recent.add(event.id)
        self._deliver(event)
        return True

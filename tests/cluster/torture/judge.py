"""Compares acknowledged with received events. Pure: records in, figures out.

A *stay* is the time in which a client must receive every event of a room. It begins when the server confirms that the
client has joined, and continues over lost connections as long as the server says `recovered: true`. If the server says
otherwise (a new session, `resync`, `ticket:unsubscribed`), the stay ends: that is an announced gap, and it is counted.
Of an ended stay, the events before the last one that was received are still required.

An event is required if it was acknowledged, and first sent after the stay began. A session (from one `recovered: false`
to the next) must receive nothing twice, each publisher's events in their order, and all events in the order of their
offsets. A client that can resume its session must do so, as long as Valkey keeps its data.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[str, int]  # publisher, counter


@dataclass
class Sent:
    """An event as its publisher saw it. `offset` is "" until it is acknowledged."""

    key: Key
    rooms: frozenset[str]
    sent_s: float
    kept: bool = True  # a living node keeps it in case Valkey loses it; False: an emitter sent it
    acked_s: float = 0.0
    offset: str = ""
    tries: int = 0
    by_id: bool = True  # a repetition is recognised by the publisher's id; False: by the ticket's fields


class Heard(NamedTuple):
    key: Key
    offset: str
    at_s: float


@dataclass
class Stay:
    room: str
    from_s: float
    upto: tuple[int, int] | None = None  # the last event that was received, if the stay has ended
    told_s: float | None = None


@dataclass
class Record:
    """What one client received. Its owner calls the methods as events happen; `now_s` is the loop's clock."""

    name: str
    resumes: bool = True  # False: its library does not support recovery
    stays: list[Stay] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)  # of the current session
    sessions: list[list[Heard]] = field(default_factory=list)
    cuts: int = 0
    recovered: int = 0
    new_sessions: int = 0
    resyncs: int = 0
    connected: bool = False
    last: tuple[int, int] = (0, 0)
    before: set[Key] = field(default_factory=set)  # received in this session, in rounds that were judged

    def joined(self, room: str, now_s: float) -> None:
        if not any(stay.room == room and stay.upto is None for stay in self.stays):
            self.stays.append(Stay(room, now_s))

    def hears(self, key: Key, offset: str, now_s: float) -> None:
        self.last = max(self.last, number(offset))
        self.heard.append(Heard(key, offset, now_s))

    def came_back(self, recovered: bool) -> None:
        self.connected = True
        if recovered:
            self.recovered += 1
            return
        self.new_sessions += 1
        self.end_stays()
        self.sessions.append(self.heard)
        self.heard = []
        self.before = set()

    def end_stays(self, room: str | None = None, *, told_s: float | None = None) -> None:
        for stay in self.stays:
            if stay.upto is None and room in (None, stay.room):
                stay.upto, stay.told_s = self.last, told_s

    def resync(self, room: str, now_s: float) -> None:
        """The room's events may be missing up to now; from here on they are required again."""
        self.resyncs += 1
        if any(stay.room == room and stay.upto is None for stay in self.stays):
            self.end_stays(room, told_s=now_s)
            self.joined(room, now_s)

    def begin_round(self) -> None:
        """Forget the judged rounds; keep only what continues."""
        self.stays = [stay for stay in self.stays if stay.upto is None]
        self.before.update(heard.key for heard in self.heard)
        self.heard, self.sessions = [], []
        self.cuts = self.recovered = self.new_sessions = self.resyncs = 0


@dataclass
class Verdict:
    acknowledged: int = 0
    expected: int = 0
    delivered: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)  # lost sessions of clients that returned in time
    # Only if Valkey lost its log: events of two publishers, or of one that changed its node, received in another order.
    # This is the documented limit.
    reordered: int = 0
    announced: int = 0  # events that are missing in an announced gap
    # Changes of tickets that were repeated after Valkey lost the ticket: the documented limit.
    repeated: int = 0
    emitter_lost: int = 0  # events of emitters that were lost with Valkey: the documented limit
    resyncs: int = 0
    recovered: int = 0
    new_sessions: int = 0
    retried: int = 0
    longest_gap_s: float = 0.0
    facts: int = 0  # acknowledged chat messages and notifications
    lost_facts: list[str] = field(default_factory=list)  # those that are missing or wrong in the history or the list

    @property
    def clean(self) -> bool:
        return not (self.missing or self.doubled or self.disordered or self.forgotten or self.lost_facts)

    def __str__(self) -> str:
        parts = (
            ("missing", self.missing),
            ("doubled", self.doubled),
            ("out of order", self.disordered),
            ("forgotten", self.forgotten),
            ("facts wrong", self.lost_facts),
        )
        return "\n".join(f"{len(found)} {name}: {found[:12]}" for name, found in parts if found) or "clean"


def judge(sent: Iterable[Sent], records: Iterable[Record], *, log_kept: bool = True) -> Verdict:
    """Return the figures. `log_kept`: Valkey lost nothing, so all clients must have received one order."""
    verdict, records = Verdict(), list(records)
    events = {event.key: event for event in sent}
    acked = [event for event in events.values() if event.offset]
    verdict.acknowledged = len(acked)
    verdict.retried = sum(event.tries > 1 for event in events.values())
    offsets: dict[Key, set[str]] = defaultdict(set)
    for record in records:
        verdict.resyncs += record.resyncs
        verdict.recovered += record.recovered
        verdict.new_sessions += record.new_sessions
        if log_kept and record.resumes and record.new_sessions:
            verdict.forgotten.append(f"{record.name} started {record.new_sessions} new sessions")
        heard: set[Key] = set()
        for session in (*record.sessions, record.heard):
            _session(record, session, verdict, events, log_kept)
            heard.update(item.key for item in session)
            for item in session:
                offsets[item.key].add(item.offset)
        _owed(record, acked, heard, verdict, log_kept)
    if log_kept:
        verdict.disordered += [f"{key} has offsets {sorted(o)}" for key, o in offsets.items() if len(o) > 1]
    return verdict


def _owed(record: Record, acked: list[Sent], heard: set[Key], verdict: Verdict, log_kept: bool) -> None:
    stays: dict[str, list[Stay]] = defaultdict(list)
    for stay in record.stays:
        stays[stay.room].append(stay)
    for event in acked:
        mine = [stay for room in event.rooms for stay in stays[room] if stay.from_s < event.sent_s]
        if not mine:
            continue
        at = number(event.offset)
        owed = any(stay.upto is None or (stay.told_s is None and at <= stay.upto) for stay in mine)
        there = event.key in heard
        verdict.delivered += there
        if owed or there:
            verdict.expected += 1
        if there:
            continue
        if not owed:
            verdict.announced += 1
        elif not event.kept and not log_kept:
            verdict.emitter_lost += 1
        else:
            verdict.missing.append(f"{record.name} lacks {event.key} {event.offset} of {sorted(event.rooms)}")


def _session(
    record: Record, session: list[Heard], verdict: Verdict, events: Mapping[Key, Sent], log_kept: bool
) -> None:
    counters: dict[str, int] = {}
    known = set(record.before) if session is record.heard else set()
    at, key_at = (0, 0), ("", 0)
    for heard in session:
        sent = events.get(heard.key)
        if heard.key in known and sent is not None and not (sent.by_id or log_kept) and sent.tries > 1:
            verdict.repeated += 1
            continue
        if heard.key in known:
            verdict.doubled.append(f"{record.name} has {heard.key} twice, again at {heard.offset}")
            continue
        known.add(heard.key)
        publisher, counter = heard.key
        if counter < counters.get(publisher, 0):
            later = events.get((publisher, counters[publisher]))
            # At another node; an emitter finds the new primary by itself, and earlier or later than the nodes.
            went_on = any(event is not None and (event.tries > 1 or not event.kept) for event in (sent, later))
            if went_on and not log_kept:
                verdict.reordered += 1
            else:
                verdict.disordered.append(f"{record.name} heard {heard.key} after {counters[publisher]}")
        counters[publisher] = max(counter, counters.get(publisher, 0))
        if number(heard.offset) <= at:
            if log_kept:
                verdict.disordered.append(f"{record.name} heard {heard.key} {heard.offset} after {key_at} {at}")
            else:
                verdict.reordered += 1
        at, key_at = max(at, number(heard.offset)), heard.key
    times = [heard.at_s for heard in session]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    verdict.longest_gap_s = max([verdict.longest_gap_s, *gaps])


def number(offset: str) -> tuple[int, int]:
    ms, _, seq = offset.partition("-")
    return int(ms), int(seq or 0)

"""Logs: reads the logs, one stream per namespace, by scripts, so that only the wanted events travel.

"What did these rooms miss?" is answered from one list of offsets per room. So it costs as much as these rooms missed,
and not as much as all rooms were sent meanwhile. A result is complete or empty. It is empty, and the client must
reload, if (a) the offset lies below the log's floor, because Valkey lost events after it; (b) one of the rooms had an
event after it that was trimmed by age; (c) a room had more than a thousand events, or all rooms together more than
`max_events`; or (d) the offset is older than an hour and older than the list of one of the rooms. Each of these is
known before any event is read.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from insightdesk_rt.engine.cluster.budget import Budget
from insightdesk_rt.engine.cluster.envelope import Poison, checked_key, entry
from insightdesk_rt.engine.cluster.names import Key, Names
from insightdesk_rt.engine.cluster.resp import Arg, Script, load_script
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.backplane import Backlog
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, offset_key

# One call looks at this many entries (~1 ms of Valkey's time) and returns this much payload; then others have a turn.
PAGE_ENTRIES = 500
PAGE_BYTES = 1_000_000
AT_ONCE = 100  # events in the first answer; most clients have missed fewer
MAX_EVENTS = 5_000  # the default limit of one read
IDS_TTL_MS = 3_600_000  # how long lua/append.lua keeps a room's offsets
KEYS_PER_CALL = 500

PACKAGE = "insightdesk_rt.engine.cluster"
OPEN = load_script(PACKAGE, "open", "offsets_lib")
FORK = load_script(PACKAGE, "fork")
READ = load_script(PACKAGE, "read", "offsets_lib")
MISSED = load_script(PACKAGE, "missed", "offsets_lib")
ENTRIES = load_script(PACKAGE, "entries")


class Opened(NamedTuple):
    """`since`: read on from here; None: not known from where.

    `fork`: when the namespace's clients were last told to reload. `apart`: the log has nothing that this node knows, so
    it was another one already when this node started.
    """

    top: Offset
    since: Offset | None
    epoch: str
    fork: str
    apart: bool = False


class LogPage(NamedTuple):
    cut: bool  # the log does not reach back to the offset any more
    upto: Offset
    done: bool
    events: list[Event]


class Logs:
    def __init__(self, valkey: Valkey, names: Names, reads_at_once: int) -> None:
        self._valkey = valkey
        self._names = names
        self.budget = Budget(reads_at_once)
        self.poison = 0

    async def open(self, namespace: str, ends: Iterable[tuple[Offset, str]]) -> Opened:
        """Make sure that the log goes on beyond the node's position; return what lua/open.lua found.

        `ends` are the ends of the log that this node has seen, from the oldest to its position, each with the id of its
        event ("" if not known). Raises RtError UNAVAILABLE.
        """
        own = self._names.namespace(namespace)
        top, since, epoch, fork = await self._valkey.call(
            OPEN, [own.log, own.log_state], list(itertools.chain.from_iterable(ends))
        )
        return Opened(Offset(top), Offset(since) if since else None, epoch, fork)

    async def record_fork(self, namespace: str) -> str:
        """Have all nodes, including this one, tell the namespace's rooms to reload. Raises RtError UNAVAILABLE."""
        return str(await self._valkey.call(FORK, [self._names.namespace(namespace).log_state], []))

    async def read(
        self, namespace: str, rooms: Collection[Room], since: Offset, max_events: int = MAX_EVENTS, user: str = ""
    ) -> Backlog:
        """Return what the log holds for the rooms after `since`, at most `max_events`. A user has one read at a time.

        Raises RtError UNAVAILABLE, BAD_REQUEST.
        """
        try:
            checked_key(since)
        except ValueError:
            raise RtError("BAD_REQUEST", "This is not an offset.") from None
        async with self.budget.of(user):
            return await self._read_all(namespace, rooms, since, max_events)

    async def _read_all(self, namespace: str, rooms: Collection[Room], since: Offset, max_events: int) -> Backlog:
        own = self._names.namespace(namespace)
        keys = [own.log, own.log_state, *map(own.ids, rooms)]
        args: list[Arg] = [since, max_events, AT_ONCE, PAGE_BYTES]
        complete, top, floor, left, *parts = await self._call(MISSED, keys, args)
        events = self._events(namespace, parts)
        left = sorted(left, key=offset_key)
        while complete and left:
            looked, *parts = await self._call(ENTRIES, keys[:1], [PAGE_BYTES, *left[:PAGE_ENTRIES]])
            complete = looked > 0  # else it was trimmed while this was reading
            events += self._events(namespace, parts)
            left = left[looked:]
        return Backlog(events if complete else [], bool(complete), Offset(top), Offset(floor))

    async def _call(self, script: Script, keys: list[Key], args: list[Arg]) -> Any:
        async with self.budget.one_read():
            return await self._valkey.call(script, keys, args, costly=True)

    async def page(self, namespace: str, since: Offset) -> LogPage:
        """Return the next part of the log after `since`, for all rooms: for a node that catches up."""
        own = self._names.namespace(namespace)
        answer = await self._valkey.call(READ, [own.log, own.log_state], [since, PAGE_ENTRIES, PAGE_BYTES])
        cut, upto, done, *parts = answer
        return LogPage(bool(cut), Offset(upto), bool(done), self._events(namespace, parts))

    async def rooms_after(self, namespace: str, rooms: Iterable[Room], since: Offset) -> list[Room]:
        """Return the rooms that had, or may have had, an event after `since`. For a log that was trimmed there."""
        own, asked, found = self._names.namespace(namespace), list(rooms), []
        top = await self._valkey.command("HGET", own.log_state, "top") or NO_OFFSET
        forgotten = offset_key(top)[0] - offset_key(since)[0] >= IDS_TTL_MS
        for start in range(0, len(asked), KEYS_PER_CALL):
            part = asked[start : start + KEYS_PER_CALL]
            lasts = await asyncio.gather(*(self._valkey.command("LINDEX", own.ids(room), 0) for room in part))
            for room, last in zip(part, lasts, strict=True):
                if forgotten if last is None else offset_key(last) > offset_key(since):
                    found.append(room)
        return found

    async def recent(self, namespace: str, room: Room, limit: int) -> list[Event]:
        """Return a room's last events within the last hour that the log still has, the newest first."""
        own = self._names.namespace(namespace)
        offsets = await self._valkey.command("LRANGE", own.ids(room), 0, limit - 1)
        found = await asyncio.gather(*(self._valkey.command("XRANGE", own.log, at, at) for at in offsets))
        parts: list[Any] = []
        for offset, fields in itertools.chain.from_iterable(found):
            parts += [offset, fields[3], fields[5]]  # i, its id, h, its header, p, its payload, r, a room, …
        return self._events(namespace, parts)

    def _events(self, namespace: str, parts: list[Any]) -> list[Event]:
        events = []
        for offset, header, payload in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            try:
                event = entry(Offset(offset), header, payload)
                if event.namespace != namespace:
                    raise Poison("another namespace's event")
                events.append(event)
            except Poison:
                self.poison += 1  # a foreign program wrote into the stream
        return events

"""Reading the logs: one stream per namespace, looked at by scripts, so that only what was asked for travels.

The usual question, "what did these rooms miss?", is answered from lists of the rooms' own offsets: its cost is what
they missed, not what all others were told meanwhile. An answer is complete unless (a) the offset lies below the log's
floor: Valkey lost events after it; or (b) entries after it were cut off by age, and one of the rooms had an event after
it, or is so quiet that Valkey has forgotten when its last was; or (c) a room had more than a thousand: load anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from insightdesk_rt.cluster.envelope import Poison, checked_key, entry
from insightdesk_rt.cluster.names import Names
from insightdesk_rt.cluster.resp import Arg, load_script
from insightdesk_rt.cluster.valkey import Valkey
from insightdesk_rt.errors import RtError
from insightdesk_rt.hub.backplane import Backlog
from insightdesk_rt.model import NO_OFFSET, Event, Offset, Room, offset_key

# One call looks at so many entries (~1 ms of Valkey) and returns so much payload, then the next client has its turn.
PAGE_ENTRIES = 500
PAGE_BYTES = 1_000_000
# A client that asks for the beginning of a long log is told to load anew instead: reading it all is work for Valkey
# that everybody waits for, and costs the asker nothing. 30,000 events are four minutes of a very busy desk.
MAX_PAGES = 60
IDS_TTL_MS = 3_600_000  # how long lua/append.lua keeps a room's offsets
KEYS_PER_CALL = 500


class Page(NamedTuple):
    below: bool  # the offset is below the floor
    cut: bool  # the log no longer reaches back to the offset
    upto: Offset
    done: bool
    top: Offset  # the log's end
    events: list[Event]


class Logs:
    def __init__(self, valkey: Valkey, names: Names) -> None:
        self._valkey = valkey
        self._names = names
        self._open = load_script("insightdesk_rt.cluster", "open")
        self._read = load_script("insightdesk_rt.cluster", "read")
        self.poison = 0

    async def open(self, namespace: str, position: Offset) -> tuple[Offset, Offset, str]:
        """Make sure the log goes on beyond `position`; return its last offset, from where to read on, and the epoch."""
        keys = [self._names.log(namespace), self._names.tops, self._names.floors]
        top, since, epoch = await self._valkey.call(self._open, keys, [namespace, position])
        return Offset(top), Offset(since), epoch

    async def read(self, namespace: str, rooms: Collection[Room], since: Offset) -> Backlog:
        """Return all the log holds for the rooms after `since`. Raises RtError UNAVAILABLE, BAD_REQUEST."""
        try:
            checked_key(since)
        except ValueError:
            raise RtError("BAD_REQUEST", "This is not an offset.") from None
        page = await self.page(namespace, rooms, since)
        complete, events = not (page.below or page.cut), page.events
        for _ in range(MAX_PAGES):
            if page.done:
                return Backlog(events, complete, page.upto)
            page = await self.page(namespace, rooms, page.upto)
            complete = complete and not page.cut  # cut off while we were reading
            events += page.events
        return Backlog([], False, page.top)

    async def page(self, namespace: str, rooms: Collection[Room], since: Offset) -> Page:
        """Return the next part of the log after `since`; with no rooms, of everybody's events."""
        names = self._names
        keys = [names.log(namespace), names.tops, names.floors, *(names.ids(namespace, room) for room in rooms)]
        args: list[Arg] = [namespace, since, PAGE_ENTRIES, PAGE_BYTES, *rooms]
        below, cut, upto, done, top, *rest = await self._valkey.call(self._read, keys, args)
        return Page(bool(below), bool(cut), Offset(upto), bool(done), Offset(top), self._events(namespace, rest))

    async def rooms_after(self, namespace: str, rooms: Iterable[Room], since: Offset) -> list[Room]:
        """Return which of the rooms had, or may have had, an event after `since`. For a log that was cut off there."""
        asked, found = list(rooms), []
        top = await self._valkey.command("HGET", self._names.tops, namespace) or NO_OFFSET
        forgotten = offset_key(top)[0] - offset_key(since)[0] >= IDS_TTL_MS
        for start in range(0, len(asked), KEYS_PER_CALL):
            part = asked[start : start + KEYS_PER_CALL]
            keys = [self._names.ids(namespace, room) for room in part]
            lasts = await asyncio.gather(*(self._valkey.command("LINDEX", key, 0) for key in keys))
            for room, last in zip(part, lasts, strict=True):
                if forgotten if last is None else offset_key(last) > offset_key(since):
                    found.append(room)
        return found

    async def recent(self, namespace: str, room: Room, limit: int) -> list[Event]:
        """Return a room's last events of the last hour that the log still has, the newest first."""
        log, ids = self._names.log(namespace), self._names.ids(namespace, room)
        offsets = await self._valkey.command("LRANGE", ids, 0, limit - 1)
        found = await asyncio.gather(*(self._valkey.command("XRANGE", log, at, at) for at in offsets))
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
                self.poison += 1  # somebody else wrote into our stream
        return events

"""Notification store: the newest MAX_KEPT notifications of a user for KEPT_S, and which of them are unread.

The unread count is the size of the set of unread ones, so it cannot drift. Each push stores a pending event
(pending_events.py). The keys are listed in lua/notification_push.lua.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from insightdesk_rt.engine.cluster.names import Key, Partition
from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.errors import used_before
from insightdesk_rt.engine.ids import PushId
from insightdesk_rt.engine.model import iso
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.pending_events import (
    PASSED,
    PENDING_EVENTS,
    PendingEvent,
    PendingEvents,
    Recovered,
    always,
    once_of,
    read_pending,
)

PACKAGE = "insightdesk_rt.helpdesk.notifications"

MAX_KEPT = 500  # what the list of a bell shows for months; older ones stay with the back end
PAGE_BYTES = 262_144  # of JSON: the notifications in one answer
KEPT_S = 90 * 86_400


PUSH = load_script(PACKAGE, "notification_push", PENDING_EVENTS)
READ = load_script(PACKAGE, "notification_read", PENDING_EVENTS)
AGAIN = load_script(PACKAGE, "notification_again")
LIST = load_script(PACKAGE, "notification_list")
FORGET = load_script(PACKAGE, "notification_forget")
UNREAD_DUE = load_script(PACKAGE, "notification_unseen", PENDING_EVENTS)
UNSEEN = "unseen"  # the kind of a pending event: a notification was not read in time


class Content(Struct, omit_defaults=True, gc=False):
    """What the back end pushed. Only the front end knows what `type` and `data` mean."""

    id: PushId
    type: Annotated[str, Meta(min_length=1, max_length=64)]
    title: Annotated[str, Meta(min_length=1, max_length=300)]
    body: Annotated[str, Meta(max_length=4000)] = ""
    url: Annotated[str, Meta(max_length=2000)] = ""
    data: Raw | UnsetType = UNSET


class Notification(Content, kw_only=True, gc=False):
    createdAt: str
    read: bool


class MarkedRead(Struct, frozen=True):
    """`known`: how many of the ids exist. `pending`: the events for the user's other sockets."""

    unread: int
    known: int
    pending: list[PendingEvent]


class ReadRecord(Struct, frozen=True):
    """The record of notifications that were read: by the socket `sid`, which knows."""

    ids: list[str]
    sid: str


class NotificationPage(Struct, frozen=True):
    unread: int
    more: bool
    notifications: list[Notification]


_read_content = msgspec.json.Decoder(Content)
_read_read = msgspec.json.Decoder(ReadRecord)


class NotificationStore:
    """All methods wait for `recovered`: a client that reloads after Valkey lost its last second must get everything."""

    def __init__(
        self,
        valkey: Valkey,
        partition: Partition,
        name: str = "notification",
        recovered: Recovered = always,
        unseen_ms: int = 0,
    ) -> None:
        self._valkey = valkey
        self._unseen_ms = unseen_ms  # after which an unread notification is `unseen`; 0: never
        self._recovered = recovered
        self.name = name
        self.base = partition.key(name)
        self._unseen = Key(f"{self.base}-unseen")
        self.pending = PendingEvents(valkey, partition, name)

    def _unread(self, key: str) -> Key:
        return Key(f"{self.base}-unread:{key}")

    def _lists(self, key: str) -> list[Key]:
        """The keys of what a user has: items, order, unread."""
        return [Key(f"{self.base}-items:{key}"), Key(f"{self.base}-order:{key}"), self._unread(key)]

    def _all(self, key: str) -> list[Key]:
        """The same, and the keys of the user's events."""
        pending = (self.pending.of(key), self.pending.index)
        return [*self._lists(key), Key(f"{self.base}:{key}"), *pending, self._unseen]

    async def push(self, key: str, content: Content) -> list[PendingEvent]:
        """Store a notification, once per id. Returns the user's pending events, with its own if it is new.

        Raises RtError UNAVAILABLE; CONFLICT if the user has another notification with that id.
        """
        await self.recovered()
        return self.pushed(key, content, await self.begin(key, content))

    async def recovered(self) -> None:
        """Wait until Valkey has again what it may have lost. Await it before `begin`. Raises RtError UNAVAILABLE."""
        await self._recovered()

    def begin(self, key: str, content: Content) -> Awaitable[Any]:
        """Send a push to Valkey with this turn's pipeline; `pushed` reads the answer. Raises RtError UNAVAILABLE."""
        text = json.encode_struct(content)
        args: list[Arg] = [key, content.id, text, MAX_KEPT, KEPT_S, once_of(key, content.id)]
        args.append(self._unseen_ms)
        return self._valkey.begin(PUSH, self._all(key), args, durable=True)

    def pushed(self, key: str, content: Content, answer: Any) -> list[PendingEvent]:
        """Read the answer to a push: see `push`."""
        first, records = answer
        # the order of members in `data` does not matter
        if first and json.loads(first) != json.loads(json.encode_struct(content)):
            raise used_before("id", "notification")
        return read_pending(self.name, key, records)

    async def put_down_again(self, key: str, content: Content, created_ms: int) -> bool:
        """Store an acknowledged notification again, as unread, if Valkey lost it. Returns whether it was lost.

        Raises RtError UNAVAILABLE.
        """
        item = f"{created_ms} {json.encode_struct(content)}"
        args: list[Arg] = [content.id, item, created_ms, MAX_KEPT, KEPT_S]
        return bool(await self._valkey.call(AGAIN, self._lists(key), args))

    async def read_again(self, key: str, ids: list[str]) -> None:
        """Mark these as read again, because Valkey may have forgotten it. Raises RtError UNAVAILABLE."""
        await self._valkey.command("ZREM", self._unread(key), *ids)

    async def forget(self, key: str) -> int:
        """Delete a user's notifications; return how many there were. Raises RtError UNAVAILABLE."""
        await self._recovered()
        return int(await self._valkey.call(FORGET, self._all(key), [key], durable=True))

    async def unread(self, key: str) -> int:
        """Return the number of unread notifications. Raises UNAVAILABLE."""
        await self._recovered()
        return int(await self._valkey.command("ZCARD", self._unread(key)))

    async def unseen(self, limit: int = 100) -> list[PendingEvent]:
        """Return the events of at most `limit` notifications that were not read in time. Each is reported once.

        Raises RtError UNAVAILABLE.
        """
        due = [each.rpartition("\n") for each in await self._valkey.call(PASSED, [self._unseen], [0, limit])]
        calls = (self._valkey.call(UNREAD_DUE, self._all(key), [key, id]) for key, _, id in due)
        found = zip(due, await asyncio.gather(*calls), strict=True)
        return [event for (key, *_), records in found for event in read_pending(self.name, key, records)]

    async def mark_read(self, key: str, ids: list[str], sid: str = "") -> MarkedRead:
        """Mark these (at least one) as read, for the socket `sid`. Raises UNAVAILABLE."""
        return await self._mark(key, sid, *ids)

    async def mark_all_read(self, key: str, sid: str = "") -> MarkedRead:
        """Mark all of the user's as read. Raises UNAVAILABLE."""
        return await self._mark(key, sid)

    async def _mark(self, key: str, sid: str, *ids: str) -> MarkedRead:
        await self._recovered()
        unread, known, records = await self._valkey.call(READ, self._all(key), [key, sid, *ids])
        return MarkedRead(unread, known, read_pending(self.name, key, records))

    async def page(self, key: str, before: str, limit: int, limit_bytes: int = PAGE_BYTES) -> NotificationPage:
        """Return the `limit` newest, or those older than the one with the id `before`. Raises UNAVAILABLE.

        There are fewer if they exceed `limit_bytes` of JSON, but always at least one.
        """
        await self._recovered()
        unread, more, items = await self._valkey.call(LIST, self._lists(key), [before, limit, limit_bytes])
        return NotificationPage(unread, bool(more), [_notification(item, read=not fresh) for item, fresh in items])


def read_notification(record: PendingEvent) -> Notification:
    """Parse the data of the pending event of a notification that was pushed, or not read in time."""
    return _notification(record.data, read=False)


def read_read(record: PendingEvent) -> ReadRecord:
    """Parse the data of the pending event of notifications that were read."""
    return json.decode(_read_read, record.data)


def _notification(item: str, read: bool) -> Notification:
    at_ms, _, text = item.partition(" ")
    content = json.decode(_read_content, text)
    values = {name: getattr(content, name) for name in content.__struct_fields__}
    return Notification(createdAt=iso(int(at_ms)), read=read, **values)

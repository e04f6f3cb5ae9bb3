"""The namespace /notifications: a user's notifications and their unread count, the same on all of the user's sockets.

Every socket of a user is in `user:<id>` from its connect on. A push is stored before its event is published
(pending_events.py). The count is always the whole number, never a difference. If it changes on two nodes at once, the
older count may arrive last. So a node that published a count reads it again a moment later, and publishes it again if
it is different.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.engine.dispatch.namespace import (
    Context,
    Namespace,
    Nothing,
    Outbound,
    Payload,
    Tell,
    Timers,
    event,
    every,
    tell_nobody,
)
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.ids import PushId
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, UserKey, unix_ms, user_room
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.event_relay import EventRelay, Together
from insightdesk_rt.helpdesk.notifications.reports import NOTIFICATION_REPORTS, NotificationReports
from insightdesk_rt.helpdesk.notifications.settings import NotificationSettings
from insightdesk_rt.helpdesk.notifications.store import (
    UNSEEN,
    Content,
    MarkedRead,
    Notification,
    NotificationStore,
    read_notification,
    read_read,
)
from insightdesk_rt.helpdesk.pending_events import PendingEvent, subject_of

NOTIFICATION = "notification"  # not an Outbound: the back end decides its fields
SETTLE_MS = 250  # many times what a message between two nodes takes
RETRY_MS = 1_000
BATCH = 100  # notifications of single users that are stored at the same time
AGAIN_BATCH = 500  # notifications stored again at once


class MarkRead(Payload):
    id: PushId


class ListNotifications(Payload):
    """`before`: the id of the last notification on the page before."""

    before: PushId | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class Unread(Struct):
    unread: int


class NotificationList(Struct):
    notifications: list[Notification]
    more: bool
    unread: int


class UnreadCount(Outbound):
    event: ClassVar[str] = "notification:count"
    unread: int


class NotificationRead(Outbound):
    """The user read these on another socket."""

    event: ClassVar[str] = "notification:read"
    logged: ClassVar[bool] = True
    ids: list[str]


_read_notification = msgspec.json.Decoder(Notification)
_read_read = msgspec.json.Decoder(NotificationRead)


class Notifications(Namespace):
    path = "/notifications"
    settings = NotificationSettings
    plain = (NOTIFICATION,)
    reports = NOTIFICATION_REPORTS
    facts = frozenset({NOTIFICATION, NotificationRead.event})

    def __init__(self, hub: Hub, timers: Timers, notifications: NotificationStore, tell: Tell = tell_nobody) -> None:
        super().__init__(hub, timers)
        self._store = notifications
        tell_of, together = NotificationReports(tell).tell, Together(self._events, hub.append_all, self._published)
        relay = EventRelay(notifications.pending, self._publish_event, self.spawn, tell=tell_of, together=together)
        self._relay = relay
        self._published_counts: dict[str, int] = {}  # the last published count, of users whose count is checked again

    @classmethod
    def build(cls, context: Context) -> Notifications:
        partition = context.valkey.names.namespace(cls.path)
        recovered = partial(context.recovered, cls.path)
        unseen_ms = context.settings.of(NotificationSettings).notification_unseen_s * 1000
        store = NotificationStore(context.valkey, partition, recovered=recovered, unseen_ms=unseen_ms)
        return cls(context.hub, context.timers, store, context.tell)

    async def joined(self, socket: Socket) -> None:
        try:
            self.tell(socket, UnreadCount(await self._store.unread(socket.user.key)))
        except RtError:  # the connection can stay; the count follows when Valkey is reachable
            self._check_again(socket.user.key, RETRY_MS)

    @event("notification:markRead")
    async def mark_read(self, socket: Socket, ask: MarkRead) -> Unread:
        """Mark a notification as read. NOT_FOUND if it is not stored (any more)."""
        marked = await self._store.mark_read(socket.user.key, [ask.id], socket.sid)
        if not marked.known:
            raise RtError("NOT_FOUND", "There is no such notification.", id=ask.id)
        return await self._marked(socket, marked)

    @event("notification:markAllRead")
    async def mark_all_read(self, socket: Socket, ask: Nothing) -> Unread:
        """Mark all notifications as read."""
        return await self._marked(socket, await self._store.mark_all_read(socket.user.key, socket.sid))

    @event("notification:list")
    async def page(self, socket: Socket, ask: ListNotifications) -> NotificationList:
        """Return a page of notifications, newest first: as many as requested, or as fit into `page_bytes`."""
        page = await self._store.page(socket.user.key, ask.before or "", ask.limit, self.hub.page_bytes)
        return NotificationList(page.notifications, page.more, page.unread)

    async def _marked(self, socket: Socket, marked: MarkedRead) -> Unread:
        """Publish the count even if it did not change: it is the answer to a client that requested no ack."""
        self._publish_count(socket.user.key, marked.unread)
        await self._relay.publish_or_raise(marked.pending)
        return Unread(marked.unread)

    # ── what the back end calls ───────────────────────────────────────────────────────────────────────────────────────

    async def push(self, keys: Collection[str], content: Content) -> None:
        """Store a notification for each user (UserKey) and publish it. A repeat has no effect for users who have it.

        Raises RtError UNAVAILABLE: the same call again does what is left. Raises CONFLICT if a user has another
        notification with that id, after all other users got theirs.
        """
        (refused,) = await self.push_all([(keys, content)])
        if refused is not None:
            raise refused

    async def push_all(self, pushes: Sequence[tuple[Collection[str], Content]]) -> list[RtError | None]:
        """Store and publish several notifications, each for its users. Returns what `push` raises for each."""
        each = [(number, key) for number, (keys, _) in enumerate(pushes) for key in dict.fromkeys(keys)]
        refused: list[RtError | None] = [None] * len(pushes)

        def refuse(number: int, why: RtError) -> None:
            known = refused[number]
            if known is None or known.code == "CONFLICT":  # another error says that not all is done
                refused[number] = why

        for start in range(0, len(each), BATCH):
            batch = each[start : start + BATCH]
            stored = await self._store_all([(number, key, pushes[number][1]) for number, key in batch], refuse)
            published = await self._relay.publish_all([pending for _, pending in stored])
            for (number, _), result in zip(stored, published, strict=True):
                if isinstance(result, RtError):
                    refuse(number, result)
        return refused

    async def _store_all(
        self, pushes: Sequence[tuple[int, str, Content]], refuse: Callable[[int, RtError], None]
    ) -> list[tuple[int, list[PendingEvent]]]:
        """Store notifications of single users; return the pending events of each that was stored."""
        begun, stored = [], []
        try:
            await self._store.recovered()
            for number, key, content in pushes:
                begun.append((number, key, content, self._store.begin(key, content)))
        except RtError as why:
            for number, _, _ in pushes[len(begun) :]:
                refuse(number, why)
        for number, key, content, answer in begun:
            try:
                stored.append((number, self._store.pushed(key, content, await answer)))
            except RtError as why:
                refuse(number, why)
        return stored

    @every(ms=1_000, on="leader")
    async def publish_overdue(self) -> None:
        """Publish the events that other nodes left pending, and those of notifications that were not read in time."""
        await self._relay.publish(await self._store.unseen())
        await self._relay.publish_overdue()

    async def _publish_event(self, record: PendingEvent) -> Offset:
        if record.kind == UNSEEN:
            return NO_OFFSET  # it is only in the back end's feed
        if record.kind == "read":
            read = read_read(record)
            self._check_again(
                record.subject, SETTLE_MS
            )  # the node that changed the count may have died before it published it
            return await self.emit(
                NotificationRead(read.ids), user_room(record.subject), skip=(read.sid,), id=record.id
            )
        event = self._event(record)
        offset = await self.hub.emit(self.path, event.rooms, event.name, event.payload, id=event.id)
        self._publish_count(record.subject, await self._store.unread(record.subject))
        return offset

    def _event(self, record: PendingEvent) -> Event:
        text = json.encode_struct(read_notification(record))
        return Event(self.path, NOTIFICATION, text, (user_room(record.subject),), id=record.id)

    async def _events(self, record: PendingEvent) -> list[Event] | None:
        return [self._event(record)] if record.kind == NOTIFICATION else None

    async def _published(self, done: Sequence[tuple[PendingEvent, Offset]]) -> None:
        await asyncio.gather(*map(self._count, dict.fromkeys(record.subject for record, _ in done)))

    async def _count(self, key: str) -> None:
        try:
            self._publish_count(key, await self._store.unread(key))
        except RtError:
            self._check_again(key, RETRY_MS)

    async def put_down_again(self, events: Sequence[Event]) -> None:
        """Store notifications again, read ones as read; then publish the users' counts."""
        for start in range(0, len(events), AGAIN_BATCH):
            # One pipeline: sent in this order, and done in this order.
            await asyncio.gather(*(self._put_down_again(one) for one in events[start : start + AGAIN_BATCH]))
        for key in {subject_of(one.id) for one in events}:
            self._check_again(key, SETTLE_MS)

    async def _put_down_again(self, event: Event) -> None:
        key = subject_of(event.id)
        if event.name == NotificationRead.event:
            await self._store.read_again(key, json.decode(_read_read, event.payload).ids)
            return
        stored = json.decode(_read_notification, event.payload)
        content = Content(**{name: getattr(stored, name) for name in Content.__struct_fields__})
        await self._store.put_down_again(key, content, unix_ms(stored.createdAt))

    async def forget(self, key: UserKey) -> Mapping[str, int]:
        self._published_counts.pop(key, None)
        return {"notifications": await self._store.forget(key)}

    # ── the count ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _publish_count(self, key: str, unread: int) -> None:
        self.publish(UnreadCount(unread), user_room(key))
        self._published_counts[key] = unread
        self._check_again(key, SETTLE_MS)

    def _check_again(self, key: str, delay_ms: int) -> None:
        self.later(("count", key), delay_ms, self._compare, key)

    def _compare(self, key: str) -> None:
        self.spawn(self._settle(key), "settling a count")

    async def _settle(self, key: str) -> None:
        try:
            unread = await self._store.unread(key)
        except RtError:
            self._check_again(key, RETRY_MS)
            return
        if unread != self._published_counts.pop(key, None):
            self._publish_count(key, unread)

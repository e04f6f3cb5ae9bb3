"""Presence: the status of users (online, busy, away, offline), published to the team and to subscribers.

Rooms: team:<teamId>, presence:<userId>. Facts: helpdesk/presence/store.py. A user is online while any node has a
socket of theirs in this namespace. A page reload, or a move to another node, within the grace period is not visible to
others. Updates are logged, because a lost one would leave a wrong status on a screen until the next change. Agents and
admins may subscribe to anybody; a customer only to themselves, since staff's working hours are not for customers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from insightdesk_rt.engine.dispatch.namespace import (
    Context,
    Living,
    Namespace,
    Outbound,
    Payload,
    Rate,
    Route,
    Tell,
    Timers,
    event,
    every,
    tell_nobody,
)
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.ids import USER, Refused, sift
from insightdesk_rt.engine.model import (
    ONE_KIND,
    Status,
    UserKey,
    UserKeys,
    iso,
    named,
    presence_room,
    role_room,
    team_room,
)
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.event_relay import EventRelay
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.presence.connected_users import ConnectedUsers
from insightdesk_rt.helpdesk.presence.reports import PRESENCE_REPORTS, PresenceReports, read_transition
from insightdesk_rt.helpdesk.presence.settings import PresenceSettings
from insightdesk_rt.helpdesk.presence.store import PresenceStore, SeenPresence

MAX_USERS = 500  # per request: half of the rooms a socket may be in, and 4 ms of Valkey
CHOICES: dict[str, Status] = {"online": "online", "busy": "busy", "away": "away"}
LIST = "presence:list"  # an array of PresenceEntry


class Choose(Payload):
    status: str


class WatchUsers(Payload):
    """Each id is checked by itself: an invalid one is named in the answer, and the others still count."""

    userIds: Annotated[list[Any], Meta(max_length=MAX_USERS)]
    customerIds: Annotated[list[Any], Meta(max_length=MAX_USERS)] = []


class PresenceSubscribed(Struct, omit_defaults=True):
    """The ids of `userIds` and of `customerIds` that no user can have."""

    refused: list[Refused] = []
    refusedCustomers: list[Refused] = []


class PresenceEntry(Struct, gc=False, omit_defaults=True, kw_only=True):
    """One user of the list. `lastSeen` is missing for a user who was never here, or too long ago.

    A customer is named by `customerId` where ids are separate.
    """

    userId: str = ""
    customerId: str = ""
    status: Status
    lastSeen: str = ""


class PresenceUpdate(Outbound, kw_only=True):
    """`lastSeen` is when an absent user was last here. Users are named as in PresenceEntry."""

    event: ClassVar = "presence:update"
    logged: ClassVar = True

    userId: str = ""
    customerId: str = ""
    status: Status
    lastSeen: str = ""


class Presence(Namespace):
    """`incarnation` names this node's present life (see ConnectedUsers)."""

    path = "/presence"
    settings = PresenceSettings
    plain = (LIST,)
    reports = PRESENCE_REPORTS

    def __init__(
        self,
        hub: Hub,
        timers: Timers,
        store: PresenceStore,
        incarnation: Callable[[], str],
        keys: UserKeys = UserKeys(),
        fenced: Callable[[str], None] = lambda incarnation: None,
        tell: Tell = tell_nobody,
    ) -> None:
        super().__init__(hub, timers)
        self._keys = keys
        self.store = store
        tell_of = PresenceReports(tell).tell
        self._relay = EventRelay(store.pending, self._publish_change, self.spawn, tell=tell_of)
        self.connected_users = ConnectedUsers(store, incarnation, self._relay, fenced)
        self.transitions: Counter[str] = Counter()  # by new status: those that this node published

    @classmethod
    def build(cls, context: Context) -> Presence:
        partition = context.valkey.names.namespace(cls.path)
        store = PresenceStore(context.valkey, partition, context.settings.of(PresenceSettings).presence_grace_ms)
        keys = context.settings.user_keys
        return cls(context.hub, context.timers, store, context.incarnation, keys, context.fenced, context.tell)

    def routes(self, api: Any) -> Iterable[Route]:
        # Not imported above: emitters import the table of features, and run where there is no Tornado.
        from insightdesk_rt.helpdesk.presence.routes import presence_routes

        return presence_routes(api, self.store, self._keys)

    async def joined(self, socket: Socket) -> None:
        await self.connected_users.add(socket)

    async def left(self, socket: Socket, why: CloseReason) -> None:
        await self.connected_users.remove(socket)

    async def forget(self, key: UserKey) -> Mapping[str, int]:
        return {"presence": int(await self.connected_users.forget(key))}

    @event("presence:status", limit=Rate(5, per_s=60))
    async def choose(self, socket: Socket, ask: Choose) -> None:
        """Choose online, busy or away, for all devices. The choice holds until the next one, also across absences."""
        status = CHOICES.get(ask.status)
        if status is None:
            raise RtError("INVALID_STATUS")
        await self._relay.publish_or_raise(await self.store.choose(socket.user.key, status))

    @event("presence:subscribe")
    async def subscribe(self, socket: Socket, ask: WatchUsers) -> PresenceSubscribed:
        """Get the statuses of users in one list, and every change of them from then on."""
        asked, refused, refused_customers = self._sifted(ask)
        if not socket.user.is_staff and any(key != socket.user.key for key in asked):
            raise RtError("FORBIDDEN")
        if asked:
            await self.hub.join_all(socket, [presence_room(key) for key in asked])
        sent = await self.store.statuses(asked)
        listed = [_entry(seen) for seen in sent]
        self.tell_joined(socket, LIST, json.dumps(listed))
        # A change may have reached the socket after the read and before the list, which then undid it. Read again and
        # send corrections until nothing differs from what the socket was sent last.
        while changed := changes(sent, now := await self.store.statuses(asked)):
            for seen in changed:
                self.tell(socket, update(seen.key, seen.status, when(seen) if seen.status == "offline" else ""))
            sent = now
        return PresenceSubscribed(refused, refused_customers)

    @event("presence:unsubscribe")
    def unsubscribe(self, socket: Socket, ask: WatchUsers) -> None:
        """Get no more changes of these users, except as their teammate."""
        for key in self._sifted(ask)[0]:
            self.hub.leave(socket, presence_room(key))

    def _sifted(self, ask: WatchUsers) -> tuple[list[UserKey], list[Refused], list[Refused]]:
        """Return the keys of the valid ids, and the refused ids of staff and of customers. Raises BAD_REQUEST."""
        if ask.customerIds and not self._keys.separate:
            raise RtError("BAD_REQUEST", ONE_KIND, field="customerIds")
        staff, refused = sift(ask.userIds, USER, "userIds")
        customers, refused_customers = sift(ask.customerIds, USER, "customerIds")
        keys = [*map(self._keys.staff, staff), *map(self._keys.customer, customers)]
        return keys, refused, refused_customers

    async def _publish_change(self, change: PendingEvent) -> None:
        to = json.decode(read_transition, change.data)
        changed = update(to.userId, to.status, iso(to.lastSeen) if to.status == "offline" else "")
        subscribed = presence_room(to.userId)
        await self.emit(changed, subscribed, id=change.id)
        self.transitions[to.status] += 1
        if to.teamId:  # without its customers, and without those who got it as subscribers
            skip = (subscribed, role_room("customer"))
            await self.emit(changed, team_room(to.teamId), skip=skip, id=change.id + ".team")

    # ── what time and other nodes do ─────────────────────────────────────────────────────────────────────────────────

    @every(500)
    async def sweep(self) -> None:
        """Take absent users offline. Runs on every node, since an absence must not wait for a new leader."""
        await self.connected_users.sweep()

    @every(1_000)
    async def reconcile(self) -> None:
        await self.connected_users.reconcile()

    @every(1_000, on="leader")
    async def publish_overdue(self) -> None:
        await self._relay.publish_overdue()

    async def re_register(self) -> None:
        """Store again which users are connected here: Valkey lost it, or this node has a new incarnation."""
        await self.connected_users.re_register()

    async def node_lost(self, incarnation: str) -> None:
        """Let the users of a dead node go offline after the grace period, unless another node has them.

        Any node may call it, also after another one died doing so. Raises RtError UNAVAILABLE: call it again.
        """
        await self.connected_users.node_lost(incarnation)

    async def reap_all_except(self, living: Living) -> None:
        """The same for all nodes that are not living. Called at start."""
        await self.connected_users.reap_all_except(living)


def update(key: str, status: Status, last_seen: str) -> PresenceUpdate:
    who = named(key)
    return PresenceUpdate(userId=who.user_id, customerId=who.customer_id, status=status, lastSeen=last_seen)


def _entry(seen: SeenPresence) -> PresenceEntry:
    who = named(seen.key)
    return PresenceEntry(userId=who.user_id, customerId=who.customer_id, status=seen.status, lastSeen=when(seen))


def when(seen: SeenPresence) -> str:
    return iso(seen.last_seen_ms) if seen.last_seen_ms else ""


def changes(sent: Iterable[SeenPresence], now: Iterable[SeenPresence]) -> list[SeenPresence]:
    """Return the users whose presence differs from what was sent. `lastSeen` of a present user is ignored."""
    pairs = zip(sent, now, strict=True)
    return [new for old, new in pairs if new.status != old.status or (new.status == "offline" and new != old)]

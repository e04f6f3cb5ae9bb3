"""The namespace /tickets: opening a ticket, and the methods with which the back end changes one.

Rooms: everybody who has a ticket open is in `ticket:<id>`, agents and admins in `ticket-staff:<id>` too. viewers.py
knows who views and types, feed.py which event goes to whom. A change is stored before its event is published
(pending_events.py). `apply`, `remove` and `comment` return once the log has the events. After a failure the same
request again, or the node that leads, publishes what is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, NamedTuple

from msgspec import Meta, Struct, field

from insightdesk_rt.engine.dispatch.namespace import (
    PAGE,
    TYPING,
    Context,
    Namespace,
    Outbound,
    Payload,
    Tell,
    Timers,
    event,
    every,
    tell_nobody,
)
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub, JoinResult
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.ids import TICKET, TicketIdText, sift
from insightdesk_rt.engine.model import (
    NO_OFFSET,
    Event,
    Offset,
    Person,
    Right,
    Room,
    User,
    UserKey,
    ticket_room,
    ticket_staff_room,
)
from insightdesk_rt.engine.tokens import MAX_TOKEN_CHARS
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.texts import OffsetText
from insightdesk_rt.helpdesk.event_relay import (
    EventRelay,
    Together,
    publish_then_revoke,
    revoke_then_publish,
)
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.tickets.access import AccessQuestions, AskedAccess, MayRead, load_access
from insightdesk_rt.helpdesk.tickets.audience import Audience, ByCheck, ByRooms, may
from insightdesk_rt.helpdesk.tickets.feed import TicketFeed
from insightdesk_rt.helpdesk.tickets.passes import TicketPasses
from insightdesk_rt.helpdesk.tickets.readers import NOTE_EVERY_MS, ReaderStore
from insightdesk_rt.helpdesk.tickets.reports import TICKET_REPORTS, TicketReports
from insightdesk_rt.helpdesk.tickets.settings import TicketSettings
from insightdesk_rt.helpdesk.tickets.store import (
    LIFE,
    Comment,
    Guard,
    Outcome,
    StoredChange,
    Ticket,
    TicketChange,
    TicketRequest,
    TicketStore,
    comment_request,
    put_request,
    read_change,
)
from insightdesk_rt.helpdesk.tickets.viewers import TicketViewers, ViewerTracker
from insightdesk_rt.helpdesk.typing_indicators import TYPING_MS
from insightdesk_rt.helpdesk.viewer_store import Viewer, ViewerStore, ViewState

DECIDE_ACCESS = frozenset({"watchers", "customerWatchers", "teamId", "requesterId", "assigneeId"})
TICKET_ROOM = ticket_room("")
MAX_AT_ONCE = 200  # tickets per call: a page of a list has 25 to 150
LONGEST_TIMER_MS = 86_400_000
SHOWN_AT_ONCE = 10  # tickets: 30 commands in Valkey's pipeline, and at most a page and a quarter of viewers


class OnTicket(Payload):
    ticketId: TicketIdText


class SubscribeTicket(Payload):
    """One ticket, or several at once. `since`: an offset; the logged events after it are sent first.

    With a signed `pass` that names the tickets, nobody is asked whether the user may read them.
    """

    ticketId: TicketIdText | None = None
    since: OffsetText | None = None
    ticketIds: Annotated[list[Any], Meta(min_length=1, max_length=MAX_AT_ONCE)] | None = None  # each is answered
    pass_: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_CHARS)] | None = field(name="pass", default=None)


def _how_many(ask: SubscribeTicket) -> int:
    return len(ask.ticketIds or ()) or 1


class ViewTicket(Payload):
    ticketId: TicketIdText
    state: ViewState


class TicketSubscribed(Outbound):
    """The client gets every event of the ticket after `offset`. `complete`: the log reached back to `since`.

    `version` is 0 for a ticket that the back end has not pushed. `viewers` is empty for customers.
    `more`: more people view or type than the lists may hold.
    """

    event: ClassVar[str] = "ticket:subscribed"
    ticketId: str
    offset: str
    version: int
    viewers: list[Viewer]
    typing: list[Person]
    complete: bool
    more: bool = False


class TicketOpened(Struct, omit_defaults=True):
    """The result for one of several tickets: `ok` with the fields of `ticket:subscribed`, or an `error`."""

    ticketId: str
    ok: bool
    offset: str = ""
    version: int | None = None
    complete: bool | None = None
    error: dict[str, Any] | None = None


class TicketsOpened(Struct):
    """In the order of the ids, each once. Viewers and typing users are in each ticket's `ticket:subscribed` event."""

    tickets: list[TicketOpened]


class TicketUnsubscribed(Outbound):
    """`reason`: "access" for a user who may not read the ticket any more, "expired" for a pass that has ended."""

    event: ClassVar[str] = "ticket:unsubscribed"
    ticketId: str
    reason: str | None = None


class TicketResync(Outbound):
    """This client has lost events of these rooms and must reload."""

    event: ClassVar[str] = "resync"
    rooms: list[str]
    ticketId: str


class Applied(NamedTuple):
    """The answer to the back end. `offset`: where the log has the last event of the ticket.

    `applied` is False for a change that is older than what is known.
    """

    version: int
    offset: Offset
    created: bool = False
    applied: bool = True


class Tickets(Namespace):
    """`access` decides who may read a ticket, wherever that matters: subscribe, resume, and the events for staff.

    `readers` is needed for the host's own check. `recheck_on_all_nodes` calls `recheck_access` on every node; None:
    this is the only node.
    """

    path = "/tickets"
    settings = TicketSettings
    reports = TICKET_REPORTS

    def __init__(
        self,
        hub: Hub,
        timers: Timers,
        tickets: TicketStore,
        viewers: ViewerStore,
        access: MayRead,
        readers: ReaderStore,
        *,
        agent_access: str = "team",
        typing_ms: int = TYPING_MS,
        incarnation: Callable[[], str] = lambda: "",
        recheck_on_all_nodes: Callable[[str, Offset], Awaitable[object]] | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        super().__init__(hub, timers)
        self._incarnation = incarnation
        self._rechecked_as = incarnation()
        self._tickets = tickets
        self._access = access
        self.passes = TicketPasses()
        self.viewers = ViewerTracker(self, viewers, typing_ms)
        self._readers = readers
        audience: Audience = ByCheck(access, readers) if access.of_host else ByRooms(agent_access == "all")
        self._feed = TicketFeed(self, audience)
        tell_of, together = TicketReports(tell).tell, Together(self._events, hub.append_all, self._published)
        self._relay = EventRelay(tickets.pending, self._publish_change, self.spawn, self._revoke, tell_of, together)
        self._recheck_on_all_nodes = recheck_on_all_nodes or self.recheck_access

    @classmethod
    def build(cls, context: Context) -> Tickets:
        """Raises ValueError if the setting `access` names no check."""
        settings, partition = context.settings.of(TicketSettings), context.valkey.names.namespace(cls.path)
        tickets = TicketStore(context.valkey, partition)
        return cls(
            context.hub,
            context.timers,
            tickets,
            ViewerStore(context.valkey, partition, context.incarnation),
            load_access(settings, tickets, SimpleNamespace(**context.settings.by_name)),
            ReaderStore(
                context.valkey, partition, settings.recovery_window_s * 1000 if settings.connection_recovery else 0
            ),
            agent_access=settings.agent_access,
            typing_ms=settings.typing_ms,
            incarnation=context.incarnation,
            recheck_on_all_nodes=partial(context.calls.recheck_on_all_nodes, cls.path),
            tell=context.tell,
        )

    def asks(self, questions: AccessQuestions) -> None:
        """Ask the back end who may read a ticket, with `access_url`. Called once, before there are clients."""
        assert isinstance(self._access, AskedAccess)
        self._access.questions = questions

    # ── what clients call ────────────────────────────────────────────────────────────────────────────────────────────

    @event("ticket:subscribe", limit=PAGE, weigh=_how_many)
    async def subscribe(self, socket: Socket, ask: SubscribeTicket) -> TicketSubscribed | TicketsOpened:
        """Open a ticket. FORBIDDEN unless the user may read it; admins get NOT_FOUND if there is no such ticket.

        With several tickets, each has a result of its own.
        """
        since = Offset(ask.since) if ask.since else None
        if ask.ticketIds is None:
            if ask.ticketId is None:
                raise RtError("BAD_REQUEST", "Expected ticketId or ticketIds", field="ticketId")
            return await self._open(socket, ask.ticketId, since, ask.pass_)
        if ask.ticketId is not None:
            raise RtError("BAD_REQUEST", "Expected ticketId or ticketIds, not both", field="ticketIds")
        ticket_ids, refused = sift(ask.ticketIds, TICKET, "ticketIds")
        opened = {one.ticketId: one for one in (await self._open_all(socket, ticket_ids, since, ask.pass_)).tickets}
        wrong = {one.index: RtError("BAD_REQUEST", one.message, field=f"ticketIds[{one.index}]") for one in refused}
        answers = [
            _opened(str(asked)[:64], None, wrong[at]) if at in wrong else opened.pop(asked, None)
            for at, asked in enumerate(ask.ticketIds)
        ]
        return TicketsOpened([one for one in answers if one is not None])

    async def _open(self, socket: Socket, ticket_id: str, since: Offset | None, shown: str | None) -> TicketSubscribed:
        async def join(still: Callable[[], bool]) -> JoinResult:
            try:
                await self._require(socket, ticket_id, shown)
                right = await self._tickets.right(ticket_id, self._opened_by(socket, shown))
                return await self.hub.join_all(socket, _rooms(socket.user, ticket_id), since, right, still)
            finally:
                self._drop_unused_passes(socket)

        return await self._show(socket, ticket_id, await self.rechecks.join([ticket_room(ticket_id)], join))

    async def _open_all(
        self, socket: Socket, ticket_ids: list[str], since: Offset | None, shown_pass: str | None
    ) -> TicketsOpened:
        """Open several tickets with one join: either all that the user may read are open afterwards, or none is."""
        new = [one for one in ticket_ids if ticket_room(one) not in socket.rooms]
        refused: dict[str, RtError] = {}

        async def join(still: Callable[[], bool]) -> JoinResult:
            nonlocal refused
            refused = await self._refusals(socket, ticket_ids, shown_pass)
            rights: dict[Room, Right] = {}
            for some in batched([one for one in ticket_ids if one not in refused], SHOWN_AT_ONCE):
                opened_by = self._opened_by(socket, shown_pass)
                found = await asyncio.gather(*(self._tickets.right(one, opened_by) for one in some))
                for ticket_id, right in zip(some, found, strict=True):
                    rights |= dict.fromkeys(_rooms(socket.user, ticket_id), right)
            if not rights:
                return JoinResult(NO_OFFSET, True)
            try:
                return await self.hub.join_all(socket, tuple(rights), since, rights, still)
            finally:
                self._drop_unused_passes(socket)

        joined = await self.rechecks.join([ticket_room(one) for one in ticket_ids], join)
        try:
            shown: dict[str, TicketSubscribed] = {}
            for some in batched([one for one in ticket_ids if one not in refused], SHOWN_AT_ONCE):
                await socket.room()
                answers = await asyncio.gather(*(self._show(socket, one, joined) for one in some))
                shown.update(zip(some, answers, strict=True))
        except BaseException:  # the client does not know that they are open
            for ticket_id in new:
                self._take_out(socket, ticket_id)
            raise
        return TicketsOpened([_opened(one, shown.get(one), refused.get(one)) for one in ticket_ids])

    def _opened_by(self, socket: Socket, shown_pass: str | None) -> Collection[str]:
        """Return the grants that may open a ticket. Of a pass, only its issuer knows since when the user may read."""
        return (LIFE,) if shown_pass is not None else self._access.opened_by(socket.user)

    async def _require(self, socket: Socket, ticket_id: str, shown_pass: str | None) -> None:
        """Raise RtError unless the user may read the ticket: by the pass, if there is one, or by the access check."""
        if shown_pass is None:
            await self._require_access(socket, ticket_id)
            self._drop_pass(socket, ticket_id)
            return
        self.passes.show(socket, ticket_id, shown_pass)
        self._watch_pass(socket, ticket_id)

    def _drop_unused_passes(self, socket: Socket) -> None:
        for ticket_id in self.passes.unused(socket):
            self._drop_pass(socket, ticket_id)

    def _drop_pass(self, socket: Socket, ticket_id: str) -> None:
        if self.passes.drop(socket, ticket_id):
            self.cancel(("pass", socket, ticket_id))

    def _watch_pass(self, socket: Socket, ticket_id: str) -> None:
        """Take the socket out of the ticket when its pass ends. The wall clock decides, as for tokens."""
        left_s = self.passes.left_s(socket, ticket_id, time.time())
        if left_s is None or socket.gone:
            return
        if left_s <= 0:
            if ticket_room(ticket_id) in socket.rooms:
                self._expel(socket, ticket_id, "expired")
            self._drop_pass(socket, ticket_id)
        else:
            delay_ms = min(int(left_s * 1000) + 1, LONGEST_TIMER_MS)
            self.later(("pass", socket, ticket_id), delay_ms, self._watch_pass, socket, ticket_id)

    async def _refusals(self, socket: Socket, ticket_ids: list[str], shown_pass: str | None) -> dict[str, RtError]:
        """Return the tickets that the user may not open, with the errors to answer. Raises RtError UNAVAILABLE."""
        found: dict[str, RtError] = {}
        for some in batched(ticket_ids, SHOWN_AT_ONCE):
            asked = await asyncio.gather(
                *(self._require(socket, one, shown_pass) for one in some), return_exceptions=True
            )
            for ticket_id, why in zip(some, asked, strict=True):
                if isinstance(why, RtError) and why.code != "UNAVAILABLE":
                    found[ticket_id] = why
                elif isinstance(why, BaseException):
                    raise why
        return found

    async def _show(self, socket: Socket, ticket_id: str, joined: JoinResult) -> TicketSubscribed:
        """Send the viewers of a ticket to a socket that has joined it, and show the socket to them."""
        staff = socket.user.is_staff
        if staff:
            await self.viewers.view(socket, ticket_id)
        live, version = await asyncio.gather(self.viewers.live(ticket_id), self._tickets.version(ticket_id))
        typing = [person for person in live.typing if person.key != socket.user.person.key]
        viewers = live.viewers if staff else []
        answer = TicketSubscribed(
            ticket_id, joined.offset, version, viewers, typing, joined.complete, live.more and staff
        )
        self.tell_joined(socket, answer.event, json.encode_struct(answer))
        if not joined.complete:
            self.tell(socket, TicketResync([ticket_room(ticket_id)], ticket_id))
        return answer

    @event("ticket:unsubscribe", limit=PAGE)
    def unsubscribe(self, socket: Socket, ask: OnTicket) -> TicketUnsubscribed:
        """Close a ticket. Idempotent."""
        self._take_out(socket, ask.ticketId)
        answer = TicketUnsubscribed(ask.ticketId)
        self.tell(socket, answer)
        return answer

    @event("ticket:typing", limit=TYPING)
    def typing(self, socket: Socket, ask: OnTicket) -> None:
        """Show the others that the user types, until five seconds after the last call."""
        self.require_joined(socket, ticket_room(ask.ticketId))
        self.viewers.typing.start(socket, ask.ticketId, self._timers.now_ms())

    @event("ticket:stopTyping", limit=PAGE)
    def stop_typing(self, socket: Socket, ask: OnTicket) -> None:
        """Stop showing that the user types."""
        self.require_joined(socket, ticket_room(ask.ticketId))
        self.viewers.typing.stop(socket, ask.ticketId)

    @event("ticket:view", limit=PAGE)
    async def view(self, socket: Socket, ask: ViewTicket) -> TicketViewers:
        """Set what the user does with the open ticket, so that no two people answer it. Staff get the other viewers."""
        self.require_joined(socket, ticket_room(ask.ticketId))
        await self.viewers.view(socket, ask.ticketId, ask.state)
        if not socket.user.is_staff:
            return TicketViewers(ask.ticketId, [])
        live = await self.viewers.live(ask.ticketId)
        return TicketViewers(ask.ticketId, live.viewers, live.more)

    async def still_allowed(
        self, user: User, rooms: Collection[Room], starts: Mapping[Room, Right] = {}
    ) -> Collection[Room]:
        """Keep the rooms of tickets that the user may read now, and could read during the whole absence.

        A ticket that was deleted and came back, or moved to another team and back, had events in between that are not
        for users who would have been taken out of it.
        """
        ids = _tickets(rooms)
        allowed = await asyncio.gather(
            *(self._still(user, ticket_id, starts.get(ticket_room(ticket_id), Right())) for ticket_id in ids)
        )
        closed = {room for ticket_id, may in zip(ids, allowed, strict=True) if not may for room in both(ticket_id)}
        return [room for room in rooms if room not in closed]

    async def _still(self, user: User, ticket_id: str, began: Right) -> bool:
        may, right = await asyncio.gather(
            self._may_read(user, ticket_id), self._tickets.right(ticket_id, self._access.opened_by(user))
        )
        return may and began.life in ("", right.life)

    def notify_lost_rooms(self, socket: Socket, rooms: Collection[Room]) -> None:
        for ticket_id in _tickets(rooms):
            self.tell(socket, TicketUnsubscribed(ticket_id, "access"))

    async def coming(self, user: User) -> None:
        """Count the user of a socket among those whom the host's check is asked about, before it is let in.

        Raises RtError UNAVAILABLE.
        """
        if self._access.of_host:
            await self._readers.note([user])

    async def joined(self, socket: Socket) -> None:
        """Check the rooms of a session that came back once more, and show its user as a viewer again."""
        ticket_ids = _tickets(socket.rooms)
        self.viewers.socket_returned(socket, ticket_ids)
        for ticket_id in ticket_ids:
            try:
                may_read = await self._may_read(socket.user, ticket_id)
            except RtError:  # access is unknown: the client reconnects, and is checked then
                socket.client.close(CloseReason.UNAVAILABLE)
                return
            if not may_read:
                self._expel(socket, ticket_id)
            elif socket.user.is_staff:
                await self.viewers.view(socket, ticket_id)

    async def left(self, socket: Socket, why: CloseReason) -> None:
        for ticket_id in self.passes.left(socket):
            self.cancel(("pass", socket, ticket_id))
        self.viewers.socket_left(socket, _tickets(socket.rooms), why.may_resume)

    async def node_lost(self, incarnation: str) -> None:
        """Remove viewers and typing users of a lost node. Raises RtError UNAVAILABLE: call it again."""
        await self.viewers.node_lost(incarnation)

    async def re_register(self) -> None:
        """Store again who views tickets from here: Valkey forgot it, or this node has a new incarnation."""
        await self.viewers.re_register()
        await self.note_readers()
        if self._rechecked_as != (incarnation := self._incarnation()):
            await self.recheck_all()  # while this node counted as dead, no recheck waited for it
            self._rechecked_as = incarnation

    async def forget(self, key: UserKey) -> Mapping[str, int]:
        """Tickets stay as the back end pushed them; it changes or deletes those that name the user."""
        await self._readers.forget(key)
        return {}

    # ── what the back end calls ──────────────────────────────────────────────────────────────────────────────────────

    async def get(self, ticket_id: str) -> Ticket:
        """Return the ticket. Raises RtError NOT_FOUND, UNAVAILABLE."""
        ticket = await self._tickets.get(ticket_id)
        if ticket is None:
            raise RtError("NOT_FOUND", "There is no such ticket.")
        return ticket

    async def apply(self, ticket_id: str, change: TicketChange) -> Applied:
        """Create or change a ticket and publish that.

        Raises RtError UNAVAILABLE: the same call again does what is left. CONFLICT as `TicketStore.put`.
        """
        return await self.carry_out(put_request(ticket_id, change))

    async def remove(self, ticket_id: str, guard: Guard = Guard(), known_as: str = "") -> Applied:
        """Delete a ticket, publish that, and close it for everybody. Raises RtError NOT_FOUND, and as `apply`."""
        return await self.carry_out(TicketRequest("delete", ticket_id, guard=guard, known_as=known_as))

    async def comment(self, ticket_id: str, comment: Comment, remember: bool) -> Applied:
        """Publish a comment. With `remember` its id is known for a day, and a repeat changes nothing.

        Raises RtError NOT_FOUND, UNAVAILABLE as `apply`.
        """
        return await self.carry_out(comment_request(ticket_id, comment, remember))

    async def carry_out(self, request: TicketRequest) -> Applied:
        """Do one change and publish it. Raises RtError as `apply`, `remove` or `comment`."""
        outcome = await self._tickets.change(request)
        _require_found(request, outcome)
        return _applied(outcome, await self._relay.publish_or_raise(outcome.pending))

    async def carry_out_all(self, requests: Sequence[TicketRequest]) -> list[Applied | RtError]:
        """Do many changes, those of one ticket in their order, and publish them together.

        Returns for each what `apply`, `remove` or `comment` returns or raises. It costs Valkey one pipeline to store
        them and one to log their events.
        """
        answers = [self._begin(request) for request in requests]  # no await between: they are one pipeline
        found: list[Outcome | RtError] = []
        for request, answer in zip(requests, answers, strict=True):
            try:
                outcome = self._tickets.outcome(request, await answer)
                _require_found(request, outcome)
                found.append(outcome)
            except RtError as refused:
                found.append(refused)
        stored = [one for one in found if isinstance(one, Outcome)]
        offsets = iter(await self._relay.publish_all([one.pending for one in stored]))
        results: list[Applied | RtError] = []
        for one in found:
            offset = one if isinstance(one, RtError) else next(offsets)
            results.append(offset if isinstance(offset, RtError) else _applied(one, offset))  # type: ignore[arg-type]
        return results

    def _begin(self, request: TicketRequest) -> Awaitable[Any]:
        try:
            return self._tickets.begin(request)
        except RtError as refused:
            return _failed(refused)

    @every(ms=1_000, on="leader")
    async def publish_overdue(self) -> None:
        """Publish the events that other nodes left pending."""
        await self._relay.publish_overdue()

    @every(ms=1_000)
    async def recheck_ended(self) -> None:
        """Check again what is open here by answers of the back end that have expired."""
        open_here = []
        for key, ticket_id in self._access.ended():
            room = ticket_room(ticket_id)
            self.rechecks.note(room)
            members = self.hub.members(self.path, room) if room in self.hub.rooms(self.path) else ()
            open_here += [(socket, ticket_id) for socket in members if socket.user.key == key]
        if open_here:
            await self._recheck(open_here)

    @every(ms=NOTE_EVERY_MS)
    async def note_readers(self) -> None:
        """Add the users connected here to those for whom the host's check runs."""
        if self._access.of_host:
            await self._readers.note({socket.user for socket in self.hub.sockets(self.path).values()})

    async def _events(self, record: PendingEvent) -> list[Event] | None:
        """Return the events of a change, None if it may take access away: more than its events has to happen then."""
        change = read_change(record)
        if self._may_change_access(record.kind, change):
            return None
        return await self._feed.events(record, change)

    async def _published(self, done: Sequence[tuple[PendingEvent, Offset]]) -> None:
        """Have the offsets stored, which nobody waits for."""
        offsets = [(record.subject, record.seq, offset) for record, offset in done]
        self.spawn(self._tickets.mark_published(offsets), "storing offsets")

    async def _publish_change(self, record: PendingEvent) -> Offset:
        change = read_change(record)

        async def publish() -> Offset:
            offset = await self._feed.publish(record, change)
            await self._published([(record, offset)])
            return offset

        if not self._may_change_access(record.kind, change):
            return await publish()
        # Both before the event counts as published: if this node dies now, the next one to publish it takes access too.
        # A deletion ends everybody's access, so access taken first would leave nobody to notify. It holds an id and a
        # version only. Whoever has the ticket open now could read it until the deletion: earlier changes are
        # published first, and each took the access that it ended.
        if record.kind == "deleted":
            return await publish_then_revoke(
                publish(), lambda offset: self._recheck_on_all_nodes(record.subject, offset)
            )
        return await revoke_then_publish(lambda: self._recheck_on_all_nodes(record.subject, NO_OFFSET), publish)

    async def _revoke(self, record: PendingEvent) -> None:
        if self._may_change_access(record.kind, read_change(record)):
            await self._recheck_on_all_nodes(record.subject, NO_OFFSET)

    def _may_change_access(self, kind: str, change: StoredChange) -> bool:
        """Whether a change may decide who may read the ticket. To the host's own check any change may matter."""
        if self._access.of_host or kind == "deleted":
            return True
        # Nobody has a ticket open before it exists, so its creation takes access from nobody.
        return kind != "created" and not DECIDE_ACCESS.isdisjoint(change.changes)

    # ── access ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def recheck_access(self, ticket_id: str, offset: Offset = NO_OFFSET) -> int:
        """Take this node's sockets out of a ticket that their users may not read any more. Returns their number.

        With `offset` they are sent the event at it first. Raises RtError UNAVAILABLE if access cannot be checked now.
        """
        room = ticket_room(ticket_id)
        self.rechecks.note(room)
        self._access.forget(ticket_id=ticket_id)
        if room not in self.hub.rooms(self.path):
            return 0
        await self.hub.until_delivered(self.path, offset)
        members = list(self.hub.members(self.path, room))
        if any(self.passes.holds(socket, ticket_id) for socket in members) and not await self._tickets.version(
            ticket_id
        ):
            for socket in members:  # the ticket was deleted
                self._drop_pass(socket, ticket_id)
        return await self._recheck([(socket, ticket_id) for socket in self.hub.members(self.path, room)])

    async def recheck(self, key: str, ticket_id: str) -> int:
        """Forget what is known about a user ("": any) and a ticket ("": any), and check again what is open here.

        `key` is a UserKey. Returns how many sockets were taken out of a ticket. Raises RtError UNAVAILABLE.
        """
        self.rechecks.note(*((ticket_room(ticket_id),) if ticket_id else ()))
        self._access.forget(key, ticket_id)
        sockets = [one for one in self.hub.sockets(self.path).values() if not key or one.user.key == key]
        open_here = [(socket, one) for socket in sockets for one in _tickets(socket.rooms)]
        return await self._recheck([pair for pair in open_here if not ticket_id or pair[1] == ticket_id])

    async def _recheck(self, open_here: Collection[tuple[Socket, str]]) -> int:
        """Take sockets out of those of these tickets that their users may not read. Returns how many."""
        open_here = [pair for pair in open_here if not self.passes.holds(*pair)]
        users = {(_who(socket), ticket_id): socket.user for socket, ticket_id in open_here}
        allowed = await asyncio.gather(*(self._may_read(user, ticket_id) for (_, ticket_id), user in users.items()))
        refused = {pair for pair, may in zip(users, allowed, strict=True) if not may}
        taken = [
            (socket, ticket_id)
            for socket, ticket_id in open_here
            if (_who(socket), ticket_id) in refused
            and ticket_room(ticket_id) in socket.rooms
            and not self.passes.holds(socket, ticket_id)  # it may have shown one meanwhile
        ]
        for socket, ticket_id in taken:
            self._expel(socket, ticket_id)
        return len(taken)

    async def recheck_user(self, key: str) -> int:
        """Take a user's sockets on this node out of tickets that they may not read any more. Returns how many.

        `key` is a UserKey. Raises RtError UNAVAILABLE if access cannot be checked now.
        """
        return await self.recheck(key, "")

    async def recheck_all(self) -> None:
        """Recheck every ticket that is open here, because a call to `recheck_access` may have been missed."""
        for ticket_id in _tickets(list(self.hub.rooms(self.path).names())):
            await self.recheck_access(ticket_id)

    async def _may_read(self, user: User, ticket_id: str) -> bool:
        """See `may`."""
        return await may(self._access, user, ticket_id)

    async def _require_access(self, socket: Socket, ticket_id: str) -> None:
        if await self._access.may_read(socket.user, ticket_id):
            return
        self._take_out(socket, ticket_id)
        if socket.user.role == "admin" and not await self._tickets.version(ticket_id):
            raise RtError("NOT_FOUND", "There is no such ticket.", ticketId=ticket_id)
        raise RtError("FORBIDDEN", ticketId=ticket_id)

    def _expel(self, socket: Socket, ticket_id: str, reason: str = "access") -> None:
        self._take_out(socket, ticket_id)
        self.tell(socket, TicketUnsubscribed(ticket_id, reason))

    def _take_out(self, socket: Socket, ticket_id: str) -> None:
        for room in both(ticket_id):  # first, so that the socket gets no more events whatever happens next
            self.hub.leave(socket, room)
        self._drop_pass(socket, ticket_id)
        self.viewers.leave(socket, ticket_id)


def _require_found(request: TicketRequest, outcome: Outcome) -> None:
    """Raise RtError NOT_FOUND for the deletion of a ticket that is not there; not for one that is to be published."""
    if request.op == "delete" and outcome.absent and not any(one.kind == "deleted" for one in outcome.pending):
        raise RtError("NOT_FOUND", "There is no such ticket.")


def _applied(outcome: Outcome, offset: Offset | None) -> Applied:
    """Return the answer to the back end. `offset` is that of the last event published now, if there was one."""
    created = outcome.created or (not outcome.done and any(one.kind == "created" for one in outcome.pending))
    return Applied(outcome.version, offset or outcome.offset, created, not outcome.late)


async def _failed(refused: RtError) -> Any:
    raise refused


def _opened(ticket_id: str, shown: TicketSubscribed | None, refused: RtError | None) -> TicketOpened:
    if shown is None:
        return TicketOpened(ticket_id, False, error=refused.as_dict() if refused else None)
    return TicketOpened(ticket_id, True, shown.offset, shown.version, shown.complete)


def batched(ids: list[str], size: int) -> Iterator[list[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _who(socket: Socket) -> tuple[str, str, str]:
    """Return a user as access depends on one. A token may be renewed while the check runs."""
    user = socket.user
    return user.key, user.role, user.team_id


def both(ticket_id: str) -> list[Room]:
    return [ticket_room(ticket_id), ticket_staff_room(ticket_id)]


def _rooms(user: User, ticket_id: str) -> list[Room]:
    return both(ticket_id) if user.is_staff else both(ticket_id)[:1]


def _tickets(rooms: Iterable[Room]) -> list[str]:
    return [room.removeprefix(TICKET_ROOM) for room in rooms if room.startswith(TICKET_ROOM)]

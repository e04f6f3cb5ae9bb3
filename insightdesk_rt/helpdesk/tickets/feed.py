"""Which event of a ticket goes to whom.

A customer never gets what is internal to the staff: notes, a ticket's watchers and its team. A change of such fields is
two events with the same version: the whole one for staff, and one without these fields for customers.

    ticket:created    admins, the ticket's team; all agents if they may read it (no team yet, agent_access = "all")
    ticket:updated    everybody who has the ticket open; on a change of team also the new team
    ticket:assigned   everybody who has it open, and the staff it was assigned to and from
    ticket:deleted    everybody who has it open, and the staff who got its creation
    ticket:commented  everybody who has it open; a note: the staff among them

An event that goes to users by their id or team, not because they have the ticket open, leaves customers out: a customer
may have the same id as an agent, and a customer's token may name a team.

With the host's own check, connected staff who may read the ticket by that check take the place of admins, teams, agents
and assignees (audience.py).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.dispatch.namespace import Namespace, Outbound
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, iso, role_room, ticket_room, ticket_staff_room
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.tickets.audience import Audience, in_buckets
from insightdesk_rt.helpdesk.tickets.store import Actor, StoredChange, Ticket

# Customers get an event without these fields, so that the version goes up for them without a gap.
STAFF_ONLY = frozenset({"watchers", "customerWatchers", "teamId"})


class TicketCreated(Outbound):
    event: ClassVar[str] = "ticket:created"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    ticket: Ticket


class TicketUpdated(Outbound):
    """`changes`: field → [old, new]."""

    event: ClassVar[str] = "ticket:updated"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    changes: dict[str, tuple[Any, Any]]
    updatedAt: str
    by: Actor | None = None


class TicketAssigned(Outbound, kw_only=True):
    """User ids, null for nobody."""

    event: ClassVar[str] = "ticket:assigned"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    before: str | None = msgspec.field(name="from")
    to: str | None
    by: Actor | None = None


class TicketDeleted(Outbound):
    event: ClassVar[str] = "ticket:deleted"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int


class CommentOut(Struct):
    id: str
    kind: Literal["reply", "note"]
    author: Actor
    excerpt: str
    createdAt: str


class TicketCommented(Outbound):
    """`version` is the current one of the ticket: a comment does not change its fields."""

    event: ClassVar[str] = "ticket:commented"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    comment: CommentOut


CUSTOMERS = (role_room("customer"),)


class TicketFeed:
    def __init__(self, namespace: Namespace, audience: Audience) -> None:
        self._namespace = namespace
        self._audience = audience

    async def publish(self, record: PendingEvent, change: StoredChange) -> Offset:
        """Log the events of one change, under ids of its own, and return the offset of the last.

        Raises RtError UNAVAILABLE. Called again, the log takes only what it does not have yet.
        """
        hub, offset = self._namespace.hub, NO_OFFSET
        for event in await self.events(record, change):
            offset = await hub.emit(event.namespace, event.rooms, event.name, event.payload, event.skip, event.id)
        return offset

    async def events(self, record: PendingEvent, change: StoredChange) -> list[Event]:
        """Return the events of one change in order. Raises RtError UNAVAILABLE if its recipients are unknown."""
        make = {"created": self._created, "updated": self._updated, "deleted": self._deleted}
        return await make.get(record.kind, self._commented)(record.subject, record.id, change)

    async def _created(self, ticket_id: str, id: str, change: StoredChange) -> list[Event]:
        created = TicketCreated(ticket_id, change.version, change.as_ticket(ticket_id))
        staff = await self._audience.staff(ticket_id, change.ticket)
        events = self._split(created, [], staff, skip=CUSTOMERS, id=id)
        return [*events, *await self._assigned(ticket_id, id, change)]

    async def _updated(self, ticket_id: str, id: str, change: StoredChange) -> list[Event]:
        def updated(changes: dict[str, tuple[Any, Any]]) -> TicketUpdated:
            return TicketUpdated(ticket_id, change.version, changes, iso(change.at), change.by)

        staff, everybody = ticket_staff_room(ticket_id), ticket_room(ticket_id)
        if STAFF_ONLY.isdisjoint(change.changes):
            events = [self._namespace.logged(updated(change.changes), everybody, id=id)]
        else:
            shown = {field: values for field, values in change.changes.items() if field not in STAFF_ONLY}
            new_staff = await self._audience.staff(ticket_id, change.ticket) if "teamId" in change.changes else []
            events = self._split(updated(change.changes), [staff], new_staff, skip=CUSTOMERS, id=id + ".staff")
            events.append(self._namespace.logged(updated(shown), everybody, skip=(staff,), id=id))
        return [*events, *await self._assigned(ticket_id, id, change)]

    async def _assigned(self, ticket_id: str, id: str, change: StoredChange) -> list[Event]:
        if "assigneeId" not in change.changes:
            return []
        before, to = change.changes["assigneeId"]
        people = await self._audience.people(ticket_id, [user_id for user_id in (before, to) if user_id])
        assigned = TicketAssigned(ticketId=ticket_id, version=change.version, before=before, to=to, by=change.by)
        return self._to_both(assigned, ticket_id, people, id=id + ".assigned")

    async def _deleted(self, ticket_id: str, id: str, change: StoredChange) -> list[Event]:
        staff = await self._audience.staff(ticket_id, change.ticket)
        return self._to_both(TicketDeleted(ticket_id, change.version), ticket_id, staff, id=id)

    def _to_both(self, out: Outbound, ticket_id: str, staff: list[Room], *, id: str) -> list[Event]:
        """Return an event for everybody who has the ticket open, after another one for the staff in `staff`."""
        opened = ticket_room(ticket_id)
        events = self._split(out, [], staff, skip=(opened, *CUSTOMERS), id=id + ".staff") if staff else []
        return [*events, self._namespace.logged(out, opened, id=id)]

    async def _commented(self, ticket_id: str, id: str, change: StoredChange) -> list[Event]:
        comment = change.comment
        assert comment is not None
        room = ticket_room(ticket_id) if comment.kind == "reply" else ticket_staff_room(ticket_id)
        shown = CommentOut(comment.id, comment.kind, comment.author, comment.excerpt, iso(change.at))
        return [self._namespace.logged(TicketCommented(ticket_id, change.version, shown), room, id=id)]

    def _split(
        self, out: Outbound, opened: list[Room], staff: list[Room], skip: tuple[str, ...] = (), *, id: str
    ) -> list[Event]:
        """Return an event for those who have the ticket open and for staff, split up if there are very many rooms."""
        first, *others = in_buckets(staff)
        events = [self._namespace.logged(out, *opened, *first, skip=skip, id=id)]
        for number, rooms in enumerate(others, 1):
            part = f"{id}.{number}of{len(others)}"
            events.append(self._namespace.logged(out, *rooms, skip=(*skip, *opened), id=part))
        return events

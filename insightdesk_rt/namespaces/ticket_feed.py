"""What the back end changes of tickets, made known: which event goes to whom.

A customer is never told the desk's own business: internal notes, a ticket's watchers and team. Where a change has such
fields it is two events, the whole one for staff and one without them, in the place of the same version.

    ticket:created    admins, the ticket's team; all agents where they may read it (no team yet, agent_access = "all")
    ticket:updated    who has the ticket open; on a change of team also the new team
    ticket:assigned   who has it open, and the one it was assigned to and from
    ticket:deleted    who has it open, and who was told of its creation
    ticket:commented  who has it open; a note: staff among them
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from insightdesk_rt.model import Offset, Room, iso, role_room, team_room, ticket_room, ticket_staff_room, user_room
from insightdesk_rt.namespaces.base import Namespace, Outbound
from insightdesk_rt.stores.tickets import Actor, Change, Fields, Ticket, read_change
from insightdesk_rt.stores.untold import Untold

# The customer sees the version go up without them, so that nobody takes it for a gap.
DESK_ONLY = frozenset({"watchers", "teamId"})


class Created(Outbound):
    event: ClassVar[str] = "ticket:created"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    ticket: Ticket


class Updated(Outbound):
    """`changes`: field → [old, new]."""

    event: ClassVar[str] = "ticket:updated"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    changes: dict[str, tuple[Any, Any]]
    updatedAt: str
    by: Actor | None = None


class Assigned(Outbound, kw_only=True):
    """User ids, null for nobody."""

    event: ClassVar[str] = "ticket:assigned"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    before: str | None = msgspec.field(name="from")
    to: str | None
    by: Actor | None = None


class Deleted(Outbound):
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


class Commented(Outbound):
    """`version` is the ticket's as it stands: a comment is no change of its fields."""

    event: ClassVar[str] = "ticket:commented"
    logged: ClassVar[bool] = True
    ticketId: str
    version: int
    comment: CommentOut


class TicketFeed:
    def __init__(self, namespace: Namespace, agents_see_all: bool) -> None:
        self._namespace = namespace
        self._agents_see_all = agents_see_all

    async def say(self, record: Untold) -> tuple[Offset, Change]:
        """Log the events of one change, under ids of its own, and return the offset of the last.

        Raises RtError UNAVAILABLE; said again, the log takes what it does not have yet.
        """
        change = read_change(record)
        if record.kind == "created":
            offset = await self._created(record.subject, record.id, change)
        elif record.kind == "updated":
            offset = await self._updated(record.subject, record.id, change)
        elif record.kind == "deleted":
            offset = await self._namespace.emit(
                Deleted(record.subject, change.version),
                ticket_room(record.subject),
                *self._desk(change.ticket),
                id=record.id,
            )
        else:
            offset = await self._commented(record.subject, record.id, change)
        return offset, change

    async def _created(self, ticket_id: str, id: str, change: Change) -> Offset:
        created = Created(ticket_id, change.version, change.as_ticket(ticket_id))
        # A customer's token may name a team too.
        offset = await self._namespace.emit(created, *self._desk(change.ticket), skip=(role_room("customer"),), id=id)
        return await self._assigned(ticket_id, id, change) or offset

    async def _updated(self, ticket_id: str, id: str, change: Change) -> Offset:
        def updated(changes: dict[str, tuple[Any, Any]]) -> Updated:
            return Updated(ticket_id, change.version, changes, iso(change.at), change.by)

        staff, everybody = ticket_staff_room(ticket_id), ticket_room(ticket_id)
        if DESK_ONLY.isdisjoint(change.changes):
            offset = await self._namespace.emit(updated(change.changes), everybody, id=id)
        else:
            shown = {field: values for field, values in change.changes.items() if field not in DESK_ONLY}
            new_desk = self._desk(change.ticket) if "teamId" in change.changes else []
            customers = (role_room("customer"),)
            await self._namespace.emit(updated(change.changes), staff, *new_desk, skip=customers, id=id + ".staff")
            offset = await self._namespace.emit(updated(shown), everybody, skip=(staff,), id=id)
        return await self._assigned(ticket_id, id, change) or offset

    async def _assigned(self, ticket_id: str, id: str, change: Change) -> Offset | None:
        if "assigneeId" not in change.changes:
            return None
        before, to = change.changes["assigneeId"]
        people = [user_room(user_id) for user_id in (before, to) if user_id]
        assigned = Assigned(ticketId=ticket_id, version=change.version, before=before, to=to, by=change.by)
        return await self._namespace.emit(assigned, ticket_room(ticket_id), *people, id=id + ".assigned")

    async def _commented(self, ticket_id: str, id: str, change: Change) -> Offset:
        comment = change.comment
        assert comment is not None
        room = ticket_room(ticket_id) if comment.kind == "reply" else ticket_staff_room(ticket_id)
        shown = CommentOut(comment.id, comment.kind, comment.author, comment.excerpt, iso(change.at))
        return await self._namespace.emit(Commented(ticket_id, change.version, shown), room, id=id)

    def _desk(self, ticket: Fields) -> list[Room]:
        """Return the rooms of all who may read the ticket by their role and team."""
        rooms = [role_room("admin")]
        if ticket.teamId:
            rooms.append(team_room(ticket.teamId))
        if self._agents_see_all or not ticket.teamId:
            rooms.append(role_room("agent"))
        return rooms

"""The feed entries about tickets.

They contain everything, including what customers never get: notes, watchers and teams. A change that also assigns the
ticket is two entries, as it is two events for clients.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from insightdesk_rt.engine.dispatch.namespace import FeedEntry, Report, Tell
from insightdesk_rt.engine.model import iso
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.tickets.feed import CommentOut
from insightdesk_rt.helpdesk.tickets.store import Actor, StoredChange, Ticket, read_change


class TicketCreatedReport(Report):
    type: ClassVar[str] = "ticket.created"
    ticketId: str
    version: int
    ticket: Ticket
    by: Actor | None = None


class TicketUpdatedReport(Report):
    """`changes`: field → [old, new]. `ticket`: as the change left it."""

    type: ClassVar[str] = "ticket.updated"
    ticketId: str
    version: int
    changes: dict[str, tuple[Any, Any]]
    ticket: Ticket
    by: Actor | None = None


class TicketAssignedReport(Report, kw_only=True):
    """User ids, null for nobody. Follows the entry of the change that assigned the ticket, with the same version."""

    type: ClassVar[str] = "ticket.assigned"
    ticketId: str
    version: int
    before: str | None = msgspec.field(name="from")
    to: str | None
    by: Actor | None = None


class TicketCommentedReport(Report):
    """A comment of the kind "note" is for staff only. `version` is the ticket's: a comment does not change it."""

    type: ClassVar[str] = "ticket.commented"
    ticketId: str
    version: int
    comment: CommentOut


class TicketDeletedReport(Report):
    type: ClassVar[str] = "ticket.deleted"
    ticketId: str
    version: int


TICKET_REPORTS: tuple[type[Report], ...] = (
    TicketCreatedReport,
    TicketUpdatedReport,
    TicketCommentedReport,
    TicketAssignedReport,
    TicketDeletedReport,
)


class TicketReports:
    """Tells the back end of changes of tickets."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    async def tell(self, *records: PendingEvent) -> None:
        """Tell of one change or several, in one step. Raises RtError UNAVAILABLE."""
        found: list[FeedEntry] = []
        for record in records:
            change = read_change(record)
            found += [FeedEntry(id, change.at, report) for id, report in reports_of(record, change)]
        await self._tell(found)


def reports_of(record: PendingEvent, change: StoredChange) -> list[tuple[str, Report]]:
    """Return the feed entries of a change, each with its id."""
    ticket_id, version, by = record.subject, change.version, change.by
    if record.kind == "deleted":
        return [(record.id, TicketDeletedReport(ticket_id, version))]
    if record.kind == "commented":
        one = change.comment
        assert one is not None
        comment = CommentOut(one.id, one.kind, one.author, one.excerpt, iso(change.at))
        return [(record.id, TicketCommentedReport(ticket_id, version, comment))]
    ticket = change.as_ticket(ticket_id)
    if record.kind == "created":
        found: list[tuple[str, Report]] = [(record.id, TicketCreatedReport(ticket_id, version, ticket, by))]
    else:
        found = [(record.id, TicketUpdatedReport(ticket_id, version, change.changes, ticket, by))]
    if "assigneeId" in change.changes:
        before, to = change.changes["assigneeId"]
        assigned = TicketAssignedReport(ticketId=ticket_id, version=version, before=before, to=to, by=by)
        found.append((record.id + ".assigned", assigned))
    return found

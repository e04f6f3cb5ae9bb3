"""The helpdesk's back end pushes its tickets and their comments.

    PUT, GET, DELETE /api/v1/tickets/{ticketId}
    POST /api/v1/tickets/{ticketId}/comments

An answer means that the log has the event. 503 means that it is unknown whether it has: the same request again repeats
nothing that is done, and does what is left. A comment can only be recognised as a repeat by an `id` that the back end
gave it. The rules are those of the namespace; this file knows paths, bodies and limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Query
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import PushId, TicketIdText
from insightdesk_rt.engine.model import ONE_KIND, UserKeys, new_id
from insightdesk_rt.engine.wire.texts import PLAIN
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from insightdesk_rt.helpdesk.tickets.store import Actor, At, Comment, Guard, Ticket, TicketChange, Version, microseconds

MAX_EXCERPT = 280  # two lines of a list


class CommentBody(Struct, forbid_unknown_fields=True):
    kind: Literal["reply", "note"]
    author: Actor
    excerpt: Annotated[str, Meta(max_length=MAX_EXCERPT, pattern=PLAIN)]
    id: PushId | UnsetType = UNSET


class TicketAnswer(Struct, omit_defaults=True):
    """`applied` is only there when false: the whole change was older (`at`) than what is known, and was ignored."""

    ticketId: str
    version: int
    offset: str
    applied: bool = True


class RemoveTicket(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same guards as for a change of the ticket."""

    at: Annotated[At | None, Meta(description="when the back end did it")] = None
    ifVersion: Annotated[Version | None, Meta(description="only if the ticket has this version")] = None


class CommentAnswer(Struct):
    ticketId: str
    id: str
    version: int
    offset: str


class TicketHandler(Handler):
    tickets: Tickets
    keys: UserKeys

    @operation("viewer", answer=Ticket, errors=("NOT_FOUND",))
    async def get(self, ticket_id: TicketIdText) -> Answer:
        """Return the ticket as it was pushed, with its version."""
        return Answer(await self.tickets.get(ticket_id))

    @operation("admin", body=TicketChange, answer=TicketAnswer, statuses=(200, 201), errors=("CONFLICT",))
    async def put(self, ticket_id: TicketIdText, change: TicketChange) -> Answer:
        """Create a ticket (201) or change the given fields (200). A change without an effect is no new version.

        CONFLICT with `version` if the ticket has another version than `ifVersion`.
        """
        if change.customerWatchers is not UNSET and not self.keys.separate:
            raise RtError("BAD_REQUEST", ONE_KIND, field="customerWatchers")
        done = await self.tickets.apply(ticket_id, change)
        answer = TicketAnswer(ticket_id, done.version, done.offset, done.applied)
        return Answer(answer, 201 if done.created else 200)

    @operation("admin", query=RemoveTicket, answer=TicketAnswer, errors=("NOT_FOUND", "CONFLICT"))
    async def delete(self, ticket_id: TicketIdText, query: RemoveTicket) -> Answer:
        """Delete a ticket and close it for everybody. CONFLICT with `version` if it has not the version `ifVersion`."""
        guard = Guard(None if query.at is None else microseconds(query.at), query.ifVersion)
        done = await self.tickets.remove(ticket_id, guard)
        return Answer(TicketAnswer(ticket_id, done.version, done.offset, done.applied))


class CommentsHandler(Handler):
    tickets: Tickets

    @operation("admin", body=CommentBody, answer=CommentAnswer, statuses=(201,), errors=("NOT_FOUND", "CONFLICT"))
    async def post(self, ticket_id: TicketIdText, body: CommentBody) -> Answer:
        """Send a reply to everybody who has the ticket open, or a note to the staff among them. A repeat sends nothing.

        CONFLICT if another comment of the ticket had the same `id` within a day.
        """
        comment = Comment(new_id() if body.id is UNSET else body.id, body.kind, body.author, body.excerpt)
        stored = await self.tickets.comment(ticket_id, comment, remember=body.id is not UNSET)
        return Answer(CommentAnswer(ticket_id, comment.id, stored.version, stored.offset), 201)


class TicketPush(BackendPart):
    def routes(self, api: Admin) -> Iterable[Route]:
        parts = {"admin": api, "tickets": self.context.features.of(Tickets)}
        return [
            (r"/api/v1/tickets/([^/]+)", TicketHandler, {**parts, "keys": self.context.settings.user_keys}),
            (r"/api/v1/tickets/([^/]+)/comments", CommentsHandler, parts),
        ]

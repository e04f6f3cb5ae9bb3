"""The helpdesk's back end pushes its tickets and their comments.

    PUT, GET, DELETE /api/v1/tickets/{ticketId}
    POST /api/v1/tickets/{ticketId}/comments

An answer means that the log has the event. 503 means that it is unknown whether it has: the same request again repeats
nothing that is done, and does what is left. A comment can only be recognised as a repeat by an `id` that the back end
gave it. The rules are those of the namespace; this file knows paths, bodies and limits. `TicketPushes` turns a body
into a request to the namespace, for a single call as for an operation of a batch (batch.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.operation import Answer, Query
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import PushId, TicketIdText
from insightdesk_rt.engine.model import ONE_KIND, UserKeys, new_id, team_room, ticket_room
from insightdesk_rt.engine.wire.texts import PLAIN
from insightdesk_rt.helpdesk.tickets.namespace import Applied, Tickets
from insightdesk_rt.helpdesk.tickets.store import (
    Actor,
    At,
    Comment,
    Guard,
    Ticket,
    TicketChange,
    TicketRequest,
    Version,
    comment_request,
    microseconds,
    put_request,
)

MAX_EXCERPT = 280  # two lines of a list


class CommentBody(Struct, forbid_unknown_fields=True, kw_only=True):
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
    id: Annotated[PushId | None, Meta(description="the same deletion again within a day has no effect")] = None


class CommentAnswer(Struct):
    ticketId: str
    id: str
    version: int
    offset: str


class TicketPushes:
    """Checks what a back end pushes about tickets, and has the namespace do it.

    A publisher's key needs the room of the ticket, and the room of the team that a change names.
    """

    def __init__(self, tickets: Tickets, keys: UserKeys) -> None:
        self._tickets = tickets
        self._keys = keys

    def put(self, who: Principal, ticket_id: str, change: TicketChange) -> TicketRequest:
        """Return the request of a change. Raises RtError BAD_REQUEST, FORBIDDEN."""
        self._require(who, ticket_id, change.teamId or "" if change.teamId is not UNSET else "")
        if change.customerWatchers is not UNSET and not self._keys.separate:
            raise RtError("BAD_REQUEST", ONE_KIND, field="customerWatchers")
        return put_request(ticket_id, change)

    def delete(self, who: Principal, ticket_id: str, guard: Guard, known_as: str = "") -> TicketRequest:
        """Return the request of a deletion. Raises RtError FORBIDDEN."""
        self._require(who, ticket_id)
        return TicketRequest("delete", ticket_id, guard=guard, known_as=known_as)

    def comment(self, who: Principal, ticket_id: str, body: CommentBody) -> TicketRequest:
        """Return the request of a comment, which gets an id if it has none. Raises RtError FORBIDDEN."""
        self._require(who, ticket_id)
        comment = Comment(new_id() if body.id is UNSET else body.id, body.kind, body.author, body.excerpt)
        return comment_request(ticket_id, comment, remember=body.id is not UNSET)

    async def carry_out(self, request: TicketRequest) -> Applied:
        """Do one request. Raises RtError NOT_FOUND, CONFLICT, UNAVAILABLE."""
        return await self._tickets.carry_out(request)

    async def carry_out_all(self, requests: Sequence[TicketRequest]) -> list[Struct | RtError]:
        """Do many requests together; return the answer to each, or why it was refused."""
        done = await self._tickets.carry_out_all(requests)
        return [
            one if isinstance(one, RtError) else answer_to(request, one)
            for request, one in zip(requests, done, strict=True)
        ]

    @staticmethod
    def _require(who: Principal, ticket_id: str, team_id: str = "") -> None:
        if who.limits is not None:
            who.require_push(Tickets.path, [ticket_room(ticket_id)], "ticketId")
            who.require_push(Tickets.path, [team_room(team_id)] if team_id else [], "teamId")


def answer_to(request: TicketRequest, done: Applied) -> TicketAnswer | CommentAnswer:
    """Return what the back end is answered."""
    if request.comment is not None:
        return CommentAnswer(request.ticket_id, request.comment.id, done.version, done.offset)
    return TicketAnswer(request.ticket_id, done.version, done.offset, done.applied)


def guard_of(at: At | None, version: int | None) -> Guard:
    return Guard(None if at is None else microseconds(at), version)


class TicketHandler(Handler):
    tickets: Tickets
    pushes: TicketPushes

    @operation("viewer", answer=Ticket, errors=("NOT_FOUND",))
    async def get(self, ticket_id: TicketIdText) -> Answer:
        """Return the ticket as it was pushed, with its version."""
        return Answer(await self.tickets.get(ticket_id))

    @operation("publisher", body=TicketChange, answer=TicketAnswer, statuses=(200, 201), errors=("CONFLICT",))
    async def put(self, ticket_id: TicketIdText, change: TicketChange) -> Answer:
        """Create a ticket (201) or change the given fields (200). A change without an effect is no new version.

        CONFLICT with `version` if the ticket has another version than `ifVersion`; CONFLICT if another change of the
        ticket had the same `id` within a day.
        """
        request = self.pushes.put(self.asker, ticket_id, change)
        done = await self.pushes.carry_out(request)
        return Answer(answer_to(request, done), 201 if done.created else 200)

    @operation("publisher", query=RemoveTicket, answer=TicketAnswer, errors=("NOT_FOUND", "CONFLICT"))
    async def delete(self, ticket_id: TicketIdText, query: RemoveTicket) -> Answer:
        """Delete a ticket and close it for everybody. CONFLICT with `version` if it has not the version `ifVersion`."""
        request = self.pushes.delete(self.asker, ticket_id, guard_of(query.at, query.ifVersion), query.id or "")
        return Answer(answer_to(request, await self.pushes.carry_out(request)))


class CommentsHandler(Handler):
    pushes: TicketPushes

    @operation("publisher", body=CommentBody, answer=CommentAnswer, statuses=(201,), errors=("NOT_FOUND", "CONFLICT"))
    async def post(self, ticket_id: TicketIdText, body: CommentBody) -> Answer:
        """Send a reply to everybody who has the ticket open, or a note to the staff among them. A repeat sends nothing.

        CONFLICT if another comment of the ticket had the same `id` within a day.
        """
        request = self.pushes.comment(self.asker, ticket_id, body)
        return Answer(answer_to(request, await self.pushes.carry_out(request)), 201)


class TicketPush(BackendPart):
    def routes(self, api: Admin) -> Iterable[Route]:
        pushes = TicketPushes(self.context.features.of(Tickets), self.context.settings.user_keys)
        parts = {"admin": api, "pushes": pushes}
        return [
            (r"/api/v1/tickets/([^/]+)", TicketHandler, {**parts, "tickets": self.context.features.of(Tickets)}),
            (r"/api/v1/tickets/([^/]+)/comments", CommentsHandler, parts),
        ]

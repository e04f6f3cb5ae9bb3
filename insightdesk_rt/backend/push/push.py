"""What the helpdesk's back end pushes: tickets, comments, notifications, and events of its own.

    PUT, GET, DELETE /api/v1/tickets/{ticketId}          POST /api/v1/notifications
    POST /api/v1/tickets/{ticketId}/comments             POST /api/v1/emit

An answer means that the log has the event. 503 means that it is not known: the same request again changes nothing that
is done already, and does what is left. A comment, a notification or an event can only be known again by an `id` that
the back end gave it. The rules are the namespaces'; this file knows paths, bodies and limits.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import NO_CONTROLS, Answer, Query
from insightdesk_rt.api.whom import customer, keys_of
from insightdesk_rt.engine import ids
from insightdesk_rt.engine.cluster.publisher import fingerprint
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.ids import EventId, PushId, Refused, RoomName, TicketIdText, UserIdText
from insightdesk_rt.engine.model import ONE_KIND, Room, UserKeys, new_id
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.texts import PLAIN, VISIBLE
from insightdesk_rt.helpdesk.features import refuse_event, refuse_namespace
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.notifications.store import Content
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from insightdesk_rt.helpdesk.tickets.store import Actor, At, Comment, Guard, Ticket, TicketChange, Version, microseconds

MAX_USERS = 1000  # of one notification: one event for each
MAX_ROOMS = 100  # of one event: each is a channel that it is published on
MAX_DATA_BYTES = 16_384  # of a notification; it is kept for months
MAX_EXCERPT = 280  # two lines of a list

EventName = Annotated[str, Meta(pattern=ids.EVENT_NAME.pattern)]


class CommentBody(Struct, forbid_unknown_fields=True):
    kind: Literal["reply", "note"]
    author: Actor
    excerpt: Annotated[str, Meta(max_length=MAX_EXCERPT, pattern=PLAIN)]
    id: PushId | UnsetType = UNSET


class NotificationBody(Struct, forbid_unknown_fields=True):
    type: Annotated[str, Meta(min_length=1, max_length=64, pattern=NO_CONTROLS)]
    title: Annotated[str, Meta(min_length=1, max_length=300, pattern=VISIBLE)]
    body: Annotated[str, Meta(max_length=4000, pattern=PLAIN)] = ""
    url: Annotated[str, Meta(max_length=2000, pattern=NO_CONTROLS)] = ""
    data: Raw | UnsetType = UNSET
    userId: UserIdText | UnsetType = UNSET
    userIds: Annotated[list[Any], Meta(min_length=1, max_length=MAX_USERS)] | UnsetType = UNSET
    customerId: UserIdText | UnsetType = UNSET
    customerIds: Annotated[list[Any], Meta(min_length=1, max_length=MAX_USERS)] | UnsetType = UNSET
    id: PushId | UnsetType = UNSET


class EmitBody(Struct, forbid_unknown_fields=True):
    namespace: str
    event: EventName
    data: Raw | UnsetType = UNSET
    room: RoomName | UnsetType = UNSET
    rooms: Annotated[list[RoomName], Meta(min_length=1, max_length=MAX_ROOMS)] | UnsetType = UNSET
    skip: RoomName | Annotated[list[RoomName], Meta(max_length=MAX_ROOMS)] | UnsetType = field(
        name="except", default=UNSET
    )
    volatile: bool = False
    id: EventId | UnsetType = UNSET


class Pushed(Struct, omit_defaults=True):
    """Those of `userIds` and of `customerIds` that no user can have, if there are any; the others are notified."""

    id: str
    refused: list[Refused] = []
    refusedCustomers: list[Refused] = []


class Emitted(Struct):
    """`offset` is null for a volatile event."""

    offset: str | None


class TicketAnswer(Struct, omit_defaults=True):
    """`applied` is there if it is false: all of the change is older (`at`) than what is known, and nothing was done."""

    ticketId: str
    version: int
    offset: str
    applied: bool = True


class RemoveTicket(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As of a change of the ticket."""

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
        """Create a ticket (201) or change the fields that are given (200). A change of nothing is no new version.

        CONFLICT with `version` if that is not `ifVersion`.
        """
        if change.customerWatchers is not UNSET and not self.keys.separate:
            raise RtError("BAD_REQUEST", ONE_KIND, field="customerWatchers")
        done = await self.tickets.apply(ticket_id, change)
        answer = TicketAnswer(ticket_id, done.version, done.offset, done.applied)
        return Answer(answer, 201 if done.created else 200)

    @operation("admin", query=RemoveTicket, answer=TicketAnswer, errors=("NOT_FOUND", "CONFLICT"))
    async def delete(self, ticket_id: TicketIdText, query: RemoveTicket) -> Answer:
        """Forget a ticket and take everybody out of it. CONFLICT with `version` if that is not `ifVersion`."""
        guard = Guard(None if query.at is None else microseconds(query.at), query.ifVersion)
        done = await self.tickets.remove(ticket_id, guard)
        return Answer(TicketAnswer(ticket_id, done.version, done.offset, done.applied))


class CommentsHandler(Handler):
    tickets: Tickets

    @operation("admin", body=CommentBody, answer=CommentAnswer, statuses=(201,), errors=("NOT_FOUND", "CONFLICT"))
    async def post(self, ticket_id: TicketIdText, body: CommentBody) -> Answer:
        """Tell who has the ticket open of a reply, or staff of a note. The same again tells nobody twice.

        CONFLICT if another comment of the ticket had the same `id` within a day.
        """
        comment = Comment(new_id() if body.id is UNSET else body.id, body.kind, body.author, body.excerpt)
        told = await self.tickets.comment(ticket_id, comment, remember=body.id is not UNSET)
        return Answer(CommentAnswer(ticket_id, comment.id, told.version, told.offset), 201)


class NotificationsHandler(Handler):
    notifications: Notifications
    keys: UserKeys

    @operation("admin", body=NotificationBody, answer=Pushed, statuses=(201,), errors=("CONFLICT",))
    async def post(self, body: NotificationBody) -> Answer:
        """Notify a user or several. The same again under the same `id` changes nothing for who has it.

        CONFLICT if one of the users has another notification of that `id`, once the others have theirs.
        """
        many, customers = body.userIds or [], body.customerIds or []
        keys, refused, refused_customers = keys_of(self.keys, many, customers)
        if body.userId is not UNSET:
            keys.append(self.keys.staff(body.userId))
        if body.customerId is not UNSET:
            keys.append(customer(self.keys, body.customerId))
        if not keys:
            raise RtError("BAD_REQUEST", "Object missing required field `userId`", field="userId")
        if len(keys) > MAX_USERS:
            raise RtError("BAD_REQUEST", f"Expected at most {MAX_USERS} users", field="userIds")
        data = body.data if body.data is UNSET else Raw(_clean(body.data).encode())
        if data is not UNSET and len(bytes(data)) > MAX_DATA_BYTES:
            raise RtError("BAD_REQUEST", f"Expected at most {MAX_DATA_BYTES} bytes", field="data")
        id = new_id() if body.id is UNSET else body.id
        await self.notifications.push(keys, Content(id, body.type, body.title, body.body, body.url, data))
        return Answer(Pushed(id, refused, refused_customers), 201)


class EmitHandler(Handler):
    hub: Hub
    namespaces: Collection[str]
    max_event_bytes: int

    @operation("admin", body=EmitBody, answer=Emitted, errors=("CONFLICT",))
    async def post(self, body: EmitBody) -> Answer:
        """Send an event of the back end's own to rooms. A volatile one is not logged and has no offset.

        CONFLICT if another event had the same `id` within two minutes.
        """
        refusals = {"namespace": refuse_namespace(body.namespace, self.namespaces), "event": refuse_event(body.event)}
        for name, refusal in refusals.items():
            if refusal:
                raise RtError("BAD_REQUEST", refusal, field=name)
        rooms = [Room(room) for room in _one_or_more(body.room, body.rooms, "room")]
        skip = [] if body.skip is UNSET else [body.skip] if isinstance(body.skip, str) else body.skip
        payload = "null" if body.data is UNSET else _clean(body.data)
        if len(payload.encode()) > self.max_event_bytes:
            raise RtError("PAYLOAD_TOO_LARGE", f"An event may have {self.max_event_bytes} bytes.", field="data")
        if body.volatile:
            self.hub.publish(body.namespace, rooms, body.event, payload, skip)
            return Answer(Emitted(None))
        id = same = ""
        if body.id is not UNSET:
            id, same = f"emit.{body.id}", fingerprint(body.namespace, body.event, payload, rooms, skip)
        return Answer(Emitted(await self.hub.emit(body.namespace, rooms, body.event, payload, skip, id, same)))


def push_routes(
    admin: Admin,
    tickets: Tickets,
    notifications: Notifications,
    hub: Hub,
    namespaces: Collection[str],
    max_event_bytes: int = 262_144,
    keys: UserKeys = UserKeys(),
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application. `namespaces`: paths that `emit` may name."""
    emit = {"admin": admin, "hub": hub, "namespaces": namespaces, "max_event_bytes": max_event_bytes}
    return [
        (r"/api/v1/tickets/([^/]+)", TicketHandler, {"admin": admin, "tickets": tickets, "keys": keys}),
        (r"/api/v1/tickets/([^/]+)/comments", CommentsHandler, {"admin": admin, "tickets": tickets}),
        (
            r"/api/v1/notifications",
            NotificationsHandler,
            {"admin": admin, "notifications": notifications, "keys": keys},
        ),
        (r"/api/v1/emit", EmitHandler, emit),
    ]


def _clean(data: Raw) -> str:
    """Return JSON of the back end's as this server would have written it: nothing looks at it again on its way out."""
    try:
        return json.dumps(json.loads(data))
    except json.BadJson as bad:
        raise RtError("BAD_REQUEST", bad.why, field="data") from None


def _one_or_more(one: str | UnsetType, more: list[str] | UnsetType, name: str) -> list[str]:
    """Return what two fields, `room` and `rooms`, say together. One of them must be there."""
    said = ([] if one is UNSET else [one]) + ([] if more is UNSET else more)
    if not said:
        raise RtError("BAD_REQUEST", f"Object missing required field `{name}`", field=name)
    return said

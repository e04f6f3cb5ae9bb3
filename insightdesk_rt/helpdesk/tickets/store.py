"""Ticket store: the fields of tickets that access and dashboards need, and the pending events of their changes.

The helpdesk's own database has the tickets; this is the copy that its back end pushes. Each change is one step in
Valkey: fields, version, counts, and the pending event (pending_events.py). A retry of the back end and the next change
of the ticket return events that are still pending; the node that leads publishes them too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.engine.cluster.names import Key, Partition
from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.errors import RtError, used_before
from insightdesk_rt.engine.ids import PushId, TeamIdText, UserIdText
from insightdesk_rt.engine.model import NO_OFFSET, Offset, Right, iso, offset_key
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.texts import PLAIN
from insightdesk_rt.helpdesk.pending_events import PENDING_EVENTS, PendingEvent, PendingEvents, once_of, read_pending

PACKAGE = "insightdesk_rt.helpdesk.tickets"

TicketStatus = Literal["new", "open", "pending", "on_hold", "solved", "closed"]
Priority = Literal["low", "normal", "high", "urgent"]
STATUSES: tuple[str, ...] = TicketStatus.__args__  # type: ignore[attr-defined]
PRIORITIES: tuple[str, ...] = Priority.__args__  # type: ignore[attr-defined]

At = Annotated[datetime, Meta(tz=True)]
Version = Annotated[int, Meta(ge=0, le=2**53)]
EPOCH = datetime.fromtimestamp(0, UTC)

MAX_WATCHERS = 200  # twice as many as a helpdesk's own form allows; the event of a change has the list twice
# The event of a change has both lists, before and after, and must stay within max_event_bytes.
MAX_CUSTOMER_WATCHERS = 40
MAX_SUBJECT = 500  # mail programs cut at 255, RFC 5322 lines at 998

CHANGE = load_script(PACKAGE, "ticket_change", PENDING_EVENTS)
OFFSET = load_script(PACKAGE, "ticket_offset")

# Names of grants that are not the name of a team or user.
LIFE, AGENTS = "life", "agents"


class Fields(Struct, gc=False):
    """The fields that the back end may set, with their defaults."""

    subject: str = ""
    status: TicketStatus = "new"
    priority: Priority = "normal"
    requesterId: str | None = None
    assigneeId: str | None = None
    teamId: str | None = None
    watchers: list[str] = []
    customerWatchers: list[str] = []  # only where ids are separate; `watchers` are staff then


class Ticket(Struct, kw_only=True, gc=False):
    """A ticket as clients and back ends get it. Times are ISO 8601. `customerWatchers` is missing if it is empty."""

    subject: str
    status: TicketStatus
    priority: Priority
    requesterId: str | None
    assigneeId: str | None
    teamId: str | None
    watchers: list[str]
    customerWatchers: list[str] | UnsetType = UNSET
    ticketId: str
    version: int
    createdAt: str
    updatedAt: str


class Actor(Struct, frozen=True, forbid_unknown_fields=True):
    """The person who did something, according to the back end."""

    id: UserIdText
    name: Annotated[str, Meta(max_length=256, pattern=PLAIN)]


class Guard(Struct, frozen=True):
    """Conditions of a change: it must not be older than what is known, and the ticket must have this version.

    `at_us` is when the back end did it, in Unix microseconds. `version` is 0 for a ticket that must not exist yet.
    """

    at_us: int | None = None
    version: int | None = None


class TicketChange(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A partial update: fields that are not given stay. null removes a person or team. `by` is shown to clients.

    `at` is when the back end did it: a field that was changed later than that stays. `ifVersion`: only if the ticket
    has this version; 0: only if there is no such ticket. `id`: the same change again within a day has no effect.
    """

    subject: Annotated[str, Meta(max_length=MAX_SUBJECT, pattern=PLAIN)] | UnsetType = UNSET
    status: TicketStatus | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    requesterId: UserIdText | UnsetType | None = UNSET
    assigneeId: UserIdText | UnsetType | None = UNSET
    teamId: TeamIdText | UnsetType | None = UNSET
    watchers: Annotated[list[UserIdText], Meta(max_length=MAX_WATCHERS)] | UnsetType = UNSET
    customerWatchers: (
        Annotated[
            list[UserIdText],
            Meta(max_length=MAX_CUSTOMER_WATCHERS, description='with user_ids = "separate", where watchers are staff'),
        ]
        | UnsetType
    ) = UNSET
    by: Actor | UnsetType = UNSET
    at: At | UnsetType = UNSET
    ifVersion: Version | UnsetType = UNSET
    id: PushId | UnsetType = UNSET

    @property
    def guard(self) -> Guard:
        return Guard(
            None if self.at is UNSET else microseconds(self.at), None if self.ifVersion is UNSET else self.ifVersion
        )


class Comment(Struct, gc=False):
    """A comment as it is published; its full text stays with the back end."""

    id: str
    kind: Literal["reply", "note"]
    author: Actor
    excerpt: str


class StoredChange(Struct, gc=False):
    """The data of a pending event. `changes` is field → [old, new]; `at` and `createdAt` are Unix ms."""

    version: int
    at: int
    createdAt: int
    ticket: Fields  # as the change left it
    changes: dict[str, tuple[Any, Any]]
    by: Actor | None = None
    comment: Comment | None = None

    def as_ticket(self, ticket_id: str) -> Ticket:
        return _ticket(ticket_id, self.version, self.createdAt, self.at, self.ticket)


class Outcome(Struct, frozen=True):
    """The result of a write. `done` is False if there was nothing to do. `pending` has the oldest event first.

    `late`: nothing was done because the whole change is older than what is known. `absent`: there is no such ticket.
    """

    done: bool
    created: bool
    version: int
    offset: Offset  # of the last event published before this change
    pending: list[PendingEvent]
    late: bool = False
    absent: bool = False


class TicketRequest(NamedTuple):
    """One change that a back end asks for. `known_as`: an id by which a repeat within a day is known; "": none."""

    op: Literal["put", "delete", "comment"]
    ticket_id: str
    change: TicketChange | None = None  # of "put"
    comment: Comment | None = None  # of "comment"
    guard: Guard = Guard()
    known_as: str = ""


class Facts(Struct, frozen=True):
    """The fields that decide who may read a ticket."""

    teamId: str | None
    requesterId: str | None
    watchers: list[str]
    customerWatchers: list[str] = []


class TicketCounts(Struct, frozen=True):
    """`byPriority` and `unassigned` count open work: tickets that are neither solved nor closed."""

    total: int
    unsolved: int
    unassigned: int
    byStatus: dict[str, int]
    byPriority: dict[str, int]


_NAMES = Fields.__struct_fields__
_DEFAULTS = {name: msgspec.json.encode(getattr(Fields(), name)).decode() for name in _NAMES}
_NOTHING_GIVEN: list[Arg] = [part for name, default in _DEFAULTS.items() for part in (name, default, "")]
_read_fields = msgspec.json.Decoder(Fields)
_read_facts = msgspec.json.Decoder(Facts)
_read_grants = msgspec.json.Decoder(dict[str, str])
_read_change = msgspec.json.Decoder(StoredChange)


class TicketStore:
    def __init__(self, valkey: Valkey, partition: Partition, name: str = "ticket") -> None:
        self._valkey = valkey
        self.name = name
        self.base = partition.key(name)
        self._counts = Key(f"{self.base}-counts")
        self._log_state = partition.log_state
        self.pending = PendingEvents(valkey, partition, name)

    async def put(self, ticket_id: str, change: TicketChange) -> Outcome:
        """Create or change a ticket. Each change is one version; a change without effect makes none.

        Raises UNAVAILABLE; CONFLICT with `version` if the ticket has another version than the change expects, or if
        another change of the ticket had its `id` within a day.
        """
        return await self.change(put_request(ticket_id, change))

    async def delete(self, ticket_id: str, guard: Guard = Guard(), known_as: str = "") -> Outcome:
        """Delete a ticket. Its version and time stay for a day. `absent` if there was no such ticket.

        Raises as `put`.
        """
        return await self.change(TicketRequest("delete", ticket_id, guard=guard, known_as=known_as))

    async def comment(self, ticket_id: str, comment: Comment, remember: bool) -> Outcome:
        """Store that a ticket got a comment. With `remember`, the same comment within a day has no effect.

        It makes no version, because the fields stay as they are. Raises NOT_FOUND, UNAVAILABLE; CONFLICT if another
        comment of the ticket had this id within a day.
        """
        return await self.change(comment_request(ticket_id, comment, remember))

    async def change(self, request: TicketRequest) -> Outcome:
        """Do one change. Raises as `put` and `comment`."""
        return self.outcome(request, await self.begin(request))

    def begin(self, request: TicketRequest) -> Awaitable[Any]:
        """Send one change to Valkey with this turn's pipeline; `outcome` reads the answer. Raises UNAVAILABLE."""
        return self._valkey.begin(CHANGE, self._keys_of(request), _arguments(request), durable=True)

    def outcome(self, request: TicketRequest, answer: Any) -> Outcome:
        """Read the answer to a change. Raises RtError CONFLICT, NOT_FOUND."""
        outcome, version, offset, records = answer
        if outcome == -2:
            raise used_before("id", "comment" if request.op == "comment" else "change")
        if outcome == -4:
            why = f"ifVersion: the ticket has version {version}." if version else "ifVersion: there is no such ticket."
            raise RtError("CONFLICT", why, field="ifVersion", version=version)
        if outcome == -1 and request.op == "comment":
            raise RtError("NOT_FOUND")
        changes = read_pending(self.name, request.ticket_id, records)
        return Outcome(outcome > 0, outcome == 2, version, Offset(offset), changes, outcome == -3, outcome == -1)

    async def mark_published(self, offsets: Collection[tuple[str, int, Offset]]) -> None:
        """Store for tickets that the log has their events up to a seq, the last one at an offset. Raises UNAVAILABLE.

        A ticket may occur several times, in the order of its events.
        """
        args: list[Arg] = [part for _, seq, offset in offsets for part in (seq, offset)]
        await self._valkey.call(OFFSET, [self._key(ticket_id) for ticket_id, *_ in offsets], args)

    async def get(self, ticket_id: str) -> Ticket | None:
        row = _pairs(await self._valkey.command("HGETALL", self._key(ticket_id)))
        if "subject" not in row:  # no ticket, or what is left of a deleted one
            return None
        fields = json.decode(_read_fields, _object({name: row[name] for name in _NAMES if name in row}))
        return _ticket(ticket_id, int(row["version"]), int(row["createdAt"]), int(row["updatedAt"]), fields)

    async def facts(self, ticket_id: str) -> Facts | None:
        names = Facts.__struct_fields__
        values = await self._valkey.command("HMGET", self._key(ticket_id), *names)
        known = {name: text for name, text in zip(names, values, strict=True) if text is not None}
        if "watchers" not in known:
            return None
        return json.decode(_read_facts, _object(known))  # an earlier version of this server stored no customerWatchers

    async def right(self, ticket_id: str, names: Collection[str]) -> Right:
        """Return since when, without a break, the ticket has been open to somebody with one of these grants.

        Grants are LIFE (from its creation on), AGENTS (while it has no team), `team:<id>` and `user:<id>`; the oldest
        one counts. For a ticket that nobody pushed the answer is an empty Right.
        """
        texts, created_ms = await self._valkey.command("HMGET", self._key(ticket_id), "grants", "createdAt")
        if texts is None:  # stored by a version of this server without grants
            return Right(Offset(f"{created_ms}-0") if created_ms else NO_OFFSET)
        grants = [text.split(" ") for name, text in json.decode(_read_grants, texts).items() if name in names]
        rights = [Right(Offset(offset), life) for life, offset in grants]
        return min(rights, key=lambda right: offset_key(right.since), default=Right())

    async def version(self, ticket_id: str) -> int:
        """Return the ticket's version, 0 if there is none."""
        version, subject = await self._valkey.command("HMGET", self._key(ticket_id), "version", "subject")
        return 0 if subject is None else int(version)

    async def counts(self) -> TicketCounts:
        """Return the numbers of tickets by status and priority. Reads one small hash, whatever their number."""
        row = _pairs(await self._valkey.command("HGETALL", self._counts))

        def count(name: str) -> int:
            return int(row.get(name, 0))

        return TicketCounts(
            count("total"),
            count("unsolved"),
            count("unassigned"),
            {status: count(f"status:{status}") for status in STATUSES},
            {priority: count(f"priority:{priority}") for priority in PRIORITIES},
        )

    def _key(self, ticket_id: str) -> Key:
        return Key(f"{self.base}:{ticket_id}")

    def _keys_of(self, request: TicketRequest) -> list[Key]:
        """The keys of lua/ticket_change.lua."""
        ticket_id, kind = request.ticket_id, "comment" if request.op == "comment" else "change"
        digest = Key(f"{self.base}-{kind}:{ticket_id}:{request.known_as}")
        pending = (self.pending.index, self.pending.of(ticket_id))
        return [self._key(ticket_id), self._counts, digest, self._log_state, *pending]


def put_request(ticket_id: str, change: TicketChange) -> TicketRequest:
    known_as = "" if change.id is UNSET else change.id
    return TicketRequest("put", ticket_id, change, guard=change.guard, known_as=known_as)


def comment_request(ticket_id: str, comment: Comment, remember: bool) -> TicketRequest:
    return TicketRequest("comment", ticket_id, comment=comment, known_as=comment.id if remember else "")


def _arguments(request: TicketRequest) -> list[Arg]:
    """Return the arguments of lua/ticket_change.lua."""
    op, ticket_id, change, comment, guard, known_as = request
    by = json.encode_struct(change.by) if change is not None and change.by is not UNSET else "null"
    comment_text = "null" if comment is None else json.encode_struct(comment)
    once = once_of(ticket_id, known_as) if known_as else ""
    args: list[Arg] = [op, ticket_id, by, comment_text, known_as, once]
    args.append("" if guard.at_us is None else guard.at_us)
    args.append("" if guard.version is None else guard.version)
    if change is None:
        return args + _NOTHING_GIVEN
    for name, default in _DEFAULTS.items():
        value = getattr(change, name)
        if value is UNSET:
            args += (name, default, "")
        else:  # a list of people is a set; sorted, so that equal sets are equal texts
            args += (name, default, json.dumps(sorted(set(value)) if isinstance(value, list) else value))
    return args


def microseconds(at: datetime) -> int:
    """Return a time as Unix microseconds."""
    return (at - EPOCH) // timedelta(microseconds=1)


def read_change(record: PendingEvent) -> StoredChange:
    """Parse the data of a pending event."""
    return json.decode(_read_change, record.data)


def _ticket(ticket_id: str, version: int, created_ms: int, updated_ms: int, fields: Fields) -> Ticket:
    values = {name: getattr(fields, name) for name in _NAMES}
    values["customerWatchers"] = fields.customerWatchers or UNSET
    return Ticket(ticketId=ticket_id, version=version, createdAt=iso(created_ms), updatedAt=iso(updated_ms), **values)


def _object(texts: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}"


def _pairs(flat: Any) -> dict[str, str]:
    """Return HGETALL's answer as a dict: RESP2 gives a flat list, RESP3 a map."""
    if isinstance(flat, dict):
        return flat
    return dict(zip(flat[::2], flat[1::2], strict=True))

"""The facts of the chat as values: a conversation, a message, the figures of the queue. Times are Unix milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from insightdesk_rt.engine.model import NO_OFFSET, Offset, Right, Role, User, offset_key
from insightdesk_rt.helpdesk.pending_events import PendingEvent

State = Literal["waiting", "active", "closed"]
Reason = Literal["customer", "agent", "timeout", "idle", "abandoned"]


class Author(Struct, frozen=True, gc=False):
    id: str
    name: str
    role: Role


class Message(Struct, frozen=True, gc=False):
    """`id` is its number in the conversation: 1, 2, 3, …; `clientId` is what its author's client called it."""

    id: int
    at: int
    author: Author
    text: str
    clientId: str


class Conversation(Struct, frozen=True):
    """Empty strings and zeros mean "none". `position` is its place in the queue, from 1, while it waits.

    `queued_at` is when it first began to wait, and decides its place; `waiting_since` when it did so last.
    """

    id: str
    state: State
    customer_id: str
    customer_name: str
    customer_online: bool
    agent_id: str
    agent_name: str
    agent_online: bool
    team_id: str
    subject: str
    preview: str  # the beginning of the first message
    created_at: int
    queued_at: int
    waiting_since: int
    accepted_at: int
    closed_at: int
    closed_reason: str
    closed_by_id: str
    closed_by_name: str
    position: int
    last: int  # number of the newest message
    read_by_customer: int
    read_by_agent: int
    note: str  # of the last transfer, for agents
    score: int
    comment: str
    team_offset: Offset  # the end of the log when it came to its team, and to its agent
    agent_offset: Offset

    def right_of(self, user: User) -> Right:
        """Return from where on the user may be sent what it was told, for who may see it.

        Its customer and admins from its beginning; an agent since it came to them, by its team or as theirs.
        """
        if user.role != "agent":
            return Right()
        by_team = [self.team_offset] if self.team_id in ("", user.team_id) else []
        since = min([*by_team, *([self.agent_offset] if self.agent_id == user.id else [])], key=offset_key)
        return Right(since, since)

    def may_see(self, user: User) -> bool:
        """The rule that the scripts hold (lua/chat_lib.lua), for sockets that are in the room already."""
        if user.role == "admin":
            return True
        if user.role == "agent":
            return self.team_id in ("", user.team_id) or self.agent_id == user.id
        return self.customer_id == user.id


class ChatQueueStats(Struct, frozen=True):
    """Conversations that wait, how long (the first in line; on average), and those that an agent has taken."""

    waiting: int
    longestWaitMs: int
    averageWaitMs: int
    active: int


class ConversationChange(NamedTuple):
    """A conversation as a script left it, and what must be told of it: not only what this call did."""

    conversation: Conversation
    pending: list[PendingEvent]


class BegunConversation(NamedTuple):
    """The same of one that a customer has started. `agents_here`: how many could take it now, admins apart."""

    conversation: Conversation
    pending: list[PendingEvent]
    agents_here: int


class QueuePlace(NamedTuple):
    """A new place in a queue, from 1."""

    conversation_id: str
    customer_id: str
    position: int


class StoredMessage(NamedTuple):
    id: int
    at: int
    pending: list[PendingEvent]


class ConversationList(NamedTuple):
    """One of a list: its place in it is `at` (since when it is in its state, Unix ms), then its id."""

    at: int
    conversation: Conversation


class StoredMessagePage(NamedTuple):
    """Messages in order; `more`: there are older ones."""

    conversation: Conversation
    messages: list[Message]
    more: bool


def conversation(row: Sequence[Any]) -> Conversation:
    """Return what a script answered as `row` of chat_lib.lua: id, position, fields and values in turn."""
    conversation_id, position, flat = row
    fields = dict(zip(flat[::2], flat[1::2], strict=True))

    def number(name: str) -> int:
        return int(fields.get(name) or 0)

    def text(name: str) -> str:
        return str(fields.get(name, ""))

    return Conversation(
        id=conversation_id,
        state=fields["state"],
        customer_id=text("customerId"),
        customer_name=text("customerName"),
        customer_online=text("customerOnline") == "1",
        agent_id=text("agentId"),
        agent_name=text("agentName"),
        agent_online=text("agentOnline") == "1",
        team_id=text("teamId"),
        subject=text("subject"),
        preview=text("preview"),
        created_at=number("createdAt"),
        queued_at=number("queuedAt"),
        waiting_since=number("waitingSince"),
        accepted_at=number("acceptedAt"),
        closed_at=number("closedAt"),
        closed_reason=text("closedReason"),
        closed_by_id=text("closedById"),
        closed_by_name=text("closedByName"),
        position=int(position),
        last=number("last"),
        read_by_customer=number("readByCustomer"),
        read_by_agent=number("readByAgent"),
        note=text("note"),
        score=number("score"),
        comment=text("comment"),
        team_offset=Offset(text("teamOffset") or NO_OFFSET),
        agent_offset=Offset(text("agentOffset") or NO_OFFSET),
    )

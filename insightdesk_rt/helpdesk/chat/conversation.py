"""The facts of the chat as values: a conversation, a message, the numbers of the queue. Times are Unix milliseconds."""

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
    """`id` is its number in the conversation: 1, 2, 3, …; `clientId` is the id that its author's client gave it."""

    id: int
    at: int
    author: Author
    text: str
    clientId: str


class Conversation(Struct, frozen=True):
    """Empty strings and zeros mean "none". `position` is its place in the queue, from 1, while it waits.

    `queued_at` is when it first began to wait, which decides its place. `waiting_since` is when it last began to wait.
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
        """Return the offset after which a user with access to the conversation may be sent its events.

        Its customer and admins: from its beginning. An agent: since it came to their team, or to them.
        """
        if user.role != "agent":
            return Right()
        by_team = [self.team_offset] if self.team_id in ("", user.team_id) else []
        since = min([*by_team, *([self.agent_offset] if self.agent_id == user.id else [])], key=offset_key)
        return Right(since, since)

    def may_see(self, user: User) -> bool:
        """The same rule as in the scripts (lua/chat_lib.lua), for sockets that are in the room already."""
        if user.role == "admin":
            return True
        if user.role == "agent":
            return self.team_id in ("", user.team_id) or self.agent_id == user.id
        return self.customer_id == user.id


class ChatQueueStats(Struct, frozen=True):
    """Numbers of waiting and of active conversations; the longest and the average wait."""

    waiting: int
    longestWaitMs: int
    averageWaitMs: int
    active: int


class ConversationChange(NamedTuple):
    """A conversation as a script left it, and its pending events, which may include older ones."""

    conversation: Conversation
    pending: list[PendingEvent]


class BegunConversation(NamedTuple):
    """The same for a new conversation. `agents_here`: how many agents in the chat could take it, without admins."""

    conversation: Conversation
    pending: list[PendingEvent]
    agents_here: int


class QueuePlace(NamedTuple):
    """A changed place in a queue, from 1."""

    conversation_id: str
    customer_id: str
    position: int


class StoredMessage(NamedTuple):
    id: int
    at: int
    pending: list[PendingEvent]


class ConversationList(NamedTuple):
    """One entry of a list, which is sorted by `at` (when it entered its state) and id."""

    at: int
    conversation: Conversation


class StoredMessagePage(NamedTuple):
    """Messages in order. `more`: there are older ones."""

    conversation: Conversation
    messages: list[Message]
    more: bool


def _in_valkey(*names: str) -> list[tuple[str, str]]:
    """Return each name with its name in the hash of a conversation: agent_id is agentId there."""
    words = [(name, name.split("_")) for name in names]
    return [(name, first + "".join(map(str.title, rest))) for name, (first, *rest) in words]


_TEXTS = _in_valkey("customer_id", "customer_name", "agent_id", "agent_name", "team_id", "subject", "preview")
_TEXTS += _in_valkey("closed_reason", "closed_by_id", "closed_by_name", "note", "comment")
_NUMBERS = _in_valkey("created_at", "queued_at", "waiting_since", "accepted_at", "closed_at", "last", "score")
_NUMBERS += _in_valkey("read_by_customer", "read_by_agent")


def conversation(row: Sequence[Any]) -> Conversation:
    """Parse a conversation as `row` of lua/chat_lib.lua returns it: id, position, fields and values in turn."""
    conversation_id, position, flat = row
    fields: dict[str, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
    values: dict[str, Any] = {name: fields.get(key, "") for name, key in _TEXTS}
    values |= {name: int(fields.get(key) or 0) for name, key in _NUMBERS}
    return Conversation(
        id=conversation_id,
        state=fields["state"],
        position=int(position),
        customer_online=fields.get("customerOnline") == "1",
        agent_online=fields.get("agentOnline") == "1",
        team_offset=Offset(fields.get("teamOffset") or NO_OFFSET),
        agent_offset=Offset(fields.get("agentOffset") or NO_OFFSET),
        **values,
    )

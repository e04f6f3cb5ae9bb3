"""The payloads of the chat: what clients send with an event, the answers, and the events they are sent. No behaviour.

Times are ISO 8601 in UTC. A message's `id` is its number in the conversation: 1, 2, 3, … without a gap.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from insightdesk_rt.engine.dispatch.namespace import Outbound, Payload
from insightdesk_rt.engine.ids import ClientId, ConversationId, TeamIdText, UserIdText
from insightdesk_rt.engine.model import Person, iso
from insightdesk_rt.engine.wire.texts import PLAIN, VISIBLE, OffsetText
from insightdesk_rt.helpdesk.chat.conversation import Author, Conversation, Message, State

MAX_HISTORY = 100
MAX_SUBJECT = 200

Text = Annotated[str, Meta(min_length=1, max_length=4_000, pattern=VISIBLE)]  # at most 16,000 bytes
Comment = Annotated[str, Meta(max_length=1_000, pattern=PLAIN)]
MessageId = Annotated[int, Meta(ge=1, le=2**53)]


# ── what clients send ────────────────────────────────────────────────────────────────────────────────────────────────


class StartChat(Payload):
    clientId: ClientId
    subject: Annotated[str, Meta(max_length=MAX_SUBJECT, pattern=PLAIN)] = ""
    text: Text | None = None
    teamId: TeamIdText | None = None


class InConversation(Payload):
    conversationId: ConversationId


class JoinChat(Payload):
    """`since`: an offset; the logged events of the conversation after it are sent first."""

    conversationId: ConversationId
    since: OffsetText | None = None


class SendMessage(Payload):
    conversationId: ConversationId
    text: Text
    clientId: ClientId


class MarkChatRead(Payload):
    conversationId: ConversationId
    upTo: MessageId


class ReadHistory(Payload):
    conversationId: ConversationId
    before: MessageId | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_HISTORY)] = 50


class TransferChat(Payload):
    """To an agent, to a team, or to an agent within another team."""

    conversationId: ConversationId
    agentId: UserIdText | None = None
    teamId: TeamIdText | None = None
    note: Comment = ""


class RateChat(Payload):
    conversationId: ConversationId
    score: Annotated[int, Meta(ge=1, le=5)]
    comment: Comment = ""


# ── parts of answers and events ──────────────────────────────────────────────────────────────────────────────────────


class ChatMember(Struct, gc=False):
    """`online`: connected to the chat; it changes after a short grace period."""

    id: str
    name: str
    online: bool


class ConversationView(Struct, omit_defaults=True):
    """Fields that do not apply (yet) are missing. `note` is for staff."""

    conversationId: str
    state: State
    customer: ChatMember
    createdAt: str
    lastMessageId: int
    readUpTo: dict[str, int]  # keys: "customer" and "agent"
    subject: str = ""
    teamId: str = ""
    agent: ChatMember | None = None
    waitingSince: str = ""
    position: int = 0
    acceptedAt: str = ""
    closedAt: str = ""
    closedReason: str = ""
    closedBy: Person | None = None
    score: int = 0
    comment: str = ""
    note: str = ""


class MessageView(Struct, gc=False):
    id: int
    at: str
    author: Author
    text: str
    clientId: str


class QueueEntry(Struct, omit_defaults=True):
    """A waiting conversation. `text` is the beginning of its first message. Entries are sorted by `queuedAt`."""

    conversationId: str
    customer: Person
    queuedAt: str
    waitingSince: str
    teamId: str = ""
    subject: str = ""
    text: str = ""


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class ChatStarted(Struct):
    """`agentsHere`: number of connected agents of the team it waits for, or of all teams; without admins."""

    conversationId: str
    position: int
    agentsHere: int


class ChatJoined(Struct):
    """The client gets all events after `offset`. `complete`: the log reached back to `since`. `more`: as below."""

    conversation: ConversationView
    messages: list[MessageView]
    offset: str
    complete: bool
    more: bool


class ChatAccepted(Struct):
    conversation: ConversationView
    messages: list[MessageView]
    more: bool


class MessageAccepted(Struct):
    id: int
    at: str


class MessagePage(Struct):
    """`more`: there are older messages, which `chat:history` returns."""

    messages: list[MessageView]
    more: bool


class ChatChanged(Struct):
    conversation: ConversationView


# ── events that clients are sent ─────────────────────────────────────────────────────────────────────────────────────


class ChatMessage(Outbound):
    event: ClassVar = "chat:message"
    logged: ClassVar = True
    conversationId: str
    id: int
    at: str
    author: Author
    text: str
    clientId: str


class ChatTyping(Outbound):
    event: ClassVar = "chat:typing"
    conversationId: str
    user: Person


class ChatStopTyping(Outbound):
    """A customer is named by `customerId` where ids are separate; also in the events below."""

    event: ClassVar = "chat:stopTyping"
    conversationId: str
    userId: str = ""
    customerId: str = ""


class ReadUpTo(Outbound, kw_only=True):
    event: ClassVar = "chat:read"
    logged: ClassVar = True
    conversationId: str
    userId: str = ""
    customerId: str = ""
    upTo: int


class ChatQueued(Outbound):
    """Not logged: a customer who leaves a long queue would fill the log. `chat:conversation` has the place too."""

    event: ClassVar = "chat:queued"
    conversationId: str
    position: int


class ChatQueue(Outbound):
    """Either the whole queue (on connect; `waiting` replaces what the client knew), or what changed.

    A long queue comes in parts: the first one as `waiting`, the others as `added`.
    """

    event: ClassVar = "chat:queue"
    logged: ClassVar = True
    waiting: list[QueueEntry] | None = None
    added: list[QueueEntry] | None = None
    removed: list[str] | None = None


class ChatTaken(Outbound):
    event: ClassVar = "chat:accepted"
    logged: ClassVar = True
    conversationId: str
    agent: Person
    at: str


class ChatTransferred(Outbound):
    """`agent` has it now; without `agent` it waits again. `by` is missing if the server did it: its agent was gone."""

    event: ClassVar = "chat:transferred"
    logged: ClassVar = True
    conversationId: str
    state: State
    at: str
    agent: Person | None = None
    teamId: str = ""
    previous: Person | None = None
    by: Person | None = None
    note: str = ""


class ChatClosed(Outbound):
    """`by` is missing if the server did it."""

    event: ClassVar = "chat:closed"
    logged: ClassVar = True
    conversationId: str
    reason: Literal["customer", "agent", "timeout", "idle", "abandoned"]
    at: str
    by: Person | None = None


class ChatRated(Outbound):
    event: ClassVar = "chat:rated"
    logged: ClassVar = True
    conversationId: str
    score: int
    comment: str = ""


class ChatOpened(Outbound):
    """Sent on connect for each of the user's open conversations, and to a customer's other devices when one begins."""

    event: ClassVar = "chat:conversation"
    logged: ClassVar = True
    conversation: ConversationView


class JoinedConversation(Outbound):
    """Sent to the device that joined: it gets every event of the conversation after `offset`."""

    event: ClassVar = "chat:joined"
    conversationId: str
    offset: str


class IdleWarning(Outbound):
    event: ClassVar = "chat:idleWarning"
    logged: ClassVar = True
    conversationId: str
    closesAt: str


class PresentAgents(Outbound, kw_only=True):
    """A member connected or left; sent after the grace period of presence."""

    event: ClassVar = "chat:presence"
    logged: ClassVar = True
    conversationId: str
    userId: str = ""
    customerId: str = ""
    online: bool


# ── from facts to payloads ───────────────────────────────────────────────────────────────────────────────────────────


def at(ms: int) -> str:
    return iso(ms) if ms else ""


def person(id: str, name: str) -> Person | None:
    return Person(id, name) if id else None  # type: ignore[arg-type]


def view(c: Conversation, is_staff: bool) -> ConversationView:
    return ConversationView(
        conversationId=c.id,
        state=c.state,
        customer=ChatMember(c.customer_id, c.customer_name, c.customer_online),
        createdAt=at(c.created_at),
        lastMessageId=c.last,
        readUpTo={"customer": c.read_by_customer, "agent": c.read_by_agent},
        subject=c.subject,
        teamId=c.team_id,
        agent=ChatMember(c.agent_id, c.agent_name, c.agent_online) if c.agent_id else None,
        waitingSince=at(c.waiting_since) if c.state == "waiting" else "",
        position=c.position,
        acceptedAt=at(c.accepted_at) if c.state != "waiting" else "",
        closedAt=at(c.closed_at),
        closedReason=c.closed_reason,
        closedBy=person(c.closed_by_id, c.closed_by_name),
        score=c.score,
        comment=c.comment,
        note=c.note if is_staff else "",
    )


def message_view(m: Message) -> MessageView:
    return MessageView(m.id, at(m.at), m.author, m.text, m.clientId)


def queue_entry(c: Conversation) -> QueueEntry:
    customer = Person(c.customer_id, c.customer_name)  # type: ignore[arg-type]
    return QueueEntry(c.id, customer, at(c.queued_at), at(c.waiting_since), c.team_id, c.subject, c.preview)

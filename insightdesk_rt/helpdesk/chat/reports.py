"""The feed entries about chats.

They contain everything, including the note of a transfer, which customers never get. A conversation's first message is
stored with the conversation, so `chat.started` is followed by a `chat.message` for it. `chat.closed` has the messages.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.dispatch.namespace import FeedEntry, Report, Tell
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.chat.conversation import Author, Message, Reason, State
from insightdesk_rt.helpdesk.chat.events import MessageView, at, message_view
from insightdesk_rt.helpdesk.chat.feed import ChatFact
from insightdesk_rt.helpdesk.chat.store import ChatStore
from insightdesk_rt.helpdesk.pending_events import PendingEvent

# Of the messages in `chat.closed`, as JSON. As much as one event may have (max_event_bytes) less the rest of the entry.
# A chat of an hour has some 20 KB. Longer ones keep their newest messages, and the API returns the rest.
TRANSCRIPT_BYTES = 240_000
MAX_TRANSCRIPT = 10_000
MISSED: tuple[Reason, ...] = ("timeout", "abandoned", "customer")


class ChatPerson(Struct, frozen=True, gc=False):
    id: str
    name: str


class ChatStartedReport(Report):
    type: ClassVar[str] = "chat.started"
    conversationId: str
    customer: ChatPerson
    subject: str = ""
    teamId: str = ""


class ChatAcceptedReport(Report):
    type: ClassVar[str] = "chat.accepted"
    conversationId: str
    agent: ChatPerson
    teamId: str = ""


class ChatMessageReport(Report):
    """`id` is the message's number in the conversation: 1, 2, 3, …"""

    type: ClassVar[str] = "chat.message"
    conversationId: str
    id: int
    at: str
    author: Author
    text: str
    clientId: str


class ChatTransferredReport(Report):
    """`agent` has it now; without `agent` it waits again. `by` is missing if the server did it: its agent was gone."""

    type: ClassVar[str] = "chat.transferred"
    conversationId: str
    state: State
    agent: ChatPerson | None = None
    teamId: str = ""
    previous: ChatPerson | None = None
    by: ChatPerson | None = None
    note: str = ""


class ChatClosedReport(Report):
    """`by` is missing if the server did it. `messages` are in order. `more`: older ones are left out."""

    type: ClassVar[str] = "chat.closed"
    conversationId: str
    reason: Reason
    customer: ChatPerson
    messages: list[MessageView]
    more: bool
    startedAt: str = ""
    acceptedAt: str = ""
    by: ChatPerson | None = None
    agent: ChatPerson | None = None
    subject: str = ""
    teamId: str = ""


class ChatRatedReport(Report):
    type: ClassVar[str] = "chat.rated"
    conversationId: str
    score: int
    comment: str = ""
    agent: ChatPerson | None = None


class ChatMissedReport(Report):
    """No agent ever took it: the customer waited too long, or left. Follows its `chat.closed`."""

    type: ClassVar[str] = "chat.missed"
    conversationId: str
    reason: Reason
    customer: ChatPerson
    startedAt: str = ""
    subject: str = ""
    teamId: str = ""


CHAT_REPORTS: tuple[type[Report], ...] = (
    ChatStartedReport,
    ChatAcceptedReport,
    ChatMessageReport,
    ChatTransferredReport,
    ChatClosedReport,
    ChatRatedReport,
    ChatMissedReport,
)

_fact = msgspec.json.Decoder(ChatFact)
_message = msgspec.json.Decoder(Message)

Reported = list[tuple[str, Report]]  # each with the end of its id, after that of the change


class ChatReports:
    """Tells the back end of changes of conversations. `store` has the messages."""

    def __init__(self, store: ChatStore, tell: Tell) -> None:
        self._store = store
        self._tell = tell

    async def tell(self, *records: PendingEvent) -> None:
        """Append the feed entries of these changes in one step. Raises RtError UNAVAILABLE."""
        await self._tell([entry for record in records for entry in await self._entries(record)])

    async def _entries(self, record: PendingEvent) -> list[FeedEntry]:
        if record.kind == "message":
            message = json.decode(_message, record.data)
            return [FeedEntry(record.id, message.at, message_report(record.subject, message))]
        if record.kind not in ("started", "accepted", "transferred", "closed", "rated"):
            return []
        fact = json.decode(_fact, record.data)
        return [FeedEntry(record.id + end, fact.at, report) for end, report in await self._reported(record.kind, fact)]

    async def _reported(self, kind: str, fact: ChatFact) -> Reported:
        if kind == "started":
            return await self._started(fact)
        if kind == "closed":
            return await self._closed(fact)
        agent, id = person(fact.agentId, fact.agentName), fact.conversationId
        if kind == "accepted":
            return [("", ChatAcceptedReport(id, ChatPerson(fact.agentId, fact.agentName), fact.teamId))]
        if kind == "rated":
            return [("", ChatRatedReport(id, fact.score, fact.comment, agent))]
        previous, by = person(fact.fromId, fact.fromName), person(fact.byId, fact.byName)
        return [("", ChatTransferredReport(id, fact.state, agent, fact.teamId, previous, by, fact.note))]

    async def _started(self, fact: ChatFact) -> Reported:
        customer = ChatPerson(fact.customerId, fact.customerName)
        found: Reported = [("", ChatStartedReport(fact.conversationId, customer, fact.subject, fact.teamId))]
        if fact.preview:
            page = await self._store.transcript(fact.conversationId, 1, TRANSCRIPT_BYTES, before=2)
            first = page.messages if page else []
            found += [(".message", message_report(fact.conversationId, message)) for message in first]
        return found

    async def _closed(self, fact: ChatFact) -> Reported:
        page = await self._store.transcript(fact.conversationId, MAX_TRANSCRIPT, TRANSCRIPT_BYTES)
        closed = ChatClosedReport(fact.conversationId, fact.reason, ChatPerson(fact.customerId, ""), [], False)
        closed.by, closed.agent = person(fact.byId, fact.byName), person(fact.agentId, fact.agentName)
        closed.teamId = fact.teamId
        if page is None:  # Valkey lost it
            return [("", closed)]
        chat = page.conversation
        closed.customer = ChatPerson(fact.customerId, chat.customer_name)
        closed.subject, closed.startedAt, closed.acceptedAt = chat.subject, at(chat.created_at), at(chat.accepted_at)
        closed.messages, closed.more = list(map(message_view, page.messages)), page.more
        found: Reported = [("", closed)]
        if not chat.accepted_at and fact.reason in MISSED:
            missed = ChatMissedReport(fact.conversationId, fact.reason, closed.customer, closed.startedAt)
            missed.subject, missed.teamId = chat.subject, fact.teamId
            found.append((".missed", missed))
        return found


def message_report(conversation_id: str, m: Message) -> ChatMessageReport:
    return ChatMessageReport(conversation_id, m.id, at(m.at), m.author, m.text, m.clientId)


def person(id: str, name: str) -> ChatPerson | None:
    return ChatPerson(id, name) if id else None

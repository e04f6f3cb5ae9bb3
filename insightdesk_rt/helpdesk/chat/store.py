"""Chat store: conversations, their messages, the queue they wait in, and the deadlines that the server keeps for them.

waiting → active → (waiting →) … → closed. Each change is one script. It checks who asks, stores author and time, sets
the deadlines, and stores the pending event (pending_events.py). Valkey's clock is the only clock. So of several agents
who accept at once exactly one gets the conversation, and a repeat of a request under the same `clientId` gets the same
answer.

A user who asks for a conversation that is not theirs, or does not exist, gets FORBIDDEN in both cases. Closed
conversations are kept for `kept_s`; open ones end by their deadlines. The keys are listed in lua/chat_lib.lua. The
scripts make them from ids, so all must be on one server. Cost: one command per request; the numbers of the queue are
O(1).
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from insightdesk_rt.engine.cluster.names import Partition
from insightdesk_rt.engine.cluster.publisher import KEEP_S
from insightdesk_rt.engine.cluster.valkey import Script, Valkey, load_script
from insightdesk_rt.engine.errors import RtError, used_before
from insightdesk_rt.engine.model import User, new_id
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.chat.conversation import (
    Author,
    BegunConversation,
    ChatQueueStats,
    Conversation,
    ConversationChange,
    ConversationList,
    Message,
    QueuePlace,
    State,
    StoredMessage,
    StoredMessagePage,
    conversation,
)
from insightdesk_rt.helpdesk.chat.settings import ChatSettings
from insightdesk_rt.helpdesk.pending_events import (
    PAGE,
    PENDING_EVENTS,
    PendingEvent,
    PendingEvents,
    Recovered,
    always,
    once_of,
    read_pending,
)
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.shared import Shared

PACKAGE = "insightdesk_rt.helpdesk.chat"

START = load_script(PACKAGE, "chat_start", PENDING_EVENTS, "chat_lib")
ACCEPT = load_script(PACKAGE, "chat_accept", PENDING_EVENTS, "chat_lib")
MESSAGE = load_script(PACKAGE, "chat_message", PENDING_EVENTS, "chat_lib")
AGAIN = load_script(PACKAGE, "chat_again", PENDING_EVENTS, "chat_lib")
STATE_AGAIN = load_script(PACKAGE, "chat_state_again", PENDING_EVENTS, "chat_lib")
READ = load_script(PACKAGE, "chat_read", PENDING_EVENTS, "chat_lib")
TRANSFER = load_script(PACKAGE, "chat_transfer", PENDING_EVENTS, "chat_lib")
CLOSE = load_script(PACKAGE, "chat_close", PENDING_EVENTS, "chat_lib")
RATE = load_script(PACKAGE, "chat_rate", PENDING_EVENTS, "chat_lib")
VIEW = load_script(PACKAGE, "chat_view", PENDING_EVENTS, "chat_lib")
MINE = load_script(PACKAGE, "chat_mine", PENDING_EVENTS, "chat_lib")
QUEUE = load_script(PACKAGE, "chat_queue", PENDING_EVENTS, "chat_lib")
PRESENT = load_script(PACKAGE, "chat_present", PENDING_EVENTS, "chat_lib")
DUE = load_script(PACKAGE, "chat_due", PENDING_EVENTS, "chat_lib")
PLACES = load_script(PACKAGE, "chat_places", PENDING_EVENTS, "chat_lib")
LIST = load_script(PACKAGE, "chat_list", PENDING_EVENTS, "chat_lib", PAGE)
STATS = load_script(PACKAGE, "chat_stats")

MAX_RECENT = 1_000  # conversations whose last change is kept here, some 2 KB each: more than change within KEEP_S
MAX_OPEN = 10  # open conversations of one customer: nobody reads more, and agents are few
MAX_MESSAGES = 10_000  # per conversation: ~3 MB; half an hour at the limit of 5 messages a second
MAX_BYTES = 2_000_000  # of one conversation's messages, as JSON
# Per customer within a day: texts and their overhead. A person types some 20 KB an hour; at the allowed rate one
# account could fill 0.6 GB an hour. Unlike rate limits it counts for all nodes together.
DAY_BYTES = 4_000_000
PAGE_BYTES = 262_144  # of JSON: the messages in one answer
MAX_PLACES = 500  # customers further back in a queue learn their place once they get this far
PREVIEW = 200  # characters of the first message that agents see before they accept
SERVER = ("", "server", "", "")  # the asking user, when the server itself acts
BACKEND = "backend"  # `via` of what a back end does
HOUSE = ("", "admin", "", "")  # the same, with access to everything

REFUSALS = {
    "many": "You have as many open conversations as you may have.",
    "full": "The conversation is as long as it may be; start another one.",
    "absent": "This agent is not here now.",
    "nobody": "Nobody of this team is here now.",
    "rated": "The conversation was rated already.",
}

_message = msgspec.json.Decoder(Message)


CHATTING = "chatting"  # the name of the PresenceStore that holds who is connected to the chat


class ChatTimes(NamedTuple):
    """The deadlines of conversations.

    `waiting_timeout_ms`: no agent took it. `idle_*`: an active one has no new message. `customer_gone_ms`: its customer
    left while it waited; `agent_gone_ms`: its agent left. Both come after the grace period of presence.
    """

    waiting_timeout_ms: int = ChatSettings().chat_waiting_timeout_s * 1000
    idle_warning_ms: int = ChatSettings().chat_idle_timeout_s * 1000 * 13 // 15
    idle_timeout_ms: int = ChatSettings().chat_idle_timeout_s * 1000
    customer_gone_ms: int = 60_000
    agent_gone_ms: int = 120_000
    kept_s: int = 30 * 86_400
    customer_mark: str = ""  # UserKeys.mark


class ChatRequest(NamedTuple):
    """What a back end does in a chat: `user` speaks in a conversation, or begins one (`conversation_id` is "").

    `customer_by_id`: a user with the id of the conversation's customer is the customer.
    """

    user: User
    client_id: str
    text: str
    conversation_id: str
    subject: str = ""
    team_id: str = ""
    customer_by_id: bool = False


class ChatStore:
    """`present` stores in the same partition who is connected to the chat: agents who can take a transfer, customers
    who left the queue.

    All methods wait for `recovered`: if Valkey lost its last second, message numbers must continue after those that
    were given out.
    """

    def __init__(
        self,
        valkey: Valkey,
        partition: Partition,
        present: PresenceStore,
        settings: ChatTimes = ChatTimes(),
        recovered: Recovered = always,
    ) -> None:
        self._valkey = valkey
        self._recovered = recovered
        self._settings = settings
        self._name = "chat"
        self._keys = [partition.key(self._name), present.base, partition.log_state]
        self._queues: Shared[Any] = Shared()
        self.pending = PendingEvents(valkey, partition, self._name)
        # Conversations after this node's last acknowledged change, the oldest first; and their first messages.
        self._recent: dict[str, tuple[float, Sequence[str]]] = {}  # time of the event loop, and the fields
        self._first: dict[str, Message] = {}

    # ── what users do; all raise RtError FORBIDDEN, UNAVAILABLE, and CONFLICT where it says so ───────────────────────

    async def start(
        self, user: User, client_id: str, subject: str = "", team_id: str = "", text: str = "", via: str = ""
    ) -> BegunConversation:
        """Begin to wait for an agent. A repeat under the same `client_id` finds the same conversation.

        `via` is BACKEND if the customer need not be connected: the conversation is then not closed as abandoned.
        CONFLICT: MAX_OPEN are open, or `client_id` was used for another request. RATE_LIMITED: DAY_BYTES.
        """
        body = _body(user, text, client_id) if text else ""
        asked = sha256(json.dumps([subject, team_id, text]).encode()).hexdigest()
        named = urlsafe_b64encode(sha256(once_of(user.id, client_id).encode()).digest()[:12]).decode()
        # "c" in front: an id must not begin with a sign, or it is refused when a client sends it back.
        new = (
            "c" + named,
            client_id,
            subject,
            team_id,
            text[:PREVIEW],
            body,
            MAX_OPEN,
            asked,
            "c" + new_id(),
            DAY_BYTES,
            via,
        )
        answer = await self._ask(START, user, *new)
        change = self._change(answer)
        if text and change.conversation.last == 1:
            author = Author(user.id, user.name, user.role)
            began = Message(1, change.conversation.created_at, author, text, client_id)
            self._first[change.conversation.id] = began
        return BegunConversation(*change, int(answer[3]))

    async def accept(self, user: User, conversation_id: str) -> ConversationChange:
        """Take a waiting conversation. CONFLICT with `state` and `agent`: another agent took it, or it is closed."""
        return self._change(await self._ask(ACCEPT, user, conversation_id))

    async def message(
        self, user: User, conversation_id: str, text: str, client_id: str, via: str = ""
    ) -> StoredMessage:
        """Store a message of a member. The same text under the same `client_id` gets the same answer.

        With `via` BACKEND, staff need not be a member.
        CONFLICT: closed, MAX_MESSAGES, MAX_BYTES, or `client_id` was used for another text. RATE_LIMITED: the customer
        has used DAY_BYTES.
        """
        once = once_of(conversation_id, "s" if user.is_staff else "c", user.id, client_id)
        own = (conversation_id, client_id, _body(user, text, client_id), MAX_MESSAGES, once, MAX_BYTES, DAY_BYTES, via)
        _, number, at, records = await self._ask(MESSAGE, user, *own)
        return StoredMessage(int(number), int(at), read_pending(self._name, conversation_id, records))

    async def carry_out(self, request: ChatRequest) -> BegunConversation | StoredMessage:
        """Do what a back end asks for. Raises RtError NOT_FOUND, and as `start` and `message`."""
        user, conversation_id = request.user, request.conversation_id
        if not conversation_id:
            subject, team_id = request.subject, request.team_id
            return await self.start(user, request.client_id, subject, team_id, request.text, BACKEND)
        customer_id = await self._valkey.command("HGET", f"{self._keys[0]}:{conversation_id}", "customerId")
        if customer_id is None:
            raise RtError("NOT_FOUND", "There is no such conversation.")
        if request.customer_by_id and user.id == customer_id:
            user = msgspec.structs.replace(user, role="customer")
        return await self.message(user, conversation_id, request.text, request.client_id, BACKEND)

    async def forget_older(self, now_s: float) -> None:
        """Forget changes that Valkey has had for KEEP_S. Call it every second. Raises RtError UNAVAILABLE."""
        await self._recovered()
        while self._recent:
            oldest = next(iter(self._recent))
            if self._recent[oldest][0] >= now_s - KEEP_S:
                break
            self._forget(oldest)

    def _forget(self, conversation_id: str) -> None:
        del self._recent[conversation_id]
        self._first.pop(conversation_id, None)

    async def put_states_again(self) -> int:
        """Store conversations and first messages again, if Valkey lost them or has them older than this node.

        Returns how many were lost. Raises RtError UNAVAILABLE.
        """
        return sum(
            await asyncio.gather(
                *(self._put_state_again(*one) for one in [(chat, fields) for chat, (_, fields) in self._recent.items()])
            )
        )

    async def _put_state_again(self, conversation_id: str, fields: Sequence[str]) -> int:
        lost = int(await self._run(STATE_AGAIN, SERVER, conversation_id, *fields))
        if first := self._first.get(conversation_id):
            await self.put_down_again(conversation_id, first)
        return lost

    async def put_down_again(self, conversation_id: str, message: Message) -> bool:
        """Store an acknowledged message again under its number, if Valkey lost it. Returns whether it was lost.

        Does nothing if there is no such conversation. If the number was given to another message in the meantime, this
        one gets the next number. Raises RtError UNAVAILABLE.
        """
        author = message.author
        who = (author.id, author.role, "", author.name)
        body = json.dumps({"author": author, "text": message.text, "clientId": message.clientId})[1:]
        own = (conversation_id, message.id, message.at, message.clientId, body)
        return bool(await self._run(AGAIN, who, *own))

    async def read(self, user: User, conversation_id: str, upto: int) -> ConversationChange:
        """Store up to which message a member has read. The mark never moves back."""
        return self._change(await self._ask(READ, user, conversation_id, upto, durable=False))

    async def transfer(
        self, user: User, conversation_id: str, agent_id: str = "", team_id: str = "", note: str = ""
    ) -> ConversationChange:
        """Hand a conversation to an agent and/or to a team. It keeps its place in the queue.

        CONFLICT: it is closed, the agent is not connected, or nobody of the other team is.
        """
        return self._change(await self._ask(TRANSFER, user, conversation_id, agent_id, team_id, note))

    async def close(self, user: User, conversation_id: str) -> ConversationChange:
        return self._change(await self._ask(CLOSE, user, conversation_id))

    async def rate(self, user: User, conversation_id: str, score: int, comment: str = "") -> ConversationChange:
        """Store the customer's rating of a closed conversation. CONFLICT: not closed yet, or rated differently before.

        RATE_LIMITED: there is a comment, and the customer has used DAY_BYTES.
        """
        return self._change(await self._ask(RATE, user, conversation_id, score, comment, DAY_BYTES))

    async def view(
        self, user: User, conversation_id: str, limit: int, before: int | None = None, limit_bytes: int = PAGE_BYTES
    ) -> StoredMessagePage:
        """Return the newest `limit` messages, or those `before` a number, and the conversation.

        There are fewer if they exceed `limit_bytes` of JSON, but always the newest one.
        """
        own = (conversation_id, "" if before is None else before, limit, limit_bytes)
        answer = await self._ask(VIEW, user, *own, durable=False)
        messages = [json.decode(_message, text) for text in reversed(answer[3])]
        return StoredMessagePage(conversation(answer[1]), messages, bool(answer[4]))

    async def get(self, conversation_id: str) -> Conversation | None:
        """Return a conversation without checking access. Raises RtError UNAVAILABLE."""
        answer = await self._call(VIEW, HOUSE, conversation_id, "", 0, 0)
        return conversation(answer[1]) if answer[0] == "ok" else None

    async def transcript(
        self, conversation_id: str, limit: int, limit_bytes: int, before: int | None = None
    ) -> StoredMessagePage | None:
        """Return the newest messages, or those `before` a number, without checking access. None: no conversation.

        There are fewer than `limit` if they exceed `limit_bytes` of JSON. Raises RtError UNAVAILABLE.
        """
        own = (conversation_id, "" if before is None else before, limit, limit_bytes)
        answer = await self._call(VIEW, HOUSE, *own, costly=True)
        if answer[0] != "ok":
            return None
        messages = [json.decode(_message, text) for text in reversed(answer[3])]
        return StoredMessagePage(conversation(answer[1]), messages, bool(answer[4]))

    async def mine(self, user: User, limit: int = 50) -> list[Conversation]:
        """Return a customer's open conversations, or those that an agent has taken, oldest first."""
        return [conversation(row) for row in await self._call(MINE, (user.id, user.role, user.team_id, ""), limit)]

    async def queue(self, user: User, limit: int = 200) -> list[Conversation]:
        """Return conversations waiting for an agent (own team and no team) or an admin (all), in queue order."""
        who = ("", user.role, "" if user.role == "admin" else user.team_id, "")
        # It reads hundreds of conversations, and after a restart all agents request it at the same time.
        rows = await self._queues.ask((who, limit), lambda: self._call(QUEUE, who, limit, costly=True))
        return sorted(map(conversation, rows), key=lambda waiting: (waiting.queued_at, waiting.id))

    async def listed(self, state: State, limit: int, after: tuple[int, str] | None = None) -> list[ConversationList]:
        """Return conversations in a state: open ones oldest first, closed ones newest first."""
        at, conversation_id = after or ("", "")
        rows = await self._call(LIST, HOUSE, state, limit, at, conversation_id)
        return [ConversationList(int(at), conversation(row)) for at, row in rows]

    # ── deadlines, and users who connect and leave ───────────────────────────────────────────────────────────────────

    async def present(self, key: str) -> list[PendingEvent]:
        """Store in a user's conversations whether the user is connected now. Returns the events to publish."""
        return self._changes(await self._call(PRESENT, SERVER, key))

    async def due(self, limit: int = 100) -> list[PendingEvent]:
        """Apply the deadlines: time out, warn, close, return to the queue. The leader calls it every second."""
        return self._changes(await self._call(DUE, SERVER, limit))

    async def places(self) -> list[QueuePlace]:
        """Return the places in queues that changed since the last call. The leader calls it every second."""
        found: list[QueuePlace] = []
        left = 1
        while left:
            left, changed = await self._call(PLACES, SERVER, MAX_PLACES, costly=True)
            found += [QueuePlace(*one) for one in changed]
        return found

    async def queue_stats(self) -> ChatQueueStats:
        return ChatQueueStats(*await self._valkey.call(STATS, self._keys[:1], []))

    # ── the scripts ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(self, run: Script, user: User, *own: Any, durable: bool = True) -> Any:
        who = (user.id, user.role, user.team_id, user.name)
        answer = await self._call(run, who, *own, durable=durable)
        if answer[0] == "ok":
            return answer
        if answer[0] == "FORBIDDEN":
            raise RtError("FORBIDDEN")
        if answer[0] == "RATE_LIMITED":
            raise RtError("RATE_LIMITED", "You have written as much as you may in a day.", retryAfter=int(answer[1]))
        _, state, agent_id, agent_name, why = answer
        if why == "used":
            raise used_before("clientId", "message or conversation")
        fields: dict[str, Any] = {"state": state} if state else {}
        if agent_id:
            fields["agent"] = {"id": agent_id, "name": agent_name}
        raise RtError("CONFLICT", REFUSALS.get(why), **fields)

    async def _call(
        self, run: Script, who: Sequence[str], *own: Any, durable: bool = False, costly: bool = False
    ) -> Any:
        await self._recovered()
        return await self._run(run, who, *own, durable=durable, costly=costly)

    async def _run(
        self, run: Script, who: Sequence[str], *own: Any, durable: bool = False, costly: bool = False
    ) -> Any:
        settings = self._settings
        clocks = (
            settings.waiting_timeout_ms,
            settings.idle_warning_ms,
            settings.idle_timeout_ms,
            settings.customer_gone_ms,
            settings.agent_gone_ms,
            settings.kept_s,
            settings.customer_mark,
        )
        return await self._valkey.call(run, self._keys, (*who, *clocks, *own), durable=durable, costly=costly)

    def _change(self, answer: Any) -> ConversationChange:
        found = conversation(answer[1])
        self._keep(found.id, answer[1][2])
        return ConversationChange(found, read_pending(self._name, found.id, answer[2]))

    def _keep(self, conversation_id: str, fields: Sequence[str]) -> None:
        self._recent.pop(conversation_id, None)
        self._recent[conversation_id] = asyncio.get_running_loop().time(), fields
        if len(self._recent) > MAX_RECENT:
            self._forget(next(iter(self._recent)))

    def _changes(self, found: Any) -> list[PendingEvent]:
        """A conversation may occur twice: its events then have the same ids, and the log takes each once."""
        return [change for subject, records in found for change in read_pending(self._name, subject, records)]


def _body(user: User, text: str, client_id: str) -> str:
    """Return a message's JSON without its number and time, which the script adds in front."""
    author = Author(user.id, user.name, user.role)
    return json.dumps({"author": author, "text": text, "clientId": client_id})[1:]

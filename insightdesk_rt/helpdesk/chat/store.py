"""Chat store: conversations, their messages, the queue they wait in, and the deadlines that the server keeps for them.

waiting → active → (waiting →) … → closed. Each change is one script. It checks who asks, stores author and time, sets
the deadlines, and stores the pending event (pending_events.py). Valkey's clock is the only clock. So of several agents
who accept at once exactly one gets the conversation, and a repeat of a request under the same `clientId` gets the same
answer.

A user who asks for a conversation that is not theirs, or does not exist, gets FORBIDDEN in both cases. Closed
conversations are kept for `kept_s`; open ones end by their deadlines. The keys are listed in lua/chat_lib.lua.

A script is called with every key it may use, and some follow from where a conversation is: its team, customer and
agent. This store reads them once and remembers them; a script that finds another place changes nothing and asks for its
keys. Lists of conversations are read in two steps: first the ids, then the conversations that still belong there.
Cost: one command per request, two for a conversation that this node does not know; the numbers of the queue are O(1).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Collection, Iterable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from insightdesk_rt.engine.cluster.names import Key, Partition
from insightdesk_rt.engine.cluster.publisher import KEEP_S
from insightdesk_rt.engine.cluster.valkey import Arg, Script, Valkey, load_script
from insightdesk_rt.engine.errors import RtError, used_before
from insightdesk_rt.engine.model import User, UserId, new_id
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
    PASSED,
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
ROWS = load_script(PACKAGE, "chat_rows", PENDING_EVENTS, "chat_lib")
PRESENT = load_script(PACKAGE, "chat_present", PENDING_EVENTS, "chat_lib")
DUE = load_script(PACKAGE, "chat_due", PENDING_EVENTS, "chat_lib")
PLACES = load_script(PACKAGE, "chat_places", PENDING_EVENTS, "chat_lib")
LIST = load_script(PACKAGE, "chat_page", PAGE)
STATS = load_script(PACKAGE, "chat_stats")

MAX_RECENT = 1_000  # conversations whose last change is kept here, some 2 KB each: more than change within KEEP_S
MAX_PLACED = 10_000  # conversations of which this node remembers team, customer and agent; 300 bytes each
MAX_ASKS = 5  # times that a script is called with further keys, while its conversation changes hands all the time
MAX_OPEN = 10  # open conversations of one customer: nobody reads more, and agents are few
MAX_MESSAGES = 10_000  # per conversation: ~3 MB; half an hour at the limit of 5 messages a second
MAX_BYTES = 2_000_000  # of one conversation's messages, as JSON
# Per customer within a day: texts and their overhead. A person types some 20 KB an hour; at the allowed rate one
# account could fill 0.6 GB an hour. Unlike rate limits it counts for all nodes together.
DAY_BYTES = 4_000_000
PAGE_BYTES = 262_144  # of JSON: the messages in one answer
MAX_PLACES = 500  # customers further back in a queue learn their place once they get this far
MAX_OPEN_READ = 1_000  # more than MAX_OPEN allows, which may have been higher
CLOSED_PAGE = 500  # closed conversations of one read: some 5 ms of Valkey
PREVIEW = 200  # characters of the first message that agents see before they accept
SERVER = ("", "server", "", "")  # the asking user, when the server itself acts
BACKEND = "backend"  # `via` of what a back end does
NOBODY = User(UserId(""), "admin")  # the user who closes a conversation if the server does
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


class Placed(NamedTuple):
    """Where a conversation is, which decides the keys that belong to it. "" means none."""

    team_id: str
    customer_id: str
    agent_id: str


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
        self._partition = partition
        self._present = present
        self._base = partition.key(self._name)
        self._bases = (self._base, present.base)
        self._queues: Shared[Any] = Shared()
        self.pending = PendingEvents(valkey, partition, self._name)
        sets = (self._own(name) for name in ("deadlines", "waiting", "waited", "moved", "active", "closed"))
        self._family = [partition.log_state, *sets, self.pending.index, present.crew, *present.agents[:3]]
        self._placed: dict[str, Placed] = {}  # the one used last at the end
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
        days = [int(time.time() // 86_400) - ago for ago in (0, 1)]  # Valkey's day may be another one: then it asks
        started = [self._own("started", user.id, str(day)) for day in days]
        keys = [*self._of(new[0]), *self._of(new[8]), self._own("queue", team_id), *started, *self._of_user(user)]
        answer = await self._ask(START, user, *new, keys=keys)
        change = self._change(answer)
        if text and change.conversation.last == 1:
            author = Author(user.id, user.name, user.role)
            began = Message(1, change.conversation.created_at, author, text, client_id)
            self._first[change.conversation.id] = began
        return BegunConversation(*change, int(answer[3]))

    async def accept(self, user: User, conversation_id: str) -> ConversationChange:
        """Take a waiting conversation. CONFLICT with `state` and `agent`: another agent took it, or it is closed."""
        return self._change(await self._ask_about(conversation_id, ACCEPT, user))

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
        keys = [*self._of(conversation_id), *self._of_user(user)]
        _, number, at, records = await self._ask(MESSAGE, user, *own, keys=keys)
        return StoredMessage(int(number), int(at), read_pending(self._name, conversation_id, records))

    async def carry_out(self, request: ChatRequest) -> BegunConversation | StoredMessage:
        """Do what a back end asks for. Raises RtError NOT_FOUND, and as `start` and `message`."""
        user, conversation_id = request.user, request.conversation_id
        if not conversation_id:
            subject, team_id = request.subject, request.team_id
            return await self.start(user, request.client_id, subject, team_id, request.text, BACKEND)
        customer_id = await self._valkey.command("HGET", self._partition.key(self._name, conversation_id), "customerId")
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
        lost = int(await self._run_about(conversation_id, STATE_AGAIN, SERVER, *fields))
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
        return bool(await self._run(AGAIN, who, *own, keys=self._of(conversation_id)))

    async def read(self, user: User, conversation_id: str, upto: int) -> ConversationChange:
        """Store up to which message a member has read. The mark never moves back."""
        return self._change(await self._ask_about(conversation_id, READ, user, upto, durable=False))

    async def transfer(
        self, user: User, conversation_id: str, agent_id: str = "", team_id: str = "", note: str = ""
    ) -> ConversationChange:
        """Hand a conversation to an agent and/or to a team. It keeps its place in the queue.

        CONFLICT: it is closed, the agent is not connected, or nobody of the other team is.
        """
        keys = [self._own("queue", team_id)]
        if agent_id:
            keys += [self._own("open", agent_id), self._present.user(agent_id)]
        return self._change(await self._ask_about(conversation_id, TRANSFER, user, agent_id, team_id, note, keys=keys))

    async def close(self, user: User, conversation_id: str) -> ConversationChange:
        return self._change(await self._ask_about(conversation_id, CLOSE, user))

    async def rate(self, user: User, conversation_id: str, score: int, comment: str = "") -> ConversationChange:
        """Store the customer's rating of a closed conversation. CONFLICT: not closed yet, or rated differently before.

        RATE_LIMITED: there is a comment, and the customer has used DAY_BYTES.
        """
        return self._change(await self._ask_about(conversation_id, RATE, user, score, comment, DAY_BYTES))

    async def view(
        self, user: User, conversation_id: str, limit: int, before: int | None = None, limit_bytes: int = PAGE_BYTES
    ) -> StoredMessagePage:
        """Return the newest `limit` messages, or those `before` a number, and the conversation.

        There are fewer if they exceed `limit_bytes` of JSON, but always the newest one.
        """
        own = ("" if before is None else before, limit, limit_bytes)
        answer = await self._ask_about(conversation_id, VIEW, user, *own, durable=False)
        messages = [json.decode(_message, text) for text in reversed(answer[3])]
        return StoredMessagePage(conversation(answer[1]), messages, bool(answer[4]))

    async def get(self, conversation_id: str) -> Conversation | None:
        """Return a conversation without checking access. Raises RtError UNAVAILABLE."""
        await self._recovered()
        answer = await self._run_about(conversation_id, VIEW, HOUSE, "", 0, 0)
        return conversation(answer[1]) if answer[0] == "ok" else None

    async def transcript(
        self, conversation_id: str, limit: int, limit_bytes: int, before: int | None = None
    ) -> StoredMessagePage | None:
        """Return the newest messages, or those `before` a number, without checking access. None: no conversation.

        There are fewer than `limit` if they exceed `limit_bytes` of JSON. Raises RtError UNAVAILABLE.
        """
        await self._recovered()
        own = ("" if before is None else before, limit, limit_bytes)
        answer = await self._run_about(conversation_id, VIEW, HOUSE, *own, costly=True)
        if answer[0] != "ok":
            return None
        messages = [json.decode(_message, text) for text in reversed(answer[3])]
        return StoredMessagePage(conversation(answer[1]), messages, bool(answer[4]))

    async def mine(self, user: User, limit: int = 50) -> list[Conversation]:
        """Return a customer's open conversations, or those that an agent has taken, oldest first."""
        await self._recovered()
        ids = await self._valkey.command("ZRANGE", self._own("open", self._key_of(user)), 0, limit - 1)
        return await self._rows((user.id, user.role, user.team_id, ""), "mine", ids)

    async def queue(self, user: User, limit: int = 200) -> list[Conversation]:
        """Return conversations waiting for an agent (own team and no team) or an admin (all), in queue order."""
        who = ("", user.role, "" if user.role == "admin" else user.team_id, "")
        # It reads hundreds of conversations, and after a restart all agents request it at the same time.
        found = await self._queues.ask((who, limit), lambda: self._queue(who, limit))
        return sorted(found, key=lambda waiting: (waiting.queued_at, waiting.id))

    async def _queue(self, who: Sequence[str], limit: int) -> list[Conversation]:
        await self._recovered()
        if who[1] == "admin":
            queues = [self._own("waiting")]
        else:
            queues = [self._own("queue", team) for team in sorted({"", who[2]})]
        lists = await asyncio.gather(*(self._valkey.command("ZRANGE", key, 0, limit - 1) for key in queues))
        return await self._rows(who, "waiting", list(itertools.chain.from_iterable(lists)), queues, costly=True)

    async def listed(self, state: State, limit: int, after: tuple[int, str] | None = None) -> list[ConversationList]:
        """Return conversations in a state: open ones oldest first, closed ones newest first."""
        await self._recovered()
        at, conversation_id = after or ("", "")
        args: list[Arg] = [int(state == "closed"), limit, at, conversation_id]
        flat = await self._valkey.call(LIST, [self._own(state)], args)
        times = dict(zip(flat[::2], map(int, flat[1::2]), strict=True))
        return [ConversationList(times[one.id], one) for one in await self._rows(HOUSE, "", list(times))]

    async def _rows(
        self, who: Sequence[str], which: str, ids: Sequence[str], keys: Collection[Key] = (), costly: bool = False
    ) -> list[Conversation]:
        """Return those of these conversations that still belong to a list (lua/chat_rows.lua), in their order."""
        if not ids:
            return []
        hashes = [self._partition.key(self._name, one) for one in ids]
        rows = await self._run(ROWS, who, which, *ids, keys=[*hashes, *keys], costly=costly)
        return [conversation(row) for row in rows]

    # ── deleting what is kept of a customer; all raise RtError UNAVAILABLE ───────────────────────────────────────────

    async def close_all_of(self, customer: User) -> list[PendingEvent]:
        """Close a customer's open conversations, whoever is in them. Returns the events to publish."""
        found: list[PendingEvent] = []
        for one in await self.mine(customer, MAX_OPEN_READ):
            if one.customer_id == customer.id:
                found += (await self.close(NOBODY, one.id)).pending
        return found

    async def closed_of(self, customer: User) -> list[str]:
        """Return the ids of a customer's closed conversations. Reads all closed ones, a page at a time."""
        found, after = list[str](), None
        while page := await self.listed("closed", CLOSED_PAGE, after):
            found += [one.conversation.id for one in page if one.conversation.customer_id == customer.id]
            after = (page[-1].at, page[-1].conversation.id)
        return found

    async def forget_conversation(self, conversation_id: str) -> int:
        """Delete a closed conversation; return the number of its messages."""
        if conversation_id in self._recent:
            self._forget(conversation_id)
        conversation_key, messages, sent, _ = self._of(conversation_id)
        count, *_ = await self._valkey.in_order(
            ("XLEN", messages),
            ("ZREM", self._own("closed"), conversation_id),
            ("DEL", conversation_key, messages, sent, self._own("live", conversation_id)),
        )
        return int(count)

    async def forget_customer(self, customer: User) -> None:
        """Delete what counts a customer's bytes and knows their clientIds."""
        day = self._own("day", customer.id)
        time = await self._valkey.command("TIME", near=day)
        today = int(time[0]) // 86_400
        started = [self._own("started", customer.id, str(today - ago)) for ago in range(3)]
        await self._valkey.command("DEL", day, *started)

    # ── deadlines, and users who connect and leave ───────────────────────────────────────────────────────────────────

    async def present(self, key: str) -> list[PendingEvent]:
        """Store in a user's conversations whether the user is connected now. Returns the events to publish."""
        await self._recovered()
        ids = await self._valkey.command("ZRANGE", self._own("open", key), 0, -1)
        return await self._events((one, self._run_about(one, PRESENT, SERVER, key)) for one in ids)

    async def due(self, limit: int = 100) -> list[PendingEvent]:
        """Apply the deadlines: time out, warn, close, return to the queue. The leader calls it every second."""
        await self._recovered()
        passed = await self._valkey.call(PASSED, [self._own("deadlines")], [0, limit])
        entries = [entry.partition(":") for entry in passed]
        return await self._events((one, self._run_about(one, DUE, SERVER, kind)) for kind, _, one in entries)

    async def _events(self, changes: Iterable[tuple[str, Awaitable[list[str]]]]) -> list[PendingEvent]:
        """Return the events of changes, given as conversation id and the call that returns its records.

        A conversation may occur twice: its events then have the same ids, and the log takes each once. If a call
        fails, the events of the others stay pending. Raises RtError UNAVAILABLE.
        """
        ids, calls = zip(*pairs, strict=True) if (pairs := list(changes)) else ((), ())
        found = zip(ids, await asyncio.gather(*calls), strict=True)
        return [event for one, records in found for event in read_pending(self._name, one, records)]

    async def places(self) -> list[QueuePlace]:
        """Return the places in queues that changed since the last call. The leader calls it every second."""
        await self._recovered()
        found: list[QueuePlace] = []
        while (team := await self._valkey.command("SPOP", self._own("moved"))) is not None:
            queue = self._own("queue", team)
            ids = await self._valkey.command("ZRANGE", queue, 0, MAX_PLACES - 1)
            if ids:
                keys = [queue, *(self._partition.key(self._name, one) for one in ids)]
                changed = await self._run(PLACES, SERVER, team, *ids, keys=keys, costly=True)
                found += [QueuePlace(*one) for one in changed]
        return found

    async def queue_stats(self) -> ChatQueueStats:
        keys = [self._own(name) for name in ("waiting", "waited", "active")]
        return ChatQueueStats(*await self._valkey.call(STATS, keys, []))

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _own(self, name: str, *ids: str) -> Key:
        return self._partition.key(f"{self._name}-{name}", *ids)

    def _of(self, conversation_id: str) -> list[Key]:
        """The keys that every change of a conversation may use."""
        messages, sent = self._own("messages", conversation_id), self._own("sent", conversation_id)
        return [self._partition.key(self._name, conversation_id), messages, sent, self.pending.of(conversation_id)]

    def _key_of(self, user: User) -> str:
        return self._settings.customer_mark + user.id if user.role == "customer" else user.id

    def _of_user(self, user: User) -> list[Key]:
        """The keys of the user who asks."""
        key = self._key_of(user)
        return [self._own("day", user.id), self._own("open", key), self._present.user(key)]

    async def _of_place(self, conversation_id: str) -> list[Key]:
        """The keys that follow from where a conversation is. Raises RtError UNAVAILABLE."""
        placed = self._placed.get(conversation_id)
        if placed is None:
            names = ("teamId", "customerId", "agentId")
            found = await self._valkey.command("HMGET", self._partition.key(self._name, conversation_id), *names)
            placed = Placed(*(text or "" for text in found))
            if not placed.customer_id:
                return []  # there is no such conversation
            self._remember(conversation_id, placed)
        people = [self._settings.customer_mark + placed.customer_id, *([placed.agent_id] if placed.agent_id else [])]
        own = [key for one in people for key in (self._own("open", one), self._present.user(one))]
        return [self._own("queue", placed.team_id), *own]

    def _remember(self, conversation_id: str, placed: Placed) -> None:
        self._placed.pop(conversation_id, None)
        self._placed[conversation_id] = placed
        if len(self._placed) > MAX_PLACED:
            del self._placed[next(iter(self._placed))]

    # ── the scripts ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask_about(
        self, conversation_id: str, run: Script, user: User, *own: Any, keys: Collection[Key] = (), durable: bool = True
    ) -> Any:
        await self._recovered()
        all_keys = [*self._of(conversation_id), *self._of_user(user), *keys, *await self._of_place(conversation_id)]
        return await self._ask(run, user, conversation_id, *own, keys=all_keys, durable=durable)

    async def _ask(self, run: Script, user: User, *own: Any, keys: Collection[Key], durable: bool = True) -> Any:
        who = (user.id, user.role, user.team_id, user.name)
        await self._recovered()
        answer = await self._run(run, who, *own, keys=keys, durable=durable)
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

    async def _run_about(
        self, conversation_id: str, run: Script, who: Sequence[str], *own: Any, costly: bool = False
    ) -> Any:
        keys = [*self._of(conversation_id), *await self._of_place(conversation_id)]
        return await self._run(run, who, conversation_id, *own, keys=keys, costly=costly)

    async def _run(
        self,
        run: Script,
        who: Sequence[str],
        *own: Any,
        keys: Collection[Key],
        durable: bool = False,
        costly: bool = False,
    ) -> Any:
        """Run a script; with further keys, if it asks for them. Raises RtError UNAVAILABLE."""
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
        args, declared = (*self._bases, *who, *clocks, *own), [*self._family, *keys]
        for _ in range(MAX_ASKS):
            answer = await self._valkey.call(run, declared, args, durable=durable, costly=costly)
            if not (isinstance(answer, list) and answer and answer[0] == "KEYS"):
                return answer
            declared += map(Key, answer[1:])
            self._placed.pop(str(own[0]), None)  # another node has changed where the conversation is
        raise RtError("UNAVAILABLE")

    def _change(self, answer: Any) -> ConversationChange:
        found = conversation(answer[1])
        self._remember(found.id, Placed(found.team_id, found.customer_id, found.agent_id))
        self._keep(found.id, answer[1][2])
        return ConversationChange(found, read_pending(self._name, found.id, answer[2]))

    def _keep(self, conversation_id: str, fields: Sequence[str]) -> None:
        self._recent.pop(conversation_id, None)
        self._recent[conversation_id] = asyncio.get_running_loop().time(), fields
        if len(self._recent) > MAX_RECENT:
            self._forget(next(iter(self._recent)))


def _body(user: User, text: str, client_id: str) -> str:
    """Return a message's JSON without its number and time, which the script adds in front."""
    author = Author(user.id, user.name, user.role)
    return json.dumps({"author": author, "text": text, "clientId": client_id})[1:]

"""The namespace /chat: a customer asks, waits, and talks with an agent. The server owns every step and all deadlines.

waiting → active → (waiting →) … → closed. Rooms: chat:<id> for all who have a conversation open, chat-staff:<id> for
the agents among them. store.py holds the facts and the access rules, events.py the payloads; feed.py decides which
event goes to whom. A change is stored before its event is published (pending_events.py). An answer "ok" means that the
log has the events. After UNAVAILABLE the same request again, or the node that leads, logs what is missing; nothing is
done twice.

A customer whose last connection is gone keeps the place in the queue for a minute; then the conversation is closed as
"abandoned". An agent who is gone for two minutes loses the conversation to the queue, where it gets its old place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from insightdesk_rt.engine.dispatch.namespace import (
    PAGE,
    STAFF,
    TYPING,
    Context,
    Living,
    Namespace,
    Rate,
    Route,
    Tell,
    Timers,
    event,
    every,
    tell_nobody,
)
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub import hub as hubs
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import (
    NO_OFFSET,
    Event,
    Offset,
    Right,
    Role,
    Room,
    User,
    UserId,
    UserKey,
    UserKeys,
    chat_room,
    chat_staff_room,
    named,
    unix_ms,
    user_room,
)
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.chat import events as payloads
from insightdesk_rt.helpdesk.chat.conversation import BegunConversation, ConversationChange, Message, StoredMessage
from insightdesk_rt.helpdesk.chat.feed import ChatFeed
from insightdesk_rt.helpdesk.chat.reports import CHAT_REPORTS, ChatReports
from insightdesk_rt.helpdesk.chat.settings import ChatSettings
from insightdesk_rt.helpdesk.chat.store import CHATTING, ChatRequest, ChatStore, ChatTimes
from insightdesk_rt.helpdesk.event_relay import EventRelay, Together, revoke_then_publish
from insightdesk_rt.helpdesk.pages import parts
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.presence.connected_users import ConnectedUsers
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.typing_indicators import TYPING_MS, ShownTyping, TypingIndicators
from insightdesk_rt.helpdesk.viewer_store import ViewerStore

RECENT = 50  # messages sent with a conversation; chat:history returns the rest
AGAIN_BATCH = 500  # messages stored again at once
# A stock client keeps what was typed while it was offline, and sends all of it at once when it is back.
MESSAGES = Rate(5, per_s=1, burst=30)
CUSTOMERS: frozenset[Role] = frozenset({"customer"})
CHAT_ROOM = chat_room("")
# The user's other devices do not get it: there the user would see their own typing.
SHOWN = ShownTyping(
    payloads.ChatTyping,
    lambda conversation_id, who: payloads.ChatStopTyping(conversation_id, who.user_id, who.customer_id),
    chat_room,
    lambda key, sid: (user_room(key),),
)


_read_message = msgspec.json.Decoder(payloads.ChatMessage)


class Chat(Namespace):
    """`present`: who is connected to the chat; `typing`: who types; `incarnation`: this node's present life.

    `recheck_on_all_nodes` calls `recheck_access` on every node; None: this is the only node.
    """

    path = "/chat"
    settings = ChatSettings
    reports = CHAT_REPORTS
    facts = frozenset({payloads.ChatMessage.event})

    def __init__(
        self,
        hub: Hub,
        timers: Timers,
        store: ChatStore,
        present: PresenceStore,
        typing: ViewerStore,
        incarnation: Callable[[], str],
        *,
        typing_ms: int = TYPING_MS,
        keys: UserKeys = UserKeys(),
        fenced: Callable[[str], None] = lambda incarnation: None,
        recheck_on_all_nodes: Callable[[str, Offset], Awaitable[object]] | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        super().__init__(hub, timers)
        self.store = store
        self._typing = TypingIndicators(self, typing, SHOWN, typing_ms)
        self._keys = keys
        self._feed = ChatFeed(self, keys)
        tell_of, together = ChatReports(store, tell).tell, Together(self._events, hub.append_all)
        self._relay = EventRelay(store.pending, self._publish_event, self.spawn, self._revoke, tell_of, together)
        self._arrivals = EventRelay(present.pending, self._publish_presence, self.spawn)
        self.connected_users = ConnectedUsers(present, incarnation, self._arrivals, fenced)
        self._incarnation = incarnation
        self._rechecked_as = incarnation()
        self._recheck_on_all_nodes = recheck_on_all_nodes or self.recheck_access

    @classmethod
    def build(cls, context: Context) -> Chat:
        settings, keys = context.settings.of(ChatSettings), context.settings.user_keys
        idle_ms = settings.chat_idle_timeout_s * 1000
        # Connected to the chat is not the same as online: an agent may be one without the other.
        partition = context.valkey.names.namespace(cls.path)
        present = PresenceStore(context.valkey, partition, settings.presence_grace_ms, CHATTING)
        rules = ChatTimes(
            waiting_timeout_ms=settings.chat_waiting_timeout_s * 1000,
            idle_warning_ms=idle_ms * 13 // 15,
            idle_timeout_ms=idle_ms,
            customer_mark=keys.mark,
        )
        return cls(
            context.hub,
            context.timers,
            ChatStore(context.valkey, partition, present, rules, partial(context.recovered, cls.path)),
            present,
            ViewerStore(context.valkey, partition, context.incarnation, "chat"),
            context.incarnation,
            typing_ms=settings.typing_ms,
            keys=keys,
            fenced=context.fenced,
            recheck_on_all_nodes=partial(context.calls.recheck_on_all_nodes, cls.path),
            tell=context.tell,
        )

    def routes(self, api: Any) -> Iterable[Route]:
        # Not imported above: emitters import the table of features, and run where there is no Tornado.
        from insightdesk_rt.helpdesk.chat.pushes import ChatPushes
        from insightdesk_rt.helpdesk.chat.routes import chat_routes

        return chat_routes(api, self.store, self.publish_change, ChatPushes(self.carry_out_all, self._keys))

    async def still_allowed(
        self, user: User, rooms: Collection[Room], starts: Mapping[Room, Right] = {}
    ) -> Collection[Room]:
        """Keep the rooms of conversations that the user may see now, and could see during the whole absence."""
        kept = []
        for room in rooms:
            _, _, conversation_id = room.partition(":")
            if room in (chat_room(conversation_id), chat_staff_room(conversation_id)):
                conversation = await self.store.get(conversation_id)
                if conversation is None or not conversation.may_see(user):
                    continue
                began = starts.get(chat_room(conversation_id), Right())
                if began.life not in ("", conversation.right_of(user).life):
                    continue  # it was another agent's in the meantime
            kept.append(room)
        return kept

    def notify_lost_rooms(self, socket: Socket, rooms: Collection[Room]) -> None:
        if rooms:
            socket.emit("resync", json.dumps({"rooms": sorted(rooms)}))

    async def joined(self, socket: Socket) -> None:
        """Send the user's open conversations, and the queue to staff. Check the rooms of a session that came back."""
        await self.connected_users.add(socket)
        try:
            for conversation_id in conversations(socket):
                await self._remove_unauthorized(conversation_id)
        except RtError:  # access is unknown: the client reconnects, and is checked then
            socket.client.close(CloseReason.UNAVAILABLE)
            return
        for conversation in await self.store.mine(socket.user):
            await socket.room()
            self.tell(socket, payloads.ChatOpened(payloads.view(conversation, socket.user.is_staff)))
        if socket.user.is_staff:
            await self._show_queue(socket)

    async def left(self, socket: Socket, why: CloseReason) -> None:
        for conversation_id in conversations(socket):
            self._typing.stop(socket, conversation_id)
        await self.connected_users.remove(socket)

    # ── the life of a conversation ───────────────────────────────────────────────────────────────────────────────────

    @event("chat:start", allow=CUSTOMERS, limit=Rate(20, per_s=60))
    async def start(self, socket: Socket, ask: payloads.StartChat) -> payloads.ChatStarted:
        """Begin to wait for an agent, of a team or of any. CONFLICT: the customer has too many open conversations."""
        change = await self.store.start(socket.user, ask.clientId, ask.subject, ask.teamId or "", ask.text or "")
        await self._enter(socket, change.conversation.id)
        await self._relay.publish_or_raise(change.pending)
        return payloads.ChatStarted(change.conversation.id, change.conversation.position, change.agents_here)

    @event("chat:join", limit=PAGE)
    async def join(self, socket: Socket, ask: payloads.JoinChat) -> payloads.ChatJoined:
        """Open a conversation. FORBIDDEN unless it is the customer's, the agent's, or one that the agent may take."""
        joined = await self._enter(socket, ask.conversationId, Offset(ask.since) if ask.since else None)
        try:
            # After the join, so that no message is missing from both, and lost access is noticed.
            page = await self._page(socket, ask.conversationId)
        except BaseException:
            self._take_out(socket, ask.conversationId)
            raise
        answer = payloads.JoinedConversation(ask.conversationId, joined.offset)
        self.tell_joined(socket, answer.event, json.encode_struct(answer))
        if not joined.complete:
            socket.emit("resync", json.dumps({"rooms": [chat_room(ask.conversationId)]}))
        return payloads.ChatJoined(page.conversation, page.messages, joined.offset, joined.complete, page.more)

    @event("chat:leave", limit=PAGE)
    def leave(self, socket: Socket, ask: payloads.InConversation) -> None:
        """Close a conversation on this device. Idempotent."""
        self._typing.stop(socket, ask.conversationId)
        self._take_out(socket, ask.conversationId)

    @event("chat:accept", allow=STAFF)
    async def accept(self, socket: Socket, ask: payloads.InConversation) -> payloads.ChatAccepted:
        """Take a waiting conversation. Exactly one agent gets it; the others get CONFLICT with that `agent`."""
        change = await self.store.accept(socket.user, ask.conversationId)
        was_in = chat_room(ask.conversationId) in socket.rooms
        try:
            await self._enter(socket, ask.conversationId)
            await self._relay.publish_or_raise(change.pending)
            return await self._page(socket, ask.conversationId)
        except RtError as refused:  # it was taken away meanwhile, or the client does not know that it is in
            if not was_in or refused.code == "FORBIDDEN":
                self._take_out(socket, ask.conversationId)
            raise

    @event("chat:transfer", allow=STAFF)
    async def transfer(self, socket: Socket, ask: payloads.TransferChat) -> payloads.ChatChanged:
        """Hand a conversation to a connected agent, or to the queue of a team that has one. It keeps its place.

        A note is for staff. CONFLICT: the agent, or nobody of the team, is connected; or it is closed.
        """
        if not ask.agentId and not ask.teamId:
            raise RtError("BAD_REQUEST", "An agentId or a teamId is needed.", field="agentId")
        change = await self.store.transfer(
            socket.user, ask.conversationId, ask.agentId or "", ask.teamId or "", ask.note
        )
        await self._relay.publish_or_raise(change.pending)
        return payloads.ChatChanged(payloads.view(change.conversation, True))

    @event("chat:close")
    async def end(self, socket: Socket, ask: payloads.InConversation) -> payloads.ChatChanged:
        """End a conversation. Its customer, its agent and admins may; while it waits, any agent who may take it."""
        self._typing.stop(socket, ask.conversationId)
        change = await self.store.close(socket.user, ask.conversationId)
        await self._relay.publish_or_raise(change.pending)
        return payloads.ChatChanged(payloads.view(change.conversation, socket.user.is_staff))

    @event("chat:rate", allow=CUSTOMERS)
    async def rate(self, socket: Socket, ask: payloads.RateChat) -> None:
        """Rate a closed conversation, once. CONFLICT: it is not closed, or was rated differently."""
        change = await self.store.rate(socket.user, ask.conversationId, ask.score, ask.comment)
        await self._relay.publish_or_raise(change.pending)

    async def publish_change(self, change: ConversationChange) -> payloads.ConversationView:
        """Log the events of a change that was made through `store`; return the conversation as staff see it.

        Raises RtError UNAVAILABLE; the same change again logs what is missing.
        """
        await self._relay.publish_or_raise(change.pending)
        return payloads.view(change.conversation, True)

    async def carry_out_all(self, requests: Sequence[ChatRequest]) -> list[BegunConversation | StoredMessage | RtError]:
        """Do what a back end asks for, and publish it together. Returns the result of each, or its error.

        Requests for one conversation, and new conversations of one customer, are done in their order.
        """
        found: list[Any] = [None] * len(requests)
        orders: dict[tuple[str, str], list[int]] = {}
        for number, one in enumerate(requests):
            orders.setdefault((one.conversation_id, "" if one.conversation_id else one.user.key), []).append(number)

        async def in_order(numbers: Sequence[int]) -> None:
            for number in numbers:
                try:
                    found[number] = await self.store.carry_out(requests[number])
                except RtError as refused:
                    found[number] = refused

        await asyncio.gather(*map(in_order, orders.values()))
        stored = [number for number, one in enumerate(found) if not isinstance(one, RtError)]
        published = await self._relay.publish_all([found[number].pending for number in stored])
        for number, result in zip(stored, published, strict=True):
            if isinstance(result, RtError):
                found[number] = result
        return found

    # ── talk ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @event(payloads.ChatMessage.event, limit=MESSAGES)
    async def message(self, socket: Socket, ask: payloads.SendMessage) -> payloads.MessageAccepted:
        """Send a message. CONFLICT: the conversation is closed. The same clientId again gets the same answer."""
        self._typing.stop(socket, ask.conversationId)
        message = await self.store.message(socket.user, ask.conversationId, ask.text, ask.clientId)
        await self._relay.publish_or_raise(message.pending)
        return payloads.MessageAccepted(message.id, payloads.at(message.at))

    @event(payloads.ReadUpTo.event, limit=PAGE)
    async def read(self, socket: Socket, ask: payloads.MarkChatRead) -> None:
        """Mark everything up to a message as read, and show it to the others. The mark never moves back."""
        change = await self.store.read(socket.user, ask.conversationId, ask.upTo)
        await self._relay.publish_or_raise(change.pending)

    @event("chat:history", limit=PAGE)
    async def history(self, socket: Socket, ask: payloads.ReadHistory) -> payloads.MessagePage:
        """Return the messages before a message, in order. `more`: there are older ones."""
        page = await self.store.view(socket.user, ask.conversationId, ask.limit, ask.before, self.hub.page_bytes)
        return payloads.MessagePage([payloads.message_view(message) for message in page.messages], page.more)

    @event(payloads.ChatTyping.event, limit=TYPING)
    def typing(self, socket: Socket, ask: payloads.InConversation) -> None:
        """Show the others that the user types, until five seconds after the last call."""
        self.require_joined(socket, chat_room(ask.conversationId))
        self._typing.start(socket, ask.conversationId, self._timers.now_ms())

    @event(payloads.ChatStopTyping.event, limit=PAGE)
    def stop_typing(self, socket: Socket, ask: payloads.InConversation) -> None:
        """Stop showing that the user types."""
        self.require_joined(socket, chat_room(ask.conversationId))
        self._typing.stop(socket, ask.conversationId)

    # ── rooms ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _enter(self, socket: Socket, conversation_id: str, since: Offset | None = None) -> hubs.JoinResult:
        """Join the conversation's rooms. Raises RtError FORBIDDEN if the user may not see it, TOO_MANY_ROOMS,
        UNAVAILABLE."""
        rooms = [chat_room(conversation_id)]
        if socket.user.is_staff:
            rooms.append(chat_staff_room(conversation_id))

        async def check_and_join(unchanged: Callable[[], bool]) -> hubs.JoinResult:
            seen = await self.store.view(socket.user, conversation_id, 0)
            right = seen.conversation.right_of(socket.user)
            return await self.hub.join_all(socket, rooms, since, right, unchanged)

        return await self.rechecks.join(rooms, check_and_join)

    def _take_out(self, socket: Socket, conversation_id: str) -> None:
        self.hub.leave(socket, chat_room(conversation_id))
        self.hub.leave(socket, chat_staff_room(conversation_id))

    async def recheck_access(self, conversation_id: str, offset: Offset = NO_OFFSET) -> int:
        """Remove this node's sockets that may not read the conversation any more, after the event at `offset`.

        Returns how many were removed. Raises RtError UNAVAILABLE if Valkey cannot say who may read it.
        """
        self.rechecks.note(chat_room(conversation_id))
        await self.hub.until_delivered(self.path, offset)
        return await self._remove_unauthorized(conversation_id)

    async def _remove_unauthorized(self, conversation_id: str) -> int:
        room = chat_room(conversation_id)
        if room not in self.hub.rooms(self.path):
            return 0
        conversation = await self.store.get(conversation_id)
        members = list(self.hub.members(self.path, room))
        removed = [one for one in members if conversation is None or not conversation.may_see(one.user)]
        for socket in removed:
            rooms = {room, chat_staff_room(conversation_id)} & socket.rooms
            self._take_out(socket, conversation_id)
            self._typing.stop(socket, conversation_id)
            self.notify_lost_rooms(socket, rooms)
        return len(removed)

    # ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _page(self, socket: Socket, conversation_id: str) -> payloads.ChatAccepted:
        page = await self.store.view(socket.user, conversation_id, RECENT, limit_bytes=self.hub.page_bytes)
        messages = [payloads.message_view(message) for message in page.messages]
        return payloads.ChatAccepted(payloads.view(page.conversation, socket.user.is_staff), messages, page.more)

    async def _show_queue(self, socket: Socket) -> None:
        """Send the queue, a long one in parts.

        Send it again if it changed while it was read: the event of that change may have reached the client before.
        """
        shown = None
        while (entries := [payloads.queue_entry(waiting) for waiting in await self.store.queue(socket.user)]) != shown:
            for number, part in enumerate(parts(entries, self.hub.page_bytes)):
                await socket.room()
                self.tell(socket, payloads.ChatQueue(added=part) if number else payloads.ChatQueue(waiting=part))
            shown = entries

    async def _events(self, change: PendingEvent) -> list[Event] | None:
        """Return the events of a change, None for a transfer: access is taken away before it is published."""
        return None if change.kind == "transferred" else self._feed.events(change)

    async def _publish_event(self, change: PendingEvent) -> None:
        if change.kind != "transferred":
            await self._feed.publish(change)
            return

        async def publish() -> Offset:
            conversation = await self.store.get(change.subject)
            return await self._feed.publish(change, conversation.agent_id if conversation else "")

        # Both before the event counts as published: if this node dies now, the next one to publish it takes access too.
        await revoke_then_publish(lambda: self._recheck_on_all_nodes(change.subject, NO_OFFSET), publish)

    async def _revoke(self, change: PendingEvent) -> None:
        if change.kind == "transferred":
            await self._recheck_on_all_nodes(change.subject, NO_OFFSET)

    async def _publish_presence(self, change: PendingEvent) -> None:
        """Publish in a user's conversations that the user connected or left."""
        await self._relay.publish(await self.store.present(change.subject))

    async def forget(self, key: UserKey) -> Mapping[str, int]:
        """Close and delete the conversations of which the user is the customer.

        What the user said as an agent stays in other customers' conversations, for as long as these are kept.
        """
        who = named(key)
        await self.connected_users.forget(key)
        if self._keys.separate and not who.customer:
            return {"conversations": 0, "messages": 0}
        customer = User(UserId(who.id), "customer", separate_ids=self._keys.separate)
        closed = await self.store.close_all_of(customer)
        for result in await self._relay.publish_all([[change] for change in closed]):
            if isinstance(result, RtError):
                raise result
        found = await self.store.closed_of(customer)
        counts = [await self.store.forget_conversation(conversation_id) for conversation_id in found]
        await self.store.forget_customer(customer)
        return {"conversations": len(found), "messages": sum(counts)}

    # ── deadlines and other nodes ────────────────────────────────────────────────────────────────────────────────────

    @every(1_000, on="leader")
    async def clocks(self) -> None:
        """Apply the deadlines, publish new places in queues, and publish events that other nodes left pending."""
        await self._relay.publish(await self.store.due())
        for place in await self.store.places():
            self.publish(
                payloads.ChatQueued(place.conversation_id, place.position),
                user_room(self._keys.customer(place.customer_id)),
            )
        await self._arrivals.publish_overdue()
        await self._relay.publish_overdue()

    @every(1_000)
    async def reconcile(self) -> None:
        await self.connected_users.reconcile()
        await self.connected_users.sweep()
        await self.store.forget_older(asyncio.get_running_loop().time())

    async def put_down_again(self, events: Sequence[Event]) -> None:
        """Store conversations again as this node left them, and their messages under the same numbers."""
        await self.store.put_states_again()
        for start in range(0, len(events), AGAIN_BATCH):
            # One pipeline: sent in this order, and done in this order.
            await asyncio.gather(*(self._put_down_again(one) for one in events[start : start + AGAIN_BATCH]))

    async def _put_down_again(self, event: Event) -> None:
        sent = json.decode(_read_message, event.payload)
        message = Message(sent.id, unix_ms(sent.at), sent.author, sent.text, sent.clientId)
        await self.store.put_down_again(sent.conversationId, message)

    async def re_register(self) -> None:
        """Store again which users are connected here: Valkey lost it, or this node has a new incarnation."""
        await self.connected_users.re_register()
        if self._rechecked_as != (incarnation := self._incarnation()):
            # While this node counted as dead, no transfer waited for it.
            for room in list(self.hub.rooms(self.path).names()):
                if room.startswith(CHAT_ROOM):
                    await self.recheck_access(room.removeprefix(CHAT_ROOM))
            self._rechecked_as = incarnation

    async def node_lost(self, incarnation: str) -> None:
        """Clear what a dead node held, as in Presence.node_lost. Raises RtError UNAVAILABLE: call it again."""
        await self.connected_users.node_lost(incarnation)
        await self._typing.node_lost(incarnation)

    async def reap_all_except(self, living: Living) -> None:
        """See Presence.reap_all_except."""
        await self.connected_users.reap_all_except(living)


def conversations(socket: Socket) -> list[str]:
    """Return the ids of the conversations that the socket has (or had) open."""
    return [room.removeprefix(CHAT_ROOM) for room in socket.rooms if room.startswith(CHAT_ROOM)]

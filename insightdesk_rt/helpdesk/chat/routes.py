"""HTTP routes of the chat, for admins and back ends.

GET  /api/v1/chats                  conversations in one state, in pages
POST /api/v1/chats                  start one for a customer
GET  /api/v1/chats/{id}/messages    its transcript, in pages
POST /api/v1/chats/{id}/messages    speak in it
GET  /api/v1/chats/{id}             one conversation
POST /api/v1/chats/{id}/close       end it
POST /api/v1/chats/{id}/requeue     let it wait for another agent
POST /api/v1/chats/{id}/assign      give it to an agent

Clients get the same events as if an admin had done it in a client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from msgspec import Meta

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.operation import Answer, Change, Query
from insightdesk_rt.api.paging import Page, Paged, cut, read_cursor
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import ConversationId, TeamIdText, UserIdText
from insightdesk_rt.engine.model import User, UserId
from insightdesk_rt.helpdesk.chat.conversation import ConversationChange, State
from insightdesk_rt.helpdesk.chat.events import (
    MAX_HISTORY,
    ConversationView,
    MessageAccepted,
    MessageId,
    MessagePage,
    message_view,
    view,
)
from insightdesk_rt.helpdesk.chat.pushes import BeginChatBody, ChatBegun, ChatPushes, SpeakBody
from insightdesk_rt.helpdesk.chat.store import ChatStore

BY_KEY = User(UserId("key:"), "admin", "Support")  # no user has this id; the audit log says which key it was


Publish = Callable[[ConversationChange], Awaitable[ConversationView]]


class FindChats(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: State = "waiting"


class FindMessages(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    before: Annotated[MessageId | None, Meta(description="the number of a message; without it the newest ones")] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_HISTORY)] = 50


class Requeue(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    teamId: Annotated[TeamIdText | None, Meta(description="another team's queue")] = None


class Assign(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    agentId: UserIdText


class ChatsHandler(Handler):
    store: ChatStore
    pushes: ChatPushes

    @operation("viewer", query=FindChats, answer=Page[ConversationView])
    async def get(self, query: FindChats) -> Answer:
        """Return conversations in one state: waiting and active ones oldest first, closed ones newest first."""
        after = read_cursor(query.cursor, tuple[int, str])
        found = await self.store.listed(query.state, query.limit + 1, after)
        shown, cursor = cut(found, query.limit, lambda one: (one.at, one.conversation.id))
        return Answer(Page([view(one.conversation, True) for one in shown], cursor))

    @operation("publisher", body=BeginChatBody, answer=ChatBegun, statuses=(201,), errors=("CONFLICT", "RATE_LIMITED"))
    async def post(self, body: BeginChatBody) -> Answer:
        """Start a conversation for a customer, who need not be connected. It waits for an agent.

        The same request again finds the same conversation. CONFLICT: another request had the same `clientId`, or the
        customer has as many open conversations as one may have.
        """
        return Answer(await self.pushes.carry_out(self.pushes.begin(self.asker, body)), 201)


class MessagesHandler(Handler):
    store: ChatStore
    pushes: ChatPushes

    @operation("viewer", query=FindMessages, answer=MessagePage, errors=("NOT_FOUND",))
    async def get(self, conversation_id: ConversationId, query: FindMessages) -> Answer:
        """Return the newest messages of a conversation, or those before a message, in order."""
        if await self.store.get(conversation_id) is None:
            raise RtError("NOT_FOUND", "There is no such conversation.")
        page = await self.store.view(BY_KEY, conversation_id, query.limit, query.before)
        return Answer(MessagePage([message_view(message) for message in page.messages], page.more))

    @operation(
        "publisher",
        body=SpeakBody,
        answer=MessageAccepted,
        statuses=(201,),
        errors=("NOT_FOUND", "CONFLICT", "RATE_LIMITED"),
    )
    async def post(self, conversation_id: ConversationId, body: SpeakBody) -> Answer:
        """Speak in a conversation, as its customer or as an agent who need not be a member of it.

        CONFLICT: it is closed, or another text had the same `clientId`. FORBIDDEN: the author has the role `customer`
        and is another customer.
        """
        request = self.pushes.speak(self.asker, conversation_id, body)
        return Answer(await self.pushes.carry_out(request), 201)


class ChatHandler(Handler):
    store: ChatStore

    @operation("viewer", answer=ConversationView, errors=("NOT_FOUND",))
    async def get(self, conversation_id: ConversationId) -> Answer:
        """Return one conversation, without its messages."""
        conversation = await self.store.get(conversation_id)
        if conversation is None:
            raise RtError("NOT_FOUND", "There is no such conversation.")
        return Answer(view(conversation, True))


class ActingHandler(Handler):
    """The base of handlers that change a conversation. `publish` logs the events of a change and returns the result."""

    store: ChatStore
    publish: Publish

    async def admin_of(self, conversation_id: str) -> User:
        """Return the asking admin as a user of the chat. Raises RtError NOT_FOUND: no such conversation."""
        if await self.store.get(conversation_id) is None:
            raise RtError("NOT_FOUND", "There is no such conversation.")
        return _as_user(self.asker)


class CloseHandler(ActingHandler):
    @operation("operator", body=Change, answer=ConversationView, action="chat.close", errors=("NOT_FOUND",))
    async def post(self, conversation_id: ConversationId, body: Change) -> Answer:
        """End a conversation. Idempotent."""
        user = await self.admin_of(conversation_id)
        return Answer(await self.publish(await self.store.close(user, conversation_id)))


class RequeueHandler(ActingHandler):
    @operation(
        "operator", body=Requeue, answer=ConversationView, action="chat.requeue", errors=("NOT_FOUND", "CONFLICT")
    )
    async def post(self, conversation_id: ConversationId, body: Requeue) -> Answer:
        """Let a conversation wait for another agent, in its old place.

        CONFLICT: it is closed, or nobody of the other team is in the chat.
        """
        user = await self.admin_of(conversation_id)
        change = await self.store.transfer(user, conversation_id, team_id=body.teamId or "", note=body.reason)
        return Answer(await self.publish(change))


class AssignHandler(ActingHandler):
    @operation("operator", body=Assign, answer=ConversationView, action="chat.assign", errors=("NOT_FOUND", "CONFLICT"))
    async def post(self, conversation_id: ConversationId, body: Assign) -> Answer:
        """Give a conversation to an agent. CONFLICT: the agent is not in the chat, or it is closed."""
        user = await self.admin_of(conversation_id)
        change = await self.store.transfer(user, conversation_id, agent_id=body.agentId, note=body.reason)
        return Answer(await self.publish(change))


def chat_routes(admin: Admin, store: ChatStore, publish: Publish, pushes: ChatPushes) -> list[Route]:
    """Return the routes of this file for a Tornado Application."""
    reading = {"admin": admin, "store": store}
    acting = {**reading, "publish": publish}
    pushing = {**reading, "pushes": pushes}
    return [
        (r"/api/v1/chats", ChatsHandler, pushing),
        (r"/api/v1/chats/([^/]+)", ChatHandler, reading),
        (r"/api/v1/chats/([^/]+)/messages", MessagesHandler, pushing),
        (r"/api/v1/chats/([^/]+)/close", CloseHandler, acting),
        (r"/api/v1/chats/([^/]+)/requeue", RequeueHandler, acting),
        (r"/api/v1/chats/([^/]+)/assign", AssignHandler, acting),
    ]


def _as_user(who: Principal) -> User:
    """Return an admin of the API as a user of the chat. Customers see the name, so a key gets a neutral one."""
    return BY_KEY if who.is_key else User(UserId(who.name), "admin", who.name)

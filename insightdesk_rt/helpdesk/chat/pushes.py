"""What a back end does in a chat without being in it: start one for a customer, and speak in one, as a bot or a bridge.

Members receive the same events as if a person had done it in a client. A repeat under the same `clientId` gets the same
answer; another content under it is a conflict. `ChatPushes` turns bodies into requests to the namespace, for a single
call (routes.py) as for an operation of a batch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import ClientId, TeamIdText, UserIdText
from insightdesk_rt.engine.model import User, UserId, UserKeys, chat_room, team_room
from insightdesk_rt.engine.wire.texts import PLAIN
from insightdesk_rt.helpdesk.chat.conversation import BegunConversation, StoredMessage
from insightdesk_rt.helpdesk.chat.events import MAX_SUBJECT, MessageAccepted, Text, at
from insightdesk_rt.helpdesk.chat.store import ChatRequest

PATH = "/chat"

CarryOut = Callable[[Sequence[ChatRequest]], Awaitable[list[BegunConversation | StoredMessage | RtError]]]
Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=PLAIN)]


class BeginChatBody(Struct, forbid_unknown_fields=True, kw_only=True):
    customerId: UserIdText
    customerName: Name
    clientId: ClientId
    subject: Annotated[str, Meta(max_length=MAX_SUBJECT, pattern=PLAIN)] = ""
    text: Text | None = None
    teamId: TeamIdText | None = None


class Speaker(Struct, forbid_unknown_fields=True):
    """Who speaks. `customer` is the conversation's own customer, anybody else an `agent`.

    Without a role the id decides, where one id is one person; where ids are separate it is an agent.
    """

    id: UserIdText
    name: Name
    role: Literal["agent", "customer"] | UnsetType = UNSET


class SpeakBody(Struct, forbid_unknown_fields=True, kw_only=True):
    author: Speaker
    text: Text
    clientId: ClientId


class ChatBegun(Struct):
    """`position`: its place in the queue, from 1; 0: it waits no more."""

    conversationId: str
    position: int


class ChatPushes:
    """Checks what a back end does in chats, and has the namespace do it by `carry_out_all`.

    A publisher's key needs the room of the conversation (`chat:` for a new one), and that of the team which it names.
    """

    def __init__(self, carry_out_all: CarryOut, keys: UserKeys) -> None:
        self._carry_out_all = carry_out_all
        self._keys = keys

    def begin(self, who: Principal, body: BeginChatBody) -> ChatRequest:
        """Return the request for a new conversation. Raises RtError FORBIDDEN."""
        who.require_push(PATH, [chat_room("")])
        who.require_push(PATH, [team_room(body.teamId)] if body.teamId else [], "teamId")
        user = self._user(body.customerId, "customer", body.customerName)
        return ChatRequest(user, body.clientId, body.text or "", "", body.subject, body.teamId or "")

    def speak(self, who: Principal, conversation_id: str, body: SpeakBody) -> ChatRequest:
        """Return the request for a message. Raises RtError FORBIDDEN."""
        who.require_push(PATH, [chat_room(conversation_id)], "conversationId")
        author = body.author
        user = self._user(author.id, author.role or "agent", author.name)
        by_id = author.role is UNSET and not self._keys.separate
        return ChatRequest(user, body.clientId, body.text, conversation_id, customer_by_id=by_id)

    async def carry_out(self, request: ChatRequest) -> Struct:
        """Do one request. Raises RtError NOT_FOUND, FORBIDDEN, CONFLICT, RATE_LIMITED, UNAVAILABLE."""
        (answer,) = await self.carry_out_all([request])
        if isinstance(answer, RtError):
            raise answer
        return answer

    async def carry_out_all(self, requests: Sequence[ChatRequest]) -> list[Struct | RtError]:
        """Do many requests together; return the answer to each, or why it was refused."""
        found: list[Struct | RtError] = []
        for done in await self._carry_out_all(requests):
            if isinstance(done, RtError):
                found.append(done)
            elif isinstance(done, BegunConversation):
                found.append(ChatBegun(done.conversation.id, done.conversation.position))
            else:
                found.append(MessageAccepted(done.id, at(done.at)))
        return found

    def _user(self, id: str, role: Literal["agent", "customer"], name: str) -> User:
        return User(UserId(id), role, name, separate_ids=self._keys.separate)

"""What a back end does in chats: who speaks, what a repeat does, and a conversation whose customer is not connected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.chat.pushes import BeginChatBody, ChatPushes, SpeakBody
from insightdesk_rt.helpdesk.chat.store import CHATTING, ChatStore, ChatTimes
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.viewer_store import ViewerStore
from tests.support import fakes
from tests.support.aio import aio, until

WHO = Principal("key", "admin", is_key=True)
MIA = {"customerId": "mia", "customerName": "Mia", "clientId": "m1", "text": "Hello"}


class Bridge:
    def __init__(self, valkey: Valkey, separate: bool, times: ChatTimes) -> None:
        self.log, keys = fakes.OneNode(), UserKeys(separate)
        partition = valkey.names.namespace(Chat.path)
        present = PresenceStore(valkey, partition, 100, CHATTING)
        self.store = ChatStore(valkey, partition, present, times._replace(customer_mark=keys.mark))
        hub, typing = Hub(self.log, ["/chat"]), ViewerStore(valkey, partition, lambda: "n1", "chat")
        self.chat = Chat(hub, fakes.Clock(), self.store, present, typing, lambda: "n1", keys=keys)
        self.pushes = ChatPushes(self.chat.carry_out_all, keys)

    async def begin(self, **fields: Any) -> str:
        request = self.pushes.begin(WHO, msgspec.convert({**MIA, **fields}, BeginChatBody))
        answer: Any = await self.pushes.carry_out(request)
        return str(answer.conversationId)

    async def speak(self, chat: str, id: str, text: str = "Hi", client_id: str = "1", **more: Any) -> Any:
        body = {"author": {"id": id, "name": id.title(), **more}, "text": text, "clientId": client_id}
        return await self.pushes.carry_out(self.pushes.speak(WHO, chat, msgspec.convert(body, SpeakBody)))


@asynccontextmanager
async def a_bridge(
    url: str, prefix: str, separate: bool = False, times: ChatTimes = ChatTimes()
) -> AsyncIterator[Bridge]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    bridge = Bridge(valkey, separate, times)
    try:
        yield bridge
    finally:
        await bridge.chat.close()
        await valkey.close()


@aio
@pytest.mark.parametrize(
    ("separate", "id", "role", "seen"),
    [
        (False, "bot", None, "agent"),
        (False, "mia", None, "customer"),
        (False, "mia", "agent", "agent"),
        (False, "mia", "customer", "customer"),
        (False, "carl", "customer", "FORBIDDEN"),
        (True, "mia", None, "agent"),
        (True, "mia", "customer", "customer"),
        (True, "carl", "customer", "FORBIDDEN"),
    ],
)
async def test_the_author_is_the_customer_or_an_agent(
    valkey_url: str, prefix: str, separate: bool, id: str, role: str | None, seen: str
) -> None:
    async with a_bridge(valkey_url, prefix, separate) as bridge:
        chat = await bridge.begin()
        more = {"role": role} if role else {}
        if seen == "FORBIDDEN":
            with pytest.raises(RtError, match="FORBIDDEN"):
                await bridge.speak(chat, id, **more)
            return
        assert (await bridge.speak(chat, id, **more)).id == 2
        (message,) = [event for event in bridge.log.log if event.name == "chat:message"][-1:]
        assert f'"role":"{seen}"' in message.payload


@aio
async def test_a_repeat_is_answered_alike_and_another_content_is_a_conflict(valkey_url: str, prefix: str) -> None:
    async with a_bridge(valkey_url, prefix) as bridge:
        chat = await bridge.begin()
        assert await bridge.begin() == chat
        first = await bridge.speak(chat, "bot")
        count = len(bridge.log.log)
        assert await bridge.speak(chat, "bot") == first and len(bridge.log.log) == count
        for again in (bridge.begin(text="Other"), bridge.speak(chat, "bot", "Other")):
            with pytest.raises(RtError) as refused:
                await again
            assert (refused.value.code, refused.value.fields["field"]) == ("CONFLICT", "clientId")
        with pytest.raises(RtError, match="NOT_FOUND"):
            await bridge.speak("none", "bot")


@aio
async def test_a_bots_message_does_not_count_as_read_by_the_agent(valkey_url: str, prefix: str) -> None:
    async with a_bridge(valkey_url, prefix) as bridge:
        chat = await bridge.begin()
        await bridge.speak(chat, "bot")
        conversation = await bridge.store.get(chat)
        assert conversation is not None and (conversation.last, conversation.read_by_agent) == (2, 0)
        await bridge.speak(chat, "mia", client_id="2")
        conversation = await bridge.store.get(chat)
        assert conversation is not None and conversation.read_by_customer == 3


@aio
async def test_a_customer_who_is_not_connected_does_not_abandon_the_chat(valkey_url: str, prefix: str) -> None:
    """A customer who writes by e-mail never connects. Only the longest wait for an agent ends the conversation."""
    times = ChatTimes(waiting_timeout_ms=400, customer_gone_ms=50)
    async with a_bridge(valkey_url, prefix, times=times) as bridge:
        chat = await bridge.begin()

        async def closed() -> str:
            await bridge.store.due()
            conversation = await bridge.store.get(chat)
            return conversation.closed_reason if conversation is not None else "gone"

        async def is_closed() -> bool:
            return bool(await closed())

        await until(is_closed, "the end of the longest wait")
        assert await closed() == "timeout"

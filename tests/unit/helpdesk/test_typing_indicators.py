"""Typing indicators belong to sockets; each namespace decides who sees them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.dispatch.namespace import Namespace
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, chat_room
from insightdesk_rt.helpdesk.chat.namespace import SHOWN
from insightdesk_rt.helpdesk.typing_indicators import TYPING_MS, TypingIndicators
from insightdesk_rt.helpdesk.viewer_store import ViewerStore
from tests.support import fakes
from tests.support.aio import aio

ANNA, CARL = fakes.user("anna"), fakes.user("carl", "customer")
SHOWS, STOPS = "chat:typing", "chat:stopTyping"


class Place(Namespace):
    path = "/chat"


class Node:
    """One node with a conversation."""

    def __init__(self, valkey: Valkey) -> None:
        self.clock = fakes.Clock()
        self.hub = Hub(fakes.OneNode(), ["/chat"])
        self.place = Place(self.hub, self.clock)
        self.store = ViewerStore(valkey, valkey.names.namespace("/chat"), lambda: "n1", "chat")
        self.typing = TypingIndicators(self.place, self.store, SHOWN)

    async def open(self, user: User, sid: str = "") -> Socket:
        socket = fakes.socket("/chat", user, sid=sid or None)  # type: ignore[arg-type]
        self.hub.add(socket)
        await self.hub.enter(socket, [*first_rooms(user), chat_room("c")])
        return socket

    async def types(self, socket: Socket) -> None:
        self.typing.start(socket, "c", self.clock.now)
        while self.place._tasks:
            await self.place._tasks.wait()


@asynccontextmanager
async def a_node(url: str, prefix: str) -> AsyncIterator[Node]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    node = Node(valkey)
    yield node
    await node.place.close()
    await valkey.close()


def told(socket: Socket) -> list[str]:
    texts = socket.client.texts  # type: ignore[attr-defined]
    found = [json.loads(text)["event"] for text in texts]
    texts.clear()
    return found


@aio
async def test_a_user_types_until_both_devices_have_stopped_and_does_not_see_it(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        anna, phone, tablet = await node.open(ANNA), await node.open(CARL), await node.open(CARL)
        for device in (phone, tablet):
            await node.types(device)
        node.typing.stop(phone, "c")
        assert told(anna) == [SHOWS, SHOWS] and len(node.typing) == 1
        node.typing.stop(tablet, "c")
        node.typing.stop(tablet, "c")
        assert told(anna) == [STOPS] and len(node.typing) == 0
        assert told(phone) == told(tablet) == []


@aio
async def test_an_old_socket_that_leaves_does_not_end_typing_in_the_new_one(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        anna, old = await node.open(ANNA), await node.open(CARL)
        await node.types(old)
        node.hub.remove(old)
        await node.types(await node.open(CARL, old.sid))
        told(anna)
        node.typing.stop(old, "c")
        assert told(anna) == []
        node.clock.advance(TYPING_MS)
        assert told(anna) == [STOPS], "after its own time"


@aio
async def test_typing_on_a_dead_node_ends_unless_the_user_types_elsewhere(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        anna, other = (
            await node.open(ANNA),
            ViewerStore(node.store._valkey, node.store._valkey.names.namespace("/chat"), lambda: "n2", "chat"),
        )
        for user in (CARL, fakes.user("dora")):
            await other.typing("c", user.person, 60_000)
        await node.types(await node.open(CARL))
        told(anna)
        await node.typing.node_lost("n2")
        assert told(anna) == [STOPS]
        await node.typing.node_lost("n2")
        assert told(anna) == []

"""Two nodes of the chat over one real Valkey and one log in memory, and people who call and hear."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Event, Offset, User
from insightdesk_rt.engine.wire.json import BadJson, decode
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.chat.store import ChatStore, ChatTimes
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.viewer_store import ViewerStore
from tests.support import fakes
from tests.support.ticketing import Line

CARL, DORA = fakes.user("carl", "customer"), fakes.user("dora", "customer")
ANNA, BERT, ZOE = fakes.user("anna", team="t1"), fakes.user("bert", team="t1"), fakes.user("zoe", team="t2")
ROOT = fakes.user("root", "admin")


class Person:
    """One socket of a user."""

    def __init__(self, node: Node, socket: Socket) -> None:
        self.node = node
        self.socket = socket

    async def ask(self, name: str, **payload: Any) -> Any:
        """Call as dispatch would, rate limits apart. Returns the answer as plain values; raises RtError."""
        spec = self.node.chat.events[name]
        if self.socket.user.role not in spec.allow:
            raise RtError("FORBIDDEN")
        try:
            wanted = decode(msgspec.json.Decoder(spec.payload), json.dumps(payload))
        except BadJson as bad:
            raise RtError("BAD_REQUEST", bad.why, field=bad.field) from None
        answer = getattr(self.node.chat, spec.method)(self.socket, wanted)
        return msgspec.to_builtins(await answer if spec.waits else answer)

    def heard(self) -> list[tuple[str, Any]]:
        """What it was sent since the last look."""
        texts = self.socket.client.texts  # type: ignore[attr-defined]
        found = [(m["event"], m["data"]) for m in map(json.loads, texts)]
        texts.clear()
        return found

    def names(self) -> list[str]:
        return [name for name, _ in self.heard()]

    async def leave(self, why: CloseReason = CloseReason.TRANSPORT_CLOSE) -> None:
        self.node.hub.remove(self.socket)
        await self.node.chat.left(self.socket, why)


class Node:
    def __init__(self, valkey: Valkey, line: Line, name: str) -> None:
        self.name = name
        self.hub = Hub(line, ["/chat"])
        self.clock = fakes.Clock()
        self.people = PresenceStore(valkey, valkey.names.namespace("/chat"), grace_ms=0, name="chat-present")
        self.store = ChatStore(valkey, valkey.names.namespace("/chat"), self.people, ChatTimes())
        self.typing = ViewerStore(valkey, valkey.names.namespace("/chat"), lambda: self.name, "chat")
        self.chat = Chat(
            self.hub,
            self.clock,
            self.store,
            self.people,
            self.typing,
            lambda: self.name,
            recheck_on_all_nodes=lambda subject, offset: self.recheck_on_all_nodes(subject, offset),
        )
        self.recheck_on_all_nodes: Callable[[str, Offset], Awaitable[object]] = self.chat.recheck_access

    async def idle(self) -> None:
        """Wait for what runs beside."""
        while self.chat._tasks:
            await self.chat._tasks.wait()

    async def enters(self, user: User) -> Person:
        socket = fakes.socket("/chat", user)
        self.hub.add(socket)
        await self.hub.enter(socket, first_rooms(user))
        await self.chat.joined(socket)
        return Person(self, socket)


class Cluster:
    def __init__(self, valkey: Valkey) -> None:
        self.valkey = valkey
        self.log = fakes.OneNode()
        lines: list[Line] = []
        self.one, self.two = (Node(valkey, Line(self.log, lines), name) for name in ("n1", "n2"))
        self.log.deliver = self.deliver
        for node in (self.one, self.two):
            node.recheck_on_all_nodes = self.recheck_on_all_nodes

    def deliver(self, event: Event) -> None:
        self.one.hub.deliver(event)
        self.two.hub.deliver(event)

    async def recheck_on_all_nodes(self, conversation_id: str, offset: Offset) -> None:
        for node in (self.one, self.two):
            await node.chat.recheck_access(conversation_id, offset)

    async def ring(self, kind: str) -> None:
        """The clocks of this kind ring; then the leader's turn comes."""
        key = self.valkey.names.namespace("/chat").key("chat-deadlines")
        for entry in await self.valkey.command("ZRANGE", key, 0, -1):
            if entry.startswith(kind + ":"):
                await self.valkey.command("ZADD", key, 1, entry)
        await self.two.chat.clocks()


@asynccontextmanager
async def a_cluster(url: str, prefix: str) -> AsyncIterator[Cluster]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    cluster = Cluster(valkey)
    yield cluster
    for node in (cluster.one, cluster.two):
        node.hub.check()
        await node.chat.close()
    await valkey.close()

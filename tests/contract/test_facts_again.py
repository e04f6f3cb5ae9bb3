"""Facts that only this server stores, after Valkey lost its last second: two nodes, real stores, and a restored copy.

The copy is made before the lost writes, and the next Valkey starts with it. So it is like a replica that lagged, or a
file of a second ago.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import valkey

from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, user_room
from insightdesk_rt.helpdesk.features import FACTS, PATHS
from insightdesk_rt.helpdesk.notifications.store import Content
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment, TicketChange
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey
from tests.support.whole_desk import a_desk

ANNA, BERT = fakes.user("anna", team="t1"), fakes.user("bert", team="t1")
CARL, ROOT = fakes.user("carl", "customer"), fakes.user("root", "admin")


class Node:
    """One node of a cluster without its ports. It connects the parts as `server` does."""

    def __init__(self, url: str, name: str) -> None:
        self.valkey = Valkey(url, "t")
        self.bus = ValkeyBackplane(self.valkey, PATHS, name, facts=FACTS)
        self.hub = Hub(self.bus, PATHS)
        self.desk = a_desk(self.valkey, self.hub, name, self.bus.recovered)
        self.bus.on_facts_lost.append(self.desk.put_down_again)
        self.sockets: dict[tuple[str, str], Socket] = {}

    async def socket(self, path: str, user: User) -> Socket:
        if (path, user.id) not in self.sockets:
            socket = self.sockets[path, user.id] = fakes.socket(path, user)
            self.hub.add(socket)
            await self.hub.enter(socket, first_rooms(user))
            await next(one for one in self.desk if one.path == path).joined(socket)
        return self.sockets[path, user.id]

    async def ask(self, user: User, name: str, **payload: Any) -> Any:
        """Call an event, and repeat it under the same ids while it is refused with UNAVAILABLE, as clients should."""
        namespace = next(one for one in self.desk if name in one.events)
        spec = namespace.events[name]
        socket = await self.socket(namespace.path, user)
        asked = msgspec.convert(payload, spec.payload)
        return msgspec.to_builtins(await persist(lambda: getattr(namespace, spec.method)(socket, asked)))

    async def notify(self, id: str) -> None:
        await persist(lambda: self.desk.notifications.push(["anna"], Content(id, "mention", id)))

    def heard(self, path: str, user: User, name: str) -> list[Any]:
        texts = self.sockets[path, user.id].client.texts  # type: ignore[attr-defined]
        return [m["data"] for m in map(json.loads, texts) if m["event"] == name]

    async def close(self) -> None:
        for namespace in self.desk:
            await namespace.close()
        await self.bus.close()
        await self.valkey.close()


async def persist(ask: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(400):
        try:
            return await ask()
        except RtError as refused:
            assert refused.code == "UNAVAILABLE", refused
            await asyncio.sleep(0.02)
    raise AssertionError("refused for eight seconds")


class Cluster:
    """Two nodes, and a Valkey that can be replaced by an older copy."""

    def __init__(self, server: OwnValkey, link: Path) -> None:
        self.server, self.link = server, link
        self.one, self.two = (Node(f"unix://{link}", name) for name in ("n1", "n2"))

    def copy(self) -> dict[bytes, bytes]:
        with valkey.Valkey(unix_socket_path=str(self.server.socket)) as client:
            return {key: client.dump(key) for key in client.keys("*")}  # type: ignore[misc]

    def back(self) -> bool:
        """Are both nodes connected to the present server, and have they stored again what it may lack?"""
        run_id = self.server("INFO", "server")["run_id"]
        nodes = (self.one, self.two)
        return all(node.valkey.run_id == run_id and node.bus._groups[0].publisher.recovery is None for node in nodes)

    def replace(self, copy: dict[bytes, bytes]) -> None:
        """Kill the server, and start another one with the copy."""
        self.server.kill()
        self.link.unlink()
        self.server.start()
        with valkey.Valkey(unix_socket_path=str(self.server.socket)) as client:
            for key, value in copy.items():
                client.restore(key, 0, value)
        os.symlink(self.server.socket, self.link)


@asynccontextmanager
async def a_cluster(folder: Path) -> AsyncIterator[Cluster]:
    with OwnValkey() as server:
        os.symlink(server.socket, folder / "s")
        cluster = Cluster(server, folder / "s")
        nodes = (cluster.one, cluster.two)
        try:
            for node in nodes:
                await node.valkey.start()
                await node.bus.start()
            await until(lambda: all(node.bus.subscribed for node in nodes), "ready")
            yield cluster
        finally:
            for node in nodes:
                await node.close()


async def talking(cluster: Cluster) -> str:
    """Return a conversation of Carl on one node and Anna on the other."""
    await cluster.two.socket("/chat", ANNA)
    await cluster.two.socket("/notifications", ANNA)
    chat: str = (await cluster.one.ask(CARL, "chat:start", clientId="s1", text="number 1"))["conversationId"]
    await cluster.two.ask(ANNA, "chat:accept", conversationId=chat)
    return chat


async def history(node: Node, chat: str) -> dict[int, str]:
    page = await node.ask(ANNA, "chat:history", conversationId=chat, limit=100)
    assert [m["id"] for m in page["messages"]] == sorted({m["id"] for m in page["messages"]})
    return {m["id"]: m["text"] for m in page["messages"]}


@aio
async def test_acknowledged_messages_and_notifications_survive_a_failover(
    tmp_path: Path,
) -> None:
    async with a_cluster(tmp_path) as cluster:
        one, two = cluster.one, cluster.two
        chat = await talking(cluster)
        await two.notify("n0")
        copy = cluster.copy()

        said = {1: "number 1"}

        async def say(node: Node, user: User, text: str) -> None:
            number = (await node.ask(user, "chat:message", conversationId=chat, text=text, clientId=text))["id"]
            assert number not in said, f"{number} was given to {said[number]!r} and to {text!r}"
            said[number] = text

        for n in range(5):
            await say(one, CARL, f"carl {n}")
            await say(two, ANNA, f"anna {n}")
            await one.notify(f"n{n + 1}")
        await two.ask(ANNA, "notification:markRead", id="n2")
        await until(lambda: len(two.heard("/chat", ANNA, "chat:message")) == 10, "Anna received all")

        cluster.replace(copy)
        await asyncio.gather(
            *(say(one, CARL, f"carl after {n}") for n in range(3)),
            *(say(two, ANNA, f"anna after {n}") for n in range(3)),
        )
        assert await history(two, chat) == said and sorted(said) == list(range(1, 18))
        bell = await two.ask(ANNA, "notification:list", limit=50)
        assert {n["id"] for n in bell["notifications"] if n["read"]} == {"n2"} and bell["unread"] == 5
        assert sorted(n["id"] for n in bell["notifications"]) == [f"n{n}" for n in range(6)]
        await until(lambda: len(two.heard("/chat", ANNA, "chat:message")) == 16, "the later messages")
        texts = [m["text"] for m in two.heard("/chat", ANNA, "chat:message")]
        assert sorted(texts) == sorted(set(texts)) == sorted(text for text in said.values() if text != "number 1")

        before = dict(said)
        for number, text in before.items():
            if text.startswith("carl"):
                again = await one.ask(CARL, "chat:message", conversationId=chat, text=text, clientId=text)
                assert again["id"] == number, "a repeat gets the first answer"
        assert await history(two, chat) == before


@aio
async def test_a_node_restores_facts_of_another_that_died_with_valkey(tmp_path: Path) -> None:
    """The node that acknowledged the messages is dead, but the one that delivered them still runs."""
    async with a_cluster(tmp_path) as cluster:
        chat = await talking(cluster)
        copy = cluster.copy()
        for n in range(3):
            await cluster.one.ask(CARL, "chat:message", conversationId=chat, text=f"m{n}", clientId=f"m{n}")
        await until(lambda: len(cluster.two.heard("/chat", ANNA, "chat:message")) == 3, "Anna received all")
        await cluster.one.close()
        cluster.replace(copy)
        answer = await cluster.two.ask(ANNA, "chat:message", conversationId=chat, text="anna", clientId="a")
        assert answer["id"] == 5
        assert await history(cluster.two, chat) == {1: "number 1", 2: "m0", 3: "m1", 4: "m2", 5: "anna"}


CHANGES: dict[str, tuple[str, Callable[[Cluster, str], Awaitable[Any]]]] = {
    "start": ("nothing", lambda on, chat: on.one.ask(CARL, "chat:start", clientId="s2", text="Again")),
    "accept": ("waiting", lambda on, chat: on.two.ask(ANNA, "chat:accept", conversationId=chat)),
    "read": ("active", lambda on, chat: on.two.ask(ANNA, "chat:read", conversationId=chat, upTo=1)),
    "transfer": (
        "active",
        lambda on, chat: on.two.ask(ANNA, "chat:transfer", conversationId=chat, agentId="bert", note="VIP"),
    ),
    "back to the queue": (
        "active",
        lambda on, chat: on.two.ask(ANNA, "chat:transfer", conversationId=chat, teamId="t1"),
    ),
    "close": ("active", lambda on, chat: on.one.ask(CARL, "chat:close", conversationId=chat)),
    "close of one that waits": ("waiting", lambda on, chat: on.one.ask(CARL, "chat:close", conversationId=chat)),
    "rate": ("closed", lambda on, chat: on.one.ask(CARL, "chat:rate", conversationId=chat, score=5)),
}


async def known(cluster: Cluster) -> dict[str, Any]:
    """Return everything the chat has stored, as an admin, the customer and the agent see it."""
    store = cluster.one.desk.chat.store
    states = ("waiting", "active", "closed")
    listed = [one for state in states for one in await persist(lambda state=state: store.listed(state, 50))]  # type: ignore[misc]
    stats = await store.queue_stats()
    return {
        "listed": {one.conversation.id: one for one in listed},
        "messages": {c: await history(cluster.two, c) for c in (one.conversation.id for one in listed)},
        "queue": [one.id for one in await store.queue(ROOT)],
        "mine": {user.id: {one.id for one in await store.mine(user)} for user in (CARL, ANNA, BERT)},
        "counts": (stats.waiting, stats.active),
        "bytes": {
            one.conversation.id: cluster.server("HGET", f"{{t/chat}}:chat:{one.conversation.id}", "bytes")
            for one in listed
        },
        "client ids": {
            key: cluster.server("HGETALL", key) for key in sorted(cluster.server("KEYS", "{t/chat}:chat-started:*"))
        },
    }


@pytest.mark.parametrize("name", CHANGES)
@aio
async def test_acknowledged_changes_of_a_conversation_survive_a_failover(tmp_path: Path, name: str) -> None:
    before, do = CHANGES[name]
    async with a_cluster(tmp_path) as cluster:
        for user in (ANNA, BERT):
            await cluster.two.socket("/chat", user)
        await cluster.one.socket("/chat", CARL)
        chat = ""
        if before != "nothing":
            chat = (await cluster.one.ask(CARL, "chat:start", clientId="s1", text="Hello?"))["conversationId"]
        if before in ("active", "closed"):
            await cluster.two.ask(ANNA, "chat:accept", conversationId=chat)
        if before == "closed":
            await cluster.one.ask(CARL, "chat:close", conversationId=chat)
        copy = cluster.copy()
        answer = await do(cluster, chat)
        wanted = await known(cluster)
        cluster.replace(copy)
        await until(cluster.back, "the nodes have stored their facts again")
        found = await known(cluster)
        for what, value in wanted.items():
            assert found[what] == value, what
        assert msgspec.to_builtins(await do(cluster, chat)) == answer, "a repeat gets the first answer"
        cluster.replace(cluster.copy())
        await until(cluster.back, "the same")
        assert await known(cluster) == wanted, "storing again changes nothing"


@aio
async def test_a_request_repeated_under_its_id_is_delivered_once(tmp_path: Path) -> None:
    """The answers were lost with the connection, and the ids with Valkey's last second."""
    async with a_cluster(tmp_path) as cluster:
        one, two = cluster.one, cluster.two
        chat = await talking(cluster)
        await persist(lambda: one.desk.tickets.apply("42", TicketChange(teamId="t1")))
        await two.socket("/tickets", ANNA)
        await two.ask(ANNA, "ticket:subscribe", ticketId="42")
        reply = Comment("c1", "reply", Actor("bert", "Bert"), "on it")  # type: ignore[arg-type]

        async def all_of_them() -> None:
            await persist(lambda: one.desk.tickets.comment("42", reply, remember=True))
            await one.notify("n1")
            await one.ask(CARL, "chat:message", conversationId=chat, text="m", clientId="m")
            await persist(lambda: one.hub.emit("/tickets", [user_room("anna")], "desk:news", "1", id="emit.e1"))

        def heard() -> dict[str, int]:
            names = {"/tickets": ("ticket:commented", "desk:news"), "/notifications": ("notification",)}
            names["/chat"] = ("chat:message",)
            return {name: len(two.heard(path, ANNA, name)) for path in names for name in names[path]}

        once = {"ticket:commented": 1, "desk:news": 1, "notification": 1, "chat:message": 1}
        copy = cluster.copy()
        await all_of_them()
        await until(lambda: heard() == once, "heard")
        cluster.replace(copy)
        await all_of_them()
        offset = await persist(lambda: one.hub.emit("/tickets", [user_room("anna")], "desk:end", "1"))
        await until(lambda: two.heard("/tickets", ANNA, "desk:end"), f"the last event, {offset}")
        last = await one.ask(CARL, "chat:message", conversationId=chat, text="last", clientId="last")
        await one.notify("last")
        await until(lambda: heard()["chat:message"] == 2 and heard()["notification"] == 2, "the last event of each")
        assert heard() == {**once, "chat:message": 2, "notification": 2} and last["id"] == 3


@aio
async def test_facts_older_than_a_few_seconds_are_not_kept_for_ever(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        chat = await talking(cluster)
        await cluster.one.ask(CARL, "chat:message", conversationId=chat, text="m", clientId="m")
        await until(lambda: cluster.two.bus._groups[0]._recent_facts, "heard")
        now = asyncio.get_running_loop().time()
        for node in (cluster.one, cluster.two):
            node.bus._groups[0].beat(now, now + 60)  # Valkey answers much later
            assert not node.bus._groups[0]._recent_facts and not node.bus._groups[0].publisher.confirmed(node.bus.facts)
            store = node.desk.chat.store
            await store.forget_older(now)
            assert store._recent and len(store._first) == (node is cluster.one)
            await store.forget_older(now + 60)
            assert not store._recent and not store._first

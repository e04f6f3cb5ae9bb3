"""Connected users: the store gets what is true on this node, again until Valkey took it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User
from insightdesk_rt.helpdesk.event_relay import EventRelay
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.presence.connected_users import COMPARE_EVERY, ConnectedUsers, Living
from insightdesk_rt.helpdesk.presence.store import PresenceJoin, PresenceStore
from tests.support import fakes
from tests.support.aio import aio


class Store(PresenceStore):
    """A store that Valkey may be away from, and that counts what it is asked."""

    away = False
    asked = 0

    async def join(self, user: User, node: str) -> PresenceJoin:
        self._ask()
        return await super().join(user, node)

    async def leave(self, user_id: str, node: str) -> bool:
        self._ask()
        return await super().leave(user_id, node)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise RtError("UNAVAILABLE")


class Node:
    def __init__(self, valkey: Valkey) -> None:
        self.store = Store(valkey, valkey.names.namespace("/presence"), grace_ms=0)
        self.incarnation = "n1.a"
        self.told: list[PendingEvent] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.fenced: list[str] = []
        relay = EventRelay(self.store.pending, self.say, self.spawn)
        self.connected_users = ConnectedUsers(self.store, lambda: self.incarnation, relay, self.fenced.append)

    async def say(self, change: PendingEvent) -> None:
        self.told.append(change)

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def status(self, user_id: str) -> str:
        await self.connected_users.sweep()
        return (await self.store.statuses([user_id]))[0].status


@asynccontextmanager
async def a_node(url: str, prefix: str) -> AsyncIterator[Node]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    node = Node(valkey)
    yield node
    await asyncio.gather(*node.tasks)
    await valkey.close()


def living(*incarnations: str) -> Living:
    async def asked() -> set[str]:
        return set(incarnations)

    return asked


def sockets(*user_ids: str, role: str = "agent") -> list[Socket]:
    return [fakes.socket("/presence", fakes.user(user_id, role)) for user_id in user_ids]


@aio
async def test_a_user_costs_one_command_for_the_first_socket_and_one_for_the_last(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        three = sockets("anna", "anna", "anna")
        for socket in three:
            await node.connected_users.add(socket)
        assert node.store.asked == 1 and await node.status("anna") == "online"
        for socket in three[:2]:
            await node.connected_users.remove(socket)
        assert node.store.asked == 1 and await node.status("anna") == "online"
        await node.connected_users.remove(three[2])
        assert node.store.asked == 2 and await node.status("anna") == "offline"


@aio
async def test_a_socket_that_was_never_added_does_not_count_when_it_leaves(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        here, never = sockets("anna", "anna")
        await node.connected_users.add(here)
        await node.connected_users.remove(never)
        await node.connected_users.remove(never)
        assert await node.status("anna") == "online"
        await node.connected_users.remove(here)
        await node.connected_users.remove(here)
        assert await node.status("anna") == "offline"


@aio
async def test_a_session_that_returns_before_its_old_socket_left_counts_once(valkey_url: str, prefix: str) -> None:
    """Both have the same sid: the end of the old one took the new one's place, and the user was online for good."""
    async with a_node(valkey_url, prefix) as node:
        (old,) = sockets("anna")
        new = fakes.socket("/presence", old.user, sid=old.sid)
        await node.connected_users.add(old)
        await node.connected_users.add(new)
        await node.connected_users.remove(old)
        assert await node.status("anna") == "online"
        await node.connected_users.remove(new)
        assert await node.status("anna") == "offline"


@aio
async def test_a_user_with_a_changed_role_is_stored_again(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        for socket in sockets("anna") + sockets("anna", role="customer"):
            await node.connected_users.add(socket)
        assert (await node.store.agent_counts()).online == 0


@aio
async def test_failed_writes_are_repeated(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        anna, bert = sockets("anna", "bert")
        await node.connected_users.add(bert)
        node.store.away = True
        await node.connected_users.add(anna)
        await node.connected_users.remove(bert)
        await node.connected_users.reconcile()
        node.store.away = False
        assert [await node.status(name) for name in ("anna", "bert")] == ["offline", "online"]
        await node.connected_users.reconcile()
        assert [await node.status(name) for name in ("anna", "bert")] == ["online", "offline"]
        asked = node.store.asked
        await node.connected_users.reconcile()
        assert node.store.asked == asked, "and then no more"


@aio
async def test_a_node_that_was_declared_dead_returns_with_another_incarnation(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        anna, bert = sockets("anna", "bert")
        await node.connected_users.add(anna)
        await node.connected_users.node_lost("n1.a")
        await node.connected_users.node_lost("n1.a")
        await node.connected_users.add(bert)
        await node.connected_users.reconcile()
        assert [await node.status(name) for name in ("anna", "bert")] == ["offline", "offline"]
        node.incarnation = "n1.b"
        await node.connected_users.re_register()
        assert [await node.status(name) for name in ("anna", "bert")] == ["online", "online"]
        assert await node.store.held_by("n1.b") == {"anna", "bert"}


@aio
async def test_a_start_removes_users_of_dead_incarnations(valkey_url: str, prefix: str) -> None:
    """The whole server was killed, and Valkey kept what it had said."""
    async with a_node(valkey_url, prefix) as node:
        await node.store.join(fakes.user("ghost"), "n1.before")
        await node.store.join(fakes.user("bert"), "n2.a")
        (anna,) = sockets("anna")
        await node.connected_users.add(anna)
        await node.connected_users.reap_all_except(living("n1.a", "n2.a"))
        assert [await node.status(name) for name in ("ghost", "bert", "anna")] == ["offline", "online", "online"]


@aio
async def test_a_node_that_starts_at_the_same_time_is_not_taken_for_dead(valkey_url: str, prefix: str) -> None:
    """It came between the two questions, who lives and who holds somebody, and was fenced for good."""
    async with a_node(valkey_url, prefix) as node:

        async def and_then_one_starts() -> set[str]:
            await node.store.join(fakes.user("bert"), "n2.a")
            return {"n1.a"}

        await node.store.join(fakes.user("ghost"), "n1.before")
        await node.connected_users.reap_all_except(and_then_one_starts)
        assert [await node.status(name) for name in ("ghost", "bert")] == ["offline", "online"]


@aio
async def test_the_server_learns_that_its_incarnation_counts_as_dead(valkey_url: str, prefix: str) -> None:
    """Its lease may run: without this nobody would be seen to come to it any more."""
    async with a_node(valkey_url, prefix) as node:
        anna, bert = sockets("anna", "bert")
        await node.connected_users.add(anna)
        assert node.fenced == []
        await node.connected_users.node_lost("n1.a")
        for _ in range(COMPARE_EVERY):
            await node.connected_users.reconcile()
        assert set(node.fenced) == {"n1.a"}, "without anybody coming, too"
        node.incarnation = "n1.b"
        await node.connected_users.re_register()
        await node.connected_users.add(bert)
        assert set(node.fenced) == {"n1.a"} and await node.store.held_by("n1.b") == {"anna", "bert"}


@aio
async def test_a_difference_between_node_and_store_is_found_and_repaired(valkey_url: str, prefix: str) -> None:
    """Valkey was emptied; or a command of a lost connection was executed after the one that followed it."""
    async with a_node(valkey_url, prefix) as node:
        (anna,) = sockets("anna")
        await node.connected_users.add(anna)
        await node.store.leave("anna", "n1.a")
        await node.store.join(fakes.user("ghost"), "n1.a")
        await node.store.join(fakes.user("ghost2"), "n1.a")
        for _ in range(COMPARE_EVERY):
            await node.connected_users.reconcile()
        assert [await node.status(name) for name in ("anna", "ghost", "ghost2")] == ["online", "offline", "offline"]


@aio
async def test_many_users_are_stored_in_bounded_batches(valkey_url: str, prefix: str) -> None:
    async with a_node(valkey_url, prefix) as node:
        everybody = sockets(*(f"u{n}" for n in range(1_200)))
        node.store.away = True
        for socket in everybody:
            await node.connected_users.add(socket)
        await node.connected_users.reconcile()
        assert node.store.asked == 1_200 + 500, "a batch that fails is the last one for now"
        node.store.away = False
        await node.connected_users.reconcile()
        assert await node.store.held_count("n1.a") == 1_200
        await node.connected_users.node_lost("n1.a")
        assert await node.store.held_count("n1.a") == 0

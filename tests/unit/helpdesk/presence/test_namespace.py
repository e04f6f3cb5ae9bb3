"""Which presence events go to whom: two nodes with a real Valkey and a log in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, iso
from insightdesk_rt.helpdesk.presence.namespace import MAX_USERS, Choose, Presence, WatchUsers
from insightdesk_rt.helpdesk.presence.store import PresenceStore, SeenPresence
from tests.support import fakes
from tests.support.aio import aio, until


class Node:
    def __init__(self, valkey: Valkey, log: fakes.OneNode, name: str, max_rooms: int = 0, grace_ms: int = 0) -> None:
        self.hub = Hub(log, ["/presence"], max_rooms)
        self.store = PresenceStore(valkey, valkey.names.namespace("/presence"), grace_ms)
        self.name = name
        self.presence = Presence(self.hub, fakes.Clock(), self.store, lambda: self.name)

    async def connect(self, user: User) -> Socket:
        socket = fakes.socket("/presence", user)
        self.hub.add(socket)
        await self.hub.enter(socket, first_rooms(user))
        await self.presence.joined(socket)
        return socket

    async def disconnect(self, socket: Socket) -> None:
        self.hub.remove(socket)
        await self.presence.left(socket, CloseReason.TRANSPORT_CLOSE)


class Cluster:
    def __init__(self, valkey: Valkey, **settings: int) -> None:
        self.valkey = valkey
        self.log = fakes.OneNode()
        self.one = Node(valkey, self.log, "n1", **settings)
        self.two = Node(valkey, self.log, "n2", **settings)
        self.log.deliver = self.deliver

    def deliver(self, event: Any) -> None:
        self.one.hub.deliver(event)
        self.two.hub.deliver(event)


@asynccontextmanager
async def a_cluster(url: str, prefix: str, **settings: int) -> AsyncIterator[Cluster]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    cluster = Cluster(valkey, **settings)
    yield cluster
    for node in (cluster.one, cluster.two):
        node.hub.check()
        await node.presence.close()
    await valkey.close()


def sent(socket: Socket) -> list[tuple[str, Any]]:
    """What the client was sent since the last look: names and payloads."""
    texts = socket.client.texts  # type: ignore[attr-defined]
    found = [(m["event"], m["data"]) for m in map(json.loads, texts)]
    texts.clear()
    return found


ANNA, BERT, CARL = fakes.user("anna", team="t1"), fakes.user("bert", team="t1"), fakes.user("carl", "customer")


@aio
async def test_team_and_subscribers_on_all_nodes_get_each_update_once(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        mate, stranger = await cluster.one.connect(BERT), await cluster.two.connect(fakes.user("zoe", "admin"))
        for socket in (mate, stranger):
            node = cluster.one if socket is mate else cluster.two
            await node.presence.subscribe(socket, WatchUsers(["anna", "anna"]))
            assert sent(socket)[-1] == ("presence:list", [{"userId": "anna", "status": "offline"}])
        anna = await cluster.two.connect(ANNA)
        online = ("presence:update", {"userId": "anna", "status": "online"})
        assert sent(mate) == sent(stranger) == sent(anna) == [online]

        other = await cluster.one.connect(ANNA)
        await cluster.two.disconnect(anna)
        assert sent(mate) == sent(other) == [], "several devices on several nodes count once"

        await cluster.one.presence.choose(other, Choose("away"))
        await cluster.one.presence.choose(other, Choose("away"))
        assert sent(mate) == sent(stranger) == [("presence:update", {"userId": "anna", "status": "away"})]

        await cluster.one.disconnect(other)
        await asyncio.gather(*(node.presence.sweep() for node in (cluster.one, cluster.two)))
        ((name, gone),) = sent(mate)
        assert (name, gone["userId"], gone["status"]) == ("presence:update", "anna", "offline")
        assert gone["lastSeen"] == iso((await cluster.one.store.statuses(["anna"]))[0].last_seen_ms)
        assert len(gone["lastSeen"]) == 24 and gone["lastSeen"].endswith("Z")
        cluster.two.presence.unsubscribe(stranger, WatchUsers(["anna"]))
        assert len(sent(stranger)) == 1
        await cluster.two.connect(ANNA)
        assert sent(stranger) == [] and sent(mate)[0][1]["status"] == "away", "the chosen status is kept"


@aio
async def test_a_page_reload_within_the_grace_period_is_not_visible(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix, grace_ms=60_000) as cluster:
        mate, anna = await cluster.one.connect(BERT), await cluster.one.connect(ANNA)
        sent(mate)
        await cluster.one.disconnect(anna)
        await cluster.one.presence.sweep()
        await cluster.two.connect(ANNA)
        await cluster.two.presence.sweep()
        assert sent(mate) == []


@aio
async def test_users_of_a_dead_node_go_offline_unless_another_node_has_them(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.two.connect(ANNA)
        await cluster.two.connect(fakes.user("dora", team="t1"))
        mate = await cluster.one.connect(BERT)
        await cluster.one.connect(ANNA)
        sent(mate)
        await cluster.one.presence.node_lost("n2")
        await cluster.one.presence.sweep()
        assert [(u["userId"], u["status"]) for _, u in sent(mate)] == [("dora", "offline")]
        # it only stood still, and comes back as another
        cluster.two.name = "n2.again"
        await cluster.two.presence.re_register()
        assert [(u["userId"], u["status"]) for _, u in sent(mate)] == [("dora", "online")]


@pytest.mark.parametrize("status", ["offline", "", "Online", "invisible"])
def test_other_statuses_are_refused(valkey_url: str, prefix: str, status: str) -> None:
    @aio
    async def body() -> None:
        async with a_cluster(valkey_url, prefix) as cluster:
            anna = await cluster.one.connect(ANNA)
            with pytest.raises(RtError) as refused:
                await cluster.one.presence.choose(anna, Choose(status))
            assert refused.value.code == "INVALID_STATUS"

    body()


@aio
async def test_a_customer_may_subscribe_to_nobody_else(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl = await cluster.one.connect(CARL)
        with pytest.raises(RtError) as refused:
            await cluster.one.presence.subscribe(carl, WatchUsers(["carl", "anna"]))
        assert refused.value.code == "FORBIDDEN" and carl.rooms == set(first_rooms(CARL)) and sent(carl) == []
        await cluster.one.presence.subscribe(carl, WatchUsers(["carl"]))
        ((_, (entry,)),) = sent(carl)
        assert entry["userId"] == "carl" and entry["status"] == "online" and entry["lastSeen"].endswith("Z")


@aio
async def test_too_many_rooms_leave_none_behind(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix, max_rooms=6) as cluster:
        anna = await cluster.one.connect(ANNA)
        await cluster.one.presence.subscribe(anna, WatchUsers(["u0"]))
        with pytest.raises(RtError) as refused:
            await cluster.one.presence.subscribe(anna, WatchUsers([f"u{n}" for n in range(5)]))
        assert refused.value.code == "TOO_MANY_ROOMS"
        assert anna.rooms == {*first_rooms(ANNA), "presence:u0"}


@aio
async def test_an_invalid_id_does_not_affect_the_others(valkey_url: str, prefix: str) -> None:
    """The answer names its place and says what is wrong; it names no room."""
    async with a_cluster(valkey_url, prefix) as cluster:
        anna = await cluster.one.connect(ANNA)
        good = ["auth0|5f7c", "bert", "CORP\\ann"]
        asked = [good[0], "a\nb", good[1], 7, "", good[2], "x" * 129, "gnp\u202e.exe"]
        answer = await cluster.one.presence.subscribe(anna, WatchUsers(asked))
        assert [one.index for one in answer.refused] == [1, 3, 4, 6, 7]
        assert all(one.message.startswith("expected text") and "regex" not in one.message for one in answer.refused)
        assert anna.rooms == {*first_rooms(ANNA), *(f"presence:{user_id}" for user_id in good)}
        cluster.one.presence.unsubscribe(anna, WatchUsers(asked))
        assert anna.rooms == {*first_rooms(ANNA)}


@pytest.mark.parametrize("user_ids", ['"anna"', json.dumps(["u"] * (MAX_USERS + 1)), "null"])
def test_a_list_has_at_most_500_users(user_ids: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(f'{{"userIds":{user_ids}}}', type=WatchUsers)


@aio
async def test_a_change_that_overtakes_the_list_is_sent_again(valkey_url: str, prefix: str) -> None:
    """The list was read before the change, and sent after the change's event."""

    async with a_cluster(valkey_url, prefix) as cluster:
        mate, anna = await cluster.one.connect(BERT), await cluster.two.connect(ANNA)
        sent(mate)
        read = cluster.one.store.statuses

        async def slow(user_ids: Any) -> list[SeenPresence]:
            found = await read(user_ids)
            cluster.one.store.statuses = read  # type: ignore[method-assign]
            await cluster.two.presence.choose(anna, Choose("busy"))
            return found

        cluster.one.store.statuses = slow  # type: ignore[assignment]
        await cluster.one.presence.subscribe(mate, WatchUsers(["anna"]))
        (_, first), (_, (listed,)), (_, last) = sent(mate)
        assert [first["status"], listed["status"], last["status"]] == ["busy", "online", "busy"]


@aio
async def test_the_leader_publishes_a_transition_that_could_not_be_logged(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        mate, anna = await cluster.one.connect(BERT), await cluster.one.connect(ANNA)
        sent(mate)
        cluster.log.away = True
        for status in ("busy", "away"):
            with pytest.raises(RtError) as refused:
                await cluster.one.presence.choose(anna, Choose(status))
            assert refused.value.code == "UNAVAILABLE"
        cluster.log.away = False
        assert sent(mate) == []
        overdue = await until_overdue(cluster.two.store)
        await asyncio.gather(*(node.presence._relay.publish(overdue) for node in (cluster.one, cluster.two)))
        assert [u["status"] for _, u in sent(mate)] == ["busy", "away"], "once, in order, whoever else tells it"
        await until(lambda: not cluster.two.presence._tasks and not cluster.one.presence._tasks, "said to be told")
        assert await cluster.two.store.pending.overdue(age_ms=0) == []


async def until_overdue(store: PresenceStore) -> Any:
    await asyncio.sleep(0.005)
    return await store.pending.overdue(age_ms=1)


@aio
async def test_a_connect_while_valkey_is_unreachable_is_stored_later(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)  # not started: away
    cluster = Cluster(valkey)
    anna = await cluster.one.connect(ANNA)
    assert sent(anna) == []
    await valkey.start()
    await cluster.one.presence.reconcile()
    assert sent(anna) == [("presence:update", {"userId": "anna", "status": "online"})]
    await cluster.one.presence.close()
    await valkey.close()

"""Calls between nodes, over real backplanes: every node replies or is listed as missing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.seal import Seal
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, Room, Sid
from tests.support import fakes
from tests.support.aio import aio, until

NS = "/tickets"
A, B = Room("ticket:a"), Room("ticket:b")


class Node:
    def __init__(self, url: str, prefix: str, name: str, living: set[str]) -> None:
        self.name = name
        self.valkey = Valkey(url, prefix)
        self.bus = ValkeyBackplane(self.valkey, (NS,), name)
        self.hub = Hub(self.bus, (NS,), max_rooms_per_socket=3)
        self.evicted: list[str] = []

        async def all_living() -> set[str]:
            return living

        self.calls = NodeCalls(
            self.bus,
            self.hub,
            lambda: self.name,
            all_living,
            timeout_s=0.5,
        )
        self.calls.on_replaced.append(self.evicted.append)
        self.calls.on_recheck.append(self.recheck_access)
        self.rechecked: list[tuple[str, str, str]] = []
        self.away = False
        living.add(name)

    async def member(self, sid: str, *rooms: Room) -> Socket:
        socket = fakes.socket(NS, fakes.user("u-" + sid, team="t1"), sid=Sid(sid))
        self.hub.add(socket)
        for room in rooms:
            await self.hub.join(socket, room)
        return socket

    async def recheck_access(self, namespace: str, subject: str, offset: str) -> None:
        if self.away:
            raise RtError("UNAVAILABLE")
        self.rechecked.append((namespace, subject, offset))


@asynccontextmanager
async def cluster(url: str, prefix: str) -> AsyncIterator[tuple[list[Node], set[str]]]:
    living: set[str] = set()
    nodes = [Node(url, prefix, name, living) for name in ("n1", "n2", "n3")]
    for node in nodes:
        await node.valkey.start()
        await node.bus.start()
    try:
        yield nodes, living
    finally:
        for node in nodes:
            await node.calls.close()
            await node.bus.close()
            await node.valkey.close()


@aio
async def test_sockets_are_found_on_all_nodes_by_room_without_skipped_ones(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, two, three), _):
        await one.member("s1", A)
        await two.member("s2", A, B)
        await two.member("s3", B)
        await three.member("s4")
        everyone = await one.calls.fetch_sockets(NS)
        assert sorted(s.sid for s in everyone.sockets) == ["s1", "s2", "s3", "s4"] and everyone.missing == []
        found = {s.sid: s for s in (await three.calls.fetch_sockets(NS, [A])).sockets}
        assert sorted(found) == ["s1", "s2"]
        assert (found["s2"].node, found["s2"].rooms, found["s2"].teamId) == ("n2", [A, B], "t1")
        assert found["s2"].user.id == "u-s2" and "pid" not in repr(found["s2"])
        assert [s.sid for s in (await one.calls.fetch_sockets(NS, [A], skip=[B])).sockets] == ["s1"]
        assert [s.sid for s in (await one.calls.fetch_sockets(NS, [A], skip=["s1"])).sockets] == ["s2"]
        assert (await one.calls.fetch_sockets("/newer")).sockets == []


@aio
async def test_a_long_list_of_sockets_arrives_in_several_messages(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, two, _), _living):
        for n in range(450):
            await two.member(f"s{n}")
        assert len((await one.calls.fetch_sockets(NS)).sockets) == 450


@pytest.mark.parametrize("verb", ["join", "leave", "disconnect", "explode"])
@aio
async def test_an_unknown_verb_has_no_effect(valkey_url: str, prefix: str, verb: str) -> None:
    """Each verb acts on all nodes. With a `join`, an attacker could read the events of any room."""
    async with cluster(valkey_url, prefix) as ((one, two, _), _living):
        spy = await two.member("spy", A)
        asked = await one.calls._collect(verb, NS, [A], more=[B])
        assert asked[1] == [] and [answer.count for answer in asked[0]] == [0, 0, 0]
        assert spy.rooms == {A} and list(two.hub.sockets(NS)) == ["spy"]


@aio
async def test_forged_and_replayed_calls_between_nodes_are_dropped(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An attacker who may write to Valkey makes up calls, uses another key, or sends recorded calls again."""
    async with cluster(valkey_url, prefix) as ((one, two, _), _living):
        mallory = Valkey(valkey_url, prefix)
        await mallory.start()
        names, poison = Names(prefix), two.bus.counters["poison"]
        evict = json.dumps({"t": "replaced", "pid": "n2.victim"})
        channel = names.cluster.node(two.bus.address)
        stamp = Seal(b"another key").stamp(channel, evict)
        right = one.bus._seal.stamp(names.all_nodes, evict)
        old = Seal(two.bus._seal._key, lambda: int(time.time() * 1000) - 61_000).stamp(channel, evict)
        forged = ["1C\n" + evict, f"1C {stamp}\n{evict}", f"1C {right}\n{evict}", f"1C {old}\n{evict}", "1C 1 \n{}"]
        for message in forged:
            await mallory.command("PUBLISH", channel, message)
        await until(lambda: two.bus.counters["poison"] == poison + len(forged), "all were dropped")
        assert two.evicted == []
        heard = f"1C {one.bus._seal.stamp(channel, evict)}\n{evict}"
        for _ in range(3):
            await mallory.command("PUBLISH", channel, heard)
        await until(lambda: two.bus.counters["poison"] == poison + len(forged) + 2, "the copies were dropped")
        assert two.evicted == ["n2.victim"]
        said = [record for record in caplog.records if "call between nodes" in record.getMessage()]
        assert len(said) == 1, "one line a minute"
        await mallory.close()


@aio
async def test_a_node_that_does_not_reply_is_listed_as_missing_and_other_replies_count(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(valkey_url, prefix) as ((one, two, three), living):
        await two.member("s1", A)
        await three.bus.close()
        living.add("ghost")
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await one.calls.fetch_sockets(NS, [A])
        assert [s.sid for s in found.sockets] == ["s1"] and found.missing == ["ghost", "n3"]
        assert 0.4 < loop.time() - began < 4
        assert "not all nodes replied" in caplog.text


@aio
async def test_a_node_without_a_handler_for_a_request_is_listed_as_missing(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, two, three), _):
        for node in (one, two):
            node.calls.handle("greet", partial(greet, node.name))
        said = await one.calls.request("greet", "hello", "you")
        assert {name: bytes(text) for name, text in said.nodes.items()} == {
            "n1": b'{"of":"n1","words":["hello","you"]}',
            "n2": b'{"of":"n2","words":["hello","you"]}',
        }
        assert said.missing == ["n3"]  # a version without this request
        with pytest.raises(RtError, match="NOT_FOUND"):
            await one.calls.request("greet", "nobody")
        three.calls.handle("greet", partial(greet, "n3"))


async def greet(name: str, words: tuple[str, ...]) -> object:
    if words == ("nobody",):
        raise RtError("NOT_FOUND")
    return {"of": name, "words": list(words)}


@aio
async def test_a_long_reply_arrives_complete_in_several_messages(valkey_url: str, prefix: str) -> None:
    """It is longer than one message of the bus, and characters of several bytes are split between messages."""
    async with cluster(valkey_url, prefix) as ((one, two, three), _):
        texts = ["ä€😀" * 100 for _ in range(1_000)]

        async def long(words: tuple[str, ...]) -> list[str]:
            return texts

        async def short(words: tuple[str, ...]) -> list[str]:
            return []

        one.calls.handle("list", short)
        two.calls.handle("list", long)
        three.calls.handle("list", short)
        said = await one.calls.request("list")
        assert said.missing == [] and said.nodes.keys() == {"n1", "n2", "n3"}
        assert json.loads(bytes(said.nodes["n2"])) == texts
        assert (await two.calls.request("list")).nodes.keys() == {"n1", "n2", "n3"}


@aio
async def test_a_single_node_sends_no_requests(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, *_), living):
        living.clear()
        living.add("n1")
        await one.member("s1")
        sent = one.valkey.counters["commands"]
        assert len((await one.calls.fetch_sockets(NS)).sockets) == 1
        assert one.valkey.counters["commands"] == sent


@aio
async def test_the_old_node_of_a_resumed_session_is_notified(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, two, _), _living):
        one.calls.replaced(two.bus.address, "n2.secret")
        await until(lambda: two.evicted == ["n2.secret"], "the old node is notified")
        assert one.evicted == []


@aio
async def test_invalid_messages_are_counted_and_unexpected_replies_are_ignored(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, *_), _):
        for text in (
            b"",
            b"\xff",
            b"{}",
            b'{"t":"other"}',
            b'{"t":"ask","id":1}',
            b"[" * 10_000,
            b'{"t":"answer","id":"x","node":"n2","sockets":[{}]}',
        ):
            one.calls.received(text)
        assert one.calls.poison == 7
        one.calls.received(b'{"t":"answer","id":"x","node":"n2"}')
        one.calls.received(b'{"t":"ask","id":"x","to":"nowhere","verb":"explode","unknown":1}')
        one.calls.received(b'{"t":"ask","id":"x","to":"nowhere","verb":"fetch","namespace":"/none"}')
        await until(lambda: not one.calls._tasks, "all requests are handled")
        assert one.calls.poison == 7


@aio
async def test_a_call_is_refused_while_valkey_is_unreachable(prefix: str) -> None:
    living = {"n2"}
    node = Node("unix:///nowhere", prefix, "n1", living)
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await node.calls.fetch_sockets(NS)
    assert node.calls._pending == {}


@aio
async def test_an_access_recheck_reaches_all_nodes_or_fails(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, two, three), _):
        await one.calls.recheck_on_all_nodes(NS, "a", Offset("5-0"))
        assert one.rechecked == two.rechecked == three.rechecked == [(NS, "a", "5-0")]
        three.away = True
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await one.calls.recheck_on_all_nodes(NS, "a", Offset("6-0"))


@aio
async def test_a_call_does_not_wait_for_a_node_that_has_died(valkey_url: str, prefix: str) -> None:
    """Changes of access were refused after a node had died, for as long as it was listed as living."""
    async with cluster(valkey_url, prefix) as ((one, two, _), living):
        living.add("ghost")
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, living.discard, "ghost")
        began = loop.time()
        await one.calls.recheck_on_all_nodes(NS, "a", Offset("5-0"))
        assert loop.time() - began < 2
        assert one.rechecked == two.rechecked == [(NS, "a", "5-0")]
        living.add("ghost")
        with pytest.raises(RtError) as refused:
            await one.calls.recheck_on_all_nodes(NS, "a", Offset("6-0"))
        assert refused.value.message == "Not all nodes answered: ghost."


@aio
async def test_an_incomplete_reply_of_a_dead_node_is_dropped(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as ((one, *others), living):
        for node in (one, *others):
            node.calls.handle("greet", partial(greet, node.name))
        living.add("ghost")
        asked = asyncio.create_task(one.calls.request("greet", "hello"))
        await until(lambda: one.calls._pending, "the request was sent")
        one.calls._timeout_s = 5.0
        (id,) = one.calls._pending
        half = {"t": "answer", "id": id, "node": "ghost", "part": "[1,", "more": True}
        one.calls.received(json.dumps(half).encode())
        living.discard("ghost")
        one.calls._pending[id].drop_dead(living)
        said = await asked
        assert sorted(said.nodes) == ["n1", "n2", "n3"] and said.missing == []


@aio
async def test_a_failure_of_the_calling_node_leaves_the_other_replies(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def unable(words: tuple[str, ...]) -> None:
        raise RtError("UNAVAILABLE")

    async def broken(words: tuple[str, ...]) -> None:
        raise ZeroDivisionError

    async def slow(words: tuple[str, ...]) -> None:
        await asyncio.sleep(60)

    async with cluster(valkey_url, prefix) as ((one, two, three), living):
        for node in (two, three):
            node.calls.handle("greet", partial(greet, node.name))
        loop = asyncio.get_running_loop()
        for does in (unable, broken, slow):
            one.calls.handle("greet", does)
            began = loop.time()
            said = await one.calls.request("greet", "hello")
            assert sorted(said.nodes) == ["n2", "n3"] and said.missing == ["n1"]
            assert loop.time() - began < 3
        one.away = True
        with pytest.raises(RtError, match="Not all nodes answered: n1"):
            await one.calls.recheck_on_all_nodes(NS, "a", Offset("5-0"))
        living.intersection_update({"n1"})
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await one.calls.request("greet", "hello")
        assert "a request failed on this node" in caplog.text

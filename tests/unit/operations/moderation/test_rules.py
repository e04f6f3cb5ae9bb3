"""Copies of the rules on each node, kept in sync through a real Valkey: changes, missed changes, expiry, lost data."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from insightdesk_rt.engine.cluster.node_calls import NodeReplies
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.operations.moderation.rule_store import RuleStore
from insightdesk_rt.operations.moderation.rules import TURN, Rule, Rules, RuleTable
from tests.support.aio import aio

NOW_S = 1_800_000_000.0


class Bus:
    """Calls all nodes of a cluster, except those it is disconnected from."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self.cut: set[str] = set()

    def handle(self, verb: str, does: Any) -> None:
        self.nodes[f"n{len(self.nodes) + 1}"] = does

    async def request(self, verb: str, *words: str) -> NodeReplies:
        reached = {name: does for name, does in self.nodes.items() if name not in self.cut}
        counts = {name: msgspec.Raw(msgspec.json.encode(await does(words))) for name, does in reached.items()}
        return NodeReplies(counts, sorted(self.cut))


class Node:
    def __init__(self, valkey: Valkey, bus: Bus, most: int = 10) -> None:
        self.wall_s = NOW_S
        self.changes: list[tuple[str | None, str | None]] = []
        self.rules = Rules(RuleStore(valkey), lambda: self.wall_s)
        self.table = RuleTable("thing", Rule, most, self.changed)
        self.rules.add(self.table)
        self.rules.connect(bus)  # type: ignore[arg-type]

    async def changed(self, old: Rule | None, new: Rule | None) -> int:
        self.changes.append((old.reason if old else None, new.reason if new else None))
        return 7

    def holds(self) -> dict[str, str]:
        return {id: rule.reason for id, rule in sorted(self.table.rules.items())}


@asynccontextmanager
async def cluster(url: str, prefix: str, nodes: int = 2, most: int = 10) -> AsyncIterator[tuple[Bus, list[Node]]]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    bus = Bus()
    try:
        found = [Node(valkey, bus, most) for _ in range(nodes)]
        for node in found:
            await node.rules.start()
        yield bus, found
    finally:
        await valkey.close()


def rule(id: str, reason: str = "because", until_s: float = 0, at: Any = itertools.count()) -> Rule:
    return Rule(id=id, by="ann", at_ms=next(at), reason=reason, until_ms=int(until_s * 1000))


async def settle(nodes: Sequence[Node]) -> None:
    for node in nodes:
        await node.rules.tick()


@aio
async def test_a_rule_is_known_on_all_nodes_before_the_call_returns(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as (_, (one, two)):
        done = await one.rules.put(one.table, rule("a"))
        assert (done.count, done.missing) == (14, [])
        assert one.holds() == two.holds() == {"a": "because"}
        await two.rules.put(two.table, rule("a", "better"))
        assert one.holds() == two.holds() == {"a": "better"}
        assert one.changes == two.changes == [(None, "because"), ("because", "better")]
        await one.rules.remove(one.table, "a")
        assert one.holds() == two.holds() == {}
        with pytest.raises(RtError) as why:
            await one.rules.remove(one.table, "a")
        assert why.value.code == "NOT_FOUND"


@aio
async def test_a_node_that_missed_a_change_finds_it_by_itself(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as (bus, (one, two)):
        await one.rules.put(one.table, rule("kept"))
        bus.cut = {"n2"}
        assert (await one.rules.put(one.table, rule("missed"))).missing == ["n2"]
        await one.rules.put(one.table, rule("brief"))
        await one.rules.remove(one.table, "brief")
        await one.rules.put(one.table, rule("kept", "changed"))
        assert two.holds() == {"kept": "because"}
        await settle([one, two])
        assert two.holds() == one.holds() == {"kept": "changed", "missed": "because"}
        bus.cut = set()
        # a change after one that it missed, before it has compared
        bus.cut = {"n2"}
        await one.rules.put(one.table, rule("second"))
        bus.cut = set()
        await one.rules.put(one.table, rule("third"))
        assert two.holds() == one.holds()
        before = len(two.changes)
        await settle([one, two])
        assert len(two.changes) == before, "no rule is applied twice"


@aio
async def test_a_rule_expires_on_each_node_and_in_the_store(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as (_, (one, two)):
        await one.rules.put(one.table, rule("a", until_s=NOW_S + 10))
        two.wall_s += 11
        await settle([one, two])
        assert one.holds() == {"a": "because"} and two.holds() == {}
        assert two.changes[-1] == ("because", None)


@aio
async def test_the_number_of_rules_of_a_kind_is_limited_without_expired_ones(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, nodes=1, most=2) as (_, (one,)):
        await one.rules.put(one.table, rule("a", until_s=1))  # over by Valkey's clock at once
        await one.rules.put(one.table, rule("b"))
        await one.rules.put(one.table, rule("c"))
        with pytest.raises(RtError) as why:
            await one.rules.put(one.table, rule("d"))
        assert why.value.code == "CONFLICT"
        await one.rules.put(one.table, rule("c", "anew"))
        assert one.holds()["c"] == "anew"


@aio
async def test_rules_that_valkey_lost_are_stored_again_once(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, nodes=3) as (_, (one, two, three)):
        for n in range(5):
            await one.rules.put(one.table, rule(f"r{n}"))
        store = RuleStore(one.rules._store._valkey)
        keys = await store._valkey.command("KEYS", f"{{{prefix}}}:rules*")
        await store._valkey.command("DEL", *keys)
        await asyncio.gather(*(node.rules.tick() for node in (one, two, three)))
        await settle([one, two, three])
        expected = {f"r{n}": "because" for n in range(5)}
        assert (await store.load("thing")).texts.keys() == expected.keys()
        for node in (one, two, three):
            assert node.holds() == expected and len(node.changes) == 5
        await two.rules.remove(two.table, "r0")
        await settle([one, two, three])
        assert all("r0" not in node.holds() for node in (one, two, three))


@aio
async def test_a_change_with_the_number_of_a_lost_one_is_applied(valkey_url: str, prefix: str) -> None:
    """A promoted replica lacks the last changes, so the next change has a number that nodes have already seen."""
    async with cluster(valkey_url, prefix) as (_, (one, two)):
        await one.rules.put(one.table, rule("old"))
        valkey = one.rules._store._valkey
        keys = [f"{{{prefix}}}:rules:thing", f"{{{prefix}}}:rules:versions"]
        before = [dict(zip(*[iter(await valkey.command("HGETALL", key))] * 2, strict=True)) for key in keys]
        await one.rules.put(one.table, rule("lost"))
        for key, fields in zip(keys, before, strict=True):
            await valkey.command("DEL", key)
            await valkey.command("HSET", key, *itertools.chain.from_iterable(fields.items()))
        await one.rules.put(one.table, rule("new"))
        expected = {"lost": "because", "new": "because", "old": "because"}
        assert one.holds() == two.holds() == expected
        await settle([one, two])
        assert one.holds() == two.holds() == expected
        assert (await one.rules._store.load("thing")).texts.keys() == expected.keys()


async def busiest_turn(work: Awaitable[Any], done: Callable[[], int]) -> int:
    """Run `work`. Returns by how much `done()` grew at most in one turn of the loop."""
    most = 0
    before = done()
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        most, before = max(most, done() - before), done()
    await task
    return most


@aio
async def test_many_rules_are_stored_again_in_several_turns_of_the_loop(valkey_url: str, prefix: str) -> None:
    """In one turn they would block the loop for as long as that takes."""
    async with cluster(valkey_url, prefix, nodes=1, most=5_000) as (_, (one,)):
        texts = {f"r{n}": msgspec.json.encode(rule(f"r{n}")).decode() for n in range(4_000)}
        store = one.rules._store
        valkey = store._valkey
        await valkey.command("HSET", f"{{{prefix}}}:rules:thing", *itertools.chain.from_iterable(texts.items()))
        most = await busiest_turn(one.rules.put(one.table, rule("one-more")), lambda: len(one.changes))
        assert len(one.changes) == 4_001 and most <= TURN

        puts = 0
        put = store.put

        async def counted(*given: Any) -> Any:
            nonlocal puts
            puts += 1
            return await put(*given)

        store.put = counted  # type: ignore[method-assign]
        await valkey.command("DEL", f"{{{prefix}}}:rules:thing", f"{{{prefix}}}:rules:versions")
        most = await busiest_turn(one.rules.tick(), lambda: puts)
        assert puts == 4_001 and most <= TURN
        assert len((await store.load("thing")).texts) == 4_001


@aio
async def test_a_rule_of_a_newer_version_is_skipped(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, nodes=1) as (_, (one,)):
        store = one.rules._store
        await store.put("thing", "odd", '{"id":7}', 0, 10)
        await store.put("thing", "good", '{"id":"good","by":"x","at_ms":1,"reason":"y","newer":true}', 0, 10)
        await settle([one])
        assert one.holds() == {"good": "y"}


@aio
async def test_a_failing_listener_does_not_affect_the_others(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, nodes=1) as (_, (one,)):

        async def broken(old: Rule | None, new: Rule | None) -> int:
            raise ValueError("a bug")

        one.table.changed = broken
        assert (await one.rules.put(one.table, rule("a"))).count == 0
        one.table.changed = one.changed
        assert (await one.rules.put(one.table, rule("b"))).count == 7
        assert one.holds() == {"a": "because", "b": "because"}

"""Leases in a real Valkey: dead nodes are cleared once, stopped ones return with a new incarnation, one node leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.engine.cluster.leases import Leases
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from tests.support.aio import aio, until

LEASE_MS = 300


class Node:
    """A node that records what its leases ask of it."""

    def __init__(self, valkey: Valkey, name: str, lease_ms: int = LEASE_MS) -> None:
        self.cleared: list[str] = []
        self.puts = 0
        self.fail = self.fail_put = 0
        self.put_s = 0.0
        self.put_as: list[str] = []
        self.leases = Leases(valkey, name, self._clear, self._register, lease_ms=lease_ms)

    async def _clear(self, incarnation: str) -> None:
        if self.fail:
            self.fail -= 1
            raise RtError("UNAVAILABLE")
        self.cleared.append(incarnation)

    async def _register(self) -> None:
        if self.fail_put:
            self.fail_put -= 1
            raise RtError("UNAVAILABLE")
        self.put_as.append(self.leases.incarnation)
        await asyncio.sleep(self.put_s)
        self.puts += 1


@asynccontextmanager
async def valkey_at(url: str, prefix: str) -> AsyncIterator[Valkey]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    try:
        # A server that was never seen under this prefix counts as restarted; the calm after that is over here.
        await valkey.command("SET", valkey.names.cluster.key("server"), valkey.run_id)
        yield valkey
    finally:
        await valkey.close()


async def beating(nodes: list[Node], until_true: object, what: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + 5
    while not until_true():  # type: ignore[operator]
        assert loop.time() < end, what
        for node in nodes:
            await node.leases.beat()
        await asyncio.sleep(0.02)


@aio
async def test_a_node_without_heartbeats_is_cleared_once_by_the_others(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b, c = (Node(valkey, name) for name in "abc")
        for node in (a, b, c):
            await node.leases.beat()
        b.fail = 2
        dead = c.leases.incarnation
        await beating([a, b], lambda: a.cleared or b.cleared, "c is cleared")
        await until(lambda: not (a.leases._clearing or b.leases._clearing), "clearing is over")
        assert set(a.cleared + b.cleared) == {dead}
        assert await a.leases.living() == {a.leases.incarnation, b.leases.incarnation}
        before = len(a.cleared) + len(b.cleared)
        await a.leases.beat()
        await b.leases.beat()
        assert len(a.cleared) + len(b.cleared) == before, "it is not cleared again"
        await asyncio.gather(a.leases.close(), b.leases.close())


@aio
async def test_failed_clearing_of_a_dead_node_is_repeated(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a"), Node(valkey, "b")
        await b.leases.beat()
        a.fail = 3
        await beating([a], lambda: a.cleared, "b is cleared at last")
        assert a.cleared == [b.leases.incarnation] and a.fail == 0
        await a.leases.close()


@aio
async def test_a_node_that_was_stopped_returns_with_a_new_incarnation(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a"), Node(valkey, "b")
        await b.leases.beat()
        old = b.leases.incarnation
        await beating([a], lambda: a.cleared, "b is cleared")
        await b.leases.beat()
        await until(lambda: b.cleared == [old], "facts written under the old incarnation are cleared")
        assert b.puts == 1 and b.leases.incarnation != old
        assert await a.leases.living() == {a.leases.incarnation, b.leases.incarnation}
        await asyncio.gather(a.leases.close(), b.leases.close())


@aio
async def test_a_node_keeps_its_lease_while_a_long_re_registration_runs(valkey_url: str, prefix: str) -> None:
    """Without heartbeats it was declared dead again each time before it had finished."""
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a"), Node(valkey, "b")
        b.put_s = 2 * LEASE_MS / 1000
        await b.leases.beat()
        await beating([a], lambda: a.cleared, "b is cleared")
        await beating([a, b], lambda: b.puts == 1 and b.cleared, "b has registered again")
        assert len(b.cleared) == len(a.cleared) == 1
        await asyncio.gather(a.leases.close(), b.leases.close())


@aio
async def test_a_node_declared_dead_during_re_registration_starts_it_again(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a"), Node(valkey, "b")
        names = [b.leases.incarnation]
        b.put_s = 0.6  # longer than a lease
        await b.leases.beat()
        for lives in (2, 3):
            await beating([a], lambda: len(a.cleared) == lives - 1, "b is cleared")  # noqa: B023
            await b.leases.beat()
            names.append(b.leases.incarnation)
            await until(lambda: len(b.put_as) == 1, "it has begun")
        await beating([a, b], lambda: len(b.cleared) == 2, "b is done")
        assert (b.put_as, b.cleared) == (names[1:], names[:2])
        await asyncio.gather(a.leases.close(), b.leases.close())


@aio
async def test_a_node_declared_dead_before_its_lease_ends_takes_a_new_incarnation(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a = Node(valkey, "a")
        await a.leases.beat()
        old = a.leases.incarnation
        a.leases.fenced(old)
        a.leases.fenced(old)
        await a.leases.beat()
        await until(lambda: a.cleared == [old], "the old incarnation is cleared")
        assert a.puts == 1 and a.leases.incarnation != old
        a.leases.fenced(old)  # by a late reply to an older command
        await a.leases.beat()
        await beating([a], lambda: a.cleared == [old, old], "the old lease ends, too")
        assert a.puts == 1
        assert await a.leases.living() == {a.leases.incarnation}
        await a.leases.close()


@aio
async def test_close_cancels_a_running_re_registration(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a = Node(valkey, "a")
        a.put_s = 60.0
        a.leases.re_register_soon()
        await a.leases.beat()
        await until(lambda: a.put_as, "it has begun")
        await a.leases.close()
        assert not a.leases._registering and not a.leases._tasks and a.puts == 0


@aio
async def test_one_node_leads_and_another_takes_over_after_it_closes(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a", 2_000), Node(valkey, "b", 2_000)
        await a.leases.beat()
        await b.leases.beat()
        assert a.leases.leads and not b.leases.leads
        await asyncio.sleep(1.1)
        assert not a.leases.leads, "without a heartbeat it stops leading before its lease ends"
        await a.leases.close()
        await b.leases.beat()
        assert b.leases.leads
        await b.leases.close()


@aio
async def test_a_closed_node_is_cleared_at_once(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a", 60_000), Node(valkey, "b", 60_000)
        await a.leases.beat()
        await b.leases.beat()
        await b.leases.close()
        await a.leases.beat()
        await until(lambda: a.cleared == [b.leases.incarnation], "b is cleared")
        await a.leases.close()


@aio
async def test_after_valkey_restarts_no_node_is_declared_dead_at_first(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a"), Node(valkey, "b")
        await a.leases.beat()
        await b.leases.beat()
        await valkey.command("SET", valkey.names.cluster.key("server"), "another run")
        await asyncio.sleep(LEASE_MS / 1000 + 0.05)
        await a.leases.beat()
        await b.leases.beat()
        assert b.puts == 0 and a.cleared == []
        await asyncio.gather(a.leases.close(), b.leases.close())


@aio
async def test_an_emptied_valkey_does_not_fence_living_nodes(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a = Node(valkey, "a")
        await a.leases.beat()
        name = a.leases.incarnation
        await valkey.command("DEL", *(valkey.names.cluster.key(name) for name in ("nodes", "server", "leader")))
        await a.leases.beat()
        assert a.leases.incarnation == name and await a.leases.living() == {name}
        await a.leases.close()


@aio
async def test_without_valkey_a_heartbeat_raises_unavailable(prefix: str) -> None:
    valkey = Valkey("unix:///nowhere/at/all", prefix)
    node = Node(valkey, "a")
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await node.leases.beat()
    assert node.leases._first and not node.leases.leads


@aio
async def test_work_of_the_whole_cluster_is_claimed_by_one_node_per_turn(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b = Node(valkey, "a", lease_ms=4_000), Node(valkey, "b", lease_ms=4_000)
        for node in (a, b):
            await node.leases.beat()
        assert await a.leases.claims("metrics", 600) and not await b.leases.claims("metrics", 600)
        assert not await a.leases.claims("metrics", 600), "this turn is claimed already"
        assert await a.leases.claims("timers", 600), "other work has its own turns"
        await asyncio.sleep(0.31)
        assert await a.leases.claims("metrics", 600)
        # b takes over while a, which was stopped, still believes that it leads
        await valkey.command("DEL", valkey.names.cluster.key("leader"))
        await b.leases.beat()
        assert a.leases.leads and b.leases.leads
        assert not await b.leases.claims("metrics", 600), "a has claimed this turn"
        await asyncio.sleep(0.31)
        assert not await a.leases.claims("metrics", 600) and await b.leases.claims("metrics", 600)


@aio
async def test_a_node_that_valkey_forgot_registers_again(valkey_url: str, prefix: str) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a = Node(valkey, "a", lease_ms=4_000)
        await a.leases.beat()
        await a.leases.beat()
        assert a.puts == 0
        name = a.leases.incarnation
        keys = await valkey.command("KEYS", valkey.names.cluster.key("*"))
        await valkey.command("DEL", *keys)
        a.fail_put = 1
        await a.leases.beat()
        await until(lambda: a.fail_put == 0, "it was tried")
        for _ in range(3):
            await a.leases.beat()
            await asyncio.sleep(0.01)
        assert (a.puts, a.leases.incarnation) == (1, name), "it is repeated until it succeeds, then not again"


@aio
async def test_after_valkeys_return_dead_nodes_are_spared_for_at_most_a_quarter_lease_more(
    valkey_url: str, prefix: str
) -> None:
    """A dead node's users are shown for that much longer; with the lease and their grace it must stay below 15 s."""
    async with valkey_at(valkey_url, prefix) as valkey:
        await valkey.command("SET", valkey.names.cluster.key("server"), "another run")
        await Node(valkey, "a").leases.beat()
        assert LEASE_MS < await valkey.command("PTTL", valkey.names.cluster.key("calm")) + 50 <= 1.25 * LEASE_MS + 50


@aio
async def test_a_dead_node_counts_as_lost_until_it_returns_or_is_known_to_have_ended(
    valkey_url: str, prefix: str
) -> None:
    async with valkey_at(valkey_url, prefix) as valkey:
        a, b, c = (Node(valkey, name) for name in "abc")
        for node in (a, b, c):
            await node.leases.beat()
        was_b, was_c = b.leases.incarnation, c.leases.incarnation
        assert await a.leases.lost() == []
        await beating([a], lambda: {was_b, was_c} <= set(a.cleared), "both are cleared")
        assert await a.leases.lost() == [was_b, was_c]
        await beating([a, b], lambda: was_b in b.cleared, "b is back")
        again = Node(valkey, "c")  # a restart: no other process runs under its name
        await again.leases.beat()
        await again.leases.takes_over()
        await until(lambda: not b.leases._past_incarnations, "b has cleared its past incarnations")
        assert await a.leases.lost() == []
        await again.leases.close()
        await beating([a, b], lambda: again.leases.incarnation in a.cleared, "it left by itself")
        assert await a.leases.lost() == []

"""The directory of nodes: the younger of two with one name is used, outages do not matter, dead nodes are removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.engine.cluster import directory
from insightdesk_rt.engine.cluster.directory import Directory, NodePlace, new_place
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from tests.support.aio import aio


@asynccontextmanager
async def connected(url: str, prefix: str) -> AsyncIterator[Valkey]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    try:
        yield valkey
    finally:
        await valkey.close()


def a_directory(valkey: Valkey, incarnation: str, place: NodePlace | None = None) -> Directory:
    return Directory(valkey, lambda: incarnation, place or new_place(incarnation.partition(".")[0], ""))


def living(*incarnations: str) -> Callable[[], Awaitable[set[str]]]:
    async def asked() -> set[str]:
        return set(incarnations)

    return asked


@pytest.fixture
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "FRESH_S", 0.0)


@aio
async def test_a_node_is_found_by_its_name_and_the_younger_of_two_is_used(
    valkey_url: str, prefix: str, always_fresh: None
) -> None:
    async with connected(valkey_url, prefix) as valkey:
        old, young = NodePlace("n1", 1.0, "a", "", "k1"), NodePlace("n1", 2.0, "b", "10.0.0.1:3005", "k2")
        asker = a_directory(valkey, "n9.x")
        assert await asker.find("n1") is None
        await a_directory(valkey, "n1.zz", young).announce()
        await a_directory(valkey, "n1.aa", old).announce()
        assert await asker.find("n1") == young
        await asker.node_lost("n1.zz")
        assert await asker.find("n1") == old
        await valkey.command("HSET", valkey.names.cluster.key("places"), "n2.x", '{"node":"n2"}', "n3.x", "\udcff")
        assert await asker.find("n1") == old and await asker.find("n2") is None


@aio
async def test_nodes_that_leave_or_have_died_are_removed(valkey_url: str, prefix: str, always_fresh: None) -> None:
    async with connected(valkey_url, prefix) as valkey:
        one, two = a_directory(valkey, "n1.x"), a_directory(valkey, "n2.x")
        for each in (one, two):
            await each.announce()
        await one.withdraw()
        assert await two.find("n1") is None and await two.find("n2") is not None
        await one.re_register()
        await two.reap_all_except(living("n1.x", "n7.x"))
        await two.reap_all_except(living("n1.x"))
        assert await one.find("n2") is None and await one.find("n1") is not None


@aio
async def test_a_node_that_starts_during_the_cleanup_of_another_is_kept(
    valkey_url: str, prefix: str, always_fresh: None
) -> None:
    async with connected(valkey_url, prefix) as valkey:
        one, two = a_directory(valkey, "n1.x"), a_directory(valkey, "n2.x")
        await one.announce()

        async def and_then_one_starts() -> set[str]:
            await two.announce()
            return {"n1.x"}

        await one.reap_all_except(and_then_one_starts)
        assert await one.find("n2") is not None


@aio
async def test_a_living_node_that_was_removed_is_listed_again(valkey_url: str, prefix: str, always_fresh: None) -> None:
    async with connected(valkey_url, prefix) as valkey:
        one, two = a_directory(valkey, "n1.x"), a_directory(valkey, "n2.x")
        await one.announce()
        await two.node_lost("n1.x")
        for _ in range(directory.AGAIN_EVERY):
            await one.reconcile()
        assert await two.find("n1") is not None


@aio
async def test_valkey_is_read_at_most_once_a_second_and_known_nodes_are_found_without_it(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(valkey_url, prefix) as valkey:
        one = a_directory(valkey, "n1.x")
        await one.announce()
        asked = valkey.counters["commands"]
        found = await asyncio.gather(*(one.find("n1") for _ in range(50)))
        assert None not in found and valkey.counters["commands"] == asked + 1
        assert await one.find("n1") and valkey.counters["commands"] == asked + 1
    monkeypatch.setattr(directory, "FRESH_S", 0.0)
    assert await one.find("n1") is not None
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await one.announce()
    await one.withdraw()

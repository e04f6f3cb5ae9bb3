"""The viewer store: one entry per user, and none left of a dead node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Person, UserId
from insightdesk_rt.helpdesk.viewer_store import ViewerStore
from tests.support.aio import aio

ANNA, BERT = Person(UserId("anna"), 'Anna "A" Ö'), Person(UserId("b/t/ert"), "Bert")


@asynccontextmanager
async def two_nodes(url: str, prefix: str) -> AsyncIterator[tuple[ViewerStore, ViewerStore]]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    yield (
        ViewerStore(valkey, valkey.names.namespace("/tickets"), lambda: "n1"),
        ViewerStore(valkey, valkey.names.namespace("/tickets"), lambda: "n10"),
    )
    await valkey.close()


async def pass_claim(store: ViewerStore) -> None:
    """Let its time be over."""
    await store._valkey.command("DEL", store._valkey.names.namespace("/tickets").key("ticket-live-reaper", "n1"))


async def states(store: ViewerStore, ticket_id: str = "42") -> dict[str, str]:
    return {viewer.user.id: viewer.state for viewer in (await store.live(ticket_id)).viewers}


async def typists(store: ViewerStore) -> list[str]:
    return [person.id for person in (await store.live("42")).typing]


@aio
async def test_a_user_with_two_tabs_is_one_viewer_in_the_busiest_state(valkey_url: str, prefix: str) -> None:
    async with two_nodes(valkey_url, prefix) as (one, two):
        assert await one.view("42", "s1", ANNA, "viewing")
        await two.view("42", "s2", ANNA, "replying")
        await two.view("42", "s3", BERT, "away")
        live = await one.live("42")
        assert [(viewer.user, viewer.state) for viewer in live.viewers] == [(ANNA, "replying"), (BERT, "away")]
        assert await two.leave("42", "s2") and not await two.leave("42", "s2")
        assert await states(one) == {"anna": "viewing", BERT.id: "away"}
        assert await one.leave("42", "s1")
        assert await states(two) == {BERT.id: "away"}


@aio
async def test_since_is_the_time_when_the_state_began(valkey_url: str, prefix: str) -> None:
    async with two_nodes(valkey_url, prefix) as (one, _):
        await one.view("42", "s1", ANNA, "viewing")
        began = (await one.live("42")).viewers[0].since
        await asyncio.sleep(0.005)
        assert not await one.view("42", "s1", ANNA, "viewing"), "no change"
        assert (await one.live("42")).viewers[0].since == began
        assert await one.view("42", "s1", ANNA, "replying")
        assert (await one.live("42")).viewers[0].since > began


@aio
async def test_typing_counts_until_it_is_removed_or_expires(valkey_url: str, prefix: str) -> None:
    async with two_nodes(valkey_url, prefix) as (one, two):
        await one.typing("42", ANNA, 60_000)
        await two.typing("42", ANNA, 60_000)
        await two.typing("42", BERT, 1)
        await asyncio.sleep(0.01)
        assert await typists(one) == ["anna"], "a lost stop expires"
        await one.stopped("42", "anna")
        assert await typists(one) == ["anna"], "the entry of the other node remains"
        await two.stopped("42", "anna")
        assert await typists(one) == []
        assert (await one.live("42")).viewers == []


@aio
async def test_only_the_entries_of_the_dead_node_are_removed(valkey_url: str, prefix: str) -> None:
    async with two_nodes(valkey_url, prefix) as (one, two):
        for n in range(250):
            await one.view(f"t{n}", "s1", ANNA, "viewing")
        await one.typing("t0", BERT, 60_000)
        await two.view("t0", "s2", BERT, "viewing")
        dropped: dict[str, list[str]] = {}
        async for batch in two.drop_node("n1"):
            dropped |= batch
        assert dropped == {f"t{n}": [BERT.id] if n == 0 else [] for n in range(250)}
        assert await states(one, "t0") == {BERT.id: "viewing"}, "n10 is not n1"
        assert [batch async for batch in two.drop_node("n1")] == []


@aio
async def test_a_reaper_that_dies_half_way_leaves_the_rest_to_the_next(valkey_url: str, prefix: str) -> None:
    async with two_nodes(valkey_url, prefix) as (one, two):
        await one.view("42", "s1", ANNA, "viewing")
        reaper = two.drop_node("n1")
        assert await anext(reaper) == {"42": []}
        await reaper.aclose()  # before the watchers were told
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await anext(two.drop_node("n1"))
        await pass_claim(two)
        assert [batch async for batch in two.drop_node("n1")] == [{"42": []}]


@aio
async def test_of_two_nodes_that_clear_the_same_dead_node_one_does_it(valkey_url: str, prefix: str) -> None:
    """Otherwise each would notify the viewers of every ticket."""
    async with two_nodes(valkey_url, prefix) as (one, two):
        for n in range(250):
            await one.view(f"t{n}", "s1", ANNA, "viewing")
        first = one.drop_node("n1")
        told = [*await anext(first)]
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await anext(two.drop_node("n1"))
        told += [ticket_id async for batch in first for ticket_id in batch]
        assert len(told) == len(set(told)) == 250
        assert [batch async for batch in two.drop_node("n1")] == [], "nothing is left, and nobody waits"
        await one.view("late", "s1", ANNA, "viewing")
        assert [batch async for batch in two.drop_node("n1")] == [{"late": []}]


@aio
async def test_no_key_outlives_its_use(valkey_url: str, prefix: str) -> None:
    async with two_nodes(valkey_url, prefix) as (one, two):
        await one.view("42", "s1", ANNA, "viewing")
        await one.typing("42", ANNA, 1000)
        await two.view("42", "s2", BERT, "viewing")
        keys = await one._valkey.command("KEYS", f"{{{prefix}*")
        assert all([await one._valkey.command("TTL", key) > 0 for key in keys])
        await one.leave("42", "s1")
        assert await one._valkey.command("SMEMBERS", one._tickets("n1")) == ["42"], "somebody here still types"
        await one.stopped("42", "anna")
        await two.leave("42", "s2")
        assert await one._valkey.command("KEYS", f"{{{prefix}*") == []

"""Pages of the feed by type, and waiting for the next entry."""

from __future__ import annotations

import asyncio
from typing import Any

from insightdesk_rt.backend.feed.log import PART_ENTRIES, FeedLog
from insightdesk_rt.backend.feed.reader import PARTS, FeedReader
from insightdesk_rt.backend.feed.types import TYPES
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.namespace import FeedEntry
from insightdesk_rt.engine.model import NO_OFFSET, Offset
from insightdesk_rt.helpdesk.chat.reports import ChatRatedReport
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey
from tests.unit.backend.feed.test_log import a_log, entry

ALL, RATED = frozenset(TYPES), frozenset({"chat.rated"})


def rated(number: int) -> FeedEntry:
    return FeedEntry(f"chat.c1.{number}", 1_795_397_242_000 + number, ChatRatedReport("c1", 5))


@aio
async def test_a_page_has_the_wanted_types_and_says_where_to_read_on(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix) as (feed, _):
        reader = FeedReader(feed)
        await feed.append([entry(1), rated(2), entry(3), rated(4), entry(5)])
        page = await reader.page(NO_OFFSET, RATED, 1)
        assert [item.type for item in page.items] == ["chat.rated"] and page.next == page.items[0].offset
        page = await reader.page(page.next, RATED, 10)
        assert len(page.items) == 1 and page.next == await feed.top() and page.complete
        assert await reader.page(page.next, RATED, 10) == ([], page.next, True)
        assert len((await reader.page(NO_OFFSET, ALL, 10)).items) == 5
        await reader.close()


@aio
async def test_a_rare_type_is_found_behind_many_others(valkey_url: str, prefix: str) -> None:
    """One answer looks through a bounded part of the log, and says how far it came."""
    async with a_log(valkey_url, prefix) as (feed, _):
        reader = FeedReader(feed)
        many = PART_ENTRIES * PARTS + 10
        for start in range(0, many, 500):
            await feed.append([entry(start + number) for number in range(500)])
        await feed.append([rated(many)])
        page = await reader.page(NO_OFFSET, RATED, 10)
        while not page.items:
            assert page.complete and page.next != await feed.top()
            page = await reader.page(page.next, RATED, 10)
        assert len(page.items) == 1
        await reader.close()


@aio
async def test_a_reader_waits_for_the_first_entry_of_its_type(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix) as (feed, _):
        reader = FeedReader(feed)
        waiting = asyncio.create_task(reader.page(NO_OFFSET, RATED, 10, wait_s=20))
        await until(lambda: reader.waiting == 1, "it waits")
        await feed.append([entry(1)])
        await until(lambda: reader._top != NO_OFFSET, "the entry of another type is noticed")
        assert not waiting.done()
        await feed.append([rated(2)])
        assert [item.type for item in (await waiting).items] == ["chat.rated"]
        await until(lambda: reader._looking is None, "nobody asks for the end of the log any more")
        await reader.close()


@aio
async def test_entries_of_other_nodes_are_noticed(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix) as (one, _), a_log(valkey_url, prefix) as (two, _):
        reader = FeedReader(one)
        waiting = [asyncio.create_task(reader.page(NO_OFFSET, ALL, 10, wait_s=20)) for _ in range(5)]
        await until(lambda: reader.waiting == 5, "all wait")
        await two.append([entry(1)])
        assert [len((await each).items) for each in waiting] == [1] * 5
        await reader.close()


@aio
async def test_waiting_ends_with_an_empty_page_and_with_the_server(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix) as (feed, _):
        reader = FeedReader(feed)
        assert await reader.page(NO_OFFSET, ALL, 10, wait_s=0.05) == ([], NO_OFFSET, True)
        waiting = asyncio.create_task(reader.page(NO_OFFSET, ALL, 10, wait_s=30))
        await until(lambda: reader.waiting == 1, "it waits")
        await reader.close()
        assert (await waiting).items == []


@aio
async def test_a_reader_that_waits_stays_while_valkey_restarts() -> None:
    with OwnValkey("--appendonly", "yes", "--appendfsync", "always") as server:
        async with a_log(server.url, "t") as (feed, valkey):
            reader = FeedReader(feed)
            await feed.append([entry(1)])
            end = (await reader.page(NO_OFFSET, ALL, 10)).next
            waiting = asyncio.create_task(reader.page(end, ALL, 10, wait_s=30))
            await until(lambda: reader.waiting == 1, "it waits")
            server.kill()
            await until(lambda: not valkey.available, "the connection is lost")
            server.start()
            await until(lambda: valkey.available, "Valkey is back")
            other = Valkey(server.url, "t")
            await other.start()
            await _append(FeedLog(other), entry(2))
            page = await waiting
            assert len(page.items) == 1 and page.complete
            await reader.close()
            await other.close()


async def _append(feed: Any, one: FeedEntry) -> Offset:
    await feed.append([one])
    return Offset(await feed.top())

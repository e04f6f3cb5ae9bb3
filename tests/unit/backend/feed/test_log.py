"""The feed's log on a real Valkey: each id once, bounded, and honest about what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from insightdesk_rt.backend.feed.log import TRIM, FeedLog, _Kept, feed_id, feed_text
from insightdesk_rt.backend.feed.settings import FeedSettings
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.namespace import FeedEntry
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Offset, offset_key
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.tickets.reports import TicketDeletedReport
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey


def entry(number: int, ticket: str = "42") -> FeedEntry:
    return FeedEntry(f"ticket.{ticket}.{number}", 1_795_397_242_000 + number, TicketDeletedReport(ticket, number))


@asynccontextmanager
async def a_log(url: str, prefix: str, **settings: Any) -> AsyncIterator[tuple[FeedLog, Valkey]]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    feed = FeedLog(valkey, FeedSettings(**settings))
    try:
        yield feed, valkey
    finally:
        await feed.close()
        await valkey.close()


async def numbers(feed: FeedLog, after: Offset = NO_OFFSET) -> list[int]:
    """Return the versions of all entries after an offset, part by part."""
    found: list[int] = []
    while part := (await feed.read(after)).items:
        found += [json.loads(item.text)["data"]["version"] for item in part]
        after = part[-1].offset
    return found


@aio
async def test_an_entry_is_kept_whole_and_once_per_id(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix) as (feed, _):
        await feed.append([entry(1), entry(2)])
        await feed.append([entry(2), entry(3)])
        part = await feed.read(NO_OFFSET)
        assert part.complete and part.next == part.items[-1].offset == await feed.top()
        assert [item.type for item in part.items] == ["ticket.deleted"] * 3
        assert json.loads(part.items[0].text) == {
            "id": feed_id("ticket.42.1"),
            "type": "ticket.deleted",
            "at": "2026-11-23T01:27:22.001Z",
            "data": {"ticketId": "42", "version": 1},
        }
        assert "." not in feed_id("ticket.42.1")
        rest = await feed.read(part.items[0].offset)
        assert rest.items == part.items[1:] and rest.complete
        end = await feed.read(part.next)
        assert end == ([], part.next, True)


@aio
async def test_the_log_keeps_at_most_so_many_entries_and_says_where_it_was_cut(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix, feed_max_entries=128) as (feed, valkey):
        offsets = []
        for number in range(1, 401):
            await feed.append([entry(number)])
            offsets.append(await feed.top())
        kept = await numbers(feed)
        assert kept == list(range(401 - len(kept), 401)) and 120 <= len(kept) <= 130
        floor = Offset(await valkey.command("HGET", valkey.names.feed.key("feed-state"), "floor"))
        assert floor == offsets[400 - len(kept) - 1]
        assert (await feed.read(floor)).complete, "nothing is missing after the last entry that was removed"
        assert not (await feed.read(offsets[0])).complete and not (await feed.read(NO_OFFSET)).complete


@aio
async def test_the_log_keeps_at_most_so_many_bytes(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix, feed_max_bytes=64_000) as (feed, valkey):
        for number in range(1, 601):
            await feed.append([entry(number)])
        length = int(await valkey.command("XLEN", valkey.names.feed.key("feed-log")))
        assert 200 < length < 320  # an entry has 230 bytes with its overhead


@aio
async def test_old_entries_are_removed_and_a_reader_at_the_end_misses_nothing(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix) as (feed, _):
        await feed.append([entry(1), entry(2)])
        middle, end = (item.offset for item in (await feed.read(NO_OFFSET)).items)
        await feed.trim()
        assert await numbers(feed) == [1, 2], "they are younger than feed_max_age_s"

        async def gone() -> bool:
            await feed._valkey.call(TRIM, feed._keys, [1])
            return not await numbers(feed)

        await until(gone, "both entries are older than a millisecond")
        assert (await feed.read(end)).complete and not (await feed.read(middle)).complete
        await feed.append([entry(3)])
        assert (await feed.read(end)).complete and await numbers(feed, end) == [3]


@aio
async def test_a_reader_is_told_that_valkey_lost_the_entry_at_its_offset(valkey_url: str, prefix: str) -> None:
    """Also when later entries came in the meantime, so that the log reaches beyond the offset again."""
    async with a_log(valkey_url, prefix) as (feed, valkey):
        await feed.append([entry(1), entry(2), entry(3)])
        first, second, third = (item.offset for item in (await feed.read(NO_OFFSET)).items)
        await valkey.command("XDEL", valkey.names.feed.key("feed-log"), second)
        part = await feed.read(second)
        assert not part.complete and [item.offset for item in part.items] == [third]
        await valkey.command(
            "DEL",
            valkey.names.feed.key("feed-log"),
            valkey.names.feed.key("feed-state"),
            valkey.names.feed.key("feed-marks"),
        )
        assert await feed.read(third) == ([], NO_OFFSET, False)

        async def a_millisecond_later() -> bool:
            seconds, micros = await valkey.command("TIME", near=feed._keys[0])
            return int(seconds) * 1000 + int(micros) // 1000 > offset_key(third)[0]

        await until(a_millisecond_later, "the next entry cannot get the first one's id")
        await feed.append([entry(4)])
        part = await feed.read(first)
        assert not part.complete and len(part.items) == 1
        assert (await feed.read(part.next)).complete


@aio
async def test_a_part_ends_at_its_bytes_but_has_one_entry(valkey_url: str, prefix: str) -> None:
    async with a_log(valkey_url, prefix) as (feed, _):
        await feed.append([entry(number) for number in range(1, 6)])
        assert len((await feed.read(NO_OFFSET, limit_bytes=1)).items) == 1
        assert len((await feed.read(NO_OFFSET, limit_bytes=350)).items) == 2
        assert len((await feed.read(NO_OFFSET, limit=3)).items) == 3


@aio
async def test_entries_that_a_replaced_valkey_lost_are_appended_again() -> None:
    """The node kept what it appended in the last seconds. A known id is still there once."""
    with OwnValkey() as server:  # it writes no file, so a restart loses everything
        async with a_log(server.url, "t") as (feed, valkey):
            await feed.append([entry(1)])
            await feed.append([entry(2), entry(3)])
            feed.forget_older()
            server.kill()
            await until(lambda: not valkey.available, "the connection is lost")
            with pytest.raises(RtError):
                await feed.append([entry(4)])
            server.start()

            async def there() -> bool:
                try:
                    await feed.append([entry(4)])
                except RtError:
                    return False
                return True

            await until(there, "Valkey is back")
            assert await numbers(feed) == [1, 2, 3, 4]


@aio
async def test_entries_are_appended_to_a_valkey_that_replaces_another_during_a_restore(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry whose append was under way when the restore began is not among those that it took."""
    async with a_log(valkey_url, prefix) as (feed, _):
        await feed.append([entry(1)])
        append_again, gate = feed._append_again, asyncio.Event()

        async def slowly(kept: list[_Kept]) -> bool:
            await gate.wait()
            return await append_again(kept)

        monkeypatch.setattr(feed, "_append_again", slowly)
        feed._came_up(True)
        await asyncio.sleep(0)
        late = feed_id(entry(2).id)
        feed._recent.append(_Kept(asyncio.get_running_loop().time(), [late], ["t", feed_text(late, entry(2))]))
        feed._came_up(True)
        gate.set()
        await until(lambda: feed._restoring is None, "both restores are done")
        assert await numbers(feed) == [1, 2]


@aio
async def test_entries_are_kept_for_a_minute_or_five_seconds_if_they_are_many(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_log(valkey_url, prefix) as (feed, _):
        await feed.append([entry(1)])
        await feed.append([entry(2)])
        feed.forget_older()
        assert len(feed._recent) == 2
        monkeypatch.setattr("insightdesk_rt.backend.feed.log.FORK_BYTES", 0)
        feed.forget_older()
        assert len(feed._recent) == 2, "they are younger than five seconds"
        monkeypatch.setattr("insightdesk_rt.backend.feed.log.KEEP_S", -1.0)
        feed.forget_older()
        assert not feed._recent and feed._recent_chars == 0

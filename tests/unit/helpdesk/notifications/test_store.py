"""The notification store: once per id, a limited number, and a count that cannot drift."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import Raw

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.notifications import store as notifications
from insightdesk_rt.helpdesk.notifications.store import (
    Content,
    NotificationStore,
    ReadRecord,
    read_notification,
    read_read,
)
from tests.support.aio import aio


@asynccontextmanager
async def a_store(url: str, prefix: str) -> AsyncIterator[NotificationStore]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    yield NotificationStore(valkey, valkey.names.namespace("/notifications"))
    await valkey.close()


def content(id: str, title: str = "T", **more: object) -> Content:
    return Content(id, "mention", title, **more)  # type: ignore[arg-type]


@aio
async def test_a_push_is_stored_completely_with_its_pending_event(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        (record,) = await store.push("u 1", content("n1", "Größe", body="b", data=Raw(b'{"a":[1,null]}')))
        told = json.loads(json.encode_struct(read_notification(record)))
        assert told.pop("createdAt").endswith("Z")
        assert told == {
            "id": "n1", "type": "mention", "title": "Größe", "body": "b", "data": {"a": [1, None]}, "read": False
        }  # fmt: skip
        assert (record.subject, record.kind) == ("u 1", "notification")
        page = await store.page("u 1", "", 10)
        assert (page.unread, page.more) == (1, False)
        assert page.notifications[0].title == "Größe"


@aio
async def test_a_repeat_of_an_id_changes_nothing_and_is_pending_only_if_it_was_not_published(
    valkey_url: str, prefix: str
) -> None:
    async with a_store(valkey_url, prefix) as store:
        first = await store.push("u1", content("n1", "first", data=Raw(b'{"a":1,"b":2}')))
        again = content("n1", "first", data=Raw(b'{"b":2,"a":1}'))
        assert await store.push("u1", again) == first
        await store.pending.mark_published({"u1": first[0].seq})
        assert await store.push("u1", again) == []
        assert (await store.page("u1", "", 10)).notifications[0].title == "first"
        assert await store.unread("u1") == 1
        assert len(await store.push("u2", content("n1"))) == 1, "ids are each user's own"


@aio
async def test_a_notification_counts_as_read_once(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        for n in range(4):
            await store.pending.mark_published({"u1": (await store.push("u1", content(f"n{n}")))[-1].seq})
        marked = await store.mark_read("u1", ["n1", "n1", "gone"], "sid1")
        assert (marked.unread, marked.known) == (3, 2)
        assert read_read(marked.pending[-1]) == ReadRecord(["n1"], "sid1")
        again = await store.mark_read("u1", ["n1"])
        assert again.pending == marked.pending, "the unpublished event, and no new one"
        everything = await store.mark_all_read("u1")
        assert everything.unread == 0 and read_read(everything.pending[-1]).ids == ["n0", "n2", "n3"]
        assert (await store.mark_all_read("u1")).pending == everything.pending and await store.unread("u1") == 0


@aio
async def test_pages_have_no_gaps_and_no_duplicates(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        # at once: many share a millisecond, and still have an order
        await asyncio.gather(*(store.push("u1", content(f"n{n}")) for n in range(25)))
        seen: list[str] = []
        before, more = "", True
        while more:
            page = await store.page("u1", before, 10)
            seen += [notification.id for notification in page.notifications]
            before, more = seen[-1], page.more
        assert seen == [f"n{n}" for n in reversed(range(25))]
        beyond = await store.page("u1", "never-was", 10)
        assert (beyond.notifications, beyond.more, beyond.unread) == ([], False, 25)


@aio
async def test_the_oldest_notifications_are_dropped_and_the_count_follows(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "MAX_KEPT", 5)
    async with a_store(valkey_url, prefix) as store:
        for n in range(8):
            await store.push("u1", content(f"n{n}"))
        await store.mark_read("u1", ["n7"])
        page = await store.page("u1", "", 100)
        assert [notification.id for notification in page.notifications] == ["n7", "n6", "n5", "n4", "n3"]
        assert page.unread == await store.unread("u1") == 4
        assert (await store.mark_read("u1", ["n0"])).known == 0


@aio
async def test_the_count_equals_the_number_of_unread_ones_after_any_operations(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "MAX_KEPT", 10)
    rng = random.Random(3)
    async with a_store(valkey_url, prefix) as store:
        for _ in range(300):
            what = rng.random()
            if what < 0.6:
                await store.push("u1", content(f"n{rng.randrange(40)}"))
            elif what < 0.97:
                await store.mark_read("u1", [f"n{rng.randrange(40)}"])
            else:
                await store.mark_all_read("u1")
        page = await store.page("u1", "", 100)
        assert page.unread == sum(not notification.read for notification in page.notifications)
        assert len(page.notifications) == 10


@aio
async def test_a_lost_notification_is_stored_again_once_and_unread(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.push("u1", content("n1"))
        await store.mark_read("u1", ["n1"])
        found = [await store.put_down_again("u1", content(id), at) for id, at in (("n1", 5), ("n0", 4), ("n0", 4))]
        assert found == [False, True, False]
        page = await store.page("u1", "", 10)
        assert [(n.id, n.read) for n in page.notifications] == [("n1", True), ("n0", False)] and page.unread == 1
        await store.read_again("u1", ["n0", "gone"])
        assert await store.unread("u1") == 0


@aio
async def test_no_key_outlives_its_use(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        (record,) = await store.push("u1", content("n1"))
        await store.pending.mark_published({"u1": record.seq})
        keys = await store._valkey.command("KEYS", f"{store.base}*")
        assert len(keys) == 4
        assert all([0 < await store._valkey.command("TTL", key) <= notifications.KEPT_S for key in keys])

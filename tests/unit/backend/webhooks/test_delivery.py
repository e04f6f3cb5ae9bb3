"""One webhook: in order, each entry until it is accepted, then parked; and what changes of it do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from insightdesk_rt.backend.feed.log import FeedLog
from insightdesk_rt.backend.feed.reader import FeedReader
from insightdesk_rt.backend.feed.settings import FeedSettings
from insightdesk_rt.backend.signing import new_secret
from insightdesk_rt.backend.webhooks import delivery as deliveries
from insightdesk_rt.backend.webhooks.delivery import BACKOFF_S, GIVE_UP_S, WebhookDelivery, backoff_s
from insightdesk_rt.backend.webhooks.sender import WebhookSender
from insightdesk_rt.backend.webhooks.settings import WebhookSettings
from insightdesk_rt.backend.webhooks.store import NO_TROUBLE, Webhook, WebhookSecret, WebhookStore
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.model import NO_OFFSET
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey
from tests.support.receiver import HANGS, Receiver, a_receiver
from tests.unit.backend.feed.test_log import entry
from tests.unit.backend.feed.test_reader import rated


class Desk:
    """A feed, a receiver, and a webhook between them, whose delivery `deliver` begins."""

    def __init__(self, valkey: Valkey, receiver: Receiver, feed: FeedLog) -> None:
        self.valkey, self.receiver, self.feed = valkey, receiver, feed
        self.reader = FeedReader(feed)
        self.store = WebhookStore(valkey)
        self.sender = WebhookSender(WebhookSettings(webhook_allow_private=True))
        self.ahead_ms = 0  # of the clock
        self.tasks: list[asyncio.Task[None]] = []

    def now_ms(self) -> int:
        return int(time.time() * 1000) + self.ahead_ms

    async def make(self, **fields: Any) -> Webhook:
        about: dict[str, Any] = {"id": "wh_1", "url": self.receiver.url, "types": [], "reason": "r", "by": "root"}
        about |= {"created_at_ms": 1, "secrets": [WebhookSecret(new_secret())], "cursor": NO_OFFSET}
        webhook = Webhook(**(about | fields))
        await self.store.add(webhook)
        return webhook

    async def known(self, id: str = "wh_1") -> Webhook:
        found = await self.store.get(id)
        assert found is not None
        return found

    async def deliver(self, id: str = "wh_1") -> WebhookDelivery:
        delivery = WebhookDelivery(await self.known(id), self.store, self.reader, self.sender, self.now_ms)
        self.tasks.append(asyncio.create_task(delivery.run()))
        return delivery

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.sender.close()
        await self.reader.close()


@asynccontextmanager
async def a_desk(url: str, prefix: str, **settings: Any) -> AsyncIterator[Desk]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    async with a_receiver() as receiver:
        desk = Desk(valkey, receiver, FeedLog(valkey, FeedSettings(**settings)))
        try:
            yield desk
        finally:
            await desk.close()
            await valkey.close()


def numbers(receiver: Receiver) -> list[int]:
    return [one.event["data"]["version"] for one in receiver.accepted if one.event["type"] == "ticket.deleted"]


@aio
async def test_entries_of_its_types_arrive_in_order_and_once(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await desk.make(types=["ticket.*"])
        await desk.feed.append([entry(1), rated(2), entry(3)])
        await desk.deliver()
        await desk.feed.append([entry(4), rated(5)])
        await until(lambda: len(desk.receiver.accepted) == 3, "three tickets")
        assert numbers(desk.receiver) == [1, 3, 4]

        async def at_the_end() -> bool:
            return (await desk.known()).cursor == await desk.feed.top()

        await until(at_the_end, "the cursor passes over other types")
        known = await desk.known()
        assert (known.delivered, known.failed, known.pending_at_ms, known.last_status) == (3, 0, 0, 200)


@aio
async def test_a_failed_entry_is_tried_again_before_the_next_under_the_same_id(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "BACKOFF_S", (0.01, 0.02))
    async with a_desk(valkey_url, prefix) as desk:
        answers = iter([500, 200, 503, 404, 200])
        desk.receiver.answer = lambda received: next(answers)
        await desk.make()
        await desk.feed.append([entry(1), entry(2)])
        await desk.deliver()
        await until(lambda: len(desk.receiver.accepted) == 2, "both are accepted at last")
        ids = [one.id for one in desk.receiver.received]
        assert numbers(desk.receiver) == [1, 2] and ids == [ids[0]] * 2 + [ids[2]] * 3 and ids[0] != ids[2]

        async def settled() -> bool:
            return (await desk.known()).delivered == 2

        await until(settled, "the second is counted")
        known = await desk.known()
        assert (known.failed, known.failures, known.failing_since_ms, known.last_error) == (3, 0, 0, "")


@aio
async def test_the_wait_and_the_trouble_are_stored_for_the_next_leader(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        desk.receiver.answer = lambda received: 500
        await desk.make(failures=6, failing_since_ms=desk.now_ms() - 7_200_000)
        await desk.feed.append([entry(1)])
        delivery = await desk.deliver()

        async def failed() -> bool:
            return (await desk.known()).failures == 7

        await until(failed, "one more failure")
        known = await desk.known()
        assert 1_600_000 < known.next_try_ms - desk.now_ms() < 2_000_000, "half an hour after the seventh failure"
        assert known.pending_at_ms and known.last_error == "HTTP 500 Internal Server Error" and delivery.lag_s >= 0
        desk.receiver.answer = lambda received: 200
        await desk.deliver()  # another node: it waits, too
        await until(lambda: delivery.webhook.next_try_ms > 0, "it waits")
        assert len(desk.receiver.received) == 1


@aio
async def test_after_a_day_of_failures_it_is_parked_and_resumed_without_a_loss(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        desk.receiver.answer = lambda received: 500
        await desk.make(failures=30, failing_since_ms=desk.now_ms() - int(GIVE_UP_S * 1000))
        await desk.feed.append([entry(1), entry(2)])
        await desk.deliver()
        await asyncio.wait(desk.tasks, timeout=10)
        assert desk.tasks[0].done() and (await desk.known()).state == "parked"
        desk.receiver.answer = lambda received: 200
        await desk.store.change("wh_1", state="active", **NO_TROUBLE)
        await desk.deliver()
        await until(lambda: numbers(desk.receiver) == [1, 2], "it goes on where it stopped")


@aio
async def test_a_receiver_that_is_gone_is_parked_at_once(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        desk.receiver.answer = lambda received: 410
        await desk.make()
        await desk.feed.append([entry(1)])
        await desk.deliver()
        await asyncio.wait(desk.tasks, timeout=10)
        assert (await desk.known()).state == "parked" and len(desk.receiver.received) == 1


@aio
async def test_a_hanging_receiver_delays_no_other(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk, a_receiver() as other:
        desk.receiver.answer = lambda received: HANGS
        await desk.make()
        await desk.make(id="wh_2", url=other.url)
        await desk.deliver()
        await desk.deliver("wh_2")
        await desk.feed.append([entry(number) for number in range(1, 21)])
        await until(lambda: len(other.accepted) == 20, "the other webhook has all")
        assert len(desk.receiver.received) == 1


@aio
async def test_a_change_of_an_admin_ends_the_delivery_as_it_was(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await desk.make()
        await desk.feed.append([entry(1)])
        await desk.deliver()
        await until(lambda: len(desk.receiver.accepted) == 1, "the first")
        await desk.store.change("wh_1", state="paused")
        await desk.feed.append([entry(2)])
        await asyncio.wait(desk.tasks, timeout=10)
        assert desk.tasks[0].done()
        await desk.store.change("wh_1", state="active", cursor=NO_OFFSET, **NO_TROUBLE)
        await desk.deliver()
        await until(lambda: numbers(desk.receiver)[-2:] == [1, 2], "both again, from the start")
        assert set(desk.receiver.ids[-2:]) <= set(desk.receiver.ids[:2]) | {desk.receiver.ids[-1]}


@aio
async def test_of_two_nodes_that_deliver_the_slower_one_ends(valkey_url: str, prefix: str) -> None:
    """A leader that was stopped and goes on does not move the cursor back."""
    async with a_desk(valkey_url, prefix) as desk:
        await desk.make()
        await desk.feed.append([entry(number) for number in range(1, 11)])
        await desk.deliver()
        await desk.deliver()

        async def at_the_end() -> bool:
            return (await desk.known()).cursor == await desk.feed.top()

        await until(at_the_end, "all are delivered")
        await until(lambda: any(task.done() for task in desk.tasks), "one of them has ended")
        assert sorted(set(numbers(desk.receiver))) == list(range(1, 11))
        assert (await desk.known()).delivered == 10


@aio
async def test_a_receiver_is_told_that_entries_are_missing(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix, feed_max_entries=128) as desk:
        await desk.feed.append([entry(1)])
        await desk.make(cursor=await desk.feed.top())
        for number in range(2, 301):
            await desk.feed.append([entry(number)])
        await desk.deliver()
        await until(lambda: numbers(desk.receiver)[-1:] == [300], "what is left")
        first = desk.receiver.accepted[0].event
        assert first["type"] == "feed.incomplete" and set(first["data"]) == {"after", "next"}
        assert [one.event["type"] for one in desk.receiver.accepted].count("feed.incomplete") == 1
        assert (await desk.known()).incomplete == 1


@aio
async def test_a_restart_of_valkey_loses_no_entry() -> None:
    """Valkey may have stored the progress without its answer. The delivery then ends, and the part begins another."""
    with OwnValkey("--appendonly", "yes", "--appendfsync", "always") as server:
        async with a_desk(server.url, "t") as desk:
            await desk.make()
            await desk.deliver()
            await desk.feed.append([entry(1)])
            await until(lambda: numbers(desk.receiver) == [1], "the first")
            server.kill()
            await until(lambda: not desk.valkey.available, "the connection is lost")
            server.start()
            await until(lambda: desk.valkey.available, "Valkey is back")
            await desk.feed.append([entry(2)])

            async def the_second() -> bool:
                if desk.tasks[-1].done():
                    await desk.deliver()
                return numbers(desk.receiver)[-1:] == [2]

            await until(the_second, "the second")
            assert list(dict.fromkeys(numbers(desk.receiver))) == [1, 2]


def test_waits_grow_to_an_hour() -> None:
    waits = [backoff_s(failures) for failures in range(12)]
    assert 0.9 <= waits[0] <= 1.1 and all(3_240 <= one <= 3_960 for one in waits[7:])
    assert all(0.9 * wanted <= got <= 1.1 * wanted for got, wanted in zip(waits, BACKOFF_S, strict=False))


@aio
async def test_a_replaced_secret_signs_for_a_day_more(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        webhook = await desk.make()
        until_s = await desk.store.replace_secret(webhook, new_secret())
        known = await desk.known()
        assert known.change == webhook.change + 1 and len(known.signing(until_s - 1)) == 2
        assert known.signing(until_s + 1) == [known.secrets[0].text] != [webhook.secrets[0].text]
        assert msgspec.structs.replace(known, secrets=webhook.secrets, change=webhook.change) == webhook

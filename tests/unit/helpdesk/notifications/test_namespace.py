"""Notifications: all sockets of a user agree, on two nodes with a real Valkey and a log in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.dispatch.namespace import Nothing
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Event, User
from insightdesk_rt.helpdesk.notifications.namespace import (
    RETRY_MS,
    SETTLE_MS,
    ListNotifications,
    MarkRead,
    Notifications,
)
from insightdesk_rt.helpdesk.notifications.store import Content, NotificationStore
from tests.support import fakes
from tests.support.aio import aio
from tests.support.ticketing import Line, told

PATH = "/notifications"
ANNA, BERT = fakes.user("anna"), fakes.user("bert")


class Node:
    def __init__(self, valkey: Valkey, log: fakes.OneNode, lines: list[Line]) -> None:
        self.clock = fakes.Clock()
        self.hub = Hub(Line(log, lines), [PATH])
        self.store = NotificationStore(valkey, valkey.names.namespace("/notifications"))
        self.bell = Notifications(self.hub, self.clock, self.store)

    async def connect(self, user: User = ANNA) -> Socket:
        socket = fakes.socket(PATH, user)
        self.hub.add(socket)
        await self.hub.enter(socket, first_rooms(user))
        await self.bell.joined(socket)
        return socket

    async def idle(self) -> None:
        while self.bell._tasks:
            await self.bell._tasks.wait()

    async def pass_time(self, ms: int) -> None:
        await self.idle()
        self.clock.advance(ms)
        await self.idle()


class Pair:
    def __init__(self, valkey: Valkey) -> None:
        self.log = fakes.OneNode()
        lines: list[Line] = []
        self.one, self.two = Node(valkey, self.log, lines), Node(valkey, self.log, lines)

        def deliver(event: Event) -> None:
            for line in lines:
                line.deliver(event)

        self.log.deliver = deliver


@asynccontextmanager
async def a_pair(url: str, prefix: str) -> AsyncIterator[Pair]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    pair = Pair(valkey)
    yield pair
    for node in (pair.one, pair.two):
        await node.idle()
        await node.bell.close()
    await valkey.close()


def content(id: str = "n1", title: str = "T") -> Content:
    return Content(id, "mention", title)


def count(unread: int) -> tuple[str, dict[str, int]]:
    return ("notification:count", {"unread": unread})


@aio
async def test_the_count_is_sent_on_connect(valkey_url: str, prefix: str) -> None:
    async with a_pair(valkey_url, prefix) as pair:
        assert told(await pair.one.connect()) == [count(0)]
        await pair.two.bell.push(["anna"], content())
        assert told(await pair.one.connect()) == [count(1)]
        assert told(await pair.one.connect(BERT)) == [count(0)]


@aio
async def test_a_push_reaches_all_of_its_users_sockets_once(valkey_url: str, prefix: str) -> None:
    async with a_pair(valkey_url, prefix) as pair:
        desk, phone, bert = await pair.one.connect(), await pair.two.connect(), await pair.two.connect(BERT)
        for socket in (desk, phone, bert):
            told(socket)
        await pair.one.bell.push(["anna", "anna"], content(title="Größe"))
        await pair.one.idle()
        await pair.two.bell.push(["anna"], content(title="Größe"))
        for socket in (desk, phone):
            (name, notification), counted = told(socket)
            assert (name, notification["id"], notification["title"]) == ("notification", "n1", "Größe")
            assert notification["read"] is False and counted == count(1)
        assert told(bert) == []


@aio
async def test_the_same_id_may_go_to_more_users_later(valkey_url: str, prefix: str) -> None:
    async with a_pair(valkey_url, prefix) as pair:
        anna, bert = await pair.one.connect(), await pair.one.connect(BERT)
        await pair.one.bell.push(["anna"], content())
        await pair.one.idle()
        told(anna), told(bert)
        await pair.one.bell.push(["anna", "bert"], content())
        assert told(anna) == [] and [name for name, _ in told(bert)] == ["notification", "notification:count"]


@aio
async def test_a_notification_read_on_one_socket_is_read_on_all(valkey_url: str, prefix: str) -> None:
    async with a_pair(valkey_url, prefix) as pair:
        for n in range(3):
            await pair.one.bell.push(["anna"], content(f"n{n}"))
        desk, phone = await pair.one.connect(), await pair.two.connect()
        told(desk), told(phone)
        assert (await pair.one.bell.mark_read(desk, MarkRead("n1"))).unread == 2
        assert told(desk) == [count(2)]
        assert told(phone) == [count(2), ("notification:read", {"ids": ["n1"]})]
        assert (await pair.two.bell.mark_read(phone, MarkRead("n1"))).unread == 2
        assert told(desk) == told(phone) == [count(2)], "nothing new was read"
        assert (await pair.two.bell.mark_all_read(phone, Nothing())).unread == 0
        assert told(desk) == [count(0), ("notification:read", {"ids": ["n0", "n2"]})]
        with pytest.raises(RtError, match="NOT_FOUND"):
            await pair.one.bell.mark_read(desk, MarkRead("never"))


@aio
async def test_a_count_that_arrives_late_is_corrected(valkey_url: str, prefix: str) -> None:
    """Node two's change comes between node one's change and its telling: one's older count arrives last."""
    async with a_pair(valkey_url, prefix) as pair:
        await pair.one.bell.push(["anna"], content("n1"))
        await pair.one.bell.push(["anna"], content("n2"))
        await pair.one.pass_time(SETTLE_MS)
        desk = await pair.one.connect()
        told(desk)
        marked = await pair.one.store.mark_read("anna", ["n1"])
        await pair.two.bell.mark_read(await pair.two.connect(), MarkRead("n2"))
        await pair.one.bell._marked(desk, marked)
        assert [data["unread"] for name, data in told(desk) if name == "notification:count"] == [0, 1]
        await pair.two.pass_time(SETTLE_MS)
        assert told(desk) == []
        await pair.one.pass_time(SETTLE_MS)
        assert told(desk) == [count(0)]
        await pair.one.pass_time(SETTLE_MS)
        assert told(desk) == [] and pair.one.bell._published_counts == {}


@aio
async def test_the_list_is_read_in_pages(valkey_url: str, prefix: str) -> None:
    async with a_pair(valkey_url, prefix) as pair:
        for n in range(3):
            await pair.one.bell.push(["anna"], content(f"n{n}"))
        anna = await pair.one.connect()
        first = await pair.one.bell.page(anna, ListNotifications(limit=2))
        assert ([n.id for n in first.notifications], first.more, first.unread) == (["n2", "n1"], True, 3)
        rest = await pair.one.bell.page(anna, ListNotifications("n1"))
        assert ([n.id for n in rest.notifications], rest.more) == (["n0"], False)


@aio
async def test_an_unpublished_push_is_published_by_the_next_attempt_or_the_leader(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_pair(valkey_url, prefix) as pair:
        anna, bert = await pair.one.connect(), await pair.two.connect(BERT)
        told(anna), told(bert)
        pair.log.away = True
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await pair.one.bell.push(["anna", "bert"], content())
        pair.log.away = False
        await pair.two.bell.push(["anna"], content())
        assert [name for name, _ in told(anna)] == ["notification", "notification:count"]
        await pair.two.idle()

        store = pair.one.store.pending
        overdue = store.overdue
        monkeypatch.setattr(store, "overdue", lambda: overdue(age_ms=0))
        await asyncio.sleep(0.005)
        await pair.one.bell.publish_overdue()
        assert [name for name, _ in told(bert)] == ["notification", "notification:count"]
        await pair.one.idle()
        assert await overdue(age_ms=0) == [] and told(anna) == []


@aio
async def test_a_count_that_was_unknown_on_connect_follows_later(prefix: str, valkey_url: str) -> None:
    valkey = Valkey(valkey_url, prefix)  # not started: away
    pair = Pair(valkey)
    anna = await pair.one.connect()
    await pair.one.pass_time(RETRY_MS)
    assert told(anna) == []
    await valkey.start()
    await pair.one.pass_time(RETRY_MS)
    assert told(anna) == [count(0)]
    await pair.one.bell.close()
    await valkey.close()


@aio
async def test_one_push_notifies_many_users(valkey_url: str, prefix: str) -> None:
    async with a_pair(valkey_url, prefix) as pair:
        users = [f"u{n}" for n in range(250)]
        await pair.one.bell.push(users, content())
        rooms = [event.rooms for event in pair.log.log if event.name == "notification"]
        assert sorted(room for (room,) in rooms) == sorted(f"user:{user}" for user in users)
        payloads: list[Any] = [json.loads(event.payload)["id"] for event in pair.log.log]
        assert set(payloads) == {"n1"}

"""What the back end is told of each change: entries of its types, with the same ids when it is published again."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from insightdesk_rt.engine.dispatch.namespace import FeedEntry
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.helpdesk.features import FEATURES
from insightdesk_rt.helpdesk.notifications.store import Content
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment, TicketChange
from tests.support.aio import aio, until
from tests.support.whole_desk import ANNA, BERT, CARL, a_whole_desk

ROOT = Actor("root", "Root")  # type: ignore[arg-type]


def types(told: list[FeedEntry]) -> list[str]:
    return [one.data.type for one in told]


def data(entry: FeedEntry) -> Any:
    return msgspec.to_builtins(entry.data)


@aio
async def test_each_change_of_a_ticket_is_told(valkey_url: str, prefix: str) -> None:
    async with a_whole_desk(valkey_url, prefix) as whole:
        tickets = whole.desk.tickets
        await tickets.apply("42", TicketChange(subject="S", assigneeId="anna", by=ROOT))
        await tickets.apply("42", TicketChange(status="open", watchers=["bert"]))
        await tickets.apply("42", TicketChange(assigneeId=None))
        await tickets.comment("42", Comment("c1", "note", ROOT, "only for us"), remember=True)
        await tickets.comment("42", Comment("c1", "note", ROOT, "only for us"), remember=True)
        await tickets.remove("42")
        created, assigned, updated, again, unassigned, commented, deleted = whole.told
        assert types(whole.told) == [
            "ticket.created", "ticket.assigned", "ticket.updated", "ticket.updated", "ticket.assigned",
            "ticket.commented", "ticket.deleted",
        ]  # fmt: skip
        assert data(created)["ticket"]["subject"] == "S" and data(created)["by"] == {"id": "root", "name": "Root"}
        assert data(assigned)["from"] is None and data(assigned)["to"] == "anna"
        assert data(updated)["changes"] == {"status": ("new", "open"), "watchers": ([], ["bert"])}
        assert data(again)["ticket"]["assigneeId"] is None and data(unassigned)["to"] is None
        assert data(commented)["comment"]["kind"] == "note" and data(commented)["comment"]["excerpt"] == "only for us"
        assert data(deleted) == {"ticketId": "42", "version": 4}
        assert len({one.id for one in whole.told}) == 7


@aio
async def test_a_chat_is_told_from_its_start_to_its_rating_with_transcript(valkey_url: str, prefix: str) -> None:
    async with a_whole_desk(valkey_url, prefix) as whole:
        for agent in (ANNA, BERT):
            await whole.socket("/chat", agent)
        started = await whole.ask(CARL, "chat:start", clientId="s1", subject="S", text="Hello?")
        chat = {"conversationId": started["conversationId"]}
        await whole.ask(ANNA, "chat:accept", **chat)
        await whole.ask(ANNA, "chat:message", **chat, text="Hi!", clientId="m1")
        await whole.ask(ANNA, "chat:message", **chat, text="Hi!", clientId="m1")
        await whole.ask(ANNA, "chat:transfer", **chat, agentId="bert", note="angry")
        await whole.ask(BERT, "chat:close", **chat)
        await whole.ask(CARL, "chat:rate", **chat, score=5, comment="fine")
        await whole.idle()
        told = {one.data.type: data(one) for one in whole.told if one.data.type.startswith("chat.")}
        assert [kind for kind in types(whole.told) if kind.startswith("chat.")] == [
            "chat.started", "chat.message", "chat.accepted", "chat.message", "chat.transferred", "chat.closed",
            "chat.rated",
        ]  # fmt: skip
        assert told["chat.started"]["customer"] == {"id": "carl", "name": CARL.name}
        assert told["chat.accepted"]["agent"]["id"] == "anna"
        assert told["chat.transferred"]["note"] == "angry" and told["chat.transferred"]["previous"]["id"] == "anna"
        closed = told["chat.closed"]
        assert [one["text"] for one in closed["messages"]] == ["Hello?", "Hi!"] and closed["more"] is False
        assert closed["reason"] == "agent" and closed["by"]["id"] == closed["agent"]["id"] == "bert"
        assert told["chat.rated"] == {**chat, "score": 5, "comment": "fine", "agent": {"id": "bert", "name": BERT.name}}


@aio
async def test_a_chat_that_no_agent_took_is_missed(valkey_url: str, prefix: str) -> None:
    async with a_whole_desk(valkey_url, prefix) as whole:
        started = await whole.ask(CARL, "chat:start", clientId="s1", subject="S")
        await whole.ask(CARL, "chat:close", conversationId=started["conversationId"])
        assert types(whole.told) == ["chat.started", "chat.closed", "chat.missed"]
        assert data(whole.told[2])["reason"] == "customer"


@aio
async def test_presence_is_told_as_online_status_and_offline(valkey_url: str, prefix: str) -> None:
    async with a_whole_desk(valkey_url, prefix) as whole:
        socket = await whole.socket("/presence", ANNA)
        await whole.ask(ANNA, "presence:status", status="busy")
        whole.hub.remove(socket)
        whole.desk.presence.store._grace_ms = 0
        await whole.desk.presence.left(socket, CloseReason.CLIENT_LEFT)

        async def swept() -> bool:
            await whole.desk.presence.connected_users.sweep()
            return len(whole.told) == 3

        await until(swept, "the end of the grace period")
        assert types(whole.told) == ["presence.online", "presence.status", "presence.offline"]
        assert [data(one)["status"] for one in whole.told] == ["online", "busy", "offline"]
        assert {data(one)["userId"] for one in whole.told} == {"anna"} and data(whole.told[2])["lastSeen"]


@aio
async def test_a_notification_is_told_when_it_was_read_or_was_not_in_time(valkey_url: str, prefix: str) -> None:
    async with a_whole_desk(valkey_url, prefix) as whole:
        bell = whole.desk.notifications
        bell._store._unseen_ms = 50
        await bell.push(["anna"], Content("n1", "mention", "Look", data=Raw(b'{"a":1}')))
        await bell.push(["anna"], Content("n2", "mention", "And here"))
        await whole.ask(ANNA, "notification:markRead", id="n2")

        async def unseen() -> bool:
            await bell.publish_overdue()
            return "notification.unseen" in types(whole.told)

        await until(unseen, "n1 is unread for too long")
        await bell.publish_overdue()
        assert types(whole.told) == ["notification.read", "notification.unseen"]
        assert data(whole.told[0])["ids"] == ["n2"]
        assert whole.told[1].data.id == "n1" and bytes(whole.told[1].data.data) == b'{"a":1}'  # type: ignore[attr-defined]
        assert await bell._store.unread("anna") == 1


@aio
async def test_a_change_whose_report_failed_is_published_again_under_the_same_ids(valkey_url: str, prefix: str) -> None:
    """The node that leads finds the record, as after the death of a node between the two."""
    async with a_whole_desk(valkey_url, prefix) as whole:
        refuse = True
        tried: list[str] = []

        async def tell(entries: Any) -> None:
            tried.extend(one.id for one in entries)
            if refuse:
                raise RtError("UNAVAILABLE")

        whole.desk.tickets._relay._tell = lambda record: _told(tell, record)
        try:
            await whole.desk.tickets.apply("42", TicketChange(subject="S"))
            raise AssertionError("a change is acknowledged although the back end was not told")
        except RtError as refused:
            assert refused.code == "UNAVAILABLE"
        assert await whole.owed() == ["created"]
        refuse = False
        await whole.desk.tickets._relay.publish(await whole.desk.tickets._tickets.pending.overdue(-1))
        assert await whole.owed() == []
        assert len(tried) == 2 and len(set(tried)) == 1
        assert sum(event.name == "ticket:created" for event in whole.log.log) == 1


async def _told(tell: Any, record: Any) -> None:
    await tell([FeedEntry(record.id, record.seq, fakes_report())])


def fakes_report() -> Any:
    return FEATURES[0].reports[-1]("42", 1)


def test_reports_of_all_features_have_types_of_their_own() -> None:
    found = [one.type for feature in FEATURES for one in feature.reports]
    assert len(found) == len(set(found)) and all("." in one for one in found)

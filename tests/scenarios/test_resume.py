"""A client that lost its connection returns with its sid, its rooms and all missed events: `socket.recovered`."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.scenarios.story import Story
from tests.scenarios.test_tickets import subscribe
from tests.support.clients import Peer
from tests.support.node_client import NodePeer

resuming_clients = pytest.mark.parametrize("door", ["js-polling", "js-websocket", "js-upgrade"], indirect=True)


async def versions(peer: Peer, ticket: str, *wanted: int) -> None:
    """Check that exactly these versions of the ticket arrive next, in this order."""
    for version in wanted:
        assert (await peer.expect("ticket:updated", {"ticketId": ticket}))["version"] == version
    await peer.not_told("ticket:updated", {"ticketId": ticket})


async def changed(story: Story, ticket: str, *versions: int) -> None:
    for version in versions:
        answer = await story.push("PUT", f"/tickets/{ticket}", {"subject": f"version {version}"})
        assert answer["version"] == version


@resuming_clients
async def test_missed_events_come_once_in_order_and_rooms_are_kept(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await subscribe(ada, ticket)
    await changed(story, ticket, 2)
    await versions(ada, ticket, 2)
    sid = ada.sid
    await ada.drop()
    await changed(story, ticket, 3, 4)
    ada.mend()
    await ada.again(deadline_s=15)
    assert ada.recovered and ada.sid == sid
    await versions(ada, ticket, 3, 4)
    await changed(story, ticket, 5)
    await versions(ada, ticket, 5)


@resuming_clients
async def test_a_client_that_closes_its_engine_and_reconnects_is_recovered(story: Story) -> None:
    """Over long-polling that sends Engine.IO's close packet; only a client that leaves for good sends DISCONNECT."""
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets", reconnection=True)
    assert isinstance(ada, NodePeer)
    await subscribe(ada, ticket)
    sid = ada.sid
    ada.close_engine()
    await ada.again()
    assert ada.recovered and ada.sid == sid
    await changed(story, ticket, 2)
    await versions(ada, ticket, 2)


@pytest.mark.parametrize("door", ["js-polling"], indirect=True)
async def test_a_client_whose_poll_a_proxy_answers_with_502_is_recovered(story: Story) -> None:
    """The stock client then posts a close packet and connects again, with its pid."""
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await subscribe(ada, ticket)
    sid = ada.sid
    ada.answer_502()
    await ada.emit("are:you:there", {})  # the answer ends the poll that is parked; the next poll gets the 502
    await ada.again(deadline_s=15)
    assert ada.recovered and ada.sid == sid
    await changed(story, ticket, 2)
    await versions(ada, ticket, 2)


@resuming_clients
async def test_a_client_that_leaves_its_namespace_is_not_recovered(story: Story) -> None:
    """The other half of the rule: DISCONNECT ends the session, with or without a close packet behind it."""
    ada = await story.join(story.agent(), "/tickets")
    sid = ada.sid
    await ada.disconnect()
    assert isinstance(ada, NodePeer)
    ada.connect()
    await ada.again()
    assert not ada.recovered and ada.sid != sid


@resuming_clients
async def test_recovery_works_before_the_first_event_and_repeatedly(story: Story) -> None:
    """Cases in which other servers fail: no offset yet, and a second resume."""
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await subscribe(ada, ticket)
    for turn in (1, 2, 3):
        await ada.drop()
        await changed(story, ticket, turn + 1)
        ada.mend()
        await ada.again(turn + 1, deadline_s=15)
        assert ada.recovered, turn
        await versions(ada, ticket, turn + 1)


@resuming_clients
async def test_a_client_that_is_disconnected_repeatedly_during_replay_gets_each_event_once(
    story: Story,
) -> None:
    """Each connection is cut some bytes later than the one before, so that the cuts fall on every part of the replay:
    within the handshake, before and behind the answer to CONNECT, between events and within one.
    """
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await subscribe(ada, ticket)
    sid, connects, missed = ada.sid, ada.connects, range(2, 14)
    await ada.drop()
    await changed(story, ticket, *missed)
    assert ada._cable is not None
    ada._cable.rations = itertools.islice(itertools.count(150, 173), 16)
    ada.mend()
    for version in missed:
        assert (await ada.expect("ticket:updated", {"ticketId": ticket}, 60))["version"] == version
    ada._cable.rations = None
    await ada.again(connects + 1, deadline_s=30)
    await changed(story, ticket, 14)
    assert (await ada.expect("ticket:updated", {"ticketId": ticket}))["version"] == 14, "the next one, and no double"
    await ada.not_told("ticket:updated", {"ticketId": ticket})
    assert ada.recovered and ada.sid == sid


@resuming_clients
async def test_a_ticket_deleted_and_restored_during_an_absence_is_closed(story: Story) -> None:
    """It has a new life that the client has not subscribed to: a page that shows the old one would stay silent."""
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await subscribe(ada, ticket)
    await changed(story, ticket, 2)
    await versions(ada, ticket, 2)
    await ada.drop()
    await story.push("DELETE", f"/tickets/{ticket}")
    await story.push("PUT", f"/tickets/{ticket}", {"subject": "restored", "status": "open", "teamId": story.team})
    ada.mend()
    await ada.again(deadline_s=15)
    assert ada.recovered
    await ada.expect("ticket:deleted", {"ticketId": ticket})
    await ada.expect("ticket:unsubscribed", {"ticketId": ticket})
    await ada.ok("ticket:subscribe", {"ticketId": ticket})
    await story.push("PUT", f"/tickets/{ticket}", {"subject": "new"})
    assert (await ada.expect("ticket:updated", {"ticketId": ticket}))["changes"] == {"subject": ["restored", "new"]}


@resuming_clients
async def test_events_from_before_a_room_was_joined_are_not_replayed(story: Story) -> None:
    one, two = await story.ticket("one"), await story.ticket("two")
    ada = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await subscribe(ada, one)
    await changed(story, one, 2)
    await versions(ada, one, 2)
    await changed(story, two, 2, 3)
    await subscribe(ada, two)
    await ada.drop()
    await changed(story, two, 4)
    ada.mend()
    await ada.again(deadline_s=15)
    assert ada.recovered
    await versions(ada, two, 4)
    await versions(ada, one)


@resuming_clients
async def test_a_client_that_lost_access_meanwhile_gets_nothing_of_the_ticket(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await subscribe(ada, ticket)
    await ada.drop()
    await story.push("PUT", f"/tickets/{ticket}", {"teamId": story.id("other"), "subject": "secret"})
    ada.mend()
    await ada.again(deadline_s=15)
    assert (await ada.expect("ticket:unsubscribed", {"ticketId": ticket}))["reason"] == "access"
    await ada.not_told("ticket:updated", {"ticketId": ticket})


@resuming_clients
async def test_a_client_that_disconnected_by_itself_starts_a_new_session(story: Story) -> None:
    ada = await story.join(story.agent(), "/tickets")
    sid = ada.sid
    await ada.disconnect()
    again = await story.join(story.agent(), "/tickets")
    assert not again.recovered and again.sid != sid


async def test_a_chat_message_that_was_missed_is_not_lost(story: Story) -> None:
    """Also through clients that know of no recovery: they join again with the offset they had."""
    customer = await story.join(story.customer(), "/chat")
    started = await customer.ok("chat:start", {"clientId": "s", "text": "Hello"})
    chat = started["conversationId"]
    story.chats.append(chat)
    ada = await story.join(story.agent(), "/chat")
    await ada.ok("chat:accept", {"conversationId": chat})
    joined = await ada.ok("chat:join", {"conversationId": chat})
    await ada.disconnect()
    await asyncio.gather(
        *(customer.ok("chat:message", {"conversationId": chat, "clientId": f"m{n}", "text": f"{n}"}) for n in range(3))
    )
    ada = await story.join(story.agent(), "/chat")
    await ada.ok("chat:join", {"conversationId": chat, "since": joined["offset"]})
    texts = [(await ada.expect("chat:message"))["text"] for _ in range(3)]
    assert sorted(texts) == ["0", "1", "2"]

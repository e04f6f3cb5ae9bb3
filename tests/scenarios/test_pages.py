"""Real pages stay within the default limits: opened, reloaded five times a minute, and used offline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.scenarios.story import Story
from tests.scenarios.test_chat import start
from tests.support.clients import Peer
from tests.support.node_client import NodePeer

LOADS = 6  # opened once, reloaded five times
TICKETS, CHATS = 150, 100
PATIENCE_S = 30.0

# One door of each protocol: limits are counted behind them.
one_door_each = pytest.mark.parametrize("door", ["js-websocket", "native"], indirect=True)


async def all_ok(peer: Peer, event: str, asks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make all calls without waiting in between, as a page does. Every answer must be ok."""
    answers = await asyncio.gather(*(peer.call(event, ask, deadline_s=PATIENCE_S) for ask in asks))
    refused = [answer for answer in answers if not answer["ok"]]
    assert not refused, f"{len(refused)} of {len(asks)} {event}: {refused[0]}"
    return answers


async def some_tickets(story: Story) -> list[str]:
    ids: list[str] = []
    for begin in range(0, TICKETS, 10):
        ids += await asyncio.gather(*(story.ticket(f"t{number}") for number in range(begin, begin + 10)))
    return ids


@one_door_each
async def test_a_list_of_150_tickets_may_be_reloaded_five_times_in_a_minute(story: Story) -> None:
    """A subscribe and a view call for each ticket, as the demo's page makes them."""
    tickets = await some_tickets(story)
    for _ in range(LOADS):
        ada = await story.join(story.agent(), "/tickets")
        asked = [{"ticketId": ticket} for ticket in tickets]
        subscribing = asyncio.ensure_future(all_ok(ada, "ticket:subscribe", asked))
        viewing = asyncio.ensure_future(all_ok(ada, "ticket:view", [{**ask, "state": "away"} for ask in asked]))
        await asyncio.gather(subscribing, viewing)
        await all_ok(ada, "ticket:typing", [{"ticketId": tickets[0]}] * 3)
        await ada.close()


@one_door_each
async def test_a_list_of_150_tickets_is_opened_by_one_call(story: Story) -> None:
    """Each ticket has its own result; a ticket that may not be read does not affect the others."""
    tickets = await some_tickets(story)
    secret = await story.ticket("secret", teamId=story.id("others"))
    for _ in range(LOADS):
        ada = await story.join(story.agent(), "/tickets")
        answer = await ada.call("ticket:subscribe", {"ticketIds": [*tickets, secret]}, deadline_s=PATIENCE_S)
        opened = answer["tickets"]
        assert [one["ticketId"] for one in opened] == [*tickets, secret]
        assert [one["ok"] for one in opened] == [True] * TICKETS + [False]
        assert opened[-1]["error"]["code"] == "FORBIDDEN" and "offset" in opened[0]
        await ada.close()
    ada = await story.join(story.agent(), "/tickets")
    mixed = await ada.call("ticket:subscribe", {"ticketIds": [tickets[0], "no id", tickets[1], 7]})
    assert [one["ok"] for one in mixed["tickets"]] == [True, False, True, False]
    wrong = mixed["tickets"][1]
    assert (wrong["ticketId"], wrong["error"]["code"], wrong["error"]["field"]) == (
        "no id",
        "BAD_REQUEST",
        "ticketIds[1]",
    )
    ada = await story.join(story.agent(), "/tickets")
    await ada.ok("ticket:subscribe", {"ticketIds": tickets[:3]})
    for ticket in tickets[:3]:
        await ada.expect("ticket:subscribed", {"ticketId": ticket})
    await story.push("PUT", f"/tickets/{tickets[2]}", {"subject": "Still burning"})
    await ada.expect("ticket:updated", {"ticketId": tickets[2]})


@one_door_each
async def test_an_agent_with_100_chats_may_reload_five_times_in_a_minute(story: Story) -> None:
    ada = await story.join(story.agent(), "/chat")
    chats: list[str] = []
    for number in range(CHATS // 10):
        customer = await story.join(story.customer(f"Carl{number}"), "/chat")
        for client_id in range(10):
            chats.append(await start(story, customer, str(client_id), text="Help"))
    await all_ok(ada, "chat:accept", [{"conversationId": chat} for chat in chats])
    for _ in range(LOADS):
        ada = await story.join(story.agent(), "/chat")
        joining = asyncio.ensure_future(all_ok(ada, "chat:join", [{"conversationId": chat} for chat in chats]))
        reading = asyncio.ensure_future(all_ok(ada, "chat:history", [{"conversationId": chat} for chat in chats]))
        await asyncio.gather(joining, reading)
        await all_ok(ada, "chat:read", [{"conversationId": chat, "upTo": 1} for chat in chats])
        await all_ok(ada, "chat:typing", [{"conversationId": chats[0]}] * 3)
        await ada.close()


@pytest.mark.parametrize("door", ["js-websocket", "js-polling"], indirect=True)
@pytest.mark.parametrize("lines", [10, 25])
async def test_messages_typed_offline_all_arrive_in_order(story: Story, lines: int) -> None:
    """A stock client queues emits while it is offline, and sends all of them together when it reconnects."""
    carl = await story.join(story.customer(), "/chat", reconnection=True)
    assert isinstance(carl, NodePeer)
    ada = await story.join(story.agent(), "/chat")
    chat = await start(story, carl)
    await ada.ok("chat:accept", {"conversationId": chat})
    carl.close_engine()
    for number in range(lines):
        await carl.emit("chat:message", {"conversationId": chat, "text": f"{number}", "clientId": f"{number}"})
    await carl.again()
    for number in range(lines):
        assert (await ada.expect("chat:message", deadline_s=PATIENCE_S))["text"] == f"{number}"
    assert not carl.pending("error")

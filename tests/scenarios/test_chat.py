"""A conversation from the customer's first message to its rating."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from tests.scenarios.story import Story, at_once
from tests.support.clients import Peer


async def start(story: Story, customer: Peer, client_id: str = "start", **fields: Any) -> str:
    """Start a conversation of the customer with the story's team, and return its id."""
    answer = await customer.ok("chat:start", {"teamId": story.team, "clientId": client_id, **fields})
    conversation_id: str = answer["conversationId"]
    story.chats.append(conversation_id)
    return conversation_id


async def talking(story: Story) -> tuple[Peer, Peer, str]:
    """Return Carl the customer, Ada the agent, and the conversation they have."""
    carl = await story.join(story.customer(), "/chat")
    ada = await story.join(story.agent(), "/chat")
    chat = await start(story, carl)
    await ada.ok("chat:accept", {"conversationId": chat})
    await carl.expect("chat:accepted", {"conversationId": chat})
    return carl, ada, chat


async def say(peer: Peer, chat: str, text: str, client_id: str | None = None) -> dict[str, Any]:
    return await peer.ok("chat:message", {"conversationId": chat, "text": text, "clientId": client_id or text})


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in messages]


async def test_a_customer_starts_a_conversation_that_an_agent_accepts(story: Story) -> None:
    ada, bob, carl = story.agent("Ada"), story.agent("Bob"), story.customer()
    ada_peer, bob_peer = [await story.join(who, "/chat") for who in (ada, bob)]
    for peer in (ada_peer, bob_peer):
        assert story.team not in str(await peer.expect("chat:queue", lambda queue: "waiting" in queue))
    carl_peer = await story.join(carl, "/chat")
    ask = {"teamId": story.team, "clientId": "c-1", "subject": "Printer", "text": "It burns"}
    answer = await carl_peer.ok("chat:start", ask)
    chat = answer["conversationId"]
    story.chats.append(chat)
    assert answer["position"] == 1
    for peer in (ada_peer, bob_peer):
        (entry,) = (await peer.expect("chat:queue", lambda queue: queue.get("added")))["added"]
        assert (entry["conversationId"], entry["customer"], entry["subject"]) == (chat, carl.person, "Printer")

    accepted = await ada_peer.ok("chat:accept", {"conversationId": chat})
    assert accepted["conversation"]["state"] == "active"
    assert texts(accepted["messages"]) == ["It burns"]
    told = await carl_peer.expect("chat:accepted")
    assert (told["conversationId"], told["agent"]) == (chat, ada.person)
    assert (await bob_peer.expect("chat:queue", lambda queue: queue.get("removed")))["removed"] == [chat]

    for speaker, who, listener in ((ada_peer, ada, carl_peer), (carl_peer, carl, ada_peer)):
        said = await say(speaker, chat, f"Hello from {who.name} 😀")
        assert datetime.fromisoformat(said["at"])
        heard = await listener.expect("chat:message", {"id": said["id"]})
        assert (heard["conversationId"], heard["text"]) == (chat, f"Hello from {who.name} 😀")
        assert (heard["author"]["id"], heard["author"]["name"]) == (who.id, who.name)
    await bob_peer.not_told("chat:message")


async def test_a_client_id_starts_a_conversation_or_sends_a_message_once(story: Story) -> None:
    """A client that lost the answer repeats the call."""
    carl, ada, chat = await talking(story)
    again = await carl.ok("chat:start", {"teamId": story.team, "clientId": "start"})
    assert again["conversationId"] == chat
    first = await say(carl, chat, "Hello?", "m-1")
    assert await say(carl, chat, "Hello?", "m-1") == first
    await say(carl, chat, "Are you there?", "m-2")
    assert (await ada.expect("chat:message"))["text"] == "Hello?"
    assert (await ada.expect("chat:message"))["text"] == "Are you there?"
    await ada.not_told("chat:message")


async def waits(story: Story) -> None:
    ada = await story.join(story.agent(), "/chat")
    waiting = [await story.join(story.customer(f"C{n}"), "/chat") for n in range(3)]
    chats = []
    for place, peer in enumerate(waiting, 1):
        answer = await peer.ok("chat:start", {"teamId": story.team, "clientId": "1"})
        assert answer["position"] == place
        chats.append(answer["conversationId"])
    story.chats += chats
    await ada.ok("chat:accept", {"conversationId": chats[0]})
    assert (await waiting[1].expect("chat:queued", {"position": 1}))["conversationId"] == chats[1]
    assert (await waiting[2].expect("chat:queued", {"position": 2}))["conversationId"] == chats[2]
    await waiting[1].ok("chat:close", {"conversationId": chats[1]})
    await waiting[2].expect("chat:queued", {"position": 1})


async def test_a_waiting_customer_gets_the_place_and_each_change_of_it(every_story: list[Story]) -> None:
    await at_once(waits, every_story)


async def test_exactly_one_agent_gets_the_conversation(story: Story) -> None:
    carl = await story.join(story.customer(), "/chat")
    agents = [await story.join(story.agent(f"Agent{n}"), "/chat") for n in range(4)]
    chat = await start(story, carl)
    answers = await asyncio.gather(*(agent.call("chat:accept", {"conversationId": chat}) for agent in agents))
    lost = [answer["error"] for answer in answers if not answer["ok"]]
    assert [error["code"] for error in lost] == ["CONFLICT"] * 3
    winner = (await carl.expect("chat:accepted"))["agent"]
    assert all(error["agent"] == winner for error in lost)
    await carl.not_told("chat:accepted")


async def test_the_other_side_sees_typing_until_it_stops(story: Story) -> None:
    carl, ada, chat = await talking(story)
    await carl.emit("chat:typing", {"conversationId": chat})
    assert await ada.expect("chat:typing") == {"conversationId": chat, "user": story.customer().person}
    await carl.emit("chat:stopTyping", {"conversationId": chat})
    stopped = {"conversationId": chat, "userId": story.customer().id}
    assert await ada.expect("chat:stopTyping") == stopped
    await carl.emit("chat:typing", {"conversationId": chat})
    await ada.expect("chat:typing")
    await say(carl, chat, "There")  # what is said is typed no more
    assert await ada.expect("chat:stopTyping") == stopped
    await carl.not_told("chat:typing")
    await carl.not_told("chat:stopTyping")


async def typing_ends(story: Story) -> None:
    carl, ada, chat = await talking(story)
    await carl.ok("chat:typing", {"conversationId": chat})
    await ada.expect("chat:typing")
    await ada.expect("chat:stopTyping", deadline_s=7)
    dying = await story.join(story.customer(), "/chat", cable=True)
    await dying.ok("chat:join", {"conversationId": chat})
    await dying.ok("chat:typing", {"conversationId": chat})
    await ada.expect("chat:typing")
    await dying.drop()
    await ada.expect("chat:stopTyping", deadline_s=3)


async def test_typing_ends_by_itself_and_when_the_user_disconnects(every_story: list[Story]) -> None:
    await at_once(typing_ends, every_story)


async def test_the_other_side_sees_the_read_mark_which_never_moves_back(story: Story) -> None:
    carl, ada, chat = await talking(story)
    first, second = await say(carl, chat, "one"), await say(carl, chat, "two")
    await ada.emit("chat:read", {"conversationId": chat, "upTo": second["id"]})
    read = await carl.expect("chat:read")
    assert read == {"conversationId": chat, "userId": story.agent().id, "upTo": second["id"]}
    await ada.ok("chat:read", {"conversationId": chat, "upTo": first["id"]})
    joined = await carl.ok("chat:join", {"conversationId": chat})
    assert joined["conversation"]["readUpTo"]["agent"] == second["id"]


async def test_history_is_read_in_pages(story: Story) -> None:
    carl, ada, chat = await talking(story)
    said = []
    for n in range(8):  # five a second each
        said.append(await say((carl, ada)[n % 2], chat, f"message {n}"))
    newest = await carl.ok("chat:history", {"conversationId": chat, "limit": 3})
    assert (texts(newest["messages"]), newest["more"]) == (["message 5", "message 6", "message 7"], True)
    older = await ada.ok("chat:history", {"conversationId": chat, "limit": 100, "before": newest["messages"][0]["id"]})
    assert (texts(older["messages"]), older["more"]) == ([f"message {n}" for n in range(5)], False)
    assert [message["id"] for message in older["messages"]] == [answer["id"] for answer in said[:5]]


async def test_a_customer_who_returns_finds_the_conversation_and_its_messages(story: Story) -> None:
    carl, ada, chat = await talking(story)
    offset = (await carl.ok("chat:join", {"conversationId": chat}))["offset"]
    await carl.disconnect()
    await say(ada, chat, "Still there?")
    back = await story.join(story.customer(), "/chat")
    shown = await back.expect("chat:conversation")
    assert shown["conversation"]["conversationId"] == chat
    joined = await back.ok("chat:join", {"conversationId": chat, "since": offset})
    assert texts(joined["messages"]) == ["Still there?"]
    assert (await back.expect("chat:message"))["text"] == "Still there?"
    await say(ada, chat, "Ah!")
    assert (await back.expect("chat:message"))["text"] == "Ah!"
    await back.not_told("chat:message")


async def test_a_device_that_left_a_conversation_gets_no_more_events(story: Story) -> None:
    carl, ada, chat = await talking(story)
    phone = await story.join(story.customer(), "/chat")
    await phone.ok("chat:join", {"conversationId": chat})
    await say(ada, chat, "to both")
    for peer in (carl, phone):
        await peer.expect("chat:message", {"text": "to both"})
    await phone.ok("chat:leave", {"conversationId": chat})
    await say(ada, chat, "to one")
    await carl.expect("chat:message", {"text": "to one"})
    await phone.not_told("chat:message")


async def test_an_agent_transfers_to_another_with_a_note_that_the_customer_never_gets(story: Story) -> None:
    carl, ada, chat = await talking(story)
    bob_who = story.agent("Bob")
    bob = await story.join(bob_who, "/chat")
    ask = {"conversationId": chat, "agentId": bob_who.id, "note": "he is angry"}
    await ada.ok("chat:transfer", ask)
    moved = await bob.expect("chat:transferred")
    assert (moved["conversationId"], moved["agent"]["id"], moved["note"]) == (chat, bob_who.id, "he is angry")
    assert (await carl.expect("chat:transferred"))["agent"]["id"] == bob_who.id
    assert texts((await bob.ok("chat:join", {"conversationId": chat}))["messages"]) == []
    await say(bob, chat, "I am Bob")
    await carl.expect("chat:message", {"text": "I am Bob"})
    assert "angry" not in str(carl.events)
    error = await ada.error("chat:transfer", {"conversationId": chat, "agentId": story.id("nobody")})
    assert error["code"] in ("CONFLICT", "FORBIDDEN")


async def test_an_agent_transfers_to_another_team(story: Story) -> None:
    carl, ada, chat = await talking(story)
    other = story.id("other")
    otto = await story.join(story.agent("Otto", team=other), "/chat")
    assert (await otto.error("chat:join", {"conversationId": chat}))["code"] == "FORBIDDEN"
    await ada.ok("chat:transfer", {"conversationId": chat, "teamId": other})
    (entry,) = (await otto.expect("chat:queue", lambda queue: queue.get("added")))["added"]
    assert entry["conversationId"] == chat
    moved = await carl.expect("chat:transferred")
    assert (moved["state"], moved["teamId"]) == ("waiting", other)
    await otto.ok("chat:accept", {"conversationId": chat})
    await carl.expect("chat:accepted", lambda told: told["agent"]["id"] == story.agent("Otto").id)
    ada.forget()
    await say(carl, chat, "not for Ada any more")
    await otto.expect("chat:message")
    await ada.not_told("chat:message")


@pytest.mark.parametrize("who", ["customer", "agent"])
async def test_either_side_closes_and_the_customer_rates(story: Story, who: str) -> None:
    carl, ada, chat = await talking(story)
    rating = {"conversationId": chat, "score": 4, "comment": "quick"}
    assert (await carl.error("chat:rate", rating))["code"] == "CONFLICT"
    await (carl if who == "customer" else ada).emit("chat:close", {"conversationId": chat})
    for peer in (carl, ada):
        closed = await peer.expect("chat:closed")
        assert (closed["conversationId"], closed["reason"]) == (chat, who)
    assert (await carl.error("chat:message", {"conversationId": chat, "text": "wait", "clientId": "w"}))[
        "code"
    ] == "CONFLICT"
    assert (await ada.error("chat:rate", rating))["code"] == "FORBIDDEN"
    await carl.emit("chat:rate", rating)
    rated = await ada.expect("chat:rated")
    assert (rated["conversationId"], rated["score"], rated["comment"]) == (chat, 4, "quick")
    assert (await carl.error("chat:rate", {**rating, "score": 1}))["code"] == "CONFLICT"


async def test_only_its_members_may_use_a_conversation(story: Story) -> None:
    carl, ada, chat = await talking(story)
    mallory = await story.join(story.customer("Mallory"), "/chat")
    otto = await story.join(story.agent("Otto", team=story.id("other")), "/chat")
    about = {"conversationId": chat}
    asks: dict[str, dict[str, Any]] = {
        "chat:join": about,
        "chat:accept": about,
        "chat:message": {**about, "text": "hi", "clientId": "1"},
        "chat:typing": about,
        "chat:stopTyping": about,
        "chat:read": {**about, "upTo": 1},
        "chat:history": {**about, "limit": 10},
        "chat:transfer": {**about, "agentId": story.agent("Otto").id},
        "chat:close": about,
        "chat:rate": {**about, "score": 1},
    }
    for event, ask in asks.items():
        for thief in (mallory, otto):
            assert (await thief.error(event, ask))["code"] == "FORBIDDEN", event
        error = await mallory.error(event, {**ask, "conversationId": story.id("none")})
        assert error["code"] == "FORBIDDEN", "a missing conversation looks like a foreign one"
    await say(carl, chat, "secret")
    await ada.expect("chat:message")
    for thief in (mallory, otto):
        assert "secret" not in str(thief.events)
        await thief.not_told("chat:message")


async def test_customers_start_and_agents_accept_conversations(story: Story) -> None:
    carl = await story.join(story.customer(), "/chat")
    ada = await story.join(story.agent(), "/chat")
    assert (await ada.error("chat:start", {"clientId": "1"}))["code"] == "FORBIDDEN"
    chat = await start(story, carl)
    assert (await carl.error("chat:accept", {"conversationId": chat}))["code"] == "FORBIDDEN"
    transfer = {"conversationId": chat, "teamId": story.id("other")}
    assert (await carl.error("chat:transfer", transfer))["code"] == "FORBIDDEN"


async def test_messages_beyond_a_burst_of_thirty_are_dropped(story: Story) -> None:
    """Thirty at once, and five more for each second that the burst takes."""
    carl, ada, chat = await talking(story)
    asks = [{"conversationId": chat, "text": f"{n}", "clientId": f"{n}"} for n in range(60)]
    begun_s = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(carl.call("chat:message", ask) for ask in asks))
    took_s = asyncio.get_running_loop().time() - begun_s
    taken = [n for n, answer in enumerate(answers) if answer["ok"]]
    assert taken[:30] == list(range(30)) and len(taken) <= 31 + 5 * took_s
    refused = next(answer["error"] for answer in answers if not answer["ok"])
    assert (refused["code"], refused["retryAfter"]) == ("RATE_LIMITED", 1)
    for n in taken:
        assert (await ada.expect("chat:message"))["text"] == f"{n}"
    await ada.not_told("chat:message")


async def test_a_message_of_a_customer_who_dies_right_after_the_answer_is_kept(story: Story) -> None:
    _, ada, chat = await talking(story)
    phone = await story.join(story.customer(), "/chat", cable=True)
    await say(phone, chat, "battery is at one per c")
    await phone.drop()
    await ada.expect("chat:message", {"text": "battery is at one per c"})

"""Typing on a ticket: the others see it, and it always ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.scenarios.story import Story, at_once
from tests.scenarios.test_tickets import ids, subscribe


async def test_typing_reaches_the_others_and_not_the_user_who_types(story: Story) -> None:
    ticket = await story.ticket(requesterId=story.customer().id)
    ada = story.agent("Ada")
    ada_peer = await story.join(ada, "/tickets")
    bob = await story.join(story.agent("Bob"), "/tickets")
    carl = await story.join(story.customer(), "/tickets")
    for peer in (ada_peer, bob, carl):
        await subscribe(peer, ticket)

    await ada_peer.emit("ticket:typing", {"ticketId": ticket})
    for peer in (bob, carl):
        assert await peer.expect("ticket:typing") == {"ticketId": ticket, "user": ada.person}
    await ada_peer.emit("ticket:stopTyping", {"ticketId": ticket})
    for peer in (bob, carl):
        assert await peer.expect("ticket:stopTyping") == {"ticketId": ticket, "userId": ada.id}
    await ada_peer.not_told("ticket:typing")
    await ada_peer.not_told("ticket:stopTyping")


async def test_a_client_that_opens_the_ticket_later_sees_who_types(story: Story) -> None:
    ticket = await story.ticket()
    ada = story.agent("Ada")
    ada_peer = await story.join(ada, "/tickets")
    await subscribe(ada_peer, ticket)
    await ada_peer.ok("ticket:typing", {"ticketId": ticket})
    bob = await story.join(story.agent("Bob"), "/tickets")
    assert ids((await subscribe(bob, ticket))["typing"]) == {ada.id}
    await ada_peer.ok("ticket:stopTyping", {"ticketId": ticket})
    late = await story.join(story.agent("Late"), "/tickets")
    assert (await subscribe(late, ticket))["typing"] == []


async def test_a_client_that_has_not_opened_the_ticket_may_not_type_on_it(story: Story) -> None:
    ticket = await story.ticket()
    bob = await story.join(story.agent("Bob"), "/tickets")
    await subscribe(bob, ticket)
    mallory = await story.join(story.customer("Mallory"), "/tickets")
    await mallory.emit("ticket:typing", {"ticketId": ticket})
    await mallory.expect("error", {"code": "FORBIDDEN"})
    assert (await mallory.error("ticket:stopTyping", {"ticketId": ticket}))["code"] == "FORBIDDEN"
    await bob.not_told("ticket:typing")
    await bob.not_told("ticket:stopTyping")


@pytest.mark.parametrize("how", ["unsubscribes", "says goodbye", "dies"])
async def test_typing_ends_when_the_user(story: Story, how: str) -> None:
    ticket = await story.ticket()
    ada = story.agent("Ada")
    ada_peer = await story.join(ada, "/tickets", cable=True)
    bob = await story.join(story.agent("Bob"), "/tickets")
    for peer in (ada_peer, bob):
        await subscribe(peer, ticket)
    await ada_peer.ok("ticket:typing", {"ticketId": ticket})
    await bob.expect("ticket:typing")
    if how == "unsubscribes":
        await ada_peer.emit("ticket:unsubscribe", {"ticketId": ticket})
    elif how == "says goodbye":
        await ada_peer.disconnect()
    else:
        await ada_peer.drop()
    # sooner than the five seconds after which typing ends anyhow
    assert await bob.expect("ticket:stopTyping", deadline_s=3) == {"ticketId": ticket, "userId": ada.id}


async def stops_by_itself(story: Story) -> None:
    """Per ticket and user, so that typing in two tickets loses neither."""
    one, two = await story.ticket("one"), await story.ticket("two")
    ada = await story.join(story.agent("Ada"), "/tickets")
    bob = await story.join(story.agent("Bob"), "/tickets")
    for peer in (ada, bob):
        await subscribe(peer, one)
        await subscribe(peer, two)
    await ada.ok("ticket:typing", {"ticketId": one})
    first = time.monotonic()
    await asyncio.sleep(1)  # so that the two ends can be told apart
    await ada.ok("ticket:typing", {"ticketId": two})
    second = time.monotonic()
    await bob.expect("ticket:stopTyping", {"ticketId": one}, deadline_s=15)
    assert time.monotonic() - first > 4.7
    await bob.expect("ticket:stopTyping", {"ticketId": two}, deadline_s=15)
    assert time.monotonic() - second > 4.7
    await bob.not_told("ticket:stopTyping")


async def test_typing_ends_by_itself_five_seconds_after_the_last_keystroke(every_story: list[Story]) -> None:
    await at_once(stops_by_itself, every_story)


async def goes_on(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent("Ada"), "/tickets")
    bob = await story.join(story.agent("Bob"), "/tickets")
    for peer in (ada, bob):
        await subscribe(peer, ticket)
    await ada.ok("ticket:typing", {"ticketId": ticket})
    await asyncio.sleep(3)
    await ada.ok("ticket:typing", {"ticketId": ticket})
    again = time.monotonic()
    await bob.expect("ticket:stopTyping", deadline_s=15)
    assert time.monotonic() - again > 4.7
    await bob.not_told("ticket:stopTyping")


async def test_every_keystroke_restarts_the_five_seconds(every_story: list[Story]) -> None:
    await at_once(goes_on, every_story)

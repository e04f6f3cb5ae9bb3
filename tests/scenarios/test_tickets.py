"""Subscribing to a ticket, access, its viewers, and returning to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.scenarios.story import Story, Who, at_once
from tests.support.clients import Peer


async def subscribe(peer: Peer, ticket_id: str, **fields: Any) -> dict[str, Any]:
    """Subscribe without an acknowledgement, as a front end may; return the data of `ticket:subscribed`."""
    await peer.emit("ticket:subscribe", {"ticketId": ticket_id, **fields})
    subscribed: dict[str, Any] = await peer.expect("ticket:subscribed", {"ticketId": ticket_id})
    return subscribed


def ids(people: list[dict[str, Any]]) -> set[str]:
    return {person["id"] for person in people}


def viewer_states(viewers: list[dict[str, Any]]) -> dict[str, str]:
    return {viewer["user"]["id"]: viewer["state"] for viewer in viewers}


async def test_an_agent_who_subscribes_gets_a_confirmation_and_then_changes(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    subscribed = await subscribe(ada, ticket)
    assert set(subscribed) >= {"ticketId", "offset", "viewers", "typing"}
    await story.push("PUT", f"/tickets/{ticket}", {"status": "pending"})
    updated = await ada.expect("ticket:updated", {"ticketId": ticket})
    assert updated["changes"]["status"] == ["open", "pending"]


async def test_an_acknowledged_subscribe_says_the_same_in_its_answer(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    answer = await ada.ok("ticket:subscribe", {"ticketId": ticket})
    assert answer["ticketId"] == ticket
    assert set(answer) >= {"offset", "viewers", "typing"}


async def test_a_user_who_may_not_read_a_ticket_gets_forbidden_and_nothing_else(story: Story) -> None:
    ticket = await story.ticket(requesterId=story.customer("Carl").id, watchers=[story.customer("Wanda").id])
    witness = await story.join(story.admin(), "/tickets")
    await subscribe(witness, ticket)

    async def turned_away(who: Who, ticket_id: str) -> Peer:
        peer = await story.join(who, "/tickets")
        await peer.emit("ticket:subscribe", {"ticketId": ticket_id})
        await peer.expect("error", {"code": "FORBIDDEN"})
        assert (await peer.error("ticket:subscribe", {"ticketId": ticket_id}))["code"] == "FORBIDDEN"
        return peer

    outside = [
        await turned_away(story.agent("Otto", team=story.id("other")), ticket),
        await turned_away(story.customer("Mallory"), ticket),
        await turned_away(story.agent("Ada"), story.id("no-such-ticket")),
    ]
    await story.push("PUT", f"/tickets/{ticket}", {"subject": "Still on fire"})
    await witness.expect("ticket:updated", {"ticketId": ticket})
    for peer in outside[:2]:
        await peer.not_told("ticket:updated")

    for who in (story.customer("Carl"), story.customer("Wanda"), story.agent("Ada")):
        peer = await story.join(who, "/tickets")
        await subscribe(peer, ticket)


async def test_no_events_come_after_unsubscribe(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    witness = await story.join(story.agent("Bob"), "/tickets")
    await subscribe(ada, ticket)
    await subscribe(witness, ticket)
    await ada.emit("ticket:unsubscribe", {"ticketId": ticket})
    await ada.expect("ticket:unsubscribed", {"ticketId": ticket})
    await story.push("PUT", f"/tickets/{ticket}", {"status": "solved"})
    await witness.expect("ticket:updated")
    await ada.not_told("ticket:updated")
    await ada.ok("ticket:unsubscribe", {"ticketId": ticket})  # idempotent


def shows(who: Who, state: str | None) -> Callable[[dict[str, Any]], bool]:
    return lambda seen: viewer_states(seen["viewers"]).get(who.id) == state


async def test_all_staff_in_the_ticket_see_its_viewers(story: Story) -> None:
    ticket = await story.ticket()
    bob_who = story.agent("Bob")
    ada = await story.join(story.agent("Ada"), "/tickets")
    bob = await story.join(bob_who, "/tickets")
    for peer in (ada, bob):
        await subscribe(peer, ticket)
    for state in ("viewing", "replying", "away"):
        await bob.ok("ticket:view", {"ticketId": ticket, "state": state})
        assert (await ada.expect("ticket:viewers", shows(bob_who, state)))["ticketId"] == ticket
    late = await story.join(story.agent("Late"), "/tickets")
    assert viewer_states((await subscribe(late, ticket))["viewers"])[bob_who.id] == "away"
    await bob.ok("ticket:unsubscribe", {"ticketId": ticket})
    await ada.expect("ticket:viewers", shows(bob_who, None))


async def dies_while_viewing(story: Story) -> None:
    ticket = await story.ticket()
    bob_who = story.agent("Bob")
    ada = await story.join(story.agent("Ada"), "/tickets")
    bob = await story.join(bob_who, "/tickets", cable=True)
    for peer in (ada, bob):
        await subscribe(peer, ticket)
    await ada.expect("ticket:viewers", shows(bob_who, "viewing"))
    await bob.drop()
    await ada.expect("ticket:viewers", shows(bob_who, None))


async def test_a_viewer_whose_connection_dies_disappears(every_story: list[Story]) -> None:
    await at_once(dies_while_viewing, every_story)


async def test_a_client_must_subscribe_to_a_ticket_before_it_views_it(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    error = await ada.error("ticket:view", {"ticketId": ticket, "state": "viewing"})
    assert error["code"] == "FORBIDDEN"


async def test_a_client_that_was_offline_catches_up_from_its_offset(story: Story) -> None:
    """Missed events arrive once, without gaps or duplicates, and then live ones."""
    ticket = await story.ticket(priority="low")
    ada = story.agent()
    peer = await story.join(ada, "/tickets")
    await subscribe(peer, ticket)
    seen = await story.push("PUT", f"/tickets/{ticket}", {"priority": "normal"})
    await peer.expect("ticket:updated", {"version": seen["version"]})
    await peer.disconnect()

    missed = [
        (await story.push("PUT", f"/tickets/{ticket}", {"priority": priority}))["version"]
        for priority in ("high", "urgent")
    ]
    again = await story.join(ada, "/tickets")
    await subscribe(again, ticket, since=seen["offset"])
    live = (await story.push("PUT", f"/tickets/{ticket}", {"priority": "low"}))["version"]
    await again.expect("ticket:updated", {"version": live})
    got = [r.data["version"] for r in again.events if r.event == "ticket:updated"]
    assert got == [*missed, live]


async def test_an_invalid_offset_is_refused_with_the_name_of_the_field(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    for since in ("yesterday", "1-2-3", ""):
        error = await ada.error("ticket:subscribe", {"ticketId": ticket, "since": since})
        assert (error["code"], error["field"]) == ("BAD_REQUEST", "since"), since

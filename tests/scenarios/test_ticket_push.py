"""What users see when the back end pushes changes over HTTP."""

from __future__ import annotations

from datetime import datetime

from tests.scenarios.story import Story
from tests.scenarios.test_tickets import subscribe


async def test_a_new_ticket_goes_to_its_team_and_to_admins(story: Story) -> None:
    ada = await story.join(story.agent("Ada"), "/tickets")
    root = await story.join(story.admin(), "/tickets")
    other = await story.join(story.agent("Otto", team=story.id("other")), "/tickets")
    carl = await story.join(story.customer(), "/tickets")
    ticket = story.id("new")
    fields = {"subject": "Café?", "status": "new", "priority": "high", "teamId": story.team, "watchers": []}
    answer = await story.push("PUT", f"/tickets/{ticket}", fields, status=201)
    assert (answer["ticketId"], answer["version"]) == (ticket, 1)
    assert answer["offset"]
    for peer in (ada, root):
        created = await peer.expect("ticket:created", {"ticketId": ticket})
        assert created["version"] == 1
        assert {k: created["ticket"][k] for k in fields} == fields
        await peer.not_told("ticket:created", {"ticketId": ticket})  # who is in two of the rooms is told once
    for peer in (other, carl):
        await peer.not_told("ticket:created", {"ticketId": ticket})


async def test_a_partial_update_sends_old_and_new_values_of_the_changed_fields(story: Story) -> None:
    ticket = await story.ticket(subject="A", priority="low")
    ada = await story.join(story.agent(), "/tickets")
    await subscribe(ada, ticket)
    answer = await story.push("PUT", f"/tickets/{ticket}", {"subject": "B", "status": "open"}, status=200)
    updated = await ada.expect("ticket:updated")
    assert updated["ticketId"] == ticket
    assert updated["version"] == answer["version"] == 2
    assert updated["changes"] == {"subject": ["A", "B"]}
    assert datetime.fromisoformat(updated["updatedAt"])
    stored = await story.push("GET", f"/tickets/{ticket}", status=200)
    assert (stored["subject"], stored["priority"], stored["version"]) == ("B", "low", 2)


async def test_an_update_without_effect_sends_nothing(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    await subscribe(ada, ticket)
    await story.push("PUT", f"/tickets/{ticket}", {"status": "open"}, status=200)
    await story.push("PUT", f"/tickets/{ticket}", {"status": "closed"}, status=200)
    assert (await ada.expect("ticket:updated"))["changes"] == {"status": ["open", "closed"]}
    await ada.not_told("ticket:updated")


async def test_a_change_of_assignee_is_published(story: Story) -> None:
    ticket = await story.ticket()
    bob = story.agent("Bob")
    ada = await story.join(story.agent("Ada"), "/tickets")
    await subscribe(ada, ticket)
    await story.push("PUT", f"/tickets/{ticket}", {"assigneeId": bob.id})
    assert (await ada.expect("ticket:assigned"))["ticketId"] == ticket
    updated = await ada.expect("ticket:updated")
    assert updated["changes"]["assigneeId"][1] == bob.id
    await story.push("PUT", f"/tickets/{ticket}", {"priority": "urgent"})
    await ada.expect("ticket:updated", {"version": updated["version"] + 1})
    await ada.not_told("ticket:assigned")


async def test_a_reply_goes_to_everybody_and_a_note_never_to_a_customer(story: Story) -> None:
    carl_who = story.customer()
    ticket = await story.ticket(requesterId=carl_who.id)
    ada = await story.join(story.agent("Ada"), "/tickets")
    carl = await story.join(carl_who, "/tickets")
    for peer in (ada, carl):
        await subscribe(peer, ticket)
    author = story.agent("Bob").person
    path = f"/tickets/{ticket}/comments"
    await story.push("POST", path, {"kind": "note", "author": author, "excerpt": "he is angry"})
    await story.push("POST", path, {"kind": "reply", "author": author, "excerpt": "We are on it"})

    note = (await ada.expect("ticket:commented"))["comment"]
    assert (note["kind"], note["author"], note["excerpt"]) == ("note", author, "he is angry")
    for peer in (ada, carl):
        told = await peer.expect("ticket:commented")
        assert told["ticketId"] == ticket
        reply = told["comment"]
        assert (reply["kind"], reply["author"], reply["excerpt"]) == ("reply", author, "We are on it")
    await carl.not_told("ticket:commented")
    assert "angry" not in str(carl.events)


async def test_a_customer_who_catches_up_does_not_get_notes(story: Story) -> None:
    carl_who = story.customer()
    ticket = await story.ticket(requesterId=carl_who.id)
    start = (await story.push("PUT", f"/tickets/{ticket}", {"status": "pending"}))["offset"]
    author = story.agent("Bob").person
    path = f"/tickets/{ticket}/comments"
    await story.push("POST", path, {"kind": "note", "author": author, "excerpt": "he is angry"})
    await story.push("POST", path, {"kind": "reply", "author": author, "excerpt": "We are on it"})
    carl = await story.join(carl_who, "/tickets")
    ada = await story.join(story.agent("Ada"), "/tickets")
    for peer in (ada, carl):
        await subscribe(peer, ticket, since=start)
    assert (await ada.expect("ticket:commented"))["comment"]["kind"] == "note"
    assert (await ada.expect("ticket:commented"))["comment"]["kind"] == "reply"
    assert (await carl.expect("ticket:commented"))["comment"]["kind"] == "reply"
    await carl.not_told("ticket:commented")
    assert "angry" not in str(carl.events)


async def test_a_deletion_is_published_and_the_ticket_is_gone(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    await subscribe(ada, ticket)
    await story.push("DELETE", f"/tickets/{ticket}")
    assert (await ada.expect("ticket:deleted"))["ticketId"] == ticket
    assert (await ada.error("ticket:subscribe", {"ticketId": ticket}))["code"] == "FORBIDDEN"
    await story.push("GET", f"/tickets/{ticket}", status=404)
    await story.push("DELETE", f"/tickets/{ticket}", status=404)


async def test_users_who_lose_access_are_removed_from_the_ticket(story: Story) -> None:
    wanda_who, carl_who = story.customer("Wanda"), story.customer("Carl")
    ticket = await story.ticket(requesterId=carl_who.id, watchers=[wanda_who.id])
    root = await story.join(story.admin(), "/tickets")
    ada = await story.join(story.agent("Ada"), "/tickets")
    carl = await story.join(carl_who, "/tickets")
    wanda = await story.join(wanda_who, "/tickets")
    for peer in (root, ada, carl, wanda):
        await subscribe(peer, ticket)

    await story.push("PUT", f"/tickets/{ticket}", {"watchers": []})
    await wanda.expect("ticket:unsubscribed", {"ticketId": ticket})
    await story.push("PUT", f"/tickets/{ticket}", {"teamId": story.id("other")})
    await ada.expect("ticket:unsubscribed", {"ticketId": ticket})
    for peer in (root, carl, wanda, ada):
        peer.forget()

    secret = await story.push("PUT", f"/tickets/{ticket}", {"subject": "Not for them"})
    for peer in (root, carl):
        await peer.expect("ticket:updated", {"version": secret["version"]})
        await peer.not_told("ticket:unsubscribed")
    for peer in (ada, wanda):
        await peer.not_told("ticket:updated")
        assert (await peer.error("ticket:typing", {"ticketId": ticket}))["code"] == "FORBIDDEN"
        assert (await peer.error("ticket:subscribe", {"ticketId": ticket}))["code"] == "FORBIDDEN"


async def test_the_back_end_may_emit_anything_to_a_room_once_per_id(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent("Ada"), "/tickets")
    await subscribe(ada, ticket)
    ask = {"namespace": "/tickets", "room": f"ticket:{ticket}", "event": "ticket:printed", "data": {"pages": 3}}
    first = await story.push("POST", "/emit", {**ask, "id": story.id("emit")}, status=200)
    again = await story.push("POST", "/emit", {**ask, "id": story.id("emit")}, status=200)
    assert first["offset"] == again["offset"]
    await story.push("POST", "/emit", {**ask, "event": "ticket:folded", "volatile": True}, status=200)
    assert await ada.expect("ticket:printed") == {"pages": 3}
    await ada.expect("ticket:folded")
    await ada.not_told("ticket:printed")

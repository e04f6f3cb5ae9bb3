"""Events over the rate limit are dropped, and the error says how long to wait. All sockets of a user share a limit."""

from __future__ import annotations

import pytest

from tests.scenarios.story import Story
from tests.scenarios.test_tickets import subscribe


async def test_the_sixth_status_in_a_minute_is_dropped(story: Story) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    bob = story.agent("Bob")
    desk, phone = [await story.join(bob, "/presence") for _ in range(2)]
    await ada.expect("presence:update", {"userId": bob.id, "status": "online"})
    for peer, status in ((desk, "busy"), (phone, "away"), (desk, "busy"), (phone, "away"), (desk, "busy")):
        await peer.ok("presence:status", {"status": status})
        await ada.expect("presence:update", {"userId": bob.id, "status": status})
    for peer in (desk, phone):  # counted per user
        error = await peer.error("presence:status", {"status": "online"})
        assert error["code"] == "RATE_LIMITED"
        assert 50 < error["retryAfter"] <= 60
        assert isinstance(error["retryAfter"], int)
        await peer.emit("presence:status", {"status": "online"})
        assert (await peer.expect("error", {"code": "RATE_LIMITED"}))["retryAfter"] <= 60
    await ada.not_told("presence:update", {"userId": bob.id})


async def test_the_thirty_first_keystroke_in_ten_seconds_is_dropped(story: Story) -> None:
    tickets = [await story.ticket(str(n)) for n in range(31)]
    ada, bob = [await story.join(story.agent(name), "/tickets") for name in ("Ada", "Bob")]
    for ticket in tickets:
        await subscribe(ada, ticket)
        await subscribe(bob, ticket)
    for ticket in tickets[:30]:
        await ada.ok("ticket:typing", {"ticketId": ticket})
        await bob.expect("ticket:typing", {"ticketId": ticket})
    error = await ada.error("ticket:typing", {"ticketId": tickets[30]})
    assert error["code"] == "RATE_LIMITED"
    assert 1 <= error["retryAfter"] <= 10
    await bob.not_told("ticket:typing")
    await bob.ok("ticket:typing", {"ticketId": tickets[30]})  # another user has a limit of their own


@pytest.mark.parametrize("event", ["presence:unsubscribe", "no:such:event"])
async def test_anything_else_is_limited_to_a_hundred_a_minute(story: Story, event: str) -> None:
    ada = await story.join(story.agent(), "/presence")
    payload = {"userIds": [story.id("user")]}
    for _ in range(100):
        await ada.emit(event, payload)
    error = await ada.error(event, payload)
    assert error["code"] == "RATE_LIMITED"
    assert 1 <= error["retryAfter"] <= 60

"""Presence. The server of these scenarios has a grace period of one second instead of five."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.scenarios.story import Story, Who, at_once


async def test_the_team_sees_who_comes_online(story: Story) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    other = await story.join(story.agent("Otto", team=story.id("other")), "/presence")
    bob = story.agent("Bob")
    await story.join(bob, "/presence")
    assert await ada.expect("presence:update", {"userId": bob.id}) == {"userId": bob.id, "status": "online"}
    await story.join(bob, "/presence")  # a second screen is no news
    carol = story.agent("Carol")
    await story.join(carol, "/presence")
    await ada.expect("presence:update", {"userId": carol.id})
    await ada.not_told("presence:update", {"userId": bob.id})
    await other.not_told("presence:update", {"userId": bob.id})


async def test_the_team_sees_a_chosen_status(story: Story) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    bob = story.agent("Bob")
    peer = await story.join(bob, "/presence")
    await ada.expect("presence:update", {"userId": bob.id, "status": "online"})
    for status in ("busy", "away", "online"):
        await peer.emit("presence:status", {"status": status})
        assert (await ada.expect("presence:update", {"userId": bob.id}))["status"] == status


@pytest.mark.parametrize("status", ["offline", "invisible", "", "Online"])
async def test_any_other_status_is_invalid(story: Story, status: str) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    bob = story.agent("Bob")
    peer = await story.join(bob, "/presence")
    await ada.expect("presence:update", {"userId": bob.id})
    await peer.emit("presence:status", {"status": status})
    await peer.expect("error", {"code": "INVALID_STATUS"})
    assert (await peer.error("presence:status", {"status": status}))["code"] == "INVALID_STATUS"
    await ada.not_told("presence:update", {"userId": bob.id})


async def test_a_subscription_starts_with_a_list_and_then_gets_updates_until_it_ends(story: Story) -> None:
    """The users are of another team, because the own team gets updates anyway."""
    bob, nobody = story.agent("Bob", team=story.id("other")), story.agent("Nobody")
    bob_peer = await story.join(bob, "/presence")
    await bob_peer.ok("presence:status", {"status": "busy"})
    ada = await story.join(story.agent("Ada"), "/presence")
    await ada.emit("presence:subscribe", {"userIds": [bob.id, nobody.id]})
    listed = await ada.expect("presence:list")
    assert [(entry["userId"], entry["status"]) for entry in listed] == [(bob.id, "busy"), (nobody.id, "offline")]
    assert near(listed[0]["lastSeen"])
    assert "lastSeen" not in listed[1]  # never here

    await bob_peer.emit("presence:status", {"status": "away"})
    assert (await ada.expect("presence:update", {"userId": bob.id}))["status"] == "away"
    await ada.ok("presence:unsubscribe", {"userIds": [bob.id]})
    witness = await story.join(story.admin(), "/presence")
    await witness.ok("presence:subscribe", {"userIds": [bob.id]})
    await bob_peer.emit("presence:status", {"status": "online"})
    await witness.expect("presence:update", {"userId": bob.id, "status": "online"})
    await ada.not_told("presence:update", {"userId": bob.id})


async def test_a_customer_may_not_watch_when_agents_work(story: Story) -> None:
    ada = story.agent("Ada")
    carl = await story.join(story.customer(), "/presence")
    assert (await carl.error("presence:subscribe", {"userIds": [ada.id]}))["code"] == "FORBIDDEN"
    await story.join(ada, "/presence")
    await carl.not_told("presence:update")


async def goes_offline(story: Story, how: str) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    bob = story.agent("Bob")
    desk, phone = [await story.join(bob, "/presence", cable=True) for _ in range(2)]
    await ada.expect("presence:update", {"userId": bob.id})
    # somebody else leaves with Bob's first screen: once their absence shows, Bob's would too
    decoy = story.agent("Decoy")
    decoy_peer = await story.join(decoy, "/presence")
    await desk.disconnect()
    await decoy_peer.disconnect()
    await ada.expect("presence:update", {"userId": decoy.id, "status": "offline"})
    await ada.not_told("presence:update", {"userId": bob.id})

    left = time.time()
    await (phone.disconnect() if how == "goodbye" else phone.drop())
    update = await ada.expect("presence:update", {"userId": bob.id})
    assert set(update) == {"userId", "status", "lastSeen"}
    assert update["status"] == "offline"
    assert near(update["lastSeen"], left)
    assert time.time() - left > 0.9, "the grace is over before an absence is told"


@pytest.mark.parametrize("how", ["goodbye", "drop"])
async def test_offline_comes_after_the_last_disconnect_with_the_time_last_seen(
    every_story: list[Story], how: str
) -> None:
    await at_once(lambda story: goes_offline(story, how), every_story)


async def reloads(story: Story) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    bob, decoy = story.agent("Bob"), story.agent("Decoy")
    page, decoy_peer = await story.join(bob, "/presence", cable=True), await story.join(decoy, "/presence")
    for who in (bob, decoy):
        await ada.expect("presence:update", {"userId": who.id, "status": "online"})
    await page.drop()
    await story.join(bob, "/presence")
    await decoy_peer.disconnect()
    await ada.expect("presence:update", {"userId": decoy.id, "status": "offline"})
    await ada.not_told("presence:update", {"userId": bob.id})


async def test_a_page_reload_within_the_grace_period_is_not_visible(every_story: list[Story]) -> None:
    await at_once(reloads, every_story)


async def stays_busy(story: Story) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    bob = story.agent("Bob")
    peer = await story.join(bob, "/presence")
    await ada.expect("presence:update", {"userId": bob.id, "status": "online"})
    await peer.ok("presence:status", {"status": "busy"})
    await ada.expect("presence:update", {"userId": bob.id, "status": "busy"})
    await peer.disconnect()
    peer = await story.join(bob, "/presence")
    assert await status_of(story, bob) == "busy"
    await peer.disconnect()
    await ada.expect("presence:update", {"userId": bob.id, "status": "offline"})
    await story.join(bob, "/presence")
    assert (await ada.expect("presence:update", {"userId": bob.id}))["status"] == "busy"


async def test_busy_survives_a_reconnect_and_an_absence(every_story: list[Story]) -> None:
    await at_once(stays_busy, every_story)


async def status_of(story: Story, who: Who) -> str:
    root = await story.join(story.admin(), "/presence")
    await root.ok("presence:subscribe", {"userIds": [who.id]})
    (entry,) = await root.expect("presence:list")
    status: str = entry["status"]
    return status


def near(text: str, when: float | None = None) -> bool:
    """Is this an ISO 8601 time with a zone, within two seconds of `when` (or of now, for one who is here)?"""
    seen = datetime.fromisoformat(text)
    assert seen.tzinfo is not None, text
    return abs((seen - datetime.fromtimestamp(when or time.time(), UTC)).total_seconds()) < 2

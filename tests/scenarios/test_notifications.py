"""Notifications: the unread count is the same on all of a user's devices, and each notification arrives once."""

from __future__ import annotations

from typing import Any

from tests.scenarios.story import Story, Who


async def notify(story: Story, who: Who, title: str, **fields: Any) -> str:
    answer = await story.push(
        "POST", "/notifications", {"userId": who.id, "type": "mention", "title": title, **fields}, status=(200, 201)
    )
    notification_id: str = answer["id"]
    return notification_id


async def test_the_unread_count_is_the_first_event(story: Story) -> None:
    ada = story.agent()
    peer = await story.join(ada, "/notifications")
    assert await peer.expect("notification:count") == {"unread": 0}
    await notify(story, ada, "one")
    await notify(story, ada, "two")
    later = await story.join(ada, "/notifications")
    assert await later.expect("notification:count") == {"unread": 2}
    assert later.events[0].event == "notification:count"


async def test_a_notification_comes_with_all_its_fields_and_a_count(story: Story) -> None:
    ada, bob = story.agent("Ada"), story.agent("Bob")
    peer = await story.join(ada, "/notifications")
    other = await story.join(bob, "/notifications")
    given = {"body": "Look at this", "url": "/tickets/42", "data": {"ticketId": "42", "é": [1, None]}}
    notification_id = await notify(story, ada, "Mentioned", **given)
    told = await peer.expect("notification")
    assert {name: told[name] for name in ("id", "type", "title", *given)} == {
        "id": notification_id,
        "type": "mention",
        "title": "Mentioned",
        **given,
    }
    assert (await peer.expect("notification:count", {"unread": 1})) == {"unread": 1}
    await other.not_told("notification")


async def test_one_push_may_go_to_many_users(story: Story) -> None:
    ada, bob = story.agent("Ada"), story.agent("Bob")
    peers = [await story.join(who, "/notifications") for who in (ada, bob)]
    body = {"userIds": [ada.id, bob.id], "type": "system", "title": "Maintenance"}
    answer = await story.push("POST", "/notifications", body, status=201)
    for peer in peers:
        assert (await peer.expect("notification"))["id"] == answer["id"]


async def test_the_same_id_again_changes_nothing(story: Story) -> None:
    ada = story.agent()
    peer = await story.join(ada, "/notifications")
    first = await notify(story, ada, "once", id=story.id("n"))
    assert await notify(story, ada, "once", id=story.id("n")) == first
    await notify(story, ada, "after")
    await peer.expect("notification", {"title": "once"})
    await peer.expect("notification", {"title": "after"})
    await peer.not_told("notification")
    assert (await peer.ok("notification:list", {"limit": 10}))["unread"] == 2


async def test_reading_on_one_device_shows_on_the_other(story: Story) -> None:
    ada = story.agent()
    ids = [await notify(story, ada, title) for title in ("one", "two", "three")]
    desk, phone = [await story.join(ada, "/notifications") for _ in range(2)]
    for peer in (desk, phone):
        await peer.expect("notification:count", {"unread": 3})

    await desk.emit("notification:markRead", {"id": ids[0]})
    for peer in (desk, phone):
        assert await peer.expect("notification:count") == {"unread": 2}
    assert await phone.expect("notification:read") == {"ids": [ids[0]]}
    await desk.not_told("notification:read")

    answer = await desk.ok("notification:markRead", {"id": ids[0]})  # again: still two
    assert answer["unread"] == 2
    await desk.emit("notification:markAllRead", {})
    for peer in (desk, phone):
        assert await peer.expect("notification:count", {"unread": 0}) == {"unread": 0}
    assert set((await phone.expect("notification:read", lambda read: ids[1] in read["ids"]))["ids"]) == set(ids[1:])


async def test_mark_all_read_needs_no_payload(story: Story) -> None:
    ada = story.agent()
    await notify(story, ada, "one")
    peer = await story.join(ada, "/notifications")
    assert (await peer.ok("notification:markAllRead"))["unread"] == 0


async def test_nobody_can_mark_another_users_notification_as_read(story: Story) -> None:
    ada, mallory = story.agent("Ada"), story.customer("Mallory")
    notification_id = await notify(story, ada, "private")
    thief = await story.join(mallory, "/notifications")
    assert (await thief.error("notification:markRead", {"id": notification_id}))["code"] == "NOT_FOUND"
    assert (await thief.ok("notification:list", {"limit": 10}))["notifications"] == []
    peer = await story.join(ada, "/notifications")
    await peer.expect("notification:count", {"unread": 1})


async def test_the_list_is_read_in_pages_newest_first(story: Story) -> None:
    ada = story.agent()
    ids = [await notify(story, ada, str(n)) for n in range(5)]
    peer = await story.join(ada, "/notifications")
    await peer.ok("notification:markRead", {"id": ids[4]})
    first = await peer.ok("notification:list", {"limit": 2})
    assert [n["id"] for n in first["notifications"]] == [ids[4], ids[3]]
    assert [n["read"] for n in first["notifications"]] == [True, False]
    assert first["more"] is True
    rest = await peer.ok("notification:list", {"limit": 10, "before": ids[3]})
    assert [n["id"] for n in rest["notifications"]] == [ids[2], ids[1], ids[0]]
    assert rest["more"] is False

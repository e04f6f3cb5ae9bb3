"""The dashboard: three kinds of numbers for admins, from real tickets, chats and agents."""

from __future__ import annotations

import pytest

from tests.scenarios.story import Story

BOARDS = ("metrics:tickets", "metrics:queue", "metrics:agents")


@pytest.mark.parametrize("role", ["agent", "customer"])
async def test_only_admins_may_connect_to_the_dashboard(story: Story, role: str) -> None:
    who = story.agent() if role == "agent" else story.customer()
    refused = await story.refused("/dashboard", {"token": story.token(who)})
    assert refused.code == "FORBIDDEN"
    assert story.door.name != "native" or refused.close_code == 4403


async def test_all_three_events_come_on_connect_and_again(story: Story) -> None:
    root = await story.join(story.admin(), "/dashboard")
    for _ in range(2):
        for board in BOARDS:
            metrics = await root.expect(board)
            assert all(not isinstance(value, int) or value >= 0 for value in metrics.values())


async def test_tickets_are_counted_by_status_priority_and_assignee(story: Story) -> None:
    root = await story.join(story.admin(), "/dashboard")
    before = await root.expect("metrics:tickets")
    await story.ticket("a", status="on_hold", priority="urgent")
    await story.ticket("b", status="on_hold", priority="urgent", assigneeId=story.agent().id)
    await story.ticket("c", status="solved", priority="urgent")

    def counted(now: dict[str, object]) -> bool:
        return grown(before, now, "byStatus", "on_hold") >= 2 and grown(before, now, "byStatus", "solved") >= 1

    after = await root.expect("metrics:tickets", counted)
    assert grown(before, after, "byPriority", "urgent") == 2  # open work
    assert after["unassigned"] - before["unassigned"] == 1
    await story.push("DELETE", f"/tickets/{story.id('a')}")
    await root.expect("metrics:tickets", lambda now: grown(before, now, "byStatus", "on_hold") == 1)


async def test_agents_are_counted_by_status(story: Story) -> None:
    root = await story.join(story.admin(), "/dashboard")
    ada, bob = story.agent("Ada"), story.agent("Bob")
    ada_peer = await story.join(ada, "/presence")
    bob_peer = await story.join(bob, "/presence")
    carl = await story.join(story.customer(), "/presence")  # no agent: not counted
    await bob_peer.ok("presence:status", {"status": "busy"})
    root.forget()
    # agents of stories before this one may still be within their grace: wait for the two of this one
    counts = await root.expect("metrics:agents", {"online": 1, "busy": 1, "away": 0})
    await ada_peer.ok("presence:status", {"status": "away"})
    await root.expect("metrics:agents", {"online": 0, "busy": 1, "away": 1})
    await ada_peer.disconnect()
    await bob_peer.disconnect()
    await root.expect("metrics:agents", {"online": 0, "busy": 0, "away": 0, "offline": counts["offline"] + 2})
    await carl.settled()


async def test_the_queue_counts_waiting_and_active_conversations(story: Story) -> None:
    root = await story.join(story.admin(), "/dashboard")
    before = await root.expect("metrics:queue")
    carl = await story.join(story.customer(), "/chat")
    chat = (await carl.ok("chat:start", {"teamId": story.team, "clientId": "1"}))["conversationId"]
    story.chats.append(chat)
    waiting = await root.expect("metrics:queue", {"waiting": before["waiting"] + 1})
    assert waiting["longestWaitMs"] >= waiting["averageWaitMs"] >= 0
    ada = await story.join(story.agent("Ada"), "/chat")
    await ada.ok("chat:accept", {"conversationId": chat})
    await root.expect("metrics:queue", {"waiting": before["waiting"], "active": before["active"] + 1})
    await ada.ok("chat:close", {"conversationId": chat})
    await root.expect("metrics:queue", {"waiting": before["waiting"], "active": before["active"]})


def grown(before: dict[str, object], now: dict[str, object], *path: str) -> int:
    old, new = before, now
    for name in path:
        old, new = old[name], new[name]  # type: ignore[assignment]
    assert isinstance(old, int) and isinstance(new, int)
    return new - old

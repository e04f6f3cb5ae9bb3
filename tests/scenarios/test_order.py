"""Order of answers and of events in a room; several namespaces on one connection."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenarios.conftest import stock_clients
from tests.scenarios.story import Story
from tests.scenarios.test_tickets import subscribe
from tests.support.clients import Peer


async def test_a_hundred_calls_are_answered_in_their_order(story: Story) -> None:
    """Some of them wait for the store, others are answered at once."""
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    order: list[int] = []

    async def call(n: int) -> None:
        if n % 3 == 0:
            answer = await ada.call("ticket:subscribe", {"ticketId": ticket})
        elif n % 3 == 1:
            answer = await ada.call("ticket:unsubscribe", {"ticketId": ticket})
        else:
            answer = await ada.call("no:such:event", n)
        assert answer["ok"] is (n % 3 != 2)
        order.append(n)

    await asyncio.gather(*(call(n) for n in range(100)))
    assert order == list(range(100))
    told = [r.event for r in ada.events if r.event in ("ticket:subscribed", "ticket:unsubscribed")]
    assert told == ["ticket:subscribed", "ticket:unsubscribed"] * 33 + ["ticket:subscribed"]


async def test_all_members_of_a_room_get_events_in_the_same_order(story: Story) -> None:
    ticket = await story.ticket()
    peers = [await story.join(story.agent(name), "/tickets") for name in ("Ada", "Bob")]
    for peer in peers:
        await subscribe(peer, ticket)
    pushed = await asyncio.gather(
        *(story.push("PUT", f"/tickets/{ticket}", {"subject": f"version {n}"}) for n in range(20))
    )
    versions = sorted(answer["version"] for answer in pushed)
    seen = []
    for peer in peers:
        for version in versions:
            await peer.expect("ticket:updated", {"version": version})
        seen.append([r.data["version"] for r in peer.events if r.event == "ticket:updated"])
    assert seen[0] == seen[1] == versions


async def test_clients_of_all_protocols_share_a_room(every_story: list[Story]) -> None:
    """Clients of all libraries and protocols see each other, and the same events in the same order."""
    host = every_story[0]
    ticket = await host.ticket()
    people = [host.agent(story.door.name) for story in every_story]
    peers = [await story.join(who, "/tickets") for story, who in zip(every_story, people, strict=True)]
    for peer in peers:
        await subscribe(peer, ticket)
    for peer, who in zip(peers, people, strict=True):
        await peer.ok("ticket:typing", {"ticketId": ticket})
        for other in peers:
            if other is not peer:
                assert (await other.expect("ticket:typing"))["user"] == who.person
    for n in range(5):
        await host.push("PUT", f"/tickets/{ticket}", {"subject": f"Ünïcode {n} 😀"})
    for peer in peers:
        for n in range(5):
            assert (await peer.expect("ticket:updated"))["changes"]["subject"][1] == f"Ünïcode {n} 😀"


@stock_clients
async def test_namespaces_share_one_connection(story: Story) -> None:
    ticket = await story.ticket()
    names = ["/tickets", "/chat", "/notifications", "/presence", "/dashboard"]
    root = story.admin()
    peers = dict(zip(names, await story.join_all(root, names), strict=True))
    assert len({peer.sid for peer in peers.values()}) == len(names)
    await subscribe(peers["/tickets"], ticket)
    await story.push("PUT", f"/tickets/{ticket}", {"status": "solved"})
    await story.push("POST", "/notifications", {"userId": root.id, "type": "t", "title": "hi"})
    await peers["/tickets"].expect("ticket:updated")
    await peers["/notifications"].expect("notification")
    await peers["/dashboard"].expect("metrics:queue")
    for name, peer in peers.items():
        prefixes = {
            "/tickets": ("ticket:",),
            "/notifications": ("notification",),
            "/dashboard": ("metrics:",),
            "/presence": ("presence:",),
            "/chat": ("chat:",),
        }[name]
        assert all(r.event.startswith(prefixes) for r in peer.events), (name, peer.events)


@stock_clients
async def test_a_refused_namespace_does_not_affect_the_others(story: Story) -> None:
    tickets, dashboard = await story.join_all(story.agent(), ["/tickets", "/dashboard"], some_refused=True)
    assert dashboard.refused is not None and dashboard.refused.code == "FORBIDDEN"
    await tickets.settled()


@pytest.mark.parametrize("door", ["js-upgrade"], indirect=True)
async def test_calls_made_while_the_transport_is_upgraded_arrive_in_order(story: Story) -> None:
    """Both ways, over polling, the probe and the websocket; engine.io's other end is wire reference 2.2."""
    for turn in range(5):
        ada = await story.join(story.agent(f"Ada{turn}"), "/tickets", settle=False)
        order: list[int] = []

        async def call(peer: Peer, order: list[int], n: int) -> None:
            await peer.error("no:such:event", n)
            order.append(n)

        await asyncio.gather(*(call(ada, order, n) for n in range(50)))
        assert order == list(range(50))
        await story.door.settle(ada)
        await ada.settled()

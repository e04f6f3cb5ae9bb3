"""A connection ends with its token, unless the token is refreshed."""

from __future__ import annotations

import asyncio

from tests.scenarios.conftest import stock_clients
from tests.scenarios.story import Story, at_once


async def test_a_client_is_warned_when_its_token_expires_within_a_minute(story: Story) -> None:
    ada = await story.join(story.agent(), "/tickets", ttl_s=50)
    told = await ada.expect("session:expiring")
    assert 45 <= told["inSeconds"] <= 50


async def test_a_client_whose_token_is_valid_longer_is_not_warned(story: Story) -> None:
    ada = await story.join(story.agent(), "/tickets", ttl_s=90)
    await ada.not_told("session:expiring")


async def test_refresh_takes_a_newer_token_of_the_same_user_only(story: Story) -> None:
    ada, bob = story.agent("Ada"), story.agent("Bob")
    peer = await story.join(ada, "/tickets")
    for wrong, code in (
        (story.token(bob), "FORBIDDEN"),
        (story.token(ada._replace(role="admin")), "FORBIDDEN"),
        (story.token(ada._replace(team="another")), "FORBIDDEN"),
        (story.token(ada, ttl_s=-5), "AUTH_TOKEN_EXPIRED"),
        ("no token at all", "AUTH_TOKEN_INVALID"),
    ):
        assert (await peer.error("session:refresh", {"token": wrong}))["code"] == code
    for payload in ({}, {"token": 5}):
        error = await peer.error("session:refresh", payload)
        assert (error["code"], error["field"]) == ("BAD_REQUEST", "token")
    await peer.ok("session:refresh", {"token": story.token(ada)})


async def expires(story: Story) -> None:
    ada = story.agent()
    ends = await story.join(ada, "/tickets", ttl_s=3)
    goes_on = await story.join(ada, "/tickets", ttl_s=3)
    await goes_on.expect("session:expiring")
    answer = await goes_on.ok("session:refresh", {"token": story.token(ada, ttl_s=600)})
    assert answer["expiresAt"]
    await ends.expect("error", {"code": "AUTH_TOKEN_EXPIRED"})
    why = await ends.gone()
    assert story.door.name != "native" or why == 4401
    await asyncio.sleep(0.5)  # past the end of the other's first token too
    await goes_on.settled()
    assert goes_on.connected


async def test_a_connection_ends_with_its_token_unless_it_was_refreshed(every_story: list[Story]) -> None:
    await at_once(expires, every_story)


async def comes_back(story: Story) -> None:
    ada = story.agent()
    peer = await story.join(ada, "/tickets", ttl_s=2, reconnection=True)
    await peer.next_token(story.token(ada))
    await peer.expect("error", {"code": "AUTH_TOKEN_EXPIRED"})
    await peer.again()
    await peer.settled()


async def test_a_stock_client_reconnects_with_its_next_token(every_story: list[Story]) -> None:
    """The server closes the transport; after a disconnect packet or a refusal a stock client would not reconnect."""
    await at_once(comes_back, [story for story in every_story if story.door.reconnects])


@stock_clients
async def test_a_stock_client_reconnects_after_a_network_failure(story: Story) -> None:
    ticket = await story.ticket()
    peer = await story.join(story.agent(), "/tickets", cable=True, reconnection=True)
    await peer.ok("ticket:subscribe", {"ticketId": ticket})
    await peer.drop()
    await peer.gone()
    peer.mend()
    await peer.again()
    await peer.ok("ticket:subscribe", {"ticketId": ticket})

"""`/`, the main namespace: it asks for a token, has the usual first rooms, and no event of its own."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.hostile.kit import Target
from tests.scenarios.conftest import stock_clients
from tests.scenarios.story import Story


async def test_a_client_with_a_token_may_connect_to_the_main_namespace(story: Story) -> None:
    ada = await story.join(story.agent(), "/")
    assert (await ada.error("ticket:subscribe", {"ticketId": "1"}))["code"] == "UNKNOWN_EVENT"
    assert (await ada.error("hello", {}))["code"] == "UNKNOWN_EVENT"
    refused = await story.refused("/", {})
    assert refused.code == "AUTH_TOKEN_MISSING"


@pytest.mark.parametrize("room", ["user", "role", "team"])
async def test_a_back_end_reaches_the_first_rooms_of_the_main_namespace(story: Story, room: str) -> None:
    who = story.agent()
    ada = await story.join(who, "/")
    carl = await story.join(story.customer(), "/")
    name = {"user": f"user:{who.id}", "role": "role:agent", "team": f"team:{who.team}"}[room]
    event = {"namespace": "/", "room": name, "event": "greeting", "data": {"to": story.tag}}
    await story.push("POST", "/emit", event)
    assert await ada.expect("greeting", {"to": story.tag}) == {"to": story.tag}
    await carl.not_told("greeting", {"to": story.tag})


@stock_clients
async def test_a_client_that_joins_the_main_namespace_first_goes_on_to_others(story: Story) -> None:
    """elephant.io does, and gives up where `/` is refused."""
    ticket = await story.ticket()
    main, tickets = await story.join_all(story.agent(), ["/", "/tickets"])
    assert (await tickets.call("ticket:subscribe", {"ticketId": ticket}))["ok"]
    assert main.connected and main.sid != tickets.sid


@pytest.mark.parametrize("door", ["native"], indirect=True)
@pytest.mark.parametrize("path", ["/rt/", "/rt/main"])
async def test_the_main_namespace_has_two_native_paths(story: Story, path: str) -> None:
    """Some proxies and URL libraries drop a slash at the end."""
    target = Target(story.server.port)
    try:
        socket = await target.socket(path)
        socket.say(json.dumps({"event": "connect", "data": {"token": story.token(story.agent())}}))
        async with asyncio.timeout(10):
            greeting = json.loads(await socket.text())
            assert greeting["event"] == "connect" and greeting["data"]["recovered"] is False
            socket.say(json.dumps({"event": "hello", "id": 1}))
            assert json.loads(await socket.text())["data"]["error"]["code"] == "UNKNOWN_EVENT"
    finally:
        await target.close()

"""Every client that the docs name gets logged events with its simplest handler: one parameter, the data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import socketio  # type: ignore[import-untyped]

from tests.hostile.kit import Target
from tests.scenarios.story import Story
from tests.support.aio import until
from tests.support.door import RawSocket
from tests.support.server import ServerProcess

one_door = pytest.mark.parametrize("door", ["python-websocket"], indirect=True)


# ── python-socketio itself ────────────────────────────────────────────────────────────────────────────────────────────


@one_door
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_python_handler_with_one_parameter_gets_logged_events(story: Story, transport: str) -> None:
    """With one argument more, python-socketio raises TypeError in a background task and the event is lost."""
    ticket = await story.ticket()
    heard: list[tuple[str, Any]] = []
    client = socketio.AsyncClient(reconnection=False, handle_sigint=False)

    async def subscribed(data: Any) -> None:
        heard.append(("ticket:subscribed", data["ticketId"]))

    async def updated(data: Any) -> None:
        heard.append(("ticket:updated", data["version"]))

    client.on("ticket:subscribed", subscribed, namespace="/tickets")
    client.on("ticket:updated", updated, namespace="/tickets")
    await client.connect(
        f"http://127.0.0.1:{story.server.port}",
        auth={"token": story.token(story.agent())},
        namespaces=["/tickets"],
        transports=[transport],
    )
    try:
        answer = await client.call("ticket:subscribe", {"ticketId": ticket}, namespace="/tickets")
        assert answer["ok"], answer
        await story.push("PUT", f"/tickets/{ticket}", {"subject": "new"})
        await until(lambda: len(heard) == 2, "both logged events")
    finally:
        await client.shutdown()
    assert heard == [("ticket:subscribed", ticket), ("ticket:updated", 2)]


@one_door
async def test_a_handler_of_pythons_blocking_client_gets_logged_events(story: Story) -> None:
    ticket = await story.ticket()
    heard: list[Any] = []
    token = story.token(story.agent())

    def talk() -> None:
        client = socketio.Client(reconnection=False, handle_sigint=False)

        def subscribed(data: Any) -> None:
            heard.append(data["ticketId"])

        client.on("ticket:subscribed", subscribed, namespace="/tickets")
        client.connect(
            f"http://127.0.0.1:{story.server.port}",
            auth={"token": token},
            namespaces=["/tickets"],
            transports=["polling"],
        )
        assert client.call("ticket:subscribe", {"ticketId": ticket}, namespace="/tickets", timeout=10)["ok"]
        client.call("are:you:there", {}, namespace="/tickets", timeout=10)  # behind it, what was sent has arrived
        client.disconnect()

    await asyncio.to_thread(talk)
    await until(lambda: heard, "the logged event")
    assert heard == [ticket]


# ── others, by what their handshake looks like ────────────────────────────────────────────────────────────────────────


class Maker(NamedTuple):
    """A client's first request: its query and its User-Agent ("" for none). `recovers`: does it use offsets?"""

    query: str
    agent: str
    recovers: bool


BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
MAKERS = {
    "socket.io-client in a browser": Maker("EIO=4&transport=websocket", BROWSER, True),
    "socket.io-client in Node, by ws": Maker("EIO=4&transport=websocket", "", True),
    "socket.io-client in Node, by XMLHttpRequest": Maker("EIO=4&transport=websocket", "node-XMLHttpRequest", True),
    "socket.io-client in React Native on Android": Maker("EIO=4&transport=websocket", "okhttp/4.12.0", True),
    "socket.io-client with a query of its own": Maker("tenant=a&EIO=4&transport=websocket", BROWSER, True),
    "python-socketio by aiohttp": Maker("transport=websocket&EIO=4", "Python/3.11 aiohttp/3.14.5", False),
    "python-socketio by websocket-client, which names nobody": Maker("transport=websocket&EIO=4", "", False),
    "python-socketio with a query of its own": Maker("tenant=a&transport=websocket&EIO=4", "", False),
    "python-socketio by requests": Maker("transport=websocket&EIO=4", "python-requests/2.34.2", False),
    "socket_io_client of Dart and Flutter": Maker("EIO=4&transport=websocket", "Dart/3.8 (dart:io)", False),
    "a client in Go": Maker("EIO=4&transport=websocket", "Go-http-client/1.1", False),
    "elephant.io of PHP": Maker("EIO=4&transport=websocket", "elephant.io", False),
}


async def first_events(server: ServerProcess, story: Story, maker: Maker, says: str = "") -> tuple[str, str]:
    """Connect as this maker's client, subscribe to a ticket, and return the answer to CONNECT and the logged event."""
    ticket = await story.ticket()
    target = Target(server.port)
    try:
        headers = {"User-Agent": maker.agent} if maker.agent else {}
        socket: RawSocket = await target.socket(f"/socket.io/?{maker.query}", headers=headers)
        await socket.text()  # Engine.IO's OPEN
        socket.say(f'40/tickets,{{"token":"{story.token(story.agent())}"{says}}}')
        connected = await next_text(socket, lambda text: text.startswith("40/tickets,"))
        socket.say(f'42/tickets,1["ticket:subscribe",{{"ticketId":"{ticket}"}}]')
        return connected, await next_text(socket, lambda text: "ticket:subscribed" in text)
    finally:
        await target.close()


async def next_text(socket: RawSocket, wanted: Callable[[str], bool]) -> str:
    async with asyncio.timeout(10):
        while not wanted(text := await socket.text()):
            pass
    return text


@one_door
@pytest.mark.parametrize("name", MAKERS)
async def test_only_clients_that_use_recovery_are_sent_offsets(story: Story, name: str) -> None:
    connected, event = await first_events(story.server, story, MAKERS[name])
    recovers = MAKERS[name].recovers
    assert ('"pid":"' in connected) is recovers
    assert event.endswith('-0"]') is recovers, event


@one_door
@pytest.mark.parametrize(
    ("name", "says", "recovers"),
    [
        ("socket.io-client in a browser", ',"recovery":false', False),
        ("python-socketio by aiohttp", ',"recovery":true', True),
        ("python-socketio by aiohttp", ',"pid":"n1.of-a-session-that-is-gone"', True),
        ("python-socketio by aiohttp", ',"recovery":false,"pid":"n1.of-a-session-that-is-gone"', False),
        ("socket.io-client in a browser", ',"recovery":"no"', True),
    ],
)
async def test_a_client_chooses_whether_it_uses_recovery(story: Story, name: str, says: str, recovers: bool) -> None:
    """`recovery` in its auth counts first; a client that brings a pid uses it."""
    connected, event = await first_events(story.server, story, MAKERS[name], says)
    assert ('"pid":"' in connected) is recovers
    assert event.endswith('-0"]') is recovers, event

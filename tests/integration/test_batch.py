"""Batches on real nodes: one write per client, a Valkey that freezes meanwhile, and a back end that bridges chats."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import aio, until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes
from tests.support.own_cluster import OwnCluster
from tests.support.own_valkey import OwnValkey
from tests.support.raw_websocket import RawWebSocket
from tests.support.server import ServerProcess

DOOR = NativeDoor()
BOT = {"id": "bot", "name": "Bot"}
COMMENT = {"kind": "reply", "author": BOT, "excerpt": "on it"}


@pytest.fixture(scope="module", params=["one Valkey", "a Valkey Cluster"])
def nodes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_url: str
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    with contextlib.ExitStack() as stack:
        url = valkey_url if request.param == "one Valkey" else stack.enter_context(OwnCluster()).url
        yield stack.enter_context(two_nodes(tmp_path_factory.mktemp("batch"), url))


def socketio(server: ServerProcess, token: str) -> RawWebSocket:
    raw = RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket")
    raw.read_until(lambda texts: texts and texts[0].startswith("0{"))
    raw.send(f'40/tickets,{{"token":"{token}"}}')
    raw.read_until(lambda texts: any(text.startswith("40/tickets,") for text in texts))
    return raw


def native(server: ServerProcess, token: str) -> RawWebSocket:
    raw = RawWebSocket(server.port, "/rt/tickets")
    raw.send(f'{{"event":"connect","data":{{"token":"{token}"}}}}')
    raw.read_until(lambda texts: any('"event":"connect"' in text for text in texts))
    return raw


async def batch(server: ServerProcess, *operations: dict[str, Any]) -> list[dict[str, Any]]:
    status, answer = await server.push("POST", "/api/v1/batch", {"operations": operations})
    assert status == 200, answer
    found: list[dict[str, Any]] = answer["results"]
    return found


@aio
@pytest.mark.parametrize("connect", [socketio, native])
@pytest.mark.parametrize("node", [0, 1])
async def test_ten_events_of_a_batch_reach_a_client_in_one_write(
    nodes: tuple[ServerProcess, ServerProcess], connect: Any, node: int
) -> None:
    """Also on the other node, and also if they are together larger than what Valkey reads at once (16 KB)."""
    team = f"{connect.__name__}{node}"
    raw = connect(nodes[node], nodes[0].token("ann", "agent", team))
    try:
        for round in range(3):
            before, seen = raw.writes(), len(raw.texts)
            tickets = (f"{team}-{round}-{number}" for number in range(10))
            puts = [{"op": "ticket.put", "ticketId": one, "teamId": team, "subject": "x" * 450} for one in tickets]
            results = await batch(nodes[0], *puts)
            assert [one.get("version") for one in results] == [1] * 10
            raw.read_until(lambda texts, seen=seen: len(texts) >= seen + 10)
            assert all("ticket:created" in text for text in raw.texts[seen:])
            assert raw.writes() - before == 1, f"round {round}"
        before, seen = raw.writes(), len(raw.texts)
        event = {"op": "emit", "namespace": "/tickets", "room": f"team:{team}", "event": "news", "data": "x" * 3_000}
        await batch(nodes[0], *[event] * 10)
        raw.read_until(lambda texts: len(texts) >= seen + 10)
        assert raw.writes() - before == 1
    finally:
        raw.close()


@aio
async def test_a_batch_during_which_valkey_freezes_is_completed_by_a_retry(tmp_path: Path) -> None:
    """Each operation is answered; what was not confirmed is UNAVAILABLE; and nothing is done or sent twice."""
    with OwnValkey() as valkey:
        server = ServerProcess(tmp_path, valkey_url=valkey.url, drain_seconds=0)
        server.start()
        try:
            peer = await DOOR.open(server.address, "/tickets", {"token": server.token("eve", "admin")})
            operations: list[dict[str, Any]] = [
                {"op": "ticket.put", "ticketId": str(number % 700), "subject": str(number), "id": f"job-{number}"}
                for number in range(990)
            ]
            operations += [
                {"op": "emit", "namespace": "/tickets", "room": "role:admin", "event": "news", "data": n, "id": f"e{n}"}
                for n in range(10)
            ]
            valkey.freeze()
            results = await batch(server, *operations)
            assert {one["error"]["code"] for one in results} == {"UNAVAILABLE"}
            valkey.thaw()

            async def confirmed() -> bool:
                return not any("error" in one for one in await batch(server, *operations))

            await until(confirmed, "all operations are done after Valkey is back")
            again = await batch(server, *operations)
            assert [one["version"] for one in again[:990]] == [1 + (number < 290) for number in range(700)] + [2] * 290
            for number in (0, 289, 290, 699):
                _, ticket = await server.push("GET", f"/api/v1/tickets/{number}")
                assert ticket["subject"] == str(number + 700 if number < 290 else number)
            created, news = await events_of(peer, 700, 10)
            assert sorted(created, key=int) == [str(number) for number in range(700)] and sorted(news) == list(
                range(10)
            )
            await peer.close()
        finally:
            server.stop()


async def events_of(peer: Peer, tickets: int, news: int) -> tuple[list[str], list[int]]:
    created = [(await peer.expect("ticket:created"))["ticketId"] for _ in range(tickets)]
    return created, [await peer.expect("news") for _ in range(news)]


@aio
async def test_a_batch_that_is_sent_to_two_nodes_at_once_is_done_once(
    nodes: tuple[ServerProcess, ServerProcess],
) -> None:
    """A back end that got no answer in time may retry at another node while the first one is still at work."""
    one, two = nodes
    eve = await DOOR.open(one.address, "/tickets", {"token": one.token("eve", "admin")})
    tag = secrets.token_hex(3)
    operations: list[dict[str, Any]] = []
    for number in range(150):
        ticket = f"{tag}-{number}"
        operations += [
            {"op": "ticket.put", "ticketId": ticket, "status": "open", "id": "p1"},
            {"op": "ticket.put", "ticketId": ticket, "status": "solved", "id": "p2"},
            {"op": "ticket.comment", "ticketId": ticket, **COMMENT, "id": "c1"},
            {"op": "emit", "namespace": "/tickets", "room": "role:admin", "event": tag, "data": number, "id": ticket},
        ]
    answers = await asyncio.gather(*(batch(node, *operations) for node in (one, two, one)))
    assert not [one for results in answers for one in results if "error" in one]
    for number in (0, 149):
        _, ticket = await two.push("GET", f"/api/v1/tickets/{tag}-{number}")
        assert (ticket["status"], ticket["version"]) == ("solved", 2)
    assert [await eve.expect(tag) for _ in range(150)] == list(range(150))
    created = [(await eve.expect("ticket:created"))["ticketId"] for _ in range(150)]
    assert sorted(created) == sorted(f"{tag}-{number}" for number in range(150))
    await eve.not_told(tag)
    await eve.not_told("ticket:created")
    await eve.close()


@aio
async def test_a_batch_may_have_four_megabytes(nodes: tuple[ServerProcess, ServerProcess]) -> None:
    """Other bodies may have one: an event of 250 KB, twelve times."""
    event = {"op": "emit", "namespace": "/tickets", "room": "nobody", "event": "big", "data": "x" * 250_000}
    results = await batch(nodes[0], *[event] * 12)
    assert len(results) == 12 and all(one["offset"] for one in results)
    status, answer = await nodes[0].push("POST", "/api/v1/batch", {"operations": [event] * 17})
    assert (status, answer["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


@aio
async def test_a_bot_and_a_bridge_speak_in_a_chat_that_clients_of_both_nodes_see(
    nodes: tuple[ServerProcess, ServerProcess],
) -> None:
    one, two = nodes
    agent = await DOOR.open(two.address, "/chat", {"token": one.token("ann", "agent", "red")})
    start = {"customerId": "mia", "customerName": "Mia", "clientId": "mail-1", "text": "Hello", "teamId": "red"}
    status, begun = await one.push("POST", "/api/v1/chats", start)
    assert status == 201 and begun["position"] == 1
    chat = begun["conversationId"]
    assert await two.push("POST", "/api/v1/chats", start) == (201, begun)
    added = await agent.expect("chat:queue", lambda data: data.get("added"))
    assert added["added"][0]["conversationId"] == chat
    await agent.ok("chat:accept", {"conversationId": chat})
    mia = await DOOR.open(one.address, "/chat", {"token": one.token("mia", "customer")})
    assert (await mia.expect("chat:conversation"))["conversation"]["conversationId"] == chat
    await mia.ok("chat:join", {"conversationId": chat})

    path = f"/api/v1/chats/{chat}/messages"
    assert (await two.push("POST", path, {"author": BOT, "text": "I help", "clientId": "b1"}))[1]["id"] == 2
    mail = {"author": {"id": "mia", "name": "Mia"}, "text": "By mail", "clientId": "mail-2"}
    status, said = await one.push("POST", path, mail)
    assert (status, said["id"]) == (201, 3) and await two.push("POST", path, mail) == (201, said)
    for peer in (agent, mia):
        first, second = await peer.expect("chat:message"), await peer.expect("chat:message")
        assert [(m["id"], m["author"]["id"], m["author"]["role"]) for m in (first, second)] == [
            (2, "bot", "agent"),
            (3, "mia", "customer"),
        ]
    _, page = await one.push("GET", f"{path}?limit=2")
    assert [m["id"] for m in page["messages"]] == [2, 3] and page["more"]
    _, page = await two.push("GET", f"{path}?limit=2&before=2")
    assert [m["text"] for m in page["messages"]] == ["Hello"] and not page["more"]
    results = await batch(
        one,
        *(
            {"op": "chat.message", "conversationId": chat, "author": BOT, "text": str(n), "clientId": f"x{n}"}
            for n in range(10)
        ),
    )
    assert [result["id"] for result in results] == list(range(4, 14))
    assert [(await mia.expect("chat:message"))["text"] for _ in range(10)] == [str(n) for n in range(10)]
    assert (await one.push("GET", "/api/v1/chats/none/messages"))[0] == 404
    for peer in (agent, mia):
        await peer.close()

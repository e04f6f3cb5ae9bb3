"""On two nodes: users whom the back end puts into rooms, and users of whom nothing is kept any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.aio import aio, until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

DOOR = NativeDoor()
Nodes = tuple[ServerProcess, ServerProcess]


@pytest.fixture(scope="module")
def valkey() -> Iterator[OwnValkey]:
    with OwnValkey() as valkey:
        yield valkey


@pytest.fixture(scope="module", params=["shared", "separate"])
def nodes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey: OwnValkey
) -> Iterator[Nodes]:
    valkey("FLUSHALL")
    with two_nodes(tmp_path_factory.mktemp("users"), valkey.url, user_ids=request.param) as both:
        yield both


def separate(nodes: Nodes) -> bool:
    return nodes[0].settings["user_ids"] == "separate"


async def come(node: ServerProcess, namespace: str, name: str, role: str = "agent", team: str = "red") -> Peer:
    return await DOOR.open(node.address, namespace, {"token": node.token(name, role, team if role == "agent" else "")})


async def emit(node: ServerProcess, namespace: str, room: str, number: int) -> None:
    event = {"namespace": namespace, "room": room, "event": "news", "data": number}
    assert (await node.push("POST", "/api/v1/emit", event))[0] == 200


@aio
async def test_a_user_put_into_a_room_gets_its_events_on_every_node_until_taken_out(nodes: Nodes) -> None:
    one, two = nodes
    ann, twin, ben = await come(one, "/main", "ann"), await come(two, "/main", "ann"), await come(one, "/main", "ben")
    other = await come(one, "/tickets", "ann")
    join, leave = "/api/v1/rooms/project:7/join", "/api/v1/rooms/project:7/leave"
    for _ in range(2):
        assert await two.push("POST", join, {"userId": "ann"}) == (200, {"count": 2, "full": 0, "missing": []})
    await emit(one, "/", "project:7", 1)
    assert [await ann.expect("news"), await twin.expect("news")] == [1, 1]
    assert await one.push("POST", leave, {"userId": "ann"}) == (200, {"count": 2, "full": 0, "missing": []})
    assert (await one.push("POST", leave, {"userId": "ann"}))[1]["count"] == 0
    await emit(one, "/", "project:7", 2)
    for peer in (ann, twin, ben, other):
        await peer.not_told("news")
    assert (await one.push("POST", join, {"userId": "ann", "namespace": "/tickets"}))[1]["count"] == 1
    await emit(two, "/tickets", "project:7", 3)
    assert await other.expect("news") == 3
    for peer in (ann, twin, ben, other):
        await peer.close()


@aio
async def test_rooms_that_the_server_manages_are_refused(nodes: Nodes) -> None:
    for room in (
        "user:eve",
        "role:admin",
        "team:red",
        "ticket:1",
        "ticket-staff:1",
        "chat:1",
        "chat-staff:1",
        "dashboard",
        "presence:ann",
        "presence-customer:ann",
        "customer:eve",
    ):
        for verb in ("join", "leave"):
            status, answer = await nodes[0].push("POST", f"/api/v1/rooms/{room}/{verb}", {"userId": "ann"})
            assert (status, answer["error"]["field"]) == (400, "room"), room
    path = "/api/v1/rooms/own/join"
    for body, field in (({}, "userId"), ({"userId": "ann", "namespace": "/none"}, "namespace")):
        status, answer = await nodes[0].push("POST", path, body)
        assert (status, answer["error"]["field"]) == (400, field)
    status, answer = await nodes[0].push("POST", path, {"customerId": "mia"})
    assert (status, answer.get("error", {}).get("field")) == ((200, None) if separate(nodes) else (400, "customerId"))


@aio
async def test_nothing_is_kept_of_a_customer_whose_data_is_deleted(nodes: Nodes, valkey: OwnValkey) -> None:
    """The report says what there was. Afterwards no key outside the logs has the id in its name or its value."""
    one, two = nodes
    mia, bell, ann = (
        await come(one, "/chat", "mia-7", "customer"),
        await come(two, "/notifications", "mia-7", "customer"),
        await come(two, "/chat", "ann"),
    )
    here = await come(two, "/presence", "mia-7", "customer")
    chats = []
    for number in range(3):
        started = await mia.ok("chat:start", {"clientId": f"m{number}", "text": "Hello", "teamId": "red"})
        chats.append(started["conversationId"])
    await ann.ok("chat:accept", {"conversationId": chats[0]})
    for chat in chats[:2]:
        assert (
            await one.push(
                "POST",
                f"/api/v1/chats/{chat}/messages",
                {"author": {"id": "bot", "name": "Bot"}, "text": "Hi", "clientId": "1"},
            )
        )[0] == 201
    await mia.ok("chat:close", {"conversationId": chats[1]})
    other = {"customerId": "carl", "customerName": "Carl", "clientId": "c1", "text": "Mine", "teamId": "red"}
    assert (await one.push("POST", "/api/v1/chats", other))[0] == 201
    named = "customerId" if separate(nodes) else "userId"
    for number in range(2):
        notice = {named: "mia-7", "type": "t", "title": "T", "id": f"n{number}"}
        assert (await one.push("POST", "/api/v1/notifications", notice))[0] == 201

    path = f"/api/v1/{'customers' if separate(nodes) else 'users'}/mia-7/data"
    assert (await one.push("DELETE", path))[1]["error"]["field"] == "reason"
    status, report = await two.push("DELETE", f"{path}?reason=request+17")
    assert status == 200, report
    assert report == {
        "deleted": {"connections": 3, "conversations": 3, "messages": 5, "notifications": 2, "presence": 1},
        "missing": [],
    }
    assert (await ann.expect("chat:closed", {"conversationId": chats[0]}))["reason"] == "agent"
    for peer in (mia, bell, here):
        assert await peer.gone() == 4403
        await peer.close()
    for chat in chats:
        assert (await one.push("GET", f"/api/v1/chats/{chat}"))[0] == 404
    _, page = await one.push("GET", "/api/v1/audit?action=customer" if separate(nodes) else "/api/v1/audit?action=user")
    assert [(entry["target"], entry["reason"], entry["outcome"]) for entry in page["items"][:1]] == [
        ("mia-7", "request 17", "ok")
    ]

    async def clean() -> bool:
        return not left_of(valkey, "mia-7")

    await until(clean, "nothing is left of the customer", 15)
    _, again = await one.push("DELETE", f"{path}?reason=again")
    assert not any(again["deleted"].values())
    _, listed = await one.push("GET", "/api/v1/chats?state=waiting")
    assert [row["customer"]["id"] for row in listed["items"]] == ["carl"]
    await ann.close()


LOGS = (":log", ":feed-log", ":id:", ":ids:", "audit", ":feed-id:", ":session")


def left_of(valkey: OwnValkey, id: str) -> list[str]:
    """Return the keys that have the id in their name or in their value, besides those of the logs."""
    found = []
    for key in valkey("KEYS", "*"):
        if any(word in key for word in LOGS):
            continue
        kind = valkey("TYPE", key)
        read: Any = {
            "string": ("GET", key),
            "hash": ("HGETALL", key),
            "set": ("SMEMBERS", key),
            "zset": ("ZRANGE", key, 0, -1),
            "list": ("LRANGE", key, 0, -1),
            "stream": ("XRANGE", key, "-", "+"),
        }[kind]
        if id in key or id in str(valkey(*read)):
            found.append(key)
    return found


@aio
async def test_messages_of_a_deleted_agent_stay_in_the_chats_of_customers(nodes: Nodes) -> None:
    one, two = nodes
    zoe = await come(one, "/chat", "zoe", team="blue")
    start = {"customerId": "kim", "customerName": "Kim", "clientId": "k1", "text": "Hello", "teamId": "blue"}
    _, begun = await two.push("POST", "/api/v1/chats", start)
    chat = begun["conversationId"]
    await zoe.ok("chat:accept", {"conversationId": chat})
    await zoe.ok("chat:message", {"conversationId": chat, "text": "Hi Kim", "clientId": "z1"})
    status, report = await two.push("DELETE", "/api/v1/users/zoe/data?reason=left")
    assert status == 200 and report["deleted"] == {
        "connections": 1,
        "conversations": 0,
        "messages": 0,
        "notifications": 0,
        "presence": 0,
    }
    _, page = await two.push("GET", f"/api/v1/chats/{chat}/messages")
    assert [message["text"] for message in page["messages"]] == ["Hello", "Hi Kim"]
    assert await zoe.gone() == 4403
    await zoe.close()

"""The connections of two nodes on the admin port: search, pages, disconnecting, recently closed ones."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.support.aio import aio, until
from tests.support.clients import Door, Peer
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes
from tests.support.python_client import PythonDoor
from tests.support.server import ServerProcess

Pair = tuple[ServerProcess, ServerProcess]

NATIVE = NativeDoor()
POLLING = PythonDoor("python-polling", "polling")
WEBSOCKET = PythonDoor("python-websocket", "websocket")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Pair]:
    with two_nodes(tmp_path_factory.mktemp("nodes"), valkey_url, presence_grace_ms=200) as pair:
        yield pair


async def get(server: ServerProcess, path: str, **query: object) -> dict[str, Any]:
    status, answer = await server.push("GET", f"/api/v1/{path}?{urlencode(query)}")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


async def open_as(
    server: ServerProcess,
    name: str,
    role: str = "agent",
    door: Door = NATIVE,
    ns: str = "/tickets",
    reconnection: bool = False,
    **claims: object,
) -> Peer:
    token = server.token(name, role, "red" if role == "agent" else "", **claims)
    return await door.open(server.address, ns, {"token": token}, reconnection=reconnection)


async def close_all(*peers: Peer) -> None:
    for peer in peers:
        await peer.close()


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(3)}"


@aio
async def test_a_connection_is_found_by_each_of_its_fields(servers: Pair) -> None:
    one, two = servers
    ann, bob, carl = unique("ann"), unique("bob"), unique("carl")
    native = await open_as(two, ann)
    polling = await open_as(one, bob, door=POLLING)
    chatting = await open_as(two, carl, "customer", WEBSOCKET, "/chat")
    for asked in servers:
        (found,) = (await get(asked, "connections", user=ann))["items"]
        assert (
            found["user"] == {"id": ann, "name": ann.title()} and found["role"] == "agent" and found["teamId"] == "red"
        )
        assert (found["node"], found["transport"], found["protocol"]) == ("n2", "websocket", "native")
        assert found["namespaces"] == ["/tickets"] and found["ip"] == "127.0.0.1"
        (socket,) = found["sockets"]
        assert found["sessionId"] == f"session-{ann}"  # the token's claim
        assert socket["rooms"] == sorted([f"user:{ann}", "role:agent", "team:red"]) and socket["roomCount"] == 3
        assert found["outboxBytes"] == found["dropped"] == 0 and found["eventsOut"] >= 1
        assert found["connectedAt"] <= found["lastSeenAt"]
        for sid in (found["sid"], socket["sid"]):
            assert [row["sid"] for row in (await get(asked, "connections", sid=sid))["items"]] == [found["sid"]]

    async def users(**query: object) -> set[str]:
        return {row["user"]["id"] for row in (await get(one, "connections", **query))["items"]} & {ann, bob, carl}

    assert await users() == {ann, bob, carl}
    assert await users(transport="polling") == {bob}
    assert await users(namespace="/chat") == {carl}
    assert await users(role="customer") == {carl}
    assert await users(node="n2") == {ann, carl}
    assert await users(room=f"user:{ann}") == {ann} == await users(room=f"user:{ann}", namespace="/tickets")
    assert await users(room=f"user:{ann}", namespace="/chat") == set() == await users(room="user:nobody")
    assert await users(namespace="/nowhere") == set() == await users(ip="192.0.2.1") == await users(sid="x")
    assert await users(ip="127.0.0.1", node="n1") == {bob}
    await close_all(native, polling, chatting)


@aio
async def test_pages_together_hold_everything_once_in_order(servers: Pair) -> None:
    one, two = servers
    name = unique("many")
    peers = [await open_as(server, name) for server in (one, two, two, one, two, one, two)]
    for sort in ("connected", "-connected", "seen", "-outbox", "-dropped", "user", "-user"):
        seen: list[dict[str, Any]] = []
        query: dict[str, object] = {"user": name, "limit": 3, "sort": sort}
        sizes = []
        while True:
            page = await get(one, "connections", **query)
            assert page["total"] == 7 and page["missing"] == []
            seen += page["items"]
            sizes.append(len(page["items"]))
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert sizes == [3, 3, 1] and len({row["sid"] for row in seen}) == 7
        if sort.endswith("connected"):
            times = [row["connectedAt"] for row in seen]
            assert times == sorted(times, reverse=sort.startswith("-"))
    await close_all(*peers)


@aio
async def test_sorting_by_outbox_shows_slow_clients_first(servers: Pair) -> None:
    """The polling client has no open poll after its last answer, so its messages wait in the outbox."""
    one, two = servers
    name = unique("slow")
    quick = await open_as(one, name)
    slow = await open_as(two, name, door=POLLING)
    (row,) = (await get(one, "connections", user=name, transport="polling"))["items"]
    assert row["node"] == "n2"
    first = (await get(one, "connections", user=name, sort="-outbox"))["items"]
    assert [one["outboxBytes"] for one in first] == sorted((one["outboxBytes"] for one in first), reverse=True)
    await close_all(quick, slow)


@pytest.mark.parametrize("door", (NATIVE, WEBSOCKET, POLLING), ids=lambda door: door.name)
@aio
async def test_a_kicked_client_does_not_reconnect(servers: Pair, door: Door) -> None:
    one, two = servers
    name = unique("kicked")
    peer = await open_as(two, name, door=door, reconnection=door.reconnects)
    other = await open_as(two, name, door=door)
    sids = {row["sockets"][0]["sid"]: row["sid"] for row in (await get(one, "connections", user=name))["items"]}
    assert len(sids) == 2 and peer.sid in sids
    status, answer = await one.push("DELETE", f"/api/v1/connections/{sids[peer.sid]}?reason=test")
    assert (status, answer) == (200, {"count": 1, "missing": []})
    await asyncio.wait_for(peer.gone(), 5)
    left = (await get(one, "connections", user=name))["items"]
    assert [row["sid"] for row in left] == [sids[other.sid]]
    closed = (await get(one, "connections/closed", user=name))["items"]
    assert [(row["sid"], row["closeReason"], row["node"]) for row in closed] == [(sids[peer.sid], "kicked", "n2")]
    await asyncio.sleep(1.5)  # a stock client's first try to come back is within 1.5 s
    assert peer.connects == 1 and not peer.connected
    status, answer = await one.push("DELETE", f"/api/v1/connections/{sids[peer.sid]}?reason=test")
    assert (status, answer["error"]["code"]) == (404, "NOT_FOUND")
    await close_all(peer, other)


@pytest.mark.parametrize("door", (WEBSOCKET, POLLING), ids=lambda door: door.name)
@aio
async def test_a_client_kicked_with_reconnect_comes_back(servers: Pair, door: Door) -> None:
    one, two = servers
    name = unique("back")
    peer = await open_as(two, name, door=door, reconnection=door.reconnects)
    body = {"reason": "test", "reconnect": True}
    assert await one.push("POST", f"/api/v1/users/{name}/disconnect", body) == (200, {"count": 1, "missing": []})
    await peer.again(deadline_s=15)
    closed = (await get(one, "connections/closed", user=name))["items"]
    assert [row["closeReason"] for row in closed] == ["sent away"]
    await close_all(peer)


@aio
async def test_a_bulk_disconnect_is_counted_first(servers: Pair) -> None:
    one, two = servers
    team = [unique("team") for _ in range(3)]
    peers = [await open_as(server, name) for server, name in zip((one, two, two), team, strict=True)]
    ticket = unique("t")
    status, _ = await one.push(
        "PUT", f"/api/v1/tickets/{ticket}", {"subject": "x", "status": "open", "teamId": "red", "priority": "low"}
    )
    assert status == 201
    for peer in peers:
        await peer.ok("ticket:subscribe", {"ticketId": ticket})
    order: dict[str, Any] = {"where": {"room": f"ticket:{ticket}"}, "reason": "test", "dryRun": True}
    assert await one.push("POST", "/api/v1/connections/disconnect", order) == (200, {"count": 3, "missing": []})
    assert all(peer.connected for peer in peers)
    del order["dryRun"]
    order["where"]["node"] = "n2"
    assert await one.push("POST", "/api/v1/connections/disconnect", order) == (200, {"count": 2, "missing": []})
    await asyncio.wait_for(asyncio.gather(peers[1].gone(), peers[2].gone()), 5)
    assert peers[0].connected
    done = (await get(one, "audit", limit=3))["items"]
    assert done[0]["action"] == "connection.disconnect" and f"ticket:{ticket}" in done[0]["what"]
    assert done[0]["target"] == f"room=ticket:{ticket} node=n2"
    assert done[0]["what"] == f'{{"where":{{"room":"ticket:{ticket}","node":"n2"}}}}'
    assert len([entry for entry in done if entry["action"] == "connection.disconnect"]) == 1  # not the dry run
    await close_all(*peers)


@aio
async def test_a_user_is_shown_with_everything_known_about_them(servers: Pair) -> None:
    one, two = servers
    name = unique("whole")
    peers = [await open_as(one, name), await open_as(two, name, ns="/presence")]
    gone = await open_as(two, name, ns="/chat")
    await gone.close()

    async def known() -> bool:
        user = await get(one, f"users/{name}")
        return bool(user["closed"]) and user["presence"]["status"] == "online"

    await until(known, "the closed connection and the open ones")
    user = await get(one, f"users/{name}")
    assert (user["name"], user["role"], user["teamId"]) == (name.title(), "agent", "red")
    assert len(user["connections"]) == 2 and user["missing"] == []
    assert user["rooms"] == sorted([f"user:{name}", "role:agent", "team:red"])
    assert user["closed"][0]["namespaces"] == ["/chat"]
    assert (user["connectionCount"], user["closedCount"], user["roomCount"]) == (2, 1, 3)
    assert user["blocks"] == user["revocations"] == []
    nobody = await get(one, "users/nobody-at-all")
    assert nobody["name"] is None and nobody["connections"] == [] and nobody["presence"]["status"] == "offline"
    await close_all(*peers)


@aio
async def test_open_and_closed_connections_show_their_session_ids(servers: Pair) -> None:
    one, two = servers
    name = unique("lost")
    peers = [await open_as(two, name, sessionId="phone"), await open_as(one, name, sessionId=None)]
    gone = await open_as(two, name, sessionId="laptop")
    await gone.close()

    async def closed() -> list[dict[str, Any]]:
        return list((await get(one, "connections/closed", user=name))["items"])

    await until(closed, "the closed connection")
    assert [row["sessionId"] for row in await closed()] == ["laptop"]
    assert {row["sessionId"] for row in (await get(one, "connections", user=name))["items"]} == {"phone", None}
    assert (await get(one, f"users/{name}"))["sessionIds"] == ["phone", "laptop"]
    await close_all(*peers)


@aio
async def test_a_user_is_shown_with_their_blocks_and_revocations(servers: Pair) -> None:
    """Regression: with many blocks and revocations, only the first page was searched for those of the user."""
    one, two = servers
    name = unique("ruled")
    peers = [await open_as(server, name, sessionId=f"{name}-{at}", iat=1) for at, server in enumerate(servers)]
    orders = [
        ("revocations", {"sessionId": f"{name}-0"}),
        ("revocations", {"sessionId": f"{unique('other')}"}),
        ("revocations", {"userId": name}),
        ("blocks", {"userId": name}),
        ("blocks", {"ip": "192.0.2.1"}),
        ("blocks", {"cidr": "127.0.0.0/8"}),
    ]
    made = []
    for path, order in orders:
        status, done = await one.push("POST", f"/api/v1/{path}", {**order, "reason": "test"})
        assert status == 201
        made.append((path, done["id"]))
    user = await get(two, f"users/{name}")
    for path, of_user in (("revocations", (0, 2)), ("blocks", (3, 5))):
        ids = [one["id"] for one in user[path]]
        assert sorted(ids) == sorted(made[at][1] for at in of_user)
        listed = {one["id"]: one for one in (await get(two, path, limit=500))["items"]}
        assert user[path] == [listed[id] for id in ids]
    for path, id in made:
        assert (await one.push("DELETE", f"/api/v1/{path}/{id}?reason=test"))[0] == 200
    assert (await get(one, f"users/{name}"))["blocks"] == []
    await close_all(*peers)


@aio
async def test_rooms_of_all_nodes_are_added_up(servers: Pair) -> None:
    one, two = servers
    ticket = unique("rooms")
    status, _ = await one.push(
        "PUT", f"/api/v1/tickets/{ticket}", {"subject": "x", "status": "open", "teamId": "red", "priority": "low"}
    )
    assert status == 201
    names = [unique("member") for _ in range(3)]
    peers = [await open_as(server, name) for server, name in zip((one, two, two), names, strict=True)]
    for peer in peers:
        await peer.ok("ticket:subscribe", {"ticketId": ticket})
    found = await get(two, "rooms", prefix=f"ticket:{ticket}")
    room = {"namespace": "/tickets", "room": f"ticket:{ticket}", "members": 3, "nodes": 2}
    assert found["items"][0] == room and not found["cut"] and found["missing"] == []
    assert (await get(one, "rooms", prefix=f"ticket:{ticket}", namespace="/chat"))["items"] == []
    for sort in ("-members", "members", "name", "-name"):
        seen, query = [], {"prefix": "user:member", "limit": 2, "sort": sort}
        while True:
            page = await get(one, "rooms", **query)
            seen += [row["room"] for row in page["items"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert sorted(seen) == sorted(f"user:{name}" for name in names)
        if sort.endswith("name"):
            assert seen == sorted(seen, reverse=sort.startswith("-"))

    status, _ = await one.push("PUT", f"/api/v1/tickets/{ticket}", {"subject": "<b>new</b>"})
    assert status == 200
    whole = await get(one, f"rooms/{quote('ticket:' + ticket, safe='')}")
    assert whole["memberCount"] == 3 and {member["user"]["id"] for member in whole["members"]} == set(names)
    assert {member["node"] for member in whole["members"]} == {"n1", "n2"}
    assert whole["entries"][0]["event"] == "ticket:updated" and whole["entries"][0]["bytes"] > 10
    assert [entry["offset"] for entry in whole["entries"]] == sorted(
        (e["offset"] for e in whole["entries"]), reverse=True
    )
    empty = await get(one, "rooms/no%2Fsuch%20room", namespace="/tickets")
    assert (empty["room"], empty["memberCount"], empty["entries"]) == ("no/such room", 0, [])
    await close_all(*peers)


WRONG = (
    ("GET", "connections?limit=0", None, "limit"),
    ("GET", "connections?limit=501", None, "limit"),
    ("GET", "connections?limit=many", None, "limit"),
    ("GET", "connections?cursor=!", None, "cursor"),
    ("GET", "connections?cursor=WyJhIl0", None, "cursor"),
    ("GET", "connections?sort=colour", None, "sort"),
    ("GET", "connections?transport=pigeon", None, "transport"),
    ("GET", "connections?role=king", None, "role"),
    ("GET", "connections?user=a&user=b", None, "user"),
    ("GET", "connections?colour=red", None, "colour"),
    ("GET", f"connections?room={'x' * 201}", None, "room"),
    ("GET", "connections/closed?cursor=x", None, "cursor"),
    ("GET", "rooms?sort=size", None, "sort"),
    ("GET", "rooms/x?namespace=/nowhere", None, "namespace"),
    ("GET", f"rooms/{'x' * 201}", None, "room"),
    ("GET", "users/a%07b", None, "userId"),
    ("DELETE", "connections/x?reason=x", None, "sid"),
    ("DELETE", f"connections/{'a' * 20}", None, "reason"),
    ("DELETE", f"connections/{'a' * 20}?reason=x&reconnect=perhaps", None, "reconnect"),
    ("DELETE", f"connections/{'a' * 20}?reason=%20%20", None, "reason"),
    ("DELETE", f"connections/{'a' * 20}?reason=x%0Ay", None, "reason"),
    ("POST", "connections/disconnect", {"reason": "x"}, "where"),
    ("POST", "connections/disconnect", {"reason": "x", "where": {}}, "where"),
    ("POST", "connections/disconnect", {"reason": "x", "where": {"user": 1}}, "where.user"),
    ("POST", "connections/disconnect", {"reason": "x", "where": {"colour": "red"}}, "where.colour"),
    ("POST", "connections/disconnect", {"where": {"user": "a"}}, "reason"),
    ("POST", "connections/disconnect", {"reason": "x", "where": {"user": "a"}, "dryRun": 1}, "dryRun"),
    ("POST", "users/ann/disconnect", {"reason": "", "reconnect": True}, "reason"),
    ("POST", "users/ann/disconnect", {"reason": "x", "reconnect": "yes"}, "reconnect"),
)


@pytest.mark.parametrize(("method", "path", "body", "field"), WRONG, ids=lambda value: str(value)[:60])
@aio
async def test_a_wrong_parameter_of_a_list_is_named(
    servers: Pair, method: str, path: str, body: Any, field: str
) -> None:
    status, answer = await servers[0].push(method, f"/api/v1/{path}", body)
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (400, "BAD_REQUEST", field)


@aio
async def test_the_audit_log_names_the_user_who_was_kicked(servers: Pair) -> None:
    """The public id of a connection is meaningless when the connection is closed."""
    one, two = servers
    ann = unique("ann")
    peer = await open_as(two, ann)
    (found,) = (await get(one, "connections", user=ann))["items"]
    status, _ = await one.push("DELETE", f"/api/v1/connections/{found['sid']}?reason=test")
    assert status == 200
    await peer.gone()
    (entry,) = (await get(two, "audit", action="connection.kick", limit=1))["items"]
    assert entry["target"] == f"{found['sid']} user:{ann}"


@aio
async def test_clients_disconnected_by_a_drain_have_that_close_reason(servers: Pair) -> None:
    one, two = servers
    ann = unique("ann")
    peer = await open_as(two, ann)
    order = {"overSeconds": 0, "reason": "test"}
    assert (await one.push("POST", "/api/v1/nodes/n2/drain", order))[0] == 200
    assert await peer.gone() == 1012
    (gone,) = (await get(one, "connections/closed", user=ann))["items"]
    assert gone["closeReason"] == "drained"
    assert (await one.push("POST", "/api/v1/nodes/n2/undrain", {"reason": "test"}))[0] == 200

"""Presence, chats and numbers on the admin port of a real process, with connected users."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from insightdesk_rt.api.keys_and_scopes import new_key
from tests.support.aio import aio, until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.server import ServerProcess

DOOR = NativeDoor()
KEY, LINE = new_key("night-shift-script", "operator")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("helpdesk")
    keys = folder / "keys"
    keys.write_text(LINE)
    keys.chmod(0o600)
    server = ServerProcess(folder, presence_grace_ms=200, drain_seconds=0, admin_keys_file=str(keys))
    server.start()
    yield server
    server.stop()
    server.assert_quiet()


async def get(server: ServerProcess, path: str, **query: object) -> dict[str, Any]:
    status, answer = await server.push("GET", f"/api/v1/{path}?{urlencode(query)}")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


async def come(server: ServerProcess, namespace: str, name: str, role: str = "agent", team: str = "red") -> Peer:
    token = server.token(name, role, team if role == "agent" else "")
    return await DOOR.open(server.address, namespace, {"token": token})


@aio
async def test_present_users_are_listed_by_status_and_found_by_id(server: ServerProcess) -> None:
    tag = secrets.token_hex(3)
    names = [f"agent{n}-{tag}" for n in range(5)]
    peers = [await come(server, "/presence", name) for name in names]
    customer = await come(server, "/presence", f"carl-{tag}", "customer")
    await peers[1].ok("presence:status", {"status": "busy"})

    seen: list[str] = []
    query: dict[str, object] = {"limit": 2}
    while True:
        page = await get(server, "presence", **query)
        seen += [row["userId"] for row in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    mine = [name for name in seen if name.endswith(tag)]
    assert mine == [names[0], *names[2:], names[1]], "online users first, the longest online at the top; no customers"
    assert [row["userId"] for row in (await get(server, "presence", status="busy"))["items"]] == [names[1]]

    asked = (await get(server, "presence", userIds=f"carl-{tag},{names[1]},nobody-{tag}"))["items"]
    assert [(row["userId"], row["status"], row["role"]) for row in asked] == [
        (f"carl-{tag}", "online", "customer"),
        (names[1], "busy", "agent"),
        (f"nobody-{tag}", "offline", None),
    ]
    assert asked[1]["name"] == names[1].title() and asked[1]["teamId"] == "red" and asked[2]["lastSeen"] is None
    for peer in (*peers, customer):
        await peer.close()

    async def offline() -> bool:
        return bool((await get(server, "presence", userIds=names[0]))["items"][0]["status"] == "offline")

    await until(offline, "the end of the grace period")
    assert (await get(server, "presence", userIds=names[0]))["items"][0]["lastSeen"] is not None


@aio
async def test_an_admin_moves_a_chat_and_everybody_sees_it(server: ServerProcess) -> None:
    tag = secrets.token_hex(3)
    ann, bob = await come(server, "/chat", f"ann-{tag}"), await come(server, "/chat", f"bob-{tag}")
    carl = await come(server, "/chat", f"carl-{tag}", "customer")
    started = await carl.ok(
        "chat:start", {"clientId": "c1", "subject": "<i>Printer</i>", "teamId": "red", "text": "Hello"}
    )
    chat = started["conversationId"]

    async def act(what: str, **body: object) -> tuple[int, Any]:
        return await server.push("POST", f"/api/v1/chats/{chat}/{what}", {"reason": "test", **body})

    async def listed(state: str) -> list[str]:
        return [row["conversationId"] for row in (await get(server, "chats", state=state))["items"]]

    assert chat in await listed("waiting")
    status, answer = await act("assign", agentId=f"nobody-{tag}")
    assert (status, answer["error"]["code"], answer["error"]["state"]) == (409, "CONFLICT", "waiting")
    status, answer = await act("assign", agentId=f"ann-{tag}")
    assert status == 200 and answer["state"] == "active" and answer["agent"]["id"] == f"ann-{tag}"
    assert answer["subject"] == "<i>Printer</i>"
    await ann.expect("chat:transferred", {"conversationId": chat})
    assert chat in await listed("active") and chat not in await listed("waiting")

    assert (await act("assign", agentId=f"bob-{tag}"))[0] == 200
    await bob.expect("chat:transferred", {"conversationId": chat})
    status, answer = await act("requeue")
    assert status == 200 and answer["state"] == "waiting" and answer["position"] == 1 and answer["teamId"] == "red"
    assert (await act("requeue"))[0] == 200  # idempotent
    assert (await act("requeue", teamId="blue"))[0] == 409, "nobody of that team is connected"
    blue = await come(server, "/chat", f"zoe-{tag}", team="blue")
    status, answer = await act("requeue", teamId="blue")
    await blue.close()
    assert status == 200 and answer["teamId"] == "blue"

    status, answer = await act("close")
    assert status == 200 and answer["state"] == "closed" and answer["closedBy"]["id"] == "back-end"
    await carl.expect("chat:closed", {"conversationId": chat})
    assert (await act("close"))[0] == 200
    assert (await listed("closed"))[0] == chat
    assert (await get(server, f"chats/{chat}"))["state"] == "closed"
    for what, body in (("requeue", {}), ("assign", {"agentId": f"ann-{tag}"})):
        assert (await act(what, **body))[1]["error"]["code"] == "CONFLICT"
    status, page = await server.push("GET", "/api/v1/audit?limit=50")
    assert status == 200
    done = [entry["action"] for entry in page["items"] if entry["target"] == chat and entry["outcome"] == "ok"]
    assert done == ["chat.close", "chat.close", *["chat.requeue"] * 3, "chat.assign", "chat.assign"]
    for peer in (ann, bob, carl):
        await peer.close()


@aio
async def test_chats_are_listed_in_pages_by_state(server: ServerProcess) -> None:
    tag = secrets.token_hex(3)
    carl = await come(server, "/chat", f"carl-{tag}", "customer")
    chats = []
    for number in range(5):
        started = await carl.ok("chat:start", {"clientId": f"c{number}", "teamId": f"team-{tag}", "text": "Hello"})
        chats.append(started["conversationId"])

    async def all_of(state: str) -> list[str]:
        seen: list[str] = []
        query: dict[str, object] = {"limit": 2, "state": state}
        while True:
            page = await get(server, "chats", **query)
            seen += [row["conversationId"] for row in page["items"]]
            if page["next"] is None:
                return [chat for chat in seen if chat in chats]
            query["cursor"] = page["next"]

    assert await all_of("waiting") == chats
    first = await get(server, "chats", state="waiting", limit=2)
    for chat in chats:
        assert (await server.push("POST", f"/api/v1/chats/{chat}/close", {"reason": "test"}))[0] == 200
    assert await all_of("waiting") == [] and await all_of("closed") == chats[::-1]
    rest = await get(server, "chats", state="waiting", limit=2, cursor=first["next"])
    assert rest["items"] == [], "a cursor to a deleted entry continues after it"
    await carl.close()


@aio
async def test_a_customer_does_not_learn_which_key_closed_the_chat(server: ServerProcess) -> None:
    """Regression: a key's name was shown as if it were a user's id."""
    name = f"mia-{secrets.token_hex(3)}"
    mia = await come(server, "/chat", name, "customer")
    started = await mia.ok("chat:start", {"clientId": "c1", "text": "Hello"})
    path = f"/api/v1/chats/{started['conversationId']}/close"
    status, closed = await server.push("POST", path, {"reason": "test"}, token=KEY)
    assert status == 200 and closed["closedBy"] == {"id": "key:", "name": "Support"}
    told = await mia.expect("chat:closed", {"conversationId": started["conversationId"]})
    assert told["by"] == {"id": "key:", "name": "Support"}
    (entry,) = (await get(server, "audit", who="key:night-shift-script"))["items"]
    assert (entry["action"], entry["target"]) == ("chat.close", started["conversationId"])
    assert (await get(server, "audit", who="night-shift-script"))["items"] == []
    await mia.close()


@aio
async def test_the_numbers_are_those_of_the_dashboard(server: ServerProcess) -> None:
    admin = await DOOR.open(server.address, "/dashboard", {"token": server.token("root", "admin")})
    for name in ("tickets", "queue", "agents"):
        told = await admin.expect(f"metrics:{name}")
        shown = await get(server, f"metrics/{name}")
        assert shown.keys() == told.keys()
        assert {key: told[key] for key in told if key != "asOf"} == {key: shown[key] for key in shown if key != "asOf"}
    await admin.close()
    assert (await server.push("GET", "/api/v1/metrics/nonsense"))[0] == 404


@aio
async def test_errors_name_the_wrong_field(server: ServerProcess) -> None:
    for path, field in (
        ("presence?status=asleep", "status"),
        ("presence?userIds=a%07b", "userIds"),
        ("presence?cursor=x", "cursor"),
        ("presence?userIds=a,b&limit=1", "limit"),
        ("presence?userIds=a,b&cursor=x", "cursor"),
        ("chats?state=lost", "state"),
        ("chats?cursor=WyJhIl0", "cursor"),
        ("chats/a%20b", "conversationId"),
    ):
        status, answer = await server.push("GET", f"/api/v1/{path}")
        assert (status, answer["error"]["field"].split(".")[0].split("[")[0]) == (400, field), path
    for what in ("close", "requeue", "assign"):
        body = {"reason": "x", **({"agentId": "ann"} if what == "assign" else {})}
        status, answer = await server.push("POST", f"/api/v1/chats/nothing/{what}", body)
        assert (status, answer["error"]["code"]) == (404, "NOT_FOUND")
        status, answer = await server.push("POST", f"/api/v1/chats/nothing/{what}", {**body, "reason": ""})
        assert (status, answer["error"]["field"]) == (400, "reason")
    assert (await server.push("GET", "/api/v1/chats/nothing"))[0] == 404

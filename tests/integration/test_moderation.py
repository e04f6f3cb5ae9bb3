"""Moderation on two nodes: revocations, blocks, notices, rates, log levels; and the configured settings."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.aio import aio, until
from tests.support.clients import Door, Peer, Refused
from tests.support.native_client import NativeDoor, NativePeer
from tests.support.node_client import NodeDoor, NodeProcess, why_not
from tests.support.nodes import two_nodes
from tests.support.own_valkey import OwnValkey
from tests.support.python_client import PythonDoor
from tests.support.server import SECRET, ServerProcess

Pair = tuple[ServerProcess, ServerProcess]

NATIVE = NativeDoor()
POLLING = PythonDoor("python-polling", "polling")
WEBSOCKET = PythonDoor("python-websocket", "websocket")
VALKEY_AWAY = (
    "valkey",
    "a turn",
    "the audit log",
    "not finished",
    "ruled",
    "Valkey has lost",
    "subscription",
    "not all nodes replied",
)
NAMESPACES = ("/tickets", "/chat", "/notifications", "/presence")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("nodes")
    with two_nodes(folder, valkey_url, trusted_proxies="127.0.0.1", rate_limits="chat:join=9/60") as pair:
        yield pair


@asynccontextmanager
async def stock_clients() -> AsyncIterator[NodeProcess]:
    if reason := why_not():
        pytest.skip(reason)
    node = NodeProcess()
    try:
        yield node
    finally:
        await node.stop()


async def call(
    server: ServerProcess, method: str, path: str, body: Any = None, want: int = 200, **query: object
) -> Any:
    if method != "GET":
        if body is None:
            query["reason"] = "a test"
        else:
            body = {"reason": "a test", **body}
    status, answer = await server.push(method, f"/api/v1/{path}?{urlencode(query)}", body)
    assert status == want, (status, answer)
    return answer


async def open_as(server: ServerProcess, name: str, door: Door = NATIVE, ns: str = "/tickets", **claims: Any) -> Peer:
    token = server.token(name, claims.pop("role", "agent"), "red", **claims)
    return await door.open(server.address, ns, {"token": token}, reconnection=door.reconnects)


async def refused(server: ServerProcess, name: str, door: Door = NATIVE, **claims: Any) -> str | None:
    with pytest.raises(Refused) as why:
        peer = await open_as(server, name, door, **claims)
        await peer.close()
    return why.value.code


async def close_all(*peers: Peer) -> None:
    for peer in peers:
        await peer.close()


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(3)}"


# ── revocations ─────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_revoked_session_is_closed_on_every_node_at_once_and_refused(servers: Pair) -> None:
    one, two = servers
    ann = unique("ann")
    lost = [
        await open_as(one, ann, NATIVE, sessionId=f"s-{ann}"),
        await open_as(two, ann, WEBSOCKET, sessionId=f"s-{ann}"),
        await open_as(two, ann, POLLING, "/chat", sessionId=f"s-{ann}"),
    ]
    kept = await open_as(two, ann, sessionId="another")
    order = {"sessionId": f"s-{ann}"}
    assert await call(one, "POST", "revocations", {**order, "dryRun": True}) == {"id": None, "count": 3, "missing": []}
    assert not any(peer.ended for peer in lost)
    done = await call(one, "POST", "revocations", order, 201)
    assert done["count"] == 3 and done["missing"] == []
    for peer in lost:
        await peer.gone(5.0)
        assert peer.pending("error", {"code": "AUTH_SESSION_REVOKED"})
    assert lost[0].ended == 4401
    for door in (NATIVE, WEBSOCKET, POLLING):
        for server in servers:
            assert await refused(server, ann, door, sessionId=f"s-{ann}") == "AUTH_SESSION_REVOKED"
    # a client that reconnects by itself is refused
    await until(lambda: lost[1].refused, "refused")
    assert lost[1].refused is not None and lost[1].refused.code == "AUTH_SESSION_REVOKED"
    await kept.settled()

    again = await call(two, "POST", "revocations", order, 201)
    assert again["id"] == done["id"] and again["count"] == 0
    for server in servers:
        (found,) = [r for r in (await call(server, "GET", "revocations"))["items"] if r["sessionId"] == f"s-{ann}"]
        assert found["by"] == "back-end" and found["reason"] == "a test" and found["issuedBefore"] is None
    await call(two, "DELETE", f"revocations/{done['id']}")
    await call(two, "DELETE", f"revocations/{done['id']}", want=404)
    back = await open_as(one, ann, sessionId=f"s-{ann}")
    await close_all(back, kept, *lost)


@aio
async def test_a_users_tokens_are_revoked_up_to_a_time_and_later_ones_stay_valid(servers: Pair) -> None:
    one, two = servers
    bob, now = unique("bob"), int(time.time())
    old = await open_as(two, bob, iat=now - 100, sessionId=None)
    undated = await open_as(one, bob, iat=None)
    new = await open_as(one, bob, iat=now + 10)
    assert (await call(one, "POST", "revocations", {"userId": bob}, 201))["count"] == 2
    assert await old.gone() == await undated.gone() == 4401
    assert await refused(two, bob, iat=now - 100) == await refused(one, bob, iat=None) == "AUTH_SESSION_REVOKED"
    # the old token is also refused on an open connection
    answer = await new.error("session:refresh", {"token": one.token(bob, "agent", "red", iat=now - 50)})
    assert answer["code"] == "AUTH_SESSION_REVOKED"
    # an earlier time does not weaken the revocation
    early = {"userId": bob, "issuedBefore": "2020-01-01T00:00:00Z"}
    assert (await call(two, "POST", "revocations", early, 201))["count"] == 0
    assert await refused(one, bob, iat=now - 100) == "AUTH_SESSION_REVOKED"
    later = await open_as(two, bob, iat=now + 10)
    await close_all(old, undated, new, later)


@aio
async def test_a_revoked_token_resumes_no_session_and_opens_no_admin_port(servers: Pair) -> None:
    async with stock_clients() as node:
        one, _ = servers
        carl = unique("carl")
        door = NodeDoor(node, "node", ["websocket"])
        auth = {"token": one.token(carl, "admin")}
        peer = await door.open(one.address, "/tickets", auth, cable=True, reconnection=True)
        admin = one.token(carl, "admin")
        assert (await one.push("GET", "/api/v1/nodes", token=admin))[0] == 200
        await peer.drop()
        await call(one, "POST", "revocations", {"userId": carl}, 201)
        peer.mend()
        await until(lambda: peer.refused, "refused")
        assert peer.refused is not None and peer.refused.code == "AUTH_SESSION_REVOKED" and peer.connects == 1
        status, answer = await one.push("GET", "/api/v1/nodes", token=admin)
        assert (status, answer["error"]["code"]) == (401, "AUTH_SESSION_REVOKED")
        await peer.close()


@aio
async def test_a_stock_client_with_a_revoked_session_does_not_reconnect(servers: Pair) -> None:
    one, two = servers
    async with stock_clients() as node:
        dora = unique("dora")
        for transport in ("websocket", "polling"):
            door = NodeDoor(node, f"node-{transport}", [transport])
            peer = await open_as(two, dora, door, sessionId=f"{dora}-{transport}")
            await call(one, "POST", "revocations", {"sessionId": f"{dora}-{transport}"}, 201)
            await peer.expect("error", {"code": "AUTH_SESSION_REVOKED"})
            await until(lambda peer=peer: peer.refused, "refused")  # type: ignore[misc]
            assert peer.refused is not None and peer.refused.code == "AUTH_SESSION_REVOKED" and peer.connects == 1
            await peer.close()


# ── blocks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_blocked_user_is_refused_until_the_block_ends(servers: Pair) -> None:
    one, two = servers
    eve = unique("eve")
    peers = [await open_as(one, eve), await open_as(two, eve, WEBSOCKET)]
    order = {"userId": eve, "forSeconds": 2}
    assert (await call(one, "POST", "blocks", {**order, "dryRun": True}))["count"] == 2
    assert (await call(one, "POST", "blocks", order, 201))["count"] == 2
    for peer in peers:
        await peer.gone(1.0)
        assert peer.pending("error", {"code": "FORBIDDEN"})
    assert peers[0].ended == 4403
    for door in (NATIVE, WEBSOCKET, POLLING):
        assert await refused(two, eve, door) == "FORBIDDEN"
    (held,) = [block for block in (await call(two, "GET", "blocks"))["items"] if block["userId"] == eve]
    assert held["until"] is not None and held["ip"] is held["cidr"] is None

    async def is_over() -> bool:
        return not [block for block in (await call(two, "GET", "blocks"))["items"] if block["userId"] == eve]

    await until(is_over, "the end of the block", 20)
    back = await open_as(two, eve)
    assert peers[1].connects == 1  # a stock client that was blocked does not come back by itself
    await close_all(back, *peers)


async def from_address(server: ServerProcess, name: str, address: str) -> NativePeer:
    peer = NativePeer("/tickets")
    await peer.start(server.address, {"token": server.token(name, "agent")}, {"X-Forwarded-For": address})
    await peer.came_in()
    return peer


@pytest.mark.parametrize(
    ("what", "inside", "outside"),
    [
        ({"ip": "192.0.2.7"}, ["192.0.2.7", "::ffff:192.0.2.7"], "192.0.2.8"),
        ({"cidr": "198.51.100.77/24"}, ["198.51.100.1", "198.51.100.255"], "198.51.101.1"),
        ({"ip": "2001:db8::1"}, ["2001:db8:0::1", "2001:db8::1%eth0"], "2001:db8::2"),
        ({"cidr": "2001:db8:7::/48"}, ["2001:db8:7:ffff::1"], "2001:db8:8::1"),
    ],
)
@aio
async def test_an_address_behind_a_proxy_is_blocked(
    servers: Pair, what: dict[str, str], inside: list[str], outside: str
) -> None:
    one, two = servers
    peers = [await from_address(server, unique("x"), address) for server in servers for address in inside]
    other = await from_address(two, unique("y"), outside)
    for address in inside:  # in any spelling
        assert (await call(one, "GET", "connections", ip=address.upper(), namespace="/tickets"))["total"] >= 2
    done = await call(one, "POST", "blocks", what, 201)
    assert done["count"] == len(peers)
    for peer in peers:
        assert await peer.gone(1.0) == 4403
    for address in inside:
        with pytest.raises(Exception, match="403"):
            await from_address(two, "x", address)
    await other.settled()
    await call(one, "DELETE", f"blocks/{done['id']}")
    back = await from_address(two, "x", inside[0])
    await close_all(back, other, *peers)


@aio
async def test_two_blocks_of_one_address_are_independent(servers: Pair) -> None:
    """Regression: the second block replaced the first one, which stayed listed but had no effect."""
    one, two = servers
    address = "203.0.113.77"
    first = await call(one, "POST", "blocks", {"ip": address}, 201)
    second = await call(one, "POST", "blocks", {"cidr": f"{address}/32"}, 201)
    await call(one, "DELETE", f"blocks/{second['id']}")
    for server in (one, two):
        with pytest.raises(Exception, match="403"):
            await from_address(server, "x", address)
    await call(one, "DELETE", f"blocks/{first['id']}")
    await close_all(*[await from_address(server, "x", address) for server in (one, two)])


@aio
async def test_an_admin_can_remove_a_block_of_their_own_address(servers: Pair) -> None:
    one, two = servers
    done = await call(one, "POST", "blocks", {"cidr": "127.0.0.0/8"}, 201)
    with pytest.raises(Exception, match="403"):
        await open_as(two, "me")
    poll = f"http://127.0.0.1:{two.port}/socket.io/?EIO=4&transport=polling"
    answer = await AsyncHTTPClient().fetch(poll, raise_error=False, request_timeout=5)
    assert (answer.code, answer.body) == (403, b"This address is blocked.")
    with pytest.raises(InvalidStatus, match="403"):
        await connect(f"ws://127.0.0.1:{two.port}/socket.io/?EIO=4&transport=websocket", compression=None)
    await call(two, "DELETE", f"blocks/{done['id']}")
    peer = await open_as(two, unique("me"))
    await peer.close()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("revocations", {}, "sessionId"),
        ("revocations", {"sessionId": "s", "userId": "u"}, "sessionId"),
        ("revocations", {"sessionId": "s", "issuedBefore": "2020-01-01T00:00:00Z"}, "issuedBefore"),
        ("revocations", {"userId": "u", "issuedBefore": "2999-01-01T00:00:00Z"}, "issuedBefore"),
        ("revocations", {"sessionId": "a\nb"}, "sessionId"),
        ("blocks", {"userId": "a\x00b"}, "userId"),
        ("revocations", {"userId": "u", "issuedBefore": "0001-01-01T00:00:00Z"}, "issuedBefore"),
        ("revocations", {"userId": "u", "issuedBefore": "1970-01-01T00:00:00Z"}, "issuedBefore"),
        ("revocations", {"userId": "u", "until": "2020-01-01T00:00:00Z"}, "until"),
        ("revocations", {"userId": "u", "until": "9999-12-31T23:59:59-14:00"}, "until"),
        ("revocations", {"userId": "u", "until": "0001-01-01T00:00:00+14:00"}, "until"),
        ("revocations", {"userId": "u", "until": "2030-01-01T00:00:00"}, "until"),
        ("blocks", {}, "userId"),
        ("blocks", {"userId": "u", "ip": "192.0.2.1"}, "userId"),
        ("blocks", {"ip": "192.0.2"}, "ip"),
        ("blocks", {"ip": "192.0.2.1/24"}, "ip"),
        ("blocks", {"cidr": "0.0.0.0/0"}, "cidr"),
        ("blocks", {"cidr": "::/0"}, "cidr"),
        ("blocks", {"cidr": "::ffff:10.0.0.0/100"}, "cidr"),
        ("blocks", {"cidr": "x"}, "cidr"),
        ("blocks", {"userId": "u", "until": "2030-01-01T00:00:00Z", "forSeconds": 5}, "forSeconds"),
        ("notices", {"message": ""}, "message"),
        ("notices", {"message": " \u00a0 "}, "message"),
        ("notices", {"message": "a\tb"}, "message"),
        ("notices", {"message": "x", "reason": "  "}, "reason"),
        ("notices", {"message": "x", "reason": "because\x1b[2J"}, "reason"),
        ("notices", {"message": "x", "namespace": "/nowhere"}, "namespace"),
        ("notices", {"message": "x", "endsAt": "2020-01-01T00:00:00Z"}, "endsAt"),
        ("notices", {"message": "x", "startsAt": "2030-01-02T00:00:00Z", "endsAt": "2030-01-01T00:00:00Z"}, "endsAt"),
    ],
)
@aio
async def test_an_invalid_rule_is_refused_and_its_field_named(
    servers: Pair, path: str, body: dict[str, Any], field: str
) -> None:
    answer = await call(servers[0], "POST", path, body, 400)
    assert (answer["error"]["code"], answer["error"]["field"]) == ("BAD_REQUEST", field)


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_without_valkey_new_rules_are_refused_and_existing_ones_hold(tmp_path: Path) -> None:
    with OwnValkey() as valkey, two_nodes(tmp_path, valkey.url, VALKEY_AWAY) as (one, two):
        done = await call(one, "POST", "revocations", {"sessionId": "gone"}, 201)
        valkey.freeze()
        answer = await call(one, "POST", "revocations", {"sessionId": "not-yet"}, 503)
        assert answer["error"]["code"] == "UNAVAILABLE"
        for server in (one, two):
            assert await refused(server, "ann", sessionId="gone") == "AUTH_SESSION_REVOKED"
            assert [r["id"] for r in (await call(server, "GET", "revocations"))["items"]] == [done["id"]]
        valkey.thaw()

        async def ruled() -> bool:
            status, _ = await one.push("POST", "/api/v1/revocations", {"sessionId": "not-yet", "reason": "again"})
            return status == 201

        await until(ruled, "Valkey's return", 10)
        for server in (one, two):
            assert await refused(server, "ann", sessionId="not-yet") == "AUTH_SESSION_REVOKED"


@aio
async def test_rules_survive_an_emptied_valkey(tmp_path: Path) -> None:
    with OwnValkey() as valkey, two_nodes(tmp_path, valkey.url, VALKEY_AWAY) as (one, two):
        await call(one, "POST", "revocations", {"sessionId": "gone"}, 201)
        await call(one, "POST", "blocks", {"userId": "eve"}, 201)
        valkey.kill()
        valkey.start()

        async def is_there() -> bool:
            return bool(valkey("HLEN", f"{{{one.settings['valkey_prefix']}}}:rules:revocation"))

        await until(is_there, "the rules in the new memory", 10)
        three = ServerProcess(tmp_path / "n3", **{**one.settings, "node_id": "n3"})
        await asyncio.to_thread(three.start)
        try:
            assert await refused(three, "ann", sessionId="gone") == "AUTH_SESSION_REVOKED"
            assert await refused(three, "eve") == "FORBIDDEN"
            assert await refused(two, "eve") == "FORBIDDEN"
        finally:
            await asyncio.to_thread(three.stop)


# ── notices ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_notice_reaches_everybody_once_and_later_clients_until_it_ends(servers: Pair) -> None:
    one, two = servers
    ann = unique("ann")
    peers = [
        await open_as(server, ann, door, ns) for server in servers for door in (NATIVE, POLLING) for ns in NAMESPACES
    ]
    message = f"Maintenance <b>{ann}</b> at 22:00"
    made = await call(one, "POST", "notices", {"message": message, "severity": "warning"}, 201)
    assert made["told"] and made["endsAt"] is None and made["by"] == "back-end"
    for peer in peers:
        told = await peer.expect("server:notice", {"id": made["id"]})
        assert told["message"] == message and told["severity"] == "warning" and told["startsAt"] == made["startsAt"]
        await peer.not_told("server:notice", {"id": made["id"]})
    late = [await open_as(server, ann, door) for server in servers for door in (NATIVE, WEBSOCKET)]
    for peer in late:
        await peer.expect("server:notice", {"id": made["id"], "message": message})
        await peer.not_told("server:notice", {"id": made["id"]})
    await call(two, "DELETE", f"notices/{made['id']}")
    for peer in [*peers, *late]:
        await peer.expect("server:notice:ended", {"id": made["id"]})
    after = await open_as(two, ann)
    await after.not_told("server:notice", {"id": made["id"]})
    await close_all(after, *late, *peers)


@aio
async def test_a_notice_reaches_only_its_recipients_at_its_time(servers: Pair) -> None:
    one, two = servers
    agent = await open_as(two, unique("agent"), ns="/chat")
    customer = await open_as(two, unique("customer"), ns="/chat", role="customer")
    elsewhere = await open_as(one, unique("customer"), ns="/tickets", role="customer")
    begins, ends = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + s)) for s in (2, 4))
    order = {"message": "soon", "startsAt": begins, "endsAt": ends, "namespace": "/chat", "role": "customer"}
    made = await call(one, "POST", "notices", order, 201)
    assert not made["told"] and made["severity"] == "info"
    early = await open_as(one, unique("customer"), ns="/chat", role="customer")
    for peer in (customer, early):
        await peer.not_told("server:notice", {"id": made["id"]})
    for peer in (customer, early):
        told = await peer.expect("server:notice", {"id": made["id"]})
        assert told["endsAt"] == made["endsAt"]
        await peer.expect("server:notice:ended", {"id": made["id"]})
    for peer in (agent, elsewhere):
        await peer.not_told("server:notice", {"id": made["id"]})
        await peer.not_told("server:notice:ended", {"id": made["id"]})

    async def forgotten() -> bool:
        return made["id"] not in [notice["id"] for notice in (await call(two, "GET", "notices"))["items"]]

    await until(forgotten, "it is no longer listed")
    await close_all(agent, customer, elsewhere, early)


@aio
async def test_a_resumed_client_receives_missed_notices_and_none_twice(servers: Pair) -> None:
    one, two = servers
    async with stock_clients() as node:
        name = unique("resumes")
        door = NodeDoor(node, "node", ["websocket"])
        auth = {"token": one.token(name, "agent")}
        peer = await door.open(one.address, "/tickets", auth, cable=True, reconnection=True)
        first = await call(two, "POST", "notices", {"message": "before"}, 201)
        await peer.expect("server:notice", {"id": first["id"]})
        await peer.drop()
        missed = await call(two, "POST", "notices", {"message": "while away"}, 201)
        peer.mend()
        await peer.again()
        assert peer.recovered
        await peer.expect("server:notice", {"id": missed["id"]})
        await peer.not_told("server:notice", {"id": missed["id"]})
        await peer.not_told("server:notice", {"id": first["id"]})
        for notice in (first, missed):
            await call(one, "DELETE", f"notices/{notice['id']}")
        await peer.close()


# ── rates ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def joins(peer: Peer, times: int) -> list[str]:
    """Return the answers to so many calls."""
    answers = [await peer.call("chat:join", {"conversationId": "nowhere"}) for _ in range(times)]
    return [answer.get("error", {"code": "ok"})["code"] for answer in answers]


async def rate_of(server: ServerProcess, event: str) -> dict[str, Any]:
    found = await call(server, "GET", "ratelimits")
    assert found["missing"] == []
    (rate,) = [one for one in found["limits"] if one["event"] == event and one["namespace"] == "/chat"]
    return dict(rate)


@aio
async def test_a_changed_rate_applies_on_all_nodes_until_it_ends_or_is_reset(servers: Pair) -> None:
    one, two = servers
    ann = unique("ann")
    peers = [await open_as(server, ann, ns="/chat") for server in servers]
    assert (await rate_of(one, "chat:join"))["max"] == 9
    before = (await rate_of(one, "chat:join"))["limited"]
    await call(one, "PUT", "ratelimits/chat:join", {"max": 2, "window": 60})
    for peer in peers:
        assert (await joins(peer, 4))[2:] == ["RATE_LIMITED"] * 2
    rate = await rate_of(two, "chat:join")
    assert (rate["max"], rate["windowSeconds"], rate["overridden"], rate["overriddenUntil"]) == (2, 60, True, None)
    assert rate["limited"] == before + 4
    offenders = [one for one in (await call(one, "GET", "ratelimits"))["offenders"] if one["userId"] == ann]
    assert [(one["event"], one["count"], one["node"]) for one in offenders] == [
        ("chat:join", 2, "n1"),
        ("chat:join", 2, "n2"),
    ]
    assert abs(time.time() - _unix(offenders[0]["lastAt"])) < 10
    await call(two, "DELETE", "ratelimits/chat:join")
    await call(two, "DELETE", "ratelimits/chat:join", want=404)
    assert "RATE_LIMITED" not in await joins(peers[0], 9)
    await call(two, "PUT", "ratelimits/chat:join", {"max": 1, "window": 60, "forSeconds": 1})
    assert (await rate_of(one, "chat:join"))["overriddenUntil"] is not None

    async def over() -> bool:
        return not (await rate_of(one, "chat:join"))["overridden"]

    await until(over, "the configured rate", 20)
    assert (await rate_of(one, "chat:join"))["max"] == 9
    await close_all(*peers)


@aio
async def test_the_default_rate_applies_to_unknown_events_and_to_those_without_their_own(servers: Pair) -> None:
    one, _ = servers
    peer = await open_as(one, unique("ann"), ns="/chat")
    await call(one, "PUT", "ratelimits/default", {"max": 1, "window": 60})
    await peer.call("no:such", {})
    assert (await peer.error("no:such", {}))["code"] == "RATE_LIMITED"
    assert (await rate_of(one, "chat:join"))["max"] == 9
    await call(one, "DELETE", "ratelimits/default")
    await call(one, "PUT", "ratelimits/no:such", {"max": 1, "window": 60}, 404)
    await peer.close()


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# ── logging, config ─────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_log_level_is_changed_for_a_while_on_one_node_or_all(servers: Pair) -> None:
    one, two = servers

    async def levels(name: str) -> list[str]:
        found = await call(one, "GET", "logging")
        assert found["missing"] == [] and [node["node"] for node in found["nodes"]] == ["n1", "n2"]
        return [logger["level"] for node in found["nodes"] for logger in node["loggers"] if logger["logger"] == name]

    assert await levels("engine.dispatch.dispatch") == ["info", "info"]
    await call(two, "PUT", "logging", {"logger": "engine.dispatch", "level": "debug", "forSeconds": 60, "node": "n1"})
    assert await levels("engine.dispatch.dispatch") == ["debug", "info"]
    first, second = (await call(one, "GET", "logging"))["nodes"]
    ends = {logger["logger"]: logger["until"] for logger in first["loggers"]}
    assert (
        ends["engine.dispatch.dispatch"] == ends["engine.dispatch"] is not None
        and ends["operations.moderation.rules"] is ends[""] is None
    )
    assert {logger["until"] for logger in second["loggers"]} == {None}
    await call(two, "PUT", "logging", {"logger": "engine.dispatch", "level": "error", "forSeconds": 1})
    assert await levels("engine.dispatch.dispatch") == ["debug", "error"]  # a level for one node applies only there

    async def over() -> bool:
        return await levels("engine.dispatch.dispatch") == ["debug", "info"]

    await until(over, "the configured level", 20)
    await call(two, "PUT", "logging", {"logger": "engine.dispatch", "level": "debug", "forSeconds": 1, "node": "n1"})

    async def all_over() -> bool:
        return await levels("engine.dispatch.dispatch") == ["info", "info"]

    await until(all_over, "the configured level", 20)
    answer = await call(one, "PUT", "logging", {"logger": "namespac", "level": "debug", "forSeconds": 1}, 400)
    assert answer["error"]["field"] == "logger"
    order = {"logger": "", "level": "debug", "forSeconds": 1, "node": "n9"}
    assert (await call(one, "PUT", "logging", order, 400))["error"]["field"] == "node"


@aio
async def test_settings_show_their_origin_and_hide_secrets(servers: Pair) -> None:
    one, two = servers
    for node, server in (("", one), ("n2", two)):
        found = await call(one, "GET", "config", **({"node": node} if node else {}))
        settings = {each["name"]: each for each in found["settings"]}
        assert found["node"] == (node or "n1")
        assert settings["port"]["value"] == str(server.port) and settings["port"]["origin"] == "command line"
        assert settings["jwt_secret"]["value"] == "[hidden]"
        assert settings["jwt_secret"]["origin"] == "environment INSIGHTDESK_RT_JWT_SECRET"
        assert settings["max_payload_bytes"]["origin"] == "default" and settings["max_payload_bytes"]["help"]
        assert SECRET not in str(found)
    await call(one, "GET", "config", want=404, node="n9")


@aio
async def test_rules_are_in_the_audit_log(servers: Pair) -> None:
    one, _ = servers
    name = unique("audited")
    done = await call(one, "POST", "blocks", {"userId": name, "forSeconds": 60, "reason": "spam"}, 201)
    await call(one, "POST", "blocks", {"userId": name, "dryRun": True})
    await call(one, "DELETE", f"blocks/{done['id']}")
    entries = (await call(one, "GET", "audit", action="block", limit=3))["items"]
    removed, added = entries[0], next(entry for entry in entries[1:] if entry["reason"] == "spam")
    assert (removed["action"], removed["target"], removed["outcome"]) == ("block.remove", done["id"], "ok")
    assert added["action"] == "block.add" and name in added["what"] and added["who"] == "back-end"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "action", "target"),
    [
        ("POST", "revocations", {"sessionId": "s-1"}, 201, "session.revoke", "session:s-1"),
        ("POST", "revocations", {"userId": "u-1"}, 201, "session.revoke", "user:u-1"),
        ("POST", "revocations", {}, 400, "session.revoke", ""),
        ("POST", "blocks", {"userId": "u-1"}, 201, "block.add", "user:u-1"),
        ("POST", "blocks", {"ip": "192.0.2.99"}, 201, "block.add", "192.0.2.99"),
        ("POST", "blocks", {"cidr": "192.0.2.96/28"}, 201, "block.add", "192.0.2.96/28"),
        ("POST", "notices", {"message": "x", "startsAt": "2035-01-01T00:00:00Z"}, 201, "notice.add", "everybody"),
        ("POST", "notices", {"message": "x", "namespace": "/chat", "role": "agent"}, 201, "notice.add", "/chat agent"),
        (
            "PUT",
            "logging",
            {"logger": "engine.cluster", "level": "info", "forSeconds": 1},
            200,
            "logging.set",
            "engine.cluster",
        ),
        ("PUT", "logging", {"logger": "", "level": "info", "forSeconds": 1}, 200, "logging.set", "all"),
    ],
)
@aio
async def test_the_audit_log_names_the_target_and_the_fields_that_were_set(
    servers: Pair, method: str, path: str, body: dict[str, Any], status: int, action: str, target: str
) -> None:
    done = await call(servers[0], method, path, body, status)
    entry = (await call(servers[0], "GET", "audit", action=action, limit=1))["items"][0]
    assert entry["target"] == target
    assert "null" not in entry["what"] and "false" not in entry["what"]
    assert all(str(value) in entry["what"] for value in body.values())
    if status == 201:
        await call(servers[0], "DELETE", f"{path}/{done['id']}")

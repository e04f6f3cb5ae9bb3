"""`connect_url` and `rpc_url` on two real nodes, over both protocols, against a real back end on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from tests.support.aio import aio, until
from tests.support.back_end import HOOK_SECRET, BackEnd, Drop, Never, Raw, back_end
from tests.support.clients import Refused
from tests.support.native_client import NativePeer
from tests.support.nodes import two_nodes
from tests.support.scrape import scrape
from tests.support.server import ServerProcess, free_port

QUIET = ("the back end was asked in vain",)
SESSIONS = {
    "session=ann": {"user": {"id": "ann", "role": "agent", "teamId": "red", "name": "Ann"}, "sessionId": "s-ann"},
    "session=bob": {"user": {"id": "bob", "role": "customer"}, "rooms": ["vip:1"], "data": {"plan": "gold"}},
}


def who(asked: Any) -> Any:
    return SESSIONS.get(asked.body["headers"].get("cookie", ""), Raw(401))


@asynccontextmanager
async def nodes(
    tmp_path: Path, valkey_url: str, **changed: Any
) -> AsyncIterator[tuple[BackEnd, ServerProcess, ServerProcess]]:
    async with back_end() as back:
        back.answers["/connect"] = who
        common = {"connect_url": back.url("/connect"), "hook_secret": HOOK_SECRET, "connect_url_timeout_ms": 3000}
        with two_nodes(tmp_path, valkey_url, QUIET, **{**common, **changed}) as (one, two):
            yield back, one, two


async def native(node: ServerProcess, cookie: str = "", auth: Any = None, path: str = "/tickets", **more: str) -> Any:
    """Return a native client that is in, or raise Refused."""
    peer = NativePeer(path)
    headers = {**({"Cookie": cookie} if cookie else {}), **more}
    await peer.start(node.address, {} if auth is None else auth, headers)
    try:
        await peer.came_in()
    except BaseException:
        await peer.close()
        raise
    return peer


@aio
async def test_a_cookie_is_enough_for_both_protocols_and_rooms_and_data_come_along(
    tmp_path: Path, valkey_url: str
) -> None:
    async with nodes(tmp_path, valkey_url) as (back, one, two):
        bob = await native(two, "session=bob")
        (asked,) = back.of("/connect")
        assert asked.body == {"namespace": "/tickets", "address": "127.0.0.1", "headers": {"cookie": "session=bob"}}
        body = {"namespace": "/tickets", "room": "vip:1", "event": "vip:offer", "data": {"n": 1}}
        assert (await one.push("POST", "/api/v1/emit", body))[0] == 200
        assert (await bob.expect("vip:offer"))["n"] == 1

        http = aiohttp.ClientSession()
        ann = socketio.AsyncClient(http_session=http, reconnection=False)
        url = f"http://127.0.0.1:{one.port}"
        await ann.connect(url, headers={"Cookie": "session=ann"}, namespaces=["/tickets", "/presence"])
        status, found = await one.push("GET", "/api/v1/connections?user=ann")
        assert status == 200 and len(found["items"]) == 1, "both namespaces are on one connection"
        await ann.disconnect()
        await http.close()
        await bob.close()


@pytest.mark.parametrize(
    ("answer", "code", "close"),
    [
        (Raw(401), "AUTH_TOKEN_INVALID", 4401),
        (Raw(403), "FORBIDDEN", 4403),
        (Raw(401, b'{"error":{"code":"AUTH_TOKEN_EXPIRED","message":"Sign in again."}}'), "AUTH_TOKEN_EXPIRED", 4401),
        (Raw(403, b'{"error":{"code":"AUTH_SESSION_REVOKED"}}'), "AUTH_SESSION_REVOKED", 4401),
        (Raw(401, b'{"error":{"code":"INTERNAL"}}'), "AUTH_TOKEN_INVALID", 4401),
        ({**SESSIONS["session=ann"], "expiresAt": 1_000_000_000}, "AUTH_TOKEN_EXPIRED", 4401),
        (Raw(404), "", 4302),
        (Raw(500), "", 4302),
        (Raw(302, headers={"Location": "/login"}), "", 4302),
        (Raw(200, b"<html>"), "", 4302),
        (Never, "", 4302),
        (Drop, "", 4302),
        ({}, "", 4302),
        ({"user": {"id": "ann", "role": "root"}}, "", 4302),
        ({"user": {"id": 17, "role": "agent"}}, "", 4302),
        ({"user": {"id": "a\nb", "role": "agent"}}, "", 4302),
        ({"user": {"id": "ann", "role": "agent"}, "rooms": ["ticket:42"]}, "", 4302),
        ({"user": {"id": "ann", "role": "agent"}, "rooms": ["user:eve"]}, "", 4302),
        ({"user": {"id": "ann", "role": "agent"}, "expiresAt": "soon"}, "", 4302),
        ({"user": {"id": "ann", "role": "agent"}, "data": {"x": "y" * 5000}}, "", 4302),
    ],
    ids=str,
)
def test_each_answer_has_its_code_or_closes_so_that_the_client_comes_back(
    answer: Any, code: str, close: int, shared: Any
) -> None:
    """As with tokens: a refusal is final, what may pass is not."""

    async def body(back: BackEnd, one: ServerProcess) -> None:
        back.answers["/connect"] = lambda asked: answer
        peer = NativePeer("/tickets")
        await peer.start(one.address, {}, {"Cookie": "session=ann"})
        assert await peer.gone() == close and not peer.connects
        assert (peer.refused.code if peer.refused is not None else "") == code
        await peer.close()
        back.answers["/connect"] = who
        await until(lambda: back_is_well(one), "the next client gets in")

    shared(body)


async def back_is_well(one: ServerProcess) -> bool:
    try:
        peer = await native(one, "session=ann")
    except Exception:
        return False
    await peer.close()
    return True


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run bodies against one server, with a back end of their own at the same port."""
    folder = tmp_path_factory.mktemp("hooks")
    port = free_port()
    server = ServerProcess(
        folder,
        connect_url=f"http://127.0.0.1:{port}/connect",
        connect_url_timeout_ms=1500,
        hook_secret=HOOK_SECRET,
        rpc_url=f"http://127.0.0.1:{port}/rpc",
        rpc_events="/tickets macro:run,/chat order:find",
        rpc_timeout_ms=1500,
        rate_limits="macro:run=1000/60",
    )
    server.start()

    def run(body: Any) -> None:
        @aio
        async def whole() -> None:
            back = BackEnd()
            back.port = port
            await back.up()
            back.answers["/connect"] = who
            try:
                await body(back, server)
            finally:
                await back.down()

        whole()

    yield run
    server.stop()
    server.assert_quiet(*QUIET)


def test_a_token_is_checked_as_ever_and_a_client_without_either_is_refused(shared: Any) -> None:
    async def body(back: BackEnd, one: ServerProcess) -> None:
        eve = await native(one, "session=ann", {"token": one.token("eve", "agent")})
        assert not back.of("/connect"), "a token was given, so the back end is not asked"
        await eve.close()
        with pytest.raises(Refused, match="AUTH_TOKEN_INVALID"):
            await native(one, "session=ann", {"token": "no token"})
        with pytest.raises(Refused, match="AUTH_TOKEN_MISSING"):
            await native(one)
        assert not back.of("/connect"), "without a header there is nothing to ask"

    shared(body)


def test_calls_that_follow_connect_at_once_wait_for_the_back_ends_answer(shared: Any) -> None:
    async def body(back: BackEnd, one: ServerProcess) -> None:
        gate = asyncio.Event()

        async def slow(asked: Any) -> Any:
            await gate.wait()
            return who(asked)

        back.answers["/connect"] = slow
        peer = NativePeer("/tickets")
        await peer.start(one.address, {}, {"Cookie": "session=ann"})
        call = asyncio.ensure_future(peer.request("ticket:unsubscribe", {"ticketId": "1"}))
        await until(lambda: back.asked, "the back end was asked")
        other = await native(one, auth={"token": one.token("eve", "agent")})
        assert not call.done(), "and nobody else waits for it"
        gate.set()
        assert (await call)[0]["ok"] is True
        for each in (peer, other):
            await each.close()

    shared(body)


def test_headers_of_a_jsonp_poll_count_for_nothing(shared: Any) -> None:
    """A page of another site can make a browser send one with its user's cookies, and read the answer."""

    async def body(back: BackEnd, one: ServerProcess) -> None:
        url = f"http://127.0.0.1:{one.port}/socket.io/?EIO=4&transport=polling"
        async with aiohttp.ClientSession(headers={"Cookie": "session=ann"}) as http:
            for jsonp, joined in (("&j=0", False), ("&%6a=0", False), ("", True)):
                async with http.get(url + jsonp) as answer:
                    sid = (await answer.text()).split('sid\\":\\"' if jsonp else '"sid":"')[1].split('"')[0].strip("\\")
                async with http.post(f"{url}&sid={sid}", data="40/tickets,") as answer:
                    assert answer.status == 200
                async with http.get(f"{url}&sid={sid}") as answer:
                    text = await answer.text()
                assert ('40/tickets,{"sid"' in text) is joined and ("AUTH_TOKEN_MISSING" in text) is not joined
                async with http.post(f"{url}&sid={sid}", data="1"):
                    pass

    shared(body)


def test_a_session_that_ends_is_announced_and_extended_without_a_token(shared: Any) -> None:
    async def body(back: BackEnd, one: ServerProcess) -> None:
        ends = int(time.time()) + 30
        back.answers["/connect"] = lambda asked: {**who(asked), "expiresAt": ends}
        ann = await native(one, "session=ann")
        assert (await ann.expect("session:expiring"))["expiresAt"] == ends
        ends += 3000
        assert (await ann.ok("session:refresh", {}))["expiresAt"] == ends
        back.answers["/connect"] = lambda asked: SESSIONS["session=bob"]
        assert (await ann.call("session:refresh", {}))["error"]["code"] == "FORBIDDEN"
        back.answers["/connect"] = lambda asked: Raw(401)
        assert (await ann.call("session:refresh", {}))["error"]["code"] == "AUTH_TOKEN_INVALID"
        await ann.close()

    shared(body)


@aio
async def test_a_session_resumes_on_another_node_unless_its_rooms_have_changed(tmp_path: Path, valkey_url: str) -> None:
    async with nodes(tmp_path, valkey_url) as (back, one, two):
        rooms = ["vip:1"]
        back.answers["/connect"] = lambda asked: {**SESSIONS["session=bob"], "rooms": rooms}
        for changed, resumes in ((["vip:1"], True), (["vip:2"], False)):
            rooms = ["vip:1"]
            bob = await native(one, "session=bob")
            pid = bob.pid
            await bob.close()
            rooms = changed
            again = await native(two, "session=bob", {"pid": pid, "offset": "0-0"})
            assert again.recovered is resumes
            await again.close()


# ── events of the back end's own ────────────────────────────────────────────────────────────────────────────────────


def test_the_back_ends_answer_is_the_ack_and_its_refusal_the_error(shared: Any) -> None:
    async def body(back: BackEnd, one: ServerProcess) -> None:
        bob = await native(one, "session=bob")
        back.answers["/rpc"] = lambda asked: {"ran": asked.body["data"]["macro"], "ok": False}
        assert await bob.call("macro:run", {"macro": "close", "clientId": "c-1"}) == {"ok": True, "ran": "close"}
        (asked,) = back.of("/rpc")
        assert asked.headers["webhook-id"] == asked.body["id"] == "c-1"
        question = {name: asked.body[name] for name in ("namespace", "event", "data", "user")}
        assert question == {
            "namespace": "/tickets",
            "event": "macro:run",
            "data": {"macro": "close", "clientId": "c-1"},
            "user": {"id": "bob", "role": "customer", "teamId": None, "name": None, "data": {"plan": "gold"}},
        }
        for answer, wanted in [
            (Raw(204), {"ok": True}),
            (Raw(200, b"{}"), {"ok": True}),
            (Raw(400, b'{"error":{"message":"macro: unknown","field":"macro"}}'), ("BAD_REQUEST", "macro: unknown")),
            (Raw(401), "FORBIDDEN"),
            (Raw(403), "FORBIDDEN"),
            (Raw(404), "NOT_FOUND"),
            (Raw(409, b'{"error":{"code":"CONFLICT","message":"Taken."}}'), ("CONFLICT", "Taken.")),
            (Raw(422), "BAD_REQUEST"),
            (Raw(429), "RATE_LIMITED"),
            (Raw(418), "BAD_REQUEST"),
            (Raw(400, b'{"error":{"code":"AUTH_TOKEN_EXPIRED"}}'), "BAD_REQUEST"),
            (Raw(500), "UNAVAILABLE"),
            (Raw(302, headers={"Location": "/"}), "UNAVAILABLE"),
            ([1], "UNAVAILABLE"),
        ]:
            back.answers["/rpc"] = lambda asked, answer=answer: answer  # type: ignore[misc]
            got = await bob.call("macro:run", {"macro": "x"})
            if isinstance(wanted, dict):
                assert got == wanted
            else:
                code, message = wanted if isinstance(wanted, tuple) else (wanted, None)
                assert got["error"]["code"] == code and message in (None, got["error"]["message"]), answer
        await bob.close()

    shared(body)


def test_an_event_is_sent_once_with_a_deadline_and_limits_and_is_counted(shared: Any) -> None:
    async def body(back: BackEnd, one: ServerProcess) -> None:
        ann = await native(one, "session=ann")
        for answer in (Never, Drop):
            back.answers["/rpc"] = lambda asked: {}

            async def answered() -> bool:
                return (await ann.call("macro:run", {}))["ok"] is True

            await until(answered, "the breaker is closed")
            before = len(back.of("/rpc"))
            back.answers["/rpc"] = lambda asked, answer=answer: answer  # type: ignore[misc]
            got = await ann.call("macro:run", {"macro": "x"})
            assert got["error"]["code"] == "UNAVAILABLE"
            assert len(back.of("/rpc")) == before + 1, "it is not retried: it may have had its effect"
        back.answers["/rpc"] = lambda asked: {}
        await until(answered, "the breaker is closed")
        assert (await ann.call("macro:run", {"x": "y" * 20_000}))["error"]["code"] == "PAYLOAD_TOO_LARGE"
        assert (await ann.call("macro:walk", {}))["error"]["code"] == "UNKNOWN_EVENT"
        assert (await ann.call("order:find", {}))["error"]["code"] == "UNKNOWN_EVENT", "it is for another namespace"
        page = await scrape(one)
        assert page.of("events_in_total", namespace="/tickets", event="macro:run") >= 3
        assert page.of("hook_requests_total", hook="rpc", outcome="timeout") >= 1
        chat = await native(one, "session=ann", path="/chat")
        ids = []
        for _ in range(2):
            assert (await chat.call("order:find", [1, "two"]))["ok"] is True
            ids.append(back.of("/rpc")[-1].body["id"])
        assert back.of("/rpc")[-1].body["data"] == [1, "two"]
        assert len(set(ids)) == 2, "without a clientId each has an id of its own"
        for each in (ann, chat):
            await each.close()

    shared(body)

"""Signed passes on a real server whose access check never answers: whoever has a pass asks nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.aio import aio
from tests.support.back_end import HOOK_SECRET
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.server import SECRET, ServerProcess, free_port

DOOR = NativeDoor()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Nothing listens at its access_url."""
    url = f"http://127.0.0.1:{free_port()}/access"
    one = ServerProcess(tmp_path_factory.mktemp("passes"), access_url=url, hook_secret=HOOK_SECRET)
    one.start()
    yield one
    one.stop()
    one.assert_quiet("the back end was asked in vain")


def signed(sub: str, *tickets: str, ttl_s: float = 600, secret: str = SECRET, **claims: Any) -> str:
    now = int(time.time())
    rooms = [f"ticket:{ticket}" for ticket in tickets]
    whole = {"sub": sub, "rooms": rooms, "iat": now, "exp": now + ttl_s, **claims}
    return jwt.encode({name: one for name, one in whole.items() if one is not None}, secret, algorithm="HS256")


async def put(server: ServerProcess, *tickets: str, subject: str = "s") -> None:
    for ticket in tickets:
        assert (await server.push("PUT", f"/api/v1/tickets/{ticket}", {"subject": subject}))[0] in (200, 201)


async def join(server: ServerProcess, user: str, role: str = "customer") -> Peer:
    return await DOOR.open(server.address, "/tickets", {"token": server.token(user, role)})


@aio
async def test_a_pass_opens_its_tickets_and_no_others(server: ServerProcess) -> None:
    await put(server, "1", "2", "3")
    ann = await join(server, "ann")
    without = await ann.call("ticket:subscribe", {"ticketId": "1"})
    assert without["error"]["code"] == "INTERNAL", "nobody answers for the access check"
    shown = signed("ann", "1", "2")
    assert (await ann.ok("ticket:subscribe", {"ticketId": "1", "pass": shown}))["version"] >= 1
    several = await ann.ok("ticket:subscribe", {"ticketIds": ["1", "2", "3"], "pass": shown})
    assert [one["ok"] for one in several["tickets"]] == [True, True, False]
    assert several["tickets"][2]["error"]["message"] == "The pass does not name ticket:3."
    await put(server, "1", "2", subject="news")
    assert {(await ann.expect("ticket:updated"))["ticketId"] for _ in range(2)} == {"1", "2"}
    assert not ann.pending("ticket:unsubscribed"), "a push asks about everybody but those with a pass"
    await ann.close()


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        (lambda: signed("bob", "1"), "FORBIDDEN"),
        (lambda: signed("ann", "2"), "FORBIDDEN"),
        (lambda: signed("ann", "1", ttl_s=-1), "AUTH_TOKEN_EXPIRED"),
        (lambda: signed("ann", "1", exp=None), "AUTH_TOKEN_INVALID"),
        (lambda: signed("ann", "1", rooms=None), "AUTH_TOKEN_INVALID"),
        (lambda: signed("ann", "1", rooms=["*"]), "FORBIDDEN"),
        (lambda: signed("ann", "1", aud="another"), "AUTH_TOKEN_INVALID"),
        (lambda: signed("ann", "1", secret="x" * 40), "AUTH_TOKEN_INVALID"),
        (lambda: ServerProcess.token("ann", "customer"), "AUTH_TOKEN_INVALID"),
        (lambda: "no pass", "AUTH_TOKEN_INVALID"),
        (lambda: "", "BAD_REQUEST"),
        (lambda: 7, "BAD_REQUEST"),
    ],
)
def test_a_wrong_pass_has_a_clear_error_and_the_connection_stays(server: ServerProcess, shown: Any, code: str) -> None:
    @aio
    async def body() -> None:
        await put(server, "1")
        ann = await join(server, "ann")
        error = await ann.error("ticket:subscribe", {"ticketId": "1", "pass": shown()})
        assert error["code"] == code
        await ann.ok("ticket:subscribe", {"ticketId": "1", "pass": signed("ann", "1")})
        await ann.close()

    body()


@aio
async def test_the_ticket_is_left_when_its_pass_ends_unless_a_newer_one_was_shown(server: ServerProcess) -> None:
    await put(server, "1", "2")
    ann = await join(server, "ann")
    for ticket in ("1", "2"):
        await ann.ok("ticket:subscribe", {"ticketId": ticket, "pass": signed("ann", ticket, ttl_s=6)})
    await ann.ok("ticket:subscribe", {"ticketId": "2", "pass": signed("ann", "2")})
    gone = await ann.expect("ticket:unsubscribed")
    assert (gone["ticketId"], gone["reason"]) == ("1", "expired")
    await put(server, "1", "2", subject="later")
    assert (await ann.expect("ticket:updated"))["ticketId"] == "2"
    await ann.settled()
    assert not ann.pending("ticket:updated") and not ann.pending("ticket:unsubscribed")
    await ann.close()


@aio
async def test_a_deleted_ticket_is_left_whatever_the_pass_says(server: ServerProcess) -> None:
    await put(server, "9")
    ann = await join(server, "ann")
    await ann.ok("ticket:subscribe", {"ticketId": "9", "pass": signed("ann", "9")})
    assert (await server.push("DELETE", "/api/v1/tickets/9"))[0] == 200
    assert (await ann.expect("ticket:unsubscribed"))["reason"] == "access"
    await ann.close()


@aio
async def test_without_its_pass_a_ticket_is_under_the_access_check_again(server: ServerProcess) -> None:
    await put(server, "1")
    ann = await join(server, "ann")
    await ann.ok("ticket:subscribe", {"ticketId": "1", "pass": signed("ann", "1")})
    assert (await ann.error("ticket:subscribe", {"ticketId": "1"}))["code"] == "INTERNAL"
    await ann.close()


@aio
async def test_a_revocation_concerns_passes_that_were_signed_before(server: ServerProcess) -> None:
    await put(server, "1")
    body = {"userId": "eve", "reason": "left"}
    old, session = signed("eve", "1", iat=int(time.time()) - 10), signed("eve", "1", sessionId="s-7")
    assert (await server.push("POST", "/api/v1/revocations", body))[0] == 201
    assert (await server.push("POST", "/api/v1/revocations", {"sessionId": "s-7", "reason": "left"}))[0] == 201
    eve = await DOOR.open(
        server.address, "/tickets", {"token": server.token("eve", "customer", iat=int(time.time()) + 2)}
    )
    for shown in (old, session, signed("eve", "1", iat=None)):
        assert (await eve.error("ticket:subscribe", {"ticketId": "1", "pass": shown}))["code"] == "AUTH_SESSION_REVOKED"
    await eve.ok("ticket:subscribe", {"ticketId": "1", "pass": signed("eve", "1", iat=int(time.time()) + 2)})
    await eve.close()


@aio
async def test_where_ids_are_separate_a_pass_says_whose_it_is(tmp_path: Path) -> None:
    one = ServerProcess(tmp_path, user_ids="separate")
    one.start()
    try:
        await put(one, "1")
        ann = await join(one, "42")
        for claims, code in (({}, "FORBIDDEN"), ({"role": "agent"}, "FORBIDDEN")):
            shown = signed("42", "1", **claims)
            assert (await ann.error("ticket:subscribe", {"ticketId": "1", "pass": shown}))["code"] == code
        await ann.ok("ticket:subscribe", {"ticketId": "1", "pass": signed("42", "1", role="customer")})
        await ann.close()
    finally:
        one.stop()
    one.assert_quiet()

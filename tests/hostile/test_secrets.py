"""Secrets are not accepted in the wrong place, and are never written to the log, at any level."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote

import jwt
import pytest

from tests.hostile.kit import POLL, SOCKET, Caller, Target
from tests.hostile.test_frames import ENDS, STAYS, joined
from tests.hostile.test_limits import running
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey
from tests.support.server import SECRET, ServerProcess, environment

CANARY = "canary-6f1d"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("secrets"), log_level="debug") as server:
        yield server


@aio
async def test_a_token_in_a_cookie_or_url_is_ignored(server: ServerProcess) -> None:
    """Any page could send a cookie, and URLs are in the log of every proxy on the way."""
    target, token = Target(server.port), server.token("ann", "agent", "red")
    cookie = {"Cookie": f"token={token}; jwt={token}; access_token={token}; Authorization=Bearer {token}"}
    in_url = f"token={token}&auth={token}&access_token={token}&jwt={token}"
    for path, headers in ((POLL, cookie), (f"{POLL}&{in_url}", {})):
        http = await target.http()
        sid = json.loads((await http.ask("GET", path, headers=headers)).body[1:])["sid"]
        session = f"{path}&sid={sid}"
        assert (await http.ask("POST", session, b"40/tickets,", headers)).status == 200
        answer = str((await http.ask("GET", session, headers=headers)).body)
        assert answer.startswith("44/tickets,") and "AUTH_TOKEN_MISSING" in answer
        await http.close()
    for path, headers in ((SOCKET, cookie), (f"{SOCKET}&{in_url}", {})):
        socket = await target.socket(path, headers=headers)
        await socket.text()
        socket.say("40/tickets,")
        assert "AUTH_TOKEN_MISSING" in await socket.text()
        await socket.close()
    for path, headers in (("/rt/tickets", cookie), (f"/rt/tickets?{in_url}", {})):
        socket = await target.socket(path, headers=headers)
        socket.say('{"event":"connect","data":{}}')
        assert await socket.closed() == 4401
    assert token not in server.log()


@aio
async def test_messages_tokens_and_session_ids_are_not_in_the_log(server: ServerProcess) -> None:
    target = Target(server.port)
    agent, customer = server.token("ann", "agent", "red"), server.token("carl", "customer")
    status, _ = await server.push("PUT", "/api/v1/tickets/t1", {"subject": f"{CANARY}-subject", "teamId": "red"})
    assert status == 201
    comment = {"kind": "note", "author": {"id": "ann", "name": "Ann"}, "excerpt": f"{CANARY}-comment"}
    assert (await server.push("POST", "/api/v1/tickets/t1/comments", comment))[0] in (200, 201)
    seller = await Caller.to(target, agent, "/chat", "/tickets")
    buyer = await Caller.to(target, customer, "/chat")
    start = {"clientId": "1", "subject": f"{CANARY}-chat", "text": f"{CANARY}-first", "teamId": "red"}
    where = {"conversationId": (await buyer.call("/chat", "chat:start", start))["conversationId"]}
    assert await seller.outcome("/chat", "chat:accept", where) == "ok"
    assert await buyer.outcome("/chat", "chat:message", {**where, "text": f"{CANARY}-text", "clientId": "2"}) == "ok"
    await buyer.call("/chat", "chat:message", {**where, "text": [f"{CANARY}-wrong"]})
    await buyer.call("/chat", f"{CANARY}-event", {"x": f"{CANARY}-data"})
    await Caller.to(target, f"{CANARY}.bad.token", "/tickets")
    await until(lambda: seller.heard("chat:message"), "the message")
    path = await target.session()
    await (await target.http()).ask("POST", path, f"{CANARY}-packet".encode())
    await target.close()
    log = server.log()
    assert [line for line in log.splitlines() if CANARY in line] == []
    assert agent not in log and customer not in log and path.partition("sid=")[2] not in log


@aio
async def test_a_hostile_client_causes_at_most_one_log_line(server: ServerProcess) -> None:
    target, before = Target(server.port), len(server.log().splitlines())
    attacks = [data for data, _ in ENDS.values()] + list(STAYS.values())
    for data in attacks:
        socket = await joined(target, server)
        socket.send(data)
        await socket.http.writer.drain()
        socket.http.writer.transport.abort()
    await target.close()
    lines = server.log().splitlines()[before:]
    assert len(lines) <= len(attacks), lines


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a secret in every setting that can hold one."""
    password = f"{CANARY}@/#?&:"
    with OwnValkey() as valkey:
        valkey("CONFIG", "SET", "requirepass", password)
        settings = {
            "valkey_url": f"{valkey.url}?db=0&password={quote(quote(password))}",
            "jwt_secret": SECRET + CANARY,
            "jwks_url": f"http://127.0.0.1:9/keys?api_key={CANARY}",
            "jwt_algorithms": "HS256,RS256",
            "log_level": "debug",
        }
        with running(tmp_path_factory.mktemp("guarded"), "fetching keys failed", **settings) as server:
            yield server


@aio
async def test_no_place_that_shows_settings_shows_a_secret(guarded: ServerProcess) -> None:
    """The banner and the log, GET /config (and the console, which shows that)."""
    admin = sign(guarded.settings["jwt_secret"])
    status, answer = await guarded.push("GET", "/api/v1/config", token=admin)
    shown = {each["name"]: each["value"] for each in answer["settings"]}
    assert status == 200 and CANARY not in str(answer)
    assert shown["valkey_url"].endswith("?db=0&password=[hidden]") and shown["jwt_secret"] == "[hidden]"
    assert shown["jwks_url"] == "http://127.0.0.1:9/keys?api_key=[hidden]"
    assert "?db=0&password=[hidden]" in guarded.log() and CANARY not in guarded.log()


@pytest.mark.parametrize(
    "words", [["check", "--all"], ["check", "--port", "x"], ["serve", "--workers", "0"], ["serve", "--no-such", "1"]]
)
def test_no_command_shows_a_secret(guarded: ServerProcess, words: list[str]) -> None:
    command, surroundings = [sys.executable, "-m", "insightdesk_rt", *words], environment(guarded.settings)
    said = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=surroundings, timeout=20)
    assert said.stdout + said.stderr and CANARY not in said.stdout + said.stderr


def sign(secret: object) -> str:
    now = int(time.time())
    return jwt.encode({"sub": "boss", "role": "admin", "iat": now, "exp": now + 60}, str(secret), algorithm="HS256")

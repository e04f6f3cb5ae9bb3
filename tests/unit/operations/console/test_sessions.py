"""Sessions of the console in a real Valkey: what is stored, for how long, and what works during an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.operations.console.sessions import MAX_SEEN, OUTAGE_S, SESSION_S, Sessions, of_our_page
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey

KEY = "irt_a-key-that-somebody-signed-in-with"


@asynccontextmanager
async def connected(url: str, prefix: str) -> AsyncIterator[Valkey]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    try:
        yield valkey
    finally:
        await valkey.close()


async def refused(sessions: Sessions, secret: str) -> str:
    with pytest.raises(RtError) as why:
        await sessions.credential(secret)
    return why.value.code


@aio
async def test_the_key_is_readable_neither_in_the_cookie_nor_in_valkey(valkey_url: str, prefix: str) -> None:
    async with connected(valkey_url, prefix) as valkey:
        sessions = Sessions(valkey)
        secret = await sessions.open(KEY)
        assert await Sessions(valkey).credential(secret) == KEY, "any node can open it"
        (name,) = await valkey.command("KEYS", f"{{{prefix}}}:console:*")
        sealed = await valkey.command("GET", name)
        assert secret not in name + sealed and KEY not in secret + name + sealed
        assert KEY.encode() not in bytes.fromhex(sealed)
        assert 0 < await valkey.command("TTL", name) <= SESSION_S
        assert await sessions.open(KEY) != secret


@aio
async def test_a_session_ends_when_it_is_closed_or_expires(valkey_url: str, prefix: str) -> None:
    async with connected(valkey_url, prefix) as valkey:
        sessions, other = Sessions(valkey), Sessions(valkey)
        first, second = await sessions.open(KEY), await sessions.open(KEY)
        await other.credential(first)
        await sessions.close(first)
        await sessions.close(first)
        assert await refused(other, first) == await refused(sessions, first) == "AUTH_TOKEN_MISSING"
        assert await other.credential(second) == KEY, "the other session stays valid"
        (name,) = await valkey.command("KEYS", f"{{{prefix}}}:console:*")
        await valkey.command("PEXPIRE", name, 1)

        async def over() -> bool:
            return await valkey.command("EXISTS", name) == 0

        await until(over, "it has expired")
        assert await refused(other, second) == "AUTH_TOKEN_MISSING"


@aio
async def test_a_session_changed_in_valkey_is_refused(valkey_url: str, prefix: str) -> None:
    async with connected(valkey_url, prefix) as valkey:
        sessions = Sessions(valkey)
        mine, theirs = await sessions.open(KEY), await sessions.open("irt_another")
        names = await valkey.command("KEYS", f"{{{prefix}}}:console:*")
        values = [await valkey.command("GET", name) for name in names]
        for name, value in zip(names, reversed(values), strict=True):
            await valkey.command("SET", name, value)
        assert await refused(sessions, mine) == await refused(sessions, theirs) == "AUTH_TOKEN_MISSING"


@aio
async def test_during_an_outage_a_node_accepts_sessions_it_has_seen_before() -> None:
    now_s = 0.0
    with OwnValkey() as own:
        async with connected(own.url, "outage") as valkey:
            here, there = Sessions(valkey, lambda: now_s), Sessions(valkey, lambda: now_s)
            secret, ended = await here.open(KEY), await here.open(KEY)
            await here.close(ended)
            own.kill()
            await until(lambda: not valkey.available, "the outage is noticed")
            assert await here.credential(secret) == KEY
            assert await refused(there, secret) == await refused(here, ended) == "UNAVAILABLE"
            during = await here.open(KEY)
            assert await here.credential(during) == KEY, "somebody who is signed in can look into the outage"
            now_s += OUTAGE_S + 1
            assert await refused(here, secret) == "UNAVAILABLE"


@aio
async def test_the_number_of_remembered_sessions_is_bounded(valkey_url: str, prefix: str) -> None:
    async with connected(valkey_url, prefix) as valkey:
        sessions = Sessions(valkey)
        await asyncio.gather(*(sessions.open(KEY) for _ in range(MAX_SEEN + 5)))
        assert len(sessions._seen) == MAX_SEEN


OURS = {"X-Requested-With": "console", "Origin": "https://rt.example", "Sec-Fetch-Site": "same-origin"}
OLD = OURS | {"Sec-Fetch-Site": None}  # an old browser, or plain HTTP to another machine


@pytest.mark.parametrize(
    ("method", "headers", "counts"),
    [
        ("POST", OURS, True),
        ("POST", OLD, True),
        ("POST", OURS | {"Origin": None}, True),
        ("POST", OURS | {"Origin": "https://desk.example"}, True),  # a proxy sends another Host
        ("POST", OLD | {"Origin": "http://rt.example"}, True),  # a proxy that is not configured terminates TLS
        ("POST", OLD | {"Origin": None}, False),
        ("POST", OLD | {"Origin": "https://rt.example:8443"}, False),
        ("POST", OLD | {"Origin": "https://rt.example.evil.example"}, False),
        ("POST", OLD | {"Origin": "null"}, False),
        ("POST", OLD | {"Origin": "not a URL"}, False),
        ("POST", OLD | {"Origin": "http://[::1"}, False),
        ("POST", OURS | {"Sec-Fetch-Site": "same-site"}, False),
        ("POST", OURS | {"Sec-Fetch-Site": "none"}, False),
        ("DELETE", OURS | {"X-Requested-With": None}, False),
        ("PUT", OURS | {"X-Requested-With": "XMLHttpRequest"}, False),
        ("GET", {}, True),
        ("GET", {"Sec-Fetch-Site": "none"}, True),
        ("GET", {"Sec-Fetch-Site": "cross-site"}, False),
        ("HEAD", {"Sec-Fetch-Site": "same-site"}, False),
    ],
)
def test_a_cookie_is_accepted_only_from_our_own_pages(method: str, headers: dict[str, Any], counts: bool) -> None:
    given = HTTPHeaders({"Host": "rt.example"} | {name: value for name, value in headers.items() if value})
    assert of_our_page(method, given) is counts

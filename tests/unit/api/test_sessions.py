"""Sessions of the console on a real Valkey: what lies there, how long it counts, what holds while that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from insightdesk_rt.api.sessions import MAX_SEEN, OUTAGE_S, SESSION_S, Sessions, of_our_page
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
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
async def test_the_key_lies_readable_neither_in_the_cookie_nor_in_valkey(valkey_url: str, prefix: str) -> None:
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
async def test_it_ends_when_it_is_closed_and_when_its_time_is_over(valkey_url: str, prefix: str) -> None:
    async with connected(valkey_url, prefix) as valkey:
        sessions, other = Sessions(valkey), Sessions(valkey)
        first, second = await sessions.open(KEY), await sessions.open(KEY)
        await other.credential(first)
        await sessions.close(first)
        await sessions.close(first)
        assert await refused(other, first) == await refused(sessions, first) == "AUTH_TOKEN_MISSING"
        assert await other.credential(second) == KEY, "the other one goes on"
        (name,) = await valkey.command("KEYS", f"{{{prefix}}}:console:*")
        await valkey.command("PEXPIRE", name, 1)

        async def over() -> bool:
            return await valkey.command("EXISTS", name) == 0

        await until(over, "its time is over")
        assert await refused(other, second) == "AUTH_TOKEN_MISSING"


@aio
async def test_what_was_changed_in_valkey_is_not_believed(valkey_url: str, prefix: str) -> None:
    async with connected(valkey_url, prefix) as valkey:
        sessions = Sessions(valkey)
        mine, theirs = await sessions.open(KEY), await sessions.open("irt_another")
        names = await valkey.command("KEYS", f"{{{prefix}}}:console:*")
        values = [await valkey.command("GET", name) for name in names]
        for name, value in zip(names, reversed(values), strict=True):
            await valkey.command("SET", name, value)
        assert await refused(sessions, mine) == await refused(sessions, theirs) == "AUTH_TOKEN_MISSING"


@aio
async def test_while_valkey_is_away_a_node_goes_on_with_what_it_has_seen() -> None:
    now_s = 0.0
    with OwnValkey() as own:
        async with connected(own.url, "outage") as valkey:
            here, there = Sessions(valkey, lambda: now_s), Sessions(valkey, lambda: now_s)
            secret, ended = await here.open(KEY), await here.open(KEY)
            await here.close(ended)
            own.kill()
            await until(lambda: not valkey.available, "Valkey is seen to be away")
            assert await here.credential(secret) == KEY
            assert await refused(there, secret) == await refused(here, ended) == "UNAVAILABLE"
            during = await here.open(KEY)
            assert await here.credential(during) == KEY, "somebody signed in to look at the outage"
            now_s += OUTAGE_S + 1
            assert await refused(here, secret) == "UNAVAILABLE"


@aio
async def test_what_a_node_remembers_is_bounded(valkey_url: str, prefix: str) -> None:
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
        ("POST", OURS | {"Origin": "https://desk.example"}, True),  # a proxy calls us by another Host
        ("POST", OLD | {"Origin": "http://rt.example"}, True),  # TLS ended in a proxy that nobody told us of
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
def test_a_cookie_counts_for_our_own_pages_only(method: str, headers: dict[str, Any], counts: bool) -> None:
    given = HTTPHeaders({"Host": "rt.example"} | {name: value for name, value in headers.items() if value})
    assert of_our_page(method, given) is counts

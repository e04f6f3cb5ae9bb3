"""20,000 clients connect, are refused, leave or break off in every possible way, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from insightdesk_rt.engine.cluster.channel_subscriptions import UNLISTEN_S
from tests.hostile.kit import POLL, SOCKET, Caller, Target, descriptors, memory_mb
from tests.support.aio import aio, until
from tests.support.counting_server import CountingServer
from tests.support.door import RawSocket

pytestmark = pytest.mark.alone

CLIENTS = 20_000
AT_ONCE = 50
USERS = 40
FLAT_MB = 10.0
# Allowed difference per type: some tables have a few entries more or less at different moments.
FLAT_OBJECTS = 50
# Published events, which a node keeps for a minute and up to 16 MB, in case Valkey has two primaries.
KEPT_A_MINUTE = {"insightdesk_rt.engine.cluster.publisher.Sent"}

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}

Way = Callable[[Target, str], Awaitable[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingServer]:
    """A client that stops polling is closed after two seconds; all other settings are the defaults."""
    folder: Path = tmp_path_factory.mktemp("churn")
    server = CountingServer(folder, presence_grace_ms=500, drain_seconds=0, ping_interval_ms=1000, ping_timeout_ms=1000)
    server.start()
    yield server
    code = server.stop()
    server.assert_quiet()
    assert code == 0, server.last_words()


def auth(token: str) -> str:
    return json.dumps({"token": token})


async def broken_off(socket: RawSocket) -> None:
    await socket.http.writer.drain()
    socket.http.writer.transport.abort()


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def of_a_foreign_page(target: Target, token: str) -> None:
    for path, more in ((POLL, {}), (SOCKET, UPGRADE), ("/rt/tickets", UPGRADE)):
        http = await target.http()
        assert (await http.ask("GET", path, headers={"Origin": "http://evil.example", **more})).status in (400, 403)
        await http.close()


async def with_a_bad_token(target: Target, token: str) -> None:
    caller = await Caller.to(target, "nonsense", "/tickets", "/chat")
    assert caller.refused == {"/tickets": "AUTH_TOKEN_INVALID", "/chat": "AUTH_TOKEN_INVALID"}
    await caller.close()


async def with_a_bad_token_on_rt(target: Target, token: str) -> None:
    socket = await target.socket("/rt/tickets")
    socket.say(json.dumps({"event": "connect", "data": {"token": "nonsense"}}))
    assert await socket.closed() == 4401


async def into_nowhere(target: Target, token: str) -> None:
    caller = await Caller.to(target, token, "/nowhere")
    assert "/nowhere" in caller.refused
    await caller.close()


async def with_nonsense(target: Target, token: str) -> None:
    socket = await target.socket()
    socket.say("nonsense")
    await socket.closed()


# ── accepted, then gone ─────────────────────────────────────────────────────────────────────────────────────────────


async def before_an_answer(target: Target, token: str) -> None:
    socket = await target.socket()
    socket.say(f"40/presence,{auth(token)}")
    await broken_off(socket)


async def amid_a_connect_on_rt(target: Target, token: str) -> None:
    socket = await target.socket("/rt/tickets")
    socket.say(json.dumps({"event": "connect", "data": {"token": token}}))
    socket.say('{"event":"ticket:subscribe","data":{"ticketId":"t"},"id":1}')
    await broken_off(socket)


async def from_three_namespaces(target: Target, token: str) -> None:
    caller = await Caller.to(target, token, "/presence", "/chat", "/tickets")
    caller.socket.say("41/chat,")
    await caller.close()


async def from_a_room(target: Target, token: str) -> None:
    caller = await Caller.to(target, token, "/tickets")
    assert await caller.outcome("/tickets", "ticket:subscribe", {"ticketId": "t"}) in ("ok", "RATE_LIMITED")
    await caller.close()


async def politely(target: Target, token: str) -> None:
    caller = await Caller.to(target, token, "/tickets")
    caller.socket.say("1")
    await caller.until(lambda: caller.code is not None, "closed")
    await caller.close()


async def behind_an_upgrade(target: Target, token: str) -> None:
    path = await target.session()
    http = await target.http()
    await http.ask("POST", path, f"40/presence,{auth(token)}".encode())
    await http.close()
    socket = await target.socket(f"{SOCKET}&sid={path.partition('sid=')[2]}")
    socket.say("2probe")
    assert await socket.text() == "3probe"
    socket.say("5")
    await socket.text()
    await broken_off(socket)


async def amid_a_probe(target: Target, token: str) -> None:
    path = await target.session()
    socket = await target.socket(f"{SOCKET}&sid={path.partition('sid=')[2]}")
    socket.say("2probe")
    await broken_off(socket)


async def without_a_word_while_polling(target: Target, token: str) -> None:
    path = await target.session()
    http = await target.http()
    await http.ask("POST", path, f"40/tickets,{auth(token)}".encode())
    http.send("GET", path)
    await http.writer.drain()
    http.writer.transport.abort()


async def by_a_post(target: Target, token: str) -> None:
    path = await target.session()
    http = await target.http()
    await http.ask("POST", path, f"40/tickets,{auth(token)}\x1e1".encode())
    await http.close()


WAYS: tuple[Way, ...] = (
    of_a_foreign_page,
    with_a_bad_token,
    with_a_bad_token_on_rt,
    into_nowhere,
    with_nonsense,
    before_an_answer,
    amid_a_connect_on_rt,
    from_three_namespaces,
    from_a_room,
    politely,
    behind_an_upgrade,
    amid_a_probe,
    without_a_word_while_polling,
    by_a_post,
)


def test_twenty_thousand_clients_leave_nothing_behind(server: CountingServer) -> None:
    async def churn() -> None:
        target = Target(server.port)
        tokens = [server.token(f"churn{number}", "agent", "red", ttl_s=3600) for number in range(USERS)]
        assert (await server.push("PUT", "/api/v1/tickets/t", {"teamId": "red"}))[0] == 201

        async def some(clients: int) -> None:
            todo = iter(range(clients))

            async def one_by_one() -> None:
                for number in todo:
                    await WAYS[number % len(WAYS)](target, tokens[number % USERS])
                    target.connections.clear()

            await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))

        async def settled() -> None:
            async def gone() -> bool:
                return bool((await server.push("GET", "/api/v1/connections"))[1]["total"] == 0)

            await until(gone, "all clients are gone", 15)
            await asyncio.sleep(UNLISTEN_S + 2)  # the rooms of closed clients stay subscribed for a while

        await some(3000)  # imported and compiled modules, caches, and the 1,000 most recently closed clients
        await settled()
        objects, held_mb, files = server.objects(), memory_mb(server), descriptors(server)
        began = time.monotonic()
        await some(CLIENTS)
        print(f"{CLIENTS} clients in {time.monotonic() - began:.0f} s")
        await settled()
        more = grown(without_feed(objects), without_feed(server.objects()))
        assert not more, more
        assert descriptors(server) <= files + 2
        assert memory_mb(server) < held_mb + FLAT_MB, f"{memory_mb(server) - held_mb:.1f} MB more than before"

    aio(churn, deadline_s=300)()


def without_feed(objects: Counter[str]) -> Counter[str]:
    """Leave out what a node keeps of the feed for a minute: two entries for each user that came and went."""
    rest = objects.copy()
    kept = rest.pop("insightdesk_rt.backend.feed.log._Kept", 0)
    assert kept <= 6 * USERS
    rest["builtins.list"] -= 2 * kept
    return rest


def grown(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    more = {name: (before[name], n) for name, n in after.items() if n > before[name] + FLAT_OBJECTS}
    return {name: counts for name, counts in more.items() if name not in KEPT_A_MINUTE}

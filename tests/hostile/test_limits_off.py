"""Limits of a connection, a user and an address: a low one refuses what exceeds it, and 0 switches it off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.hostile.kit import POLL, SOCKET, Caller, Target
from tests.hostile.test_limits import running
from tests.support.aio import aio, until
from tests.support.door import UPGRADE, Http, RawSocket, frame
from tests.support.scrape import scrape
from tests.support.server import ServerProcess

ALL = ("/tickets", "/chat", "/notifications", "/presence")
LOW = {
    "max_namespaces_per_connection": 2,
    "max_connections_per_user": 2,
    "max_rooms_per_socket": 8,
    "max_connects_per_connection_per_minute": 5,
    "max_connects_per_address_per_second": 20,
    "max_connects_per_user_per_minute": 30,
}
OFF = [
    *LOW,
    "max_connections_per_address",
    "connect_timeout_s",
    "upgrade_timeout_s",
    "unread_timeout_s",
    "body_timeout_s",
    "message_timeout_s",
    "max_outbox_bytes",
    "max_outbox_events",
    "volatile_outbox_bytes",
    "max_event_bytes",
    "max_connect_bytes",
]


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("low"), rate_limits="ticket:subscribe=1000/1", **LOW) as server:
        yield server


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = dict.fromkeys(OFF, 0)
    with running(tmp_path_factory.mktemp("off"), rate_limits="ticket:subscribe=100000/1", **settings) as server:
        yield server


async def joins(server: ServerProcess, user: str) -> dict[str, str]:
    """Connect to all namespaces on one connection. Return the refusals."""
    caller = Caller(await Target(server.port).socket())
    for namespace in ALL:
        await caller.join(namespace, server.token(user, "agent", "red"))
    await caller.close()
    return caller.refused


@aio
async def test_namespaces_of_a_connection_are_limited_and_leaving_one_makes_room_for_another(
    low: ServerProcess,
) -> None:
    token = low.token("nan", "agent", "red")
    caller = await Caller.to(Target(low.port), token, *ALL[:2])
    assert not await caller.join(ALL[2], token)
    assert caller.refused == {ALL[2]: "TOO_MANY_CONNECTIONS"} and caller.code is None
    caller.socket.say(f"41{ALL[0]},")
    assert await caller.join(ALL[3], token)
    assert (await caller.call(ALL[1], "nothing:such", {}))["error"]["code"] == "UNKNOWN_EVENT", "the connection stays"
    await caller.close()


@aio
async def test_without_a_limit_a_connection_joins_all_namespaces(off: ServerProcess) -> None:
    assert await joins(off, "nan") == {}


@aio
async def test_sockets_of_a_user_are_limited_unless_the_limit_is_off(low: ServerProcess, off: ServerProcess) -> None:
    for server, refused in ((low, 1), (off, 0)):
        token = server.token("uma", "agent", "red")
        callers = [await Caller.to(Target(server.port), token, "/tickets") for _ in range(3)]
        assert [caller.refused.get("/tickets") for caller in callers].count("TOO_MANY_CONNECTIONS") == refused
        for caller in callers:
            await caller.close()


@aio
async def test_rooms_of_a_socket_are_limited_unless_the_limit_is_off(low: ServerProcess, off: ServerProcess) -> None:
    for server, tickets, last in ((low, 9, "TOO_MANY_ROOMS"), (off, 40, "ok")):
        for number in range(tickets):
            await server.push("PUT", f"/api/v1/tickets/t{number}", {"subject": "x", "teamId": "red"})
        caller = await Caller.to(Target(server.port), server.token("rob", "admin"), "/tickets")
        outcomes = [
            await caller.outcome("/tickets", "ticket:subscribe", {"ticketId": f"t{number}"})
            for number in range(tickets)
        ]
        assert outcomes[0] == "ok" and outcomes[-1] == last, outcomes[-1]
        await caller.close()


@aio
async def test_without_a_limit_a_connection_may_connect_to_namespaces_any_number_of_times(off: ServerProcess) -> None:
    socket = await Target(off.port).socket()
    await socket.text()  # Engine.IO's handshake
    for _ in range(200):
        socket.say('40/tickets,{"token":"nonsense"}')
        assert (await socket.text()).startswith("44/tickets,")
    await socket.close()


@aio
async def test_connects_of_a_user_per_minute_are_limited_unless_the_limit_is_off(
    low: ServerProcess, off: ServerProcess
) -> None:
    """The connection over the limit is closed with a code for which clients reconnect later (4302)."""
    for server, limit in ((low, LOW["max_connects_per_user_per_minute"]), (off, 0)):
        token, closed = server.token("eve", "agent", "red"), 0
        for _ in range(40):
            if server is low:
                await asyncio.sleep(1 / LOW["max_connects_per_address_per_second"])
            socket = await Target(server.port).socket("/rt/tickets")
            socket.say(json.dumps({"event": "connect", "data": {"token": token}}))
            opcode, said = await socket.receive()
            closed += opcode == 8 and int.from_bytes(said[:2], "big") == 4302
            await socket.close()
        assert closed == (40 - limit if limit else 0)
        caller = await Caller.to(Target(server.port), server.token("adam", "agent", "red"), "/tickets")
        assert caller.refused == {}
        await caller.close()


@pytest.mark.parametrize("target", [POLL, SOCKET, "/rt/tickets"])
@aio
async def test_new_clients_of_an_address_per_second_are_limited_unless_the_limit_is_off(
    low: ServerProcess, off: ServerProcess, target: str
) -> None:
    async def status(server: ServerProcess) -> int:
        http = await Http.to(Target(server.port))  # type: ignore[arg-type]
        answer = await http.ask("GET", target, headers=None if target == POLL else UPGRADE)
        await http.close()
        if answer.status == 429:
            assert answer.headers["retry-after"] == "1"
        return answer.status

    for server, refused in ((low, True), (off, False)):
        statuses = await asyncio.gather(*(status(server) for _ in range(60)))
        assert (429 in statuses) == refused and {200, 101} & set(statuses), statuses
    await asyncio.sleep(1.1)
    assert await status(low) in (200, 101)


@aio
async def test_without_an_outbox_limit_a_client_that_does_not_read_stays_and_gets_everything_later(
    off: ServerProcess,
) -> None:
    """More bytes and events than the default limits, including volatile ones, while the client does not read."""
    await off.push("PUT", "/api/v1/tickets/t1", {"teamId": "red"})
    socket = await on_ticket(off)
    for number in range(120):
        blob = {"namespace": "/tickets", "room": "ticket:t1", "event": "blob", "data": f"{number}" + "x" * 50_000}
        blob["volatile"] = number % 2 == 0  # type: ignore[assignment]
        status, said = await off.push("POST", "/api/v1/emit", blob)
        assert status == 200, said
    due = {True: iter(range(0, 120, 2)), False: iter(range(1, 120, 2))}  # each kind, volatile and logged, in its order
    for _ in range(120):
        while '"blob"' not in (text := await socket.text()):
            pass
        number = int(json.loads(text)["data"].rstrip("x"))
        assert number == next(due[number % 2 == 0])
    await socket.close()
    counters = await scrape(off)
    assert counters.of("connections_closed_total", reason="slow_consumer") == 0
    assert counters.of("messages_dropped_total", reason="behind") == 0


async def on_ticket(server: ServerProcess) -> RawSocket:
    socket = await Target(server.port).socket("/rt/tickets")
    socket.say(json.dumps({"event": "connect", "data": {"token": server.token("deaf", "agent", "red")}}))
    socket.say('{"event":"ticket:subscribe","data":{"ticketId":"t1"},"id":1}')
    while '"ack":1' not in await socket.text():
        pass
    return socket


@aio
async def test_without_time_limits_slow_clients_are_waited_for(off: ServerProcess) -> None:
    """The test does not wait 45 s. It checks that a timeout of 0 does not end a connection within a second."""
    target = Target(off.port)
    nothing, begun = await target.socket(), await target.socket()
    begun.send(frame(1, b'40/tickets,{"token":', fin=False))
    session = (await target.session()).partition("sid=")[2]
    probe = await target.socket(f"{SOCKET}&sid={session}")
    probe.say("2probe")
    assert await probe.text() == "3probe"
    post = await target.http()
    post.send("POST", await target.session(), headers={"Content-Length": "1"})
    await asyncio.sleep(2)
    token = off.token("slow", "customer")
    for socket in (nothing, begun):
        await socket.text()  # Engine.IO's handshake
    nothing.say(f'40/chat,{{"token":"{token}"}}')
    begun.send(frame(0, f'"{token}"}}'.encode()))
    assert (await nothing.text()).startswith("40/chat,")
    assert (await begun.text()).startswith("40/tickets,")
    probe.say("5")
    probe.say(f'40/chat,{{"token":"{token}"}}')
    assert (await probe.text()).startswith("40/chat,")
    post.writer.write(b"3")
    assert (await post.receive()).status == 200
    await target.close()


@aio
async def test_without_a_limit_a_connect_may_be_as_long_as_any_message(off: ServerProcess) -> None:
    socket = await Target(off.port).socket()
    await socket.text()
    token = off.token("long", "customer")
    socket.say(f'40/chat,{{"token":"{token}","more":"{"x" * 900_000}"}}')
    assert (await socket.text()).startswith("40/chat,")
    await socket.close()


@aio
async def test_each_exceeded_limit_is_counted_under_its_documented_metric(low: ServerProcess) -> None:
    async def refused() -> bool:
        counters = await scrape(low)
        return (
            counters.of("connects_refused_total", reason="TOO_MANY_CONNECTIONS") > 0
            and counters.of("requests_refused_total", reason="RATE_LIMITED") > 0
        )

    await joins(low, "cara")
    await until(refused, "both are in /metrics")

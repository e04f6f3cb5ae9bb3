"""Clients that connect, break off and reconnect, and a Valkey that stops or dies during a chat."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.hostile.kit import SOCKET, Caller, Target, descriptors, memory_mb
from tests.support.aio import aio, until
from tests.support.server import ServerProcess

VALKEY_WAS_AWAY = ("valkey is unreachable", "subscription lost", "had died and was started again")


def valkey_of(server: ServerProcess) -> int:
    """Return the process id of the server's embedded Valkey."""
    for entry in Path("/proc").iterdir():
        try:
            name, _, fields = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # there is no such process any more
        if name == "valkey-server" and int(fields.split()[1]) == server.pid:
            return int(entry.name)
    raise AssertionError("the server has no Valkey")


async def heard_all(caller: Caller, count: int) -> None:
    await caller.until(lambda: len(caller.heard("chat:message")) >= count, "all acknowledged messages")


def test_two_thousand_clients_that_break_off_leave_nothing_behind(server: ServerProcess) -> None:
    async def churn() -> None:
        target = Target(server.port)

        async def break_off(number: int) -> None:
            token = server.token(f"churn{number % 40}", "agent", "red")
            connect = json.dumps({"token": token})
            if number % 4 == 0:  # before the first answer
                socket = await target.socket()
                socket.say(f"40/presence,{connect}")
                await socket.http.writer.drain()
            elif number % 4 == 1:  # in the middle of a native connect
                socket = await target.socket("/rt/tickets")
                socket.say(json.dumps({"event": "connect", "data": {"token": token}}))
                socket.say('{"event":"ticket:subscribe","data":{"ticketId":"t"},"id":1}')
                await socket.http.writer.drain()
            elif number % 4 == 2:  # in three namespaces, one of them left properly
                caller = await Caller.to(target, token, "/presence", "/chat", "/tickets")
                caller.socket.say("41/chat,")
                await caller.close()
                return
            else:  # right behind an upgrade
                path = await target.session()
                await (await target.http()).ask("POST", path, f"40/presence,{connect}".encode())
                socket = await target.socket(f"{SOCKET}&sid={path.partition('sid=')[2]}")
                socket.say("2probe")
                assert await socket.text() == "3probe"
                socket.say("5")
                await socket.text()
            socket.http.writer.transport.abort()

        async def round(size: int) -> None:
            for start in range(0, size, 50):
                await asyncio.gather(*(break_off(start + number) for number in range(50)))
            await target.close()
            target.connections.clear()

        await round(200)  # modules and caches that are filled once
        await asyncio.sleep(1.5)
        connections, held_mb = descriptors(server), memory_mb(server)
        await round(2000)
        await until(lambda: descriptors(server) <= connections + 1, "all connections are gone", 10)
        assert memory_mb(server) < held_mb + 15, f"{memory_mb(server) - held_mb:.1f} MB more than before"
        root = await Caller.to(target, server.token("root", "admin"), "/presence")
        users = [f"churn{number}" for number in range(40)]

        async def online() -> list[str]:
            root.events.clear()
            await root.call("/presence", "presence:subscribe", {"userIds": users})
            await root.until(lambda: root.heard("presence:list"), "the list")
            return [one["userId"] for one in root.heard("presence:list")[0] if one["status"] != "offline"]

        end = time.monotonic() + 5
        while (ghosts := await online()) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.3)
        assert not ghosts
        await target.close()

    aio(churn, deadline_s=45)()


@aio
async def test_a_second_websocket_of_a_session_is_closed_and_the_first_takes_over(server: ServerProcess) -> None:
    target = Target(server.port)
    path = await target.session()
    sid = path.partition("sid=")[2]
    first, second = await target.socket(f"{SOCKET}&sid={sid}"), await target.socket(f"{SOCKET}&sid={sid}")
    assert await second.closed() == 1005
    poll = await target.http()
    poll.send("GET", path)
    first.say("2probe")
    assert await first.text() == "3probe"
    assert (await poll.receive()).body == "6"
    first.say("5")
    first.say(f"40/tickets,{json.dumps({'token': server.token('ann', 'agent', 'red')})}")
    assert (await first.text()).startswith("40/tickets,")
    assert (await poll.ask("GET", path)).status == 400
    assert (await poll.ask("POST", path, b"3")).status == 400
    assert await (await target.socket(f"{SOCKET}&sid={sid}")).closed() == 1005
    first.say('42/tickets,1["ticket:unsubscribe",{"ticketId":"1"}]')
    assert "ticket:unsubscribed" in await first.text()
    await target.close()


@aio
async def test_a_client_whose_token_expires_while_it_connects_is_told_and_closed(server: ServerProcess) -> None:
    target = Target(server.port)
    caller = await Caller.to(target, server.token("late", "agent", "red", ttl_s=2), "/tickets", "/chat")
    await caller.until(lambda: caller.code is not None, "the connection is closed", 15)
    assert "AUTH_TOKEN_EXPIRED" in {error["code"] for error in caller.heard("error")}
    await target.close()


@aio
async def test_a_client_that_missed_more_than_an_outbox_holds_can_reconnect(tmp_path: Path) -> None:
    small = ServerProcess(tmp_path, max_outbox_bytes=100_000, max_event_bytes=50_000, drain_seconds=0)
    small.start()
    try:
        await small.push("PUT", "/api/v1/tickets/busy", {"subject": "x", "teamId": "red"})
        data = {"namespace": "/tickets", "room": "ticket:busy", "event": "x", "data": "y" * 20_000}
        for _ in range(8):
            assert (await small.push("POST", "/api/v1/emit", data))[0] == 200
        target = Target(small.port)
        ada = await Caller.to(target, small.token("ada", "agent", "red"), "/tickets")
        answer = await ada.call("/tickets", "ticket:subscribe", {"ticketId": "busy", "since": "1-0"})
        assert answer["ok"], answer
        assert ada.code is None, "closed as a slow consumer, and again whenever it comes back"
        await target.close()
    finally:
        small.stop()


@pytest.mark.parametrize("how", ["stopped for three seconds", "killed"])
def test_a_chat_continues_after_an_outage_of_valkey_without_losses_or_duplicates(tmp_path: Path, how: str) -> None:
    server = ServerProcess(tmp_path, drain_seconds=0, presence_grace_ms=500)
    server.start()

    async def talk() -> None:
        target = Target(server.port)
        carl = await Caller.to(target, server.token("carl", "customer"), "/chat", "/presence")
        ada = await Caller.to(target, server.token("ada", "agent", "red"), "/chat", "/presence")
        start = {"clientId": "1", "text": "hello", "teamId": "red"}
        chat = (await carl.call("/chat", "chat:start", start))["conversationId"]
        assert await ada.outcome("/chat", "chat:accept", {"conversationId": chat}) == "ok"
        said: list[str] = []
        codes: set[str] = set()
        stop = asyncio.Event()

        async def talks(who: Caller, name: str) -> None:
            number = 0
            while not stop.is_set():
                text = f"{name}{number}"
                ask = {"conversationId": chat, "text": text, "clientId": text}
                before = time.monotonic()
                outcome = await who.outcome("/chat", "chat:message", ask)
                assert time.monotonic() - before < 6, "the refusal came too late"
                if outcome == "ok":
                    said.append(text)
                    number += 1
                else:  # the same call again, until it is accepted
                    codes.add(outcome)
                await asyncio.sleep(0.25)

        talking = asyncio.gather(talks(carl, "c"), talks(ada, "a"))
        await asyncio.sleep(0.5)
        if how == "killed":
            os.kill(valkey_of(server), signal.SIGKILL)
        else:
            os.kill(valkey_of(server), signal.SIGSTOP)
            await asyncio.sleep(3)
            os.kill(valkey_of(server), signal.SIGCONT)
        await asyncio.sleep(3)
        stop.set()
        await talking
        assert codes <= {"UNAVAILABLE"}, codes
        assert "UNAVAILABLE" in codes
        for caller in (carl, ada):
            await heard_all(caller, len(said))
            heard = caller.heard("chat:message")
            assert [message["id"] for message in heard] == list(range(2, len(heard) + 2)), (
                "a gap, a duplicate or a wrong order"
            )
            assert {message["text"] for message in heard} == set(said)
            assert caller.code is None
            assert "offline" not in {update["status"] for update in caller.heard("presence:update")}
        zoe = await Caller.to(target, server.token("zoe", "customer"), "/chat")
        assert await zoe.outcome("/chat", "chat:start", {"clientId": "1"}) == "ok"
        await target.close()

    try:
        aio(talk)()
    finally:
        assert server.stop() == 0
    server.assert_quiet(*VALKEY_WAS_AWAY)

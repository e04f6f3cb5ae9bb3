"""Resumed sessions: clients that are cut repeatedly, return with another role, or return too late for the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.kit import Target
from tests.support.aio import aio, until
from tests.support.door import RawSocket
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

LOG = 100  # entries; the shortest possible log


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("recovery")
    server = ServerProcess(folder, log_max_entries=LOG, drain_seconds=0)
    server.start()
    yield server
    code = server.stop()
    server.assert_quiet()
    assert code == 0, server.last_words()


@asynccontextmanager
async def at(server: ServerProcess) -> AsyncIterator[Target]:
    target = Target(server.port)
    try:
        yield target
    finally:
        await target.close()


class Native:
    """A client of /rt that keeps all frames, and loses its connection when the test says so."""

    def __init__(self, socket: RawSocket) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    @classmethod
    async def to(
        cls,
        target: Target,
        token: str,
        session: dict[str, Any] | None = None,
        path: str = "tickets",
        offset: str = "",
    ) -> Native:
        client = cls(await target.socket(f"/rt/{path}"))
        asked = {"token": token} | ({"pid": session["pid"]} if session else {})
        asked |= {"offset": offset} if offset else {}
        client.say({"event": "connect", "data": asked})
        return client

    def say(self, frame: dict[str, Any]) -> None:
        self.socket.say(json.dumps(frame))

    async def until(self, **fields: Any) -> dict[str, Any]:
        """Read up to the frame that has these fields."""
        async with asyncio.timeout(10):
            while True:
                frame = json.loads(await self.socket.text())
                self.heard.append(frame)
                if fields.items() <= frame.items():
                    return frame

    async def greeting(self) -> dict[str, Any]:
        data: dict[str, Any] = (await self.until(event="connect"))["data"]
        return data

    async def ask(self, event: str, **data: Any) -> Any:
        self.say({"event": event, "data": data, "id": 1})
        return (await self.until(ack=1))["data"]

    async def settled(self) -> list[str]:
        """Return the events received so far, including everything the server had sent before this call."""
        await self.ask("ticket:unsubscribe", ticketId="none")
        return [frame["event"] for frame in self.heard if "event" in frame]

    async def cut(self) -> None:
        await self.socket.http.writer.drain()
        self.socket.http.writer.transport.abort()


async def put(server: ServerProcess, ticket: str, **fields: Any) -> None:
    status, answer = await server.push("PUT", f"/api/v1/tickets/{ticket}", fields)
    assert status in (200, 201), answer


@aio
async def test_a_client_that_is_cut_again_while_it_reconnects_loses_nothing(server: ServerProcess) -> None:
    """It is cut before its CONNECT is read, during the connect, and during the replay."""
    async with at(server) as target:
        token = server.token("flap", "agent", "red")
        await put(server, "flap", teamId="red", subject="1")
        client = await Native.to(target, token)
        session = await client.greeting()
        assert (await client.ask("ticket:subscribe", ticketId="flap"))["ok"]
        await client.cut()
        await put(server, "flap", subject="2")
        for turn in range(30):
            again = await Native.to(target, token, session)
            await asyncio.sleep(turn % 10 / 1000)
            await again.cut()
        back = await Native.to(target, token, session)
        greeting = await back.greeting()
        assert greeting == {**session, "recovered": True}
        await put(server, "flap", subject="3")
        changes = [(await back.until(event="ticket:updated"))["data"]["changes"] for _ in range(2)]
        assert changes == [{"subject": ["1", "2"]}, {"subject": ["2", "3"]}]


@aio
async def test_a_client_that_returns_with_another_role_loses_the_old_ones_permissions(server: ServerProcess) -> None:
    """A demoted agent leaves the room of internal notes, and still receives what customers with access receive."""
    async with at(server) as target:
        await put(server, "demoted", teamId="red", requesterId="mia", watchers=["ann"])
        agent, customer = server.token("ann", "agent", "red"), server.token("ann", "customer")
        sessions = {}
        for path in ("tickets", "presence"):
            client = await Native.to(target, agent, path=path)
            sessions[path] = await client.greeting()
            if path == "tickets":
                assert (await client.ask("ticket:subscribe", ticketId="demoted"))["ok"]
            else:
                assert (await client.ask("presence:subscribe", userIds=["bob"]))["ok"]
            await client.cut()
        back = {path: await Native.to(target, customer, session, path) for path, session in sessions.items()}
        for path, client in back.items():
            greeting = await client.greeting()
            assert not greeting["recovered"] and greeting["sid"] != sessions[path]["sid"]
            assert (await client.until(event="resync"))["data"]["rooms"]
        tickets = back["tickets"]
        note = {"id": "n1", "kind": "note", "author": {"id": "bob", "name": "Bob"}, "excerpt": "internal"}
        assert (await server.push("POST", "/api/v1/tickets/demoted/comments", note))[0] == 201
        assert "ticket:commented" not in await tickets.settled()
        assert (await tickets.ask("ticket:subscribe", ticketId="demoted"))["ok"]
        await put(server, "demoted", subject="for all")
        assert (await tickets.until(event="ticket:updated"))["data"]["changes"]["subject"][1] == "for all"
        bob = await Native.to(target, server.token("bob", "agent", "red"), path="presence")
        await bob.greeting()
        presence = back["presence"]
        presence.say({"event": "presence:status", "data": {"status": "busy"}, "id": 2})
        await presence.until(ack=2)
        told = [frame["data"]["userId"] for frame in presence.heard if frame.get("event") == "presence:update"]
        assert set(told) <= {"ann"}


@aio
async def test_a_client_that_returns_too_late_for_the_log_is_told_to_reload(server: ServerProcess) -> None:
    async with at(server) as target:
        token = server.token("late", "agent", "red")
        await put(server, "late", teamId="red", subject="0")
        client = await Native.to(target, token)
        session = await client.greeting()
        assert (await client.ask("ticket:subscribe", ticketId="late"))["ok"]
        await client.cut()
        for number in range(4 * LOG):  # Valkey trims a stream by whole nodes
            await put(server, "late", subject=f"changed {number}")
        back = await Native.to(target, token, session)
        greeting = await back.greeting()
        assert not greeting["recovered"] and greeting["pid"] != session["pid"]
        rooms = (await back.until(event="resync"))["data"]["rooms"]
        assert "ticket:late" in rooms and "user:late" in rooms
        assert "ticket:updated" not in await back.settled(), "a partial replay would hide a gap"
        again = await Native.to(target, token, session)
        assert not (await again.greeting())["recovered"]
        assert "resync" not in await again.settled(), "the session is over"


@aio
async def test_a_resumed_session_is_sent_nothing_from_before_it_began(server: ServerProcess) -> None:
    """This also holds for an older offset: the agent's rooms received tickets then that belong to another team now."""
    async with at(server) as target:
        _, created = await server.push("PUT", "/api/v1/tickets/secret", {"subject": "SECRET", "teamId": "green"})
        before = f"{int(created['offset'].split('-')[0]) - 60_000}-0"
        await put(server, "secret", teamId="legal")
        token = server.token("curious", "agent", "green")
        client = await Native.to(target, token)
        session = await client.greeting()
        assert (await client.ask("ticket:subscribe", ticketId="secret"))["error"]["code"] == "FORBIDDEN"
        for claim in (before, "1-0", "0-0", created["offset"]):
            await client.cut()
            client = await Native.to(target, token, session, offset=claim)
            assert await client.greeting() == {**session, "recovered": True}
            assert "SECRET" not in json.dumps([await client.settled(), client.heard]), claim


@aio
async def test_a_client_that_connects_during_an_outage_of_valkey_is_closed_and_can_reconnect(tmp_path: Path) -> None:
    """Otherwise its subscriptions would be refused, and a client that ignores that would receive no events."""
    with OwnValkey("--appendonly", "yes") as valkey:
        server = ServerProcess(tmp_path, valkey_url=valkey.url, drain_seconds=0)
        server.start()
        try:
            async with at(server) as target:
                first = await Native.to(target, server.token("before", "agent", "red"))
                await first.greeting()
                for harm, heal in ((valkey.kill, valkey.start), (valkey.freeze, valkey.thaw)):
                    harm()
                    for name in ("before", "new1", "new2"):  # the first client's rooms are subscribed already
                        client = await Native.to(target, server.token(name, "agent", "red"))
                        opcode, said = await client.socket.receive()
                        assert (opcode, int.from_bytes(said[:2], "big")) == (8, 4302), said
                    heal()

                    async def let_in() -> bool:
                        client = await Native.to(target, server.token("later", "agent", "red"))
                        opcode, said = await client.socket.receive()
                        return opcode == 1 and json.loads(said)["event"] == "connect"

                    await until(let_in, "accepted again")
                await first.settled()
        finally:
            server.stop()


@aio
async def test_a_returning_client_is_told_again_that_it_lost_access_to_a_ticket(server: ServerProcess) -> None:
    """It is told until it subscribes again or leaves the ticket. Otherwise it would wait for events for ever."""
    async with at(server) as target:
        token = server.token("deaf", "agent", "red")
        await put(server, "twice", teamId="red", subject="1")
        client = await Native.to(target, token)
        session = await client.greeting()
        assert (await client.ask("ticket:subscribe", ticketId="twice"))["ok"]
        await client.cut()
        await put(server, "twice", teamId="legal")
        await put(server, "twice", teamId="red")
        for _ in range(3):
            client = await Native.to(target, token, session)
            assert (await client.greeting())["recovered"]
            told = await client.until(event="ticket:unsubscribed")
            assert told["data"] == {"ticketId": "twice", "reason": "access"}
            await client.cut()
        client = await Native.to(target, token, session)
        await client.until(event="ticket:unsubscribed")
        assert (await client.ask("ticket:subscribe", ticketId="twice"))["ok"]
        await client.cut()
        client = await Native.to(target, token, session)
        await client.greeting()
        await put(server, "twice", subject="2")
        while (await client.until(event="ticket:updated"))["data"]["changes"] != {"subject": ["1", "2"]}:
            pass  # its team received the event that the ticket came back
        assert "ticket:unsubscribed" not in [frame.get("event") for frame in client.heard]

"""Sessions in a real Valkey: the last claim by their user within the window gets them, unless the client left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.engine.cluster import sessions as resume
from insightdesk_rt.engine.cluster.session_record import Resumed
from insightdesk_rt.engine.cluster.sessions import ClusterSessions
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, Right, Room, User
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey

USER = fakes.user()


class Node:
    def __init__(self, valkey: Valkey, name: str, window_s: int = 60) -> None:
        self.incarnation = self.name = name
        self.at = Offset("5-0")
        self.told: list[tuple[str, str]] = []
        self.sessions = ClusterSessions(
            valkey,
            name,
            f"{name}.address",
            lambda: self.incarnation,
            lambda namespace: self.at,
            lambda address, pid: self.told.append((address, pid)),
            window_s=window_s,
        )
        self.sessions.start()

    async def opened(self, *rooms: str) -> Socket:
        socket = fakes.socket("/tickets", USER)
        socket.pid = self.sessions.new_pid()
        socket.rooms.update(map(Room, rooms))
        self.sessions.opened(socket)
        await self.written()
        return socket

    async def ended(self, socket: Socket, why: CloseReason = CloseReason.TRANSPORT_CLOSE) -> None:
        self.sessions.ended(socket, why)
        await self.written()

    async def written(self) -> None:
        await self.sessions._flush()

    async def claim(self, pid: str, offset: str = "") -> tuple[str, set[str], str] | None:
        """A client returns, and disconnects before it is admitted."""
        found = await self.claimed(pid, offset)
        return found and (found.sid, set(found.rooms), found.offset)

    async def claimed(
        self, pid: str, offset: str = "", user: User = USER, namespace: str = "/tickets"
    ) -> Resumed | None:
        async with self.sessions.claim(fakes.socket(namespace, user), pid, offset) as found:
            return found

    async def back(self, pid: str, *rooms: str) -> Socket:
        """A client returns and is admitted."""
        socket = fakes.socket("/tickets", USER)
        async with self.sessions.claim(socket, pid, "") as found:
            assert found is not None
            socket.sid, socket.pid = found.sid, found.pid
            socket.rooms.update(map(Room, rooms))
            self.sessions.opened(socket, found)
        await self.written()
        return socket


@asynccontextmanager
async def nodes(url: str, prefix: str, window_s: int = 60) -> AsyncIterator[tuple[Node, Node, Valkey]]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    a, b = Node(valkey, "a", window_s), Node(valkey, "b", window_s)
    try:
        yield a, b, valkey
    finally:
        await asyncio.gather(a.sessions.close(), b.sessions.close())
        await valkey.close()


@aio
async def test_a_disconnected_client_can_resume_on_any_node(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        socket = await a.opened("user:u1")
        socket.rooms.add(Room("ticket:1"))
        await a.ended(socket)
        assert await b.claim(socket.pid, "9-1") == (socket.sid, {"user:u1", "ticket:1"}, "9-1")
        assert a.told == b.told == [], "no node has it open"


@aio
async def test_a_sessions_record_has_the_right_by_which_each_room_was_joined(valkey_url: str, prefix: str) -> None:
    """It limits the events a resuming client is sent. It is saved with the rooms and when the connection ends."""
    async with nodes(valkey_url, prefix) as (a, b, _):
        socket = await a.opened("ticket:1", "ticket:2")
        socket.starts = {Room("ticket:1"): Right(Offset("7-0"), "life 1"), Room("ticket:2"): Right(Offset("8-0"))}
        a.sessions.moved(socket)
        await a.written()
        found = await b.claimed(socket.pid)
        assert found is not None and found.starts == socket.starts
        socket = await b.back(socket.pid, "ticket:1")
        socket.starts = {Room("ticket:1"): Right(Offset("7-0"), "life 1")}
        await b.ended(socket)
        found = await a.claimed(socket.pid)
        assert found is not None and found.starts == socket.starts


@aio
async def test_the_last_of_two_claims_gets_the_session(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        old = await a.opened()
        await a.ended(old)
        one, two = fakes.socket("/tickets", USER), fakes.socket("/tickets", USER)
        async with a.sessions.claim(one, old.pid, "") as first, b.sessions.claim(two, old.pid, "") as second:
            assert first and second and b.told == [("a.address", old.pid)]
            one.pid = two.pid = old.pid
            b.sessions.opened(two, second)
            await b.written()
            a.sessions.opened(one, first)  # the notice of the other claim has not arrived yet
            await a.written()
        assert one.client.closed is CloseReason.REPLACED and not two.client.closed  # type: ignore[attr-defined]
        assert await valkey.command("HGET", valkey.names.session(old.pid).session(old.pid), "owner") == second.owner


@aio
async def test_a_later_claim_replaces_a_client_that_is_still_connecting(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        old = await a.opened()
        await a.ended(old)
        for again in (a, b):
            entering = fakes.socket("/tickets", USER)
            async with a.sessions.claim(entering, old.pid, ""):
                assert await again.claim(old.pid)
                for _, pid in again.told:
                    a.sessions.evict(pid)
                assert entering.client.closed is CloseReason.REPLACED  # type: ignore[attr-defined]
        assert not a.sessions._entering


@aio
async def test_a_claim_that_is_given_up_leaves_the_session_unchanged(valkey_url: str, prefix: str) -> None:
    """However often it happens, and also if the replayed events did not arrive."""
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened("ticket:1")
        await a.ended(socket)
        for node in (a, b, b, a):
            node.at = Offset("7-0")
            assert await node.claim(socket.pid) == (socket.sid, {"ticket:1"}, "5-0")
            assert 0 < await valkey.command("PTTL", valkey.names.session(socket.pid).session(socket.pid)) <= 60_000
            back = await node.back(socket.pid, "ticket:1")
            assert await valkey.command("PTTL", valkey.names.session(socket.pid).session(socket.pid)) > 3_600_000
            await node.ended(back)
        for node in "ab":
            index = valkey.names.session(socket.pid).sessions(node)
            assert await valkey.command("SMEMBERS", index) == []


@aio
async def test_a_session_that_cannot_be_resumed_is_deleted(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened()
        await a.ended(socket)
        found = await b.claimed(socket.pid)
        assert found is not None
        b.sessions.drop(found)
        await b.written()
        assert await valkey.command("KEYS", f"{{{prefix}*:session*") == []


@aio
async def test_a_session_that_expired_during_an_outage_is_deleted() -> None:
    with OwnValkey() as server:
        async with nodes(server.url, "t", window_s=1) as (a, _, valkey):
            lost, left = await a.opened(), await a.opened()
            await valkey.command("SAVE")
            server.kill()
            await until(lambda: not valkey.available, "noticed")
            a.sessions.ended(lost, CloseReason.TRANSPORT_CLOSE)
            a.sessions.ended(left, CloseReason.CLIENT_LEFT)
            await asyncio.sleep(1.05)
            server.start()
            await until(lambda: valkey.available and not a.sessions._ended, "written")
            assert await valkey.command("KEYS", "{t*:session*") == []


@aio
async def test_a_joined_room_is_recorded_before_the_join_is_acknowledged(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened("user:u1")
        for number in range(5):
            socket.rooms.add(Room(f"ticket:{number}"))
            a.sessions.moved(socket)
            await valkey.command("PING")  # a join sends Valkey a command before its ack
            rooms = await valkey.command("HGET", valkey.names.session(socket.pid).session(socket.pid), "rooms")
            assert f"ticket:{number}" in rooms, "it would survive kill -9"
        socket.rooms.add(Room("ticket:last"))
        a.sessions.moved(socket)
        a.sessions.ended(socket, CloseReason.SHUTDOWN)
        await valkey.command("PING")
        found = await b.claim(socket.pid)
        assert found and len(found[1]) == 7


@aio
async def test_without_an_offset_a_resume_starts_from_the_logs_end_at_the_connect(valkey_url: str, prefix: str) -> None:
    """Not from its end at the disconnect: events that were written to a dead connection did not arrive."""
    async with nodes(valkey_url, prefix) as (a, b, _):
        for nothing in ("", "yesterday", "9" * 30 + "-0"):
            socket = await a.opened()
            await a.ended(socket)
            assert await b.claim(socket.pid, nothing) == (socket.sid, set(), "5-0")


@pytest.mark.parametrize("why", [CloseReason.CLIENT_LEFT, CloseReason.KICKED, CloseReason.PARSE_ERROR])
def test_a_session_that_was_ended_on_purpose_cannot_be_resumed(valkey_url: str, prefix: str, why: CloseReason) -> None:
    @aio
    async def story() -> None:
        async with nodes(valkey_url, prefix) as (a, b, valkey):
            socket = await a.opened()
            await a.ended(socket, why)
            assert await b.claim(socket.pid) is None
            assert await valkey.command("KEYS", f"{{{prefix}*:session*") == []

    story()


@aio
async def test_another_user_cannot_use_a_pid_and_its_owner_still_can(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        socket = await a.opened()
        await a.ended(socket)
        assert await b.claimed(socket.pid, user=fakes.user("thief")) is None
        assert await b.claimed(socket.pid, namespace="/chat") is None
        assert await b.claim(socket.pid) is not None


@pytest.mark.parametrize("pid", ["", "x" * 101, "é" * 30, "unknown" * 5, "*", "a b" * 10, "x" * 30 + "\n"])
def test_an_invalid_pid_finds_no_session(valkey_url: str, prefix: str, pid: str) -> None:
    @aio
    async def story() -> None:
        async with nodes(valkey_url, prefix) as (a, _, _valkey):
            assert await a.claim(pid) is None

    story()


@aio
async def test_a_session_cannot_be_resumed_after_its_window(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix, window_s=1) as (a, b, valkey):
        socket = await a.opened()
        key = valkey.names.session(socket.pid).session(socket.pid)
        assert await valkey.command("PTTL", key) > 3_600_000, "the connection is open"
        await a.ended(socket)
        assert 0 < await valkey.command("PTTL", key) <= 1000
        await asyncio.sleep(1.05)
        assert await b.claim(socket.pid) is None


@aio
async def test_a_resume_closes_the_old_connection_of_the_client(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        here, there = await a.opened(), await a.opened()
        assert await a.claim(here.pid)
        assert here.client.closed is CloseReason.REPLACED  # type: ignore[attr-defined]
        assert await b.claim(there.pid)
        assert b.told == [("a.address", there.pid)]
        a.sessions.evict(there.pid)
        a.sessions.evict(there.pid)
        assert there.client.closed is CloseReason.REPLACED  # type: ignore[attr-defined]


@aio
async def test_an_old_connection_without_notice_is_closed_at_its_next_write(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        old = await a.opened()
        new = await b.back(old.pid, "ticket:1")
        old.rooms.add(Room("ticket:2"))
        a.sessions.moved(old)
        await until(lambda: old.client.closed, "it is closed")  # type: ignore[attr-defined]
        await a.ended(old)
        await b.ended(new)
        assert await a.claim(old.pid) == (old.sid, {"ticket:1"}, "5-0"), "the late writes changed nothing"


@aio
async def test_the_other_namespaces_of_a_replaced_connection_can_still_be_claimed(valkey_url: str, prefix: str) -> None:
    """The first namespace's claim closes the old connection; the client claims the others a moment later."""
    async with nodes(valkey_url, prefix) as (a, b, _):
        other = await a.opened()
        await a.ended(other, CloseReason.REPLACED)
        assert await b.claim(other.pid)


@aio
async def test_a_session_that_ends_before_its_first_write_can_be_claimed(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, _, _valkey):
        socket = fakes.socket("/tickets", USER)
        socket.pid = a.sessions.new_pid()
        a.sessions.opened(socket)
        a.sessions.ended(socket, CloseReason.TRANSPORT_CLOSE)
        assert await a.claim(socket.pid) is not None


@aio
async def test_the_sessions_of_a_killed_node_can_be_resumed(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        sockets = [await a.opened(f"ticket:{n}") for n in range(3)]
        key = valkey.names.session(sockets[0].pid).session(sockets[0].pid)
        await b.sessions.node_lost("a")
        assert 0 < await valkey.command("PTTL", key) <= 60_000
        await b.sessions.node_lost("a")
        found = await b.claim(sockets[2].pid)
        assert found is not None and found[1] == {"ticket:2"}


@aio
async def test_a_resumed_session_outlives_its_former_node(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        old = await a.opened()
        await b.back(old.pid)
        await b.sessions.node_lost("a")
        assert await valkey.command("PTTL", valkey.names.session(old.pid).session(old.pid)) > 3_600_000


@aio
async def test_a_node_with_a_new_incarnation_lists_its_sessions_under_it(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        stays, goes = await a.opened(), await a.opened()
        await b.sessions.node_lost("a")
        await b.back(goes.pid)
        a.incarnation = "a2"
        await a.sessions.re_register()
        await a.written()
        assert await valkey.command("PTTL", valkey.names.session(stays.pid).session(stays.pid)) > 3_600_000
        assert await valkey.command("SMEMBERS", valkey.names.session(stays.pid).sessions("a2")) == [stays.pid]
        assert goes.client.closed and not stays.client.closed  # type: ignore[attr-defined]


@aio
async def test_sessions_that_valkey_lost_are_written_again_without_closing_connections(
    valkey_url: str, prefix: str
) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        noticed, told = await a.opened("ticket:1"), await a.opened("ticket:2")
        await valkey.command("DEL", *await valkey.command("KEYS", f"{{{prefix}*"))
        a.sessions.moved(noticed)
        await a.written()
        await a.sessions.re_register()
        await a.written()
        for socket in (noticed, told):
            assert not socket.client.closed  # type: ignore[attr-defined]
            await a.ended(socket)
            assert await b.claim(socket.pid) == (socket.sid, set(socket.rooms), "5-0")


@aio
async def test_failed_writes_are_repeated_when_valkey_returns() -> None:
    with OwnValkey() as server:
        async with nodes(server.url, "t") as (a, _, valkey):
            server.kill()
            await until(lambda: not valkey.available, "noticed")
            socket = fakes.socket("/tickets", USER)
            socket.pid = a.sessions.new_pid()
            a.sessions.opened(socket)
            a.sessions.ended(socket, CloseReason.TRANSPORT_CLOSE)
            with pytest.raises(RtError, match="UNAVAILABLE"):
                await a.claim(socket.pid)
            server.start()
            await until(lambda: valkey.available and not a.sessions._ended, "written")
            assert await a.claim(socket.pid) is not None


@aio
async def test_a_session_without_events_can_be_resumed(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rooms had no events for hours, and the log no longer reaches back so far."""
    monkeypatch.setattr(resume, "TOUCH_S", -1.0)
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened("ticket:1")

        async def touched(top: str) -> None:
            await valkey.command("HSET", valkey.names.namespace("/tickets").log_state, "top", top)
            await a.sessions._touch()

        await touched("100-0")
        await valkey.command("LPUSH", valkey.names.namespace("/tickets").ids("ticket:1"), "150-0")
        await touched("200-0")
        await valkey.command("DEL", valkey.names.namespace("/tickets").ids("ticket:1"))
        await touched("300-0")
        await a.ended(socket)
        record = await valkey.command(
            "HMGET", valkey.names.session(socket.pid).session(socket.pid), "start", "from", "quiet"
        )
        assert record == ["5-0", "150-0", "300-0"]
        assert await b.claim(socket.pid, "150-0") == (socket.sid, {"ticket:1"}, "300-0")


@aio
async def test_without_valkey_a_claim_raises_unavailable(prefix: str) -> None:
    node = Node(Valkey("unix:///nowhere/at/all", prefix), "a")
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await node.claim(node.sessions.new_pid())
    await node.sessions.close()

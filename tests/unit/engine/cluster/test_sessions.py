"""Sessions over a real Valkey: the last claim has it, by its user, within the window; never after a goodbye."""

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
        """A client comes back, and goes again before it is let in."""
        found = await self.claimed(pid, offset)
        return found and (found.sid, set(found.rooms), found.offset)

    async def claimed(
        self, pid: str, offset: str = "", user: User = USER, namespace: str = "/tickets"
    ) -> Resumed | None:
        async with self.sessions.claim(fakes.socket(namespace, user), pid, offset) as found:
            return found

    async def back(self, pid: str, *rooms: str) -> Socket:
        """A client comes back and is let in."""
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
async def test_a_lost_client_finds_its_session_on_any_node(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        socket = await a.opened("user:u1")
        socket.rooms.add(Room("ticket:1"))
        await a.ended(socket)
        assert await b.claim(socket.pid, "9-1") == (socket.sid, {"user:u1", "ticket:1"}, "9-1")
        assert a.told == b.told == [], "nobody has it any more"


@aio
async def test_where_a_room_was_joined_is_on_record_for_as_long_as_the_room(valkey_url: str, prefix: str) -> None:
    """Whoever claims the session bounds by it what it is sent; saved with the rooms, and when the connection ends."""
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
async def test_of_two_who_claim_a_session_the_last_has_it(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        old = await a.opened()
        await a.ended(old)
        one, two = fakes.socket("/tickets", USER), fakes.socket("/tickets", USER)
        async with a.sessions.claim(one, old.pid, "") as first, b.sessions.claim(two, old.pid, "") as second:
            assert first and second and b.told == [("a.address", old.pid)]
            one.pid = two.pid = old.pid
            b.sessions.opened(two, second)
            await b.written()
            a.sessions.opened(one, first)  # the word of the other has not come yet
            await a.written()
        assert one.client.closed is CloseReason.REPLACED and not two.client.closed  # type: ignore[attr-defined]
        assert await valkey.command("HGET", valkey.key("session", old.pid), "owner") == second.owner


@aio
async def test_who_is_on_its_way_in_is_replaced_by_a_later_claim(valkey_url: str, prefix: str) -> None:
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
async def test_a_client_that_goes_again_before_it_is_let_in_finds_its_session_as_it_was(
    valkey_url: str, prefix: str
) -> None:
    """However often, and also when what it was sent on its way in did not arrive."""
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened("ticket:1")
        await a.ended(socket)
        for node in (a, b, b, a):
            node.at = Offset("7-0")
            assert await node.claim(socket.pid) == (socket.sid, {"ticket:1"}, "5-0")
            assert 0 < await valkey.command("PTTL", valkey.key("session", socket.pid)) <= 60_000
            back = await node.back(socket.pid, "ticket:1")
            assert await valkey.command("PTTL", valkey.key("session", socket.pid)) > 3_600_000
            await node.ended(back)
        for node in "ab":
            assert await valkey.command("SMEMBERS", valkey.key("sessions", node)) == []


@aio
async def test_a_session_that_cannot_be_gone_on_with_ends(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened()
        await a.ended(socket)
        found = await b.claimed(socket.pid)
        assert found is not None
        b.sessions.drop(found)
        await b.written()
        assert await valkey.command("KEYS", prefix + ":session*") == []


@aio
async def test_a_session_whose_time_passed_while_valkey_was_away_is_not_left_behind() -> None:
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
            assert await valkey.command("KEYS", "t:session*") == []


@aio
async def test_a_room_that_a_client_was_told_of_is_in_its_record_however_soon_it_is_lost(
    valkey_url: str, prefix: str
) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened("user:u1")
        for number in range(5):
            socket.rooms.add(Room(f"ticket:{number}"))
            a.sessions.moved(socket)
            await valkey.command("PING")  # a join asks Valkey something before it answers
            rooms = await valkey.command("HGET", valkey.key("session", socket.pid), "rooms")
            assert f"ticket:{number}" in rooms, "kill -9 now would lose it"
        socket.rooms.add(Room("ticket:last"))
        a.sessions.moved(socket)
        a.sessions.ended(socket, CloseReason.SHUTDOWN)
        await valkey.command("PING")
        found = await b.claim(socket.pid)
        assert found and len(found[1]) == 7


@aio
async def test_without_an_offset_it_begins_where_the_log_was_at_the_connect(valkey_url: str, prefix: str) -> None:
    """Not where it was at the end: what went into a dead connection did not arrive."""
    async with nodes(valkey_url, prefix) as (a, b, _):
        for nothing in ("", "yesterday", "9" * 30 + "-0"):
            socket = await a.opened()
            await a.ended(socket)
            assert await b.claim(socket.pid, nothing) == (socket.sid, set(), "5-0")


@pytest.mark.parametrize("why", [CloseReason.CLIENT_LEFT, CloseReason.KICKED, CloseReason.PARSE_ERROR])
def test_a_session_that_was_ended_on_purpose_is_gone(valkey_url: str, prefix: str, why: CloseReason) -> None:
    @aio
    async def story() -> None:
        async with nodes(valkey_url, prefix) as (a, b, valkey):
            socket = await a.opened()
            await a.ended(socket, why)
            assert await b.claim(socket.pid) is None
            assert await valkey.command("KEYS", prefix + ":session*") == []

    story()


@aio
async def test_nobody_elses_pid_helps_and_it_stays_good_for_its_owner(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        socket = await a.opened()
        await a.ended(socket)
        assert await b.claimed(socket.pid, user=fakes.user("thief")) is None
        assert await b.claimed(socket.pid, namespace="/chat") is None
        assert await b.claim(socket.pid) is not None


@pytest.mark.parametrize("pid", ["", "x" * 101, "é" * 30, "unknown" * 5, "*", "a b" * 10, "x" * 30 + "\n"])
def test_what_is_no_pid_of_ours_is_nothing(valkey_url: str, prefix: str, pid: str) -> None:
    @aio
    async def story() -> None:
        async with nodes(valkey_url, prefix) as (a, _, _valkey):
            assert await a.claim(pid) is None

    story()


@aio
async def test_the_window_ends(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix, window_s=1) as (a, b, valkey):
        socket = await a.opened()
        key = valkey.key("session", socket.pid)
        assert await valkey.command("PTTL", key) > 3_600_000, "while it lives"
        await a.ended(socket)
        assert 0 < await valkey.command("PTTL", key) <= 1000
        await asyncio.sleep(1.05)
        assert await b.claim(socket.pid) is None


@aio
async def test_a_client_that_returns_before_it_was_missed_ends_its_old_connection(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        here, there = await a.opened(), await a.opened()
        assert await a.claim(here.pid)
        assert here.client.closed is CloseReason.REPLACED  # type: ignore[attr-defined]
        assert await b.claim(there.pid)
        assert b.told == [("a.address", there.pid)]
        a.sessions.evict(there.pid)
        a.sessions.evict(there.pid)
        assert there.client.closed is CloseReason.REPLACED  # type: ignore[attr-defined]
        assert a.sessions.evicted == 2


@aio
async def test_an_old_connection_that_was_not_told_learns_it_at_its_next_write(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        old = await a.opened()
        new = await b.back(old.pid, "ticket:1")
        old.rooms.add(Room("ticket:2"))
        a.sessions.moved(old)
        await until(lambda: old.client.closed, "refused, so closed")  # type: ignore[attr-defined]
        await a.ended(old)
        await b.ended(new)
        assert await a.claim(old.pid) == (old.sid, {"ticket:1"}, "5-0"), "the late writes changed nothing"


@aio
async def test_the_end_of_a_replaced_connection_keeps_its_other_namespaces_for_their_claims(
    valkey_url: str, prefix: str
) -> None:
    """One connection, several namespaces: the claim of the first closes it, the others are claimed a moment later."""
    async with nodes(valkey_url, prefix) as (a, b, _):
        other = await a.opened()
        await a.ended(other, CloseReason.REPLACED)
        assert await b.claim(other.pid)


@aio
async def test_a_session_that_ends_before_it_was_ever_written_can_be_claimed(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, _, _valkey):
        socket = fakes.socket("/tickets", USER)
        socket.pid = a.sessions.new_pid()
        a.sessions.opened(socket)
        a.sessions.ended(socket, CloseReason.TRANSPORT_CLOSE)
        assert await a.claim(socket.pid) is not None


@aio
async def test_the_sessions_of_a_killed_node_wait_for_their_clients(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        sockets = [await a.opened(f"ticket:{n}") for n in range(3)]
        key = valkey.key("session", sockets[0].pid)
        await b.sessions.node_lost("a")
        assert 0 < await valkey.command("PTTL", key) <= 60_000
        await b.sessions.node_lost("a")
        found = await b.claim(sockets[2].pid)
        assert found is not None and found[1] == {"ticket:2"}


@aio
async def test_a_resumed_session_does_not_end_with_the_node_it_came_from(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        old = await a.opened()
        await b.back(old.pid)
        await b.sessions.node_lost("a")
        assert await valkey.command("PTTL", valkey.key("session", old.pid)) > 3_600_000


@aio
async def test_a_node_that_comes_back_under_another_name_lists_its_sessions_under_it(
    valkey_url: str, prefix: str
) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        stays, goes = await a.opened(), await a.opened()
        await b.sessions.node_lost("a")
        await b.back(goes.pid)
        a.incarnation = "a2"
        await a.sessions.re_register()
        await a.written()
        assert await valkey.command("PTTL", valkey.key("session", stays.pid)) > 3_600_000
        assert await valkey.command("SMEMBERS", valkey.key("sessions", "a2")) == [stays.pid]
        assert goes.client.closed and not stays.client.closed  # type: ignore[attr-defined]


@aio
async def test_what_valkey_forgot_is_written_again_and_nobody_is_thrown_out_for_it(
    valkey_url: str, prefix: str
) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        noticed, told = await a.opened("ticket:1"), await a.opened("ticket:2")
        await valkey.command("DEL", *await valkey.command("KEYS", prefix + "*"))
        a.sessions.moved(noticed)
        await a.written()
        await a.sessions.re_register()
        await a.written()
        for socket in (noticed, told):
            assert not socket.client.closed  # type: ignore[attr-defined]
            await a.ended(socket)
            assert await b.claim(socket.pid) == (socket.sid, set(socket.rooms), "5-0")


@aio
async def test_what_could_not_be_written_is_written_when_valkey_is_back() -> None:
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
async def test_a_quiet_session_is_as_good_as_new(valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was said in its rooms for hours, and the log no longer reaches back so far."""
    monkeypatch.setattr(resume, "TOUCH_S", 0.0)
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        socket = await a.opened("ticket:1")

        async def touched(top: str) -> None:
            await valkey.command("HSET", valkey.key("tops"), "/tickets", top)
            await a.sessions._touch(asyncio.get_running_loop().time() + 1)

        await touched("100-0")
        await valkey.command("LPUSH", valkey.key("ids", "/tickets", "ticket:1"), "150-0")
        await touched("200-0")
        await valkey.command("DEL", valkey.key("ids", "/tickets", "ticket:1"))
        await touched("300-0")
        await a.ended(socket)
        record = await valkey.command("HMGET", valkey.key("session", socket.pid), "start", "from", "quiet")
        assert record == ["5-0", "150-0", "300-0"]
        assert await b.claim(socket.pid, "150-0") == (socket.sid, {"ticket:1"}, "300-0")


@aio
async def test_without_valkey_a_claim_says_so(prefix: str) -> None:
    node = Node(Valkey("unix:///nowhere/at/all", prefix), "a")
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await node.claim(node.sessions.new_pid())
    await node.sessions.close()

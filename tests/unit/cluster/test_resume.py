"""Sessions over a real Valkey: claimed by one, by its user, within the window; never after a goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.cluster import resume
from insightdesk_rt.cluster.resume import Resume, since
from insightdesk_rt.cluster.valkey import Valkey
from insightdesk_rt.errors import CloseReason, RtError
from insightdesk_rt.hub.socket import Socket
from insightdesk_rt.model import Offset, Room
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey

USER = fakes.user()


class Node:
    def __init__(self, valkey: Valkey, name: str, window_s: int = 60) -> None:
        self.incarnation = self.name = name
        self.at = Offset("5-0")
        self.told: list[tuple[str, str]] = []
        self.sessions = Resume(
            valkey,
            name,
            f"{name}.address",
            lambda: self.incarnation,
            lambda namespace: self.at,
            lambda address, pid: self.told.append((address, pid)),
            window_s=window_s,
        )
        self.sessions.start()

    async def opened(self, *rooms: str, pid: str = "", sid: str = "") -> Socket:
        socket = fakes.socket("/tickets", USER, sid=sid) if sid else fakes.socket("/tickets", USER)
        socket.pid = pid or self.sessions.new_pid()
        socket.rooms.update(map(Room, rooms))
        self.sessions.opened(socket)
        await self.written()
        return socket

    async def ended(self, socket: Socket, why: CloseReason = CloseReason.TRANSPORT_CLOSE) -> None:
        self.sessions.ended(socket, Offset("8-0"), why)
        await self.written()

    async def written(self) -> None:
        await self.sessions._flush()

    async def claim(self, pid: str, offset: str = "") -> tuple[str, set[str], str] | None:
        found = await self.sessions.claim(pid, "/tickets", USER, offset)
        return found and (found.sid, set(found.rooms), found.offset)


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
async def test_a_lost_client_finds_its_session_on_any_node_once(valkey_url: str, prefix: str) -> None:
    async with nodes(valkey_url, prefix) as (a, b, _):
        socket = await a.opened("user:u1")
        socket.rooms.add(Room("ticket:1"))
        await a.ended(socket)
        results = await asyncio.gather(a.claim(socket.pid, "9-1"), b.claim(socket.pid, "9-1"))
        (found,) = [result for result in results if result]
        assert found == (socket.sid, {"user:u1", "ticket:1"}, "9-1")
        assert a.told == b.told == [], "nobody has it any more"


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
        a.sessions.ended(socket, Offset("8-0"), CloseReason.SHUTDOWN)
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
        assert await b.sessions.claim(socket.pid, "/tickets", fakes.user("thief"), "") is None
        assert await b.sessions.claim(socket.pid, "/chat", USER, "") is None
        assert await b.claim(socket.pid) is not None
        assert await b.claim(socket.pid) is None


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
        assert await b.claim(old.pid)
        new = await b.opened("ticket:1", pid=old.pid, sid=old.sid)
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
        a.sessions.ended(socket, Offset("5-0"), CloseReason.TRANSPORT_CLOSE)
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
        assert await b.claim(old.pid)
        await b.opened(pid=old.pid, sid=old.sid)
        await b.sessions.node_lost("a")
        assert await valkey.command("PTTL", valkey.key("session", old.pid)) > 3_600_000


@aio
async def test_a_node_that_comes_back_under_another_name_lists_its_sessions_under_it(
    valkey_url: str, prefix: str
) -> None:
    async with nodes(valkey_url, prefix) as (a, b, valkey):
        stays, goes = await a.opened(), await a.opened()
        await b.sessions.node_lost("a")
        assert await b.claim(goes.pid)
        await b.opened(pid=goes.pid, sid=goes.sid)
        a.incarnation = "a2"
        await a.sessions.rejoin()
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
        await a.sessions.rejoin()
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
            a.sessions.ended(socket, Offset("5-0"), CloseReason.TRANSPORT_CLOSE)
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


@pytest.mark.parametrize(
    ("offset", "wanted"),
    [("", "5-0"), ("7-0", "7-0"), ("10-0", "20-0"), ("15-3", "20-0"), ("20-0", "20-0"), ("25-0", "25-0")],
)
def test_only_an_offset_in_the_quiet_time_counts_as_its_end(offset: str, wanted: str) -> None:
    assert since(offset, "5-0", "10-0", "20-0") == wanted


def test_a_session_that_never_heard_anything_is_quiet_from_its_start() -> None:
    assert since("", "5-0", "5-0", "20-0") == "20-0"


@aio
async def test_without_valkey_a_claim_says_so(prefix: str) -> None:
    node = Node(Valkey("unix:///nowhere/at/all", prefix), "a")
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await node.claim(node.sessions.new_pid())
    await node.sessions.close()

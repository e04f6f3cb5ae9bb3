"""The contract of a backplane, tested with several nodes on one real Valkey; faults are in test_backplane_faults.py."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.publisher import EventLogSettings, append_call
from insightdesk_rt.engine.cluster.resp import load_script
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, new_id, offset_key
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS
from tests.support.aio import aio, until

NS, OTHER = "/tickets", "/chat"
A, B, C = Room("ticket:a"), Room("ticket:b"), Room("ticket:c")


class Node:
    """One backplane with its own connections, and all it has delivered."""

    def __init__(self, url: str, prefix: str, name: str, **settings: Any) -> None:
        self.valkey = Valkey(url, prefix)
        self.bus = ValkeyBackplane(self.valkey, (NS, OTHER), name, settings=EventLogSettings(**settings))
        self.bus.attach(self)
        self.events: list[Event] = []
        self.resyncs: list[tuple[str, list[Room]]] = []
        self.uncertain: list[tuple[str, dict[Room, Offset]]] = []
        self.take: Callable[[Event], None] = self.events.append
        self.with_members: set[Room] = set()

    def deliver(self, event: Event) -> None:
        self.take(event)

    def has_members(self, namespace: str, room: Room) -> bool:
        return room in self.with_members

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
        self.resyncs.append((namespace, sorted(rooms)))

    def resync_newer(self, namespace: str, rooms: Mapping[Room, Offset]) -> None:
        self.uncertain.append((namespace, dict(rooms)))

    @property
    def payloads(self) -> list[str]:
        return [event.payload for event in self.events]

    async def start(self) -> Node:
        await self.valkey.start()
        await self.bus.start()
        return self

    async def close(self) -> None:
        await self.bus.close()
        await self.valkey.close()


@asynccontextmanager
async def cluster(url: str, prefix: str, count: int = 3, **settings: Any) -> AsyncIterator[list[Node]]:
    nodes = [await Node(url, prefix, f"n{n}", **settings).start() for n in range(count)]
    try:
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


def event(payload: str, *rooms: Room, namespace: str = NS, id: str | None = None, **fields: Any) -> Event:
    return Event(namespace, "ticket:updated", payload, rooms or (A,), id=new_id() if id is None else id, **fields)


async def refused(work: Any) -> str:
    with pytest.raises(RtError) as error:
        await work
    return error.value.code


def in_order(events: list[Event]) -> bool:
    keys = [offset_key(one.offset) for one in events]
    return keys == sorted(set(keys))


# ── without faults ────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_logged_event_reaches_exactly_the_listening_nodes(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as (one, two, three):
        for node in (one, two):
            await node.bus.listen(NS, A)
        await three.bus.listen(NS, B)
        offset = await one.bus.append(event('{"ü":1}', A, skip=("sid1",), id="e1"))
        await until(lambda: one.events and two.events, "delivered")
        (got,) = two.events
        assert one.events == two.events and three.events == []
        assert (got.payload, got.rooms, got.skip, got.id, got.offset) == ('{"ü":1}', (A,), ("sid1",), "e1", offset)
        assert got.logged and got.origin == one.bus.address
        assert three.bus.counters["received"] - three.bus.counters["duplicates"] >= 0
        await until(lambda: three.bus.position(NS) == offset, "probes move the position of a node in other rooms")


@aio
async def test_an_event_for_several_rooms_is_delivered_once_in_log_order(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 2) as (one, two):
        for room in (A, B, C):
            await two.bus.listen(NS, room)
        rooms = [(A, B), (B,), (C, A), (A,), (B, C, A)]
        await asyncio.gather(*(one.bus.append(event(str(n), *rooms[n % 5])) for n in range(50)))
        await until(lambda: len(two.events) == 50, "all")
        await asyncio.sleep(0.05)
        assert len(two.events) == 50 and in_order(two.events)
        assert {one.payload: one.rooms for one in two.events} == {str(n): rooms[n % 5] for n in range(50)}
        assert two.bus.counters["gaps"] == 0


@aio
async def test_appending_the_same_id_again_returns_the_first_offset(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 2) as (one, two):
        await two.bus.listen(NS, A)
        first = await one.bus.append(event("1", id="same"))
        assert await two.bus.append(event("2", id="same")) == first
        await one.bus.append(event("1", id="named", namespace=OTHER, fingerprint="f"))
        assert await refused(two.bus.append(event("2", id="named", namespace=OTHER, fingerprint="g"))) == "CONFLICT"
        last = await one.bus.append(event("3"))
        await until(lambda: two.bus.position(NS) == last, "both")
        assert two.payloads == ["1", "3"]


@aio
async def test_events_appended_together_are_delivered_in_their_order_and_fail_alone(
    valkey_url: str, prefix: str
) -> None:
    """A known id is answered with its first offset, another event under it with CONFLICT, a large one is refused."""
    async with cluster(valkey_url, prefix, 2, max_event_bytes=1_000) as (one, two):
        for room in (A, B):
            await two.bus.listen(NS, room)
        first = await one.bus.append(event("0", A, id="known", fingerprint="x"))
        many = [event(str(number), (A, B)[number % 2], *(() if number % 3 else (C,))) for number in range(1, 250)]
        known, taken = event("0", A, id="known", fingerprint="x"), event("9", A, id="known", fingerprint="y")
        large = event(f'"{"x" * 1_000}"', A)
        found = await one.bus.append_all([known, *many[:60], taken, large, *many[60:]])
        assert found[0] == first
        assert [found[number].code for number in (61, 62)] == ["CONFLICT", "PAYLOAD_TOO_LARGE"]  # type: ignore[union-attr]
        offsets = [Offset(at) for at in found[1:61] + found[63:]]  # type: ignore[arg-type]
        assert offsets == sorted(set(offsets), key=offset_key)
        await until(lambda: len(two.events) == 250, "delivered")
        assert two.payloads == [str(number) for number in range(250)] and in_order(two.events)
        assert two.bus.counters["gaps"] == 0
        assert await one.bus.append_all([]) == []


@aio
async def test_all_nodes_deliver_concurrent_events_in_the_same_order(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix) as nodes:
        for node in nodes:
            for room in (A, B):
                await node.bus.listen(NS, room)

        async def publisher(node: Node, name: str) -> None:
            for n in range(60):
                await node.bus.append(event(f"{name}{n}", random.choice((A, B))))

        await asyncio.gather(*(publisher(node, name) for node, name in zip(nodes, "xyz", strict=True)))
        await until(lambda: all(len(node.events) == 180 for node in nodes), "all on all nodes")
        assert nodes[0].payloads == nodes[1].payloads == nodes[2].payloads
        for name in "xyz":
            assert [p for p in nodes[0].payloads if p[0] == name] == [f"{name}{n}" for n in range(60)]


@aio
async def test_namespaces_have_logs_of_their_own(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 2) as (one, two):
        await two.bus.listen(NS, A)
        await two.bus.listen(OTHER, A)
        before = two.bus.position(NS)
        offset = await one.bus.append(event("1", namespace=OTHER))
        await until(lambda: two.events, "delivered")
        assert two.bus.position(OTHER) == offset and two.bus.position(NS) == before
        assert (await two.bus.read(NS, [A], before)).events == []


@aio
async def test_a_volatile_event_reaches_only_the_other_nodes_once(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 2) as (one, two):
        for node in (one, two):
            for room in (A, B):
                await node.bus.listen(NS, room)
        one.bus.publish(event("1", A, B, id=""))
        one.bus.publish(event("2", A, id="", skip=("x",)))
        await until(lambda: len(two.events) == 2, "both")
        await asyncio.sleep(0.05)
        assert two.payloads == ["1", "2"] and one.events == []
        assert not two.events[0].logged and two.events[0].offset == "" and two.events[1].skip == ("x",)


@aio
async def test_events_published_after_listen_returns_are_delivered_for_a_thousand_rooms(
    valkey_url: str, prefix: str
) -> None:
    async with cluster(valkey_url, prefix, 2) as (one, two):
        rooms = [Room(f"ticket:{n}") for n in range(1000)]
        before = two.valkey.counters["batches"]
        await asyncio.gather(*(two.bus.listen(NS, room) for room in rooms))
        assert two.valkey.counters["batches"] - before < 10, "one round trip for all rooms, not one for each"
        await asyncio.gather(*(one.bus.append(event(room, room)) for room in rooms))
        await until(lambda: len(two.events) == 1000, "all")
        assert in_order(two.events)


@aio
async def test_a_join_during_publishing_leaves_no_gap_between_replay_and_live_events(
    valkey_url: str, prefix: str
) -> None:
    """The steps of a hub for a join with `since`: listen, read the log up to the position, then live events."""
    async with cluster(valkey_url, prefix, 2) as (one, two):
        start = two.bus.position(NS)
        stop = False
        sent: list[str] = []

        async def publisher() -> None:
            while not stop:
                sent.append(f'"{len(sent)}"')
                await one.bus.append(event(sent[-1], A))
                await asyncio.sleep(0.002)  # a room with more than a thousand missed events must reload

        task = asyncio.create_task(publisher())
        await until(lambda: len(sent) > 20, "some")
        await two.bus.listen(NS, A)
        while True:
            backlog = await two.bus.read(NS, [A], start)
            position = offset_key(two.bus.position(NS))
            if offset_key(backlog.upto) >= position:
                break
        live_from = len(two.events)
        got = [e.payload for e in backlog.events if offset_key(e.offset) <= position]
        await until(lambda: len(sent) > 60, "more")
        stop = True
        await task
        await until(lambda: two.events and two.events[-1].payload == sent[-1], "the last")
        assert got + two.payloads[live_from:] == sent


@aio
async def test_a_room_is_unsubscribed_a_little_later_unless_it_is_joined_again(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insightdesk_rt.engine.cluster.channel_subscriptions.UNLISTEN_S", 0.3)
    async with cluster(valkey_url, prefix, 1) as (node,):
        subscribers: Callable[[Room], Any] = lambda room: node.valkey.command(  # noqa: E731
            "PUBSUB", "NUMSUB", Names(prefix).namespace(NS).channel(room)
        )
        for room in (A, B, C):
            await node.bus.listen(NS, room)
            node.bus.unlisten(NS, room)
        await node.bus.listen(NS, B)  # joined again in time
        node.with_members.add(C)  # listened to before the last member left, joined after it
        assert (await subscribers(A))[1] == 1
        await until(lambda: node.bus.counters["channels"] == 2, "A was unsubscribed")
        assert [(await subscribers(room))[1] for room in (A, B, C)] == [0, 1, 1]
        await node.bus.listen(NS, A)
        await node.bus.append(event("again", A))
        await until(lambda: node.payloads == ["again"], "A can be subscribed again")


@aio
async def test_read_returns_only_missed_events_of_the_given_rooms(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        start = node.bus.position(NS)
        offsets = [await node.bus.append(event(str(n), (A, B, C)[n % 3])) for n in range(30)]
        backlog = await node.bus.read(NS, [A, B], offsets[9])
        assert [e.payload for e in backlog.events] == [str(n) for n in range(10, 30) if n % 3 != 2]
        assert backlog.complete and backlog.upto == offsets[-1]
        everything = await node.bus.read(NS, [C, A, B], start)
        assert [e.offset for e in everything.events] == offsets and everything.complete
        nothing = await node.bus.read(NS, [C], offsets[-1])
        assert (nothing.events, nothing.complete, nothing.upto) == ([], True, offsets[-1])
        assert (await node.bus.read(NS, [], start)).complete


@aio
async def test_a_long_log_is_read_in_pages(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        start = node.bus.position(NS)
        await asyncio.gather(*(node.bus.append(event(str(n), (A, B)[n % 2])) for n in range(1300)))
        big = [await node.bus.append(event('"' + "x" * 240_000 + f'{n}"', A)) for n in range(8)]
        backlog = await node.bus.read(NS, [A], start)
        assert len(backlog.events) == 658 and in_order(backlog.events) and backlog.upto == big[-1]


@aio
async def test_a_room_with_too_many_missed_events_is_not_complete_but_others_are(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        start = await node.bus.append(event("first", B))
        for n in range(12):
            await asyncio.gather(*(node.bus.append(event(str(100 * n + m), A)) for m in range(100)))
        late = await node.bus.append(event("late", A, B))
        assert not (await node.bus.read(NS, [A, B], start)).complete
        backlog = await node.bus.read(NS, [B], start)
        assert ([e.offset for e in backlog.events], backlog.complete, backlog.upto) == ([late], True, late)
        recent = backlog.events[0].offset
        assert (await node.bus.read(NS, [A], recent)).events == []


@aio
async def test_an_offset_older_than_an_hour_is_valid_only_within_the_rooms_own_list(
    valkey_url: str, prefix: str
) -> None:
    """It is unknown whether a room without events for an hour had one before that."""
    async with cluster(valkey_url, prefix, 1) as (node,):
        await node.bus.append(event("1", A))
        old = Offset(f"{offset_key(node.bus.position(NS))[0] - 3_700_000}-0")
        await node.valkey.command("HSET", Names(prefix).namespace(NS).log_state, "floor", "1-0")
        for rooms in ([A], [B], [A, B]):
            assert not (await node.bus.read(NS, rooms, old)).complete, rooms
        await node.valkey.command("RPUSH", Names(prefix).namespace(NS).ids(A), old)
        backlog = await node.bus.read(NS, [A], old)
        assert [e.payload for e in backlog.events] == ["1"] and backlog.complete


@aio
async def test_an_offset_that_the_log_does_not_have_is_of_another_log(valkey_url: str, prefix: str) -> None:
    """Its event was lost, or another primary took it: what else that log had is not known here."""
    async with cluster(valkey_url, prefix, 1) as (node,):
        first = await node.bus.append(event("1", A))
        for n in range(2, 5):
            await node.bus.append(event(str(n), A))
        assert (await node.bus.read(NS, [A], first)).complete
        key = offset_key(first)
        for unknown in (f"{key[0]}-999998", f"{key[0]}-999999"):
            backlog = await node.bus.read(NS, [A], Offset(unknown))
            assert (backlog.events, backlog.complete) == ([], False)


@pytest.mark.parametrize("claim", ["below the floor", "beyond the end", "too old", "too much", "too much together"])
@aio
async def test_a_read_that_cannot_be_complete_reads_no_events(claim: str, valkey_url: str, prefix: str) -> None:
    """A read from the beginning of a long log returns "not complete" before it reads an event."""
    async with cluster(valkey_url, prefix, 1) as (node,):
        start, rooms, most = node.bus.position(NS), [A], 5_000
        for _ in range(12):
            await asyncio.gather(*(node.bus.append(event(str(n), (A, B)[n % 2])) for n in range(200)))
        key = offset_key(start)[0]
        match claim:
            case "below the floor":
                start = Offset(f"{key - 1000}-0")
            case "beyond the end":
                start = Offset(f"{key + 10_000_000}-0")
            case "too old":
                start = Offset(f"{key - 3_700_000}-0")
                await node.valkey.command("HSET", Names(prefix).namespace(NS).log_state, "floor", "1-0")
            case "too much":
                pass  # 1,200 in one room
            case "too much together":
                rooms, most, start = [A, B], 50, node.bus.position(NS)
                await asyncio.gather(*(node.bus.append(event(str(n), (A, B)[n % 2])) for n in range(60)))
        before = await calls_of(node, "xrange"), await calls_of(node, "lrange")
        backlog = await node.bus.read(NS, rooms, start, most)
        assert (backlog.events, backlog.complete) == ([], False)
        assert offset_key(backlog.upto) >= offset_key(node.bus.position(NS)), "there is no further read"
        assert await calls_of(node, "xrange") == before[0]
        assert await calls_of(node, "lrange") - before[1] <= 12, "a list is read in parts, only as far as it is needed"


async def calls_of(node: Node, command: str) -> int:
    """Return how often Valkey has done a command so far, scripts included."""
    stats: str = await node.valkey.command("INFO", "commandstats")
    line = next((line for line in stats.splitlines() if line.startswith(f"cmdstat_{command}:")), "calls=0,")
    return int(line.partition("calls=")[2].partition(",")[0])


@aio
async def test_reads_of_the_log_are_limited_to_one_per_user_and_a_few_per_node(valkey_url: str, prefix: str) -> None:
    """However many sockets of one user read, other users are answered meanwhile."""
    async with cluster(valkey_url, prefix, 1, log_reads_at_once=2) as (node,):
        start = node.bus.position(NS)
        await asyncio.gather(*(node.bus.append(event(str(n), A)) for n in range(900)))
        answered: list[str] = []

        async def ask(user: str) -> None:
            assert len((await node.bus.read(NS, [A], start, user=user)).events) == 900
            answered.append(user)

        greedy = [asyncio.create_task(ask("greedy")) for _ in range(30)]
        await asyncio.sleep(0)
        await asyncio.gather(*(ask(f"u{n}") for n in range(3)))
        assert answered.count("greedy") < 15, "thirty reads of one user have had no more turns than one"
        await asyncio.gather(*greedy)
        assert not node.bus.logs.budget._turns and node.bus.counters["reads_refused"] == 0


@aio
async def test_a_read_that_waits_too_long_is_unavailable(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insightdesk_rt.engine.cluster.budget.WAIT_S", 0.05)
    async with cluster(valkey_url, prefix, 1, log_reads_at_once=1) as (node,):
        async with node.bus.logs.budget.one_read():
            assert await refused(node.bus.read(NS, [A], node.bus.position(NS), user="u")) == "UNAVAILABLE"
        async with node.bus.logs.budget.of("u"):
            assert await refused(node.bus.read(NS, [A], node.bus.position(NS), user="u")) == "UNAVAILABLE"
            assert (await node.bus.read(NS, [A], node.bus.position(NS), user="another")).complete
        assert node.bus.counters["reads_refused"] == 2


@aio
async def test_an_invalid_offset_is_refused_and_one_from_the_future_is_not_complete(
    valkey_url: str, prefix: str
) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        for bad in ("", "x", "1-x", "1", "-1-0", "9" * 20 + "-0", "$", "+", "(1-0"):
            assert await refused(node.bus.read(NS, [A], Offset(bad))) == "BAD_REQUEST", bad
        assert not (await node.bus.read(NS, [A], Offset("9007199254740991-0"))).complete
        assert not (await node.bus.read(NS, [A], NO_OFFSET)).complete, "before the log began"


@aio
async def test_a_trimmed_log_is_incomplete_only_for_rooms_with_trimmed_events(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1, log_max_entries=100) as (node,):
        quiet = await node.bus.append(event("quiet", C))
        early = await node.bus.append(event("early", A))
        for start in range(0, 400, 100):
            await asyncio.gather(*(node.bus.append(event(str(n), B)) for n in range(start, start + 100)))
        assert not (await node.bus.read(NS, [B], early)).complete
        assert not (await node.bus.read(NS, [A], quiet)).complete, "its event after that offset was trimmed"
        assert (await node.bus.read(NS, [C], quiet)).complete, "a quiet room missed nothing"
        assert (await node.bus.read(NS, [C, A], early)).complete
        await node.valkey.command("DEL", Names(prefix).namespace(NS).ids(C))
        assert (await node.bus.read(NS, [C], quiet)).complete, "no events are known within the hour, so there were none"
        old = Offset(f"{offset_key(quiet)[0] - 3_600_001}-0")
        await node.valkey.command("HSET", Names(prefix).namespace(NS).log_state, "floor", "1-0")
        assert not (await node.bus.read(NS, [C], old)).complete, "older than the known events of rooms"


@aio
async def test_a_log_is_trimmed_by_the_bytes_of_its_events(valkey_url: str, prefix: str) -> None:
    """100,000 entries of 16 KB would be 1.6 GB. The newest events are kept, and reads know that others are missing."""
    most = 1_000_000
    async with cluster(valkey_url, prefix, 1, log_max_bytes=most) as (node,):
        early = await node.bus.append(event("early", A))
        used: list[int] = []
        for _ in range(12):
            payload = '"' + "x" * 5_000 + '"'
            await asyncio.gather(*(node.bus.append(event(payload, B)) for _ in range(40)))
            used.append(await node.valkey.command("MEMORY", "USAGE", Names(prefix).namespace(NS).log, "SAMPLES", 0))
        assert most * 0.7 < used[-1] < most * 1.5, used
        assert max(used[6:]) < most * 1.5, used
        last = await node.bus.append(event("last", A))
        assert not (await node.bus.read(NS, [B], early)).complete
        assert (await node.bus.read(NS, [A], last)).complete
        assert await node.valkey.command("LLEN", Names(prefix).namespace(NS).log_marks) <= 64
    async with cluster(valkey_url, prefix, 1, log_max_bytes=0) as (node,):
        before = await node.valkey.command("XLEN", Names(prefix).namespace(NS).log)
        for _ in range(10):
            await node.bus.append(event('"' + "x" * 200_000 + '"', B))
        assert await node.valkey.command("XLEN", Names(prefix).namespace(NS).log) == before + 10, "0: no limit"


@aio
async def test_the_names_of_an_events_rooms_count_towards_the_bytes_of_the_log(valkey_url: str, prefix: str) -> None:
    """An event for many single users has a small payload and up to 32 KB of room names, which are stored twice."""
    most = 3_000_000
    async with cluster(valkey_url, prefix, 1, log_max_bytes=most) as (node,):
        rooms = tuple(Room(f"user:{number:0>60}") for number in range(200))
        for _ in range(13):
            many = [msgspec.structs.replace(event('"x"', A), rooms=rooms) for _ in range(20)]
            await asyncio.gather(*(node.bus.append(one) for one in many))
        used = await node.valkey.command("MEMORY", "USAGE", Names(prefix).namespace(NS).log, "SAMPLES", 0)
        assert most * 0.5 < used < most * 1.5


@aio
async def test_an_event_that_is_too_large_for_the_bus_is_refused(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1, max_event_bytes=1000) as (node,):
        assert await refused(node.bus.append(event('"' + "ü" * 500 + '"'))) == "PAYLOAD_TOO_LARGE"
        with pytest.raises(RtError):
            node.bus.publish(event('"' + "x" * 1000 + '"', id=""))
        await node.bus.append(event('"' + "x" * 998 + '"'))


@aio
async def test_an_event_with_a_reserved_name_is_neither_logged_nor_delivered(valkey_url: str, prefix: str) -> None:
    """A stock client that receives "connect" ends its connection; from the log it would get it again at each resume.

    Tested for events that are published here, volatile or logged, and for foreign ones in the log and the channel.
    """
    async with cluster(valkey_url, prefix, 1) as (node,):
        await node.bus.listen(NS, A)
        before, log = node.bus.position(NS), ("XLEN", Names(prefix).namespace(NS).log)
        length = await node.valkey.command(*log)
        for name in RESERVED_EVENTS:
            named = msgspec.structs.replace(event("x", A), name=name)
            with pytest.raises(RtError) as refused:
                await node.bus.append(named)
            assert (refused.value.code, refused.value.fields) == ("BAD_REQUEST", {"field": "event"})
            with pytest.raises(RtError):
                node.bus.publish(named)
        assert await node.valkey.command(*log) == length
        forged = msgspec.structs.replace(event("x", A), name="connect")
        keys, args = append_call(Names(prefix), forged, "else", EventLogSettings(100), "0-0")
        await node.valkey.call(load_script("insightdesk_rt.engine.cluster", "append"), keys, args)
        assert await node.valkey.command(*log) == length + 1
        offset = await node.bus.append(event("fine", A))
        await until(lambda: node.payloads, "the next event")
        assert node.payloads == ["fine"] and node.bus.position(NS) == offset
        assert [e.payload for e in (await node.bus.read(NS, [A], before)).events] == ["fine"], "nor is it replayed"


@aio
async def test_invalid_messages_are_counted_and_dropped(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        await node.bus.listen(NS, A)
        before = node.bus.position(NS)
        good_head = '{"n":"/tickets","e":"x","r":["ticket:a"]}'
        names = Names(prefix)
        room = names.namespace(NS).channel(A)
        for channel in (room, names.cluster.node(node.bus.address), names.all_nodes):
            for bad in (
                b"",
                b"\xff\xfe",
                b"2L 5-0 \n{}\n{}",
                b"1L\n{}\n{}",
                b"1L x y\n{}\n{}",
                f"1L 99999999999999-0 \n{good_head}".encode(),
                b'1L 99999999999999-0 \n{"n":1}\n{}',
                b"1L 99999999999999-0 \n" + b"[" * 5000 + b"\n{}",
                b'1L 99999999999999-0 \n{"n":"/chat","e":"x","r":["ticket:a"]}\n{}',
                f"1L 99999999999999-0 \n{good_head}\n".encode() + b"\xff",
                f"1L {'9' * 30}-0 \n{good_head}\n{{}}".encode(),
                b"1V\n\n",
                b"1C" if channel == room else b"0C",
                b'1V\n{"n":"/chat","e":"x","r":["ticket:a"]}\n{}',
                b"1V\n" + b"x" * 400_000,
                b"1P x\n",
                b"1P 1\na b c",
                b"1P 1\na b",
                b"1X",
                b"1",
            ):
                await node.valkey.command("PUBLISH", channel, bad)
        await node.valkey.command(
            "XADD", Names(prefix).namespace(NS).log, "*", "i", "z", "h", "nonsense", "p", "{}", "r", A
        )
        offset = await node.bus.append(event("fine", A))
        await until(lambda: node.payloads == ["fine"], "events still arrive")
        assert node.bus.counters["poison"] >= 50 and node.bus.counters["connects"] == 1
        assert [e.payload for e in (await node.bus.read(NS, [A], before)).events] == ["fine"]
        assert node.bus.position(NS) == offset


@aio
async def test_a_forged_event_from_the_future_does_not_block_real_events(valkey_url: str, prefix: str) -> None:
    """Its offset is greater than all future ones, so the log is shorter than the node's position."""
    async with cluster(valkey_url, prefix, 2) as (one, two):
        await two.bus.listen(NS, A)
        forged = '1L {}-0 {}\n{{"n":"/tickets","e":"x","r":["ticket:a"],"i":"{}"}}\n"forged"'
        future = offset_key(two.bus.position(NS))[0] + 3_600_000
        for previous in ("", f"{future + 5}-0"):
            await one.valkey.command(
                "PUBLISH", Names(prefix).namespace(NS).channel(A), forged.format(future + 10, previous, "f" + previous)
            )
            sent = []
            for n in range(30):
                sent.append(f'"{previous}{n}"')
                await one.bus.append(event(sent[-1], A))
                await asyncio.sleep(0.02)
            await until(lambda sent=sent: set(sent) <= set(two.payloads), "all real events arrive")
        real = [p for p in two.payloads if p != '"forged"']
        assert len(real) == len(set(real))


@aio
async def test_calls_reach_one_node_or_all_nodes(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 2) as (one, two):
        heard: list[tuple[str, bytes]] = []
        one.bus.on_call.append(lambda text: heard.append(("one", text)))
        two.bus.on_call.append(lambda text: heard.append(("two", text)))
        assert one.bus.send_to_node(two.bus.address, '{"a":1}') and two.bus.send_to_all("x\ny")
        await until(lambda: len(heard) == 3, "three")
        assert sorted(heard) == [("one", b"x\ny"), ("two", b"x\ny"), ("two", b'{"a":1}')]


@aio
async def test_a_receiver_that_raises_does_not_stop_the_others_events(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        await node.bus.listen(NS, A)
        got: list[str] = []

        def picky(one: Event) -> None:
            got.append(one.payload)
            if one.payload == "1":
                raise KeyError("a mistake")

        node.take = picky
        for n in "012":
            await node.bus.append(event(n))
        await until(lambda: got == ["0", "1", "2"], "all three")
        assert "could not be delivered" in caplog.text

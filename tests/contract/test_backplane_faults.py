"""The contract of a backplane while Valkey is disconnected, killed, frozen, emptied and replaced under load.

Three nodes listen. Each publishes, and repeats each event under the same id until it is acknowledged. Afterwards every
node has received every acknowledged event exactly once, those of each publisher in order. If the log survived, the
order is the same on all nodes.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.valkey_url import Endpoint, endpoint
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset, new_id, offset_key
from tests.contract.test_backplane import NS, OTHER, A, B, C, Node, cluster, event, refused
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey


class Load:
    """Publishers on all nodes, which run within `async with`. Its end waits for the last acknowledgement and checks."""

    def __init__(self, nodes: list[Node], *, one_order: bool = True, seed: int = 1) -> None:
        self.nodes = nodes
        self.acked: dict[int, list[str]] = {n: [] for n in range(len(nodes))}
        self.refusals = 0
        self._random = random.Random(seed)
        self._one_order = one_order
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        for node in self.nodes:
            for room in (A, B):
                await node.bus.listen(NS, room)
        self._tasks = [asyncio.create_task(self._publish(n)) for n in range(len(self.nodes))]
        await until(lambda: self.total > 30, "publishing has begun")
        return self

    async def __aexit__(self, kind: Any, *exc: Any) -> None:
        if kind is None:
            before = self.total
            await until(lambda: self.total > before + 30, "publishing goes on after the fault", 10)
        self._stop = True
        await asyncio.gather(*self._tasks)
        if kind is None:
            self.check(await self._quiet())

    @property
    def total(self) -> int:
        return sum(map(len, self.acked.values()))

    async def _publish(self, number: int) -> None:
        name = 0
        while not self._stop:
            name += 1
            payload, id = f'"{number}/{name}"', new_id()
            rooms = self._random.choice(((A,), (B,), (A, B)))
            while True:
                try:
                    await self.nodes[number].bus.append(event(payload, *rooms, id=id))
                    break
                except RtError as error:
                    assert error.code == "UNAVAILABLE"
                    self.refusals += 1
                    await asyncio.sleep(0.01)
            self.acked[number].append(payload)
            await asyncio.sleep(0.002)

    async def _quiet(self) -> list[list[str]]:
        wanted = {payload for acked in self.acked.values() for payload in acked}
        try:
            await until(lambda: all(wanted <= set(node.payloads) for node in self.nodes), "everything acknowledged", 10)
        except AssertionError:
            missing = [sorted(wanted - set(node.payloads)) for node in self.nodes]
            raise AssertionError(f"missing {missing} of {len(wanted)}") from None
        await asyncio.sleep(0.3)  # long enough for a duplicate to arrive
        return [node.payloads for node in self.nodes]

    def check(self, got: list[list[str]]) -> None:
        for payloads in got:
            assert len(payloads) == len(set(payloads)), "duplicates"
            for number, acked in self.acked.items():
                assert [p for p in payloads if p.startswith(f'"{number}/')] == acked, "the order of a publisher"
        if self._one_order:
            assert all(payloads == got[0] for payloads in got), "one order on all nodes"
        assert all(node.resyncs == [] for node in self.nodes)


def at(url: str) -> Callable[[], Awaitable[Endpoint]]:
    """Return what sends a link to another server."""

    async def where() -> Endpoint:
        return endpoint(url)

    return where


@asynccontextmanager
async def under_load(server: OwnValkey, **options: Any) -> AsyncIterator[Load]:
    async with cluster(server.url, "t") as nodes, Load(nodes, **options) as load:
        yield load


# ── faults of the connection ──────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_killed_subscription_connections_lose_nothing() -> None:
    with OwnValkey() as server:
        async with under_load(server) as load:
            for _ in range(8):
                server("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(0.2)
        assert all(node.bus.counters["connects"] >= 8 for node in load.nodes)


@aio
async def test_killed_command_connections_lose_nothing() -> None:
    with OwnValkey() as server:
        async with under_load(server) as load:
            for _ in range(8):
                server("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.2)
        assert load.refusals > 0, "publishers got errors"


@aio
async def test_a_frozen_valkey_loses_nothing_and_publishers_get_errors() -> None:
    with OwnValkey() as server:
        async with under_load(server) as load:
            server.freeze()
            await asyncio.sleep(1.6)
            assert not any(node.bus.subscribed for node in load.nodes)
            server.thaw()
            await until(lambda: all(node.bus.subscribed for node in load.nodes), "ready again")
        assert load.refusals > 0


@aio
async def test_a_paused_valkey_loses_nothing() -> None:
    with OwnValkey() as server:
        async with under_load(server):
            server("CLIENT", "PAUSE", "1500", "ALL")
            await asyncio.sleep(1.7)


@aio
async def test_a_dead_subscription_is_noticed_within_seconds_and_repaired(tmp_path: Path) -> None:
    """TCP would take a quarter of an hour to notice."""
    with OwnValkey() as server:
        async with cluster(server.url, "t") as nodes:
            async with Proxy(server.socket) as proxy:
                nodes[0].bus._groups[0].link.where = at(proxy.url)
                nodes[0].bus._groups[0].link.drop("now through the proxy")
                await until(lambda: nodes[0].bus.subscribed and proxy.open, "subscribed through the proxy")
                async with Load(nodes):
                    before = nodes[0].bus.counters["connects"]
                    proxy.silent = True
                    began = time.monotonic()
                    await until(lambda: not nodes[0].bus.subscribed, "noticed")
                    proxy.silent = False
                    await until(lambda: nodes[0].bus.subscribed, "mended")
                    assert time.monotonic() - began < 10
                    assert nodes[0].bus.counters["connects"] > before
                nodes[0].bus._groups[0].link.where = at(server.url)
                nodes[0].bus._groups[0].link.drop("the proxy ends")


# ── faults of the server ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sync", ["always", "everysec"])
def test_a_killed_valkey_that_restarts_with_its_file_loses_nothing(sync: str) -> None:
    """The file may lack the last second. Those events are published again, and may change places with others'."""

    @aio
    async def body() -> None:
        with OwnValkey("--appendonly", "yes", "--appendfsync", sync) as server:
            async with under_load(server, one_order=sync == "always") as load:
                for _ in range(2):
                    server.kill()
                    await asyncio.sleep(0.3)
                    server.start()
                    await until(lambda: all(node.bus.subscribed for node in load.nodes), "ready again")
                    await asyncio.sleep(0.3)
            assert load.refusals > 0

    body()


@aio
async def test_a_killed_valkey_that_restarts_empty_loses_nothing_acknowledged() -> None:
    """The nodes publish again what was acknowledged. The order of different publishers may change."""
    with OwnValkey() as server:
        async with under_load(server, one_order=False) as load:
            for _ in range(3):
                server.kill()
                await asyncio.sleep(0.2)
                server.start()
                await until(lambda: all(node.bus.subscribed for node in load.nodes), "ready again")
                await asyncio.sleep(0.3)
        assert sum(node.bus.counters["sent_again"] for node in load.nodes) > 0


@aio
async def test_an_emptied_valkey_is_noticed_and_loses_nothing() -> None:
    with OwnValkey() as server:
        async with under_load(server, one_order=False) as load:
            for _ in range(3):
                server("FLUSHALL")
                await asyncio.sleep(0.6)
        assert sum(node.bus.counters["sent_again"] for node in load.nodes) > 0


@aio
async def test_events_acknowledged_long_ago_are_not_published_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes forget after minutes what they have delivered, so it would arrive twice, and would be kept for ever."""
    monkeypatch.setattr("insightdesk_rt.engine.cluster.publisher.KEEP_S", 0.5)
    with OwnValkey() as server:
        async with cluster(server.url, "t", 2) as (one, _two):
            await one.bus.append(event("1"))
            await asyncio.sleep(1.2)
            await one.bus.append(event("2"))
            server("FLUSHALL")
            await until(lambda: one.bus.counters["sent_again"] > 0, "noticed")
            await asyncio.sleep(0.1)
            assert one.bus.counters["sent_again"] == 1


@aio
async def test_publishers_over_a_slow_connection_do_not_keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a round trip is longer than the time between two probes, there is always an unanswered probe."""
    monkeypatch.setattr("insightdesk_rt.engine.cluster.publisher.KEEP_S", 0.5)
    with OwnValkey() as server:
        async with Proxy(server.socket) as proxy, cluster(proxy.url, "t", 1) as (one,):
            proxy.delay_s = 0.14
            await asyncio.gather(*(one.bus.append(event(str(n))) for n in range(5)))
            monkeypatch.setattr("insightdesk_rt.engine.cluster.publisher.FORK_S", 0.5)
            await until(lambda: not one.bus._groups[0].publisher._tail, "forgotten", 5)
            assert one.bus._groups[0].publisher._tail_bytes == 0
            assert one.bus.subscribed and one.bus.counters["connects"] == 1


@aio
async def test_a_probe_that_cannot_be_sent_does_not_hide_a_dead_subscription() -> None:
    with OwnValkey() as server:
        async with cluster(server.url, "t", 1) as (one,):
            server("PUBLISH", Names("t").cluster.node(one.bus.address), "1P 99999999\n")
            await until(lambda: one.bus.counters["poison"] == 1, "dropped")
            before = one.bus.counters["connects"]
            one.bus._groups[0].link.connection._received = lambda channel, message: None  # type: ignore[union-attr]
            await until(lambda: one.bus.counters["connects"] > before, "the dead subscription is noticed", 10)


@aio
async def test_an_emptied_valkey_is_noticed_even_if_others_have_filled_it_again() -> None:
    """Its logs are then longer than what this node has seen, so only the epoch shows it."""
    with OwnValkey() as server:
        async with cluster(server.url, "t", 2) as (one, two):
            await two.bus.listen(NS, A)
            first = await one.bus.append(event("1"))
            await until(lambda: two.payloads == ["1"], "live")
            server("FLUSHALL")
            for namespace in (NS, OTHER):
                await two.bus.append(event("2", C, namespace=namespace))
            await until(lambda: one.bus.counters["sent_again"] == 1, "noticed")
            (again,) = await two.bus.logs.recent(NS, A, 1)
            assert (again.payload, again.was) == ("1", first)
            await asyncio.sleep(0.05)
            assert two.payloads == ["1"]


@aio
async def test_a_failover_to_a_replica_that_lags_behind_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """The replica is disconnected. Then the primary accepts more events and dies. All nodes get them, with new ids."""
    link = tmp_path / "s"
    with OwnValkey("--repl-diskless-sync-delay", "0") as primary, OwnValkey() as replica:
        replica_of(replica, primary)
        os.symlink(primary.socket, link)
        async with cluster(f"unix://{link}", "t") as nodes, Load(nodes, one_order=False) as load:
            await until(lambda: replica("XLEN", f"{{t{NS}}}:log") > 20, "replicated")
            replica("REPLICAOF", "NO", "ONE")  # disconnected here: it never gets what follows
            before = load.total
            await until(lambda: load.total > before + 30, "acknowledged only by the primary")
            tops = [node.bus.position(NS) for node in nodes]
            primary.kill()
            link.unlink()
            os.symlink(replica.socket, link)
            await until(lambda: not any(node.bus.subscribed for node in nodes), "noticed")
            await until(lambda: all(node.bus.subscribed for node in nodes), "on the replica")
            offset = await nodes[0].bus.append(event('"0/after"', C))
            assert all(offset_key(offset) > offset_key(top) for top in tops), "no offset is used twice"
            for top in tops:
                assert not (await nodes[0].bus.read(NS, [A], Offset(older(top)))).complete, "not silently incomplete"
        assert sum(node.bus.counters["sent_again"] for node in nodes) > 0


@asynccontextmanager
async def two_primaries(folder: Path) -> AsyncIterator[tuple[Node, Node, OwnValkey, OwnValkey, Callable[[Node], None]]]:
    """Two nodes on one Valkey, and a promoted replica of it: `leads(node)` connects a node to that one."""
    with OwnValkey("--repl-diskless-sync-delay", "0") as old, OwnValkey() as new:
        replica_of(new, old)
        links = [folder / "one", folder / "two"]
        for link in links:
            os.symlink(old.socket, link)
        nodes = [await Node(f"unix://{link}", "t", f"n{at}").start() for at, link in enumerate(links)]

        def leads(node: Node) -> None:
            link = links[nodes.index(node)]
            link.unlink()
            os.symlink(new.socket, link)
            old("CLIENT", "KILL", "TYPE", "normal")
            old("CLIENT", "KILL", "TYPE", "pubsub")

        try:
            for node in nodes:
                await node.bus.listen(NS, A)
            await nodes[0].bus.append(event("before"))
            await until(lambda: all(node.payloads == ["before"] for node in nodes), "both nodes receive events")
            await until(lambda: new("XLEN", f"{{t{NS}}}:log") == old("XLEN", f"{{t{NS}}}:log"), "replicated")
            for node in nodes:
                await until(
                    lambda node=node: node.bus._groups[0].sequencers[NS].ends[-1].offset == node.bus.position(NS),
                    "known",
                )
            new("REPLICAOF", "NO", "ONE")
            yield nodes[0], nodes[1], old, new, leads
        finally:
            await asyncio.gather(*(node.close() for node in nodes))


async def on(node: Node, server: OwnValkey) -> None:
    """Wait until the node is subscribed at this server and sends its commands there."""
    run_id = server("INFO", "server")["run_id"]
    await until(
        lambda: node.valkey.run_id == run_id and node.bus.subscribed and not node.bus._groups[0].publisher.recovery,
        "on",
    )


@pytest.mark.parametrize("kept_s", [5.0, 0.0])
@aio
async def test_nodes_that_wrote_to_two_primaries_receive_the_events_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_s: float
) -> None:
    """Also what is older than the seconds for which a publisher would send it again to any Valkey. Nothing comes twice,
    and whoever comes back with an offset from before is told to load anew.
    """
    monkeypatch.setattr("insightdesk_rt.engine.cluster.publisher.KEEP_S", kept_s)
    async with two_primaries(tmp_path) as (one, two, old, new, leads):
        leads(two)
        await on(two, new)
        await on(one, old)
        last = {"x": Offset(""), "y": Offset("")}
        for n in range(3):
            last["x"] = await two.bus.append(event(f"x{n}"))
            last["y"] = await one.bus.append(event(f"y{n}"))
        await until(lambda: one.payloads[-1] == "y2" and two.payloads[-1] == "x2", "each node gets its own events")
        await asyncio.sleep(0.6)  # one or two probes: events acknowledged before them count as safe
        old.kill()
        leads_now(tmp_path / "one", new)
        await on(one, new)
        await one.bus.append(event("after"))
        for node in (one, two):
            await until(lambda node=node: node.payloads[-1:] == ["after"], "the last")
            assert sorted(node.payloads) == sorted(["before", "x0", "x1", "x2", "y0", "y1", "y2", "after"])
            for letter in "xy":
                mine = [payload for payload in node.payloads if payload.startswith(letter)]
                assert mine == [f"{letter}{n}" for n in range(3)]
            assert node.resyncs == []
        for offset in last.values():
            assert not (await two.bus.read(NS, [A], offset)).complete, "offsets of two logs cannot be compared"


@pytest.mark.parametrize("what", ["the reader", "the publisher"])
@aio
async def test_after_two_primaries_for_too_long_all_rooms_must_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Either it is unknown where the logs parted, or a publisher has not kept the events that the other log lacks."""
    if what == "the publisher":
        monkeypatch.setattr("insightdesk_rt.engine.cluster.publisher.KEEP_S", 0.0)
        monkeypatch.setattr("insightdesk_rt.engine.cluster.publisher.FORK_BYTES", 0)
    async with two_primaries(tmp_path) as (one, two, old, new, leads):
        leads(two)
        await on(two, new)
        await on(one, old)
        await two.bus.append(event("x"))
        await one.bus.append(event("y"))
        await until(lambda: one.payloads[-1] == "y" and two.payloads[-1] == "x", "each node gets its own events")
        if what == "the reader":
            monkeypatch.setattr("insightdesk_rt.engine.cluster.sequencer.KNOWN_S", 0.0)
            monkeypatch.setattr("insightdesk_rt.engine.cluster.sequencer.END_EVERY_S", 0.0)
            ends = one.bus._groups[0].sequencers[NS].ends
            await until(lambda: len(ends) == 1 and ends[0].offset == one.bus.position(NS), "no older one is known")
        else:
            await until(lambda: not one.bus._groups[0].publisher._tail, "nothing is kept")
        old.kill()
        leads_now(tmp_path / "one", new)
        await on(one, new)
        for node in (one, two):
            await until(lambda node=node: (NS, [A]) in node.resyncs, "told")
        told = len(two.resyncs)
        await one.bus.append(event("after"))
        await until(lambda: two.payloads[-1] == "after", "events arrive again")
        assert len(two.resyncs) == told, "once"


@aio
async def test_an_offset_that_two_primaries_used_for_two_events_shows_another_log(valkey_url: str, prefix: str) -> None:
    """Both generate ids from the clock: in the same millisecond the same one."""
    async with cluster(valkey_url, prefix, 1) as (node,):
        await node.bus.listen(NS, A)
        common = await node.bus.append(event("common", C))
        sequencer = node.bus._groups[0].sequencers[NS]
        await until(lambda: sequencer.ends[-1].offset == common, "known")
        mine = await node.bus.append(event("mine"))
        await until(lambda: sequencer.position == mine, "heard")
        assert (await node.bus._groups[0]._open(sequencer)).since == mine
        log = Names(prefix).namespace(NS).log
        ((_, fields),) = await node.valkey.command("XRANGE", log, common, common)
        await node.valkey.command("DEL", log)
        await node.valkey.command("XADD", log, common, *fields)
        await node.valkey.command("XADD", log, mine, "i", "theirs", "h", "{}", "p", "1", "r", A)
        assert (await node.bus._groups[0]._open(sequencer)).since == common


def leads_now(link: Path, server: OwnValkey) -> None:
    link.unlink()
    os.symlink(server.socket, link)


# ── single nodes ──────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_while_valkey_is_unreachable_listen_returns_and_appends_are_refused() -> None:
    with OwnValkey("--appendonly", "yes") as server:
        async with cluster(server.url, "t", 2) as (one, two):
            await two.bus.append(event("before"))
            server.kill()
            await until(lambda: not one.valkey.available and not two.valkey.available, "noticed")
            began = time.monotonic()
            position = await one.bus.listen(NS, A)
            assert await refused(one.bus.append(event("refused"))) == "UNAVAILABLE"
            one.bus.publish(event("volatile", id=""))  # nothing to say about it
            assert await refused(one.bus.read(NS, [A], position)) == "UNAVAILABLE"
            assert time.monotonic() - began < 0.9 and not one.bus.subscribed
            server.start()
            await until(lambda: two.valkey.available, "two is back")
            offsets = [await two.bus.append(event(str(n))) for n in range(5)]
            await until(lambda: one.payloads[-1:] == ["4"], "one gets the events since it listened")
            # "before" may be among them: its place in the file was not written yet, and two has sent it again.
            assert [e.offset for e in one.events if e.payload != "before"] == offsets
            assert one.resyncs == []


@aio
async def test_a_valkey_that_has_just_frozen_does_not_count_as_reachable() -> None:
    """Clients were admitted in the second before the freeze was noticed, and then received no events."""
    with OwnValkey() as server:
        async with cluster(server.url, "t", 1) as (one,):
            await one.bus.reach(NS)
            server.freeze()
            assert one.bus.available(NS), "the freeze has not been noticed yet"
            assert await refused(one.bus.reach(NS)) == "UNAVAILABLE"
            server.thaw()
            await until(lambda: one.bus.available(NS), "thawed")
            await one.bus.reach(NS)


@aio
async def test_listen_does_not_wait_for_a_frozen_valkey_longer_than_a_second() -> None:
    with OwnValkey() as server:
        async with cluster(server.url, "t", 2) as (one, two):
            server.freeze()
            began = time.monotonic()
            await asyncio.gather(one.bus.listen(NS, A), one.bus.listen(NS, B))
            assert time.monotonic() - began < 1.9
            server.thaw()
            await until(lambda: one.bus.subscribed and two.valkey.available, "thawed")
            await two.bus.append(event("1", B))
            await until(lambda: one.payloads == ["1"], "the events arrive all the same")


@aio
async def test_listen_does_not_wait_for_ever_for_a_long_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connects hung until the whole log was read, and were answered after their clients had given up."""
    monkeypatch.setattr("insightdesk_rt.engine.cluster.channel_subscriptions.CATCH_UP_S", 0.3)
    with OwnValkey() as server:
        async with cluster(server.url, "t", 1) as (one,):
            await one.bus.listen(NS, A)
            read, catch_up = asyncio.Event(), one.bus._groups[0]._catch_up

            async def slowly(sequencer: Any) -> None:
                await read.wait()
                await catch_up(sequencer)

            monkeypatch.setattr(one.bus._groups[0], "_catch_up", slowly)
            one.bus._groups[0].link.drop("a test")
            await until(lambda: not one.bus._groups[0].link.caught_up.is_set(), "catching up")
            began = time.monotonic()
            told = await asyncio.gather(*(refused(one.bus.listen(NS, room)) for room in (A, B)))
            assert told == ["UNAVAILABLE"] * 2 and time.monotonic() - began < 2
            asked = asyncio.create_task(one.bus.listen(NS, B))
            await asyncio.sleep(0.05)
            read.set()
            await asked
            await one.bus.append(event("1", B))
            await until(lambda: one.payloads == ["1"], "heard")


@aio
async def test_a_log_trimmed_during_an_outage_makes_the_concerned_rooms_reload() -> None:
    with OwnValkey() as server:
        async with cluster(server.url, "t", 2, log_max_entries=100) as (one, two):
            await one.bus.append(event("quiet", C))
            for room in (A, C):
                await one.bus.listen(NS, room)
            one.bus._groups[0].link.where = at("unix:///nowhere")
            one.bus._groups[0].link.drop("cut off")
            for _ in range(5):
                await asyncio.gather(*(two.bus.append(event(str(n), A)) for n in range(100)))
            assert one.events == []
            one.bus._groups[0].link.where = at(server.url)
            await until(lambda: one.bus.subscribed, "back")
            assert one.resyncs == [(NS, [A])], "C had no trimmed events"
            assert 100 <= len(one.events) < 500, "its remaining events were delivered"
            last = await two.bus.append(event("live", C))
            await until(lambda: one.bus.position(NS) == last, "events arrive again")


@aio
async def test_a_gap_in_a_room_is_noticed_at_the_next_event_and_filled_from_the_log() -> None:
    with OwnValkey() as server:
        async with cluster(server.url, "t", 2) as (one, two):
            await one.bus.listen(NS, A)
            hear = one.bus._groups[0].received
            drop = True

            def lossy(channel: bytes, message: bytes) -> None:
                if message.startswith(b"1P") or (drop and message.startswith(b"1L")):
                    return
                hear(channel, message)

            one.bus._groups[0].link.connection._received = lossy  # type: ignore[union-attr]
            await two.bus.append(event("1"))
            await two.bus.append(event("2"))
            await asyncio.sleep(0.05)
            drop = False
            await two.bus.append(event("3"))
            await until(lambda: one.payloads == ["1", "2", "3"], "all, in order")
            assert one.bus.counters["gaps"] == 1 and one.bus.counters["connects"] == 1
            assert one.bus.counters["repaired"] == 3, "they were read from the log"
            assert two.bus.counters["repaired"] == 0


@aio
async def test_an_event_published_again_has_its_former_offset_so_that_a_replay_skips_it() -> None:
    with OwnValkey() as server:
        async with cluster(server.url, "t", 2) as (one, two):
            await two.bus.listen(NS, A)
            first = await one.bus.append(event("1", id="e1"))
            await until(lambda: two.payloads == ["1"], "live")
            server.kill()
            server.start()
            await until(lambda: one.bus.counters["sent_again"] == 1 and two.bus.subscribed, "published again")
            (again,) = await two.bus.logs.recent(NS, A, 1)
            assert (again.id, again.was, again.payload) == ("e1", first, "1")
            assert offset_key(again.offset) > offset_key(first)
            assert await one.bus.append(event("other", id="e1")) == again.offset
            await asyncio.sleep(0.3)
            assert two.payloads == ["1"], "no client gets it twice"


@aio
async def test_a_node_that_starts_before_valkey_connects_and_makes_its_members_reload() -> None:
    with OwnValkey() as server:
        server.kill()
        node = await Node(server.url, "t", "n").start()
        assert not node.bus.subscribed
        await node.bus.listen(NS, A)
        server.start()
        await until(lambda: node.bus.subscribed, "found")
        assert node.resyncs == [(NS, [A])]
        await node.bus.append(event("1"))
        await until(lambda: node.payloads == ["1"], "works")
        await node.close()


@aio
async def test_a_server_with_a_password_is_used_and_a_wrong_password_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with OwnValkey() as server:
        server("CONFIG", "SET", "requirepass", "s e/cret")
        good = await Node(f"unix://:s%20e%2Fcret@{server.socket}", "t", "good").start()
        assert good.bus.subscribed
        bad = await Node(f"unix://:wrong@{server.socket}", "t", "bad").start()
        assert not bad.bus.subscribed and "user or password is wrong" in caplog.text and "cret" not in caplog.text
        await good.close()
        await bad.close()


def replica_of(replica: OwnValkey, primary: OwnValkey) -> None:
    """Replication needs TCP; the primary gets a port for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    primary("CONFIG", "SET", "port", str(port))
    replica("REPLICAOF", "127.0.0.1", str(port))
    end = time.monotonic() + 10
    while "master_link_status:up" not in str(replica("INFO", "replication")).replace("'", "").replace(" ", "") and (
        replica("ROLE")[3] != "connected"
    ):
        assert time.monotonic() < end, "replication did not start"
        time.sleep(0.05)


def older(offset: Offset) -> str:
    ms, seq = offset_key(offset)
    return f"{ms - 1}-{seq}"


class Proxy:
    """A proxy on a unix socket. While it is `silent` it drops everything and keeps connections open."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.parent / "proxy"
        self.url = f"unix://{self.path}"
        self.silent = False
        self.delay_s = 0.0  # each way
        self.open = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_unix_server(self._accept, str(self.path))
        return self

    async def __aexit__(self, *exc: Any) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        there, back = await asyncio.open_unix_connection(str(self.target))
        self.open += 1

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if self.silent:
                    await asyncio.Future()  # for ever
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(data)
                await sink.drain()
            sink.close()

        try:
            await asyncio.gather(pump(reader, back), pump(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()
            back.close()

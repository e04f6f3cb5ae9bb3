"""Work that must happen once per cluster: one node does it, another takes over, and never two in the same turn."""

from __future__ import annotations

import asyncio
import functools
import itertools
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.nodes import Cluster, cluster, three_nodes
from tests.support.aio import aio
from tests.support.clients import Peer

EVERY_S = 1.0
TAKES_OVER_WITHIN_S = 10.0
minute = functools.partial(aio, deadline_s=60)


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    with three_nodes(tmp_path_factory.mktemp("leader"), dashboard_interval_ms=int(EVERY_S * 1000)) as started:
        yield started


class Turns:
    """The times at which a dashboard at each node received the numbers."""

    def __init__(self, peers: list[Peer]) -> None:
        self.peers = peers
        self.at_s: list[list[float]] = [[] for _ in peers]

    async def watch(self, for_s: float) -> None:
        """Watch for a while. Each published turn is one `metrics:queue`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + for_s
        while loop.time() < end:
            for peer, seen in zip(self.peers, self.at_s, strict=True):
                count = len(peer.pending("metrics:queue"))
                seen += [loop.time()] * (count - len(seen))
            await asyncio.sleep(0.01)

    @property
    def gaps(self) -> list[float]:
        """Return the times between turns, at the node that received most."""
        most = max(self.at_s, key=len)
        return [later - earlier for earlier, later in itertools.pairwise(most)]


async def dashboards(c: Cluster, nodes: list[int]) -> Turns:
    peers = [await c.join(node, "/dashboard", f"admin{node}", "admin") for node in nodes]
    for peer in peers:
        await peer.expect("metrics:agents")  # those sent at connect
        peer.forget()
    return Turns(peers)


@minute
async def test_all_dashboards_receive_the_same_numbers_once_per_turn(started: list[Any]) -> None:
    async with cluster(started) as c:
        turns = await dashboards(c, [0, 1, 2])
        await turns.watch(5 * EVERY_S)
        counts = [len(seen) for seen in turns.at_s]
        assert all(4 <= count <= 6 for count in counts), counts
        # Each node sees the leader's numbers: the same asOf everywhere, none twice.
        told = [[queue["asOf"] for queue in peer.pending("metrics:queue")] for peer in turns.peers]
        assert len(set(map(tuple, (one[:4] for one in told)))) == 1, told
        assert all(len(set(one)) == len(one) for one in told)


@minute
async def test_a_killed_leader_is_replaced_within_ten_seconds(started: list[Any]) -> None:
    async with cluster(started) as c:
        leader = await c.leader()
        others = [node for node in (0, 1, 2) if node != leader]
        turns = await dashboards(c, others)
        await turns.watch(2 * EVERY_S)
        c.n[leader].kill()
        await turns.watch(TAKES_OVER_WITHIN_S + 3 * EVERY_S)
        longest = max(turns.gaps)
        print(f"without a leader for {longest:.1f} s")
        assert EVERY_S < longest < TAKES_OVER_WITHIN_S, f"{longest:.1f} s"
        assert min(turns.gaps) > EVERY_S / 2 - 0.1, turns.gaps
        assert await c.leader(others[0]) in others


@minute
async def test_a_leader_that_was_frozen_repeats_nothing_when_it_wakes(started: list[Any]) -> None:
    async with cluster(started) as c:
        leader = await c.leader()
        others = [node for node in (0, 1, 2) if node != leader]
        turns = await dashboards(c, others)
        for _ in range(2):  # the second time it is not the leader, and nothing must be published
            c.n[leader].send(signal.SIGSTOP)
            await turns.watch(7)
            c.n[leader].send(signal.SIGCONT)
            await turns.watch(3)
        now = await c.leader(others[0])
        assert now in others
        assert max(turns.gaps) < TAKES_OVER_WITHIN_S, turns.gaps
        assert min(turns.gaps) > EVERY_S / 2 - 0.1, turns.gaps
        told = [[queue["asOf"] for queue in peer.pending("metrics:queue")] for peer in turns.peers]
        assert all(one == sorted(set(one)) for one in told), "never an older number after a newer one"
        assert "declared dead while stopped" in c.n[leader].log()


@minute
async def test_no_turn_has_two_leaders_when_an_outage_of_valkey_outlasts_a_lease(started: list[Any]) -> None:
    async with cluster(started) as c:
        turns = await dashboards(c, [0, 1, 2])
        await turns.watch(2 * EVERY_S)
        c.valkey.freeze()
        await turns.watch(6)
        c.valkey.thaw()
        await turns.watch(6)
        assert min(turns.gaps) > EVERY_S / 2 - 0.1, turns.gaps
        assert turns.gaps[-1] < 2 * EVERY_S, "it continues"

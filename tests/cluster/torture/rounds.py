"""A run: one cluster, and one round after the other. A round is load, a fault, healing, silence, and the verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.torture import failovers, faults  # noqa: F401 - they fill FAULTS
from tests.cluster.torture.backends import BackEnds, owed_of
from tests.cluster.torture.cluster import Cluster
from tests.cluster.torture.judge import Verdict, judge
from tests.cluster.torture.publishers import Publishers
from tests.cluster.torture.scene import FAULTS, Scene
from tests.cluster.torture.stores import SINGLE
from tests.cluster.torture.subscribers import Subscribers
from tests.cluster.torture.talkers import Talkers
from tests.support.own_valkey import OwnValkey

BEFORE_S = 0.8  # time under load before the fault
AFTER_S = 1.2  # and after healing
QUIET_S = 20.0  # how long acknowledged events may take to arrive
DOUBLES_S = 0.4  # and how long to wait for duplicates afterwards
LOOK_S = 0.2
TICKETS = ["t1", "t2"]


@dataclass
class Row:
    """The result of a round. `ready_s`: from the end of the fault until every node was ready."""

    fault: str
    seconds: float
    ready_s: float
    verdict: Verdict
    given_up: int
    refused: int
    volatile: int


class Run:
    """A run; `running` creates it."""

    def __init__(self, cluster: Cluster, seed: int, *, long: bool = False) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.subscribers = Subscribers(cluster, TICKETS, seed)
        self.publishers = Publishers(cluster, self.subscribers.rooms, TICKETS, seed)
        self.talkers = Talkers(cluster, seed)
        self.backends = BackEnds(cluster, seed)
        self.scene = Scene(cluster, self.subscribers, self.random, long)

    async def play(self, name: str) -> Row:
        """Run one round. Raises AssertionError if the cluster does not become ready again."""
        fault, began = FAULTS[name], time.monotonic()
        for record in self.subscribers.records:
            record.begin_round()
        given_up, refused = self.publishers.given_up, self.publishers.refused
        before = await self._primaries()
        await self.backends.begin()
        if fault.facts_kept:
            await self.talkers.start()
        self.publishers.start()
        with self.subscribers.counting_volatile() as volatile:
            await asyncio.sleep(BEFORE_S)
            await fault.harm(self.scene)
            await asyncio.to_thread(self.cluster.store.until_whole)
            ready_s = await self.cluster.healed()
            await asyncio.sleep(AFTER_S)
            await self.publishers.stop()
            if fault.facts_kept:
                await self.talkers.stop()
            log_kept = fault.log_kept and (fault.planned or before == await self._primaries())
            verdict = await self._quiet(log_kept)
            await self.subscribers.see_off()
            if fault.facts_kept:
                verdict.facts = self.talkers.acknowledged
                verdict.lost_facts = await self.talkers.judge()
                verdict.lost_facts += await self._told(log_kept, verdict)
        return Row(
            name,
            time.monotonic() - began,
            ready_s,
            verdict,
            self.publishers.given_up - given_up,
            self.publishers.refused - refused,
            sum(volatile),
        )

    async def _primaries(self) -> set[OwnValkey]:
        """Return the present primaries: after a change, events that were not replicated yet may be lost."""
        return set(await self.scene.primaries()) if self.cluster.topology != SINGLE else set()

    async def _quiet(self, log_kept: bool) -> Verdict:
        end = time.monotonic() + QUIET_S
        while time.monotonic() < end:
            if all(record.connected for record in self.subscribers.records) and not self._judge(log_kept).missing:
                break
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(DOUBLES_S)
        verdict = self._judge(log_kept)
        verdict.missing += [f"{r.name} did not come back" for r in self.subscribers.records if not r.connected]
        return verdict

    async def _told(self, log_kept: bool, verdict: Verdict) -> list[str]:
        """Return what the back end was not told within QUIET_S, and count what was announced as missing."""
        conversation, numbers = self.talkers.said
        owed = owed_of(self.publishers.sent.values(), conversation, numbers, ordered=log_kept)
        end = time.monotonic() + QUIET_S
        while True:
            wrong = self.backends.judge(owed)
            if not wrong or time.monotonic() > end:
                verdict.announced += self.backends.announced(owed)
                return wrong
            await asyncio.sleep(LOOK_S)

    def _judge(self, log_kept: bool) -> Verdict:
        for key in self.subscribers.created & self.publishers.sent.keys():
            self.publishers.sent[key].rooms = frozenset({"team:red"})
        return judge(self.publishers.sent.values(), self.subscribers.records, log_kept=log_kept)


@asynccontextmanager
async def running(
    folder: Path, seed: int, *, topology: str = SINGLE, long: bool = False, **settings: object
) -> AsyncIterator[Run]:
    async with Cluster(folder, topology, **settings) as cluster:
        run = Run(cluster, seed, long=long)
        try:
            await run.publishers.open()
            await run.subscribers.open()
            await run.backends.open()
            yield run
        finally:
            await run.backends.close()
            await run.talkers.close()
            await run.publishers.close()
            await run.subscribers.close()

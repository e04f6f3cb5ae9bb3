"""The presence scripts: each transition once and no stale users, whichever node dies."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.model import User
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.presence.store import AgentCounts, HeldPresence, PresenceStore, SeenPresence
from tests.support import fakes
from tests.support.aio import aio

A_LONG_TIME_MS = 3_600_000


class Store(PresenceStore):
    """A store whose grace ends when the test says so."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey, valkey.names.namespace("/presence"), grace_ms=A_LONG_TIME_MS)

    async def grace_ends(self) -> None:
        for user in await self._valkey.command("ZRANGE", f"{self.base}-grace", 0, -1):
            await self._valkey.command("ZADD", f"{self.base}-grace", 1, user)

    async def crew_of(self, team: str) -> int:
        """Return how many of a team count as connected when a chat is transferred to it."""
        return int(await self._valkey.command("HGET", self.crew, team) or 0)

    async def keys(self) -> set[str]:
        return {key.removeprefix(self.base) for key in await self._valkey.command("KEYS", f"{self.base}*")}


@asynccontextmanager
async def a_store(url: str, prefix: str) -> AsyncIterator[Store]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    yield Store(valkey)
    await valkey.close()


def said(changes: list[PendingEvent]) -> list[tuple[str, str]]:
    return [(change.subject, json.loads(change.data)["status"]) for change in changes]


@aio
async def test_others_see_the_first_connect_at_once_and_the_last_disconnect_after_the_grace_period(
    valkey_url: str, prefix: str
) -> None:
    async with a_store(valkey_url, prefix) as store:
        anna = fakes.user("anna", team="t1")
        joined = await store.join(anna, "n1")
        assert joined.held is HeldPresence.SEEN and said(joined.pending) == [("anna", "online")]
        assert json.loads(joined.pending[0].data)["teamId"] == "t1"
        await store.pending.mark_published({"anna": joined.pending[0].seq})
        assert await store.join(anna, "n1") == (HeldPresence.QUIETLY, [])
        assert await store.join(anna, "n2") == (HeldPresence.QUIETLY, []), "several nodes count once"

        assert await store.leave("anna", "n1") is False
        assert await store.leave("anna", "n1") is False
        assert await store.leave("anna", "n2") is True
        assert await store.sweep() == []
        assert (await store.statuses(["anna"]))[0].status == "online"
        await store.grace_ends()
        swept = await store.sweep()
        assert said(swept) == [("anna", "offline")] and json.loads(swept[0].data)["lastSeen"] > 1_700_000_000_000
        assert await store.sweep() == []


@aio
async def test_a_user_who_returns_within_the_grace_period_never_went_offline(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        anna = fakes.user("anna")
        await store.join(anna, "n1")
        await store.leave("anna", "n1")
        assert await store.join(anna, "n2") == (HeldPresence.QUIETLY, [])
        await store.grace_ends()
        assert await store.sweep() == []


@aio
async def test_a_chosen_status_survives_absence_and_is_not_changed_by_another_device(
    valkey_url: str, prefix: str
) -> None:
    async with a_store(valkey_url, prefix) as store:
        anna = fakes.user("anna")
        await store.join(anna, "n1")
        busy = await store.choose("anna", "busy")
        assert said(busy)[-1] == ("anna", "busy")
        assert await store.choose("anna", "busy") == busy, "a repeat is not a change, but still pending"
        await store.pending.mark_published({"anna": busy[-1].seq})
        assert await store.choose("anna", "busy") == []
        await store.join(anna, "n2")
        assert (await store.statuses(["anna"]))[0].status == "busy"
        await store.leave("anna", "n1")
        await store.leave("anna", "n2")
        await store.grace_ends()
        await store.sweep()
        told = (await store.choose("anna", "busy"))[-1]
        assert told.kind == "status" and said([told]) == [("anna", "offline")]
        await store.pending.mark_published({"anna": told.seq})
        assert await store.choose("anna", "away") == [], "the status of an offline user is not visible"
        assert said((await store.join(anna, "n1")).pending)[-1] == ("anna", "away")


@aio
async def test_unknown_users_are_offline_and_order_is_kept(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.join(fakes.user("anna"), "n1")
        never, anna, _ = await store.statuses(["never", "anna", "gone"])
        assert never == SeenPresence("never", "offline", 0)
        assert anna.status == "online" and anna.last_seen_ms > 1_700_000_000_000


@aio
async def test_agents_are_counted_by_status_and_customers_are_not(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        assert await store.agent_counts() == AgentCounts(0, 0, 0, 0)
        for name, role in [("a", "agent"), ("b", "agent"), ("c", "admin"), ("d", "customer"), ("e", "agent")]:
            await store.join(fakes.user(name, role), "n1")
        await store.choose("b", "busy")
        await store.choose("c", "away")
        await store.leave("e", "n1")
        await store.leave("d", "n1")
        await store.grace_ends()
        await store.sweep()
        assert await store.agent_counts() == AgentCounts(online=1, busy=1, away=1, offline=1)
        await store.join(fakes.user("a", "customer"), "n1")
        assert (await store.agent_counts()).online == 0, "a former agent is not counted"


@aio
async def test_an_agent_counts_only_for_the_team_of_the_newest_token(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.join(fakes.user("anna", team="t1"), "n1")
        await store.join(fakes.user("carl", "customer", team="t1"), "n1")
        assert await store.crew_of("t1") == 1
        await store.join(fakes.user("anna", team="t2"), "n1")
        assert (await store.crew_of("t1"), await store.crew_of("t2")) == (0, 1)
        await store.join(fakes.user("anna", "customer", team="t2"), "n1")
        assert await store.crew_of("t2") == 0
        assert not await store._valkey.command("EXISTS", store.crew), "it does not grow with teams of the past"


@aio
async def test_a_dead_node_is_reaped_in_bounded_steps_and_refused_afterwards(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        for n in range(7):
            await store.join(fakes.user(f"u{n}"), "n1")
        await store.join(fakes.user("u0"), "n2")
        assert [await store.reap("n1", 3) for _ in range(4)] == [4, 1, 0, 0]
        assert await store.join(fakes.user("u9"), "n1") == (HeldPresence.FENCED, [])
        assert await store.held_count("n1") == 0 and await store.held_by("n2") == {"u0"}
        assert await store.incarnations() == {"n2"}
        await store.grace_ends()
        assert {user for user, _ in said(await store.sweep(2)) + said(await store.sweep())} == {
            f"u{n}" for n in range(1, 7)
        }


@aio
async def test_absent_users_are_forgotten_in_time(valkey_url: str, prefix: str) -> None:
    """No key outlives its use: what is left of everybody is what counts and lists expire from."""
    async with a_store(valkey_url, prefix) as store:
        for name, role, days in [("anna", "agent", 30), ("carl", "customer", 1)]:
            (change,) = (await store.join(fakes.user(name, role), "n1")).pending
            await store.leave(name, "n1")
            await store.grace_ends()
            (last,) = [c for c in await store.sweep() if c.seq > change.seq]
            await store.pending.mark_published({name: last.seq})
            ttl = await store._valkey.command("TTL", f"{store.base}:{name}")
            assert days * 86400 - 60 < ttl <= days * 86400
        assert await store.keys() == {":anna", ":carl", "-agents:offline"}


@aio
async def test_of_many_concurrent_callers_one_gets_the_transition(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        joins = await asyncio.gather(*(store.join(fakes.user("anna"), f"n{n}") for n in range(5)))
        assert [joined.held for joined in joins].count(HeldPresence.SEEN) == 1
        await asyncio.gather(*(store.leave("anna", f"n{n}") for n in range(5)))
        await store.grace_ends()
        assert sorted(len(said(swept)) > 0 for swept in await asyncio.gather(*(store.sweep() for _ in range(4)))) == [
            False,
            False,
            False,
            True,
        ]


class Cluster:
    """Nodes that connect, crash, stall and come back, beside a model of what must be seen of their users.

    The model is told of an operation when its script ran; it holds: user → incarnations, grace, last status told.
    """

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.random = store, random.Random(seed)
        self.users = [fakes.user(f"u{n}", "agent" if n % 2 else "customer", team=f"t{n % 3}") for n in range(6)]
        self.nodes = {f"n{n}": 1 for n in range(3)}  # name → boot, the incarnation is both
        self.reaping: set[str] = set()  # declared dead; leaves once a reaper saw the end
        self.declared: set[str] = set()
        self.zombies: list[str] = []  # declared dead and still running under the old incarnation
        self.stalled: list[tuple[str, User, str]] = []  # what a stopped process will still ask for
        self.holds: dict[str, set[str]] = defaultdict(set)
        self.grace: set[str] = set()
        self.status: dict[str, str] = {}
        self.chosen: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []
        self.expected: list[tuple[str, str]] = []

    def incarnation(self, name: str) -> str:
        return f"{name}.{self.nodes[name]}"

    def turn(self, user: str, status: str) -> None:
        if self.status.get(user, "offline") != status:
            self.status[user] = status
            self.expected.append((user, status))

    async def hear(self, changes: list[PendingEvent]) -> None:
        for change in changes:
            self.told.append((change.subject, json.loads(change.data)["status"]))
            await self.store.pending.mark_published({change.subject: change.seq})

    async def ask(self, what: str, user: User, node: str) -> None:
        if what == "join":
            held, changes = await self.store.join(user, node)
            assert (held is HeldPresence.FENCED) == (node in self.declared), node
            if held is not HeldPresence.FENCED:
                self.holds[user.id].add(node)
                self.grace.discard(user.id)
                if self.status.get(user.id, "offline") == "offline":
                    self.turn(user.id, self.chosen.get(user.id, "online"))
            await self.hear(changes)
        else:
            await self.store.leave(user.id, node)
            self.release(user.id, node)

    def release(self, user: str, node: str) -> None:
        if node in self.holds[user]:
            self.holds[user].discard(node)
            if not self.holds[user]:
                self.grace.add(user)

    async def step(self) -> None:
        pick = self.random
        user, name = pick.choice(self.users), pick.choice(list(self.nodes))
        match pick.choices(
            ["join", "leave", "choose", "sweep", "time", "crash", "reap", "stall", "resume", "zombie"],
            [30, 22, 8, 12, 6, 4, 12, 6, 6, 4],
        )[0]:
            case "join" | "leave" as what:
                await self.ask(what, user, self.incarnation(name))
            case "choose":
                status = pick.choice(["online", "busy", "away"])
                self.chosen[user.id] = status
                if self.status.get(user.id, "offline") != "offline":
                    self.turn(user.id, status)
                await self.hear(await self.store.choose(user.id, status))  # type: ignore[arg-type]
            case "time":
                await self.store.grace_ends()
                await self.sweep(set(self.grace))
            case "sweep":
                await self.sweep(set())
            case "crash":  # its users are lost with it; it comes back as another
                self.reaping.add(self.incarnation(name))
                self.nodes[name] += 1
            case "zombie":  # declared dead while it only stood still: it goes on, and finds out
                dead = self.incarnation(name)
                self.reaping.add(dead)
                self.zombies.append(dead)
                self.nodes[name] += 1
            case "reap" if self.reaping:
                await self.reap(pick.choice(sorted(self.reaping)), pick.randint(1, 2))
            case "stall":
                self.stalled.append((pick.choice(["join", "leave"]), user, self.incarnation(name)))
            case "resume":
                for what, who, node in self.stalled[:2]:
                    await self.ask(what, who, node)
                del self.stalled[:2]
                for node in self.zombies[:1]:
                    await self.ask("join", user, node)

    async def reap(self, node: str, limit: int) -> None:
        """One bounded call; the reaper may die after any of them."""
        self.declared.add(node)
        left = await self.store.reap(node, limit)
        held = await self.store.held_by(node)
        assert len(held) == left
        for user in self.users:
            if user.id not in held:
                self.release(user.id, node)
        if left == 0:
            self.reaping.discard(node)

    async def sweep(self, ripe: set[str]) -> None:
        swept = await self.store.sweep()
        for user in sorted(ripe):
            self.turn(user, "offline")
            self.grace.discard(user)
        await self.hear(swept)

    async def heal(self) -> None:
        """Every process is back or reaped, every connection is closed."""
        for what, who, node in self.stalled:
            await self.ask(what, who, node)
        for node in sorted(self.reaping):
            await self.reap(node, 1_000)
        for user in self.users:
            for node in list(self.holds[user.id]):
                await self.ask("leave", user, node)
        await self.store.grace_ends()
        await self.sweep(set(self.grace))

    async def check(self) -> None:
        seen = {s.key: s.status for s in await self.store.statuses([user.id for user in self.users])}
        assert seen == {user.id: self.status.get(user.id, "offline") for user in self.users}
        assert per_user(self.told) == per_user(self.expected), "each transition once, in order"
        agents: Any = defaultdict(int)
        for user in self.users:
            if user.role == "agent" and user.id in self.status:
                agents[self.status[user.id]] += 1
        assert await self.store.agent_counts() == AgentCounts(
            *(agents[s] for s in ("online", "busy", "away", "offline"))
        )
        for team in ("t0", "t1", "t2"):
            here = {user.id for user in self.users if user.role == "agent" and user.team_id == team}
            here -= {user.id for user in self.users if self.status.get(user.id, "offline") == "offline"}
            assert await self.store.crew_of(team) == len(here)


def per_user(told: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, status in told:
        found.setdefault(user, []).append(status)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_each_transition_is_published_once_whatever_crashes_stalls_and_returns(
    valkey_url: str, prefix: str, seed: int
) -> None:
    """The randomized check of the scripts: node crash, zombie, stall, grace, reaper dying half-way."""

    @aio
    async def trial() -> None:
        async with a_store(valkey_url, prefix) as store:
            cluster = Cluster(store, seed)
            for n in range(250):
                await cluster.step()
                if n % 10 == 0:
                    await cluster.check()
            await cluster.heal()
            await cluster.check()
            assert set(cluster.status.values()) <= {"offline"}, "no ghosts"
            assert not [key for key in await store.keys() if key.startswith("-node")]
            assert await store.pending.overdue(age_ms=0) == []

    trial()

"""Nodes that must not run together, and a killed node that starts again under its name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.engine.cluster.directory import Directory, NodePlace, new_place
from insightdesk_rt.engine.cluster.leases import Leases
from insightdesk_rt.engine.cluster.rivals import Rivals, has_ended, this_process
from insightdesk_rt.engine.cluster.valkey import Valkey
from tests.support.aio import aio

LEASE_MS = 600
SECRETS = {"user_ids": "shared", "jwt_secret": "aa", "cluster_secret": "bb"}


class Node:
    """A starting server's steps with its place and lease. `elsewhere`: it runs on another machine."""

    def __init__(
        self, valkey: Valkey, name: str, secrets: dict[str, str] | None = None, *, elsewhere: bool = True
    ) -> None:
        place = new_place(name, "10.0.0.5:3005", this_process(), SECRETS if secrets is None else secrets)
        if elsewhere:
            place = NodePlace(*(getattr(place, field) for field in ("node", "since", "local", "address", "key")),
                          "another machine", place.process, place.secrets)  # fmt: skip
        self.place = place

        async def nothing(*words: str) -> None:
            """Do nothing: this node holds no facts."""

        self.leases = Leases(valkey, name, nothing, nothing, lease_ms=LEASE_MS)
        self.directory = Directory(valkey, self.leases.current, place)
        self.rivals = Rivals(valkey, place, self.leases.current, lease_ms=LEASE_MS)
        self.beating: asyncio.Task[None] | None = None

    async def register(self) -> str:
        why = await self.rivals.before()
        if not why:
            await self.leases.beat()
            await self.directory.announce()
            why = await self.rivals.after()
        return why

    async def live(self) -> None:
        while True:
            await self.leases.beat()
            await asyncio.sleep(LEASE_MS / 4000)

    async def run(self) -> str:
        """Start, and renew the lease from then on. Returns why it does not start, or ""."""
        if not (why := await self.register()):
            self.beating = asyncio.get_running_loop().create_task(self.live())
        return why

    async def die(self) -> None:
        """As by kill -9: the lease stays."""
        if self.beating is not None:
            self.beating.cancel()
            await asyncio.wait([self.beating])


@asynccontextmanager
async def a_cluster(url: str, prefix: str) -> AsyncIterator[tuple[Valkey, list[Node]]]:
    valkey, nodes = Valkey(url, prefix), list[Node]()
    await valkey.start()
    try:
        yield valkey, nodes
    finally:
        for node in nodes:
            await node.die()
        await valkey.close()


@pytest.mark.parametrize(
    ("name", "secrets", "why"),
    [
        ("n1", SECRETS, "node_id = n1: a node of this name runs already at 10.0.0.5:3005"),
        ("n2", {**SECRETS, "jwt_secret": "other"}, "jwt_secret: node n1, which runs, has another"),
        ("n2", {**SECRETS, "cluster_secret": "other"}, "cluster_secret: node n1, which runs, has another"),
        ("n2", {**SECRETS, "user_ids": "separate"}, "user_ids: node n1, which runs, has another"),
        ("n2", {"jwt_secret": "aa"}, "cluster_secret: node n1, which runs, has another"),
        ("n2", SECRETS, ""),
        ("n1-2", SECRETS, ""),
        ("n", SECRETS, ""),
        ("n2", {}, "cluster_secret"),
    ],
)
@aio
async def test_a_node_with_the_name_of_a_living_one_or_another_secret_does_not_start(
    valkey_url: str, prefix: str, name: str, secrets: dict[str, str], why: str
) -> None:
    async with a_cluster(valkey_url, prefix) as (valkey, nodes):
        nodes.append(Node(valkey, "n1"))
        assert await nodes[0].run() == ""
        nodes.append(Node(valkey, name, secrets))
        said = await nodes[1].run()
        assert said.startswith(why) and bool(said) is bool(why) and "\n" not in said


@pytest.mark.parametrize("changed", ["nothing", "jwt_secret"])
@aio
async def test_a_killed_node_starts_again_once_its_lease_is_not_renewed(
    valkey_url: str, prefix: str, changed: str
) -> None:
    """Whether another machine lost its power can be seen only from a lease that is not renewed."""
    async with a_cluster(valkey_url, prefix) as (valkey, nodes):
        nodes.append(Node(valkey, "n1"))
        await nodes[0].run()
        await nodes[0].die()
        nodes.append(Node(valkey, "n1", {**SECRETS, changed: "x"}, elsewhere=False))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await nodes[1].run() == ""
        assert loop.time() - began_s < 5


@aio
async def test_a_node_killed_on_this_machine_starts_again_at_once(valkey_url: str, prefix: str) -> None:
    child = await asyncio.create_subprocess_exec("sleep", "60")
    async with a_cluster(valkey_url, prefix) as (valkey, nodes):
        space, _, _ = this_process().split(" ")
        began = (await asyncio.to_thread(_stat, child.pid)).rpartition(")")[2].split()[19]
        dead = Node(valkey, "n1", elsewhere=False)
        place = NodePlace(*(getattr(dead.place, f) for f in ("node", "since", "local", "address", "key", "machine")),
                      f"{space} {child.pid} {began}", SECRETS)  # fmt: skip
        assert not has_ended(place)
        directory = Directory(valkey, dead.leases.current, place)
        await dead.leases.beat()
        await directory.announce()
        child.kill()
        await child.wait()
        assert has_ended(place)
        nodes.append(Node(valkey, "n1", elsewhere=False))
        nodes[0].rivals._lease_s = 60.0
        async with asyncio.timeout(5):
            assert await nodes[0].run() == ""


def _stat(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read()


@aio
async def test_only_one_of_two_nodes_that_start_together_with_one_name_runs(valkey_url: str, prefix: str) -> None:
    """Neither has a lease yet when the other one checks."""
    async with a_cluster(valkey_url, prefix) as (valkey, nodes):
        nodes += [Node(valkey, "n1"), Node(valkey, "n1")]
        both = asyncio.Barrier(2)
        for node in nodes:
            before = node.rivals.before

            async def together(before: object = before) -> str:
                why: str = await before()  # type: ignore[operator]
                await asyncio.wait_for(both.wait(), 5)
                return why

            node.rivals.before = together  # type: ignore[method-assign]

        async def start(node: Node) -> str:
            why = await node.rivals.before()
            del node.rivals.before
            assert why == ""
            await node.leases.beat()
            await node.directory.announce()
            node.beating = asyncio.get_running_loop().create_task(node.live())
            await asyncio.wait_for(both.wait(), 5)
            return await node.rivals.after()

        said = await asyncio.gather(*map(start, nodes))
        assert sorted(bool(why) for why in said) == [False, True]


def test_a_process_is_identified_by_more_than_its_pid() -> None:
    """The system reuses pids."""
    space, number, began = this_process().split(" ")
    assert int(number) == os.getpid()
    place = new_place("n1", "", f"{space} {number} {began}")
    assert not has_ended(place)
    assert has_ended(new_place("n1", "", f"{space} {number} {int(began) - 1}"))
    assert not has_ended(new_place("n1", "", f"pid:[1] {number} {int(began) - 1}")), "pids of a container"
    assert not has_ended(new_place("n1", ""))

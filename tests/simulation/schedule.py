"""One schedule: what happens to a world, decided by its seed, and what must be true of it afterwards."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from unittest.mock import patch

from tests.cluster.torture.judge import Verdict, judge
from tests.simulation.virtual_loop import clock_of
from tests.simulation.world import START_S, TICK_MS, World

ACT_S = 5.0  # faults and events
QUIET_S = 4.0  # after all faults are over, before a first look: what is doubled or late has come by then
SETTLE_S = 16.0  # a lease, a calm time and a client's back-off together are shorter
TOGETHER = 3  # at most so many faults in one schedule


class Outcome(NamedTuple):
    """`broken`: the invariants that do not hold, in words."""

    seed: int
    steps: list[str]
    verdict: Verdict
    broken: list[str]


def run(seed: int) -> Outcome:
    """Play one schedule. The same seed leads to the same steps."""
    world = World(seed)
    ids = random.Random(seed)
    logging.disable(logging.ERROR)
    asyncio.set_event_loop(world.loop)
    try:
        with (
            clock_of(world.loop),
            patch.object(secrets, "token_hex", lambda size=8: ids.randbytes(size).hex()),
            patch.object(secrets, "token_urlsafe", lambda size=16: ids.randbytes(size).hex()),
            patch.object(random, "uniform", ids.uniform),
        ):
            try:
                world.loop.run_until_complete(play(world))
                return Outcome(seed, world.steps, *judged(world))
            finally:
                world.loop.run_until_complete(world.close())
    finally:
        logging.disable(logging.NOTSET)
        asyncio.set_event_loop(None)
        world.loop.close()


async def play(world: World) -> None:
    chance = world.chance
    for _ in range(chance.choice((2, 2, 3, 4))):
        await world.new_node()
    work = [asyncio.create_task(world.keep_connected(world.new_client())) for _ in range(3)]
    await asyncio.sleep(0.3)
    until_s = world.loop.time() + ACT_S
    publishers = [asyncio.create_task(world.keep_publishing(f"p{number}", until_s)) for number in range(2)]
    faults = [asyncio.create_task(later(world, fault, 0.5 + chance.random() * 2)) for fault in chosen(chance)]
    cuts = asyncio.create_task(cut_clients(world, until_s))
    await asyncio.gather(*faults, cuts)
    world.network.heal()
    world.note("all faults are over")
    await asyncio.wait_for(asyncio.gather(*publishers), 60)
    over_s = world.loop.time()
    await asyncio.sleep(QUIET_S)
    while judged(world)[1] and world.loop.time() < over_s + SETTLE_S:  # noqa: ASYNC110  virtual time
        await asyncio.sleep(1.0)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    world.note("the end")


async def cut_clients(world: World, until_s: float) -> None:
    while world.loop.time() < until_s:
        await asyncio.sleep(world.chance.random() * 2)
        client = world.chance.choice(world.clients)
        if client.connected:
            world.note(f"{client.id} is cut")
            client.cut()


async def later(world: World, fault: Fault, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await fault(world)


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────

Fault = Callable[[World], Awaitable[None]]


def chosen(chance: random.Random) -> list[Fault]:
    """Return some faults. Only one of them loses data, as the promises are for one loss at a time."""
    lossless = chance.choices(
        (cut_a_node_off, stop_the_server, kill_and_keep, a_node_dies), k=chance.randint(0, TOGETHER)
    )
    losing = chance.choices(LOSING, k=1) if chance.random() < 0.6 else []
    return lossless + losing


async def cut_a_node_off(world: World) -> None:
    node, server = world.chance.choice(world.nodes), world.primary
    world.note(f"{node.name} is cut off from {server.name}")
    world.network.cut(node.name, server)
    await asyncio.sleep(world.chance.random() * 4)
    world.network.heal_cut(node.name, server)
    world.note(f"{node.name} reaches {server.name} again")


async def stop_the_server(world: World) -> None:
    server = world.primary
    world.note(f"{server.name} is stopped")
    world.network.stop(server)
    await asyncio.sleep(world.chance.random() * 3)
    world.network.go_on(server)
    world.note(f"{server.name} goes on")


async def kill_and_keep(world: World) -> None:
    await _restart(world, 0)


async def power_loss(world: World) -> None:
    world.log_kept = False
    await _restart(world, world.chance.randint(1, 1000))


async def emptied(world: World) -> None:
    world.log_kept = False
    await _restart(world, None)


async def _restart(world: World, lost_ms: int | None) -> None:
    server = world.primary
    if not server.alive:
        return
    keeps = [] if lost_ms is None else server.kept_without(lost_ms)
    server.kill()
    world.note(f"{server.name} is killed")
    await asyncio.sleep(world.chance.random() * 2)
    server.start(keeps)
    world.note(f"{server.name} is back without {'anything' if lost_ms is None else f'its last {lost_ms} ms'}")


async def failover(world: World) -> None:
    """The primary dies; a replica that lags is promoted, and the name leads there."""
    old = world.primary
    if not old.alive:
        return
    world.log_kept = False
    lag_ms = world.chance.randint(0, 500)
    new = world.promoted(lag_ms)
    old.kill()
    world.note(f"{old.name} is killed; {new.name}, which lacks {lag_ms} ms, takes its place")
    await asyncio.sleep(world.chance.random() * 2)
    world.primary = new
    for node in world.nodes:
        world.network.where[node.name] = new


async def two_primaries(world: World) -> None:
    """A replica is promoted while the old primary goes on for some of the nodes, and is a replica later."""
    old = world.primary
    if not old.alive:
        return
    world.log_kept = False
    world.replaced, world.split = old, True
    new = world.promoted(world.chance.randint(0, 300))
    moved = [node for node in world.nodes if world.chance.random() < 0.5] or world.nodes[:1]
    world.note(f"{new.name} is promoted beside {old.name}, for {[node.name for node in moved]}")
    world.primary = new
    for node in moved:
        world.network.where[node.name] = new
        world.network.reset(node.name, old)
    await asyncio.sleep(world.chance.random() * 4)
    for node in world.nodes:
        world.network.where[node.name] = new
    old.become_replica()
    old.disconnect_all()
    world.replaced = None
    world.note(f"{old.name} is a replica")


async def a_node_dies(world: World) -> None:
    living = [node for node in world.nodes if node.alive]
    if len(living) < 2:
        return
    node = world.chance.choice(living)
    world.note(f"{node.name} dies")
    world.nodes.remove(node)
    world.dead.append(node)
    for client in world.clients:
        client.node_died(node)
    await node.die()
    await asyncio.sleep(world.chance.random() * 2)
    await world.new_node()
    world.note(f"{world.nodes[-1].name} is there")


LOSING = (power_loss, emptied, failover, two_primaries)


# ── what must be true ─────────────────────────────────────────────────────────────────────────────────────────────────


def judged(world: World) -> tuple[Verdict, list[str]]:
    for sent in world.sent:
        # An event is kept by the node that took it until it is safe. It may be lost with both.
        if not world.log_kept and sent.offset and not world.taken_by[sent.key].alive:
            sent.kept = False
        # An event that was lost before its publisher heard of it, and is published again, is another one to a client
        # that had received it and has changed nodes.
        sent.by_id = world.log_kept or sent.tries == 1
        if world.split and not sent.kept:  # it is sent again once the two are one, after later events
            sent.tries = max(sent.tries, 2)
    for stay in [stay for client in world.clients for stay in client.record.stays]:
        if world.split and stay.upto is not None and stay.told_s is None:
            stay.told_s = (
                stay.from_s
            )  # offsets of two logs cannot be compared: a client that began anew is owed nothing
    verdict = judge(world.sent, [client.record for client in world.clients], log_kept=world.log_kept)
    broken = [] if verdict.clean else [str(verdict)]
    broken += [f"{client.id} is not connected" for client in world.clients if not client.connected]
    for client in world.clients:
        owners = [node.name for node in world.nodes if client.pid in node.pids()]
        if len(owners) != 1:
            broken.append(f"the session of {client.id} is at {owners}")
    broken += [f"the model lacks {name}" for name in world.primary.unknown]
    broken += _nodes(world)
    if world.log_kept:
        broken += _ticks(world)
    return verdict, broken


def _nodes(world: World) -> list[str]:
    broken = []
    store, living = world.primary.store, {node.leases.incarnation.encode() for node in world.nodes}
    listed = set(store.run((b"ZRANGE", world.key("nodes"), b"0", b"-1")))
    if listed != living:
        broken.append(f"the nodes that live are {sorted(living)}, listed are {sorted(listed)}")
    if left := store.run((b"ZRANGE", world.key("reaping"), b"0", b"-1")):
        broken.append(f"nobody has cleared up after {left}")
    return broken


def _ticks(world: World) -> list[str]:
    """Work that is done once per cluster was done once: two turns of it are half its interval apart, or more."""
    times = sorted(at for node in (*world.nodes, *world.dead) for at in node.ticks)
    return [
        f"two leaders at {one - START_S:.3f} and {two - START_S:.3f}"
        for one, two in itertools.pairwise(times)
        if (two - one) * 1000 < TICK_MS / 2 - 1500
    ]

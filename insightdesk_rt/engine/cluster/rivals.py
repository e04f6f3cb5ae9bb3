"""Rivals: nodes that must not run beside this one, with the same name, other secrets or other `user_ids`.

A node that finds a living rival does not start. Two nodes with one name would answer for each other's sessions; nodes
with different secrets accept different clients and refuse each other's calls; nodes with different `user_ids` take
different people for the same. Valkey says which nodes live, but for the length of a lease also lists those that have
just been killed, and a killed node must be able to start again under its name. So a rival counts as living only after
it has renewed its lease, which a node does every second. It counts as dead at once if its process was on this machine
and has ended.

Of two nodes that start at the same moment, and see each other only when both are registered, the later one ends.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from insightdesk_rt.engine.cluster.directory import NodePlace, read_place
from insightdesk_rt.engine.cluster.leases import LEASE_MS
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.transport.neighbours import this_machine

LOOK_S = 0.1
MARGIN_S = 0.5


class Rival(NamedTuple):
    """A node that may live, and why both must not run: a line that begins with the setting."""

    incarnation: str
    place: NodePlace | None  # None: it has started and not announced its place
    why: str


class Rivals:
    """`place` and `incarnation` are this node's own."""

    def __init__(
        self, valkey: Valkey, place: NodePlace, incarnation: Callable[[], str], *, lease_ms: int = LEASE_MS
    ) -> None:
        self._valkey = valkey
        self._place = place
        self._incarnation = incarnation
        self._lease_s = lease_ms / 1000

    async def before(self) -> str:
        """Return why this node must not start, or "". Call it before this node has a lease.

        It takes a second if a rival lives, and until the lease ends if a rival was killed on another machine; otherwise
        it returns at once. Raises RtError UNAVAILABLE.
        """
        now = asyncio.get_running_loop().time
        end_s = now() + self._lease_s + MARGIN_S
        first: dict[str, str] = {}
        while True:
            leases = await self._leases()
            rivals = await self._find(leases)
            for rival in rivals:
                if first.setdefault(rival.incarnation, leases[rival.incarnation]) != leases[rival.incarnation]:
                    return rival.why  # it has renewed its lease, so it lives
            if not rivals or now() > end_s:
                return ""
            await asyncio.sleep(LOOK_S)

    async def after(self) -> str:
        """Return why this node must not go on, or "": a rival started at the same moment and began earlier.

        Call it when this node has a lease and its place is announced. Raises RtError UNAVAILABLE.
        """
        mine = self._place.since, self._incarnation()
        for rival in await self._find(await self._leases()):
            if rival.place is not None and (rival.place.since, rival.incarnation) < mine:
                return await self.before()
        return ""

    async def _leases(self) -> dict[str, str]:
        flat = await self._valkey.command("ZRANGE", self._valkey.names.cluster.key("nodes"), 0, -1, "WITHSCORES")
        pairs = flat if flat and isinstance(flat[0], list) else zip(flat[::2], flat[1::2], strict=True)
        return {incarnation: str(ends) for incarnation, ends in pairs}

    async def _find(self, leases: dict[str, str]) -> list[Rival]:
        others = [name for name in leases if name != self._incarnation()]
        if not others:
            return []
        texts = await self._valkey.command("HMGET", self._valkey.names.cluster.key("places"), *others)
        found = []
        for incarnation, text in zip(others, texts, strict=True):
            place = read_place(text)
            why = self._why_not(incarnation, place)
            if why and not (place is not None and has_ended(place)):
                found.append(Rival(incarnation, place, why))
        return found

    def _why_not(self, incarnation: str, place: NodePlace | None) -> str:
        if incarnation.rpartition(".")[0] == self._place.node:
            where = f" at {place.address}" if place is not None and place.address else ""
            return (
                f"node_id = {self._place.node}: a node of this name runs already{where}; each needs a name of its own"
            )
        if place is None or not place.secrets:  # of a version that does not announce them
            return ""
        for setting in sorted(self._place.secrets.keys() | place.secrets.keys()):
            mine, its = self._place.secrets.get(setting, ""), place.secrets.get(setting, "")
            if set(mine.split()).isdisjoint(its.split()):  # one in common is enough while a secret is replaced
                return f"{setting}: node {place.node}, which runs, has another; all nodes of a cluster have the same"
        return ""


def this_process() -> str:
    """Return an id of this process, unique on this machine and never reused, or "" where it is not known."""
    try:
        return f"{os.readlink('/proc/self/ns/pid')} {os.getpid()} {_began(os.getpid())}"
    except OSError:
        return ""


def has_ended(place: NodePlace) -> bool:
    """Is it certain that the process of a place has ended? Never for a process on another machine."""
    if not place.process or place.machine != this_machine():
        return False
    space, number, began = place.process.split(" ")
    if space != this_process().partition(" ")[0]:
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's process, whose data may be hidden
    try:
        return _began(int(number)) != began
    except OSError:
        return False


def _began(pid: int) -> str:
    """Return when a process began, in ticks since boot. The name, an earlier field, may contain anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]

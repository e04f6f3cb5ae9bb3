"""Nodes that may not run beside this one: of the same name, with other secrets, or other `user_ids`. It does not start.

Two nodes of one name answer for each other's sessions by chance; nodes with different secrets let in different clients,
and do not hear each other; nodes with different `user_ids` take different people for one. Which nodes live is in
Valkey, for the length of a lease also those that have just been killed, and a node that was killed must start again
under its name. So a rival is believed to live only once it has renewed its lease, which each does every second, and to
be dead at once if its process was on this machine and is gone.

Of two that start at the same moment, and see each other only when both are registered, the one that began later ends.
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
    """A node that may live, and why it and this one may not both run: a line that begins with the setting."""

    incarnation: str
    place: NodePlace | None  # None: it has begun, and not said where it is
    why: str


class Rivals:
    """`place` is this node's own; `incarnation` names its present life."""

    def __init__(
        self, valkey: Valkey, place: NodePlace, incarnation: Callable[[], str], *, lease_ms: int = LEASE_MS
    ) -> None:
        self._valkey = valkey
        self._place = place
        self._incarnation = incarnation
        self._lease_s = lease_ms / 1000

    async def before(self) -> str:
        """Return why this node may not start, or "". Call it before this node has a lease.

        Takes as long as the lease of a node that was killed on another machine still runs; a second if one lives; else
        no time. Raises RtError UNAVAILABLE.
        """
        now = asyncio.get_running_loop().time
        end_s = now() + self._lease_s + MARGIN_S
        first: dict[str, str] = {}
        while True:
            leases = await self._leases()
            rivals = await self._find(leases)
            for rival in rivals:
                if first.setdefault(rival.incarnation, leases[rival.incarnation]) != leases[rival.incarnation]:
                    return rival.why  # it has renewed it
            if not rivals or now() > end_s:
                return ""
            await asyncio.sleep(LOOK_S)

    async def after(self) -> str:
        """Return why this node may not go on, or "": another has started at the same moment, and began before.

        Call it when this node has a lease and its place is announced. Raises RtError UNAVAILABLE.
        """
        mine = self._place.since, self._incarnation()
        for rival in await self._find(await self._leases()):
            if rival.place is not None and (rival.place.since, rival.incarnation) < mine:
                return await self.before()
        return ""

    async def _leases(self) -> dict[str, str]:
        flat = await self._valkey.command("ZRANGE", self._valkey.key("nodes"), 0, -1, "WITHSCORES")
        pairs = flat if flat and isinstance(flat[0], list) else zip(flat[::2], flat[1::2], strict=True)
        return {incarnation: str(ends) for incarnation, ends in pairs}

    async def _find(self, leases: dict[str, str]) -> list[Rival]:
        others = [name for name in leases if name != self._incarnation()]
        if not others:
            return []
        texts = await self._valkey.command("HMGET", self._valkey.key("places"), *others)
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
        if place is None or not place.secrets:  # of a version that does not say
            return ""
        for setting in sorted(self._place.secrets.keys() | place.secrets.keys()):
            if self._place.secrets.get(setting) != place.secrets.get(setting):
                return f"{setting}: node {place.node}, which runs, has another; all nodes of a cluster have the same"
        return ""


def this_process() -> str:
    """Return what tells this process from all that were or will be on this machine, or "" where that is not known."""
    try:
        return f"{os.readlink('/proc/self/ns/pid')} {os.getpid()} {_began(os.getpid())}"
    except OSError:
        return ""


def has_ended(place: NodePlace) -> bool:
    """Is it certain that the process of a place is gone? Of another machine's nothing is."""
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
        pass  # another user's; what it is may be hidden
    try:
        return _began(int(number)) != began
    except OSError:
        return False


def _began(pid: int) -> str:
    """Return when a process began, in ticks since the machine did. Its name, before that, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]

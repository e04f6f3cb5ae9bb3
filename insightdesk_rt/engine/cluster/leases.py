"""Leases: which nodes live, which one leads, and which one cleans up after dead nodes. One command per node and second.

    nodes ──lease expired──▶ reaping ──everything it held is cleared──▶ forgotten

A dead node stops renewing its lease. The next node that beats moves it to `reaping`. From there it cannot come back
under that incarnation (fencing). Every node reads the list with each beat and clears what dead nodes held. That work is
idempotent, so two nodes may do it at once, and one that dies half-way does no harm. A node that was only stopped finds
itself fenced. It takes a new incarnation and registers everything it holds again, beside its beats, because that may
take longer than a lease. One of the living nodes leads: it does what must happen once per cluster.

Only Valkey's clock counts, never a node's. After Valkey was unreachable, no node is declared dead for one and a quarter
leases.

A lease says nothing about a node that is only cut off from Valkey, because it goes on serving its clients. So a node
that was declared dead stays `lost` until it is known to have ended, is back, or a day has passed.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from insightdesk_rt.engine.cluster.valkey import Valkey, load_script
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.tasks import OwnedTasks

log = logging.getLogger(__name__)

LEASE_MS = 4_000  # longer than the longest stall of a loop; others notice the end within one second more
BEAT_MS = 1_000
LEAD_MARGIN_MS = 1_000  # a leader stops this long before its lease ends: its clock and Valkey's may drift

BEAT = load_script("insightdesk_rt.engine.cluster", "lease_beat")
FORGOTTEN = 2  # the beat script's answer
END = load_script("insightdesk_rt.engine.cluster", "lease_end")
TICK = load_script("insightdesk_rt.engine.cluster", "lease_tick")


class Leases:
    """`clear(incarnation)` clears what a dead node held. `register()` registers everything that this node holds; it is
    called after this node took a new incarnation and after Valkey was emptied. Both raise RtError to be called again
    with the next beat.
    """

    def __init__(
        self,
        valkey: Valkey,
        node_id: str,
        clear: Callable[[str], Awaitable[None]],
        register: Callable[[], Awaitable[None]],
        *,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._valkey = valkey
        self._node_id = node_id
        self._clear = clear
        self._register = register
        self._must_register = False
        self._refused = ""
        self._past_incarnations: list[str] = []  # incarnations of this node that were declared dead
        self._lease_ms = lease_ms
        self._keys = [
            valkey.names.cluster.key(name) for name in ("nodes", "reaping", "leader", "server", "calm", "lost")
        ]
        self._first = True
        self._leads_until_ms = 0.0
        self._tasks = OwnedTasks(log)
        self._registering = False
        self._clearing: set[str] = set()  # incarnations
        self.incarnation = self._new_incarnation()
        self.nodes = 1  # that lived at the last beat

    @property
    def leads(self) -> bool:
        """Is this node the leader? Each node stops believing so before its lease ends, so there are never two."""
        return time.monotonic() * 1000 < self._leads_until_ms

    def current(self) -> str:
        """Return the incarnation of this node at this moment."""
        return self.incarnation

    async def beat(self) -> None:
        """Renew the lease. Call it every BEAT_MS, and once before clients come. Raises RtError UNAVAILABLE."""
        asked_ms = time.monotonic() * 1000  # the lease counts from before the command was sent
        first, self._first = self._first, False
        try:
            args = (self.incarnation, self._lease_ms, "1" if first else "0", self._valkey.run_id)
            alive, leads, nodes, *dead = await self._valkey.call(BEAT, self._keys, args)
        except BaseException:
            self._first = first
            raise
        if not alive or self._refused == self.incarnation:
            await self._change_incarnation("stopped" if not alive else "alive")
            return
        self.nodes = nodes
        self._must_register = self._must_register or alive == FORGOTTEN
        if leads:
            self._leads_until_ms = asked_ms + self._lease_ms - LEAD_MARGIN_MS
        for incarnation in dead:
            if incarnation not in self._clearing:
                self._clearing.add(incarnation)
                self._tasks.spawn(self._clear_one(incarnation), f"clearing up after {incarnation}")
        if not self._registering and (self._must_register or self._past_incarnations):
            self._registering = True
            self._tasks.spawn(self._re_register(), "registering again")

    def re_register_soon(self) -> None:
        """Register everything again after the next beat: Valkey may have lost it."""
        self._must_register = True

    def fenced(self, incarnation: str) -> None:
        """Other nodes treat this incarnation as dead, whatever its lease says. If it is ours, take a new one."""
        self._refused = incarnation

    async def living(self) -> set[str]:
        """Return the incarnations whose leases run. Raises RtError UNAVAILABLE."""
        return set(await self._valkey.command("ZRANGE", self._keys[0], 0, -1))

    async def registered(self) -> set[str]:
        """Return the living incarnations and those that are being cleared. Raises RtError UNAVAILABLE."""
        cleared = await self._valkey.command("ZRANGE", self._keys[1], 0, -1)
        return await self.living() | set(cleared)

    async def lost(self) -> list[str]:
        """Return the incarnations that were declared dead and may still serve clients. Raises RtError UNAVAILABLE."""
        return sorted(await self._valkey.command("ZRANGE", self._keys[5], 0, -1))

    async def has_ended(self, *incarnations: str) -> None:
        """Note that these incarnations are known to have ended. Raises RtError UNAVAILABLE."""
        if incarnations:
            await self._valkey.command("ZREM", self._keys[5], *incarnations)

    async def takes_over(self) -> None:
        """Note that earlier nodes of this node's name have ended. Raises RtError UNAVAILABLE."""
        named = [one for one in await self.lost() if one.rpartition(".")[0] == self._node_id]
        await self.has_ended(*(one for one in named if one != self.incarnation))

    async def claims(self, what: str, every_ms: float) -> bool:
        """May this node now do the work `what`, which is done once per cluster every `every_ms`?

        Valkey grants it to one node, even if a former leader has not noticed yet that it does not lead any more.
        Raises RtError UNAVAILABLE.
        """
        if not self.leads:
            return False
        keys = [self._keys[2], self._valkey.names.cluster.key("ticks")]
        claimed = await self._valkey.call(TICK, keys, (self.incarnation, what, int(every_ms)))
        return bool(claimed) and self.leads  # this process may have been stopped before it read the answer

    async def close(self) -> None:
        """Give the lease back, so that the others need not wait for its end."""
        self._leads_until_ms = 0.0
        await self._tasks.close()
        try:
            await self._valkey.call(END, self._keys[:3], (self.incarnation,))
        except RtError:
            pass  # then the lease expires by itself

    async def _change_incarnation(self, what: str) -> None:
        old, self.incarnation = self.incarnation, self._new_incarnation()
        self._first = True
        self._leads_until_ms = 0.0
        self._must_register = True
        self._past_incarnations.append(old)
        log.warning("declared dead while %s; coming back", what, extra={"was": old, "is": self.incarnation})
        await self.beat()

    async def _re_register(self) -> None:
        """Register what this node holds; then clear what it held under its past incarnations.

        The other nodes have cleared that too, but this node may have written more of it before it noticed.
        """
        try:
            while self._must_register or self._past_incarnations:
                if self._must_register:
                    self._must_register = False  # first: a request during the registration wants another one
                    try:
                        await self._register()
                    except BaseException:
                        self._must_register = True
                        raise
                else:
                    await self._clear(self._past_incarnations[0])
                    await self.has_ended(self._past_incarnations[0])
                    del self._past_incarnations[0]
        except RtError as refused:
            log.debug("registering again is continued later", extra={"why": refused.code})
        finally:
            self._registering = False

    async def _clear_one(self, incarnation: str) -> None:
        try:
            await self._clear(incarnation)
            await self._valkey.command("ZREM", self._keys[1], incarnation)
            log.info("cleared up after a node", extra={"node": incarnation})
        except RtError as refused:
            log.debug("clearing up is continued later", extra={"node": incarnation, "why": refused.code})
        finally:
            self._clearing.discard(incarnation)

    def _new_incarnation(self) -> str:
        return f"{self._node_id}.{secrets.token_hex(4)}"

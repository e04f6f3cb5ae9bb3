"""The other nodes, through Valkey: nothing acknowledged is lost, and every member of a room sees one order.

To append an event is one script: XADD to the namespace's log, remember the event's id, and PUBLISH the entry on each
room's channel, with its offset and the offset of the room's event before it. A node subscribes to the channels of the
rooms it has members in, so it pays only for what its own clients need (`ChannelSubscriptions`). The work is done by
log groups (log_group.py): one for all namespaces, or in a cluster one for each. Calls between nodes are checked here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.envelope import BusCall, Poison
from insightdesk_rt.engine.cluster.log_group import LogGroup
from insightdesk_rt.engine.cluster.logs import MAX_EVENTS, Logs
from insightdesk_rt.engine.cluster.publisher import EventLogSettings
from insightdesk_rt.engine.cluster.seal import NotSealed, Seal
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.backplane import Backlog, LocalMembers
from insightdesk_rt.engine.model import Event, Offset, Room
from insightdesk_rt.engine.seldom import Seldom

log = logging.getLogger(__name__)

NOT_SEALED = "a call between nodes was refused; do all nodes have the same secret?"
START_S = 1.0


class _NoMembers:
    """Stands for the hub until it is attached."""

    def deliver(self, event: Event) -> None:
        pass

    def has_members(self, namespace: str, room: Room) -> bool:
        return False

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
        pass

    def resync_newer(self, namespace: str, rooms: Mapping[Room, Offset]) -> None:
        pass


class ValkeyBackplane:
    """Implements hub.backplane.Backplane. One per process; the other nodes know it by its `address`.

    `seal` authenticates calls between nodes; without one, whoever may write to Valkey is taken for a node.

    `facts` are names of events whose content only this server stores. When Valkey may have lost such events, the
    listeners in `on_facts_lost` receive those of the last seconds: published by this node or received from others.
    """

    def __init__(
        self,
        valkey: Valkey,
        namespaces: Iterable[str],
        node_id: str,
        *,
        settings: EventLogSettings = EventLogSettings(),
        seal: Seal | None = None,
        facts: Collection[str] = (),
    ) -> None:
        self._seal = seal or Seal(b"")
        self.address = f"{node_id}.{secrets.token_hex(4)}"
        self.members: LocalMembers = _NoMembers()
        self.on_call: list[Callable[[bytes], None]] = []
        self.facts = facts
        self.on_facts_lost: list[Callable[[Sequence[Event]], Awaitable[None]]] = []
        self._valkey = valkey
        names = self._names = valkey.names
        self._seldom = Seldom(log)
        self.logs = Logs(valkey, names, settings.log_reads_at_once)
        calls, paths = (names.cluster.node(self.address), names.all_nodes), list(namespaces)
        if valkey.sharded:
            self._groups = [
                LogGroup(valkey, names.namespace(path), [path], (), self, settings, self.logs) for path in paths
            ]
            self._groups.append(LogGroup(valkey, names.cluster, [], calls, self, settings, self.logs))
        else:
            self._groups = [LogGroup(valkey, names.cluster, paths, calls, self, settings, self.logs)]
        self._by_path = {path: group for group in self._groups for path in group.sequencers}

    async def start(self) -> None:
        """Connect, and wait up to START_S for it. Does not fail: `subscribed` says whether it succeeded."""
        for group in self._groups:
            group.start()
        try:
            async with asyncio.timeout(START_S):
                for group in self._groups:
                    await group.link.first_live.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        await asyncio.gather(*(group.close() for group in self._groups))

    def attach(self, members: LocalMembers) -> None:
        self.members = members

    @property
    def subscribed(self) -> bool:
        """Does this node receive everything it should at this moment? A readiness check."""
        return all(group.subscribed for group in self._groups)

    @property
    def unheard(self) -> list[str]:
        """The namespaces whose events this node does not receive at this moment, in order; "" stands for node calls."""
        return sorted(
            path for group in self._groups if not group.subscribed for path in (list(group.sequencers) or [""])
        )

    @property
    def namespaces(self) -> list[str]:
        return list(self._by_path)

    def available(self, namespace: str) -> bool:
        """Do commands work, and is the subscription up, or lost less than a second ago?"""
        return self._by_path[namespace].available

    async def reach(self, namespace: str) -> None:
        await self._by_path[namespace].reach()

    @property
    def counters(self) -> dict[str, int]:
        sums = Counter[str]()
        for group in self._groups:
            sums.update(group.counters)
        sums.update({"reads_refused": self.logs.budget.refused, "poison": self.logs.poison})
        return dict(sums)

    # ── the hub's verbs ───────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, event: Event) -> Offset:
        return await self._by_path[event.namespace].publisher.append(event)

    async def append_all(self, events: Sequence[Event]) -> list[Offset | RtError]:
        return await self._by_path[events[0].namespace].publisher.append_all(events) if events else []

    def publish(self, event: Event) -> None:
        self._by_path[event.namespace].publisher.publish(event)

    async def recovered(self, namespace: str) -> None:
        """Wait until what Valkey may have lost of a namespace was restored. For stores of facts.

        Raises RtError UNAVAILABLE.
        """
        await self._by_path[namespace].recovered()

    def position(self, namespace: str) -> Offset:
        return self._by_path[namespace].position(namespace)

    async def read(
        self, namespace: str, rooms: Iterable[Room], since: Offset, most: int = MAX_EVENTS, user: str = ""
    ) -> Backlog:
        """See Backplane.read. `complete` is False also for an offset of a log that Valkey lost. Raises BAD_REQUEST."""
        wanted = tuple(rooms)
        if not wanted:
            return Backlog([], True, self.position(namespace))
        return await self.logs.read(namespace, wanted, since, most, user)

    async def listen(self, namespace: str, room: Room) -> Offset:
        return await self._by_path[namespace].subscriptions.listen(namespace, room)

    def unlisten(self, namespace: str, room: Room) -> None:
        self._by_path[namespace].subscriptions.unlisten(namespace, room)

    # ── between nodes ─────────────────────────────────────────────────────────────────────────────────────────────

    def send_to_node(self, address: str, text: str) -> bool:
        """Send a call to one node, to its `on_call`. Returns False if Valkey is known to be unreachable."""
        return self._call(self._names.cluster.node(address), text)

    def send_to_all(self, text: str) -> bool:
        """Send a call to all nodes, this one included."""
        return self._call(self._names.all_nodes, text)

    def _call(self, channel: str, text: str) -> bool:
        return self._valkey.send("PUBLISH", channel, envelope.call(self._seal.stamp(channel, text), text))

    def hear_call(self, channel: bytes, call: BusCall) -> None:
        """Take a call of another node. Raises Poison."""
        try:
            self._seal.check(channel, call.stamp, call.text)
        except NotSealed as why:
            # at most one line a minute: whoever may write to Valkey could fill the log
            self._seldom.say(logging.WARNING, NOT_SEALED, "", why=str(why))
            raise Poison(str(why)) from None
        for listener in self.on_call:
            listener(call.text)

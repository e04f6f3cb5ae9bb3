"""The other nodes, through Valkey: nothing acknowledged is lost, and every member of a room sees one order.

To append an event is one script: XADD to the namespace's log, remember the event's id, and PUBLISH the entry on each
room's channel, with its offset and the offset of the room's event before it. A node subscribes to the channels of the
rooms it has members in, so it pays only for what its own clients need (`ChannelSubscriptions`). Incoming events go
through one `Sequencer` per namespace, which keeps the order and notices gaps. Gaps and lost connections
(`SubscriptionLink`) are repaired here by reading the log (`Logs`). `Publisher` sends events to the other nodes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.channel_subscriptions import ChannelSubscriptions
from insightdesk_rt.engine.cluster.envelope import BusCall, Logged, Poison, Probe, Volatile
from insightdesk_rt.engine.cluster.logs import MAX_EVENTS, Logs, Opened
from insightdesk_rt.engine.cluster.publisher import KEEP_S, EventLogSettings, Publisher
from insightdesk_rt.engine.cluster.seal import NotSealed, Seal
from insightdesk_rt.engine.cluster.sequencer import Sequencer
from insightdesk_rt.engine.cluster.subscription import Subscription
from insightdesk_rt.engine.cluster.subscription_link import LinkState, LogState, SubscriptionLink
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.backplane import Backlog, LocalMembers
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, offset_key
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.tasks import OwnedTasks

log = logging.getLogger(__name__)

NOT_SEALED = "a call between nodes was refused; do all nodes have the same secret?"
START_S = 1.0
SUBSCRIBE_ALL_S = 10.0  # 50,000 channels take 0.04 s; a server in trouble more
# A publisher that was cut off sends its events again if Valkey lost them meanwhile. This node must then still know
# their ids. 1,000 events a second take some 12 MB.
FORGET_IDS_S = 60.0
REPAIRS = 3  # the first fills a real gap; a gap that is left has a forged predecessor
RETRY_S = 0.1
HEAD_BYTES = 65_536  # for the names of rooms beside the payload


class _NoMembers:
    """Stands for the hub until it is attached."""

    def deliver(self, event: Event) -> None:
        pass

    def has_members(self, namespace: str, room: Room) -> bool:
        return False

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
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
        self._members: LocalMembers = _NoMembers()
        self.on_call: list[Callable[[bytes], None]] = []
        self.facts = facts
        self.on_facts_lost: list[Callable[[Sequence[Event]], Awaitable[None]]] = []
        self._recent_facts: deque[tuple[float, Event]] = deque()
        self._valkey = valkey
        names = self._names = valkey.names
        self._sequencers = {namespace: Sequencer(namespace, self._deliver) for namespace in namespaces}
        own_channel = names.cluster.node(self.address)
        self._node_channels = (own_channel.encode(), names.all_nodes.encode())
        self.logs = Logs(valkey, self._names, settings.log_reads_at_once)
        logs = {namespace: names.namespace(namespace) for namespace in self._sequencers}
        self._link = SubscriptionLink(valkey, self.address, own_channel, logs, self)
        self._subscriptions = ChannelSubscriptions(valkey, self._names, self._sequencers, self._link, self._has_members)
        self._publisher = Publisher(valkey, self._names, self.address, settings, self.position)
        self._max_message = settings.max_event_bytes + HEAD_BYTES
        self._must_restore = False
        self._seldom = Seldom(log)
        self._epochs: dict[str, str] = {}  # of the logs that have all that this node published in them
        self._forks: dict[str, str] = {}  # when each namespace's rooms were last told to reload
        self._forget_s = 0.0
        self._copies, self._older_copies = set[str](), set[str]()  # of volatile events for several rooms
        self._repair_locks = {namespace: asyncio.Lock() for namespace in self._sequencers}
        self._tasks = OwnedTasks(log)
        self._received = self._delivered = self._poison = self._repairs = self._resyncs = self._failed_deliveries = 0

    async def start(self) -> None:
        """Connect, and wait up to START_S for it. Does not fail: `subscribed` says whether it succeeded."""
        self._valkey.on_up.append(self._valkey_up)
        self._link.start()
        try:
            async with asyncio.timeout(START_S):
                await self._link.first_live.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        await self._link.close()
        await self._tasks.close()

    def attach(self, members: LocalMembers) -> None:
        self._members = members

    @property
    def subscribed(self) -> bool:
        """Does this node receive everything it should at this moment? A readiness check."""
        return self._link.proven_live and not any(sequencer.held for sequencer in self._sequencers.values())

    @property
    def available(self) -> bool:
        """Do commands work, and is the subscription up, or lost less than a second ago?"""
        return self._valkey.available and (self._link.state is not LinkState.DISCONNECTED or self._link.heard_recently)

    async def reach(self) -> None:
        if not self.available:
            raise RtError("UNAVAILABLE")
        await self._valkey.command("PING")  # only this notices a server that froze a moment ago

    @property
    def counters(self) -> dict[str, int]:
        sequencers, out = self._sequencers.values(), self._publisher
        return {
            "received": self._received,
            "delivered": self._delivered,
            "duplicates": sum(sequencer.duplicates + sequencer.skipped for sequencer in sequencers),
            "reads_refused": self.logs.budget.refused,
            "poison": self._poison + sum(sequencer.poison for sequencer in sequencers) + self.logs.poison,
            "gaps": sum(sequencer.gaps for sequencer in sequencers),
            "repairs": self._repairs,
            "repaired": sum(sequencer.repaired for sequencer in sequencers),
            "resyncs": self._resyncs,
            "connects": self._link.connects,
            "appended": out.appended,
            "published": out.published,
            "failed": out.failed + self._failed_deliveries,
            "sent_again": out.again,
            "channels": len(self._subscriptions),
        }

    # ── the hub's verbs ───────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, event: Event) -> Offset:
        return await self._publisher.append(event)

    async def append_all(self, events: Sequence[Event]) -> list[Offset | RtError]:
        return await self._publisher.append_all(events)

    def publish(self, event: Event) -> None:
        self._publisher.publish(event)

    async def recovered(self) -> None:
        """Wait until what Valkey may have lost was restored. For stores of facts. Raises RtError UNAVAILABLE."""
        if not self._valkey.available:
            raise RtError("UNAVAILABLE")
        await self._publisher.recovered()

    def position(self, namespace: str) -> Offset:
        return self._sequencers[namespace].position

    async def read(
        self, namespace: str, rooms: Iterable[Room], since: Offset, most: int = MAX_EVENTS, user: str = ""
    ) -> Backlog:
        """See Backplane.read. `complete` is False also for an offset of a log that Valkey lost. Raises BAD_REQUEST."""
        wanted = tuple(rooms)
        if not wanted:
            return Backlog([], True, self.position(namespace))
        return await self.logs.read(namespace, wanted, since, most, user)

    async def listen(self, namespace: str, room: Room) -> Offset:
        return await self._subscriptions.listen(namespace, room)

    def unlisten(self, namespace: str, room: Room) -> None:
        self._subscriptions.unlisten(namespace, room)

    # ── between nodes ─────────────────────────────────────────────────────────────────────────────────────────────

    def send_to_node(self, address: str, text: str) -> bool:
        """Send a call to one node, to its `on_call`. Returns False if Valkey is known to be unreachable."""
        return self._call(self._names.cluster.node(address), text)

    def send_to_all(self, text: str) -> bool:
        """Send a call to all nodes, this one included."""
        return self._call(self._names.all_nodes, text)

    def _call(self, channel: str, text: str) -> bool:
        return self._valkey.send("PUBLISH", channel, envelope.call(self._seal.stamp(channel, text), text))

    # ── called by the link ───────────────────────────────────────────────────────────────────────────────────────

    def received(self, channel: bytes, message: bytes) -> None:
        """hot: once per message of the subscription connection."""
        self._received += 1
        try:
            if len(message) > self._max_message:
                raise Poison("too long")
            read = envelope.read(message)
            if channel in self._node_channels:
                self._hear_node(channel, read)
            elif (subscription := self._subscriptions.get(channel)) is None:
                pass  # unsubscribed meanwhile
            elif type(read) is Logged:
                if not subscription.sequencer.hear(read, subscription):
                    self._tasks.spawn(self._repair(subscription.sequencer), "repair")
            elif type(read) is Volatile:
                self._hear_volatile(read, subscription.sequencer)
            else:
                raise Poison("not for a room")
        except Poison as why:
            self._poison += 1
            log.debug("dropped a message on %r: %s", channel[:200], why)
        except Exception:  # raised from here, it would end the connection
            log.exception("a message could not be processed")

    async def connected(self, connection: Subscription) -> None:
        # The list is complete: callers that listen to new rooms from here on wait until this node has caught up.
        channels = [*self._node_channels, *self._subscriptions.channels()]
        async with asyncio.timeout(SUBSCRIBE_ALL_S):
            if not await connection.subscribe(channels):
                raise ConnectionError("connection lost while subscribing")
        # Read only now: the log has everything from before the subscription, and later events are heard.
        for sequencer in self._sequencers.values():
            await self._catch_up(sequencer)

    def went_live(self) -> None:
        self._subscriptions.settle()
        for sequencer in self._sequencers.values():
            if not sequencer.release():
                self._tasks.spawn(self._repair(sequencer), "repair")
        self._forget_s = asyncio.get_running_loop().time() + FORGET_IDS_S

    def disconnected(self) -> None:
        for sequencer in self._sequencers.values():
            sequencer.connection_lost()
        self._subscriptions.unsettle()

    def positions(self) -> dict[str, Offset]:
        return {namespace: sequencer.position for namespace, sequencer in self._sequencers.items()}

    def probe_answered(self, number: int, before: Mapping[str, Offset], states: Mapping[str, LogState]) -> None:
        now_s = asyncio.get_running_loop().time()
        lost = []
        for namespace, state in states.items():
            sequencer, top = self._sequencers[namespace], state.top or NO_OFFSET
            if state.fork and state.fork != self._forks.get(namespace, ""):
                self._announce_fork(namespace, state.fork)
            if offset_key(top) < offset_key(before[namespace]) or state.epoch != self._epochs.get(namespace):
                lost.append(sequencer)
            else:
                sequencer.verify(before[namespace], now_s)
                sequencer.log_reached(number, state.top)
        if lost and self._publisher.recovery is None:
            log.warning("Valkey has lost events: reading the logs again, and sending the last events again")
            self._start_restoring()
            for sequencer in lost:
                sequencer.held = True
                self._tasks.spawn(self._repair(sequencer), "repair")

    def beat(self, now_s: float, answered_s: float) -> None:
        if not self._must_restore:
            self._publisher.forget_older(answered_s)
            while self._recent_facts and self._recent_facts[0][0] < answered_s - KEEP_S:
                self._recent_facts.popleft()
        if self._link.state is LinkState.LIVE and now_s > self._forget_s:
            self._forget_s = now_s + FORGET_IDS_S
            for sequencer in self._sequencers.values():
                sequencer.forget_older()
            self._older_copies, self._copies = self._copies, set()
        self._subscriptions.drop_left(now_s)

    # ── incoming messages ─────────────────────────────────────────────────────────────────────────────────────────

    def _has_members(self, namespace: str, room: Room) -> bool:
        return self._members.has_members(namespace, room)

    def _deliver(self, event: Event) -> None:
        self._delivered += 1
        if event.name in self.facts and event.offset:
            self._recent_facts.append((asyncio.get_running_loop().time(), event))
        try:
            self._members.deliver(event)
        except Exception:  # a bug in the hub must not stop the sequencer: the next event concerns other clients
            self._failed_deliveries += 1
            log.exception("an event could not be delivered on this node")

    def _hear_volatile(self, read: Volatile, sequencer: Sequencer) -> None:
        event = read.event
        if event.namespace != sequencer.namespace:
            raise Poison("another namespace's event")
        if event.origin == self.address:
            return  # it was delivered here when it was published
        if read.once:
            if read.once in self._copies or read.once in self._older_copies:
                return
            self._copies.add(read.once)
        self._deliver(event)

    def _hear_node(self, channel: bytes, read: Logged | Volatile | Probe | BusCall) -> None:
        if type(read) is Probe:
            if not self._link.was_sent(read.number):
                raise Poison("this node did not send this probe")
            for sequencer in self._sequencers.values():
                sequencer.probed(read.number)
            self._link.heard(read.number)
        elif type(read) is BusCall:
            try:
                self._seal.check(channel, read.stamp, read.text)
            except NotSealed as why:
                # at most one line a minute: whoever may write to Valkey could fill the log
                self._seldom.say(logging.WARNING, NOT_SEALED, "", why=str(why))
                raise Poison(str(why)) from None
            for listener in self.on_call:
                listener(read.text)
        else:
            raise Poison("not for a node")

    async def _catch_up(self, sequencer: Sequencer) -> None:
        """Deliver what the log has after the sequencer's position. Raises RtError UNAVAILABLE; then call it again."""
        async with self._repair_locks[sequencer.namespace]:
            top, since, epoch, fork = await self._open(sequencer)
            # A change of the known epoch is handled by the next probe, which restores events too.
            if self._epochs.setdefault(sequencer.namespace, epoch) == epoch:
                self._forks.setdefault(sequencer.namespace, fork)
            if not sequencer.started:
                sequencer.start(top)
                sequencer.epoch = epoch
                if sequencer.rooms:  # clients that joined before Valkey was reachable may have missed events
                    self._resync(sequencer, list(sequencer.rooms))
                return
            emptied = sequencer.epoch not in ("", epoch)
            sequencer.epoch = epoch
            if emptied and since != sequencer.position:
                since = NO_OFFSET  # everything in the log was added since then
                self._resync_if_cut_off(sequencer)
            if since is None:
                # Another primary took writes beside the one of this node, for longer than nodes remember.
                sequencer.restart_at(top)
                self._announce_fork(sequencer.namespace, await self.logs.record_fork(sequencer.namespace))
                return
            if since != sequencer.position:
                sequencer.rewind(since)
            cut = done = False
            while not done:
                page = await self.logs.page(sequencer.namespace, sequencer.position)
                sequencer.catch_up(page.events, page.upto)
                cut, done = cut or page.cut, page.done
            if cut:
                self._resync(sequencer, await self.logs.rooms_after(sequencer.namespace, sequencer.rooms, since))

    async def _open(self, sequencer: Sequencer) -> Opened:
        opened = await self.logs.open(sequencer.namespace, sequencer.known_ends())
        if opened.since is None and not sequencer.forgot_ends:
            return opened._replace(since=sequencer.known_ends()[0][0])  # everything since this node's start is known
        return opened

    def _resync_if_cut_off(self, sequencer: Sequencer) -> None:
        """Tell the rooms' members to reload if this node was cut off when Valkey was emptied.

        All nodes send their last events again, which is enough for a node that heard everything until then. Events that
        were published while this node was cut off may be lost for good.
        """
        now_s = asyncio.get_running_loop().time()
        if sequencer.ends and now_s - sequencer.ends[-1].seen_s > KEEP_S - 1:
            self._resync(sequencer, list(sequencer.rooms))

    def _announce_fork(self, namespace: str, fork: str) -> None:
        self._forks[namespace] = fork
        log.error(
            "two Valkeys accepted writes at the same time for over a minute: all clients of %s are told to reload",
            namespace,
        )
        sequencer = self._sequencers[namespace]
        self._resync(sequencer, list(sequencer.rooms))

    async def _repair(self, sequencer: Sequencer) -> None:
        """Fill a gap while the connection is live. If the log cannot be read, the connection is dropped."""
        if self._repair_locks[sequencer.namespace].locked():
            return
        connection = self._link.connection
        try:
            for attempt in range(REPAIRS):
                self._repairs += 1
                await self._catch_up(sequencer)
                if self._link.state is not LinkState.LIVE or self._link.connection is not connection:
                    return  # the next catch-up will do it
                if sequencer.release(accept_gaps=attempt == REPAIRS - 1):
                    return
        except RtError as failed:
            self._link.drop(f"a repair failed: {failed.code}")

    def _resync(self, sequencer: Sequencer, rooms: list[Room]) -> None:
        if not rooms:
            return
        self._resyncs += 1
        log.warning("events of %s are lost: members of %d rooms are told to reload", sequencer.namespace, len(rooms))
        self._members.resync(sequencer.namespace, rooms)

    def _valkey_up(self, changed: bool) -> None:
        if changed or self._must_restore:
            self._start_restoring()

    def _start_restoring(self) -> None:
        """Restore what Valkey confirmed and may have lost, before anything new is sent."""
        self._must_restore = True
        if self._publisher.recovery is None:
            self._publisher.recovery = self._tasks.spawn(self._restore(), "restore")

    async def _restore(self) -> None:
        try:
            while self._must_restore and self._valkey.available:
                self._must_restore = False
                try:
                    epochs, common = dict[str, str](), dict[str, Offset]()
                    # First, so that new ids are greater than all ids given out before.
                    for namespace, sequencer in self._sequencers.items():
                        _, since, epochs[namespace], _ = await self._open(sequencer)
                        if epochs[namespace] == self._epochs.get(namespace):
                            common[namespace] = since or NO_OFFSET
                        # else it was emptied; nodes that were connected have received everything older
                    await self._restore_facts(common)  # before clients that are told to reload can read
                    for namespace in await self._publisher.send_again(common):
                        self._announce_fork(namespace, await self.logs.record_fork(namespace))
                    self._epochs = epochs
                except RtError as failed:
                    if failed.code == "UNAVAILABLE":
                        self._must_restore = True
                        await asyncio.sleep(RETRY_S)
        finally:
            self._publisher.recovery = None

    async def _restore_facts(self, common: Mapping[str, Offset]) -> None:
        received = [(event.offset, event) for _, event in self._recent_facts]
        facts = self._publisher.confirmed(self.facts, common) + received
        facts.sort(key=lambda fact: offset_key(fact[0]))  # what was read was there before
        try:
            lost = list({event.id: event for _, event in facts}.values())
            for put_down_again in self.on_facts_lost:
                await put_down_again(lost)
        except RtError as failed:
            if failed.code == "UNAVAILABLE":
                raise
            log.error("facts that Valkey may have lost could not be put down again: %s", failed.code)
        except Exception:  # events go on all the same
            log.exception("facts that Valkey may have lost could not be put down again")

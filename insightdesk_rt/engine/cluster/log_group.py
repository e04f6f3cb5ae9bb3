"""LogGroup: the logs of some namespaces that lie on one server: what this node hears of them and appends to them.

With one server, a node has one log group for all namespaces. In a cluster it has one for each namespace, and one for
calls between nodes, because each may lie on another primary, and may move to another one alone. A log group has its own
subscription connection and is repaired alone: while one primary is unreachable, the others' namespaces go on.

Incoming events go through one `Sequencer` per namespace, which keeps the order and notices gaps. Gaps and lost
connections (`SubscriptionLink`) are repaired here by reading the log (`Logs`). `Publisher` appends events. If the
server may have lost what it confirmed, the log group restores it before anything new is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.channel_subscriptions import ChannelSubscriptions
from insightdesk_rt.engine.cluster.envelope import BusCall, Logged, Poison, Probe, Volatile
from insightdesk_rt.engine.cluster.logs import Logs, Opened
from insightdesk_rt.engine.cluster.names import Partition
from insightdesk_rt.engine.cluster.publisher import KEEP_S, EventLogSettings, Publisher
from insightdesk_rt.engine.cluster.sequencer import Sequencer
from insightdesk_rt.engine.cluster.subscription import Subscription
from insightdesk_rt.engine.cluster.subscription_link import LinkState, LogState, SubscriptionLink
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.backplane import LocalMembers
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, offset_key
from insightdesk_rt.engine.tasks import OwnedTasks

log = logging.getLogger(__name__)

SUBSCRIBE_ALL_S = 10.0  # 50,000 channels take 0.04 s; a server in trouble more
# A publisher that was cut off sends its events again if Valkey lost them meanwhile. This node must then still know
# their ids. 1,000 events a second take some 12 MB.
FORGET_IDS_S = 60.0
REPAIRS = 3  # the first fills a real gap; a gap that is left has a forged predecessor
RETRY_S = 0.1
HEAD_BYTES = 65_536  # for the names of rooms beside the payload


class LogGroupOwner(Protocol):
    """What all log groups of a node share."""

    address: str
    members: LocalMembers
    facts: Collection[str]
    on_facts_lost: list[Callable[[Sequence[Event]], Awaitable[None]]]

    def hear_call(self, channel: bytes, call: BusCall) -> None:
        """Take a call of another node. Raises Poison."""
        ...


class LogGroup:
    """`home` is the partition that the log group's own channel is in; `call_channels` are those that calls come on."""

    def __init__(
        self,
        valkey: Valkey,
        home: Partition,
        namespaces: Iterable[str],
        call_channels: Sequence[str],
        owner: LogGroupOwner,
        settings: EventLogSettings,
        logs: Logs,
    ) -> None:
        self._valkey = valkey
        self._owner = owner
        self._logs = logs
        self.sequencers = {namespace: Sequencer(namespace, self._deliver) for namespace in namespaces}
        self._channel = home.node(owner.address)
        self._node_channels = tuple(dict.fromkeys(name.encode() for name in (self._channel, *call_channels)))
        partitions = {namespace: valkey.names.namespace(namespace) for namespace in self.sequencers}
        self.link = SubscriptionLink(valkey, owner.address, self._channel, partitions, self)
        self.subscriptions = ChannelSubscriptions(valkey, self.sequencers, self.link, self._has_members)
        self.publisher = Publisher(valkey, owner.address, settings, self.position, self.link.watched)
        self._max_message = settings.max_event_bytes + HEAD_BYTES
        self._recent_facts: deque[tuple[float, Event]] = deque()
        self._must_restore = False
        self._epochs: dict[str, str] = {}  # of the logs that have all that this node published in them
        self._forks: dict[str, str] = {}  # when each namespace's rooms were last told to reload
        self._forget_s = 0.0
        self._copies, self._older_copies = set[str](), set[str]()  # of volatile events for several rooms
        self._repair_locks = {namespace: asyncio.Lock() for namespace in self.sequencers}
        self._tasks = OwnedTasks(log)
        self._received = self._delivered = self._poison = self._repairs = self._resyncs = self._failed_deliveries = 0

    def start(self) -> None:
        self._valkey.watch(self._channel, self._valkey_up)
        self.link.start()

    async def close(self) -> None:
        await self.link.close()
        await self._tasks.close()

    @property
    def subscribed(self) -> bool:
        """Does this node receive everything of these logs that it should at this moment?"""
        return self.link.proven_live and not any(sequencer.held for sequencer in self.sequencers.values())

    @property
    def available(self) -> bool:
        """Do commands work, and is the subscription up, or lost less than a second ago?"""
        up = self.link.state is not LinkState.DISCONNECTED or self.link.heard_recently
        return up and self._valkey.serves(self._channel)

    async def reach(self) -> None:
        """Return once the server has answered. Raises RtError UNAVAILABLE."""
        if not self.available:
            raise RtError("UNAVAILABLE")
        await self._valkey.command("PING", near=self._channel)  # only this notices a server that froze a moment ago

    async def recovered(self) -> None:
        """Wait until what the server may have lost was restored. Raises RtError UNAVAILABLE."""
        if not self._valkey.serves(self._channel):
            raise RtError("UNAVAILABLE")
        await self.publisher.recovered()

    def position(self, namespace: str) -> Offset:
        return self.sequencers[namespace].position

    @property
    def counters(self) -> dict[str, int]:
        sequencers, out = self.sequencers.values(), self.publisher
        return {
            "received": self._received,
            "delivered": self._delivered,
            "duplicates": sum(sequencer.duplicates + sequencer.skipped for sequencer in sequencers),
            "poison": self._poison + sum(sequencer.poison for sequencer in sequencers),
            "gaps": sum(sequencer.gaps for sequencer in sequencers),
            "repairs": self._repairs,
            "repaired": sum(sequencer.repaired for sequencer in sequencers),
            "resyncs": self._resyncs,
            "connects": self.link.connects,
            "appended": out.appended,
            "published": out.published,
            "failed": out.failed + self._failed_deliveries,
            "sent_again": out.again,
            "channels": len(self.subscriptions),
        }

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
            elif (subscription := self.subscriptions.get(channel)) is None:
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
        channels = [*self._node_channels, *self.subscriptions.channels()]
        async with asyncio.timeout(SUBSCRIBE_ALL_S):
            if not await connection.subscribe(channels):
                raise ConnectionError("connection lost while subscribing")
        # Read only now: the log has everything from before the subscription, and later events are heard.
        for sequencer in self.sequencers.values():
            await self._catch_up(sequencer)

    def went_live(self) -> None:
        self.subscriptions.settle()
        for sequencer in self.sequencers.values():
            if not sequencer.release():
                self._tasks.spawn(self._repair(sequencer), "repair")
        self._forget_s = asyncio.get_running_loop().time() + FORGET_IDS_S

    def disconnected(self) -> None:
        for sequencer in self.sequencers.values():
            sequencer.connection_lost()
        self.subscriptions.unsettle()

    def positions(self) -> dict[str, Offset]:
        return {namespace: sequencer.position for namespace, sequencer in self.sequencers.items()}

    def probe_answered(self, number: int, before: Mapping[str, Offset], states: Mapping[str, LogState]) -> None:
        now_s = asyncio.get_running_loop().time()
        lost = []
        for namespace, state in states.items():
            sequencer, top = self.sequencers[namespace], state.top or NO_OFFSET
            if state.fork and state.fork != self._forks.get(namespace, ""):
                self._announce_fork(namespace, state.fork)
            if offset_key(top) < offset_key(before[namespace]) or state.epoch != self._epochs.get(namespace):
                lost.append(sequencer)
            else:
                sequencer.verify(before[namespace], now_s)
                sequencer.log_reached(number, state.top)
        if lost and self.publisher.recovery is None:
            log.warning("Valkey has lost events: reading the logs again, and sending the last events again")
            self._start_restoring()
            for sequencer in lost:
                sequencer.held = True
                self._tasks.spawn(self._repair(sequencer), "repair")

    def beat(self, now_s: float, answered_s: float) -> None:
        if not self._must_restore:
            self.publisher.forget_older(answered_s)
            while self._recent_facts and self._recent_facts[0][0] < answered_s - KEEP_S:
                self._recent_facts.popleft()
        if self.link.state is LinkState.LIVE and now_s > self._forget_s:
            self._forget_s = now_s + FORGET_IDS_S
            for sequencer in self.sequencers.values():
                sequencer.forget_older()
            self._older_copies, self._copies = self._copies, set()
        self.subscriptions.drop_left(now_s)

    # ── incoming messages ─────────────────────────────────────────────────────────────────────────────────────────

    def _has_members(self, namespace: str, room: Room) -> bool:
        return self._owner.members.has_members(namespace, room)

    def _deliver(self, event: Event) -> None:
        self._delivered += 1
        if event.name in self._owner.facts and event.offset:
            self._recent_facts.append((asyncio.get_running_loop().time(), event))
        try:
            self._owner.members.deliver(event)
        except Exception:  # a bug in the hub must not stop the sequencer: the next event concerns other clients
            self._failed_deliveries += 1
            log.exception("an event could not be delivered on this node")

    def _hear_volatile(self, read: Volatile, sequencer: Sequencer) -> None:
        event = read.event
        if event.namespace != sequencer.namespace:
            raise Poison("another namespace's event")
        if event.origin == self._owner.address:
            return  # it was delivered here when it was published
        if read.once:
            if read.once in self._copies or read.once in self._older_copies:
                return
            self._copies.add(read.once)
        self._deliver(event)

    def _hear_node(self, channel: bytes, read: Logged | Volatile | Probe | BusCall) -> None:
        if type(read) is Probe:
            if not self.link.was_sent(read.number):
                raise Poison("this node did not send this probe")
            for sequencer in self.sequencers.values():
                sequencer.probed(read.number)
            self.link.heard(read.number)
        elif type(read) is BusCall:
            self._owner.hear_call(channel, read)
        else:
            raise Poison("not for a node")

    async def _catch_up(self, sequencer: Sequencer) -> None:
        """Deliver what the log has after the sequencer's position. Raises RtError UNAVAILABLE; then call it again."""
        async with self._repair_locks[sequencer.namespace]:
            top, since, epoch, fork, apart = await self._open(sequencer)
            # The next probe handles a change of the known epoch, and restores events too.
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
                since, apart = NO_OFFSET, False  # everything in the log was added since then
                self._resync_if_cut_off(sequencer)
            if since is None:
                # Another primary took writes beside the one of this node, for longer than nodes remember.
                sequencer.restart_at(top)
                self._announce_fork(sequencer.namespace, await self._logs.record_fork(sequencer.namespace))
                return
            if since != sequencer.position:
                sequencer.rewind(since)
            cut = done = False
            while not done:
                page = await self._logs.page(sequencer.namespace, sequencer.position)
                sequencer.catch_up(page.events, page.upto)
                cut, done = cut or page.cut, page.done
            if sequencer.uncertain:
                uncertain, sequencer.uncertain = sequencer.uncertain, {}
                self._owner.members.resync_newer(sequencer.namespace, uncertain)
            if apart:  # a client that resumed here may lack what the log had before that
                self._resync(sequencer, list(sequencer.rooms))
            elif cut:
                self._resync(sequencer, await self._logs.rooms_after(sequencer.namespace, sequencer.rooms, since))

    async def _open(self, sequencer: Sequencer) -> Opened:
        opened = await self._logs.open(sequencer.namespace, sequencer.known_ends())
        if opened.since is None and not sequencer.forgot_ends:
            # Everything since this node's start is known.
            return opened._replace(since=sequencer.known_ends()[0][0], apart=True)
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
        sequencer = self.sequencers[namespace]
        self._resync(sequencer, list(sequencer.rooms))

    async def _repair(self, sequencer: Sequencer) -> None:
        """Fill a gap while the connection is live. If the log cannot be read, the connection is dropped."""
        if self._repair_locks[sequencer.namespace].locked():
            return
        connection = self.link.connection
        try:
            for attempt in range(REPAIRS):
                self._repairs += 1
                await self._catch_up(sequencer)
                if self.link.state is not LinkState.LIVE or self.link.connection is not connection:
                    return  # the next catch-up will do it
                if sequencer.release(accept_gaps=attempt == REPAIRS - 1):
                    return
        except RtError as failed:
            self.link.drop(f"a repair failed: {failed.code}")

    def _resync(self, sequencer: Sequencer, rooms: list[Room]) -> None:
        if not rooms:
            return
        self._resyncs += 1
        log.warning("events of %s are lost: members of %d rooms are told to reload", sequencer.namespace, len(rooms))
        self._owner.members.resync(sequencer.namespace, rooms)

    def _valkey_up(self, changed: bool) -> None:
        if changed or self._must_restore:
            self._start_restoring()

    def _start_restoring(self) -> None:
        """Restore what Valkey confirmed and may have lost, before anything new is sent."""
        self._must_restore = True
        if self.publisher.recovery is None:
            self.publisher.recovery = self._tasks.spawn(self._restore(), "restore")

    async def _restore(self) -> None:
        try:
            while self._must_restore and self._valkey.serves(self._channel):
                self._must_restore = False
                try:
                    epochs, common = dict[str, str](), dict[str, Offset]()
                    # First, so that new ids are greater than all ids given out before.
                    for namespace, sequencer in self.sequencers.items():
                        _, since, epochs[namespace], *_ = await self._open(sequencer)
                        if epochs[namespace] == self._epochs.get(namespace):
                            common[namespace] = since or NO_OFFSET
                        # else it was emptied; nodes that were connected have received everything older
                    await self._restore_facts(common)  # before clients that are told to reload can read
                    for namespace in await self.publisher.send_again(common):
                        self._announce_fork(namespace, await self._logs.record_fork(namespace))
                    self._epochs = epochs
                except RtError as failed:
                    if failed.code == "UNAVAILABLE":
                        self._must_restore = True
                        await asyncio.sleep(RETRY_S)
        finally:
            self.publisher.recovery = None

    async def _restore_facts(self, common: Mapping[str, Offset]) -> None:
        received = [(event.offset, event) for _, event in self._recent_facts]
        facts = self.publisher.confirmed(self._owner.facts, common) + received
        facts.sort(key=lambda fact: offset_key(fact[0]))  # what was read was there before
        try:
            lost = list({event.id: event for _, event in facts}.values())
            for put_down_again in self._owner.on_facts_lost:
                await put_down_again(lost)
        except RtError as failed:
            if failed.code == "UNAVAILABLE":
                raise
            log.error("facts that Valkey may have lost could not be put down again: %s", failed.code)
        except Exception:  # events go on all the same
            log.exception("facts that Valkey may have lost could not be put down again")

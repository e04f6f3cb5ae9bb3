"""The other nodes, through Valkey: nothing acknowledged is lost, and every member of a room sees one order.

An append is one script: XADD to the namespace's log, remember the event's id, PUBLISH on each room's channel the entry
with its offset and the room's offset before it. A node subscribes to the channels of rooms it has members in, so it
pays for what its own clients care about (`ChannelSubscriptions`). What comes in goes through a `Sequencer` per
namespace, which keeps the order and notices holes; holes, and lost connections (`SubscriptionLink`), are mended
here, by reading the log (`Logs`). `Publisher` is the way out.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.channel_subscriptions import ChannelSubscriptions
from insightdesk_rt.engine.cluster.envelope import BusCall, Logged, Poison, Probe, Volatile
from insightdesk_rt.engine.cluster.logs import MOST, READS_AT_ONCE, Logs, Opened
from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.publisher import KEEP_S, Keep, Publisher
from insightdesk_rt.engine.cluster.seal import NotSealed, Seal
from insightdesk_rt.engine.cluster.sequencer import Sequencer
from insightdesk_rt.engine.cluster.subscription import Subscription
from insightdesk_rt.engine.cluster.subscription_link import LinkState, SubscriptionLink
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.backplane import Backlog, LocalMembers
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room, offset_key

log = logging.getLogger(__name__)

START_S = 1.0
SUBSCRIBE_ALL_S = 10.0  # 50,000 channels take 0.04 s; a server in trouble more
# A publisher that was cut off sends what it published before that again, if Valkey lost it meanwhile: this node must
# then still know it. 1,000 events a second are some 12 MB.
FORGET_IDS_S = 60.0
REPAIRS = 3  # a real hole is filled by the first; one that is not was made up by somebody
RETRY_S = 0.1
SAY_EVERY_S = 60.0
HEAD_BYTES = 65_536  # room for names of rooms beside the payload


class _NoMembers:
    """Stands for the hub until it is attached."""

    def deliver(self, event: Event) -> None:
        pass

    def has_members(self, namespace: str, room: Room) -> bool:
        return False

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
        pass


class ValkeyBackplane:
    """Implements hub.backplane.Backplane. One per process; `address` is its name to the other nodes.

    `seal` marks what nodes say to each other; without one anybody who may write to Valkey is taken for a node.
    """

    def __init__(
        self,
        valkey: Valkey,
        namespaces: Iterable[str],
        node_id: str,
        *,
        log_max_entries: int = Keep().entries,
        log_max_bytes: int = Keep().bytes,
        max_event_bytes: int = 262_144,
        seal: Seal | None = None,
        log_reads_at_once: int = READS_AT_ONCE,
        facts: Collection[str] = (),
    ) -> None:
        self._seal = seal or Seal(b"")
        self.address = f"{node_id}.{secrets.token_hex(4)}"
        self._members: LocalMembers = _NoMembers()
        self.on_call: list[Callable[[bytes], None]] = []
        # Only this server stores what events of these names say. When Valkey may have lost it, the listeners receive
        # the events of the last seconds: those that this node published, and those that it received from others.
        self.facts = facts
        self.on_facts_lost: list[Callable[[Sequence[Event]], Awaitable[None]]] = []
        self._heard: deque[tuple[float, Event]] = deque()
        self._valkey = valkey
        self._names = Names(valkey.prefix)
        self._lanes = {namespace: Sequencer(namespace, self._deliver) for namespace in namespaces}
        self._node_channel = self._names.node(self.address).encode()
        self._all_channel = self._names.all_nodes.encode()
        self.logs = Logs(valkey, self._names, log_reads_at_once)
        self._link = SubscriptionLink(valkey, self._names, self.address, self)
        self._interests = ChannelSubscriptions(valkey, self._names, self._lanes, self._link, self._has_members)
        self._publisher = Publisher(
            valkey, self._names, self.address, Keep(log_max_entries, log_max_bytes), max_event_bytes, self.position
        )
        self._max_message = max_event_bytes + HEAD_BYTES
        self._owing = False
        self._say_s = 0.0  # when the next line about a call without our seal may be written
        self._epoch = self._fork = ""
        self._forget_s = 0.0
        self._copies: set[str] = set()
        self._older_copies: set[str] = set()
        self._mending = {namespace: asyncio.Lock() for namespace in self._lanes}
        self._tasks: set[asyncio.Task[None]] = set()
        self._received = self._delivered = self._poison = self._repairs = self._resyncs = self._failed_deliveries = 0

    async def start(self) -> None:
        """Begin to listen, and wait a moment for it. Does not fail: `subscribed` says how it went."""
        self._valkey.on_up.append(self._valkey_up)
        self._link.start()
        try:
            async with asyncio.timeout(START_S):
                await self._link.first.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        await self._link.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def attach(self, members: LocalMembers) -> None:
        self._members = members

    @property
    def subscribed(self) -> bool:
        """Does this node hear everything it should, at this moment? For readiness."""
        return self._link.hears and not any(lane.held for lane in self._lanes.values())

    @property
    def available(self) -> bool:
        """Are commands up, and the subscription too, or lost so short a time ago that it is as good as back?"""
        return self._valkey.available and (self._link.state is not LinkState.AWAY or self._link.heard_lately)

    async def reach(self) -> None:
        if not self.available:
            raise RtError("UNAVAILABLE")
        await self._valkey.command("PING")  # one that froze a moment ago is noticed by its silence alone

    @property
    def counters(self) -> dict[str, int]:
        lanes, out = self._lanes.values(), self._publisher
        return {
            "received": self._received,
            "delivered": self._delivered,
            "duplicates": sum(lane.duplicates + lane.skipped for lane in lanes),
            "reads_refused": self.logs.budget.refused,
            "poison": self._poison + sum(lane.poison for lane in lanes) + self.logs.poison,
            "gaps": sum(lane.gaps for lane in lanes),
            "repairs": self._repairs,
            "repaired": sum(lane.repaired for lane in lanes),
            "resyncs": self._resyncs,
            "connects": self._link.connects,
            "appended": out.appended,
            "published": out.published,
            "failed": out.failed + self._failed_deliveries,
            "sent_again": out.again,
            "channels": len(self._interests),
        }

    # ── the hub's verbs ───────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, event: Event) -> Offset:
        return await self._publisher.append(event)

    def publish(self, event: Event) -> None:
        self._publisher.publish(event)

    async def recovered(self) -> None:
        """Wait until Valkey has again what it may have lost. For stores of facts. Raises RtError UNAVAILABLE."""
        if not self._valkey.available:
            raise RtError("UNAVAILABLE")
        await self._publisher.recovered()

    def position(self, namespace: str) -> Offset:
        return self._lanes[namespace].position

    async def read(
        self, namespace: str, rooms: Iterable[Room], since: Offset, most: int = MOST, user: str = ""
    ) -> Backlog:
        """As declared; `complete` is False also for an offset of a log that Valkey has lost. Raises BAD_REQUEST."""
        wanted = tuple(rooms)
        if not wanted:
            return Backlog([], True, self.position(namespace))
        return await self.logs.read(namespace, wanted, since, most, user)

    async def listen(self, namespace: str, room: Room) -> Offset:
        return await self._interests.listen(namespace, room)

    def unlisten(self, namespace: str, room: Room) -> None:
        self._interests.unlisten(namespace, room)

    # ── between nodes ─────────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, address: str, text: str) -> bool:
        """Send a call to one node (its `on_call`). False: Valkey is known to be away."""
        return self._call(self._names.node(address), text)

    def tell_all(self, text: str) -> bool:
        """Send a call to all nodes, this one included."""
        return self._call(self._names.all_nodes, text)

    def _call(self, channel: str, text: str) -> bool:
        return self._valkey.send("PUBLISH", channel, envelope.call(self._seal.stamp(channel, text), text))

    # ── what the link asks ────────────────────────────────────────────────────────────────────────────────────────

    def received(self, channel: bytes, message: bytes) -> None:
        """hot: once per message of the subscription connection."""
        self._received += 1
        try:
            if len(message) > self._max_message:
                raise Poison("too long")
            read = envelope.read(message)
            if channel in (self._node_channel, self._all_channel):
                self._hear_node(channel, read)
            elif (interest := self._interests.get(channel)) is None:
                pass  # left meanwhile
            elif type(read) is Logged:
                if not interest.lane.hear(read, interest):
                    self._spawn(self._repair(interest.lane))
            elif type(read) is Volatile:
                self._hear_volatile(read, interest.lane)
            else:
                raise Poison("not for a room")
        except Poison as why:
            self._poison += 1
            log.debug("dropped a message on %r: %s", channel[:200], why)
        except Exception:  # raised here it would cost the connection
            log.exception("a message could not be worked off")

    async def rise(self, connection: Subscription) -> None:
        # Rooms that are asked for from here on wait for the end of it (`listen`): this list is all there is.
        channels = [self._node_channel, self._all_channel, *self._interests.channels()]
        async with asyncio.timeout(SUBSCRIBE_ALL_S):
            if not await connection.subscribe(channels):
                raise ConnectionError("lost while subscribing")
        # Only now: what is in the log by this time is read, what comes later is heard.
        for lane in self._lanes.values():
            await self._catch_up(lane)

    def live(self) -> None:
        self._interests.settle()
        for lane in self._lanes.values():
            if not lane.release():
                self._spawn(self._repair(lane))
        self._forget_s = asyncio.get_running_loop().time() + FORGET_IDS_S

    def fell(self) -> None:
        for lane in self._lanes.values():
            lane.lose()
        self._interests.unsettle()

    def positions(self) -> dict[str, Offset]:
        return {namespace: lane.position for namespace, lane in self._lanes.items()}

    def told(self, before: dict[str, Offset], tops: dict[str, Offset]) -> None:
        shorter = any(offset_key(tops.get(ns, NO_OFFSET)) < offset_key(at) for ns, at in before.items())
        if (fork := tops.get("#", "")) and fork != self._fork:
            self._told_of_fork(fork)
        if not shorter:
            now_s = asyncio.get_running_loop().time()
            for namespace, position in before.items():
                self._lanes[namespace].verify(position, now_s)
        if (shorter or tops.get("@") != self._epoch) and self._publisher.recovery is None:
            log.warning("Valkey has lost what it had: reading the logs again, and sending again what was sent last")
            self._recover()
            for lane in self._lanes.values():
                lane.held = True
                self._spawn(self._repair(lane))

    def beat(self, now_s: float, answered_s: float) -> None:
        if not self._owing:
            self._publisher.forget_older(answered_s)
            while self._heard and self._heard[0][0] < answered_s - KEEP_S:
                self._heard.popleft()
        if self._link.state is LinkState.LIVE and now_s > self._forget_s:
            self._forget_s = now_s + FORGET_IDS_S
            for lane in self._lanes.values():
                lane.forget_older()
            self._older_copies, self._copies = self._copies, set()
        self._interests.drop_left(now_s)

    # ── what happens inside ───────────────────────────────────────────────────────────────────────────────────────

    def _has_members(self, namespace: str, room: Room) -> bool:
        return self._members.has_members(namespace, room)

    def _deliver(self, event: Event) -> None:
        self._delivered += 1
        if event.name in self.facts and event.offset:
            self._heard.append((asyncio.get_running_loop().time(), event))
        try:
            self._members.deliver(event)
        except Exception:  # a mistake further up must not stop the lane: the next event is another's
            self._failed_deliveries += 1
            log.exception("an event could not be delivered here")

    def _hear_volatile(self, read: Volatile, lane: Sequencer) -> None:
        event = read.event
        if event.namespace != lane.namespace:
            raise Poison("another namespace's event")
        if event.origin == self.address:
            return  # delivered here when it was published
        if read.once:
            if read.once in self._copies or read.once in self._older_copies:
                return
            self._copies.add(read.once)
        self._deliver(event)

    def _hear_node(self, channel: bytes, read: Logged | Volatile | Probe | BusCall) -> None:
        if type(read) is Probe:
            if not self._link.sent(read.number):
                raise Poison("a probe that was not sent")
            tops = dict(read.tops)
            for namespace, lane in self._lanes.items():
                lane.probed(read.number, tops.get(namespace))
            self._link.heard(read.number)
        elif type(read) is BusCall:
            try:
                self._seal.check(channel, read.stamp, read.text)
            except NotSealed as why:
                self._say_not_sealed(str(why))
                raise Poison(str(why)) from None
            for listener in self.on_call:
                listener(read.text)
        else:
            raise Poison("not for a node")

    def _say_not_sealed(self, why: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._say_s:  # anybody who may write to Valkey could fill the log with it
            self._say_s = now_s + SAY_EVERY_S
            log.warning("a call between nodes was not taken: %s; have all nodes the same secret?", why)

    async def _catch_up(self, lane: Sequencer) -> None:
        """Deliver what the log has after the lane's position. Raises RtError UNAVAILABLE; what was read stays read."""
        async with self._mending[lane.namespace]:
            top, since, epoch, fork = await self._open(lane)
            if not self._epoch:  # another one than the known is seen to by the next probe, which brings back too
                self._epoch, self._fork = epoch, fork
            if not lane.started:
                lane.start(top)
                lane.epoch = epoch
                if lane.rooms:  # whoever joined while Valkey was not there yet may have missed anything
                    self._resync(lane, list(lane.rooms))
                return
            emptied = lane.epoch not in ("", epoch)
            lane.epoch = epoch
            if emptied and since != lane.position:
                since = NO_OFFSET  # all there is was put there since then
                self._tell_if_cut_off(lane)
            if since is None:
                # Another primary, which took writes beside this node's for longer than anybody remembers.
                lane.begin_anew(top)
                self._told_of_fork(await self.logs.tell_fork())
                return
            if since != lane.position:
                lane.go_back(since)
            cut = done = False
            while not done:
                page = await self.logs.page(lane.namespace, lane.position)
                lane.catch_up(page.events, page.upto)
                cut, done = cut or page.cut, page.done
            if cut:
                self._resync(lane, await self.logs.rooms_after(lane.namespace, lane.rooms, since))

    async def _open(self, lane: Sequencer) -> Opened:
        opened = await self.logs.open(lane.namespace, lane.known_ends())
        if opened.since is None and not lane.forgot:
            return opened._replace(since=lane.known_ends()[0][0])  # all since this node's start is known
        return opened

    def _tell_if_cut_off(self, lane: Sequencer) -> None:
        """Valkey was emptied, and is given by all nodes what they published last: enough for who heard until then.

        What was published while this node was cut off before that may be lost for good.
        """
        now_s = asyncio.get_running_loop().time()
        if lane.ends and now_s - lane.ends[-1].seen_s > KEEP_S - 1:
            self._resync(lane, list(lane.rooms))

    def _told_of_fork(self, fork: str) -> None:
        self._fork = fork
        log.error("two Valkeys took writes beside each other for over a minute: all clients are told to load anew")
        for lane in self._lanes.values():
            self._resync(lane, list(lane.rooms))

    async def _repair(self, lane: Sequencer) -> None:
        """Fill a hole while the connection lives; what cannot be read makes it a lost connection."""
        if self._mending[lane.namespace].locked():
            return
        connection = self._link.connection
        try:
            for attempt in range(REPAIRS):
                self._repairs += 1
                await self._catch_up(lane)
                if self._link.state is not LinkState.LIVE or self._link.connection is not connection:
                    return  # rising sees to it
                if lane.release(forgiving=attempt == REPAIRS - 1):
                    return
        except RtError as failed:
            self._link.drop(f"a repair failed: {failed.code}")

    def _resync(self, lane: Sequencer, rooms: list[Room]) -> None:
        if not rooms:
            return
        self._resyncs += 1
        log.warning("events of %s cannot be had any more: %d rooms are told", lane.namespace, len(rooms))
        self._members.resync(lane.namespace, rooms)

    def _valkey_up(self, changed: bool) -> None:
        if changed or self._owing:
            self._recover()

    def _recover(self) -> None:
        """Valkey may have lost what it had confirmed: bring it back before anything new is sent."""
        self._owing = True
        if self._publisher.recovery is None:
            self._publisher.recovery = self._spawn(self._bring_back())

    async def _bring_back(self) -> None:
        try:
            while self._owing and self._valkey.available:
                self._owing = False
                try:
                    epoch, common = "", dict[str, Offset]()
                    for lane in self._lanes.values():  # first: new ids go on beyond all that were given out
                        _, since, epoch, _ = await self._open(lane)
                        common[lane.namespace] = since or NO_OFFSET
                    if epoch != self._epoch:
                        common.clear()  # it was emptied, and whoever was here has had what is older
                    await self._put_down_again(common)  # before others can read: who is told to load anew loads all
                    if not await self._publisher.send_again(common):
                        self._told_of_fork(await self.logs.tell_fork())
                    self._epoch = epoch
                except RtError as failed:
                    if failed.code == "UNAVAILABLE":
                        self._owing = True
                        await asyncio.sleep(RETRY_S)
        finally:
            self._publisher.recovery = None

    async def _put_down_again(self, common: Mapping[str, Offset]) -> None:
        facts = self._publisher.confirmed(self.facts, common) + [(event.offset, event) for _, event in self._heard]
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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

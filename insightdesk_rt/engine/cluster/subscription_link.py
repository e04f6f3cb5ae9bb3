"""SubscriptionLink: keeps the subscription connection up, and notices when it has died.

    DISCONNECTED ──connected──▶ CATCHING_UP ──logs read──▶ LIVE ──connection lost──▶ DISCONNECTED, and so on

DISCONNECTED: there is no connection; new rooms are only noted. CATCHING_UP: the channels are subscribed again, and the
logs are read to find what was missed; callers that listen to a new room wait until that is done. LIVE: messages are
passed on as they come.

A dead TCP connection looks like a quiet one, so it is probed. Every 250 ms this node publishes a number to its own
channel, through the command connection. Valkey's reply says how many connections received it: none means that the
subscription is connected to another server, or to none. A probe that Valkey confirmed and that has not come in after a
second means that the connection is dead on the way. While commands fail, nothing is decided: TCP keeps what is under
way, and the first probe that succeeds decides.

A probe also says how far this node has heard the logs. Its pipeline first reads the end of each log and then publishes
the number. Why that is enough: an append stores the log's new end and publishes the event in one step. So every event
up to an end that was read had been published before the read. The server executes one connection's commands in their
order, so the read comes before the number's publication, and it sends a subscriber its messages in the order of their
publication. Hence, once the number has come in, all events up to that end have come in before it, if their channels
were subscribed. One message per probe proves that for all logs of the server, whatever their number.

This holds only if one server executes the whole pipeline, and it is the one that this connection is subscribed to. With
several servers each has its own link, which reads only the logs on its server, and a channel of this node there.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.names import Partition
from insightdesk_rt.engine.cluster.resp import Arg
from insightdesk_rt.engine.cluster.subscription import Subscription, dial
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset
from insightdesk_rt.engine.tasks import OwnedTasks

log = logging.getLogger(__name__)

PROBE_S = 0.25
DEAD_S = 1.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.02, 1.0


class LinkState(enum.Enum):
    DISCONNECTED = "disconnected"
    CATCHING_UP = "catching up"
    LIVE = "live"


class LogState(NamedTuple):
    """What a probe read of a log. `top`: its end. All are None if the server has no such log; `fork` may be None."""

    top: Offset | None
    epoch: str | None
    fork: str | None


class LinkOwner(Protocol):
    """What the backplane does when the connection's state changes."""

    def received(self, channel: bytes, message: bytes) -> None: ...

    async def connected(self, connection: Subscription) -> None:
        """Subscribe and catch up. Raises RtError or ConnectionError: the link drops the connection and tries again."""
        ...

    def went_live(self) -> None: ...

    def disconnected(self) -> None: ...

    def positions(self) -> dict[str, Offset]: ...

    def probe_answered(self, number: int, before: Mapping[str, Offset], states: Mapping[str, LogState]) -> None:
        """A probe was answered; it may have come in or not.

        `states`: namespace → its log just before the probe was published; `before`: this node's positions when the
        probe was sent.
        """
        ...

    def beat(self, now_s: float, answered_s: float) -> None:
        """Called every PROBE_S. `answered_s`: when the last answered probe was sent."""
        ...


class SubscriptionLink:
    """`channel`: this node's own, for probes. `logs`: namespace → partition, of the logs on this link's server."""

    def __init__(
        self, valkey: Valkey, address: str, channel: str, logs: Mapping[str, Partition], owner: LinkOwner
    ) -> None:
        self.state = LinkState.DISCONNECTED
        self.connection: Subscription | None = None
        self.caught_up = asyncio.Event()  # set unless CATCHING_UP
        self.caught_up.set()
        self.first_live = asyncio.Event()  # set once it was live
        self.connects = self.bytes = 0
        self._times_live = 0
        self._valkey = valkey
        self._address = address
        self._channel = channel
        self._logs = logs
        self._owner = owner
        self.where = partial(valkey.where, channel)  # finds the server, before each connect
        self.watched: set[str] = set()  # namespaces whose events an admin watches; only in a cluster
        self._ended: asyncio.Future[str] | None = None
        self._retry = asyncio.Event()
        self._number = 0
        self._heard = 0
        self._heard_s = 0.0
        self._confirmed: deque[tuple[int, float]] = deque()  # probes that Valkey confirmed and that have not come in
        self._answered_s = 0.0
        self._tasks = OwnedTasks(log)

    def start(self) -> None:
        self._valkey.watch(self._channel, lambda changed: self._retry.set())
        self._tasks.spawn(self._run(), "subscription")
        self._tasks.spawn(self._beat(), "probes")

    async def close(self) -> None:
        await self._tasks.close()
        self.drop("closed by us")

    @property
    def proven_live(self) -> bool:
        """Is the connection live, and did a probe prove it within the last second?"""
        return self.state is LinkState.LIVE and asyncio.get_running_loop().time() - self._heard_s < DEAD_S + PROBE_S

    @property
    def heard_recently(self) -> bool:
        """Did a probe come in within the last second?"""
        return asyncio.get_running_loop().time() - self._heard_s < DEAD_S

    def drop(self, why: str) -> None:
        """End the connection, if there is one; the owner's `disconnected` is called before this returns."""
        if self.connection is not None:
            self.connection.abort(why)

    def probe(self, namespaces: Collection[str] | None = None) -> int:
        """Send a probe now; return its number. Once it has come in, channels subscribed before it are heard.

        `namespaces`: whose logs it reads; None: all.
        """
        self._number += 1
        self._tasks.spawn(self._probe(self._number, self._logs if namespaces is None else namespaces), "probe")
        return self._number

    def was_sent(self, number: int) -> bool:
        """Has this node sent a probe of this number? A forged one would hide that the connection is dead."""
        return number <= self._number

    @property
    def last_heard(self) -> int:
        """The number of the last probe that came in."""
        return self._heard

    def heard(self, number: int) -> None:
        """Note that a probe came in."""
        self._heard = max(self._heard, number)
        self._heard_s = asyncio.get_running_loop().time()
        while self._confirmed and self._confirmed[0][0] <= number:
            self._confirmed.popleft()

    async def _run(self) -> None:
        misses = 0
        while True:
            self._retry.clear()
            times_live = self._times_live
            why = await self._session()
            self._valkey.lost(self._channel)
            misses = 1 if self._times_live > times_live else misses + 1
            if misses == 1:  # once per outage
                log.warning("subscription lost: %s", why)
            pause = min(BACKOFF_MIN_S * 2 ** min(misses, 10), BACKOFF_MAX_S) * random.uniform(0.5, 1)
            try:
                async with asyncio.timeout(pause):
                    await self._retry.wait()  # commands work again: reconnect at once
            except TimeoutError:
                pass

    async def _session(self) -> str:
        """Connect, catch up, and serve until the connection ends. Returns why it ended."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended = ended
        connection: Subscription | None = None
        try:
            connection = self.connection = await self._dial(lambda why: self._lost(ended, why))
            self.state = LinkState.CATCHING_UP
            self.caught_up.clear()
            self._confirmed.clear()
            self.connects += 1
            await self._owner.connected(connection)
            # No await from here to went_live(): what connected() found complete would not be any more.
            if self.connection is connection:
                self.state = LinkState.LIVE
                self._times_live += 1
                self._heard_s = asyncio.get_running_loop().time()
                self._owner.went_live()
                self.caught_up.set()
                self.first_live.set()
                log.info("subscription live")
            return await ended
        except RtError as refused:
            return f"commands fail: {refused.code}"
        except (OSError, TimeoutError) as failed:
            return f"{type(failed).__name__} {failed}".strip()
        except Exception:
            log.exception("unexpected error in the subscription")
            return "unexpected error; the log has its traceback"
        finally:
            if connection is not None:
                connection.abort("given up")
                self.bytes += connection.bytes
            self._lost(ended, "given up")  # it may have died during the login

    async def _dial(self, lost: Callable[[str], None]) -> Subscription:
        name, received = f"rt-{self._address}", self._owner.received
        return await dial(await self.where(), name, received, lost, DEAD_S, self._valkey.sharded)

    def _lost(self, ended: asyncio.Future[str], why: str) -> None:
        if not ended.done():
            ended.set_result(why)
        if ended is self._ended and self.connection is not None:
            self.connection = None
            self.state = LinkState.DISCONNECTED
            self._owner.disconnected()
            self.caught_up.set()

    async def _beat(self) -> None:
        while True:
            now_s = asyncio.get_running_loop().time()
            if self.state is LinkState.LIVE:
                if self._confirmed and now_s - self._confirmed[0][1] > DEAD_S:
                    self.drop(f"no probe came in for {DEAD_S:.0f} s")
                else:
                    self.probe()
            self._owner.beat(now_s, self._answered_s)
            await asyncio.sleep(PROBE_S)

    async def _probe(self, number: int, namespaces: Collection[str]) -> None:
        connection, before = self.connection, self._owner.positions()
        asked_s = asyncio.get_running_loop().time()
        reads: list[tuple[Arg, ...]] = [
            ("HMGET", self._logs[namespace].log_state, *LogState._fields) for namespace in namespaces
        ]
        if self._valkey.sharded:
            reads += [("PUBSUB", "SHARDNUMSUB", self._logs[namespace].monitor) for namespace in namespaces]
        try:
            *read, heard = await self._valkey.in_order(*reads, ("PUBLISH", self._channel, envelope.probe(number)))
        except RtError:
            return
        states = read[: len(namespaces)]
        for namespace, (_, watchers) in zip(namespaces, read[len(namespaces) :], strict=False):
            (self.watched.add if watchers else self.watched.discard)(namespace)
        if connection is not self.connection or self.state is not LinkState.LIVE:
            return
        known = {namespace: LogState(*state) for namespace, state in zip(namespaces, states, strict=True)}
        self._owner.probe_answered(number, before, known)
        self._answered_s = max(self._answered_s, asked_s)
        if not heard:
            self.drop("no connection received the probe")
        elif number > self._heard:
            self._confirmed.append((number, asyncio.get_running_loop().time()))

"""The life of the subscription connection: away → rising → live → away, for ever, and how its death is noticed.

*Away*: no connection; rooms are only noted. *Rising*: subscribed again, and the logs are read to find what was missed;
whoever asks for a new room waits for the end of it. *Live*: what comes in is passed on.

A connection that is dead says nothing, so it is probed: every 250 ms this node publishes a message to its own channel,
through the command connection. Valkey answers how many heard it: none means the connection hangs on another server, or
on none. One that Valkey confirmed and that has not come in after a second means it is dead on the way. While commands
themselves fail nothing can be said; TCP keeps what is underway, and the first probe that works decides.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol

from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.resp import load_script
from insightdesk_rt.engine.cluster.subscription import Subscription, dial
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.cluster.valkey_url import endpoint
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset

log = logging.getLogger(__name__)

PROBE_S = 0.25
DEAD_S = 1.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.02, 1.0


class LinkState(enum.Enum):
    AWAY = "away"
    RISING = "rising"
    LIVE = "live"


class Owner(Protocol):
    """What the backplane does at each turn of the connection's life."""

    def received(self, channel: bytes, message: bytes) -> None: ...

    async def rise(self, connection: Subscription) -> None:
        """Subscribe and catch up. Raises RtError or ConnectionError: not this time."""
        ...

    def live(self) -> None: ...

    def fell(self) -> None: ...

    def positions(self) -> dict[str, Offset]: ...

    def told(self, before: dict[str, Offset], tops: dict[str, Offset]) -> None:
        """A probe was answered: how far each log has got, and this node's positions when it was asked."""
        ...

    def beat(self, now_s: float, answered_s: float) -> None:
        """Called every PROBE_S. `answered_s`: when the last probe was asked that was answered, and passed to `told`."""
        ...


class SubscriptionLink:
    def __init__(self, valkey: Valkey, names: Names, address: str, owner: Owner) -> None:
        self.state = LinkState.AWAY
        self.connection: Subscription | None = None
        self.risen = asyncio.Event()  # set unless rising
        self.risen.set()
        self.first = asyncio.Event()  # set once it was live
        self.connects = self.bytes = 0
        self._lived = 0  # how often it was live
        self._valkey = valkey
        self._names = names
        self._address = address
        self._owner = owner
        self._script = load_script("insightdesk_rt.engine.cluster", "probe")
        self._endpoint = endpoint(valkey.url)
        self._over: asyncio.Future[str] | None = None
        self._retry = asyncio.Event()
        self._number = 0
        self._heard = 0
        self._heard_s = 0.0
        self._confirmed: deque[tuple[int, float]] = deque()  # probes Valkey took and that have not come in
        self._answered_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._valkey.on_up.append(lambda changed: self._retry.set())
        self._spawn(self._run())
        self._spawn(self._beat())

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.drop("closed by us")

    @property
    def hears(self) -> bool:
        """Is the connection live, and did it prove it within the last second?"""
        return self.state is LinkState.LIVE and asyncio.get_running_loop().time() - self._heard_s < DEAD_S + PROBE_S

    @property
    def heard_lately(self) -> bool:
        """Did a probe come in within the last second?"""
        return asyncio.get_running_loop().time() - self._heard_s < DEAD_S

    def drop(self, why: str) -> None:
        """End the connection, if there is one; the owner is told before this returns."""
        if self.connection is not None:
            self.connection.abort(why)

    def probe(self) -> int:
        """Send a probe now; return its number. What was subscribed before is heard once it has come in."""
        self._number += 1
        self._spawn(self._probe(self._number))
        return self._number

    def sent(self, number: int) -> bool:
        """Was there a probe of this number? One that somebody made up would hide that the connection died."""
        return number <= self._number

    @property
    def heard_upto(self) -> int:
        """The number of the last probe that came in."""
        return self._heard

    def heard(self, number: int) -> None:
        self._heard = max(self._heard, number)
        self._heard_s = asyncio.get_running_loop().time()
        while self._confirmed and self._confirmed[0][0] <= number:
            self._confirmed.popleft()

    async def _run(self) -> None:
        misses = 0
        while True:
            self._retry.clear()
            lived = self._lived
            why = await self._session()
            misses = 1 if self._lived > lived else misses + 1
            if misses == 1:  # once per outage
                log.warning("subscription lost: %s", why)
            pause = min(BACKOFF_MIN_S * 2 ** min(misses, 10), BACKOFF_MAX_S) * random.uniform(0.5, 1)
            try:
                async with asyncio.timeout(pause):
                    await self._retry.wait()  # commands are back: at once
            except TimeoutError:
                pass

    async def _session(self) -> str:
        """Connect, and stay until it is over. Returns why."""
        over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._over = over
        connection: Subscription | None = None
        try:
            connection = await dial(
                self._endpoint, f"rt-{self._address}", self._owner.received, lambda why: self._lost(over, why), DEAD_S
            )
            self.connection = connection
            self.state = LinkState.RISING
            self.risen.clear()
            self._confirmed.clear()
            self.connects += 1
            await self._owner.rise(connection)
            # No await from here to live(): what rise() found settled would not be any more.
            if self.connection is connection:
                self.state = LinkState.LIVE
                self._lived += 1
                self._heard_s = asyncio.get_running_loop().time()
                self._owner.live()
                self.risen.set()
                self.first.set()
                log.info("subscription live")
            return await over
        except RtError as refused:
            return f"commands are {refused.code}"
        except (OSError, TimeoutError) as failed:
            return f"{type(failed).__name__} {failed}".strip()
        except Exception:
            log.exception("the subscription failed by a mistake of ours")
            return "a mistake of ours"
        finally:
            if connection is not None:
                connection.abort("given up")
                self.bytes += connection.bytes
            self._lost(over, "given up")  # it may have died before it was ours

    def _lost(self, over: asyncio.Future[str], why: str) -> None:
        if not over.done():
            over.set_result(why)
        if over is self._over and self.connection is not None:
            self.connection = None
            self.state = LinkState.AWAY
            self._owner.fell()
            self.risen.set()

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

    async def _probe(self, number: int) -> None:
        connection, before = self.connection, self._owner.positions()
        asked_s = asyncio.get_running_loop().time()
        try:
            channel = self._names.node(self._address)
            heard, *tops = await self._valkey.call(self._script, [self._names.tops], [channel, number])
        except RtError:
            return
        if connection is not self.connection or self.state is not LinkState.LIVE:
            return
        self._owner.told(before, dict(zip(tops[::2], tops[1::2], strict=True)))
        self._answered_s = max(self._answered_s, asked_s)
        if not heard:
            self.drop("nobody heard the probe")
        elif number > self._heard:
            self._confirmed.append((number, asyncio.get_running_loop().time()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

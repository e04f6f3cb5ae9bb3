"""Which rooms this node listens to, and the way of a room in and out of that table.

In: SUBSCRIBE (all that one turn asks for together), wait for the confirmation, send a probe, wait until it has come in.
Now everything after the lane's position will be heard, and what is before it is in the log. While Valkey is away a room
is only noted: it is part of what is caught up later; while that is done, who asks waits, but not for ever. Out: five
seconds after the last member left, unless somebody asked for it again meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.sequencer import Interest, Sequencer
from insightdesk_rt.engine.cluster.subscription_link import LinkState, SubscriptionLink
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset, Room

LISTEN_S = 1.0  # a confirmation that takes longer, while no probe comes in either, is a dead connection
RISE_S = 5.0  # a stock client gives up a connect after 20 s; sent away before, it tries again, perhaps elsewhere
UNLISTEN_S = 5.0  # a page that is reloaded, or a user who looks at two tickets in turn, should not churn channels


class ChannelSubscriptions:
    """`has_members(namespace, room)` is asked before a channel is dropped, because a join may have come meanwhile."""

    def __init__(
        self,
        valkey: Valkey,
        names: Names,
        lanes: Mapping[str, Sequencer],
        link: SubscriptionLink,
        has_members: Callable[[str, Room], bool],
    ) -> None:
        self._has_members = has_members
        self._valkey = valkey
        self._names = names
        self._lanes = lanes
        self._link = link
        self._table: dict[bytes, Interest] = {}
        self._fresh: list[Interest] = []
        self._leaving: deque[tuple[float, bytes, int]] = deque()

    def get(self, channel: bytes) -> Interest | None:
        return self._table.get(channel)

    def channels(self) -> list[bytes]:
        return list(self._table)

    def __len__(self) -> int:
        return len(self._table)

    async def listen(self, namespace: str, room: Room) -> Offset:
        """Hear a room; return the lane's position once everything after it will be delivered for this room too.

        Raises RtError UNAVAILABLE if this node has been catching up for RISE_S and is not done.
        """
        lane = self._lanes[namespace]
        channel = self._names.channel(namespace, room).encode()
        end_s = 0.0
        while True:
            if self._link.state is LinkState.LIVE and not self._valkey.available:
                self._link.drop("commands are away")  # the room could neither be settled nor repaired
            interest = self._table.get(channel)
            if interest is not None:
                interest.generation += 1
            if self._link.state is LinkState.RISING:
                end_s = end_s or asyncio.get_running_loop().time() + RISE_S
                await self._risen(end_s)
                continue
            if interest is None:
                interest = lane.rooms[room] = self._table[channel] = Interest(lane, room, channel)
                if self._link.state is LinkState.LIVE:
                    self._ask_for(interest)
            if not interest.settled and self._link.state is LinkState.LIVE:
                await self._settled(interest)
            return lane.position

    def unlisten(self, namespace: str, room: Room) -> None:
        channel = self._names.channel(namespace, room).encode()
        interest = self._table.get(channel)
        if interest is not None:
            due_s = asyncio.get_running_loop().time() + UNLISTEN_S
            self._leaving.append((due_s, channel, interest.generation))

    def settle(self) -> None:
        """The connection is live: all that is in the table was subscribed and caught up."""
        for interest in self._table.values():
            interest.settle()

    def unsettle(self) -> None:
        """The connection is gone: whoever waits need not wait any more, the room will be caught up."""
        self._fresh.clear()
        for interest in self._table.values():
            interest.settled = False
            interest.let_go()

    def drop_left(self, now_s: float) -> None:
        """Unsubscribe what was left long enough ago."""
        gone = []
        while self._leaving and self._leaving[0][0] <= now_s and self._link.state is not LinkState.RISING:
            _, channel, generation = self._leaving.popleft()
            interest = self._table.get(channel)
            if interest is None or interest.generation != generation:
                continue
            if self._has_members(interest.lane.namespace, interest.room):
                continue  # somebody who had asked before the last one left has joined after it
            del self._table[channel], interest.lane.rooms[interest.room]
            gone.append(channel)
        if gone and self._link.connection is not None:
            self._link.connection.unsubscribe(gone)

    def _ask_for(self, interest: Interest) -> None:
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._subscribe_fresh)
        self._fresh.append(interest)

    def _subscribe_fresh(self) -> None:
        batch, self._fresh = self._fresh, []
        connection = self._link.connection
        if not batch or self._link.state is not LinkState.LIVE or connection is None:
            return  # unsettle() has let them go

        def confirmed(future: asyncio.Future[bool]) -> None:
            if not future.result() or self._link.connection is not connection:
                return
            number = self._link.probe()
            for interest in batch:
                interest.probe = number
                interest.lane.settling.append(interest)

        connection.subscribe(interest.channel for interest in batch).add_done_callback(confirmed)

    async def _risen(self, end_s: float) -> None:
        try:
            async with asyncio.timeout_at(end_s):
                await self._link.risen.wait()
        except TimeoutError:
            raise RtError("UNAVAILABLE", "This node is catching up; try again.") from None

    async def _settled(self, interest: Interest) -> None:
        if interest.done is None:
            interest.done = asyncio.get_running_loop().create_future()
        done = interest.done
        while not done.done():
            heard = self._link.heard_upto
            await asyncio.wait([done], timeout=LISTEN_S)
            if not done.done() and self._link.state is LinkState.LIVE and self._link.heard_upto == heard:
                self._link.drop("a subscription was not confirmed in time")

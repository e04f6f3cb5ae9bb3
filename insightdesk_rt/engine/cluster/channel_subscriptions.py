"""ChannelSubscriptions: the table of rooms that this node listens to, and how a room gets in and out of it.

In: SUBSCRIBE (one command for all rooms of a loop turn), wait for the confirmation, send a probe, and wait until it has
come in. From then on everything after the sequencer's position is heard, and everything before it is in the log. While
Valkey is unreachable a room is only noted; it is caught up with all others on reconnection. While the node catches up,
callers wait for at most CATCH_UP_S.

Out: five seconds after the last member left, unless a caller listens again meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from insightdesk_rt.engine.cluster.sequencer import ChannelSubscription, Sequencer
from insightdesk_rt.engine.cluster.subscription_link import LinkState, SubscriptionLink
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset, Room

LISTEN_S = 1.0  # without a confirmation, and without a probe, the connection is dead
CATCH_UP_S = 5.0  # a stock client gives up a connect after 20 s; refused before, it tries again, perhaps elsewhere
UNLISTEN_S = 5.0  # a page reload, or a user who switches between two tickets, should not churn channels


class ChannelSubscriptions:
    """`has_members(namespace, room)` is asked before a channel is dropped, because a join may have come meanwhile."""

    def __init__(
        self,
        valkey: Valkey,
        sequencers: Mapping[str, Sequencer],
        link: SubscriptionLink,
        has_members: Callable[[str, Room], bool],
    ) -> None:
        self._has_members = has_members
        self._valkey = valkey
        self._names = valkey.names
        self._sequencers = sequencers
        self._link = link
        self._table: dict[bytes, ChannelSubscription] = {}
        self._to_subscribe: list[ChannelSubscription] = []  # in this turn of the loop
        self._leaving: deque[tuple[float, bytes, int]] = deque()

    def get(self, channel: bytes) -> ChannelSubscription | None:
        return self._table.get(channel)

    def channels(self) -> list[bytes]:
        return list(self._table)

    def __len__(self) -> int:
        return len(self._table)

    async def listen(self, namespace: str, room: Room) -> Offset:
        """Listen to a room. Returns the sequencer's position once all events of the room after it will be delivered.

        Raises RtError UNAVAILABLE if this node is still catching up after CATCH_UP_S.
        """
        sequencer = self._sequencers[namespace]
        channel_name = self._names.namespace(namespace).channel(room)
        channel = channel_name.encode()
        end_s = 0.0
        while True:
            if self._link.state is LinkState.LIVE and not self._valkey.serves(channel_name):
                self._link.drop("commands fail")  # the room could neither be settled nor repaired
            subscription = self._table.get(channel)
            if subscription is not None:
                subscription.generation += 1
            if self._link.state is LinkState.CATCHING_UP:
                end_s = end_s or asyncio.get_running_loop().time() + CATCH_UP_S
                await self._caught_up(end_s)
                continue
            if subscription is None:
                subscription = sequencer.rooms[room] = self._table[channel] = ChannelSubscription(
                    sequencer, room, channel
                )
                if self._link.state is LinkState.LIVE:
                    self._subscribe_soon(subscription)
            if not subscription.settled and self._link.state is LinkState.LIVE:
                await self._settled(subscription)
            return sequencer.position

    def unlisten(self, namespace: str, room: Room) -> None:
        """Unsubscribe the room after UNLISTEN_S unless it is listened to again."""
        channel = self._names.namespace(namespace).channel(room).encode()
        subscription = self._table.get(channel)
        if subscription is not None:
            due_s = asyncio.get_running_loop().time() + UNLISTEN_S
            self._leaving.append((due_s, channel, subscription.generation))

    def settle(self) -> None:
        """Settle all rooms: the connection is live, they were subscribed and caught up."""
        for subscription in self._table.values():
            subscription.settle()

    def unsettle(self) -> None:
        """Unsettle all rooms and wake the callers that wait: the connection is lost, rooms will be caught up."""
        self._to_subscribe.clear()
        for subscription in self._table.values():
            subscription.settled = False
            subscription.wake_waiters()

    def drop_left(self, now_s: float) -> None:
        """Unsubscribe the rooms that were left long enough ago."""
        gone = []
        while self._leaving and self._leaving[0][0] <= now_s and self._link.state is not LinkState.CATCHING_UP:
            _, channel, generation = self._leaving.popleft()
            subscription = self._table.get(channel)
            if subscription is None or subscription.generation != generation:
                continue
            if self._has_members(subscription.sequencer.namespace, subscription.room):
                continue  # a join that began before the last member left has ended after it
            del self._table[channel], subscription.sequencer.rooms[subscription.room]
            gone.append(channel)
        if gone and self._link.connection is not None:
            self._link.connection.unsubscribe(gone)

    def _subscribe_soon(self, subscription: ChannelSubscription) -> None:
        if not self._to_subscribe:
            asyncio.get_running_loop().call_soon(self._subscribe)
        self._to_subscribe.append(subscription)

    def _subscribe(self) -> None:
        batch, self._to_subscribe = self._to_subscribe, []
        connection = self._link.connection
        if not batch or self._link.state is not LinkState.LIVE or connection is None:
            return  # unsettle() has woken the callers

        def confirmed(future: asyncio.Future[bool]) -> None:
            if not future.result() or self._link.connection is not connection:
                return
            number = self._link.probe({subscription.sequencer.namespace for subscription in batch})
            for subscription in batch:
                subscription.probe = number
                subscription.sequencer.settling.append(subscription)

        connection.subscribe(subscription.channel for subscription in batch).add_done_callback(confirmed)

    async def _caught_up(self, end_s: float) -> None:
        try:
            async with asyncio.timeout_at(end_s):
                await self._link.caught_up.wait()
        except TimeoutError:
            raise RtError("UNAVAILABLE", "This node is catching up; try again.") from None

    async def _settled(self, subscription: ChannelSubscription) -> None:
        if subscription.done is None:
            subscription.done = asyncio.get_running_loop().create_future()
        done = subscription.done
        while not done.done():
            heard = self._link.last_heard
            await asyncio.wait([done], timeout=LISTEN_S)
            if not done.done() and self._link.state is LinkState.LIVE and self._link.last_heard == heard:
                self._link.drop("a subscription was not confirmed in time")

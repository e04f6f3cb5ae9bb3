"""EventMonitor: receives what all nodes and emitters publish, to all rooms or to one, while an admin watches.

It has connections of its own. So it costs nothing while nobody watches, and delivery does not depend on it. Nothing is
repaired: events that are published while a connection is down are missed, and `lost` is called when one ends.

With one server it has one connection with a pattern subscription. In a cluster channels have no patterns. There it
subscribes to one channel per namespace, which only events are published on while somebody watches: lua/append.lua asks
how many subscribers the channel has, and nodes ask the same with each probe, for volatile events.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.envelope import Logged, Poison, Volatile
from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.subscription import Subscription, dial
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Event

log = logging.getLogger(__name__)

OPEN_WITHIN_S = 3.0
REMEMBERED = 1_000  # events: the copies for an event's other rooms come right after the first


class EventMonitor:
    """Calls `heard(event)` once for each event, even if it has several rooms, and `lost()` once, at the end."""

    def __init__(self, heard: Callable[[Event], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._seen: dict[str, None] = {}  # in order, the oldest first
        self._room = ""
        self._connections: list[Subscription] = []
        self._opened = self._closed = False

    async def open(self, valkey: Valkey, namespace: str = "", room: str = "") -> None:
        """Watch a namespace, a room, a room of a namespace, or everything. Raises RtError UNAVAILABLE."""
        self._room = room
        try:
            if valkey.sharded:
                watched = [valkey.names.namespace(path) for path in ([namespace] if namespace else valkey.namespaces)]
                await asyncio.gather(*(self._subscribe_to(valkey, partition.monitor) for partition in watched))
            else:
                names = Names(literal(valkey.prefix))
                pattern = names.namespace(literal(namespace) or "/*").channel(literal(room) or "*")
                connection = await self._dial(valkey, pattern)
                await confirmed(connection.subscribe_pattern(pattern.encode()))
        except (OSError, TimeoutError):
            self.close()
            raise RtError("UNAVAILABLE") from None
        self._opened = True

    async def _subscribe_to(self, valkey: Valkey, channel: str) -> None:
        connection = await self._dial(valkey, channel)
        await confirmed(connection.subscribe([channel.encode()]))

    async def _dial(self, valkey: Valkey, channel: str) -> Subscription:
        server = await valkey.where(channel)
        connection = await dial(
            server, "rt-watch", self._received, lambda why: self._end(), OPEN_WITHIN_S, valkey.sharded
        )
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        self._closed = True
        for connection in self._connections:
            connection.abort("not needed any more")

    def _end(self) -> None:
        if self._opened and not self._closed:
            self._lost()
        self._closed = True

    def _received(self, channel: bytes, message: bytes) -> None:
        """hot while somebody watches: once per message of the cluster."""
        if self._closed:
            return
        try:
            message_read = envelope.read(message)
            if type(message_read) is Logged:
                event = message_read.event()
                copy = f"{event.namespace} {event.offset}" if len(event.rooms) > 1 else ""
            elif type(message_read) is Volatile:
                event, copy = message_read
            else:
                return
        except Poison:  # the backplanes of the nodes count it
            return
        if self._room and self._room not in event.rooms:
            return
        if copy:
            if copy in self._seen:
                return
            self._seen[copy] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
        try:
            self._heard(event)
        except Exception:  # raised from here, it would end the connection
            log.exception("a watched event could not be shown")


async def confirmed(subscribed: Awaitable[bool]) -> None:
    """Wait for a subscription. Raises ConnectionError if the server refused it."""
    if not await subscribed:
        raise ConnectionError("refused")


def literal(text: str) -> str:
    """Return a pattern that matches only this text: * ? [ ] and the backslash are escaped."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)

"""Overhearing: what is published to all rooms, or to one, by every node and emitter, while somebody watches.

On a connection of its own, with a pattern: it costs nothing while nobody watches, and delivery does not depend on it.
Nothing is repaired: what is published while the connection is down is not heard, and its end is told.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.envelope import Logged, Poison, Volatile
from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.subscription import Subscription, dial
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.cluster.valkey_url import endpoint
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Event

log = logging.getLogger(__name__)

OPEN_WITHIN_S = 3.0
REMEMBERED = 1_000  # events that were heard: the copies for an event's other rooms come right behind the first


class EventMonitor:
    """`open` one, `close` it again. `heard(event)` once for each event, whatever its rooms; `lost()` once."""

    def __init__(self, heard: Callable[[Event], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._seen: dict[str, None] = {}  # in order, the oldest first
        self._connection: Subscription | None = None
        self._opened = self._closed = False

    async def open(self, valkey: Valkey, namespace: str = "", room: str = "") -> None:
        """Hear a namespace, a room, a room of a namespace, or everything. Raises RtError UNAVAILABLE."""
        pattern = Names(literal(valkey.prefix)).channel(literal(namespace) or "*", literal(room) or "*")
        try:
            self._connection = await dial(
                endpoint(valkey.url), "rt-watch", self._received, lambda why: self._end(), OPEN_WITHIN_S
            )
            if not await self._connection.subscribe_pattern(pattern.encode()):
                raise ConnectionError("refused")
        except (OSError, TimeoutError):
            self.close()
            raise RtError("UNAVAILABLE") from None
        self._opened = True

    def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.abort("not needed any more")

    def _end(self) -> None:
        if self._opened and not self._closed:
            self._lost()
        self._closed = True

    def _received(self, channel: bytes, message: bytes) -> None:
        """hot while somebody watches: once per message of the cluster."""
        if self._closed:
            return
        try:
            said = envelope.read(message)
            if type(said) is Logged:
                event = said.event()
                copy = f"{event.namespace} {event.offset}" if len(event.rooms) > 1 else ""
            elif type(said) is Volatile:
                event, copy = said
            else:
                return
        except Poison:  # the nodes count it
            return
        if copy:
            if copy in self._seen:
                return
            self._seen[copy] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
        try:
            self._heard(event)
        except Exception:  # raised here it would cost the connection
            log.exception("an overheard event could not be shown")


def literal(text: str) -> str:
    """Return a pattern that matches this text alone: Valkey's patterns know * ? [ ] and the backslash."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)

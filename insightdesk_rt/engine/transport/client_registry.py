"""ClientHost: what all clients of a node share: the table of who is connected, the wheel, the flusher, the counters.

Handlers put clients in (through `Client.start`), clients take themselves out. Hot code adds to the plain integers here;
whoever serves metrics reads them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.rate_limits import ANY, Cap
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.transport.intake import Intake
from insightdesk_rt.engine.transport.outbox import Flusher, OutboxLimits
from insightdesk_rt.engine.transport.poller import Poller
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.codec import Encoded

if TYPE_CHECKING:
    from insightdesk_rt.engine.transport.client import Client

log = logging.getLogger(__name__)

FAREWELL_MS = 30_000  # engine.io's closeTimeout: how long a polling client may take to fetch its close packet
TURN_S = 0.002  # of looking at many clients, before the loop does something else
FETCH_S = 1.0  # at a stop: a client between two polls comes within a round trip, one that has gone away never
LINGER_MS = 5_000  # Tornado's too; ws waits 30 s for the peer to answer a close frame


class Lingering(Protocol):
    """A transport that has said goodbye and waits for its peer's."""

    def abort(self) -> None: ...


class ClientRegistry:
    __slots__ = (
        "_fewer",
        "_lingering",
        "_seldom",
        "addresses",
        "bytes_in",
        "bytes_out",
        "clients",
        "closed",
        "connect_timeout_ms",
        "farewells",
        "flusher",
        "intake",
        "limits",
        "max_connects_per_minute",
        "message_timeout_ms",
        "node_id",
        "not_understood",
        "now_ms",
        "on_end",
        "opened",
        "over_limit",
        "readiness",
        "upgrade_timeout_ms",
        "upgraded",
        "wheel",
    )

    def __init__(
        self,
        wheel: Wheel,
        *,
        node_id: str = "n1",
        limits: OutboxLimits = OutboxLimits(),
        connect_timeout_ms: int = 45_000,
        upgrade_timeout_ms: int = 10_000,
        message_timeout_ms: int = 120_000,
        max_clients_per_address: int = 0,
        max_connects_per_minute: int = 0,
        max_unfinished_per_user: int = ANY,
        max_unfinished: int = ANY,
    ) -> None:
        self.wheel = wheel
        self.now_ms: Callable[[], int] = wheel.now_ms  # monotonic; one clock for deadlines and for who sets them
        self.node_id = node_id
        self.limits = limits
        self.connect_timeout_ms = connect_timeout_ms
        self.upgrade_timeout_ms = upgrade_timeout_ms
        self.message_timeout_ms = message_timeout_ms
        self.max_connects_per_minute = max_connects_per_minute  # of one client into namespaces; 0: any number
        self.flusher = Flusher()
        self.intake = Intake(max_unfinished_per_user, max_unfinished)
        self.readiness = Poller()
        self.addresses = Cap(max_clients_per_address)
        self.clients: dict[str, Client] = {}
        self.farewells: dict[str, list[Encoded]] = {}  # what clients that are gone get with their next poll
        self._lingering: set[Lingering] = set()
        self._fewer = asyncio.Event()  # one less lingers, or has its last words; only `close` waits for it
        self.on_end: Callable[[Client, CloseReason], None] = lambda client, why: None  # its sockets are still there
        self.opened: Counter[str] = Counter()  # by transport
        self.closed: Counter[CloseReason] = Counter()
        self.over_limit: Counter[str] = Counter()  # what clients sent, by the setting it was over
        self.upgraded = 0
        self.not_understood = 0  # clients that broke the protocol before they joined anything
        self._seldom = Seldom(log)
        self.bytes_in = 0  # websocket bytes and polling bodies
        self.bytes_out = 0

    def new_id(self) -> str:
        """Return an id for a client: which node, then 128 bits nobody can guess. On Socket.IO it is a secret (sid)."""
        return f"{self.node_id}.{secrets.token_urlsafe(16)}"

    def say_not_understood(self, why: str, address: str, agent: str) -> None:
        """Count a client whose first messages are not of the protocol, and log one of its kind a minute.

        Such a client (with another parser, or of another version) comes back for ever, and nobody would know why.
        """
        self.not_understood += 1
        fields = {"why": why, "address": address, "agent": agent}
        self._seldom.say(logging.INFO, "a client cannot be understood", why.partition(":")[0], **fields)

    def say_later(self, client_id: str, messages: list[Encoded]) -> None:
        """Keep the last words for a client that had no poll open when it was closed."""
        self.farewells[client_id] = messages
        self.wheel.later(("farewell", client_id), FAREWELL_MS, self.farewell, client_id)

    def farewell(self, client_id: str) -> list[Encoded]:
        """Return the last words for a client, once; an empty list if there are none (any more)."""
        self.wheel.cancel(("farewell", client_id))
        self._fewer.set()
        return self.farewells.pop(client_id, [])

    def linger(self, transport: Lingering) -> None:
        """Let a closing transport wait for its peer's goodbye, and end it if none comes."""
        self._lingering.add(transport)
        self.wheel.later(transport, LINGER_MS, transport.abort)

    def lingered(self, transport: Lingering) -> None:
        """The transport has ended."""
        if transport in self._lingering:
            self._lingering.discard(transport)
            self.wheel.cancel(transport)
            self._fewer.set()

    async def close(self, why: CloseReason, within_s: float) -> None:
        """Close every client and wait until their goodbyes are sent, or the deadline; then nothing is left open.

        A polling client that has no poll open fetches its own, with what was queued for it. Cancelled, it leaves
        transports to their own deadline.
        """
        for client in tuple(self.clients.values()):
            client.close(why)
        await self._none(self.farewells, min(within_s, FETCH_S))
        await self._none(self._lingering, within_s)
        for transport in tuple(self._lingering):
            transport.abort()
        self.readiness.close()

    async def _none(self, left: Collection[Any], within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while left:
                    self._fewer.clear()
                    await self._fewer.wait()
        except TimeoutError:
            pass  # they had their time


async def in_turns(clients: Iterable[Client]) -> AsyncIterator[Client]:
    """Yield those of the clients that are still there, and let the loop do something else every now and then.

    Closing one takes some 100 µs, looking at one less than one; who comes meanwhile is not among them.
    """
    began_s = time.perf_counter()
    for client in tuple(clients):
        if not client.gone:
            yield client
        if time.perf_counter() - began_s > TURN_S:
            await asyncio.sleep(0)
            began_s = time.perf_counter()

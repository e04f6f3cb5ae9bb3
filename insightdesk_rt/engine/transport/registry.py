"""Registry: the table of a node's connected clients, and what they share: the wheel, the flusher, the counters.

A client puts itself in (`Client.start`) and takes itself out when it ends. Hot code adds to the plain integers here;
the metrics page reads them.

The class of the clients is a type parameter, because Client uses this file and files must not import each other in a
circle. All other code uses `ClientRegistry` (client_registry.py).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Collection
from typing import Annotated, Any, Generic, Protocol, TypeVar

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.settings import Count, CountLimit, Help, SecondsOrNever, SettingsPart
from insightdesk_rt.engine.shared_limits import SharedCap, SharedLimits
from insightdesk_rt.engine.transport.intake import HoldingClient, Intake
from insightdesk_rt.engine.transport.outbox import Flusher, OutboxLimits
from insightdesk_rt.engine.transport.poller import Poller
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.codec import Encoded

log = logging.getLogger(__name__)

FAREWELL_MS = 30_000  # engine.io's closeTimeout: how long a polling client may take to fetch its close packet
FETCH_S = 1.0  # at a stop: a client between two polls comes back within a round trip, or never
LINGER_MS = 5_000  # Tornado's too; ws waits 30 s for the peer to answer a close frame


class RegisteredClient(HoldingClient, Protocol):
    """What the registry needs of a client."""

    def close(self, why: CloseReason) -> None: ...


C = TypeVar("C", bound=RegisteredClient)


class Lingering(Protocol):
    """A transport that has sent its close frame and waits for the peer's."""

    def abort(self) -> None: ...


class ClientSettings(SettingsPart, frozen=True):
    """How long clients may take, and how much of a node they may use together."""

    connect_timeout_s: Annotated[
        SecondsOrNever, Help("how long a client may stay without a namespace; 0: no limit")
    ] = 45
    upgrade_timeout_s: Annotated[SecondsOrNever, Help("how long an upgrade to websocket may take; 0: no limit")] = 10
    # four times a POST's: that much the attachments of a packet may be more
    message_timeout_s: Annotated[
        SecondsOrNever, Help("how long a message may take to arrive once it has begun; 0: no limit")
    ] = 120
    # eight messages of the usual 1 MB at a time; a connection for each would be 400 MB of one user
    max_unfinished_bytes_per_user: Annotated[
        CountLimit, Help("bytes of one user's messages that are still arriving; 0: no limit")
    ] = 8_000_000
    max_unfinished_bytes: Annotated[CountLimit, Help("the same for all clients of a node; 0: no limit")] = 268_435_456
    max_connects_per_connection_per_minute: Annotated[
        Count, Help("connects of one client into namespaces; 0: no limit")
    ] = 60
    max_connections_per_address: Annotated[Count, Help("clients of one address, per cluster; 0: no limit")] = 0


class Registry(Generic[C]):
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
        "poller",
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
        settings: ClientSettings = ClientSettings(),
        shared: SharedLimits | None = None,
    ) -> None:
        self.wheel = wheel
        self.now_ms: Callable[[], int] = wheel.now_ms  # monotonic; the same clock as the timers
        self.node_id = node_id
        self.limits = limits
        self.connect_timeout_ms = int(settings.connect_timeout_s * 1000)
        self.upgrade_timeout_ms = int(settings.upgrade_timeout_s * 1000)
        self.message_timeout_ms = int(settings.message_timeout_s * 1000)
        # CONNECTs of one client into namespaces; 0: no limit
        self.max_connects_per_minute = settings.max_connects_per_connection_per_minute
        self.flusher = Flusher()
        self.intake = Intake(settings.max_unfinished_bytes_per_user, settings.max_unfinished_bytes)
        self.poller = Poller()
        self.addresses = SharedCap(settings.max_connections_per_address, shared or SharedLimits(), "addresses")
        self.clients: dict[str, C] = {}
        self.farewells: dict[str, list[Encoded]] = {}  # last messages for the next poll of clients that have ended
        self._lingering: set[Lingering] = set()
        self._fewer = asyncio.Event()  # set when a transport ended or a farewell was fetched; only `close` waits for it
        self.on_end: list[Callable[[C, CloseReason], None]] = []  # called while its sockets still exist
        self.opened: Counter[str] = Counter()  # by transport
        self.closed: Counter[CloseReason] = Counter()
        self.over_limit: Counter[str] = Counter()  # violations of a limit, by the name of its setting
        self.upgraded = 0
        self.not_understood = 0  # clients that broke the protocol before they joined anything
        self._seldom = Seldom(log)
        self.bytes_in = 0  # websocket bytes and polling bodies
        self.bytes_out = 0

    def new_id(self) -> str:
        """Return a new client id: the node, then 128 random bits. On Socket.IO it is the Engine.IO sid, a secret."""
        return f"{self.node_id}.{secrets.token_urlsafe(16)}"

    def log_not_understood(self, why: str, address: str, agent: str) -> None:
        """Count a client whose first messages are not of the protocol, and log at most one of each kind a minute.

        Such a client (one with another parser or of another version) reconnects for ever; the log says why it fails.
        """
        self.not_understood += 1
        fields = {"why": why, "address": address, "agent": agent}
        self._seldom.say(logging.INFO, "a client cannot be understood", why.partition(":")[0], **fields)

    def keep_farewell(self, client_id: str, messages: list[Encoded]) -> None:
        """Keep the last messages for a client that had no poll open when it was closed."""
        self.farewells[client_id] = messages
        self.wheel.later(("farewell", client_id), FAREWELL_MS, self.farewell, client_id)

    def farewell(self, client_id: str) -> list[Encoded]:
        """Return the last messages kept for a client and forget them; an empty list if there are none."""
        self.wheel.cancel(("farewell", client_id))
        self._fewer.set()
        return self.farewells.pop(client_id, [])

    def linger(self, transport: Lingering) -> None:
        """Let a closing transport wait for its peer's close frame, and abort it if none comes in LINGER_MS."""
        self._lingering.add(transport)
        self.wheel.later(transport, LINGER_MS, transport.abort)

    def lingered(self, transport: Lingering) -> None:
        """Note that a lingering transport has ended. Idempotent."""
        if transport in self._lingering:
            self._lingering.discard(transport)
            self.wheel.cancel(transport)
            self._fewer.set()

    async def close(self, why: CloseReason, within_s: float) -> None:
        """Close every client, wait up to `within_s` until their close frames are sent, then abort what is left.

        A polling client without an open poll fetches its queued messages and the close packet with its next one.
        When this is cancelled, each transport still has its own deadline.
        """
        for client in tuple(self.clients.values()):
            client.close(why)
        await self._until_empty(self.farewells, min(within_s, FETCH_S))
        await self._until_empty(self._lingering, within_s)
        for transport in tuple(self._lingering):
            transport.abort()
        self.poller.close()

    async def _until_empty(self, left: Collection[Any], within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while left:
                    self._fewer.clear()
                    await self._fewer.wait()
        except TimeoutError:
            pass  # what is left is aborted or forgotten

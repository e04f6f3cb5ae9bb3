"""Leaving without a loss: clients are sent away in batches, in a way that makes them come back, to another node.

A transport that is closed makes stock clients reconnect with their backoff; a DISCONNECT packet would make them stay
away. Spread over `over_s`, so that the nodes that take them see a slope and not a wall.
"""

from __future__ import annotations

import asyncio
import logging

from insightdesk_rt.errors import CloseReason
from insightdesk_rt.transport.host import ClientHost

log = logging.getLogger(__name__)

BATCH_EVERY_S = 0.1


async def drain(host: ClientHost, over_s: float, goodbye_s: float = 5.0) -> int:
    """Close every client, evenly over `over_s`, and return how many. Cancelled, the rest stay connected.

    The caller has made the port refuse new ones. Goodbyes that are not taken within `goodbye_s` are cut.
    """
    closed = 0
    batches = max(int(over_s / BATCH_EVERY_S), 1)
    for left in range(batches, 0, -1):
        clients = list(host.clients.values())
        if not clients:
            break
        for client in clients[: -(-len(clients) // left)]:
            client.close(CloseReason.SHUTDOWN)
            closed += 1
        if left > 1 and host.clients:
            await asyncio.sleep(BATCH_EVERY_S)
    await host.close(CloseReason.SHUTDOWN, goodbye_s)
    log.info("drained", extra={"clients": closed})
    return closed

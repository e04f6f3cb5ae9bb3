"""The client registry: ids, last messages for polling clients, and closing all clients."""

from __future__ import annotations

import asyncio

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.registry import FAREWELL_MS, FETCH_S, LINGER_MS
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.engine import CLOSE
from tests.support.aio import aio


class Clock:
    now_ms = 0


def registry() -> tuple[ClientRegistry, Clock]:
    clock = Clock()
    return ClientRegistry(Wheel(50, lambda: clock.now_ms), node_id="n7"), clock


class Closing:
    """A transport that waits for its peer's close frame."""

    def __init__(self, registry: ClientRegistry) -> None:
        self.registry = registry
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1
        self.registry.lingered(self)


def test_an_id_names_its_node_and_cannot_be_guessed() -> None:
    """A balancer routes by the part before the dot; the rest must not be guessable (CVE-2017-16031)."""
    node, _ = registry()
    ids = {node.new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(id.startswith("n7.") and len(id) >= 23 for id in ids)


def test_last_messages_are_fetched_once_and_kept_thirty_seconds() -> None:
    node, clock = registry()
    node.keep_farewell("n7.a", [CLOSE])
    node.keep_farewell("n7.b", [CLOSE])
    assert node.farewell("n7.a") == [CLOSE]
    assert node.farewell("n7.a") == []
    clock.now_ms = FAREWELL_MS + 100
    node.wheel.turn()
    assert node.farewells == {} and len(node.wheel) == 0


def test_a_lingering_transport_is_aborted_at_its_deadline() -> None:
    node, clock = registry()
    one, two = Closing(node), Closing(node)
    node.linger(one)
    node.linger(two)
    node.lingered(two)
    node.lingered(two)
    clock.now_ms = LINGER_MS + 100
    node.wheel.turn()
    assert (one.aborted, two.aborted) == (1, 0)
    assert len(node.wheel) == 0


@aio
async def test_close_waits_for_close_frames_until_its_deadline_and_leaves_nothing_open() -> None:
    node, _ = registry()
    await node.close(CloseReason.SHUTDOWN, 5)
    closing = Closing(node)
    node.linger(closing)
    await node.close(CloseReason.SHUTDOWN, 0.02)
    assert closing.aborted == 1


@aio
async def test_close_waits_a_moment_for_clients_that_fetch_last_messages() -> None:
    node, _ = registry()
    loop = asyncio.get_running_loop()
    node.keep_farewell("n7.a", [CLOSE])
    loop.call_later(0.1, node.farewell, "n7.a")
    began = loop.time()
    await node.close(CloseReason.SHUTDOWN, 5)
    assert 0.09 < loop.time() - began < 0.9
    node.keep_farewell("n7.gone", [CLOSE])
    await node.close(CloseReason.SHUTDOWN, 5)
    assert FETCH_S <= loop.time() - began - 0.1 < 4

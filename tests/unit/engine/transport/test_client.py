"""The times of a client's pings over hours, with late timers and slow pongs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.registry import ClientSettings
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.codec import Encoded, WireSession
from insightdesk_rt.engine.wire.engine import PING, EngineSession, EngineSettings
from insightdesk_rt.engine.wire.native import PING as NATIVE_PING
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession
from tests.support.aio import aio

INTERVAL_MS, TIMEOUT_MS = 25_000, 30_000
STEP_MS = 50
PINGS = 30
SKEW_MS = 17  # between the clock's turns and the wheel's steps, so that every timer is late


class Clock:
    now_ms = 1_000


class Wire:
    """A transport that records when each ping was sent."""

    name = "websocket"
    max_messages = 0
    writable = True
    unfinished = 0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pings_ms: list[int] = []
        self.closed: CloseReason | None = None

    def write(self, messages: list[Encoded]) -> int:
        self.pings_ms += [self.clock.now_ms for message in messages if message in (PING, NATIVE_PING)]
        return 0

    def close(self, why: CloseReason, code: int = 0) -> None:
        self.closed = why


class Nobody:
    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def engine() -> WireSession:
    settings = EngineSettings(INTERVAL_MS, TIMEOUT_MS)
    return EngineSession("n1.x", SocketIOSession(SocketIOCodec()), settings, on_websocket=True)


def native() -> WireSession:
    return NativeSession("/tickets", NativeCodec(), INTERVAL_MS, TIMEOUT_MS)


@pytest.mark.parametrize("session", [engine, native])
@pytest.mark.parametrize("pong_ms", [1, 49, 400, 24_000])
@aio
async def test_pings_are_sent_an_interval_apart_and_do_not_drift(session: Any, pong_ms: int) -> None:
    """Each timer runs up to 50 ms late. If intervals began at the pong or the late timer, delays would add up."""
    clock = Clock()
    wheel = Wheel(STEP_MS, lambda: clock.now_ms)
    registry = ClientRegistry(wheel, settings=ClientSettings(connect_timeout_s=0))
    wire, client = Wire(clock), Client(session(), Nobody(), registry)
    client.start(wire)
    began_ms, answered = clock.now_ms, 0
    clock.now_ms += SKEW_MS
    while len(wire.pings_ms) < PINGS:
        assert clock.now_ms < (PINGS + 1) * INTERVAL_MS + began_ms, "the pings are late"
        clock.now_ms += STEP_MS
        wheel.turn()
        await asyncio.sleep(0)  # outboxes are flushed in the loop's next turn
        if len(wire.pings_ms) > answered and clock.now_ms >= wire.pings_ms[-1] + pong_ms:
            answered += 1
            client.heard()
            if session is engine:
                client.received(wire, "3")
        assert wire.closed is None
    late_ms = [at - began_ms - (number + 1) * INTERVAL_MS for number, at in enumerate(wire.pings_ms)]
    assert min(late_ms) >= 0 and max(late_ms) <= 2 * STEP_MS, late_ms


@aio
async def test_a_late_pong_does_not_delay_the_next_ping() -> None:
    """A client closes when no ping came for interval and timeout together, so the next one is sent soon after."""
    clock = Clock()
    wheel = Wheel(STEP_MS, lambda: clock.now_ms)
    registry = ClientRegistry(wheel, settings=ClientSettings(connect_timeout_s=0))
    wire, client = Wire(clock), Client(engine(), Nobody(), registry)
    client.start(wire)
    answered = False
    while len(wire.pings_ms) < 2:
        assert clock.now_ms < 4 * INTERVAL_MS, "no second ping"
        clock.now_ms += STEP_MS
        wheel.turn()
        await asyncio.sleep(0)  # outboxes are flushed in the loop's next turn
        if wire.pings_ms and not answered and clock.now_ms >= wire.pings_ms[0] + 28_000:
            answered = True
            client.heard()
            client.received(wire, "3")
    assert wire.pings_ms[1] - wire.pings_ms[0] <= 28_000 + 1_000 + 2 * STEP_MS

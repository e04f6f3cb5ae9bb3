"""The cost of counting for /metrics, as a share of a delivery and of a call; both are measured in one run.

    python -m tests.benchmarks.counting

Prints microseconds, the least of many turns. The counting statements are timed alone, on the same objects. A delivery
is an event put into the outboxes of 200 clients and written to their sockets. A call is the loop's turn, one read, its
frame, its limit, its payload, a handler that does nothing, and the write of its answer. Sockets are TCP.
"""

from __future__ import annotations

import asyncio
import socket
import time
import timeit
from typing import Any

from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.dispatch import calls as calling
from insightdesk_rt.engine.dispatch.namespace import Namespace, Payload, event
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Event, Offset, Room, Sid, user_room
from insightdesk_rt.engine.rate_limits import Rate
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.websocket import WebSocketTransport
from insightdesk_rt.engine.transport.wheel import Wheel, monotonic_ms
from insightdesk_rt.engine.wire.codec import Call
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession
from insightdesk_rt.operations.views.node_stats import clients_of
from tests.support import fakes

CLIENTS, TURNS = 200, 300
ROOM = Room("ticket:1")
NAME = "ticket:updated"


class Text(Payload):
    text: str


class Desk(Namespace):
    path = "/desk"

    @event("say", limit=Rate(1_000_000_000, per_s=60))
    def say(self, socket: Socket, ask: Text) -> None:
        """The least that a handler can do."""


class Receiver:
    """Handles calls of one namespace as dispatch does."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def call_received(self, client: Client, call: Call) -> None:
        self._bench.calls.take(client.sockets[call.namespace], call)

    def client_ended(self, client: Client, why: CloseReason) -> None:
        """Nothing to do."""


def tcp_pair(listening: socket.socket) -> tuple[socket.socket, socket.socket]:
    far = socket.create_connection(listening.getsockname())
    near, _ = listening.accept()
    for each in (near, far):
        each.setblocking(False)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


class Bench:
    def __init__(self) -> None:
        self.registry = ClientRegistry(Wheel(50, monotonic_ms))
        self.hub = Hub(fakes.OneNode(), ["/desk"], events=(NAME,), delivered=self.registry.flusher.delivered)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._codec = NativeCodec(True)
        self.desk = Desk(self.hub, fakes.Clock())
        self.calls = calling.Calls([self.desk], monotonic_ms, Rate(100, 60), {}, {})
        self.far_ends: list[socket.socket] = []
        self.sockets: list[Socket] = []

    async def add(self) -> None:
        near, far = tcp_pair(self._listening)
        codec = self._codec
        client = Client(NativeSession("/desk", codec, 25_000, 30_000), Receiver(self), self.registry)  # type: ignore[arg-type]
        transport = WebSocketTransport(near, self.registry, 1_000_000, coded=True)
        client.start(transport)
        transport.start(client)
        client.session.accept("/desk")
        sid = Sid(f"s{len(self.sockets)}")
        joined = Socket(
            sid, "/desk", fakes.user(sid), client, client.outbox, codec, self.hub.sent["/desk"]
        )  # fmt: skip
        client.sockets["/desk"] = joined
        joined.busy = False
        self.hub.add(joined)
        await self.hub.enter(joined, [ROOM, user_room(sid)])
        self.far_ends.append(far)
        self.sockets.append(joined)

    def empty(self) -> None:
        """Read the written bytes, outside of the measured time."""
        for far in self.far_ends:
            while True:
                try:
                    far.recv(1_000_000)
                except BlockingIOError:
                    break

    def delivery(self) -> float:
        """Return microseconds per client of one event."""
        ms = int(time.time() * 1000)
        payload = '{"ticketId":"1","changes":{"status":"open"}}'
        update = Event("/desk", NAME, payload, (ROOM,), id="i", offset=Offset(f"{ms}-0"))
        began = time.perf_counter()
        self.hub.deliver(update)
        self.registry.flusher._flush()
        took = time.perf_counter() - began
        self.empty()
        return took * 1e6 / CLIENTS

    async def call(self) -> float:
        """Return microseconds per call, one from each client: loop, read, handler, write of the answer."""
        text = b'{"event":"say","data":{"text":"hello"},"id":1}'
        for far in self.far_ends:
            far.send(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        written = self.registry.flusher.written + CLIENTS
        began = time.perf_counter()
        while self.registry.flusher.written < written:  # noqa: ASYNC110  turns of the loop are what is measured
            await asyncio.sleep(0)
        took = time.perf_counter() - began
        self.empty()
        return took * 1e6 / CLIENTS


# ── the counting statements ─────────────────────────────────────────────────────────────────────────────────────────


def cost(what: str, turns: int = 20_000, **names: Any) -> float:
    """Return the microseconds of a statement, without those of the empty loop around it."""
    each = [min(timeit.repeat(code, number=turns, repeat=15, globals=names)) / turns for code in (what, "pass")]
    return (each[0] - each[1]) * 1e6


async def main() -> None:
    bench = Bench()
    for _ in range(CLIENTS):
        await bench.add()
    bench.empty()
    flusher = bench.registry.flusher
    queue = [bench.sockets[0].codec.event("/desk", NAME, "{}")]
    tally = bench.calls.counters["/desk"]["say"]
    # The very statements, on the very objects. `put` and `flush` do these two for each message of a client:
    per_message = cost("flusher.queued += 1", flusher=flusher) + cost(
        "written = zero + len(queue)", zero=0, queue=queue
    )
    # `deliver` and the flusher do these once for each event:
    offset = f"{int(time.time() * 1000)}-0"
    flusher._dirty = [None]  # type: ignore[list-item]
    per_event = cost("sent['/desk'].add(name, 200)", sent=bench.hub.sent, name=NAME) + cost(
        "told(offset)", told=flusher.delivered, offset=offset
    )
    # and the flusher this once for each turn of the loop:
    per_turn = cost(
        "add(max(now() - int(offset.partition('-')[0]) / 1000, 0.0), 1)",
        add=flusher.delivery.add_several,
        now=time.time,
        offset=offset,
    )
    flusher._dirty, flusher._events = [], 0
    # `_run` does these for each call:
    per_call = cost("tally.taken += 1", tally=tally) + cost(
        "began = now(); add(now() - began)", now=time.perf_counter, add=Histogram(calling.HANDLER_BOUNDS).add
    )
    delivery = min([bench.delivery() for _ in range(TURNS)])
    call = min([await bench.call() for _ in range(TURNS)])
    shared = per_message + (per_event + per_turn) / CLIENTS
    print(f"an event for {CLIENTS} clients, per client  {delivery:6.2f} µs  ", end="")
    print(f"counting {shared:.3f} µs = {shared / delivery:.1%} (and {per_event + per_turn:.2f} µs for the event)")
    print(f"call and its answer                   {call:6.2f} µs", end="  ")
    print(f"counting {per_message + per_call:.3f} µs = {(per_message + per_call) / call:.1%}")
    look = cost("look(registry)", turns=200, look=clients_of, registry=bench.registry)
    print(f"a scrape's look at the clients        {look / CLIENTS * 1000:6.0f} µs per thousand")
    await bench.registry.close(CloseReason.SHUTDOWN, 0.1)
    for far in bench.far_ends:
        far.close()


if __name__ == "__main__":
    asyncio.run(main())

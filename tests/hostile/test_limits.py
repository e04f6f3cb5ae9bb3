"""Limits whose tests need their own server: connects, files, clients that do not read, churn."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.kit import POLL, Caller, Target, answers, descriptors, memory_mb
from tests.support.aio import aio, until
from tests.support.door import RawSocket
from tests.support.server import ServerProcess


@contextmanager
def running(folder: Path, *announced: str, **settings: object) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, drain_seconds=0, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
    server.assert_quiet(*announced)


class Neighbour:
    """A client that keeps calling while others attack. `worst_s` is its longest wait for an answer."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.worst_s = 0.0
        self._task = asyncio.create_task(self._talk())

    @classmethod
    async def of(cls, server: ServerProcess) -> Neighbour:
        return cls(await Caller.to(Target(server.port), server.token("neighbour", "agent", "red"), "/tickets"))

    async def _talk(self) -> None:
        while True:
            began = time.monotonic()
            await self.caller.call("/tickets", "nothing:such", {})
            self.worst_s = max(self.worst_s, time.monotonic() - began)
            await asyncio.sleep(0.7)  # below the rate limit of unknown events

    async def end(self) -> float:
        assert not self._task.done(), self._task
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.caller.close()
        return self.worst_s


async def closed_reasons(server: ServerProcess) -> dict[str, int]:
    """Return the number of closed clients by reason."""
    status, found = await server.push("GET", "/api/v1/connections/closed?limit=500")
    assert status == 200
    reasons: dict[str, int] = {}
    for one in found["items"]:
        reasons[one["closeReason"]] = reasons.get(one["closeReason"], 0) + 1
    return reasons


@pytest.mark.parametrize("token", ["bad", "good"])
@aio
async def test_a_client_with_too_many_connects_is_closed(tmp_path: Path, token: str) -> None:
    with running(tmp_path, max_connects_per_connection_per_minute=10) as server:
        shown = server.token("ann", "agent", "red") if token == "good" else "nonsense"
        connect = f"40/tickets,{json.dumps({'token': shown})}"
        socket = await Target(server.port).socket()
        await socket.text()  # Engine.IO's handshake
        for _ in range(10):
            socket.say(connect)
            while not (await socket.text()).startswith(("40", "44")):
                pass
            if token == "good":
                socket.say("41/tickets,")
        socket.say(connect)
        assert await socket.closed() == 1005
        assert await closed_reasons(server) == {"too many connects": 1}


@aio
async def test_a_body_of_ambiguous_length_is_answered_once(tmp_path: Path) -> None:
    """Request smuggling: a proxy in between may see another end of the body than the server does (RFC 9112 6.3)."""
    with running(tmp_path) as server:
        target = Target(server.port)
        session = await target.session()
        for path in (session, POLL, f"{POLL}&sid=none"):
            for framing in (
                "Content-Length: 3\r\nTransfer-Encoding: chunked",
                "Content-Length: -1",
                "Content-Length: 3\r\nContent-Length: 4",
                "Content-Length: 1_0",
                "Transfer-Encoding: identity",
                "Transfer-Encoding: chunked, chunked",
            ):
                request = f"POST {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n3\r\n413\r\n0\r\n\r\n"
                said, ended = await answers(target, request.encode())
                assert (said, ended) == ([400], True), (path, framing, said)
        await target.close()


@aio
async def test_at_the_file_descriptor_limit_connected_clients_continue(tmp_path: Path) -> None:
    with running(tmp_path, "no new connections for a while") as server:
        neighbour = await Neighbour.of(server)
        _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (descriptors(server) + 20, most))
        waiting = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(60)]
        await asyncio.sleep(2.5)
        assert server.log().count("no new connections for a while") == 1
        assert await neighbour.end() < 5
        for _, writer in waiting:
            writer.transport.abort()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))

        async def back() -> bool:
            caller = await asyncio.wait_for(Caller.to(Target(server.port), server.token("a", "agent"), "/tickets"), 5)
            await caller.close()
            return True

        await until(back, "a new client", 10)


@aio
async def test_a_thousand_clients_that_do_not_read_cost_bounded_memory_and_nobody_else_waits(tmp_path: Path) -> None:
    """Volatile events are dropped first; then each client is closed when it reaches its limit."""
    outbox, doubt = 65_536, "max_payload_bytes is over"
    with running(
        tmp_path, doubt, max_outbox_bytes=outbox, max_event_bytes=32_768, volatile_outbox_bytes=16_384
    ) as server:
        await server.push("PUT", "/api/v1/tickets/t1", {"teamId": "red"})
        target = Target(server.port)

        async def deaf(number: int) -> RawSocket:
            socket = await target.socket("/rt/tickets")
            socket.http.writer.transport.get_extra_info("socket").setsockopt(1, 8, 4096)  # SO_RCVBUF
            token = server.token(f"u{number % 50}", "agent", "red")
            socket.say(json.dumps({"event": "connect", "data": {"token": token}}))
            socket.say('{"event":"ticket:subscribe","data":{"ticketId":"t1"},"id":1}')
            await socket.http.writer.drain()
            while '"ack":1' not in (await socket.text()):
                pass
            socket.http.writer.transport.pause_reading()  # type: ignore[attr-defined]
            return socket

        sockets = [one for start in range(0, 1000, 50) for one in await _all(deaf, range(start, start + 50))]
        reader = await Caller.to(target, server.token("reader", "agent", "red"), "/tickets")
        assert await reader.outcome("/tickets", "ticket:subscribe", {"ticketId": "t1"}) == "ok"
        before, neighbour = memory_mb(server), await Neighbour.of(server)
        peak, sent = before, 0
        end = time.monotonic() + 60

        async def slow() -> int:
            return (await closed_reasons(server)).get("slow_consumer", 0)

        while await slow() < 500 and time.monotonic() < end:  # 500 of the last 1,000 closed clients are shown
            blob = {"namespace": "/tickets", "room": "ticket:t1", "event": "blob", "data": "x" * 16_000}
            status, _ = await server.push("POST", "/api/v1/emit", blob)
            assert status == 200
            sent += 1
            peak = max(peak, memory_mb(server))
        assert await slow() == 500
        await until(lambda: len(reader.heard("blob")) == sent, "a client that reads receives everything")
        assert await neighbour.end() < 5
        assert peak - before < 1000 * outbox * 2 / 1e6, (before, peak)
        for socket in sockets:
            socket.http.writer.transport.abort()
        await reader.close()


async def _all(make: Callable[[int], Coroutine[Any, Any, RawSocket]], numbers: range) -> list[RawSocket]:
    return list(await asyncio.gather(*(make(number) for number in numbers)))

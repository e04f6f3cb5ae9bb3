"""Malformed input for all three doors of a running server, which must go on serving an ordinary client.

Each attacker is a connection that begins validly or not, sends the input of a seed, and disconnects or waits for the
close. The checks: the process lives, its log has no error and no traceback, the ordinary client's calls are answered,
and files and memory return to their former numbers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, NamedTuple

from tests.fuzz import mutate
from tests.hostile.kit import POLL, SOCKET, Caller, Target, descriptors, memory_mb
from tests.support.aio import until
from tests.support.door import frame
from tests.support.server import ServerProcess

AT_ONCE = 8
ATTACK_S = 1.0  # the most that one takes
BACK_S = 15.0  # until files are closed again
# A client that disconnects behind a poll and a further request is noticed at the next heartbeat, others after two.
SOON = {"presence_grace_ms": 200, "drain_seconds": 0, "ping_interval_ms": 2_000, "ping_timeout_ms": 2_000}
NEIGHBOUR_S = 3.0


class Report(NamedTuple):
    attacks: int
    worst_s: float  # the longest the neighbour waited for an answer
    memory_mb: tuple[float, float]  # before and after


async def socketio(target: Target, token: str, random: Random) -> None:
    socket = await target.socket(SOCKET)
    if random.random() < 0.7:
        socket.send(frame(1, f"40/tickets,{json.dumps({'token': token})}".encode()))
    await _send_frames(socket, random)


async def native(target: Target, token: str, random: Random) -> None:
    socket = await target.socket(random.choice(("/rt/tickets", "/rt/chat", "/rt/presence", "/rt/notifications")))
    if random.random() < 0.7:
        socket.send(frame(1, json.dumps({"event": "connect", "data": {"token": token}}).encode()))
    await _send_frames(socket, random)


async def _send_frames(socket: Any, random: Random) -> None:
    for _ in range(random.randrange(1, 12)):
        good = random.random() < 0.5
        data = frame(1, mutate.text(random)) if good else mutate.frame(random, mutate.text(random))
        for part in mutate.pieces(random, data):
            socket.send(part)
            if random.random() < 0.2:
                await asyncio.sleep(0.005)
    await _wait(socket.http, random)


async def polling(target: Target, token: str, random: Random) -> None:
    path = await target.session()
    http = await target.http()
    if random.random() < 0.5:
        await http.ask("POST", path, f"40/tickets,{json.dumps({'token': token})}".encode())
    for _ in range(random.randrange(1, 4)):
        body = b"\x1e".join(mutate.text(random) for _ in range(random.randrange(1, 4)))
        http.send(random.choice(("POST", "POST", "POST", "GET", "PUT", "DELETE")), path, body)
        if random.random() < 0.5:
            await http.receive()
    await _wait(http, random)


async def http(target: Target, token: str, random: Random) -> None:
    """Requests that are malformed or nearly valid."""
    request = bytearray(
        f"{random.choice(('GET', 'POST', 'OPTIONS'))} {random.choice((POLL, SOCKET, '/rt/tickets', '/'))} HTTP/1.1\r\n"
        f"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\nOrigin: http://x\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nabc".encode()
    )
    for _ in range(random.randrange(1, 5)):
        request = mutate.broken(random, request)
    connection = await target.http()
    for part in mutate.pieces(random, bytes(request)):
        connection.writer.write(part)
        await asyncio.sleep(0)
    await _wait(connection, random)


async def _wait(http: Any, random: Random) -> None:
    """Disconnect, or read until the server does."""
    if random.random() < 0.6:
        try:
            async with asyncio.timeout(random.choice((0.02, 0.1, 0.3))):
                while await http.reader.read(65_536):
                    pass
        except TimeoutError:
            pass


Attack = Callable[[Target, str, Random], Coroutine[Any, Any, None]]
DOORS: tuple[Attack, ...] = (socketio, native, polling, http)


async def run(
    server: ServerProcess, seed: int, seconds: float, say: Callable[[str], None] = lambda text: None
) -> Report:
    """Attack for some time. Raises AssertionError with the failed check."""
    random = Random(seed)
    target = Target(server.port)
    token = server.token("fuzz", "agent", "red")
    neighbour = await Caller.to(target, server.token("neighbour", "agent", "red"), "/tickets")
    files, before_mb, worst_s, attacks = descriptors(server), memory_mb(server), 0.0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seeds = [random.randrange(1 << 40) for _ in range(AT_ONCE)]
        await asyncio.gather(*(_attack(DOORS[one % len(DOORS)], target, token, Random(one)) for one in seeds))
        attacks += AT_ONCE
        began = time.monotonic()
        await neighbour.call("/tickets", "ticket:unsubscribe", {"ticketId": "1"})
        worst_s = max(worst_s, time.monotonic() - began)
        if attacks % (100 * AT_ONCE) == 0:
            say(f"{attacks} attacks, {memory_mb(server):.0f} MB, {descriptors(server)} files")
    await until(lambda: descriptors(server) <= files, f"{files} open files, as before", BACK_S)
    report = Report(attacks, worst_s, (before_mb, memory_mb(server)))
    assert neighbour.code is None, f"the neighbour was closed with {neighbour.code}"
    assert worst_s < NEIGHBOUR_S, f"the neighbour waited {worst_s:.2f} s"
    await neighbour.close()
    await target.close()
    return report


async def _attack(attack: Attack, target: Target, token: str, random: Random) -> None:
    mine = Target(target.number)
    try:
        async with asyncio.timeout(ATTACK_S):
            await attack(mine, token, random)
    except (TimeoutError, OSError, EOFError, AssertionError, ValueError, IndexError):
        pass  # the server's way to say no; what is judged is the server
    finally:
        await mine.close()

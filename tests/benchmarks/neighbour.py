"""Measures how long another client waits while one attacks: a table for docs/security.md.

    python -m tests.benchmarks.neighbour [--seconds S] [--only WORD]

One real server runs with its default limits. A client, the neighbour, calls an event, waits for the answer, and calls
again 20 ms later: first without an attack, then during each one. Attacks run in another process, so that the attacker's
own cost does not delay the neighbour (on a machine with one core it does). There is a second's pause between attacks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.hostile.kit import POLL, SOCKET, Caller, Target
from tests.hostile.test_frames import ENDS, STAYS, text
from tests.hostile.test_requests import ASKED
from tests.support.door import Http, RawSocket, frame
from tests.support.server import ServerProcess

SECONDS = 4.0
BETWEEN_S = 0.02
RECOVERY_S = 1.0
HEAD_START_S = 0.3  # of the attack, and as long it goes on behind the last call
GIVE_UP_S = 30.0  # for one answer, and for an attacker to end
FLOODERS = 8
AT_ONCE = 32

Attack = Callable[[Target, str, float], Awaitable[None]]  # target, token, until when
SETTINGS = {"drain_seconds": 0, "rate_limits": "presence:unsubscribe=999999999/1"}  # the neighbour's own event


# ── attacks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _flood(data: bytes, path: str = SOCKET, *, joined: bool = False, reads: bool = True) -> Attack:
    """Write the same bytes on eight connections as fast as possible; a closed connection is opened again."""

    async def one(target: Target, token: str) -> None:
        socket = await (_joined(target, token) if joined else target.socket(path))
        writer = socket.http.writer
        reading = asyncio.create_task(_swallow(socket.reader)) if reads else None
        try:
            while not writer.is_closing():
                writer.write(data)
                await writer.drain()
        finally:
            if reading is not None:
                reading.cancel()

    return _again(one, FLOODERS)


def _again(one: Callable[[Target, str], Awaitable[None]], at_once: int = AT_ONCE) -> Attack:
    """Repeat an action, with so many in parallel."""

    async def attack(target: Target, token: str, until: float) -> None:
        async def attacker() -> None:
            while time.monotonic() < until:
                mine = Target(target.number)
                with contextlib.suppress(TimeoutError, OSError, EOFError, AssertionError, ValueError, IndexError):
                    async with asyncio.timeout(until - time.monotonic()):
                        await one(mine, token)
                for connection in mine.connections:
                    connection.writer.transport.abort()
                await asyncio.sleep(0)

        await asyncio.gather(*(attacker() for _ in range(at_once)))

    return attack


def _sends(data: bytes) -> Callable[[Target, str], Awaitable[None]]:
    """Connect, send this, wait for the close or half a second, disconnect."""

    async def one(target: Target, token: str) -> None:
        socket = await _joined(target, token)
        socket.send(data)
        async with asyncio.timeout(0.5):
            await _swallow(socket.reader)

    return one


async def _joined(target: Target, token: str) -> RawSocket:
    socket = await target.socket()
    await socket.text()
    socket.say(f"40/tickets,{json.dumps({'token': token})}")
    await socket.text()
    return socket


async def _swallow(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65_536):
            pass


async def _connects(target: Target, token: str) -> None:
    await _joined(target, token)


async def _bad_tokens(target: Target, token: str) -> None:
    await _joined(target, "nonsense")


async def _polls(target: Target, token: str) -> None:
    await (await target.http()).ask("GET", POLL)


async def _half_a_head(target: Target, token: str) -> None:
    http = await target.http()
    http.writer.write(b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nX: ")
    await http.writer.drain()
    await asyncio.sleep(0.2)


async def _odd_requests(target: Target, token: str) -> None:
    for data, _ in ASKED.values():
        http = await Http.to(target)  # type: ignore[arg-type]
        http.writer.write(data)
        await http.writer.drain()
        await asyncio.sleep(0)
        http.writer.transport.abort()


async def _every(target: Target, token: str, until: float) -> None:
    """Every protocol violation and every well-formed nonsense, one after the other."""
    while time.monotonic() < until:
        for data in [*(data for data, _ in ENDS.values()), *STAYS.values()]:
            if time.monotonic() < until:
                await _again(_sends(data), 4)(target, token, min(until, time.monotonic() + 0.05))


MEGABYTE = 990_000
LONE_SURROGATE = "\\ud800"
ATTACKS: dict[str, Attack] = {
    "pings of the websocket": _flood(frame(9, b"x" * 100) * 2_000),
    "pongs of the websocket": _flood(frame(10) * 20_000),
    "unrequested Engine.IO pongs": _flood(text("3") * 20_000),
    "fragments of one byte": _again(_sends(ENDS["endless fragments of one byte"][0]), FLOODERS),
    "empty fragments": _again(_sends(ENDS["endless empty fragments"][0]), FLOODERS),
    "subscriptions": _flood(STAYS["three thousand subscriptions"], joined=True),
    "events that do not exist": _flood(text('42/tickets,["x"]') * 3_000, joined=True),
    "invalid native messages": _flood(text('{"event":1}') * 3_000, "/rt/tickets"),
    "messages of 1 MB": _flood(text(f'42/tickets,["x",{{"a":"{"x" * MEGABYTE}"}}]'), joined=True),
    "messages of 1 MB of small objects": _flood(text(f'42/tickets,["x",[{"{}," * 330_000}0]]'), joined=True),
    "messages of 1 MB of escapes": _flood(
        text(f'42/tickets,["ticket:subscribe",{{"ticketId":"{LONE_SURROGATE * 165_000}"}}]'), joined=True
    ),
    "JSON nested 100,000 deep": _again(_sends(ENDS["an argument 100,000 deep"][0]), FLOODERS),
    "clients that send calls and read no answers": _flood(
        text('42/tickets,7["ticket:unsubscribe",{"ticketId":"1"}]') * 200, joined=True, reads=False
    ),
    "connects": _again(_connects),
    "connects with invalid tokens": _again(_bad_tokens),
    "three thousand invalid tokens": _again(_sends(ENDS["three thousand invalid tokens"][0]), FLOODERS),
    "new sessions by polling": _again(_polls),
    "incomplete request heads": _again(_half_a_head, 200),
    "odd requests": _again(_odd_requests, FLOODERS),
    "every protocol violation in turn": _every,
}


# ── the neighbour ────────────────────────────────────────────────────────────────────────────────────────────────────


async def waits_ms(neighbour: Caller, seconds: float) -> list[float]:
    """Return how long each answer took. Ends the run if one takes longer than GIVE_UP_S."""
    found, end = list[float](), time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        async with asyncio.timeout(GIVE_UP_S):
            answer = await neighbour.call("/presence", "presence:unsubscribe", {"userIds": []})
        assert answer["ok"], answer
        found.append(1e3 * (time.monotonic() - began))
        await asyncio.sleep(BETWEEN_S)
    return found


def row(name: str, waits: list[float]) -> str:
    ordered = sorted(waits)
    p50, p99, most = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]
    return f"| {name} | {p50:.1f} | {p99:.1f} | {most:.1f} | {len(ordered)} |"


def attack_from_here(name: str, port: int, token: str, seconds: float, begun: Event) -> None:
    """The main function of the attacker's process."""

    async def story() -> None:
        target = Target(port)
        begun.set()
        try:
            async with asyncio.timeout(seconds + 5):
                await ATTACKS[name](target, token, time.monotonic() + seconds)
        except (TimeoutError, OSError, EOFError, AssertionError):
            pass  # the server closed the connection; only the neighbour is measured
        await target.close()

    asyncio.run(story())


async def rows(server: ServerProcess, names: list[str], seconds: float, quiet_s: float) -> list[str]:
    """Print and return a row without an attack, and one for each attack."""
    target, spawning = Target(server.port), multiprocessing.get_context("spawn")
    neighbour = await Caller.to(target, server.token("neighbour", "agent", "red", ttl_s=7200), "/presence")
    await waits_ms(neighbour, min(1.0, quiet_s))  # warm-up
    found = [row("no attack", await waits_ms(neighbour, quiet_s))]
    print(found[0], flush=True)
    for name in names:
        token = server.token("mallory", "customer", ttl_s=7200)
        begun = spawning.Event()
        what = (name, server.port, token, seconds + 2 * HEAD_START_S, begun)
        attacker = spawning.Process(target=attack_from_here, args=what, daemon=True)
        attacker.start()
        assert await asyncio.to_thread(begun.wait, GIVE_UP_S), "the attacker does not start"
        await asyncio.sleep(HEAD_START_S)
        found.append(row(name, await waits_ms(neighbour, seconds)))
        print(found[-1], flush=True)
        await asyncio.to_thread(attacker.join, GIVE_UP_S)
        if attacker.is_alive():
            attacker.kill()
        await asyncio.sleep(RECOVERY_S)
    assert neighbour.code is None, f"the neighbour was closed with {neighbour.code}"
    await neighbour.close()
    await target.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.neighbour", description="How long others wait.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each attack")
    parser.add_argument("--only", default="", metavar="WORD", help="attacks with this in their names")
    asked = parser.parse_args()
    names = [name for name in ATTACKS if asked.only in name]
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), **SETTINGS)
        server.start()
        try:
            print("| during | p50 ms | p99 ms | max ms | answers |\n|---|---|---|---|---|", flush=True)
            asyncio.run(rows(server, names, asked.seconds, 2 * asked.seconds))
        finally:
            if server.process is not None and server.process.poll() is None:
                server.stop()


if __name__ == "__main__":
    main()

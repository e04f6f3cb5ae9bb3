"""Measures how costs grow: messages by room size, connects and disconnects by connected clients, heartbeats.

    python -m tests.benchmarks.growth [--json FILE]

One server grows through the sizes, as far as the machine's file limit lets it. A cost is CPU µs of the server process,
the median of RUNS or more, without the cost of an idle server (measured at each size before).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.contestants import ThisServer
from tests.benchmarks.crowd import Crowd, attainable
from tests.benchmarks.generator import Workshop, payload
from tests.benchmarks.report import about

ROOMS = (100, 1_000, 10_000)
PRESENT = (1_000, 10_000, 50_000)
CONNECTED = (1_000, 10_000, 50_000, 100_000)
RUNS = 5
SETTLE_S = 2.0
DELIVERIES = 20_000  # of a run, or more
COMING = 2_000  # at 100 to 400 µs each, many times the server's background work in that time
COMING_RUNS = 9
GOING_S = 1.5  # until the server has closed those clients too
UNLISTENED_S = 6.0  # their rooms are unsubscribed five seconds later: not a part of any run
NO_PINGS_MS = 3_600_000
PING_S = 25.0  # the default interval, for which the cost is computed
FAST_PING_MS = 5_000  # so that all clients are pinged within seconds

Points = dict[int, list[float]]


def room_sizes(shop: Workshop) -> Points:
    """Return CPU µs per message delivered, by members of the room."""

    def cost(who: ThisServer, crowd: Crowd, size: int) -> float:
        rounds = max(3, DELIVERIES // size)
        per_s = max(0.5, 20_000 / size) if size > 1_000 else 20.0

        def publish() -> int:
            return sum(report["deliveries"] for report in crowd.publish(rounds, per_s, payload(100)))

        return per_unit(who, publish, rest_of(who))

    return over_sizes(shop, ROOMS, cost)


def coming_and_going(shop: Workshop) -> tuple[Points, Points]:
    """Return CPU µs per connect, and per disconnect, by clients that are connected already.

    Heartbeats are off: clients that connect together are pinged together, so a short run would have all pings or none.
    """
    going: Points = {}

    def cost(who: ThisServer, crowd: Crowd, size: int) -> float:
        rest = rest_of(who, 2)

        def come() -> int:
            crowd.grow(size + COMING)
            return COMING

        def go() -> int:
            crowd.shrink(COMING)
            time.sleep(GOING_S)
            return COMING

        connect = per_unit(who, come, rest)
        time.sleep(0.5)
        going.setdefault(size, []).append(per_unit(who, go, rest))
        time.sleep(UNLISTENED_S)
        return connect

    coming = over_sizes(shop, PRESENT, cost, spare=COMING, runs=COMING_RUNS, ping_interval_ms=NO_PINGS_MS)
    return coming, going


def heartbeats(shop: Workshop) -> Points:
    """Return the share of a core, in %, that heartbeats take, by number of clients."""

    def cost(who: ThisServer, crowd: Crowd, size: int) -> float:
        seconds = 2 * FAST_PING_MS / 1000
        before_s = who.cpu_s()
        crowd.idle(seconds)
        used = (who.cpu_s() - before_s) / seconds - idle[0]
        return 100 * used * FAST_PING_MS / 1000 / PING_S

    with_nobody = ThisServer(shop)
    with_nobody.start()
    idle = [rest_of(with_nobody, 5)]
    with_nobody.stop()
    return over_sizes(shop, CONNECTED, cost, ping_interval_ms=FAST_PING_MS)


def over_sizes(
    shop: Workshop,
    sizes: tuple[int, ...],
    cost: Callable[[ThisServer, Crowd, int], float],
    *,
    spare: int = 0,
    runs: int = 0,
    **settings: Any,
) -> Points:
    """Return the runs at each size. A size too large for this machine is replaced by the largest possible one."""
    most, why_not_more = attainable(max(sizes) + spare)
    if why_not_more:
        print(f"  {why_not_more}")
    fitting = sorted({min(size, most - spare) // 100 * 100 for size in sizes})
    who, found = ThisServer(shop, **settings), dict[int, list[float]]()
    who.start()
    try:
        with Crowd(shop, who) as crowd:
            for size in fitting:
                crowd.grow(size)
                time.sleep(SETTLE_S)
                found[size] = [cost(who, crowd, size) for _ in range(runs or RUNS)]
                middle = statistics.median(found[size])
                print(f"  {size:>7,}: {middle:.2f} ({min(found[size]):.2f}–{max(found[size]):.2f})", flush=True)
    finally:
        who.stop()
    return found


def per_unit(who: ThisServer, work: Callable[[], int], rest: float) -> float:
    """Return CPU µs per unit; `work` returns the number of units. `rest` is the share of a core used when idle."""
    began_s, cpu_s = time.monotonic(), who.cpu_s()
    units = work()
    return 1e6 * (who.cpu_s() - cpu_s - rest * (time.monotonic() - began_s)) / units


def rest_of(who: ThisServer, seconds: float = 1.0) -> float:
    cpu_s = who.cpu_s()
    time.sleep(seconds)
    return (who.cpu_s() - cpu_s) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description="Measure how costs grow.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    with Workshop() as shop:
        results: dict[str, Any] = {"about": about(), **measured(shop)}
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


def measured(shop: Workshop) -> dict[str, Points]:
    print("CPU µs per message delivered, by members of the room", flush=True)
    results = {"room": room_sizes(shop)}
    print("CPU µs per connect, by connected clients", flush=True)
    results["connect"], results["disconnect"] = coming_and_going(shop)
    print("% of a core for heartbeats, by connected clients", flush=True)
    results["heartbeats"] = heartbeats(shop)
    return results


if __name__ == "__main__":
    main()

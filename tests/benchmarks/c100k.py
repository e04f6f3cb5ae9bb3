"""bin/c100k: 100,000 idle websockets in one process, heartbeats on, and one broadcast to all of them.

    bin/c100k [--connections N] [--hold SECONDS] [--json FILE]

Server and clients are separate processes, each with its own file limit. Clients connect from many addresses of
127.0.0.0/8. If the machine allows a process fewer files, it says so and opens as many connections as possible.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.contestants import ThisServer
from tests.benchmarks.crowd import Crowd, attainable
from tests.benchmarks.generator import NoCompiler, Workshop, payload
from tests.benchmarks.measures import kernel_bytes
from tests.benchmarks.report import about
from tests.support import scrape

WANTED = 100_000
LIMIT_BYTES = 700_000_000  # for 100,000
HOLD_S = 26.0  # every client has had its heartbeat: they come every 25 s


def run(shop: Workshop, wanted: int, hold_s: float) -> dict[str, Any]:
    count, why_not_more = attainable(wanted)
    if why_not_more:
        print(f"{why_not_more}\nGoing on with {count:,} connections.\n", flush=True)
    who = ThisServer(shop)
    who.start()
    found: dict[str, Any] = {"wanted": wanted, "connections": count, "why_not_more": why_not_more}
    try:
        with Crowd(shop, who) as crowd:
            crowd.grow(200)
            rss, kernel, began_s, cpu_s = who.rss(), kernel_bytes(), time.monotonic(), who.cpu_s()
            reports = crowd.grow(count)
            took_s = time.monotonic() - began_s
            found |= {
                "connect_s": took_s,
                "connect_us": 1e6 * (who.cpu_s() - cpu_s) / (count - 200),
                "worst_wait_ms": max(report["max_ms"] for report in reports),
            }
            say(f"{count:,} connections in {took_s:.1f} s, {found['connect_us']:.0f} µs of CPU each")
            lag = Lag(who)
            cpu_s, began_s = who.cpu_s(), time.monotonic()
            crowd.idle(hold_s)
            busy = (who.cpu_s() - cpu_s) / (time.monotonic() - began_s)
            found |= {"idle_busy": busy, "idle_lag": lag.since()}
            say(f"idle with heartbeats: {busy:.1%} of a core, loop {found['idle_lag']}")
            found |= {
                "rss_bytes": who.rss(),
                "rss_each": (who.rss() - rss) / (count - 200),
                "kernel_each": (kernel_bytes() - kernel) / (count - 200),
            }
            say(f"{who.rss() / 1e6:,.0f} MB of memory, {found['rss_each']:,.0f} B for each connection")
            lag, cpu_s = Lag(who), who.cpu_s()
            reports = crowd.publish(3, 0.5, payload(100))
            got = sum(report["deliveries"] for report in reports)
            assert got == 3 * count, f"{got:,} of {3 * count:,} messages arrived"
            found |= {
                "broadcast_us": 1e6 * (who.cpu_s() - cpu_s) / got,
                "broadcast_p50_ms": max(report["p50_ms"] for report in reports),
                "broadcast_last_ms": max(report["max_ms"] for report in reports),
                "broadcast_lag": lag.since(),
            }
            say(f"a broadcast reaches the last of them after {found['broadcast_last_ms']:.0f} ms, loop {lag.since()}")
    finally:
        who.stop()
    return found


class Lag:
    """The server's loop lag from now on, from its /metrics: in 99 % of the samples, and at most."""

    def __init__(self, who: ThisServer) -> None:
        self._who = who
        self._before = self._buckets()

    def since(self) -> dict[str, float]:
        """Return the upper bound of 99 % of the samples and of all, in ms, as bounds of buckets."""
        counts = {bound: count - self._before.get(bound, 0) for bound, count in self._buckets().items()}
        total = counts[float("inf")]
        return {
            name: 1e3 * min(bound for bound, count in counts.items() if count >= part * total)
            for name, part in (("p99_ms", 0.99), ("max_ms", 1.0))
        }

    def _buckets(self) -> dict[float, float]:
        assert self._who.server is not None
        text = asyncio.run(scrape.fetch(self._who.server)).body.decode()
        values = scrape.Scrape(text).values
        name = "insightdesk_rt_loop_lag_seconds_bucket"
        return {float(dict(labels)["le"]): value for (each, labels), value in values.items() if each == name}


def say(text: str) -> None:
    print(text, flush=True)


def verdict(found: dict[str, Any]) -> str:
    """Return one line that says whether the process stays within its memory limit, measured or computed for 100,000."""
    base = found["rss_bytes"] - found["rss_each"] * found["connections"]
    expected = base + found["rss_each"] * WANTED
    how = "measured" if found["connections"] >= WANTED else f"computed from {found['connections']:,} connections"
    sign = "under" if expected < LIMIT_BYTES else "over"
    return f"100,000 connections: {expected / 1e6:,.0f} MB ({how}), {sign} the limit of {LIMIT_BYTES / 1e6:,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/c100k", description="100,000 idle websockets in one process.")
    parser.add_argument("--connections", type=int, default=WANTED, metavar="N")
    parser.add_argument("--hold", type=float, default=HOLD_S, metavar="SECONDS", help="how long to measure them idle")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    with Workshop() as shop:
        try:
            found = run(shop, asked.connections, asked.hold)
        except NoCompiler as why:
            sys.exit(f"bin/c100k: {why}")
    print(verdict(found))
    if asked.json:
        asked.json.write_text(json.dumps({"about": about(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

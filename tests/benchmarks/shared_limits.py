"""What limits cost that count once per cluster: `python -m tests.benchmarks.shared_limits`.

Four nodes in one process exchange reports as servers do: made, encoded, sealed; then checked, decoded, adopted. Valkey
is not in it; docs/scaling.md has the cost of a PUBLISH. Every user sends events on every node. Printed are the rows of
the table in docs/scaling.md. Times are CPU times of one node and second; the best of several runs counts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.cluster.requests import LimitReport
from insightdesk_rt.engine.cluster.seal import Seal
from insightdesk_rt.engine.rate_limits import Rate, Window
from insightdesk_rt.engine.shared_limits import EXCHANGE_MS, RateShares, SharedCap, SharedLimits
from insightdesk_rt.engine.wire import json

NODES = 4
RATE = Rate(100, 60)  # the default
CHANNEL = "{insightdesk}:nodes:all"
SECONDS = 10
TAKES = 200_000

_decoder = msgspec.json.Decoder(LimitReport)


class Exchange(NamedTuple):
    """The averages of a second, for one node: CPU time in µs, and the size of its report."""

    report_us: float  # to make its report, encode and seal it
    hear_us: float  # to take the reports of the others
    report_bytes: float
    uses: float  # limits in a report


class BenchNode:
    """The limits of one node: the windows of its users, and their connections."""

    def __init__(self, name: str, users: list[str]) -> None:
        self.limits = SharedLimits(name)
        self.limits.nodes = NODES
        self._windows: dict[str, Window] = {}
        self._shares = RateShares(self.limits, "calls", lambda subject, name: self._windows.get(subject))
        self._sockets = SharedCap(100, self.limits, "users")
        for user in users:
            self._sockets.enter(user)

    def call(self, user: str, now_ms: int) -> None:
        window = self._windows.get(user)
        if window is None:
            window = self._windows[user] = self._shares.window(RATE, user, "ticket:typing")
        window.take(now_ms)


def exchange(users: int, heavy: int, seconds: int = SECONDS) -> Exchange:
    """Measure `users` on four nodes, who send two events in ten seconds on each. `heavy` of them use up their limit."""
    names = [f"user-{number:06}" for number in range(users)]
    nodes = [BenchNode(f"n{number}.0123abcd", names) for number in range(NODES)]
    seal, rng = Seal(b"a key"), random.Random(1)
    report_s = hear_s = 0.0
    size = uses = 0
    for second in range(seconds):
        now_ms = 1_000_000 + second * EXCHANGE_MS
        for node in nodes:
            for user in rng.sample(names, users // 5):
                node.call(user, now_ms)
            for user in names[:heavy]:
                for _ in range(30):
                    node.call(user, now_ms)
        for node in nodes:
            began_s = time.process_time()
            report = node.limits.report(now_ms)
            text = "" if report is None else json.encode_struct(LimitReport(node.limits.address, report))
            message = envelope.call(seal.stamp(CHANNEL, text), text).encode() if text else b""
            report_s += time.process_time() - began_s
            if not message:
                continue
            size += len(message)
            uses += sum(map(len, (report or {}).values()))
            for other in nodes:
                if other is not node:
                    began_s = time.process_time()
                    hear(other, message, now_ms)
                    hear_s += time.process_time() - began_s
    turns = seconds * NODES
    return Exchange(report_s / turns * 1e6, hear_s / turns * 1e6, size / turns, uses / turns)


def hear(node: BenchNode, message: bytes, now_ms: int) -> None:
    """Take a message as the backplane and the exchange do."""
    read = envelope.read(message)
    assert isinstance(read, envelope.BusCall)
    Seal(b"a key").check(CHANNEL.encode(), read.stamp, read.text)
    report = json.decode(_decoder, read.text)
    node.limits.hear(report.node, report.uses, now_ms)


def take_ns(make: Callable[[], Window]) -> float:
    """Return the CPU time of one allowed call, in ns."""
    window, began_s = make(), time.process_time()
    for _ in range(TAKES):
        window.take(1)
    return (time.process_time() - began_s) / TAKES * 1e9


def main() -> None:
    shares = RateShares(SharedLimits("n1"), "calls", lambda subject, name: None)
    rate = Rate(2 * TAKES, 60)
    alone = min(take_ns(lambda: Window(rate.max, 60_000)) for _ in range(5))
    shared = min(take_ns(lambda: shares.window(rate, "ann", "say")) for _ in range(5))
    print(f"one allowed call, in ns: {alone:.0f} counted on one node, {shared:.0f} counted on all nodes\n")
    print(
        "| active users on four nodes | of them at their limit | limits in a report | bytes | made | heard from three |"
    )
    print("|---|---|---|---|---|---|")
    for users, heavy in ((10_000, 0), (10_000, 100), (10_000, 1_000), (10_000, 5_000)):
        best = min((exchange(users, heavy) for _ in range(3)), key=lambda one: one.report_us + one.hear_us)
        print(
            f"| {users:,} | {heavy:,} | {best.uses:,.0f} | {best.report_bytes:,.0f} |"
            f" {best.report_us / 1000:.2f} ms | {best.hear_us / 1000:.2f} ms |"
        )


if __name__ == "__main__":
    main()

"""Very many clients of one server: several generators, each with as many clients as the machine's limits allow."""

from __future__ import annotations

import resource
from typing import Any

from tests.benchmarks.contestants import Contestant, tokens
from tests.benchmarks.generator import Generator, Workshop
from tests.benchmarks.measures import WINDOW

SPARE = 300  # files of a process that are no connections of its clients
PER_GENERATOR = 50_000
ADDRESSES = 16  # loopback addresses of a generator, 20,000 connections each


def raise_file_limit(wanted: int) -> int:
    """Raise the limit of open files for this process and its children. Returns the limit that is now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    elif soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def attainable(wanted: int) -> tuple[int, str]:
    """Return how many connections one process can hold here, up to `wanted`, and what prevents more."""
    files = raise_file_limit(wanted + SPARE)
    if files >= wanted + SPARE:
        return wanted, ""
    return files - SPARE, (
        f"A process may have {files:,} open files here, and this one may not raise that limit: {wanted:,} connections"
        f" need {wanted + SPARE:,}. Start it with a higher hard limit: `ulimit -Hn {wanted + SPARE}` as root,"
        f" LimitNOFILE= in a systemd unit, nofile in /etc/security/limits.conf, --ulimit nofile= of a container."
    )


class Crowd:
    """A growing number of clients. The last generator publishes."""

    def __init__(self, shop: Workshop, who: Contestant) -> None:
        self._shop = shop
        self._who = who
        self._loads: list[tuple[Generator, int]] = []
        self._room = min(PER_GENERATOR, raise_file_limit(PER_GENERATOR + SPARE) - SPARE)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc: object) -> None:
        for load, _ in self._loads:
            load.end()

    @property
    def count(self) -> int:
        return sum(count for _, count in self._loads)

    def grow(self, count: int, window: int = WINDOW) -> list[dict[str, Any]]:
        """Open clients up to this number, each with a user of its own."""
        reports = []
        while self.count < count:
            if not self._loads or self._loads[-1][1] >= self._room:
                self._loads.append((Generator(self._shop, source=len(self._loads) * ADDRESSES), 0))
            load, has = self._loads[-1]
            more = min(count - self.count, self._room - has, 10_000)
            people = tokens(users=more, first=self.count)
            reports.append(load.open(more, window, self._who.port, self._who.script(), people, deadline_s=120))
            self._loads[-1] = load, has + more
        return reports

    def shrink(self, count: int) -> None:
        """Close some of the newest clients, of the last generator."""
        load, has = self._loads[-1]
        load.close(count)
        self._loads[-1] = load, has - count

    def idle(self, seconds: float) -> list[dict[str, Any]]:
        """Let all clients answer heartbeats."""
        for load, _ in self._loads:
            load.send("idle", seconds)
        return [load.answer(seconds + 30) for load, _ in self._loads]

    def publish(self, rounds: int, per_s: float, data: str) -> list[dict[str, Any]]:
        """Publish to all clients, and return the report of each generator. The last one publishes."""
        port, request = self._who.emit(data)
        *others, (last, _) = self._loads
        for load, _ in others:
            load.send("idle", rounds / per_s + 5)
        report = last.publish(rounds, per_s, 1, port, request, late_s=30)
        return [report, *(load.answer(rounds / per_s + 40) for load, _ in others)]

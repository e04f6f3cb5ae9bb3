"""The results of bin/bench as tables, and the verdicts on the targets."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import contestants
from tests.benchmarks.measures import Measure, Values
from tests.benchmarks.scaling_load import machine

ROOT = Path(__file__).parents[2]
Runs = dict[str, list[Values]]
Results = dict[str, Any]

UNITS = {
    "cpu_us": "CPU µs",
    "valkey_us": "Valkey µs",
    "other_us": "first node µs",
    "per_s": "per second",
    "let_in": "connected",
    "all_in_ms": "all connected ms",
    "worst_ms": "slowest connect ms",
}
COSTS = ("cpu_us", "other_us", "valkey_us")  # the first columns of every table, if a contestant has them
NAMES = {kind.key: kind.name for kind in contestants.ALL}


class Target(NamedTuple):
    """A bound for the ratio of `value` between this server and a peer: at most `bound`, or at least with `least`."""

    measure: str
    value: str
    peer: str
    bound: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


TARGETS = (
    Target("broadcast", "cpu_us", "node", 0.85),
    Target("burst", "cpu_us", "node", 0.3),
    Target("burst-logged", "cpu_us", "node", 0.3),
    Target("echo", "cpu_us", "node", 0.8),
    Target("connect", "cpu_us", "node", 0.9),
    Target("memory", "rss_bytes", "node", 0.35),
    Target("broadcast", "cpu_us", "py-tornado", 6, True),
    Target("burst", "cpu_us", "py-tornado", 6, True),
    Target("echo", "cpu_us", "py-tornado", 10, True),
    Target("connect", "cpu_us", "py-tornado", 2, True),
    Target("memory", "rss_bytes", "py-tornado", 8, True),
    Target("broadcast", "cpu_us", "floor", 1.3),
)


def median(runs: list[Values], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


def spread(runs: list[Values], name: str) -> str:
    values = [run[name] for run in runs]
    return f"{shown(statistics.median(values))} ({shown(min(values))}–{shown(max(values))})"


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def header(name: str) -> str:
    return UNITS.get(name) or name.removesuffix("_ms").replace("_", " ") + (" ms" if name.endswith("_ms") else "")


def table(kind: type[Measure], found: Runs) -> list[str]:
    """Return a Markdown table: a row for each contestant, CPU time first, median with least and greatest."""
    columns = [name for name in (*COSTS, *kind.extra) if any(name in runs[0] for runs in found.values())]
    lines = [
        f"| per {kind.unit} | {' | '.join(map(header, columns))} | generator busy |",
        f"|---|{'---|' * (len(columns) + 1)}",
    ]
    for key, runs in found.items():
        cells = [spread(runs, name) if name in runs[0] else "" for name in columns]
        lines.append(f"| {NAMES[key]} | {' | '.join(cells)} | {median(runs, 'busy'):.0%} |")
    return lines


def ratio(found: dict[str, Runs], target: Target, *, valkey: bool = False) -> float | None:
    """Return the median of the ratios within each run; None if one of the two was not measured.

    `valkey`: add the CPU time of this server's Valkey to its own.
    """
    runs = found.get(target.measure, {})
    if "this" not in runs or target.peer not in runs:
        return None
    ours = [run[target.value] + (run.get("valkey_us", 0.0) if valkey else 0.0) for run in runs["this"]]
    pairs = [(mine, its[target.value]) for mine, its in zip(ours, runs[target.peer], strict=True)]
    return float(statistics.median(its / mine if target.least else mine / its for mine, its in pairs))


def verdicts(found: dict[str, Runs], targets: Sequence[Target] = TARGETS) -> list[str]:
    """Return the targets as a Markdown table, judged on the server process alone and also shown with its Valkey."""
    lines = ["| target | | measured | with Valkey's CPU | |", "|---|---|---|---|---|"]
    for target in targets:
        what = (
            f"{target.measure}: {NAMES[target.peer]} relative to this server"
            if target.least
            else f"{target.measure}: relative to {NAMES[target.peer]}"
        )
        bound, value = f"{'≥' if target.least else '≤'} {target.bound:g} ×", ratio(found, target)
        if value is None:
            lines.append(f"| {what} | {bound} | | | not measured yet |")
            continue
        both, shown_too, verdict = value, "", "met" if target.met(value) else "**missed**"
        if target.value == "cpu_us":
            both = ratio(found, target, valkey=True) or value
            shown_too = f"{both:.2f} ×"
        if target.met(value) and not target.met(both):
            verdict = "met, but **missed** with Valkey's"
        lines.append(f"| {what} | {bound} | {value:.2f} × | {shown_too} | {verdict} |")
    return lines


def about() -> dict[str, Any]:
    """Return the machine and the versions."""

    def said(*command: str) -> str:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=10, cwd=ROOT / "tests"
            ).stdout.strip()
        except OSError:
            return "none"

    packages = ("tornado", "python-socketio", "uvicorn", "uvloop")
    names = {name: version(name) for name in packages if _installed(name)}
    npm = {name: said("node", "-p", f"require('{name}/package.json').version") for name in ("socket.io", "ws")}
    return {**machine(), "kernel": said("uname", "-r"), "node": said("node", "--version"), **npm, **names}


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False

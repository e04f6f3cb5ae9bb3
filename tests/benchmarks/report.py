"""What bin/bench measured, as tables and as verdicts on the targets."""

from __future__ import annotations

import statistics
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import contestants
from tests.benchmarks.measures import Measure, Values
from tests.benchmarks.scaling_load import machine

ROOT = Path(__file__).parents[2]
Runs = dict[str, list[Values]]
Results = dict[str, Any]

UNITS = {"cpu_us": "CPU µs", "valkey_us": "Valkey µs", "other_us": "first node µs", "per_s": "per second"}
NAMES = {kind.key: kind.name for kind in contestants.ALL}


class Target(NamedTuple):
    """At most `bound`, or with `least` at least, of `value` of this server by that of another."""

    measure: str
    value: str
    peer: str
    bound: float
    least: bool = False


TARGETS = (
    Target("broadcast", "cpu_us", "node", 0.85),
    Target("burst", "cpu_us", "node", 0.3),
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
    return statistics.median(run[name] for run in runs)


def spread(runs: list[Values], name: str) -> str:
    values = [run[name] for run in runs]
    return f"{shown(statistics.median(values))} ({shown(min(values))}–{shown(max(values))})"


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def header(name: str) -> str:
    return UNITS.get(name) or name.removesuffix("_ms").replace("_", " ") + (" ms" if name.endswith("_ms") else "")


def table(kind: type[Measure], found: Runs) -> list[str]:
    """Return a Markdown table: a row for each contestant, CPU time first, median with least and greatest."""
    columns = [name for name in ("cpu_us", *kind.extra) if any(name in runs[0] for runs in found.values())]
    lines = [
        f"| per {kind.unit} | {' | '.join(map(header, columns))} | generator busy |",
        f"|---|{'---|' * (len(columns) + 1)}",
    ]
    for key, runs in found.items():
        cells = [spread(runs, name) if name in runs[0] else "" for name in columns]
        lines.append(f"| {NAMES[key]} | {' | '.join(cells)} | {median(runs, 'busy'):.0%} |")
    return lines


def ratio(found: dict[str, Runs], target: Target) -> float | None:
    """Return the median of the ratios within each run; None if one of the two was not measured."""
    runs = found.get(target.measure, {})
    if "this" not in runs or target.peer not in runs:
        return None
    pairs = [(mine[target.value], its[target.value]) for mine, its in zip(runs["this"], runs[target.peer], strict=True)]
    return statistics.median(its / mine if target.least else mine / its for mine, its in pairs)


def verdicts(found: dict[str, Runs]) -> list[str]:
    lines = ["| target | | measured | |", "|---|---|---|---|"]
    for target in TARGETS:
        value = ratio(found, target)
        if value is None:
            continue
        met = value >= target.bound if target.least else value <= target.bound
        what = (
            f"{target.measure}: {NAMES[target.peer]} needs"
            if target.least
            else f"{target.measure}, of {NAMES[target.peer]}"
        )
        sign = "≥" if target.least else "≤"
        lines.append(f"| {what} | {sign} {target.bound:g} × | {value:.2f} × | {'met' if met else '**missed**'} |")
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

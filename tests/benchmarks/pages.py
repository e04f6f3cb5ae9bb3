"""Generates the tables and plots of docs/performance.md from bench.json.

    python -m tests.benchmarks.pages        rewrite them from the latest results

The parts between `<!-- NAME -->` and `<!-- /NAME -->` are generated; all other text is written by people.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks import c100k, measures
from tests.benchmarks.plots import bars, lines
from tests.benchmarks.report import NAMES, Results, Runs, median, table, verdicts

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("bench.json")
PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
LEAST_RUNS = 5  # as the page says
MAIN = ("broadcast", "burst", "echo", "connect")  # shown as bars of CPU time; memory has its own unit


def read() -> Results:
    results: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"about": {}, "measures": {}}
    growth = results.get("growth", {})
    for name, points in growth.items():
        growth[name] = {int(size): runs for size, runs in points.items()}  # JSON's keys are texts
    return results


def keep(new: Results) -> None:
    """Store results in the file, and keep those of other measures.

    `about` describes the machine of most of them. `elsewhere` names, per measure, another machine that was used since.
    """
    old = read()
    measured = {**old["measures"], **new["measures"]}
    parts = {name for name in ("growth", "c100k") if name in new} | new["measures"].keys()
    stay = (old["measures"].keys() | (old.keys() & {"growth", "c100k"})) - parts
    about = old["about"] if stay else new["about"]
    differs = {name: value for name, value in new["about"].items() if about.get(name) != value}
    elsewhere = {name: value for name, value in old.get("elsewhere", {}).items() if name in stay}
    if differs:
        elsewhere |= dict.fromkeys(sorted(parts), differs)
    kept = {**old, **new, "about": about, "measures": measured, "elsewhere": elsewhere}
    RESULTS.write_text(json.dumps(_rounded(kept), indent=1) + "\n")


def would_lose(plan: dict[str, list[str]], runs: int) -> list[str]:
    """Return the results that would be lost if a plan (measure → contestants) were measured and stored.

    A measure is replaced as a whole, because its ratios compare runs made side by side.
    """
    found = read()["measures"]
    lost = [f"{who} of {name}" for name, whom in plan.items() for who in found.get(name, {}) if who not in whom]
    return lost + ([f"all but {runs} of {LEAST_RUNS} runs or more"] if plan and runs < LEAST_RUNS else [])


def write() -> None:
    results = read()
    text = PAGE.read_text()
    for name, block in blocks(results).items():
        whole = re.compile(rf"<!-- {name} -->\n.*?<!-- /{name} -->", re.DOTALL)
        assert whole.search(text), f"{PAGE.name} has no place for {name}"
        text = whole.sub(lambda _, block=block, name=name: f"<!-- {name} -->\n{block}\n<!-- /{name} -->", text)  # type: ignore[misc]
    PAGE.write_text(text)
    PLOTS.mkdir(exist_ok=True)
    for name, picture in plots(results).items():
        (PLOTS / f"{name}.svg").write_text(picture)


def blocks(results: Results) -> dict[str, str]:
    """Return the generated parts of the page by name."""
    found = results["measures"]
    kinds = [kind for kind in measures.ALL if kind.key in found]
    return {
        "about": _about(results["about"]),
        "targets": "\n".join(verdicts(found)),
        "tables": "\n\n".join(_measure(results, kind, found[kind.key]) for kind in kinds),
        "growth": "\n".join([*_where(results, "growth"), *_growth(results.get("growth", {}))]),
        "c100k": "\n".join([*_where(results, "c100k"), *_c100k(results.get("c100k", {}))]),
    }


def plots(results: Results) -> dict[str, str]:
    found, growth = results["measures"], results.get("growth", {})
    titles = {kind.key: f"{kind.title}: CPU µs, without Valkey's" for kind in measures.ALL}
    groups = {
        titles[key]: [(NAMES[who], median(runs, "cpu_us")) for who, runs in found[key].items()]
        for key in MAIN
        if key in found
    }
    if "memory" in found:
        runs_of = found["memory"].items()
        groups["idle connection: bytes of memory"] = [(NAMES[who], median(runs, "rss_bytes")) for who, runs in runs_of]
    made = {"peers": bars(groups)} if groups else {}
    if growth:
        made["room"] = lines({"a message": growth["room"]}, "members of the room", "CPU µs per message delivered")
        coming = {"connect": growth["connect"], "disconnect": growth["disconnect"]}
        made["present"] = lines(coming, "connected clients", "CPU µs")
        made["heartbeats"] = lines({"a ping every 25 s": growth["heartbeats"]}, "clients", "% of a core")
    return made


def _about(about: dict[str, Any]) -> str:
    rows = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in about.items())]
    return "\n".join(rows)


def _measure(results: Results, kind: type[measures.Measure], found: Runs) -> str:
    title = f"### {kind.title[0].upper()}{kind.title[1:]}"
    return "\n".join([title, "", *_where(results, kind.key), *table(kind, found)])


def _where(results: Results, part: str) -> list[str]:
    """Return the machine of a part, if it is not the one that the page names."""
    other = results.get("elsewhere", {}).get(part, {})
    return [f"Measured with {', '.join(f'{name} {value}' for name, value in other.items())}.", ""] if other else []


def _growth(growth: dict[str, dict[int, list[float]]]) -> list[str]:
    what = {
        "room": "message delivered, by members of its room (µs)",
        "connect": "connect, by connected clients (µs)",
        "disconnect": "disconnect, by connected clients (µs)",
        "heartbeats": "heartbeats, by connected clients (% of a core)",
    }
    lines_ = []
    for name, points in growth.items():
        sizes = sorted(points)
        lines_ += [
            f"| {what[name]} | {' | '.join(f'{size:,}' for size in sizes)} |",
            "|---|" + "---|" * len(sizes),
            f"| | {' | '.join(_spread(points[size]) for size in sizes)} |",
            "",
        ]
    return lines_[:-1]


def _c100k(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    reason = [found["why_not_more"], ""] if found["why_not_more"] else []
    rows = {
        "connections": f"{found['connections']:,}",
        "to open them": f"{found['connect_s']:.1f} s, {found['connect_us']:.0f} µs of CPU each",
        "memory of the process": f"{found['rss_bytes'] / 1e6:,.0f} MB, {found['rss_each']:,.0f} B each",
        "memory of the kernel, both ends": f"{found['kernel_each']:,.0f} B each",
        "idle, with heartbeats": f"{found['idle_busy']:.1%} of a core; loop lag {_lag(found['idle_lag'])}",
        "a broadcast to all": f"half of the clients after {found['broadcast_p50_ms']:.0f} ms, the last after"
        f" {found['broadcast_last_ms']:.0f} ms; {found['broadcast_us']:.1f} µs each",
        "loop lag during the broadcasts": _lag(found["broadcast_lag"]),
    }
    return [*reason, "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows.items()), "", c100k.verdict(found) + "."]


def _lag(lag: dict[str, float]) -> str:
    return f"at most {lag['p99_ms']:g} ms in 99 % of the samples, at most {lag['max_ms']:g} ms in all"


def _spread(runs: list[float]) -> str:
    digits = 2 if max(runs) < 10 else 1 if max(runs) < 100 else 0
    return f"{statistics.median(runs):.{digits}f} ({min(runs):.{digits}f}–{max(runs):.{digits}f})"


def _rounded(value: Any) -> Any:
    """Return a value with its numbers rounded to four digits; no measurement here is more precise."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    write()

"""bin/bench: measure this server and its peers side by side, on this machine, with one load generator.

    bin/bench [--short] [--only MEASURE,…] [--peers NAME,…] [--runs N] [--json FILE] [--write-docs]

Contestants take turns within each run, so that other load on the machine affects all of them. Every figure is the
median of the runs, shown with the least and the greatest. A ratio is the median of the ratios within each run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import c100k, contestants, growth, measures, pages
from tests.benchmarks.contestants import Contestant
from tests.benchmarks.generator import NoCompiler, Workshop
from tests.benchmarks.measures import Measure, Values
from tests.benchmarks.report import TARGETS, Results, about, ratio, table, verdicts

RUNS = 5
OTHERS = ("growth", "c100k")  # of this server alone
SHORT = ("broadcast", "burst", "echo", "connect", "memory")


def measure(kind: type[Measure], who: list[type[Contestant]], runs: int, shop: Workshop) -> dict[str, list[Values]]:
    """Return the runs of each contestant that supports the measure, by its key."""
    ready: dict[str, Measure] = {}
    found: dict[str, list[Values]] = {}
    try:
        for contestant in who:
            if kind.fits(contestant):
                ready[contestant.key] = kind(contestant(shop))
                ready[contestant.key].prepare()
        for _ in range(runs):
            for key, one in ready.items():
                found.setdefault(key, []).append(one.run())
    finally:
        for one in ready.values():
            one.finish()
    return found


def main() -> None:
    asked = arguments()
    began_s = time.monotonic()
    with Workshop() as shop:
        try:
            who = present(asked.peers, shop)
            if asked.write_docs and (lost := pages.would_lose(planned(asked.only, who), asked.runs)):
                sys.exit(f"bin/bench: nothing was measured, since --write-docs would lose {', '.join(lost)}")
            results: Results = {"about": about(), "measures": {}}
            for kind in measures.ALL:
                if kind.key not in asked.only:
                    continue
                if asked.short:
                    shorten(kind)
                print(f"\n{kind.title}", flush=True)
                found = measure(kind, who, asked.runs, shop)
                results["measures"][kind.key] = found
                print("\n".join(table(kind, found)), flush=True)
            if "growth" in asked.only:
                print("\ngrowth", flush=True)
                results["growth"] = growth.measured(shop)
            if "c100k" in asked.only:
                print("\n100,000 connections", flush=True)
                results["c100k"] = c100k.run(shop, c100k.WANTED, c100k.HOLD_S)
        except NoCompiler as why:
            sys.exit(f"bin/bench: {why}")
    judged = [target for target in TARGETS if ratio(results["measures"], target) is not None]
    print("\n" + "\n".join(verdicts(results["measures"], judged)))
    print(f"\n{results['about']}, {time.monotonic() - began_s:.0f} s")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    if asked.write_docs:
        pages.keep(results)
        pages.write()


def planned(names: list[str], who: list[type[Contestant]]) -> dict[str, list[str]]:
    """Return the contestants of each measure."""
    kinds = [kind for kind in measures.ALL if kind.key in names]
    return {kind.key: [contestant.key for contestant in who if kind.fits(contestant)] for kind in kinds}


def shorten(kind: type[Measure]) -> None:
    """Shorten a measure to seconds: enough for a ratio that is far from its bound."""
    changes: dict[str, dict[str, Any]] = {
        "broadcast": {"rounds": 20},
        "burst": {"rounds": 3},
        "echo": {"seconds": 1.0},
        "connect": {"connects": 500},
        "memory": {"clients": 2_000},
    }
    for name, value in changes.get(kind.key, {}).items():
        setattr(kind, name, value)


def present(names: list[str], shop: Workshop) -> list[type[Contestant]]:
    """Return the requested contestants that this machine can run, and print why the others cannot."""
    who = []
    for kind in contestants.ALL:
        if kind.key not in names:
            continue
        lacks = kind(shop).missing()
        if lacks:
            print(f"{kind.name} is left out: it needs {lacks}")
        else:
            who.append(kind)
    shop.build(Path(__file__).with_name("load.c"))
    return who


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/bench", description="Measure this server beside its peers.")
    every, peers = [*(kind.key for kind in measures.ALL), *OTHERS], [kind.key for kind in contestants.ALL]
    parser.add_argument(
        "--short", action="store_true", help="about two minutes: the main measures, compared only with Node's Socket.IO"
    )
    parser.add_argument("--only", default="", metavar="NAMES", help=f"of {','.join(every)}")
    parser.add_argument("--peers", default="", metavar="NAMES", help=f"of {','.join(peers)}")
    parser.add_argument("--runs", type=int, default=0, metavar="N", help=f"by default {RUNS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to a file")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help=f"put these measures into {pages.RESULTS.name}, beside the others there, and write docs/performance.md",
    )
    asked = parser.parse_args()
    asked.only = asked.only.split(",") if asked.only else list(SHORT if asked.short else every)
    asked.peers = asked.peers.split(",") if asked.peers else (["this", "node"] if asked.short else peers)
    if asked.short and asked.write_docs:
        parser.error("--short is too short for --write-docs")
    asked.runs = asked.runs or RUNS
    for given, known in ((asked.only, every), (asked.peers, peers)):
        if unknown := set(given) - set(known):
            parser.error(f"no such name: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return asked


if __name__ == "__main__":
    main()

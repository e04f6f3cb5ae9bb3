"""bin/scaling: measure all figures that docs/scaling.md computes with. Two to three minutes, loopback only.

    bin/scaling [--json FILE] [--only NAME,NAME…]

Each figure is the median of at least five runs, shown with the least and the greatest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks import scaling_node, scaling_valkey
from tests.benchmarks.scaling_load import Bench, Result, machine

WITH_AOF = ("--appendonly", "yes", "--appendfsync", "everysec")


def aof(bench: Bench) -> Iterator[Result]:
    with Bench(*WITH_AOF) as other:
        yield from scaling_valkey.appends(other, "_aof")


def node(bench: Bench) -> Iterator[Result]:
    with asyncio.Runner() as runner:
        results = scaling_node.measure(bench)
        while (result := runner.run(anext(results, None))) is not None:
            yield result


SUBJECTS: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "append": scaling_valkey.appends,
    "aof": aof,
    "publish": scaling_valkey.publishes,
    "subscribe": scaling_valkey.subscriptions,
    "clocks": scaling_valkey.clocks,
    "people": scaling_valkey.people,
    "log": scaling_valkey.log_entries,
    "node": node,
    "served": scaling_node.served,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/scaling", description="Measure the figures of docs/scaling.md here.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs to a file; what else it holds stays")
    parser.add_argument("--only", default=",".join(SUBJECTS), metavar="NAMES", help=f"of {','.join(SUBJECTS)}")
    asked = parser.parse_args()
    subjects = asked.only.split(",")
    if unknown := set(subjects) - SUBJECTS.keys():
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    logging.getLogger("insightdesk_rt").setLevel(logging.ERROR)  # connections are lost on purpose
    began_s, results = time.monotonic(), []
    for name in subjects:
        print(f"\n{name}")
        with Bench("--maxclients", "2000") as bench:
            version = bench.info("server")["valkey_version"]
            for result in SUBJECTS[name](bench):
                results.append(result)
                print(f"  {result}", flush=True)
    about = {**machine(), "valkey": version}
    print(f"\n{about}, {time.monotonic() - began_s:.0f} s")
    if asked.json:
        figures = json.loads(asked.json.read_text())["figures"] if asked.json.exists() else {}
        figures |= {result.key: result.as_json() for result in results}
        asked.json.write_text(json.dumps({"machine": about, "figures": figures}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

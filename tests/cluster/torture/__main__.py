"""bin/torture: injects random faults into three real nodes and a real Valkey, and prints a table of losses.

Topologies: one server; a primary with two replicas and three Sentinels; or a cluster of three primaries with a replica
each. Where there are several servers, a fault of "Valkey" concerns the primary of a random partition. "all" before a
fault's description: it is offered in every topology.

Every round publishes on all nodes, injects one fault, heals it, waits until nothing more arrives, and compares the
acknowledged events with those that every client received. The seed determines the sequence. Only a temporary folder and
loopback are used. Exit code 1: an acknowledged event is missing, came twice or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.torture.rounds import Row, running
from tests.cluster.torture.scene import ALL, FAULTS, Fault
from tests.cluster.torture.stores import SINGLE
from tests.cluster.torture.table import as_json, as_text
from tests.support.node_client import why_not


def main() -> int:
    parser = argparse.ArgumentParser("bin/torture", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.epilog = "faults, and the topologies that have them:\n" + "\n".join(map(_help, FAULTS.values()))
    parser.add_argument("--topology", choices=ALL, default=SINGLE, help=f"what the nodes share (default {SINGLE})")
    parser.add_argument("--minutes", type=float, default=10, help="for how long new rounds are started (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (default 1)")
    parser.add_argument("--faults", default="", help="only these faults, separated by commas")
    parser.add_argument("--once", action="store_true", help="inject each fault once instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table and every round to a file")
    asked = parser.parse_args()
    offered = [fault.name for fault in FAULTS.values() if asked.topology in fault.topologies]
    names = asked.faults.split(",") if asked.faults else offered
    if unknown := set(names).difference(offered):
        parser.error(f"topology {asked.topology} has no such fault: {', '.join(sorted(unknown))}")
    if why := why_not():
        parser.error(why)
    rows = asyncio.run(torture(names, 0 if asked.once else asked.minutes, asked.seed, asked.topology))
    print(as_text(rows))
    if asked.json:
        settings = {"topology": asked.topology, "seed": asked.seed, "minutes": asked.minutes}
        asked.json.write_text(as_json(rows, **settings) + "\n")
    return 0 if all(row.verdict.clean for row in rows) else 1


def _help(fault: Fault) -> str:
    topologies = "all" if fault.topologies == ALL else ", ".join(fault.topologies)
    return f"  {fault.name:24}{topologies}: {fault.says.splitlines()[0]}"


async def torture(names: list[str], minutes: float, seed: int, topology: str = SINGLE) -> list[Row]:
    """Run rounds for so many minutes; 0: one round for each fault."""
    rows: list[Row] = []
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="torture") as folder:
        async with running(Path(folder), seed, topology=topology, long=minutes >= 5) as run:
            end = time.monotonic() + minutes * 60
            order: list[str] = []
            while time.monotonic() < end or (not minutes and len(rows) < len(names)):
                if not order:  # all faults in a new order each time, so that a short run has each of them once
                    order = chance.sample(names, len(names))
                row = await run.play(order.pop())
                rows.append(row)
                print(_line(row, end), file=sys.stderr, flush=True)
            run.cluster.assert_no_traceback()
    return rows


def _line(row: Row, end: float) -> str:
    verdict, left_s = row.verdict, max(0, end - time.monotonic())
    figures = (
        f"{verdict.acknowledged} acknowledged, {verdict.delivered}/{verdict.expected} delivered,"
        f" {verdict.announced} announced"
    )
    line = f"{row.fault:24} {row.seconds:5.1f} s  {figures}, gap {verdict.longest_gap_s:.1f} s"
    return f"{line}  {verdict}  ({left_s:.0f} s left)"


if __name__ == "__main__":
    sys.exit(main())

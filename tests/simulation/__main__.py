"""Explore schedules: bin/simulate [--minutes M] [--seed N] [--replay N]. Exits with 1 if an invariant was broken."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from tests.simulation.schedule import Outcome, run

BATCH = 100  # schedules for each core at a time


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/simulate", description="Explore schedules of faults on a virtual clock.")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to explore; by default 2")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; each schedule has the next one")
    parser.add_argument("--replay", type=int, metavar="SEED", help="play one schedule and print its steps")
    asked = parser.parse_args()
    if asked.replay is not None:
        outcome = run(asked.replay)
        show(outcome)
        return 1 if outcome.broken else 0
    return explore(asked.seed, asked.minutes)


def explore(seed: int, minutes: float) -> int:
    """Play schedules on all cores until the time is over."""
    begun_s, number, broken = time.monotonic(), 0, 0
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        while time.monotonic() < begun_s + minutes * 60:
            seeds = range(seed + number, seed + number + BATCH * cores)
            for outcome in pool.imap_unordered(run, seeds, chunksize=BATCH // 4):
                number += 1
                if outcome.broken:
                    broken += 1
                    show(outcome)
    took_s = time.monotonic() - begun_s
    print(
        f"{number} schedules in {took_s:.0f} s ({60 * number / took_s:.0f} a minute), from seed {seed}: {broken} broken"
    )
    return 1 if broken else 0


def show(outcome: Outcome) -> None:
    print(f"seed {outcome.seed}", *outcome.steps, *outcome.broken, sep="\n  ", flush=True)


if __name__ == "__main__":
    sys.exit(main())

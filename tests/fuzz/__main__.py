"""bin/fuzz --minutes M [--seed N]: malformed input for the codecs, then for a server, half of the time each."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import tempfile
import time
from pathlib import Path
from random import Random

from tests.fuzz import codecs, live, long
from tests.support.server import ServerProcess

LONG_EVERY = 50 * len(codecs.READERS)  # inputs: a megabyte takes as long as some hundred short ones


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="how long, in all")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="makes the same inputs again")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    found = fuzz_codecs(options.seed, options.minutes * 30)
    for what in found:
        print(f"FOUND {what}")
    found += fuzz_live(options.seed, options.minutes * 30)
    print("nothing found" if not found else f"{len(found)} findings")
    return 1 if found else 0


def fuzz_codecs(seed: int, seconds: float) -> list[str]:
    random, count, megabytes, found = Random(seed), 0, 0, list[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(found) < 20:
        for name in codecs.READERS:
            count += 1
            try:
                codecs.one(name, random.randrange(1 << 40))
            except codecs.Found as why:
                found.append(str(why))
        if count % LONG_EVERY == 0:
            name, argument, megabytes = random.choice(list(long.READERS)), long.mixed(random), megabytes + 1
            try:
                long.look(name, argument)
            except codecs.Found as why:
                found.append(str(why))
    print(f"codecs: {count:,} inputs for {len(codecs.READERS)} readers, and {megabytes} of a megabyte", flush=True)
    return found


def fuzz_live(seed: int, seconds: float) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), **live.SOON)
        server.start()
        try:
            report = asyncio.run(live.run(server, seed, seconds, lambda text: print(text, flush=True)))
            server.stop()
            server.assert_quiet()
        except AssertionError as why:
            print(f"FOUND {why}")
            return [str(why)]
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()
    before, after = report.memory_mb
    print(f"doors: {report.attacks:,} attacks; neighbour waited {report.worst_s:.2f} s; {before:.0f} -> {after:.0f} MB")
    return []


if __name__ == "__main__":
    raise SystemExit(main())

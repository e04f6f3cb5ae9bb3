"""The cost of a long-polling request that reaches another node than its session's.

    .venv/bin/python -m tests.benchmarks.relay

Two nodes share a Valkey of their own. The same requests are sent to a session's node and to the other one in turns. The
cost is the CPU time of both nodes, from /proc.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import tempfile
import time
from pathlib import Path

from tests.support.door import Http
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

ROUNDS = 7
PAIRS = 300  # a POST and the GET that brings its answer
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(servers: list[ServerProcess]) -> float:
    used = 0.0
    for server in servers:
        fields = Path(f"/proc/{server.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) * TICK_S
    return used


async def measured(nodes: list[ServerProcess], reached: ServerProcess) -> tuple[float, float]:
    """Return µs of CPU, and of waiting, per request for a session of the first node."""
    http = Http(*await asyncio.open_connection(*reached.address))
    path = "/socket.io/?EIO=4&transport=polling"
    own = Http(*await asyncio.open_connection(*nodes[0].address))
    sid = json.loads((await own.ask("GET", path)).body[1:])["sid"]
    before, began = cpu_s(nodes), time.perf_counter()
    for _ in range(PAIRS):
        assert (await http.ask("POST", f"{path}&sid={sid}", b"40/nowhere,")).status == 200
        assert (await http.ask("GET", f"{path}&sid={sid}")).body.startswith("44/nowhere")
    took_s, used_s = time.perf_counter() - began, cpu_s(nodes) - before
    await http.close()
    await own.close()
    return used_s / PAIRS / 2 * 1e6, took_s / PAIRS / 2 * 1e6


async def main() -> None:
    with OwnValkey() as valkey, tempfile.TemporaryDirectory() as folder:
        settings = {"valkey_url": valkey.url, "valkey_prefix": "relay" + secrets.token_hex(3), "drain_seconds": 0}
        nodes = [ServerProcess(Path(folder) / name, node_id=name, **settings) for name in ("n1", "n2")]
        for node in nodes:
            node.start()
        try:
            direct, relayed = [], []
            for _ in range(ROUNDS):
                direct.append(await measured(nodes, nodes[0]))
                relayed.append(await measured(nodes, nodes[1]))
        finally:
            for node in nodes:
                node.stop()
    for name, runs in (("at its node", direct), ("passed on", relayed)):
        cpu, waited = zip(*runs, strict=True)
        print(f"{name:<12} {statistics.median(cpu):6.0f} µs CPU ({min(cpu):.0f} to {max(cpu):.0f})", end="   ")
        print(f"{statistics.median(waited):6.0f} µs until answered")


if __name__ == "__main__":
    asyncio.run(main())

"""Describes the Valkey that was found, for `insightdesk-rt check`: primaries, replicas, Sentinels, partitions."""

from __future__ import annotations

import re

from insightdesk_rt.engine.cluster.primary import info_field
from insightdesk_rt.engine.cluster.routes import ClusterRoutes, OneRoute, listed
from insightdesk_rt.engine.cluster.sentinels import ask_sentinels
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.cluster.valkey_url import Topology

ASK_S = 1.0
REPLICA = re.compile(r"^slave\d+:ip=([^,]+),port=(\d+),state=([^,]+)", re.MULTILINE)


async def survey(valkey: Valkey) -> list[tuple[str, str]]:
    """Return rows of a label and a text. Call it when Valkey is available. Raises RtError UNAVAILABLE."""
    server = await valkey.command("INFO", "server")
    version = info_field(server, "valkey_version") or info_field(server, "redis_version")
    if isinstance(valkey.routes, ClusterRoutes):
        return [
            ("Valkey", f"{version}, a cluster with {len(valkey.routes.map.shards)} primaries"),
            *_cluster(valkey.routes),
        ]
    return [("Valkey", version), *await _one(valkey, valkey.routes)]


async def _one(valkey: Valkey, route: OneRoute) -> list[tuple[str, str]]:
    replication = await valkey.command("INFO", "replication")
    found = [f"{ip}:{port} ({state})" for ip, port, state in REPLICA.findall(replication)]
    rows = [("primary", str(route.only.main.endpoint)), ("replicas", ", ".join(found) or "none")]
    if route.url.topology is Topology.SENTINEL:
        report = await ask_sentinels(route.url, ASK_S, all_of_them=True)
        for answer in report.answers:
            rows.append(("Sentinel", f"{answer.sentinel}: {answer.why or 'answers'}"))
        if report.primary is not None:
            rows.append(("quorum", f"{report.primary.quorum} of {len(report.answers)} Sentinels must agree"))
    return rows


def _cluster(routes: ClusterRoutes) -> list[tuple[str, str]]:
    rows = []
    for shard in sorted(routes.map.shards):
        tags = [tag for tag, route in routes.by_tag().items() if shard.has(route.slot)]
        replicas = ", ".join(map(str, shard.replicas)) or "none"
        rows.append(("primary", f"{shard.primary}, replicas: {replicas}, partitions: {listed(tags)}"))
    return rows

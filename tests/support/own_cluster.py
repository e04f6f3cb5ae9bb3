"""A real Valkey Cluster on loopback: three primaries with a replica each, up in three seconds.

    with OwnCluster() as cluster:
        node = ServerProcess(folder, valkey_url=cluster.url)
        cluster.owner("{insightdesk/tickets}").kill()   # its replica takes over

Each server starts with a file that lists all six, so that nobody waits until they have found each other.
"""

from __future__ import annotations

import secrets
from typing import Any

import valkey
from valkey.crc import key_slot

from tests.support.own_valkey import LoopbackValkey, OwnServers, wait_until
from tests.support.server import free_port

SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000


class ClusterServer(LoopbackValkey):
    """One server of a cluster."""

    def __init__(self, *args: str) -> None:
        super().__init__(*args)
        self.id = secrets.token_hex(20)
        self.bus_port = free_port()
        self.args = (
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-port", str(self.bus_port)),
            *("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"),
            *("--cluster-require-full-coverage", "no"),
            *args,
        )

    def role(self) -> str:
        """Return its role: "master" or "slave"."""
        return self.info("replication", "role")


class OwnCluster(OwnServers):
    """`args` are options of every server."""

    def __init__(self, *args: str) -> None:
        self.servers = [ClusterServer(*args) for _ in range(6)]
        self.url = "valkey+cluster://" + ",".join(server.address for server in self.servers[:3])

    def start(self) -> None:
        for server in self.servers:
            (server.folder / "nodes.conf").write_text(self._nodes_file(server), encoding="utf-8")
            server.launch()
        for server in self.servers:
            server.wait_until_up()
        self.until_whole()

    def close(self) -> None:
        for server in self.servers:
            server.__exit__()

    def _nodes_file(self, of: ClusterServer) -> str:
        """Return the nodes.conf of a server: the first three are primaries, each of the others follows one of them."""
        lines = []
        for number, server in enumerate(self.servers):
            mine = "myself," if server is of else ""
            place = f"{server.id} 127.0.0.1:{server.port}@{server.bus_port}"
            if number < 3:
                first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
                lines.append(f"{place} {mine}master - 0 0 {number + 1} connected {first}-{last}")
            else:
                lines.append(f"{place} {mine}slave {self.servers[number - 3].id} 0 0 {number - 2} connected")
        return "\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""])

    def owner(self, key: str) -> ClusterServer:
        """Return the primary that has a key's slot, as most servers see it."""
        slot = key_slot(key.encode())
        seen = [port for server in self.servers if (port := self._owner_seen_by(server, slot))]
        port = max(set(seen), key=seen.count)
        return next(server for server in self.servers if server.port == port)

    def replica_of(self, primary: ClusterServer) -> ClusterServer:
        """Return a running replica of a primary."""
        rows: list[str] = []
        wait_until(lambda: rows.extend(primary("CLUSTER", "REPLICAS", primary.id)) or rows, "it has a replica")
        return next(server for server in self.servers if rows[0].startswith(server.id))

    def fail_over(self, primary: ClusterServer, how: str = "") -> ClusterServer:
        """Have a primary's replica take over while it runs (`how`: "", FORCE or TAKEOVER); return the new primary."""
        replica = self.replica_of(primary)
        replica("CLUSTER", "FAILOVER", *([how] if how else []))
        wait_until(lambda: replica.role() == "master" and primary.role() == "slave", "the replica took over")
        return replica

    def until_replaced(self, primary: ClusterServer) -> None:
        """Wait until a replica has taken over from a primary that was killed."""
        wait_until(lambda: len(self.primaries) == 3, f"a replica takes over from {primary.address}")

    def isolate(self, server: ClusterServer) -> None:
        """Cut a server off from all others, in both directions; it goes on serving clients.

        It needs `--enable-debug-command local`. Dropping packets (DROP-CLUSTER-PACKET-FILTER) is not enough: what is
        published on one side would still reach the other.
        """
        for each in self.servers:
            each("DEBUG", "DISABLE-CLUSTER-RECONNECTION", 1)
        for other in self.servers:
            if other is not server:
                server("DEBUG", "CLUSTERLINK", "KILL", "ALL", other.id)

    def rejoin(self) -> None:
        """End `isolate`."""
        for each in self.servers:
            each("DEBUG", "DISABLE-CLUSTER-RECONNECTION", 0)

    def move_slot(self, key: str, to: ClusterServer, keys_at_once: int = 10) -> None:
        """Migrate a key's slot with all its keys to another primary, in the order that the manual gives."""
        source, slot = self.owner(key), key_slot(key.encode())
        to("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        while names := source("CLUSTER", "GETKEYSINSLOT", slot, keys_at_once):
            source("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "REPLACE", "KEYS", *names)
        for server in (to, source, *(one for one in self.primaries if one not in (to, source))):
            server("CLUSTER", "SETSLOT", slot, "NODE", to.id)

    @property
    def primaries(self) -> list[ClusterServer]:
        """The running servers that are primaries."""
        return [server for server in self.servers if _alive(server) and server.role() == "master"]

    def until_whole(self, deadline_s: float = 30.0) -> None:
        """Wait until every server runs, sees the whole cluster, and each primary has a replica in step."""
        wait_until(self._is_whole, "the cluster is whole", deadline_s)

    def _is_whole(self) -> bool:
        roles = []
        try:
            for server in self.servers:
                fields = dict(line.split(":") for line in server("CLUSTER", "INFO").split())
                if fields["cluster_state"] != "ok" or fields["cluster_known_nodes"] != "6":
                    return False
                with server.client() as client:
                    found: dict[str, Any] = client.info("replication")
                if found["role"] == "master" and not found["connected_slaves"]:
                    return False
                if found["role"] == "slave" and found["master_link_status"] != "up":
                    return False
                roles.append(found["role"])
        except valkey.ValkeyError:
            return False
        return roles.count("master") == 3

    @staticmethod
    def _owner_seen_by(server: ClusterServer, slot: int) -> int:
        if not _alive(server):
            return 0
        for first, last, primary, *_ in server("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return int(primary[1])
        return 0


def _alive(server: ClusterServer) -> bool:
    try:
        return bool(server.process and server.process.poll() is None and server("PING"))
    except valkey.ValkeyError:
        return False

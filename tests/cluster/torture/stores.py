"""The Valkey of a run in each topology: one server, a primary with Sentinels, or a cluster.

Each party (a node, or the emitters) has cables of its own to every server, so that one party can be cut off from one
server. With one server a party has one cable, which leads to whichever server serves now. The others name their servers
by address, so each party must be given addresses that are its own cables':

- A cluster that does not announce hosts (`cluster-preferred-endpoint-type unknown-endpoint`, made for networks that
  translate addresses) leaves it to the party to use the host that it asked. Each party asks on a loopback address of
  its own, 127.0.0.2 and so on, where its cables have the ports of the servers.
- Sentinels have no such setting. The cables to them replace 127.0.0.1 in their answers by the party's address.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from insightdesk_rt.engine.cluster.names import Names
from tests.support.cable import Cable
from tests.support.own_cluster import ClusterServer, OwnCluster
from tests.support.own_sentinel import NAME, OwnSentinel
from tests.support.own_valkey import LoopbackValkey, OwnValkey

PREFIX = "t"  # in a cluster, tickets, chat and the nodes' own partition then lie on three different primaries
NAMES = Names(PREFIX)
TICKETS, CHAT = NAMES.namespace("/tickets").tag, NAMES.namespace("/chat").tag
SINGLE, SENTINEL, CLUSTER = "single", "sentinel", "cluster"
HOST = "127.0.0.1"

# Replicas have a user of their own, so that a primary can refuse them and go on serving everybody else.
REPLICATION = ("--masteruser", "copy", "--masterauth", "copy")
REPLICAS_USER = ("--user", "copy", "on", ">copy", "+psync", "+replconf", "+ping")
FILE = ("--appendonly", "yes", "--appendfsync", "everysec")


class Cables:
    """All connections of one party to Valkey: one cable, or one for each server, by the server's port."""

    def __init__(self, url: str, cables: Mapping[int, Cable]) -> None:
        self.url = url
        self._cables = dict(cables)

    @property
    def only(self) -> Cable:
        (cable,) = self._cables.values()
        return cable

    def to(self, server: LoopbackValkey) -> Cable:
        return self._cables[server.port]

    def reset(self) -> None:
        for cable in self._cables.values():
            cable.reset()

    def hush(self, which: str = "all") -> None:
        for cable in self._cables.values():
            cable.hush(which)

    def mend(self) -> None:
        for cable in self._cables.values():
            cable.mend()

    async def remove(self) -> None:
        for cable in self._cables.values():
            await cable.remove()


class Store(ABC):
    """The servers of a run. All methods but `lay` block: call them in a thread."""

    channels = ("PUBSUB", "CHANNELS", "{t*")
    publish = "PUBLISH"

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    async def lay(self, party: int) -> Cables:
        """Return the cables of a party, and the URL that leads through them."""

    @abstractmethod
    def primaries(self) -> Sequence[OwnValkey]:
        """Return the servers that take writes."""

    @abstractmethod
    def primary(self, tag: str) -> OwnValkey:
        """Return the primary of a partition."""

    @abstractmethod
    def until_whole(self) -> None:
        """Wait until all servers run, and each replica follows its primary."""

    def any_partition(self, chance: random.Random) -> str:
        """Return the tag of a partition. Tickets come more often, as most of the load is theirs."""
        return chance.choice((TICKETS, TICKETS, CHAT, NAMES.cluster.tag, NAMES.feed.tag))


class OneStore(Store):
    """One server. `valkey` is the server to which all cables lead; a failover replaces it."""

    def __init__(self) -> None:
        self.servers: list[LoopbackValkey] = []
        self.valkey = self.new_valkey()

    def new_valkey(self) -> LoopbackValkey:
        """Return another Valkey, not started."""
        made = LoopbackValkey("--repl-diskless-sync-delay", "0", "--appendonly", "yes", "--appendfsync", "always")
        self.servers.append(made)
        return made

    def drop_valkey(self, server: LoopbackValkey) -> None:
        """Stop a Valkey permanently and forget it."""
        server.__exit__()
        self.servers.remove(server)

    def start(self) -> None:
        self.valkey.start()

    def close(self) -> None:
        for server in self.servers:
            server.__exit__()

    async def lay(self, party: int) -> Cables:
        cable = Cable(HOST, 0)
        cable.route = lambda: (HOST, self.valkey.port)
        port = await cable.lay()
        return Cables(f"valkey://{HOST}:{port}", {port: cable})

    def primaries(self) -> Sequence[OwnValkey]:
        return [self.valkey]

    def primary(self, tag: str) -> OwnValkey:
        return self.valkey

    def until_whole(self) -> None:
        pass


class SentinelStore(Store):
    """A primary with two replicas, and three Sentinels."""

    def __init__(self) -> None:
        self.own = OwnSentinel(*REPLICATION, *REPLICAS_USER, *FILE)

    def start(self) -> None:
        self.own.start()

    def close(self) -> None:
        self.own.close()

    async def lay(self, party: int) -> Cables:
        host, cables = await _lay_all(party, [*self.own.servers, *self.own.sentinels])
        for sentinel in self.own.sentinels:
            cables[sentinel.port].renamed = HOST.encode(), host.encode()
        hosts = ",".join(f"{host}:{sentinel.port}" for sentinel in self.own.sentinels)
        return Cables(f"valkey+sentinel://{hosts}/{NAME}", cables)

    def primaries(self) -> Sequence[LoopbackValkey]:
        return [self.own.primary]

    def primary(self, tag: str) -> LoopbackValkey:
        return self.own.primary

    def until_whole(self) -> None:
        self.own.until_in_step()


class ClusterStore(Store):
    """Three primaries with a replica each."""

    channels = ("PUBSUB", "SHARDCHANNELS", "{t*")
    publish = "SPUBLISH"

    def __init__(self) -> None:
        unnamed = ("--cluster-preferred-endpoint-type", "unknown-endpoint", "--enable-debug-command", "local")
        self.own = OwnCluster(*REPLICATION, *REPLICAS_USER, *FILE, *unnamed)

    def start(self) -> None:
        self.own.start()

    def close(self) -> None:
        self.own.close()

    async def lay(self, party: int) -> Cables:
        host, cables = await _lay_all(party, self.own.servers)
        hosts = ",".join(f"{host}:{server.port}" for server in self.own.servers)
        return Cables(f"valkey+cluster://{hosts}", cables)

    def primaries(self) -> Sequence[ClusterServer]:
        return self.own.primaries

    def primary(self, tag: str) -> ClusterServer:
        return self.own.owner(f"{{{tag}}}")

    def until_whole(self) -> None:
        self.own.until_whole()


async def _lay_all(party: int, servers: Sequence[LoopbackValkey]) -> tuple[str, dict[int, Cable]]:
    """Lay a cable to each server, on the party's own address and the server's port."""
    host = f"127.0.0.{party + 2}"
    cables = {server.port: Cable(HOST, server.port) for server in servers}
    for port, cable in cables.items():
        await cable.lay(host, port)
    return host, cables


STORES: dict[str, type[Store]] = {SINGLE: OneStore, SENTINEL: SentinelStore, CLUSTER: ClusterStore}

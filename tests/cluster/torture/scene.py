"""What a fault acts on, and the table of all faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from tests.cluster.torture.cluster import Cluster, Node
from tests.cluster.torture.stores import CLUSTER, SENTINEL, SINGLE, Store
from tests.cluster.torture.subscribers import Subscribers
from tests.support.own_valkey import OwnValkey

ALL = (SINGLE, SENTINEL, CLUSTER)
S = TypeVar("S", bound=Store)


class Scene(NamedTuple):
    cluster: Cluster
    subscribers: Subscribers
    random: random.Random
    long: bool  # a fault may take its full time

    def victim(self) -> Node:
        """Return a node that has clients."""
        node = self.random.choice(self.subscribers.all).node
        assert node is not None
        return node

    def store(self, kind: type[S]) -> S:
        assert isinstance(self.cluster.store, kind)
        return self.cluster.store

    async def primary(self, tag: str = "") -> OwnValkey:
        """Return the primary of a partition, or of a random one. With one server, or Sentinels, there is only one."""
        store = self.cluster.store
        return await asyncio.to_thread(store.primary, tag or store.any_partition(self.random))

    async def primaries(self) -> list[OwnValkey]:
        return list(await asyncio.to_thread(self.cluster.store.primaries))

    @contextmanager
    def clients_cut(self) -> Iterator[None]:
        """Cut six clients off for a while."""
        cut = self.random.sample(self.subscribers.all, 6)
        for subscriber in cut:
            subscriber.cable.hush()
            subscriber.cable.reset()
        yield
        for subscriber in cut:
            subscriber.cable.mend()


Harm = Callable[[Scene], Awaitable[None]]


class Fault(NamedTuple):
    """`log_kept` is False if Valkey may have lost confirmed events, `facts_kept` if it has lost everything.

    In a topology with replicas, a replica may take over in any fault that stops a primary for a moment; then events may
    be lost too, which `rounds` notices. `planned`: a replica takes over on purpose, after it has received everything.
    """

    name: str
    harm: Harm
    says: str
    topologies: tuple[str, ...]
    log_kept: bool
    facts_kept: bool
    planned: bool


FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    *,
    on: tuple[str, ...] = ALL,
    log_kept: bool = True,
    facts_kept: bool = True,
    planned: bool = False,
) -> Callable[[Harm], Harm]:
    def known(harm: Harm) -> Harm:
        FAULTS[name] = Fault(name, harm, (harm.__doc__ or "").strip(), on, log_kept, facts_kept, planned)
        return harm

    return known

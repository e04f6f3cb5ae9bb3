"""Directory: where each node can be reached by the others. A hash in Valkey with one field per living node.

    {prefix}:places   incarnation → {"node":"n1","since":1795397242.6,"local":"insightdesk-rt-9f…",
                                     "address":"10.0.0.5:3005","key":"…","machine":"…"}

The values are a secret of the nodes: whoever knows a node's key may connect to it in the name of a client. The nodes
that clean up after a dead node remove its field.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.transport.neighbours import this_machine
from insightdesk_rt.engine.wire import json

FRESH_S = 1.0  # how long a read is used; a node that comes back under its name is found after that
AGAIN_EVERY = 10  # beats


class NodePlace(Struct, frozen=True):
    """How to reach one node.

    `local` is the name of its unix sockets on its own machine; `address` is host:port for other machines, or "".
    `machine` identifies the machine (neighbours.this_machine): a node of this machine that is unreachable has ended.
    `process` identifies the process on its machine. `secrets` has fingerprints of the secrets that nodes must share, by
    setting, and the values of other settings that must be the same (see rivals.py). `since` is the start, in Unix
    seconds: of two nodes with the same name (one has just died) the younger counts.
    """

    node: str
    since: float
    local: str
    address: str
    key: str
    machine: str = ""
    process: str = ""
    secrets: dict[str, str] = {}


def new_place(
    node_id: str, address: str, process: str = "", fingerprints: Mapping[str, str] = MappingProxyType({})
) -> NodePlace:
    """Return a place for this process, with random names and a random key. `address` is host:port, or ""."""
    local, key = f"insightdesk-rt-{secrets.token_hex(16)}", secrets.token_urlsafe(32)
    return NodePlace(node_id, time.time(), local, address, key, this_machine(), process, dict(fingerprints))


_place = msgspec.json.Decoder(NodePlace)


def read_place(text: str | None) -> NodePlace | None:
    """Decode a place from Valkey; None if there is none, or a node of another version wrote it."""
    try:
        return None if text is None else json.decode(_place, text)
    except json.BadJson:
        return None


class Directory:
    """`place` is this node's own. `find` reads at most once in FRESH_S; without Valkey it uses the last read."""

    def __init__(self, valkey: Valkey, incarnation: Callable[[], str], place: NodePlace) -> None:
        self._valkey = valkey
        self._key = valkey.names.cluster.key("places")
        self._incarnation = incarnation
        self._place = place
        self._announced = ""
        self._turn = 0
        self._places: dict[str, NodePlace] = {}
        self._read_s = -FRESH_S
        self._reading = asyncio.Lock()

    async def announce(self) -> None:
        """Write this node's place. Raises RtError UNAVAILABLE."""
        self._announced = self._incarnation()
        await self._valkey.command("HSET", self._key, self._announced, json.encode_struct(self._place))

    async def reconcile(self) -> None:
        """Write it again now and then, whatever took it out. Call it with each beat. Raises as `announce`."""
        self._turn += 1
        if self._turn % AGAIN_EVERY == 0:
            await self.announce()

    async def reap_all_except(self, living: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Take out all but the incarnations that `living` then says. Raises RtError UNAVAILABLE."""
        # First the places, then who lives: a node that starts between the two lives before it has a place.
        placed = set(await self._valkey.command("HKEYS", self._key))
        if dead := placed.difference(await living()):
            await self._valkey.command("HDEL", self._key, *dead)

    async def withdraw(self) -> None:
        """Remove this node's place. Never raises."""
        try:
            await self._valkey.command("HDEL", self._key, self._announced)
        except RtError:
            pass  # the nodes that clean up after it remove it

    async def place_of(self, incarnation: str) -> NodePlace | None:
        """Return the place that a node wrote; None if it was removed.

        Raises RtError UNAVAILABLE.
        """
        return read_place(await self._valkey.command("HGET", self._key, incarnation))

    def is_own(self, place: NodePlace) -> bool:
        """Is it this node's place, perhaps under another incarnation?"""
        return place.key == self._place.key

    async def node_lost(self, incarnation: str) -> None:
        await self._valkey.command("HDEL", self._key, incarnation)

    async def re_register(self) -> None:
        await self.announce()

    async def find(self, node_id: str) -> NodePlace | None:
        """Return the place of the node with this name, or None. Never raises."""
        if time.monotonic() - self._read_s >= FRESH_S:
            async with self._reading:  # one read for all who ask at the same time
                if time.monotonic() - self._read_s >= FRESH_S:
                    await self._read()
        return self._places.get(node_id)

    async def _read(self) -> None:
        try:
            found = await self._valkey.command("HVALS", self._key)
        except RtError:
            self._read_s = time.monotonic()
            return  # the last read is still used
        self._read_s = time.monotonic()
        places: dict[str, NodePlace] = {}
        for text in found:
            place = read_place(text)
            if place is None:
                continue
            if place.node not in places or places[place.node].since < place.since:
                places[place.node] = place
        self._places = places

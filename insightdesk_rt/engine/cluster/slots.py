"""The map of a Valkey Cluster: which primary has which of the 16,384 slots. It asks several servers and believes one.

A server that was cut off during a failover still shows the former map. So the map counts that comes from a server that
sees its cluster as whole, and has heard of the latest failover: the one with the greatest epoch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from valkey.crc import key_slot
from valkey.exceptions import ValkeyError

from insightdesk_rt.engine.cluster.outage import NoServer, in_words
from insightdesk_rt.engine.cluster.valkey_url import Host, ValkeyUrl

ASKED_AT_ONCE = 5  # most clusters have six servers; a majority of the primaries is among five of them, or the next five


def slot_of(key: str) -> int:
    """Return the slot of a key or channel: CRC16 of its hash tag (the text in its first braces)."""
    return key_slot(key.encode())


class Shard(NamedTuple):
    """A primary with its replicas, and the ranges of slots that it has, ends included."""

    primary: Host
    replicas: tuple[Host, ...]
    slots: tuple[tuple[int, int], ...]

    def has(self, slot: int) -> bool:
        return any(first <= slot <= last for first, last in self.slots)


class SlotMap(NamedTuple):
    """The shards of a cluster, as one of its servers shows them. `whole`: that server sees a cluster that works."""

    shards: tuple[Shard, ...]
    epoch: int
    whole: bool

    def owner(self, slot: int) -> Host | None:
        """Return the primary that has a slot; None if no primary has it."""
        return next((shard.primary for shard in self.shards if shard.has(slot)), None)

    @property
    def servers(self) -> list[Host]:
        return [host for shard in self.shards for host in (shard.primary, *shard.replicas)]


async def ask_for_map(url: ValkeyUrl, known: Iterable[Host], deadline_s: float) -> SlotMap:
    """Return the cluster's map as its servers show it now. Raises NoServer, which says what to change or is wrong."""
    hosts = list(dict.fromkeys((*known, *url.hosts)))
    random.shuffle(hosts)
    whys: dict[Host, str] = {}
    for start in range(0, len(hosts), ASKED_AT_ONCE):
        batch = hosts[start : start + ASKED_AT_ONCE]
        answers = await asyncio.gather(*(_ask(url, host, deadline_s) for host in batch))
        if maps := [answer for answer in answers if isinstance(answer, SlotMap)]:
            return max(maps, key=lambda found: (found.whole, found.epoch))
        whys |= {host: str(answer) for host, answer in zip(batch, answers, strict=True)}
    if len(set(whys.values())) == 1 and len(url.hosts) == 1:
        raise NoServer(next(iter(whys.values())))
    said = "; ".join(f"{host}: {why}" for host, why in sorted(whys.items()))
    raise NoServer(f"no server of the cluster answers ({said})")


async def _ask(url: ValkeyUrl, host: Host, deadline_s: float) -> SlotMap | NoServer:
    try:
        async with asyncio.timeout(deadline_s):
            info, slots = await url.endpoint(host).ask([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")], deadline_s)
        return read_map(info, slots, host)
    except NoServer as why:
        return why
    except (ValkeyError, OSError, TimeoutError) as failed:
        return NoServer(_in_words(failed))
    except (ValueError, TypeError, IndexError):
        return NoServer("what answers there is not a server of a Valkey Cluster")


def read_map(info: str, slots: Sequence[Any], asked: Host) -> SlotMap:
    """Decode the answers to CLUSTER INFO and CLUSTER SLOTS. Pure.

    A server that does not know its own name leaves it empty; it is the one that was `asked`.
    """
    fields = dict(line.split(":", 1) for line in info.split("\r\n") if ":" in line)
    ranges: dict[Host, list[tuple[int, int]]] = {}
    followers: dict[Host, tuple[Host, ...]] = {}
    for first, last, primary, *replicas in slots:
        host = Host(_name(primary[0], asked), int(primary[1]))
        ranges.setdefault(host, []).append((int(first), int(last)))
        followers[host] = tuple(Host(_name(one[0], asked), int(one[1])) for one in replicas)
    shards = tuple(Shard(host, followers[host], tuple(found)) for host, found in ranges.items())
    return SlotMap(shards, int(fields.get("cluster_current_epoch", 0)), fields.get("cluster_state") == "ok")


def _name(announced: str | None, asked: Host) -> str:
    return announced if announced and announced != "?" else asked.name


def _in_words(failed: Exception) -> str:
    text = str(failed)
    if "cluster support disabled" in text:
        return "it is one server and no cluster; write valkey:// instead of valkey+cluster://"
    if "unknown command" in text:
        return "it is a Sentinel; write valkey+sentinel://host:26379/NAME"
    return in_words(failed)

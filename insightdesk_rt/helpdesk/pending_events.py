"""Pending events: events whose change is stored in Valkey and which the log does not have yet.

A script that changes a fact stores, in the same step, a record of the event that clients must get
(lua/pending_events.lua). Its caller publishes the event (event_relay.py) and then removes the record. If the caller
dies in between, or Valkey is unreachable, the node that leads finds the record with `overdue` and publishes it.

So an event is published at least once, in the order of its subject's changes. It is published under `PendingEvent.id`,
and the log takes an id once, so clients get it once. A change that its caller named by an id of its own uses that id:
it stays one event even if Valkey forgot that it knew the id. Cost: one small command per change, after the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from insightdesk_rt.engine.cluster.names import Key, Partition
from insightdesk_rt.engine.cluster.valkey import Valkey, load_script

PACKAGE = "insightdesk_rt.helpdesk"

# Lua libraries that several features put in front of their scripts; for `load_script`.
PENDING_EVENTS = f"{PACKAGE}:pending_events"
PAGE = f"{PACKAGE}:page"

PUBLISHED = load_script(PACKAGE, "pending_events_published")
PASSED = load_script(PACKAGE, "passed")


# Waits until a Valkey that lost its last writes has them again. Raises RtError UNAVAILABLE.
Recovered = Callable[[], Awaitable[None]]


async def always() -> None:
    """The `Recovered` of a store that does not restore anything into Valkey: it never waits."""


class PendingEvent(NamedTuple):
    """The event of one change of a subject (a user, a ticket, a conversation).

    `seq` grows with each change of the subject. `data` is JSON text; its shape depends on `kind`. `once` names a change
    by its caller's own id (`once_of`), and is empty for a change without one.
    """

    store: str
    subject: str
    seq: int
    kind: str
    data: str
    once: str = ""

    @property
    def id(self) -> str:
        """The id of its event in the log. The two forms differ in the character after the store's name."""
        return f"{self.store}:{self.kind}:{self.once}" if self.once else f"{self.store}.{self.subject}.{self.seq}"


def once_of(*parts: str) -> str:
    """Join ids into one name. Different ids never give the same name, whatever characters they contain."""
    return ":".join(quote(part, safe="", errors="replace") for part in parts)


def subject_of(event_id: str) -> str:
    """Return the subject of the change whose event has this id (`PendingEvent.id`)."""
    end = min(at for at in (event_id.find("."), event_id.find(":")) if at >= 0)  # of the store's name
    rest = event_id[end + 1 :]
    return rest.rpartition(".")[0] if event_id[end] == "." else unquote(rest.split(":")[1])


def read_pending(store: str, subject: str, records: Iterable[str]) -> list[PendingEvent]:
    """Parse the records of a subject that a script returned."""
    found = []
    for record in records:
        seq, named, data = record.split(" ", 2)
        kind, _, once = named.partition(":")
        found.append(PendingEvent(store, subject, int(seq), kind, data, once))
    return found


class PendingEvents:
    """The pending events of one store."""

    def __init__(self, valkey: Valkey, partition: Partition, name: str) -> None:
        self._valkey = valkey
        self._name = name
        self._partition = partition
        self.index = partition.key(f"{name}-untold")  # zset: subjects that have records → since when

    def of(self, subject: str) -> Key:
        """The list of a subject's records."""
        return self._partition.key(f"{self._name}-untold", subject)

    async def mark_published(self, upto: Mapping[str, int]) -> None:
        """Remove the records of published events; `upto` maps each subject to its last published seq.

        Raises RtError UNAVAILABLE; the records then stay, and the events are published again.
        """
        pairs = [str(part) for pair in upto.items() for part in pair]
        await self._valkey.call(PUBLISHED, [self.index, *map(self.of, upto)], pairs)

    async def overdue(self, age_ms: int = 2_000, limit: int = 200) -> list[PendingEvent]:
        """Return events that have waited for `age_ms`, of at most `limit` subjects. Raises RtError UNAVAILABLE."""
        subjects = await self._valkey.call(PASSED, [self.index], [age_ms, limit])
        # Records that were published since then are gone, and those that were added are published with the others.
        lists = await asyncio.gather(*(self._valkey.command("LRANGE", self.of(each), 0, -1) for each in subjects))
        found = zip(subjects, lists, strict=True)
        return [event for subject, records in found for event in read_pending(self._name, subject, records)]

"""Changes that are stored and must still be told: what makes "stored" and "heard of" one promise.

A script that changes a fact leaves, in the same step, a record of what others must hear (lua/untold.lua). Its caller
logs the event and then says so here; if it dies in between, or Valkey goes away, `overdue` gives the record to the
node that leads. Telling is at least once, in the order of the subject's changes, each under the id
`PendingEvent.id`: the log takes an id once, so members hear it once. A change that its caller named by an id of its
own is told under that: it stays one event also if Valkey forgot that it knew the id. Cost: one small command per
change, off the way of the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from insightdesk_rt.engine.cluster.valkey import Script, Valkey, load_script

PACKAGE = "insightdesk_rt.helpdesk"
SHARED_LIBRARIES = {"untold", "page"}

TOLD = load_script(PACKAGE, "untold_told")
OVERDUE = load_script(PACKAGE, "untold_overdue")


# Waits until Valkey has again what it may have lost. Raises RtError UNAVAILABLE.
Recovered = Callable[[], Awaitable[None]]


async def always() -> None:
    """For a store whose Valkey is never given anything again."""


class PendingEvent(NamedTuple):
    """One change of a subject (a user, a conversation). `seq` grows with each; `data` is JSON text of a `kind`.

    `once` names a change by its caller's own id (`once_of`); empty for one that has none.
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
    """Return one name for several ids, whatever characters they have: different ids never give the same name."""
    return ":".join(quote(part, safe="", errors="replace") for part in parts)


def subject_of(event_id: str) -> str:
    """Return the subject of the change that was told under this id of an event (`PendingEvent.id`)."""
    end = min(at for at in (event_id.find("."), event_id.find(":")) if at >= 0)  # of the store's name
    rest = event_id[end + 1 :]
    return rest.rpartition(".")[0] if event_id[end] == "." else unquote(rest.split(":")[1])


def script(package: str, name: str, *libraries: str) -> Script:
    """Return the script `lua/<name>.lua` of a package, with the library of pending events and others before it.

    Libraries lie beside the script, but for those that several features share: they lie in this package.
    """
    parts = [(PACKAGE if part in SHARED_LIBRARIES else package, part) for part in ("untold", *libraries, name)]
    return Script(name, "".join(load_script(place, part).source for place, part in parts))


def read(store: str, subject: str, records: Iterable[str]) -> list[PendingEvent]:
    """Return what a script answered as the records of a subject."""
    found = []
    for record in records:
        seq, named, data = record.split(" ", 2)
        kind, _, once = named.partition(":")
        found.append(PendingEvent(store, subject, int(seq), kind, data, once))
    return found


class PendingEvents:
    """The changes of one store that are not told yet."""

    def __init__(self, valkey: Valkey, name: str) -> None:
        self._valkey = valkey
        self._name = name
        self._base = valkey.key(name)

    async def told(self, upto: Mapping[str, int]) -> None:
        """Forget what was told: subject → the last seq. Raises RtError UNAVAILABLE; then it will be told again."""
        pairs = [str(part) for pair in upto.items() for part in pair]
        await self._valkey.call(TOLD, [self._base], pairs)

    async def overdue(self, age_ms: int = 2_000, limit: int = 200) -> list[PendingEvent]:
        """Return what has waited `age_ms`, of at most `limit` subjects. Raises RtError UNAVAILABLE."""
        found = await self._valkey.call(OVERDUE, [self._base], [age_ms, limit])
        return [change for subject, records in found for change in read(self._name, subject, records)]

"""The audit log: who changed what through the admin port, from where, why and with what outcome. One stream.

An entry is written after the change, so it contains the outcome. The log keeps the newest KEPT entries whatever their
age, and all entries of the last KEPT_DAYS, so many harmless changes do not push out a harmful one. Beyond MAX_KEPT
entries they would; the log then says how many were dropped early. The rate of each admin is limited (api/handler.py).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.wire import json

PACKAGE = "insightdesk_rt.api"

KEPT = 10_000  # some 4 MB; ten admins write that in months
KEPT_DAYS = 90
MAX_KEPT = 100_000  # some 40 MB; one principal at its rate limit needs three hours for it
SCAN = 500  # entries per read, when a filter skips many


class Dropped(NamedTuple):
    """How many entries were removed from the log: in all, and before they were KEPT_DAYS old."""

    all: int
    early: int


class Entry(Struct, frozen=True):
    """One change. `target`: what was changed; `what`: the request's fields that were set, as JSON text.

    `address`: where the request came from; `node`: which node handled it.
    `outcome` is "ok" or an error code. `id` is the entry's position in the log.
    """

    id: str
    at: str
    who: str
    scope: str
    action: str
    target: str
    what: str
    reason: str
    address: str
    node: str
    outcome: str


ADD = load_script(PACKAGE, "audit_add")

_entry = msgspec.json.Decoder(Entry)


class AuditLog:
    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._key = valkey.names.cluster.key("audit")
        self._dropped = valkey.names.cluster.key("audit-dropped")
        self._reading = asyncio.Lock()

    async def add(self, entry: Entry) -> None:
        """Append an entry. Raises RtError UNAVAILABLE: it may or may not be stored."""
        text = json.encode_struct(entry)
        args: list[Arg] = [text, KEPT, KEPT_DAYS * 86_400_000, MAX_KEPT]
        await self._valkey.call(ADD, [self._key, self._dropped], args)

    async def dropped(self) -> Dropped:
        """Return how many entries were removed. Raises RtError UNAVAILABLE."""
        if not await self._valkey.command("EXISTS", self._key):
            return Dropped(0, 0)
        about, early = await asyncio.gather(
            self._valkey.command("XINFO", "STREAM", self._key), self._valkey.command("HGET", self._dropped, "early")
        )
        fields = about if isinstance(about, dict) else dict(zip(about[::2], about[1::2], strict=True))
        return Dropped(max(int(fields["entries-added"]) - int(fields["length"]), 0), int(early or 0))

    async def read(self, limit: int, before: str = "", who: str = "", action: str = "") -> list[Entry]:
        """Return the newest `limit` entries before an id, newest first; fewer only if there are no more.

        `action` is a whole action ("node.drain") or its first part ("node"). With a filter the whole log may be read,
        so only one caller reads at a time. Raises RtError UNAVAILABLE.
        """
        async with self._reading:
            return await self._read(limit, before, who, action)

    async def _read(self, limit: int, before: str, who: str, action: str) -> list[Entry]:
        found: list[Entry] = []
        end = f"({before}" if before else "+"
        while len(found) < limit:
            rows = await self._valkey.command("XREVRANGE", self._key, end, "-", "COUNT", SCAN, costly=True)
            for id, fields in rows:
                end = f"({id}"
                entry = msgspec.structs.replace(json.decode(_entry, fields[1]), id=id)
                if (not who or entry.who == who) and (not action or f"{entry.action}.".startswith(f"{action}.")):
                    found.append(entry)
            if len(rows) < SCAN:
                break
        return found[:limit]

"""The audit log: who changed what through the admin port, from where, why and with what outcome. One stream.

Entries are written after the deed, so that the outcome is in them. The newest KEPT stay, whatever their age, and all of
the last KEPT_DAYS: many harmless deeds do not push out one that is not. Past MAX_KEPT they would, and the log says how
many were dropped before their time; who makes entries is limited in their rate (api/handler.py).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.wire import json

PACKAGE = "insightdesk_rt.api"

KEPT = 10_000  # some 4 MB; a desk with ten admins writes that in months
KEPT_DAYS = 90
MAX_KEPT = 100_000  # some 40 MB; at the rate that one principal is allowed three hours without a pause
SCAN = 500  # entries looked at per read, when a filter passes over many


class Dropped(NamedTuple):
    """Entries that were taken out of the log: all of them, and those before KEPT_DAYS were over."""

    all: int
    early: int


class Entry(Struct, frozen=True):
    """`target`: what it was done to; `what`: the request's fields that were set, as JSON text.

    `address` and `node`: where it came from and which node did it.
    `outcome` is "ok" or the code of an error. `id` is the place in the log.
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
        self._key = valkey.key("audit")
        self._dropped = valkey.key("audit-dropped")
        self._reading = asyncio.Lock()

    async def add(self, entry: Entry) -> None:
        """Raises RtError UNAVAILABLE: it is not known whether it is there."""
        text = json.encode_struct(entry)
        args: list[Arg] = [text, KEPT, KEPT_DAYS * 86_400_000, MAX_KEPT]
        await self._valkey.call(ADD, [self._key, self._dropped], args)

    async def dropped(self) -> Dropped:
        """Return how many entries are not there any more. Raises RtError UNAVAILABLE."""
        if not await self._valkey.command("EXISTS", self._key):
            return Dropped(0, 0)
        about, early = await asyncio.gather(
            self._valkey.command("XINFO", "STREAM", self._key), self._valkey.command("HGET", self._dropped, "early")
        )
        fields = about if isinstance(about, dict) else dict(zip(about[::2], about[1::2], strict=True))
        return Dropped(max(int(fields["entries-added"]) - int(fields["length"]), 0), int(early or 0))

    async def read(self, limit: int, before: str = "", who: str = "", action: str = "") -> list[Entry]:
        """Return the newest `limit` entries before a place, newest first; fewer only if there are no more.

        `action` is a whole one ("node.drain") or its first part ("node"). A filter may look through all that is kept:
        one reader does so at a time. Raises RtError UNAVAILABLE.
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

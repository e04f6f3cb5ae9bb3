"""The audit log: who changed what through the admin port, from where, why and with what outcome. One capped stream.

Entries are written after the deed, so that the outcome is in them. The newest MAX_KEPT stay, whatever their age.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct

from insightdesk_rt.cluster.valkey import Valkey
from insightdesk_rt.wire import json

MAX_KEPT = 10_000  # some 4 MB; a desk with ten admins writes that in months
SCAN = 500  # entries looked at per read, when a filter passes over many


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


_entry = msgspec.json.Decoder(Entry)


class AuditLog:
    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._key = valkey.key("audit")
        self._reading = asyncio.Lock()

    async def add(self, entry: Entry) -> None:
        """Raises RtError UNAVAILABLE: it is not known whether it is there."""
        text = json.encode_struct(entry)
        await self._valkey.command("XADD", self._key, "MAXLEN", "~", MAX_KEPT, "*", "e", text)

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

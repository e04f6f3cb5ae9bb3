"""Which beacons are lit, and on which node: one hash in Valkey."""

from __future__ import annotations

from insightdesk_rt.engine.cluster.names import Partition
from insightdesk_rt.engine.cluster.valkey import Valkey, load_script
from insightdesk_rt.engine.errors import RtError

LIGHT = load_script("insightdesk_rt.helpdesk.beacons", "beacon_light")


class BeaconStore:
    def __init__(self, valkey: Valkey, partition: Partition, most: int) -> None:
        self._valkey = valkey
        self._key = partition.key("beacons")
        self._most = most

    async def light(self, incarnation: str, user: str, beacon_id: str) -> int:
        """Return how many beacons the user has lit now. Raises RtError CONFLICT, UNAVAILABLE."""
        lit = int(await self._valkey.call(LIGHT, [self._key], [incarnation, user, beacon_id, self._most]))
        if lit < 0:
            raise RtError("CONFLICT", f"An agent may have {self._most} beacons lit.")
        return lit

    async def lit(self) -> list[str]:
        """Return the ids of all beacons that are lit, sorted. Raises RtError UNAVAILABLE."""
        return sorted(field.split("/")[2] for field in await self._valkey.command("HKEYS", self._key))

    async def drop(self, incarnation: str) -> None:
        """Put out every beacon that was lit on a node. Raises RtError UNAVAILABLE."""
        fields = await self._valkey.command("HKEYS", self._key)
        if gone := [field for field in fields if field.startswith(incarnation + "/")]:
            await self._valkey.command("HDEL", self._key, *gone)

"""HTTP routes of beacons.

GET  /api/v1/beacons
"""

from __future__ import annotations

from insightdesk_rt.helpdesk.beacons.store import BeaconStore
from msgspec import Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.engine.dispatch.namespace import Route


class LitBeacons(Struct):
    beacons: list[str]


class BeaconsHandler(Handler):
    store: BeaconStore

    @operation("viewer", answer=LitBeacons)
    async def get(self) -> Answer:
        """Return the beacons that are lit, on all nodes."""
        return Answer(LitBeacons(await self.store.lit()))


def beacon_routes(admin: Admin, store: BeaconStore) -> list[Route]:
    """Return the routes of this file for a Tornado Application."""
    return [(r"/api/v1/beacons", BeaconsHandler, {"admin": admin, "store": store})]

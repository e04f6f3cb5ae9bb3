"""Beacons: an agent lights one, and its node puts it out when the node dies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from insightdesk_rt.helpdesk.beacons.settings import BeaconSettings
from insightdesk_rt.helpdesk.beacons.store import BeaconStore
from msgspec import Struct

from insightdesk_rt.engine.dispatch.namespace import (
    STAFF,
    Context,
    Namespace,
    Payload,
    Rate,
    Route,
    Timers,
    event,
)
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.ids import TicketIdText


class LightBeacon(Payload):
    beaconId: TicketIdText


class BeaconLit(Struct):
    """`lit`: how many beacons the agent has now."""

    lit: int


class Beacons(Namespace):
    path = "/beacons"
    allow = STAFF
    settings = BeaconSettings

    def __init__(self, hub: Hub, timers: Timers, store: BeaconStore, incarnation: Callable[[], str]) -> None:
        super().__init__(hub, timers)
        self._store = store
        self._incarnation = incarnation

    @classmethod
    def build(cls, context: Context) -> Beacons:
        partition = context.valkey.names.namespace(cls.path)
        most = context.settings.of(BeaconSettings).max_beacons_per_agent
        return cls(context.hub, context.timers, BeaconStore(context.valkey, partition, most), context.incarnation)

    def routes(self, api: Any) -> Iterable[Route]:
        # Not imported above: emitters import the table of features, and run where there is no Tornado.
        from insightdesk_rt.helpdesk.beacons.routes import beacon_routes

        return beacon_routes(api, self._store)

    @event("beacon:light", limit=Rate(5, per_s=60))
    async def light(self, socket: Socket, ask: LightBeacon) -> BeaconLit:
        """Light a beacon. CONFLICT if the agent has lit as many as it may."""
        return BeaconLit(await self._store.light(self._incarnation(), socket.user.key, ask.beaconId))

    async def node_lost(self, incarnation: str) -> None:
        await self._store.drop(incarnation)

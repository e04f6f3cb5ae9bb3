"""The settings of the beacons namespace."""

from __future__ import annotations

from typing import Annotated

from insightdesk_rt.engine.settings import Count, Help, SettingsPart


class BeaconSettings(SettingsPart, frozen=True):
    max_beacons_per_agent: Annotated[Count, Help("beacons that one agent may have lit at the same time")] = 3

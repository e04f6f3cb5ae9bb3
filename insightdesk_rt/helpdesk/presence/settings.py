"""The settings of the presence namespace."""

from __future__ import annotations

from typing import Annotated

from insightdesk_rt.engine.settings import Count, Help, SettingsPart


class PresenceSettings(SettingsPart, frozen=True):
    presence_grace_ms: Annotated[Count, Help("how long a user may be disconnected before showing as offline")] = 5000

"""The settings of the dashboard namespace."""

from __future__ import annotations

from typing import Annotated

from insightdesk_rt.engine.settings import Help, Ms, SettingsPart


class DashboardSettings(SettingsPart, frozen=True):
    dashboard_interval_ms: Annotated[Ms, Help("time between two updates of the dashboard")] = 5000

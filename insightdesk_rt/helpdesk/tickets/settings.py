"""The settings of the tickets namespace."""

from __future__ import annotations

from typing import Annotated, Literal

from insightdesk_rt.engine.cluster.sessions import RecoverySettings
from insightdesk_rt.engine.secret import SecretUrl
from insightdesk_rt.engine.settings import Help, SettingsPart
from insightdesk_rt.helpdesk.typing_indicators import TYPING_MS, TypingMs


class TicketSettings(SettingsPart, frozen=True):
    agent_access: Annotated[Literal["team", "all"], Help("tickets an agent may read")] = "team"
    access: Annotated[str, Help("package.module:factory of your own check of who may read a ticket")] = ""
    access_url: Annotated[SecretUrl, Help("URL of your back end that is asked who may read a ticket")] = SecretUrl()
    # Fails closed: an outage must not show anybody what they may not read.
    access_down: Annotated[
        Literal["closed", "rules", "open"],
        Help("readers while access_url does not answer: nobody, by agent_access, all"),
    ] = "closed"
    typing_ms: TypingMs = TYPING_MS
    connection_recovery: bool = RecoverySettings().connection_recovery
    recovery_window_s: int = RecoverySettings().recovery_window_s

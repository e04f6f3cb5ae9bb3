"""The settings of the chat namespace."""

from __future__ import annotations

from typing import Annotated

from insightdesk_rt.engine.settings import Help, Seconds, SettingsPart
from insightdesk_rt.helpdesk.presence.settings import PresenceSettings
from insightdesk_rt.helpdesk.typing_indicators import TYPING_MS, TypingMs


class ChatSettings(SettingsPart, frozen=True):
    chat_waiting_timeout_s: Annotated[Seconds, Help("how long a customer waits for an agent")] = 600
    chat_idle_timeout_s: Annotated[Seconds, Help("how long a chat may be silent before it ends")] = 900
    typing_ms: TypingMs = TYPING_MS
    presence_grace_ms: int = PresenceSettings().presence_grace_ms

"""The settings of the notifications namespace."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from insightdesk_rt.engine.settings import Help, SettingsPart


class NotificationSettings(SettingsPart, frozen=True):
    # A user at the desk has seen it by then, and an e-mail is not too late yet.
    notification_unseen_s: Annotated[
        int,
        Meta(ge=0, le=604_800),
        Help("how long a notification is unread before the feed says so; 0: never"),
    ] = 300

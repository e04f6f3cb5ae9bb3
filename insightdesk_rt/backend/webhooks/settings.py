"""The settings of webhooks."""

from __future__ import annotations

from typing import Annotated

from insightdesk_rt.engine.settings import Help, SettingsPart


class WebhookSettings(SettingsPart, frozen=True):
    # An admin could otherwise have the server call what only machines of its own network can reach.
    webhook_allow_private: Annotated[
        bool, Help("let webhooks call private and loopback addresses, and http:// URLs")
    ] = False
    webhook_ca_file: Annotated[
        str, Help("PEM file of CAs that sign receivers' certificates; empty: the usual ones")
    ] = ""

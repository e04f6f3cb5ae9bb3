"""The settings of the feed: how much of it is kept."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from insightdesk_rt.engine.settings import Help, SettingsPart


class FeedSettings(SettingsPart, frozen=True):
    """The feed keeps its entries until one of the limits is reached."""

    # A desk with 100 agents has some 30,000 changes a day; three days of them.
    feed_max_entries: Annotated[int, Meta(ge=100, le=10_000_000), Help("entries kept in the back end's feed")] = 100_000
    # As much as the log of a namespace. An entry has some 400 bytes, a closed chat's transcript up to 256 KB.
    feed_max_bytes: Annotated[
        int, Meta(ge=0, le=100_000_000_000), Help("bytes kept in the back end's feed; 0: no limit")
    ] = 134_217_728
    # A back end that breaks on Friday evening is repaired on Monday morning.
    feed_max_age_s: Annotated[
        int, Meta(ge=60, le=31_536_000), Help("age at which entries leave the back end's feed")
    ] = 259_200

"""What each part of this wing is written in: built once per node, with its own routes, settings and periodic work.

    class Feed(BackendPart):
        name = "feed"
        settings = FeedSettings

        def routes(self, api: Admin) -> Iterable[Route]:
            return [(r"/api/v1/feed", FeedHandler, {"admin": api, "feed": self})]

A part is one file or folder of this wing, and one line in `PARTS` (parts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import ClassVar, NamedTuple

from insightdesk_rt.api.handler import Admin
from insightdesk_rt.backend.feed.log import FeedLog
from insightdesk_rt.backend.feed.reader import FeedReader
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.dispatch.namespace import Route, Ticker, declared_tickers
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.settings import FeatureSettings, SettingsPart


class BackendContext(NamedTuple):
    """What a part is built from: the parts of this node that it may use."""

    features: Features
    hub: Hub
    valkey: Valkey
    calls: NodeCalls
    namespaces: Collection[str]  # paths that an event may name
    max_event_bytes: int
    settings: FeatureSettings
    feed: FeedLog
    feed_reader: FeedReader
    leads: Callable[[], bool]  # is this the leading node?
    now_ms: Callable[[], int]  # Valkey's time


class BackendPart:
    """One thing that the helpdesk's back end and this server do for each other. Does nothing by default."""

    name: ClassVar[str] = ""  # for logs, and for work that is claimed once per cluster
    settings: ClassVar[type[SettingsPart]] = SettingsPart  # declares the settings of the part
    tickers: ClassVar[tuple[Ticker, ...]] = ()  # its methods with `@every`

    def __init_subclass__(cls) -> None:
        cls.tickers = declared_tickers(cls)

    def __init__(self, context: BackendContext) -> None:
        """Raises ValueError, in one line, for a setting that cannot be used."""
        self.context = context

    def routes(self, api: Admin) -> Iterable[Route]:
        """Return the part's routes on the admin port. Its handlers take `api` as `admin` (see api/handler.py)."""
        return ()

    async def start(self) -> None:
        """Begin work of its own. Called once, when the node is registered. Raises RtError UNAVAILABLE."""

    async def close(self) -> None:
        """End what `start` began. Called once, when the server stops."""

"""Readers of the feed on this node: pages by type, and waiting for the next entry.

Readers that have read everything wait together. While anybody waits, the node asks Valkey for the end of the log ten
times a second. That is one small command, and it also works where the log's server changes. What this node appends
itself is noticed at once. Readers at the same offset share one read of the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from insightdesk_rt.backend.feed.log import FeedItem, FeedLog, FeedStretch
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Offset, offset_key
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.helpdesk.shared import Shared

log = logging.getLogger(__name__)

LOOK_S = 0.1
PARTS = 10  # of the log, at most, that one page looks through for entries of its types


class FeedPage(NamedTuple):
    """Entries of the reader's types. `next` is where to read on. `complete`: none is missing after its offset."""

    items: list[FeedItem]
    next: Offset
    complete: bool


class FeedReader:
    def __init__(self, feed: FeedLog) -> None:
        self._feed = feed
        self._reads: Shared[FeedStretch] = Shared()
        self._tasks = OwnedTasks(log)
        self._top = NO_OFFSET
        self._news = asyncio.Event()  # of the end of the log; replaced each time it is set
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self.waiting = 0
        feed.appended = self._noticed

    async def top(self) -> Offset:
        """Return the offset of the last entry, from which only new ones follow. Raises RtError UNAVAILABLE."""
        return await self._feed.top()

    async def page(self, after: Offset, types: Collection[str], limit: int, wait_s: float = 0.0) -> FeedPage:
        """Return the next entries of these types, at most `limit`. If there are none, wait for the first one.

        Raises RtError UNAVAILABLE.
        """
        until_s = asyncio.get_running_loop().time() + wait_s
        while True:
            page = await self._page(after, types, limit)
            left_s = until_s - asyncio.get_running_loop().time()
            if page.items or not page.complete or left_s <= 0 or self._closed:
                return page
            after = page.next
            await self._beyond(after, left_s)

    async def _page(self, after: Offset, types: Collection[str], limit: int) -> FeedPage:
        """Read until there are enough entries, or PARTS parts of the log were read, or its end is reached."""
        found: list[FeedItem] = []
        for number in range(PARTS):
            here = after
            part = await self._reads.ask(here, partial(self._feed.read, here))
            if not part.complete and number:  # it was trimmed meanwhile: the next page says so
                break
            complete = part.complete if not number else True
            for item in part.items:
                after = item.offset
                if item.type in types:
                    found.append(item)
                    if len(found) == limit:
                        return FeedPage(found, after, complete)
            after = part.next
            if not complete or not part.items or found:
                return FeedPage(found, after, complete)
        return FeedPage(found, after, True)

    async def _beyond(self, offset: Offset, wait_s: float) -> None:
        """Wait until the log does not end at the offset any more, or the time has passed."""
        if offset_key(self._top) > offset_key(offset):
            return
        if self._looking is None:
            self._looking = self._tasks.spawn(self._look(), "looking for the end of the feed")
        self.waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    await self._news.wait()
                    if self._top != offset or self._closed:
                        return
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1

    async def _look(self) -> None:
        """Ask for the end of the log as long as somebody waits for it."""
        try:
            await asyncio.sleep(0)
            while self.waiting:
                try:
                    self._noticed(await self._feed.top())
                except RtError:
                    pass  # Valkey is unreachable, which its connection logs; waiting goes on
                await asyncio.sleep(LOOK_S)
        finally:
            self._looking = None

    def _noticed(self, top: Offset) -> None:
        if top != self._top:
            self._top = top
            self._news.set()
            self._news = asyncio.Event()

    async def close(self) -> None:
        """Let everybody who waits go, and wait for nobody any more."""
        self._closed = True
        self._news.set()
        await self._tasks.close()

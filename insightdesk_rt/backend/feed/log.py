"""The feed's log in Valkey: changes of all namespaces for the helpdesk's back end, in one order.

A feature reports a change while it publishes the change's event, before the record of the pending event is removed
(helpdesk/event_relay.py). If a node dies in between, the node that publishes the event again reports it again. Each
entry has an id made of the change, and the log takes an id once within five minutes. After that a repeat is a second
entry with the same id. So a change is in the feed at least once, in the order of its subject's changes.

The log is one stream in a partition of its own. It is bounded by entries, bytes and age. `floor` is the last entry that
was removed: a reader behind it is told that entries are missing.

Each node keeps the entries of its last minute (of five seconds, if they are very many) and appends them again to a
Valkey that was replaced: it may have lost its last second, or this node wrote to a primary that another one had already
replaced. New entries wait meanwhile, so a subject's entries stay in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

from insightdesk_rt.backend.feed.settings import FeedSettings
from insightdesk_rt.engine.cluster.publisher import FORK_BYTES, FORK_S, KEEP_S
from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.dispatch.namespace import FeedEntry
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Offset, iso
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

PACKAGE = "insightdesk_rt.backend.feed"

APPEND = load_script(PACKAGE, "feed_append")
READ = load_script(PACKAGE, "feed_read")
TRIM = load_script(PACKAGE, "feed_trim")

PART_ENTRIES = 500  # of one read, some 2 ms of Valkey
PART_BYTES = 400_000  # of one read, besides its first entry; a stream's queue holds two such parts (api/sse.py)
AGAIN_BATCH = 100
WAIT_S = 1.0  # a command's deadline
RETRY_S = 0.5


class FeedItem(NamedTuple):
    """An entry as it is kept. `text` is the JSON object with id, type, at and data."""

    offset: Offset
    type: str
    text: str


class FeedStretch(NamedTuple):
    """What one read found. `next` is where to read on. `complete`: no entry is missing after the reader's offset."""

    items: list[FeedItem]
    next: Offset
    complete: bool


class _Kept(NamedTuple):
    at_s: float
    ids: list[str]
    texts: list[str]  # type and text in turn

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts))


class FeedLog:
    """`appended(top)` is called on this node after each append."""

    def __init__(
        self, valkey: Valkey, settings: FeedSettings = FeedSettings(), appended: Callable[[Offset], None] | None = None
    ) -> None:
        self._valkey = valkey
        self._settings = settings
        self.appended = appended or (lambda top: None)
        self._partition = valkey.names.feed
        self._keys = [self._partition.key(name) for name in ("feed-log", "feed-state", "feed-marks")]
        self._recent: deque[_Kept] = deque()
        self._recent_chars = 0
        self._tasks = OwnedTasks(log)
        self._restoring: asyncio.Task[None] | None = None
        self._must_restore = False
        self.entries = 0  # that this node appended, doubles included
        valkey.watch(self._keys[0], self._came_up)

    async def append(self, entries: Sequence[FeedEntry]) -> None:
        """Append entries in their order, in one step. A known id changes nothing. Raises RtError UNAVAILABLE."""
        if not entries:
            return
        await self._restored()
        ids, texts = [feed_id(one.id) for one in entries], list[str]()
        for id, one in zip(ids, entries, strict=True):
            texts += (one.data.type, feed_text(id, one))
        await self._append(ids, texts)
        self._recent.append(_Kept(asyncio.get_running_loop().time(), ids, texts))
        self._recent_chars += self._recent[-1].chars

    async def read(self, after: Offset, limit: int = PART_ENTRIES, limit_bytes: int = PART_BYTES) -> FeedStretch:
        """Return entries after an offset. `next` is the offset itself, or near it, if there are none.

        Raises RtError UNAVAILABLE.
        """
        args: list[Arg] = [after, limit, limit_bytes]
        complete, upto, *found = await self._valkey.call(READ, self._keys[:2], args, costly=True)
        parts = zip(found[::3], found[1::3], found[2::3], strict=True)
        return FeedStretch([FeedItem(Offset(at), kind, text) for at, kind, text in parts], Offset(upto), bool(complete))

    async def top(self) -> Offset:
        """Return the offset of the last entry. Raises RtError UNAVAILABLE."""
        return Offset(await self._valkey.command("HGET", self._keys[1], "top") or NO_OFFSET)

    async def trim(self) -> None:
        """Remove entries that are too old. One node calls it now and then. Raises RtError UNAVAILABLE."""
        await self._valkey.call(TRIM, self._keys, [self._settings.feed_max_age_s * 1000])

    def forget_older(self) -> None:
        """Forget entries that no Valkey can lack any more. Call it every second."""
        if not self._valkey.available or self._restoring is not None:
            return
        now_s = asyncio.get_running_loop().time()
        while self._recent:
            kept_s = now_s - self._recent[0].at_s
            if kept_s <= FORK_S and (self._recent_chars <= FORK_BYTES or kept_s <= KEEP_S):
                break
            self._recent_chars -= self._recent.popleft().chars

    async def close(self) -> None:
        await self._tasks.close()

    async def _append(self, ids: list[str], texts: list[str]) -> None:
        keys = [*self._keys, *(self._partition.key("feed-id", id) for id in ids)]
        args: list[Arg] = [self._settings.feed_max_entries, self._settings.feed_max_bytes, *texts]
        top = await self._valkey.call(APPEND, keys, args)
        self.entries += len(ids)
        self.appended(Offset(top))

    # ── after Valkey was replaced ────────────────────────────────────────────────────────────────────────────────────

    def _came_up(self, replaced: bool) -> None:
        self._must_restore = self._must_restore or replaced
        if self._must_restore and self._restoring is None:
            self._restoring = self._tasks.spawn(self._restore(), "restoring the feed")

    async def _restore(self) -> None:
        """Append the kept entries again, and once more if Valkey was replaced again in the meantime."""
        try:
            while self._must_restore:
                self._must_restore = False
                if not await self._append_again(list(self._recent)):
                    self._must_restore = True
                    await asyncio.sleep(RETRY_S)
        finally:
            self._restoring = None

    async def _append_again(self, kept: list[_Kept]) -> bool:
        """Append entries again, in their order. Returns whether Valkey took all of them."""
        try:
            for start in range(0, len(kept), AGAIN_BATCH):
                batch = kept[start : start + AGAIN_BATCH]
                await asyncio.gather(*(self._append(one.ids, one.texts) for one in batch))  # one pipeline
        except RtError:
            return False
        return True

    async def _restored(self) -> None:
        """Wait, for a second at most, until lost entries are restored. Raises RtError UNAVAILABLE."""
        if self._restoring is not None:
            await asyncio.wait([self._restoring], timeout=WAIT_S)
            if self._restoring is not None:
                raise RtError("UNAVAILABLE")


def feed_id(id: str) -> str:
    """Return the public id of an entry. It has no full stop, which would end an id in a webhook's signature."""
    return "evt_" + sha256(id.encode()).hexdigest()[:32]


def feed_text(id: str, entry: FeedEntry) -> str:
    """Return the JSON of an entry under its public id."""
    head = json.dumps({"id": id, "type": entry.data.type, "at": iso(entry.at_ms)})
    return f'{head[:-1]},"data":{json.encode_struct(entry.data)}}}'

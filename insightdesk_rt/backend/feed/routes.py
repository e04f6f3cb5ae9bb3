"""The feed over HTTP: `GET /api/v1/feed`, one page at a time, by long polling, or as server-sent events.

    ?types=chat.*,ticket.*   which types; all of them by default
    &after=OFFSET            `next` of the answer before; 0-0: from the oldest entry; by default only new entries
    &limit=500&wait=30       at most so many; wait so many seconds for the first one

With `Accept: text/event-stream` each entry is an event `entry` whose `id` is its offset; the header `Last-Event-ID`
counts more than `after`. Other events: `incomplete` {after, next} where entries are missing, `alive` {} with the offset
that was read up to, and those of all streams (api/sse.py). A slow reader loses nothing: the stream waits for it.

An entry holds chats, notes and names, so reading needs the scope admin.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Raw, Struct

from insightdesk_rt.api.handler import Admin, operation
from insightdesk_rt.api.operation import Answer, Query
from insightdesk_rt.api.sse import EventStream, StreamHandler, Streams
from insightdesk_rt.backend.feed.log import PART_ENTRIES
from insightdesk_rt.backend.feed.reader import FeedReader
from insightdesk_rt.backend.feed.settings import FeedSettings
from insightdesk_rt.backend.feed.types import MAX_PATTERNS, FeedAnswer, types_of
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.engine.dispatch.namespace import Route, every
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.texts import OFFSET, WORDS

MAX_WAIT_S = 30  # shorter than the 60 s after which proxies give up
NOTE_EVERY_S = 3600.0
STREAM_WAIT_S = 5.0  # a stream whose types do not happen tells its reader so often how far it has read

PATTERN = r"^[a-z*][a-z.*]{0,63}\Z"
WORDS[PATTERN] = "such as chat.closed or chat.*"
TypePattern = Annotated[str, Meta(pattern=PATTERN, description="`chat.closed`, or `chat.*` for all types of chats")]
OR_EMPTY = rf"^(?:{OFFSET[1:-2]})?\Z"
WORDS[OR_EMPTY] = WORDS[OFFSET]
After = Annotated[
    str,
    Meta(
        pattern=OR_EMPTY,
        description="`next` of the answer before; `0-0`: from the oldest entry; by default only new entries",
    ),
]


class ReadFeed(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    types: Annotated[list[TypePattern], Meta(max_length=MAX_PATTERNS, description="which types; default: all")] = []
    after: After = ""
    limit: Annotated[int, Meta(ge=1, le=PART_ENTRIES, description="entries of an answer")] = 100
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT_S, description="seconds to wait for the first entry")] = 0


class RawFeedAnswer(Struct):
    """An answer of the feed, made of entries as they are kept. `complete`: no entry is missing after the offset."""

    events: list[Raw]
    next: str
    complete: bool


class FeedReads:
    """Writes to the audit log who reads the feed: once an hour for each caller, since a reader asks all the time."""

    def __init__(self) -> None:
        self._noted_s: dict[str, float] = {}

    async def note(self, handler: StreamHandler, query: ReadFeed) -> None:
        who, now_s = handler.asker, time.monotonic()
        if now_s - self._noted_s.get(who.id, -NOTE_EVERY_S) < NOTE_EVERY_S:
            return
        self._noted_s = {id: at_s for id, at_s in self._noted_s.items() if now_s - at_s < NOTE_EVERY_S}
        self._noted_s[who.id] = now_s
        address = handler.admin.peer(handler.request).address
        await handler.admin.record(who, "feed.read", ",".join(query.types) or "*", query, address, "ok")


class FeedHandler(StreamHandler):
    reader: FeedReader
    reads: FeedReads

    @operation("admin", query=ReadFeed, answer=FeedAnswer, stream=True)
    async def get(self, query: ReadFeed) -> Answer | None:
        """Return what happened after an offset, in order, or wait for it.

        Each entry comes at least once; a repeat has the same `id`. With `Accept: text/event-stream` it answers with
        a stream.
        """
        types = types_of(query.types)
        with self.streams.place(self.asker):
            await self.reads.note(self, query)
            if "text/event-stream" in self.request.headers.get("Accept", ""):
                await self._stream(query, types)
                return None
            after = Offset(query.after) or await self.reader.top()
            page = await self.reader.page(after, types, query.limit, query.wait)
        events = [Raw(item.text.encode()) for item in page.items]
        return Answer(RawFeedAnswer(events, page.next, page.complete))

    async def _stream(self, query: ReadFeed, types: frozenset[str]) -> None:
        last = self._checked(self.request.headers.get("Last-Event-ID", "")) or Offset(query.after)
        at = last or await self.reader.top()
        stream = EventStream(self, "admin")

        async def read() -> None:
            nonlocal at
            told_s = 0.0
            while True:
                page = await self.reader.page(at, types, query.limit, STREAM_WAIT_S)
                if not page.complete:
                    missing = {"after": at, "next": page.items[0].offset if page.items else page.next}
                    stream.put("incomplete", json.dumps(missing))
                for item in page.items:
                    stream.put("entry", item.text, item.offset)
                if not page.items and (page.next != at or time.monotonic() - told_s > STREAM_WAIT_S):
                    told_s = time.monotonic()
                    stream.put("alive", "{}", page.next)
                at = page.next
                await stream.sent()

        await stream.run(read)

    @staticmethod
    def _checked(text: str) -> Offset:
        """Return the text as an offset, "" if it is empty. Raises RtError BAD_REQUEST."""
        if not re.match(OR_EMPTY, text):
            raise RtError("BAD_REQUEST", "This is not an offset of the feed", field="after")
        return Offset(text)


class BackendFeed(BackendPart):
    """The feed as a part: its route, and the work that its log needs."""

    name = "feed"
    settings = FeedSettings

    def routes(self, api: Admin) -> Iterable[Route]:
        parts = {"admin": api, "reader": self.context.feed_reader, "streams": Streams(), "reads": FeedReads()}
        return [(r"/api/v1/feed", FeedHandler, parts)]

    async def close(self) -> None:
        """Let waiting readers go."""
        await self.context.feed_reader.close()

    @every(1_000)
    async def forget_older(self) -> None:
        self.context.feed.forget_older()

    @every(60_000, on="leader")
    async def trim(self) -> None:
        await self.context.feed.trim()

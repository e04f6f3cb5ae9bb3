"""Read the feed in any Python program: what happened in the helpdesk, in order, at least once.

    from insightdesk_rt.feed import Feed

    feed = Feed("http://localhost:3002", key, types=["chat.*", "ticket.*"], after=saved_offset)
    for event in feed:        # or: async for event in feed
        handle(event)         # event.id, event.type, event.at, event.data
        save(feed.offset)     # pass it as `after` when the program starts again

The loop never ends by itself. While the server is unreachable it tries again, and goes on where it was, on any node
behind the URL. After a crash the last events may come again, with the same ids: handle an id once.

If events are missing after the offset, because the server has removed or lost them, the loop raises FeedIncomplete.
Read what you need again by other means, and then iterate again: it goes on with the events that are left.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import random
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

log = logging.getLogger(__name__)

WAIT_S = 25  # of one request; proxies wait a minute
ANSWER_S = 10.0  # longer than that
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 10.0


class FeedEvent(Struct, frozen=True):
    """One entry of the feed. `at` is an ISO 8601 time; the fields of `data` depend on `type` (see docs/backend.md)."""

    id: str
    type: str
    at: str
    data: dict[str, Any]


class FeedRefused(Exception):
    """The server refuses the request for good. `code` is one of its error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class FeedIncomplete(Exception):
    """Events after the offset `after` are missing. The next iteration begins with what is left."""

    def __init__(self, after: str) -> None:
        super().__init__(f"events after the offset {after} are missing")
        self.after = after


class _Page(Struct):
    events: list[FeedEvent]
    next: str
    complete: bool


class _Error(Struct):
    code: str = "INTERNAL"
    message: str = ""


class _Refusal(Struct):
    error: _Error


class _Answer(NamedTuple):
    """`status` 0: there was none, and `body` says why."""

    status: int
    body: bytes


_read_page = msgspec.json.Decoder(_Page)
_read_refusal = msgspec.json.Decoder(_Refusal)


class Feed:
    """Iterate over it, with `for` or `async for`, in one place at a time.

    `url` is the admin port's, `key` a key or an admin's token. `types` are patterns such as "chat.*"; none means all.
    `after` is where to begin: an offset that was saved, "0-0" for the oldest event that is kept, or "" for new events
    only. Both kinds of iteration raise FeedRefused and FeedIncomplete.
    """

    def __init__(self, url: str, key: str, *, types: Sequence[str] = (), after: str = "", limit: int = 100) -> None:
        self.offset = after  # up to which all events were handed out, the one that is being handled included
        self._url = url.rstrip("/") + "/api/v1/feed"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._query = {"types": ",".join(types), "limit": str(limit)}
        self._failures = 0
        self._left: _Page | None = None  # what the next iteration begins with, after FeedIncomplete

    def __iter__(self) -> Iterator[FeedEvent]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        yield from self._left_over()
        while True:
            page = self._page(_ask(opener, self._request(), self._headers))
            if page is None:
                time.sleep(self._pause_s())
                continue
            yield from self._handed_out(page)

    async def __aiter__(self) -> AsyncIterator[FeedEvent]:
        from tornado.httpclient import AsyncHTTPClient  # a program that only reads with `for` does not need it

        client = AsyncHTTPClient(force_instance=True)
        try:
            for event in self._left_over():
                yield event
            while True:
                page = self._page(await _ask_async(client, self._request(), self._headers))
                if page is None:
                    await asyncio.sleep(self._pause_s())
                    continue
                for event in self._handed_out(page):
                    yield event
        finally:
            client.close()

    def _request(self) -> str:
        # Without an offset the first answer says where "now" is. It must not wait: if it were lost, so would be the
        # events until then.
        query = {**self._query, "after": self.offset, "wait": str(WAIT_S if self.offset else 0)}
        return f"{self._url}?{urlencode({name: value for name, value in query.items() if value})}"

    def _page(self, answer: _Answer) -> _Page | None:
        """Return the page of an answer, None to try again later. Raises FeedRefused."""
        try:
            if answer.status == 200:
                page = _read_page.decode(answer.body)
                if self._failures:
                    log.info("the feed is back")
                self._failures = 0
                return page
            why = _read_refusal.decode(answer.body).error
        except msgspec.DecodeError:  # a proxy's page, which may come with the status 200, too
            why = _Error(message=answer.body[:200].decode("utf-8", "replace"))
        if 400 <= answer.status < 500 and answer.status != 429:
            raise FeedRefused(why.code, why.message)
        if not self._failures:
            log.warning("the feed does not answer; trying again: %s %s", why.code, why.message)
        self._failures += 1
        return None

    def _left_over(self) -> Iterator[FeedEvent]:
        page, self._left = self._left, None
        if page is not None:
            yield from self._handed_out(page)

    def _handed_out(self, page: _Page) -> Iterator[FeedEvent]:
        if not page.complete:
            self._left = msgspec.structs.replace(page, complete=True)
            raise FeedIncomplete(self.offset)
        yield from page.events[:-1]
        self.offset = page.next  # now, so that a caller who saves it after handling the last event is not a page behind
        yield from page.events[-1:]

    def _pause_s(self) -> float:
        longest_s: float = min(FIRST_PAUSE_S * 2 ** min(self._failures, 10), LAST_PAUSE_S)
        return longest_s * random.uniform(0.5, 1.0)


def _ask(opener: urllib.request.OpenerDirector, url: str, headers: dict[str, str]) -> _Answer:
    try:
        try:
            answer = opener.open(urllib.request.Request(url, headers=headers), timeout=WAIT_S + ANSWER_S)
        except urllib.error.HTTPError as refused:
            answer = refused  # it is an answer, too
        with answer:
            return _Answer(answer.status, answer.read())
    except (OSError, http.client.HTTPException) as why:
        return _Answer(0, str(why).encode())


async def _ask_async(client: Any, url: str, headers: dict[str, str]) -> _Answer:
    from tornado.httpclient import HTTPError

    try:
        answer = await client.fetch(url, headers=headers, request_timeout=WAIT_S + ANSWER_S, raise_error=False)
    except (OSError, HTTPError) as why:  # HTTPError: the time is over, or the connection was closed
        return _Answer(0, str(why).encode())
    return _Answer(answer.code, answer.body or b"")

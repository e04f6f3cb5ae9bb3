"""The delivery of one webhook: it reads the feed from the webhook's cursor, and posts one entry after the other.

An entry that is not accepted is tried again, later each time, and the entries behind it wait: a receiver gets them in
their order. After a day without success the webhook is parked until an admin resumes it. The cursor is stored after
each entry. If the node dies between an answer and that, the next one posts the entry again, with the same webhook-id.

    read → post → accepted → store the cursor → …
                → refused  → store when to try again → wait → post the same
                → refused for a day, or 410 → parked
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial

import msgspec

from insightdesk_rt.backend.feed.log import FeedItem, feed_id, feed_text
from insightdesk_rt.backend.feed.reader import FeedReader
from insightdesk_rt.backend.feed.types import FeedIncompleteReport, types_of
from insightdesk_rt.backend.webhooks.sender import Attempt, WebhookSender
from insightdesk_rt.backend.webhooks.store import NO_TROUBLE, Webhook, WebhookStore
from insightdesk_rt.engine.dispatch.namespace import FeedEntry
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import offset_key
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

PAGE = 100
WAIT_S = 20.0
# A restart of the receiver takes seconds, a deployment minutes, an outage hours. After the last one every hour.
BACKOFF_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
GIVE_UP_S = 86_400.0
GONE = 410  # the receiver says that it does not want messages any more
STORE_AGAIN_S = 0.5


class DeliveryEnds(Exception):
    """The webhook has changed, is parked or gone, or another node delivers it."""


class WebhookDelivery:
    """Delivers one webhook as it is now. `run` ends when it changes."""

    def __init__(
        self,
        webhook: Webhook,
        store: WebhookStore,
        reader: FeedReader,
        sender: WebhookSender,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self.webhook = webhook
        self._store = store
        self._reader = reader
        self._sender = sender
        self._now_ms = now_ms
        self.pending_at_ms = 0  # when the entry happened that is being delivered; 0: all are delivered

    @property
    def lag_s(self) -> float:
        """Return how long ago the entry happened that is being delivered."""
        return max(self._now_ms() - self.pending_at_ms, 0) / 1000 if self.pending_at_ms else 0.0

    async def run(self) -> None:
        types = types_of(self.webhook.types)
        try:
            while True:
                try:
                    page = await self._reader.page(self.webhook.cursor, types, PAGE, WAIT_S)
                except RtError:  # Valkey is unreachable, which its connection logs
                    await asyncio.sleep(STORE_AGAIN_S)
                    continue
                if not page.complete:
                    await self._deliver(
                        self._incomplete(page.items[0].offset if page.items else page.next), "incomplete"
                    )
                for item in page.items:
                    await self._deliver(item)
                if page.next != self.webhook.cursor:
                    await self._progress(cursor=page.next)
        except DeliveryEnds:
            pass

    def _incomplete(self, next: str) -> FeedItem:
        """Return the message that entries are missing before an offset. Its cursor is where the webhook was."""
        cursor = self.webhook.cursor
        entry = FeedEntry(f"incomplete.{self.webhook.id}.{cursor}", self._now_ms(), FeedIncompleteReport(cursor, next))
        return FeedItem(cursor, entry.data.type, feed_text(feed_id(entry.id), entry))

    async def _deliver(self, item: FeedItem, count: str = "") -> None:
        """Post an entry until it is accepted. Raises DeliveryEnds."""
        body = item.text.encode()
        id = json.loads(item.text)["id"]
        self.pending_at_ms = offset_key(item.offset)[0]
        while True:
            await asyncio.sleep(max(self.webhook.next_try_ms - self._now_ms(), 0) / 1000)
            secrets = self.webhook.signing(self._now_ms() / 1000)
            attempt = await self._sender.send(self.webhook.url, secrets, id, body)
            if attempt.accepted:
                break
            await self._refused(attempt)
        counts = ("delivered", count) if count else ("delivered",)
        about = {"last_status": attempt.status, "last_error": "", "delivered_at_ms": self._now_ms()}
        await self._progress(*counts, cursor=item.offset, **about, **NO_TROUBLE)
        self.pending_at_ms = 0

    async def _refused(self, attempt: Attempt) -> None:
        """Store when to try again, or park the webhook. Raises DeliveryEnds."""
        hook, now_ms = self.webhook, self._now_ms()
        since_ms = hook.failing_since_ms or now_ms
        wait_s = max(backoff_s(hook.failures), min(attempt.retry_after_s, BACKOFF_S[-1]))
        parks = attempt.status == GONE or now_ms + wait_s * 1000 - since_ms > GIVE_UP_S * 1000
        about = {"id": hook.id, "failures": hook.failures + 1, "why": attempt.error}
        if parks:
            log.error("a webhook is parked until an admin resumes it", extra=about)
        elif not hook.failures:
            log.warning("a webhook fails; trying again", extra=about)
        await self._progress(
            "failed",
            state="parked" if parks else "active",
            pending_at_ms=self.pending_at_ms,
            failures=hook.failures + 1,
            failing_since_ms=since_ms,
            next_try_ms=0 if parks else now_ms + int(wait_s * 1000),
            last_status=attempt.status,
            last_error=attempt.error,
        )
        if parks:
            raise DeliveryEnds

    async def _progress(self, *counts: str, **fields: object) -> None:
        """Store how far it came. Raises DeliveryEnds if the webhook has changed meanwhile."""
        store = partial(self._store.progress, self.webhook, *counts, **fields)
        while True:
            try:
                if not await store():
                    raise DeliveryEnds
                break
            except RtError:  # go on only when it is stored, or a restart would deliver much twice
                await asyncio.sleep(STORE_AGAIN_S)
        self.webhook = msgspec.structs.replace(self.webhook, **fields)


def backoff_s(failures: int) -> float:
    """Return how long to wait after an attempt when so many before it have failed, up to a tenth more or less."""
    return BACKOFF_S[min(failures, len(BACKOFF_S) - 1)] * random.uniform(0.9, 1.1)

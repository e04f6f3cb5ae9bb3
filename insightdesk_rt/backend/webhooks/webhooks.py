"""Webhooks as a part of the server: the leader delivers each of them in a task of its own; every node answers for them.

A second after another node leads, it has begun to deliver, from the cursors in Valkey. A slow or hanging receiver
delays its own webhook only. Changes of admins are noticed within a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import NamedTuple

from insightdesk_rt.api.handler import Admin
from insightdesk_rt.backend.part import BackendContext, BackendPart
from insightdesk_rt.backend.webhooks.delivery import WebhookDelivery
from insightdesk_rt.backend.webhooks.routes import webhook_routes
from insightdesk_rt.backend.webhooks.sender import WebhookSender
from insightdesk_rt.backend.webhooks.settings import WebhookSettings
from insightdesk_rt.backend.webhooks.store import Webhook, WebhookStore
from insightdesk_rt.engine.dispatch.namespace import Route, every
from insightdesk_rt.engine.tasks import OwnedTasks

log = logging.getLogger(__name__)


class WebhookNumbers(NamedTuple):
    """The numbers of one webhook, as the leader knows them."""

    id: str
    lag_s: float
    failures: int
    delivered: int
    failed: int
    parked: bool


class _Running(NamedTuple):
    delivery: WebhookDelivery
    task: asyncio.Task[None]


class Webhooks(BackendPart):
    name = "webhooks"
    settings = WebhookSettings

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._settings = context.settings.of(WebhookSettings)
        self._store = WebhookStore(context.valkey)
        self._tasks = OwnedTasks(log)
        self._running: dict[str, _Running] = {}
        self._known: list[Webhook] = []  # of the last look, on the leader
        self._sender: WebhookSender | None = None

    @property
    def sender(self) -> WebhookSender:
        """The HTTP client, made when it is needed first."""
        if self._sender is None:
            self._sender = WebhookSender(self._settings)
        return self._sender

    def routes(self, api: Admin) -> Iterable[Route]:
        return webhook_routes(api, self._store, self.context.feed_reader, self._settings, lambda: self.sender)

    @every(1_000)
    async def look(self) -> None:
        """Deliver what is to be delivered, if this node leads; otherwise nothing. Raises RtError UNAVAILABLE."""
        if not self.context.leads():
            self._known = []
            self._end(set(self._running))
            return
        self._known = await self._store.all()
        wanted = {one.id: one for one in self._known if one.state == "active"}
        for id, running in list(self._running.items()):
            now = wanted.get(id)
            if now is None or now.change != running.delivery.webhook.change or running.task.done():
                self._end({id})
        for id in wanted.keys() - self._running.keys():
            if self.context.leads():  # still
                delivery = WebhookDelivery(wanted[id], self._store, self.context.feed_reader, self.sender)
                self._running[id] = _Running(delivery, self._tasks.spawn(delivery.run(), f"the webhook {id}"))

    def numbers(self) -> list[WebhookNumbers]:
        """Return the numbers of all webhooks on the leader; nothing on other nodes."""
        return [self._numbers_of(one) for one in self._known]

    async def close(self) -> None:
        await self._tasks.close()
        if self._sender is not None:
            self._sender.close()

    def _numbers_of(self, known: Webhook) -> WebhookNumbers:
        running = self._running.get(known.id)
        lag_s = running.delivery.lag_s if running else parked_lag_s(known, self.context.now_ms())
        return WebhookNumbers(known.id, lag_s, known.failures, known.delivered, known.failed, known.state == "parked")

    def _end(self, ids: set[str]) -> None:
        for id in ids:
            self._running.pop(id).task.cancel()


def parked_lag_s(webhook: Webhook, now_ms: int) -> float:
    """Return how long ago the entry happened at which a webhook was parked; 0 if it is not."""
    return max(now_ms - webhook.pending_at_ms, 0) / 1000 if webhook.state == "parked" else 0.0

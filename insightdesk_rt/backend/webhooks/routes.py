"""Webhooks over HTTP.

GET    /api/v1/webhooks                all webhooks, with how far each has come
POST   /api/v1/webhooks                make one; the answer has its secret, once
GET    /api/v1/webhooks/{id}           one webhook
DELETE /api/v1/webhooks/{id}           end it
POST   /api/v1/webhooks/{id}/pause     stop delivering
POST   /api/v1/webhooks/{id}/resume    go on where it stopped, also after it was parked
POST   /api/v1/webhooks/{id}/replay    deliver again what came after an offset
POST   /api/v1/webhooks/{id}/test      post one message now, and answer what the receiver said
POST   /api/v1/webhooks/{id}/secret    replace the secret; the old one signs too for a day

Only the answers that make a secret show it. A webhook's URL may itself be a secret: callers without the scope `admin`
see only its host.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, Change, Query, Removal
from insightdesk_rt.api.paging import Page
from insightdesk_rt.backend.feed.log import feed_id, feed_text
from insightdesk_rt.backend.feed.reader import FeedReader
from insightdesk_rt.backend.feed.routes import TypePattern
from insightdesk_rt.backend.feed.types import MAX_PATTERNS, WebhookEntry, WebhookPingReport, types_of
from insightdesk_rt.backend.signing import new_secret, secret_key
from insightdesk_rt.backend.webhooks.addresses import MAX_URL, CheckedResolver, check_url
from insightdesk_rt.backend.webhooks.sender import WebhookSender
from insightdesk_rt.backend.webhooks.settings import WebhookSettings
from insightdesk_rt.backend.webhooks.store import NO_TROUBLE, Webhook, WebhookSecret, WebhookState, WebhookStore
from insightdesk_rt.engine.dispatch.namespace import FeedEntry
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import WebhookId
from insightdesk_rt.engine.model import Offset, iso
from insightdesk_rt.engine.wire.texts import OffsetText

Types = Annotated[list[TypePattern], Meta(max_length=MAX_PATTERNS, description="which types of the feed; default: all")]


class NewWebhook(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL, description="https:// address of the receiver")]
    types: Types = []
    secret: Annotated[str, Meta(max_length=200, description="default: a new random one")] = ""
    after: Annotated[OffsetText | None, Meta(description="offset of the feed; default: only new entries")] = None


class ReplayWebhook(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: Annotated[OffsetText, Meta(description="offset of the feed; `0-0`: from the oldest entry")]


class ReplaceSecret(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    secret: Annotated[str, Meta(max_length=200, description="default: a new random one")] = ""


class WebhookView(Struct, omit_defaults=True, kw_only=True):
    """`cursor`: offset of the last entry that was delivered or passed over.

    `pendingSince`: when the entry happened that is not accepted; `failures`: attempts for it, since `failingSince`.
    `delivered`, `failed`: messages that were accepted, and attempts that were not, since it was made. `incomplete`:
    how often entries had left the feed before they could be delivered.
    """

    id: str
    url: str
    types: list[str]
    state: WebhookState
    reason: str
    by: str
    createdAt: str
    cursor: str
    delivered: int
    failed: int
    incomplete: int = 0
    pendingSince: str | None = None
    failures: int = 0
    failingSince: str | None = None
    nextTry: str | None = None
    lastStatus: int = 0
    lastError: str = ""
    deliveredAt: str | None = None


class MadeWebhook(Struct):
    """The secret is shown here and nowhere else."""

    id: str
    secret: str
    webhook: WebhookView


class MadeSecret(Struct):
    """The new secret is shown here and nowhere else. The old one signs beside it until `oldUntil`."""

    secret: str
    oldUntil: str


class TestedWebhook(Struct):
    """`status` is 0 if there was no answer. `error` is null if the message was accepted."""

    accepted: bool
    status: int
    milliseconds: int
    error: str | None


class WebhookHandler(Handler):
    """The base of all: `sender()` returns this node's HTTP client."""

    store: WebhookStore
    reader: FeedReader
    rules: WebhookSettings
    sender: Callable[[], WebhookSender]

    async def found(self, id: str) -> Webhook:
        """Return a webhook. Raises RtError NOT_FOUND."""
        webhook = await self.store.get(id)
        if webhook is None:
            raise RtError("NOT_FOUND", "There is no such webhook.")
        return webhook

    def shown(self, webhook: Webhook) -> WebhookView:
        return view_webhook(webhook, whole_url=self.asker.may("admin"))


class WebhooksHandler(WebhookHandler):
    posts = {"entry": WebhookEntry}

    @operation("viewer", query=Query, answer=Page[WebhookView])
    async def get(self, query: Query) -> Answer:
        """All webhooks, the oldest first, with how far each has come."""
        return Answer(Page([self.shown(one) for one in await self.store.all()]))

    @operation(
        "admin",
        body=NewWebhook,
        answer=MadeWebhook,
        statuses=(201,),
        errors=("CONFLICT",),
        action="webhook.create",
        target=lambda body: _origin(body.url),
    )
    async def post(self, body: NewWebhook) -> Answer:
        """Make a webhook: every entry of the feed with one of these types is posted to the URL from now on.

        The answer has the secret that signs the messages, once.
        """
        types_of(body.types)
        secret = _secret(body.secret)
        check_url(body.url, self.rules.webhook_allow_private)
        await self._check_address(body.url)
        cursor = Offset(body.after) if body.after is not None else await self.reader.top()
        webhook = Webhook(
            id="wh_" + secrets.token_hex(8),
            url=body.url,
            types=body.types,
            reason=body.reason,
            by=self.asker.id,
            created_at_ms=int(time.time() * 1000),
            secrets=[WebhookSecret(secret)],
            cursor=cursor,
        )
        await self.store.add(webhook)
        self.done_to = webhook.id
        return Answer(MadeWebhook(webhook.id, secret, self.shown(webhook)), 201)

    async def _check_address(self, url: str) -> None:
        """Raise RtError BAD_REQUEST if the URL leads to an address that a webhook may not call, or to none."""
        parts = urlsplit(url)
        resolver = CheckedResolver(allow_private=self.rules.webhook_allow_private)
        try:
            await resolver.resolve(parts.hostname or "", parts.port or 443)
        except (OSError, UnicodeError) as why:
            text = getattr(why, "strerror", None) or str(why)
            raise RtError("BAD_REQUEST", f"The URL cannot be called: {text}.", field="url") from None
        finally:
            resolver.close()


class OneWebhookHandler(WebhookHandler):
    @operation("viewer", answer=WebhookView, errors=("NOT_FOUND",))
    async def get(self, webhook_id: WebhookId) -> Answer:
        """One webhook."""
        return Answer(self.shown(await self.found(webhook_id)))

    @operation("operator", query=Removal, answer=WebhookView, action="webhook.delete", errors=("NOT_FOUND",))
    async def delete(self, webhook_id: WebhookId, query: Removal) -> Answer:
        """End a webhook. A message that is under way may still arrive."""
        webhook = await self.found(webhook_id)
        await self.store.remove(webhook_id)
        return Answer(self.shown(webhook))


class PauseWebhookHandler(WebhookHandler):
    @operation("operator", body=Change, answer=WebhookView, action="webhook.pause", errors=("NOT_FOUND",))
    async def post(self, webhook_id: WebhookId, body: Change) -> Answer:
        """Stop delivering, within a second. Idempotent."""
        await self.store.change(webhook_id, state="paused")
        return Answer(self.shown(await self.found(webhook_id)))


class ResumeWebhookHandler(WebhookHandler):
    @operation("operator", body=Change, answer=WebhookView, action="webhook.resume", errors=("NOT_FOUND",))
    async def post(self, webhook_id: WebhookId, body: Change) -> Answer:
        """Go on where it stopped, at once: after a pause, after it was parked, or while it waits to try again."""
        await self.store.change(webhook_id, state="active", **NO_TROUBLE)
        return Answer(self.shown(await self.found(webhook_id)))


class ReplayWebhookHandler(WebhookHandler):
    @operation("operator", body=ReplayWebhook, answer=WebhookView, action="webhook.replay", errors=("NOT_FOUND",))
    async def post(self, webhook_id: WebhookId, body: ReplayWebhook) -> Answer:
        """Deliver again what came after an offset, with the same ids, and then go on. It becomes active."""
        await self.store.change(webhook_id, state="active", cursor=body.after, **NO_TROUBLE)
        return Answer(self.shown(await self.found(webhook_id)))


class TestWebhookHandler(WebhookHandler):
    @operation("operator", body=Change, answer=TestedWebhook, action="webhook.test", errors=("NOT_FOUND",))
    async def post(self, webhook_id: WebhookId, body: Change) -> Answer:
        """Post one message of the type `webhook.ping` now, and answer what came of it."""
        webhook, now_ms = await self.found(webhook_id), int(time.time() * 1000)
        entry = FeedEntry(f"ping.{secrets.token_hex(8)}", now_ms, WebhookPingReport(webhook.id))
        id = feed_id(entry.id)
        signing = webhook.signing(now_ms / 1000)
        done = await self.sender().send(webhook.url, signing, id, feed_text(id, entry).encode())
        return Answer(TestedWebhook(done.accepted, done.status, round(done.seconds * 1000), done.error or None))


class WebhookSecretHandler(WebhookHandler):
    @operation("admin", body=ReplaceSecret, answer=MadeSecret, action="webhook.secret", errors=("NOT_FOUND",))
    async def post(self, webhook_id: WebhookId, body: ReplaceSecret) -> Answer:
        """Replace the secret. For a day messages are signed with both, so that the receiver can change over."""
        secret = _secret(body.secret)
        until_s = await self.store.replace_secret(await self.found(webhook_id), secret)
        return Answer(MadeSecret(secret, iso(until_s * 1000)))


def webhook_routes(
    admin: Admin,
    store: WebhookStore,
    reader: FeedReader,
    settings: WebhookSettings,
    sender: Callable[[], WebhookSender],
) -> list[Route]:
    """Return the routes of this file for a Tornado Application."""
    parts = {"admin": admin, "store": store, "reader": reader, "rules": settings, "sender": sender}
    one = r"/api/v1/webhooks/([^/]+)"
    return [
        (r"/api/v1/webhooks", WebhooksHandler, parts),
        (one, OneWebhookHandler, parts),
        (one + "/pause", PauseWebhookHandler, parts),
        (one + "/resume", ResumeWebhookHandler, parts),
        (one + "/replay", ReplayWebhookHandler, parts),
        (one + "/test", TestWebhookHandler, parts),
        (one + "/secret", WebhookSecretHandler, parts),
    ]


def view_webhook(webhook: Webhook, *, whole_url: bool) -> WebhookView:
    return WebhookView(
        id=webhook.id,
        url=webhook.url if whole_url else _origin(webhook.url) + "/…",
        types=webhook.types or ["*"],
        state=webhook.state,
        reason=webhook.reason,
        by=webhook.by,
        createdAt=iso(webhook.created_at_ms),
        cursor=webhook.cursor,
        delivered=webhook.delivered,
        failed=webhook.failed,
        incomplete=webhook.incomplete,
        pendingSince=_time(webhook.pending_at_ms),
        failures=webhook.failures,
        failingSince=_time(webhook.failing_since_ms),
        nextTry=_time(webhook.next_try_ms),
        lastStatus=webhook.last_status,
        lastError=webhook.last_error,
        deliveredAt=_time(webhook.delivered_at_ms),
    )


def _time(at_ms: int) -> str | None:
    return iso(at_ms) if at_ms else None


def _origin(url: str) -> str:
    """Return scheme, host and port of a URL, for the audit log and for those who may not see the rest."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return "?"


def _secret(given: str) -> str:
    """Return the given secret, or a new one. Raises RtError BAD_REQUEST."""
    if not given:
        return new_secret()
    try:
        secret_key(given)
    except ValueError as why:
        raise RtError("BAD_REQUEST", str(why), field="secret") from None
    return given

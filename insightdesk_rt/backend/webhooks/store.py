"""Webhooks in Valkey: where they post to, which types, with which secrets, and how far each has come in the feed.

One hash for each webhook, in the feed's partition, and a set of their ids. `change` counts what admins did to it. The
node that delivers names the change and the cursor that it knows with everything it writes. So a node that believed
too long that it leads writes nothing, and its delivery ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Literal

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.cluster.names import Key
from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Offset
from insightdesk_rt.engine.wire import json

PACKAGE = "insightdesk_rt.backend.webhooks"

ADD = load_script(PACKAGE, "webhook_add")
CHANGE = load_script(PACKAGE, "webhook_change")
REMOVE = load_script(PACKAGE, "webhook_remove")

MAX_WEBHOOKS = 32  # each costs a task and a label of the metrics; a back end has one or two
OLD_SECRET_S = 86_400  # for which an old secret still signs after it was replaced

WebhookState = Literal["active", "paused", "parked"]


class WebhookSecret(Struct, frozen=True):
    """`until_s`: Unix time at which it stops signing; 0: it is the present one."""

    text: str
    until_s: int = 0


class Webhook(Struct, frozen=True, kw_only=True):
    """Times are Unix milliseconds, 0 if it did not happen.

    `cursor` is the offset of the last entry that was delivered, or passed over. `pending_at_ms` is when the entry
    happened that could not be delivered yet; `failures` counts the attempts for it, since `failing_since_ms`.
    """

    id: str
    url: str
    types: list[str]  # patterns
    reason: str
    by: str
    created_at_ms: int
    secrets: list[WebhookSecret]
    change: int = 1
    state: WebhookState = "active"
    cursor: Offset = NO_OFFSET
    pending_at_ms: int = 0
    failures: int = 0
    failing_since_ms: int = 0
    next_try_ms: int = 0
    last_status: int = 0
    last_error: str = ""
    delivered_at_ms: int = 0
    delivered: int = 0
    failed: int = 0  # attempts
    incomplete: int = 0  # how often entries were gone before they could be delivered

    def signing(self, now_s: float) -> list[str]:
        """Return the secrets that sign a message now, the present one first."""
        return [one.text for one in self.secrets if not one.until_s or one.until_s > now_s]


# How a webhook is after its last trouble is over.
NO_TROUBLE = {"pending_at_ms": 0, "failures": 0, "failing_since_ms": 0, "next_try_ms": 0}

_read = msgspec.json.Decoder(Webhook)


class WebhookStore:
    """All methods raise RtError UNAVAILABLE."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._partition = valkey.names.feed
        self._ids = self._partition.key("webhooks")

    async def all(self) -> list[Webhook]:
        """Return all webhooks, the oldest first."""
        ids = await self._valkey.command("SMEMBERS", self._ids)
        found = await asyncio.gather(*(self.get(id) for id in ids))
        return sorted((one for one in found if one is not None), key=lambda one: (one.created_at_ms, one.id))

    async def get(self, id: str) -> Webhook | None:
        row = await self._valkey.command("HGETALL", self._key(id))
        fields = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
        if not fields:
            return None
        text = ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items())
        return json.decode(_read, "{" + text + "}")

    async def add(self, webhook: Webhook) -> None:
        """Store a new webhook. Raises RtError CONFLICT if there are MAX_WEBHOOKS."""
        fields: list[Arg] = [webhook.id, MAX_WEBHOOKS]
        for name in webhook.__struct_fields__:
            fields += (name, _text(getattr(webhook, name)))
        if not await self._valkey.call(ADD, [self._ids, self._key(webhook.id)], fields):
            raise RtError("CONFLICT", f"There are {MAX_WEBHOOKS} webhooks, their maximum.")

    async def change(self, id: str, **fields: object) -> None:
        """Change a webhook as an admin asks, which ends its delivery as it is now. Raises RtError NOT_FOUND."""
        if await self._change(id, "", "", True, (), fields) < 0:
            raise RtError("NOT_FOUND", "There is no such webhook.")

    async def progress(self, webhook: Webhook, *counts: str, **fields: object) -> bool:
        """Store how far a delivery has come. `counts` are increased by one.

        Returns False if the webhook has changed, or is gone: the delivery must end.
        """
        return await self._change(webhook.id, str(webhook.change), webhook.cursor, False, counts, fields) > 0

    async def replace_secret(self, webhook: Webhook, text: str) -> int:
        """Sign with a new secret. The present one goes on signing beside it for OLD_SECRET_S.

        Returns until when, in Unix seconds. Raises RtError NOT_FOUND.
        """
        until_s = int(time.time()) + OLD_SECRET_S
        old = [WebhookSecret(one.text, one.until_s or until_s) for one in webhook.secrets[:1]]
        await self.change(webhook.id, secrets=[WebhookSecret(text), *old])
        return until_s

    async def remove(self, id: str) -> None:
        """Raises RtError NOT_FOUND."""
        if not await self._valkey.call(REMOVE, [self._ids, self._key(id)], [id]):
            raise RtError("NOT_FOUND", "There is no such webhook.")

    async def _change(
        self, id: str, change: str, cursor: str, another: bool, counts: Collection[str], fields: dict[str, object]
    ) -> int:
        args: list[Arg] = [change, cursor and _text(cursor), int(another), ",".join(counts)]
        for name, value in fields.items():
            args += (name, _text(value))
        return int(await self._valkey.call(CHANGE, [self._key(id)], args))

    def _key(self, id: str) -> Key:
        return self._partition.key("webhook", id)


def _text(value: object) -> str:
    """Return a field as it is stored: as JSON."""
    return json.dumps(msgspec.to_builtins(value))

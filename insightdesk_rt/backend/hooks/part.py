"""The hooks as a part of the back end's wing: made from the settings, started, and shown to the rest of the server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Count, Query
from insightdesk_rt.api.whom import key_of
from insightdesk_rt.backend.hooks.access import AccessHook
from insightdesk_rt.backend.hooks.client import HookClient
from insightdesk_rt.backend.hooks.connect import ConnectHook
from insightdesk_rt.backend.hooks.rpc import RpcHook, parse_events
from insightdesk_rt.backend.hooks.settings import HookSettings, secret_fault
from insightdesk_rt.backend.part import BackendContext, BackendPart
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.dispatch.calls import OwnEvents
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.ids import TicketIdText, UserIdText
from insightdesk_rt.helpdesk.tickets.namespace import Tickets

VERB = "access.forget"


class Hooks(BackendPart):
    """The hooks that the settings name. Raises ValueError for a secret that cannot be read."""

    name = "hooks"
    settings = HookSettings

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._settings = settings = context.settings.of(HookSettings)
        self.keys = context.settings.user_keys
        self._tickets = context.features.of(Tickets)
        self.clients: list[HookClient] = []
        self.access: AccessHook | None = None
        if settings.access_url:
            self.access = AccessHook(self._client("access", settings.access_url.reveal(), settings.access_timeout_ms))
            self._tickets.asks(self.access)
        self.connect: ConnectHook | None = None
        if settings.connect_url:
            client = self._client("connect", settings.connect_url.reveal(), settings.connect_url_timeout_ms)
            self.connect = ConnectHook(client, self.keys.separate)
        self.own_events: OwnEvents = {}
        if settings.rpc_url:
            client = self._client("rpc", settings.rpc_url.reveal(), settings.rpc_timeout_ms, retries=False)
            self.own_events = RpcHook(client, parse_events(settings.rpc_events)).events
        context.calls.handle(VERB, self._forget_here)

    def _client(self, name: str, url: str, timeout_ms: int, *, retries: bool = True) -> HookClient:
        secret, at_once = _secret(self._settings), self._settings.hook_requests_at_once
        client = HookClient(name, url, secret, timeout_s=timeout_ms / 1000, at_once=at_once, retries=retries)
        self.clients.append(client)
        return client

    async def start(self) -> None:
        for client in self.clients:
            client.start()

    async def close(self) -> None:
        if self.access is not None:
            await self.access.close()
        for client in self.clients:
            await client.close()

    def routes(self, api: Admin) -> Iterable[Route]:
        return [(r"/api/v1/access-cache", AccessCacheHandler, {"admin": api, "hooks": self})]

    async def forget(self, user_key: str, ticket_id: str) -> Count:
        """Drop answers on all nodes and check access again. Returns how many sockets were taken out of tickets."""
        counts, missing = decode_replies(await self.context.calls.request(VERB, user_key, ticket_id), int)
        return Count(sum(counts.values()), missing)

    async def _forget_here(self, arguments: tuple[str, ...]) -> int:
        user_key, ticket_id = arguments
        return await self._tickets.recheck(user_key, ticket_id)


class ForgetAccess(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without a field everything is forgotten."""

    userId: Annotated[UserIdText | None, Meta(description="only answers about this user")] = None
    customerId: Annotated[UserIdText | None, Meta(description='the same of a customer, with user_ids = "separate"')] = (
        None
    )
    ticketId: Annotated[TicketIdText | None, Meta(description="only answers about this ticket")] = None


class AccessCacheHandler(Handler):
    hooks: Hooks

    @operation("operator", query=ForgetAccess, answer=Count)
    async def delete(self, query: ForgetAccess) -> Answer:
        """Forget answers of access_url on all nodes, and ask again about the tickets that are open.

        `count`: sockets that were taken out of a ticket. A node in `missing` did not do it: ask again.
        """
        user = key_of(self.hooks.keys, query.userId, query.customerId)
        return Answer(await self.hooks.forget(user, query.ticketId or ""))


def _secret(settings: HookSettings) -> str:
    """Return the secret that signs requests. Raises ValueError in one line."""
    if settings.hook_secret:
        return settings.hook_secret.reveal()
    try:
        secret = Path(settings.hook_secret_file).read_text("ascii").strip()
        reason = secret_fault(secret)
    except (OSError, ValueError) as why:
        reason = getattr(why, "strerror", None) or "it is not text"
    if reason:
        raise ValueError(f"hook_secret_file = {settings.hook_secret_file}: {reason}")
    return secret

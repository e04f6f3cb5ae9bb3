"""A host whose own facts changed asks this server to check access again: `POST /api/v1/access/recheck`.

A pushed change of a ticket does that by itself. It cannot cover what only the host's check knows: that somebody moved
to another team, or lost a right. All nodes have checked before the answer. A user who may not read a ticket any more
is out of it then, and was notified.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Count
from insightdesk_rt.api.whom import key_of
from insightdesk_rt.backend.part import BackendContext, BackendPart
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import TicketIdText, UserIdText
from insightdesk_rt.helpdesk.tickets.namespace import Tickets

VERB = "access.recheck"


class RecheckBody(Struct, forbid_unknown_fields=True):
    ticketId: Annotated[TicketIdText | None, Meta(description="check everybody who has this ticket open")] = None
    customerId: Annotated[UserIdText | None, Meta(description='the same of a customer, with user_ids = "separate"')] = (
        None
    )
    userId: Annotated[UserIdText | None, Meta(description="check all tickets that this user has open")] = None


class AccessRecheck(BackendPart):
    """Asks all nodes, and answers for this one."""

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self.keys = context.settings.user_keys
        self._tickets = context.features.of(Tickets)
        self._calls = context.calls
        self._calls.handle(VERB, self._here)

    def routes(self, api: Admin) -> Iterable[Route]:
        return [(r"/api/v1/access/recheck", RecheckHandler, {"admin": api, "rechecks": self})]

    async def ask(self, kind: str, id: str) -> Count:
        """Return how many sockets were taken out of a ticket, and the nodes that did not answer."""
        counts, missing = decode_replies(await self._calls.request(VERB, kind, id), int)
        return Count(sum(counts.values()), missing)

    async def _here(self, arguments: tuple[str, ...]) -> int:
        kind, id = arguments
        return await (self._tickets.recheck_access(id) if kind == "ticket" else self._tickets.recheck_user(id))


class RecheckHandler(Handler):
    rechecks: AccessRecheck

    @operation("operator", body=RecheckBody, answer=Count)
    async def post(self, body: RecheckBody) -> Answer:
        """Check again who may read a ticket, or all tickets that a user has open. Those who may not are taken out.

        `count`: sockets that were taken out of a ticket. A node in `missing` did not do it: ask again.
        """
        user = key_of(self.rechecks.keys, body.userId, body.customerId)
        if (body.ticketId is None) == (not user):
            raise RtError("BAD_REQUEST", "Give either ticketId or userId.", field="ticketId")
        if body.ticketId is not None:
            return Answer(await self.rechecks.ask("ticket", body.ticketId))
        return Answer(await self.rechecks.ask("user", user))

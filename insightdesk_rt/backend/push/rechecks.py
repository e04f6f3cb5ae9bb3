"""A host whose own facts have changed asks for access to be looked at again: `POST /api/v1/access/recheck`.

A change of a ticket that is pushed does that by itself. What it cannot know is what only the host's check looks at:
that somebody moved to another team, or lost a right. All nodes look again before the answer; who may not read a ticket
any more is out of it then, and told so.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Count
from insightdesk_rt.api.whom import key_of
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import understood
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import TicketIdText, UserIdText
from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.helpdesk.tickets.namespace import Tickets

VERB = "access.recheck"


class RecheckBody(Struct, forbid_unknown_fields=True):
    ticketId: Annotated[TicketIdText | None, Meta(description="look at everybody who has this ticket open")] = None
    customerId: Annotated[UserIdText | None, Meta(description='the same of a customer, with user_ids = "separate"')] = (
        None
    )
    userId: Annotated[UserIdText | None, Meta(description="look at all tickets that this user has open")] = None


class Rechecks:
    """Asks all nodes, and answers for this one."""

    def __init__(self, tickets: Tickets, calls: NodeCalls, keys: UserKeys) -> None:
        self.keys = keys
        self._tickets = tickets
        self._calls = calls
        calls.answer(VERB, self._here)

    async def ask(self, kind: str, id: str) -> Count:
        """Return how many sockets were taken out of a ticket, and the nodes that did not answer."""
        counts, missing = understood(await self._calls.ask(VERB, kind, id), int)
        return Count(sum(counts.values()), missing)

    async def _here(self, words: tuple[str, ...]) -> int:
        kind, id = words
        return await (self._tickets.recheck_access(id) if kind == "ticket" else self._tickets.recheck_user(id))


class RecheckHandler(Handler):
    rechecks: Rechecks

    @operation("operator", body=RecheckBody, answer=Count)
    async def post(self, body: RecheckBody) -> Answer:
        """Look again at who may read: a ticket, or whatever a user has open. Who may not any more is taken out.

        `count`: sockets that were taken out of a ticket. A node in `missing` has not done it: ask again.
        """
        user = key_of(self.rechecks.keys, body.userId, body.customerId)
        if (body.ticketId is None) == (not user):
            raise RtError("BAD_REQUEST", "Say either ticketId or userId.", field="ticketId")
        if body.ticketId is not None:
            return Answer(await self.rechecks.ask("ticket", body.ticketId))
        return Answer(await self.rechecks.ask("user", user))


def recheck_routes(
    admin: Admin, tickets: Tickets, calls: NodeCalls, keys: UserKeys = UserKeys()
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application, and answer for this node what they ask of all."""
    parts = {"admin": admin, "rechecks": Rechecks(tickets, calls, keys)}
    return [(r"/api/v1/access/recheck", RecheckHandler, parts)]

"""HTTP routes of presence.

GET  /api/v1/presence    agents and admins by status; or with `userIds=a,b` these users, whatever their role
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Query
from insightdesk_rt.api.paging import USUAL_LIMIT, Cursor, Limit, Page, cut, read_cursor
from insightdesk_rt.api.whom import customer_of, keys_of, user_of
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import Refused
from insightdesk_rt.engine.model import Role, Status, UserKeys, iso
from insightdesk_rt.helpdesk.presence.store import KnownPresence, PresenceList, PresenceStore

STATUSES: tuple[Status, ...] = ("online", "busy", "away", "offline")


class Present(Struct):
    """One user. `lastSeen`, name, role and team are null for an unknown user. Where ids are separate, a customer has
    `customerId`, and null as `userId`."""

    userId: str | None
    name: str | None
    role: Role | None
    teamId: str | None
    status: Status
    lastSeen: str | None
    customerId: str | UnsetType = UNSET


class FindPresent(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[Limit | None, Meta(description="items of a page, 100 by default; not with userIds")] = None
    cursor: Cursor = ""
    userIds: Annotated[
        list[str],
        Meta(
            max_length=500,
            description="these users, all on one page; repeat the parameter for ids that contain a comma",
        ),
    ] = []
    customerIds: Annotated[
        list[str], Meta(max_length=500, description='the same of customers, with user_ids = "separate"')
    ] = []
    status: Status | Literal[""] = ""


class FoundPresent(Page[Present]):
    """`refused`, `refusedCustomers`: ids of `userIds` and of `customerIds` that no user can have."""

    refused: list[Refused] = []
    refusedCustomers: list[Refused] = []


class PresenceHandler(Handler):
    presence: PresenceStore
    keys: UserKeys

    @operation("viewer", query=FindPresent, answer=FoundPresent)
    async def get(self, query: FindPresent) -> Answer:
        """Return the users who are asked for, or all agents and admins who were here within 30 days."""
        if query.userIds or query.customerIds:
            return await self._named(query)
        statuses = (query.status,) if query.status else STATUSES
        after, limit = read_cursor(query.cursor, PresenceList), query.limit or USUAL_LIMIT
        found = await self.presence.staff(statuses, limit + 1, after)
        shown, cursor = cut(found, limit, lambda one: (one.status, one.since_ms, one.key))
        known = await self.presence.known([one.key for one in shown]) if shown else []
        return Answer(FoundPresent([_present(one) for one in known], cursor))

    async def _named(self, query: FindPresent) -> Answer:
        for name, given in (("limit", query.limit), ("cursor", query.cursor)):
            if given:
                why = "It cannot be combined with userIds or customerIds, which are all on one page."
                raise RtError("BAD_REQUEST", why, field=name)
        asked, refused, refused_customers = keys_of(self.keys, query.userIds, query.customerIds)
        known = await self.presence.known(asked)
        items = [_present(one) for one in known if query.status in ("", one.seen.status)]
        return Answer(FoundPresent(items, refused=refused, refusedCustomers=refused_customers))


def presence_routes(admin: Admin, presence: PresenceStore, keys: UserKeys = UserKeys()) -> list[Route]:
    """Return the routes of this file for a Tornado Application."""
    return [(r"/api/v1/presence", PresenceHandler, {"admin": admin, "presence": presence, "keys": keys})]


def _present(known: KnownPresence) -> Present:
    seen = known.seen
    return Present(
        userId=user_of(seen.key),
        name=known.name or None,
        role=known.role,
        teamId=known.team_id or None,
        status=seen.status,
        lastSeen=iso(seen.last_seen_ms) if seen.last_seen_ms else None,
        customerId=customer_of(seen.key),
    )

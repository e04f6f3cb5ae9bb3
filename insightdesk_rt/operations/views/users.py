"""One user, from all nodes: connections, rooms, presence, blocks and revocations.

    GET    /api/v1/users/{userId}              everything about one user
    POST   /api/v1/users/{userId}/disconnect   disconnect all of a user's clients
    …      /api/v1/customers/{customerId}      the same for a customer, with user_ids = "separate"

Lists are limited; a count beside each says how many items there are in all.
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, BulkChange, Count
from insightdesk_rt.api.whom import customer
from insightdesk_rt.engine.ids import UserIdText
from insightdesk_rt.engine.model import Person, Role, UserKey, UserKeys, iso, named
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.operations.moderation.blocks import BlockView, view_block
from insightdesk_rt.operations.moderation.blocks_and_revocations import BlocksAndRevocations
from insightdesk_rt.operations.moderation.revocations import RevocationView, view_revocation
from insightdesk_rt.operations.views.clients import MAX_ROOMS_OF_USER, Closed, Connection, Wanted
from insightdesk_rt.operations.views.connections import Everywhere, Reconnect

SHOWN_OF_USER = 100


class DisconnectUser(BulkChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reconnect: Reconnect = False


class Shown(Struct):
    status: str
    lastSeen: str | None


class UserView(Struct):
    """`name`, `role` and `teamId` are of the newest connection there is or was; null: none is known.

    `connections` are the newest 100 of `connectionCount`, `closed` those of `closedCount`, `rooms` the first 1,000 of
    `roomCount`, by name. `sessionIds` are those of the connections shown, the newest first; they can be
    revoked. `blocks` are of the user, and of addresses they are or were shown at; `revocations` of the user and of
    `sessionIds`.
    """

    id: str
    name: str | None
    role: Role | None
    teamId: str | None
    presence: Shown
    connections: list[Connection]
    connectionCount: int
    closed: list[Closed]
    closedCount: int
    rooms: list[str]
    roomCount: int
    sessionIds: list[str]
    blocks: list[BlockView]
    revocations: list[RevocationView]
    missing: list[str]


class UserDisconnectHandler(Handler):
    everywhere: Everywhere
    keys: UserKeys

    @operation("operator", body=DisconnectUser, answer=Count, action="user.disconnect")
    async def post(self, user_id: UserIdText, body: DisconnectUser) -> Answer:
        """Disconnect all clients of a user."""
        wanted = Wanted(user=self.keys.staff(user_id))
        return Answer(await self.everywhere.send_away(wanted, body.reconnect, body.dryRun))


class CustomerDisconnectHandler(Handler):
    everywhere: Everywhere
    keys: UserKeys

    @operation("operator", body=DisconnectUser, answer=Count, action="customer.disconnect")
    async def post(self, customer_id: UserIdText, body: DisconnectUser) -> Answer:
        """Disconnect all clients of a customer, with separate ids."""
        wanted = Wanted(user=customer(self.keys, customer_id))
        return Answer(await self.everywhere.send_away(wanted, body.reconnect, body.dryRun))


class OneUserHandler(Handler):
    everywhere: Everywhere
    presence: PresenceStore
    access: BlocksAndRevocations
    keys: UserKeys

    async def view(self, user_id: UserKey) -> Answer:
        (rows, count, missing), (closed, missing_too), (details, missing_as_well) = await asyncio.gather(
            self.everywhere.find(Wanted(user=user_id), SHOWN_OF_USER),
            self.everywhere.closed(Wanted(user=user_id), SHOWN_OF_USER),
            self.everywhere.of_user(user_id),
        )  # at the same time, because each may wait for a node that hangs
        (seen,) = await self.presence.statuses([user_id])
        shown = [row.shown for row in rows]
        known: list[Connection | Closed] = [*shown, *closed]
        newest = known[0] if known else None
        person: Person | None = newest.user if newest is not None else None
        session_ids = list(dict.fromkeys(one.sessionId for one in known if one.sessionId))
        rooms = sorted({room for one in details for room in one.rooms})
        return Answer(
            UserView(
                named(user_id).id,
                person.name if person is not None else None,
                newest.role if newest is not None else None,
                newest.teamId if newest is not None else None,
                Shown(seen.status, iso(seen.last_seen_ms) if seen.last_seen_ms else None),
                shown,
                count,
                closed,
                sum(one.closedCount for one in details),
                rooms[:MAX_ROOMS_OF_USER],
                max([len(rooms), *(one.roomCount for one in details)]),
                session_ids,
                [*map(view_block, self.access.blocks.of(user_id, {one.ip for one in known}))],
                [*map(view_revocation, self.access.revocations.of(user_id, session_ids))],
                sorted({*missing, *missing_too, *missing_as_well}),
            )
        )


class UserHandler(OneUserHandler):
    @operation("viewer", answer=UserView)
    async def get(self, user_id: UserIdText) -> Answer:
        """Everything about a user: connections, closed connections, rooms, presence, blocks and revocations."""
        return await self.view(self.keys.staff(user_id))


class CustomerHandler(OneUserHandler):
    @operation("viewer", answer=UserView)
    async def get(self, customer_id: UserIdText) -> Answer:
        """Everything about a customer, with separate ids."""
        return await self.view(customer(self.keys, customer_id))


def user_routes(
    admin: Admin,
    everywhere: Everywhere,
    presence: PresenceStore,
    access: BlocksAndRevocations,
    keys: UserKeys = UserKeys(),
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file."""
    parts = {"admin": admin, "everywhere": everywhere, "keys": keys}
    more = {**parts, "presence": presence, "access": access}
    return [
        (r"/api/v1/users/([^/]+)", UserHandler, more),
        (r"/api/v1/users/([^/]+)/disconnect", UserDisconnectHandler, parts),
        (r"/api/v1/customers/([^/]+)", CustomerHandler, more),
        (r"/api/v1/customers/([^/]+)/disconnect", CustomerDisconnectHandler, parts),
    ]

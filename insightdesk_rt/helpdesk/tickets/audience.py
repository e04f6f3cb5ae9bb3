"""The staff who get the events of a ticket without having it open: exactly those who may read it.

With our own rules these are rooms: admins, the ticket's team, all agents. The host's own check knows no rooms: it is
asked about each connected member of the staff (readers.py), once per user and change.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Collection, Iterable
from typing import Protocol

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Room, User, role_room, team_room, user_room
from insightdesk_rt.helpdesk.tickets.access import HOST_DEADLINE_S, MayRead
from insightdesk_rt.helpdesk.tickets.readers import ReaderStore
from insightdesk_rt.helpdesk.tickets.store import Fields

AT_ONCE = 50  # checks at the same time: a host that asks its database has a pool of about that many connections
# Of one event: it carries the names of its rooms, and a message between nodes has 64 KB for them.
ROOMS_BYTES = 32_768


class Audience(Protocol):
    async def staff(self, ticket_id: str, ticket: Fields) -> list[Room]:
        """Return rooms whose members may all read the ticket. The caller leaves out customers in them."""
        ...

    async def people(self, ticket_id: str, user_ids: Iterable[str]) -> list[Room]:
        """Return the rooms of the users who may get the event of an assignment."""
        ...


class ByRooms:
    """Our own rules. An assignment, which has ids and no texts, goes to both people whatever their team."""

    def __init__(self, agents_see_all: bool) -> None:
        self._agents_see_all = agents_see_all

    async def staff(self, ticket_id: str, ticket: Fields) -> list[Room]:
        rooms = [role_room("admin")]
        if ticket.teamId:
            rooms.append(team_room(ticket.teamId))
        if self._agents_see_all or not ticket.teamId:
            rooms.append(role_room("agent"))
        return rooms

    async def people(self, ticket_id: str, user_ids: Iterable[str]) -> list[Room]:
        return [user_room(user_id) for user_id in user_ids]  # an assignee is staff, whose key is the id


class ByCheck:
    """The host's check. Both methods raise RtError UNAVAILABLE if connected users or their access are unknown."""

    def __init__(self, access: MayRead, readers: ReaderStore) -> None:
        self._access = access
        self._readers = readers

    async def staff(self, ticket_id: str, ticket: Fields) -> list[Room]:
        return await self._of(ticket_id, await self._readers.all())

    async def people(self, ticket_id: str, user_ids: Iterable[str]) -> list[Room]:
        wanted = set(user_ids)
        return await self._of(ticket_id, [user for user in await self._readers.all() if user.id in wanted])

    async def _of(self, ticket_id: str, users: Collection[User]) -> list[Room]:
        """A user with several tokens gets an event only if each of them may read it, because they share a room."""
        turn = asyncio.Semaphore(AT_ONCE)

        async def may_read(user: User) -> bool:
            async with turn:
                return await may(self._access, user, ticket_id)

        asked = {asyncio.ensure_future(may_read(user)): user for user in users}
        if not asked:
            return []
        try:
            done, late = await asyncio.wait(asked, timeout=HOST_DEADLINE_S)
            refused = {asked[task].key for task in done if not task.result()} | {asked[task].key for task in late}
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return [user_room(key) for key in sorted({user.key for user in users} - refused)]


async def may(access: MayRead, user: User, ticket_id: str) -> bool:
    """Return the result of the check; one that fails denies. Raises RtError UNAVAILABLE: Valkey is unreachable."""
    try:
        return await access.may_read(user, ticket_id)
    except RtError as refused:
        if refused.kind.retry and refused.code != "INTERNAL":
            raise
        return False


def in_buckets(rooms: Collection[Room]) -> list[list[Room]]:
    """Split the rooms into groups, one per event. A room is in the same group when the event is published again."""
    size = sum(len(room.encode()) + 3 for room in rooms)
    count = -(-size // ROOMS_BYTES) or 1
    if count > 1:
        count *= 2  # the hash does not fill them evenly
    buckets: list[list[Room]] = [[] for _ in range(count)]
    for room in rooms:
        buckets[zlib.crc32(room.encode()) % count].append(room)
    return buckets

"""The rooms of all nodes: a list, the members of a room, and its last events.

    GET /api/v1/rooms            by members or name
    GET /api/v1/rooms/{room}     members, and the last entries of the log

A room exists on each node that has members of it. Each node reports its first rooms in the requested order, and the
members of rooms of the same name are added up. By name this is exact: a room among the first of all is among the first
of every node that has it. By members it is not, because a room may be small on many nodes. So each node reports its
MAX_REPORTED largest (or smallest) rooms for every page, and whether there are more. For one room each node reports the
number of members and the first of them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Query
from insightdesk_rt.api.paging import Page, Paged, cut, read_cursor
from insightdesk_rt.engine.cluster.logs import Logs
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.ids import RoomName
from insightdesk_rt.engine.model import Event, Person, Role, Room, iso, offset_key
from insightdesk_rt.engine.wire import json

MAX_REPORTED = 5_000  # rooms of a node
MAX_MEMBERS = 500  # that are shown of one room
MAX_ENTRIES = 20
TURN = 5_000  # rooms to look at before yielding the loop
MEMBERS_TURN = 500  # members to sort before yielding the loop: 0.3 ms

RoomSort = Literal["-members", "members", "name", "-name"]
Prefix = Annotated[str, Meta(max_length=200)]


class RoomRow(Struct):
    """`nodes`: the number of nodes that have members."""

    namespace: str
    room: str
    members: int
    nodes: int


class FindRooms(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prefix: Annotated[Prefix, Meta(description="beginning of the name, for example ticket:")] = ""
    namespace: Prefix = ""
    sort: RoomSort = "-members"


class FoundRooms(Page[RoomRow]):
    """`cut`: sorted by members, a node has more rooms than the 5,000 largest (or smallest) that it reports.

    `members` may then be too low, and the last page is not the end. Sorted by name, pages hold all rooms.
    """

    cut: bool = False


class InRoom(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    namespace: Prefix = ""


class Member(Struct):
    namespace: str
    sid: str
    user: Person
    role: Role
    node: str


class MemberEntry(Struct):
    """One event of the log, without its payload."""

    namespace: str
    offset: str
    at: str
    event: str
    rooms: list[str]
    bytes: int


class RoomView(Struct):
    """`members` are the first 500 of `memberCount`; `entries` the last 20 of the last hour, the newest first."""

    room: str
    memberCount: int
    members: list[Member]
    entries: list[MemberEntry]
    missing: list[str]


class AskRooms(Struct, frozen=True, omit_defaults=True):
    """Asks a node for rooms; by name for `limit` of them `after` a room and namespace."""

    prefix: str
    namespace: str
    sort: RoomSort = "-members"
    limit: int = MAX_REPORTED
    after: tuple[str, str] | None = None


class MembersHere(Struct):
    """`members` are the first of `count`, in order."""

    count: int
    members: list[Member]


class RoomsOfNode(Struct):
    rooms: list[tuple[str, str, int]]  # namespace, room, members here
    cut: bool


_ask = msgspec.json.Decoder(AskRooms)


class RoomsHere:
    """The rooms of one node. Its methods take the arguments of a node call (engine/cluster/node_calls.py)."""

    def __init__(self, node_id: str, hub: Hub) -> None:
        self._node_id = node_id
        self._hub = hub

    async def find(self, arguments: tuple[str, ...]) -> RoomsOfNode:
        """Return the first matching rooms in the requested order."""
        ask = json.decode(_ask, arguments[0])
        by_name, descending = ask.sort.endswith("name"), ask.sort.startswith("-")
        found: list[tuple[str, str, int]] = []
        for namespace in self._hub.namespaces:
            if ask.namespace not in ("", namespace):
                continue
            rooms = self._hub.rooms(namespace)
            for at, room in enumerate(list(rooms.names()), 1):
                if room.startswith(ask.prefix) and (members := rooms.count(room)):
                    place = str(room), namespace
                    if not by_name or ask.after is None or (place < ask.after if descending else place > ask.after):
                        found.append((namespace, str(room), members))
                if at % TURN == 0:
                    await asyncio.sleep(0)
        pick = heapq.nlargest if descending else heapq.nsmallest
        if by_name:
            return RoomsOfNode(pick(ask.limit, found, key=lambda one: (one[1], one[0])), False)
        return RoomsOfNode(pick(MAX_REPORTED, found, key=lambda one: one[2]), len(found) > MAX_REPORTED)

    async def members(self, arguments: tuple[str, ...]) -> MembersHere:
        """Return the number of members of a room, and the first MAX_MEMBERS, without their rooms.

        Arguments: room, namespace or "". 100,000 members with their rooms were 29 MB, and blocked the nodes for
        seconds.
        """
        room, only = arguments
        count, first = 0, list[Socket]()
        for namespace in self._hub.namespaces:
            if only not in ("", namespace):
                continue
            found = list(self._hub.members(namespace, Room(room)))
            count += len(found)
            for at in range(0, len(found), MEMBERS_TURN):
                first = sorted([*first, *found[at : at + MEMBERS_TURN]], key=_order)[:MAX_MEMBERS]
                await asyncio.sleep(0)
        shown = [Member(one.namespace, one.sid, one.user.person, one.user.role, self._node_id) for one in first]
        return MembersHere(count, shown)


class RoomsHandler(Handler):
    calls: NodeCalls

    @operation("viewer", query=FindRooms, answer=FoundRooms)
    async def get(self, query: FindRooms) -> Answer:
        """The rooms of all nodes."""
        by_name = query.sort.endswith("name")
        after: Any = read_cursor(query.cursor, tuple[str, str] if by_name else tuple[int, str, str])
        ask = AskRooms(query.prefix, query.namespace, query.sort)
        if by_name:
            ask = msgspec.structs.replace(ask, limit=query.limit + 1, after=after)
        asked = json.encode_struct(ask)
        answers, missing = decode_replies(await self.calls.request("rooms.find", asked), RoomsOfNode)
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for answer in answers.values():
            for namespace, room, members in answer.rooms:
                found[room, namespace].append(members)

        def place(row: RoomRow) -> tuple[Any, ...]:
            return (row.room, row.namespace) if by_name else (row.members, row.room, row.namespace)

        descending = query.sort.startswith("-")
        rows = [RoomRow(namespace, room, sum(counts), len(counts)) for (room, namespace), counts in found.items()]
        if after is not None:
            rows = [row for row in rows if (place(row) < after if descending else place(row) > after)]
        first = (heapq.nlargest if descending else heapq.nsmallest)(query.limit + 1, rows, key=place)
        shown, cursor = cut(first, query.limit, place)
        return Answer(FoundRooms(shown, cursor, missing, any(answer.cut for answer in answers.values())))


class RoomHandler(Handler):
    calls: NodeCalls
    logs: Logs
    namespaces: Collection[str]

    @operation("viewer", query=InRoom, answer=RoomView)
    async def get(self, room: RoomName, query: InRoom) -> Answer:
        """The members and the last events of a room, in one namespace or in all. A room may be empty."""
        if query.namespace and query.namespace not in self.namespaces:
            raise RtError("BAD_REQUEST", "There is no such namespace", field="namespace")
        namespaces = [query.namespace] if query.namespace else list(self.namespaces)
        answers, missing = decode_replies(await self.calls.request("rooms.members", room, query.namespace), MembersHere)
        logged = await asyncio.gather(
            *(self.logs.recent(namespace, Room(room), MAX_ENTRIES) for namespace in namespaces)
        )
        events = sorted(
            (one for events in logged for one in events), key=lambda one: offset_key(one.offset), reverse=True
        )
        members = heapq.nsmallest(
            MAX_MEMBERS, (one for answer in answers.values() for one in answer.members), key=_order
        )
        count = sum(answer.count for answer in answers.values())
        return Answer(RoomView(room, count, members, [_entry(one) for one in events[:MAX_ENTRIES]], missing))


def room_routes(
    admin: Admin, node_id: str, hub: Hub, calls: NodeCalls, logs: Logs
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file, and register this node's replies to their calls."""
    here = RoomsHere(node_id, hub)
    calls.handle("rooms.find", here.find)
    calls.handle("rooms.members", here.members)
    parts = {"admin": admin, "calls": calls}
    return [
        (r"/api/v1/rooms", RoomsHandler, parts),
        (r"/api/v1/rooms/([^/]+)", RoomHandler, {**parts, "logs": logs, "namespaces": hub.namespaces}),
    ]


def _order(one: Socket | Member) -> tuple[str, str]:
    return one.namespace, one.sid


def _entry(event: Event) -> MemberEntry:
    assert event.offset is not None
    at = iso(offset_key(event.offset)[0])
    size = len(event.payload.encode())
    return MemberEntry(event.namespace, event.offset, at, event.name, list(map(str, event.rooms)), size)

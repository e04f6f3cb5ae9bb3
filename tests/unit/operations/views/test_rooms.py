"""Rooms on two nodes: how much a node returns about a room, and complete pages. More is tested on real processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, get_args

import msgspec
import pytest

from insightdesk_rt.engine.cluster.node_calls import NodeReplies
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Room, Sid
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.views import rooms
from insightdesk_rt.operations.views.rooms import (
    MAX_MEMBERS,
    FindRooms,
    FoundRooms,
    InRoom,
    RoomHandler,
    RoomsHandler,
    RoomsHere,
    RoomSort,
    RoomView,
)
from tests.support import fakes
from tests.support.aio import aio

PATHS = ("/tickets", "/chat")
BIG = Room("ticket:big")


class Cluster:
    """Nodes that answer requests as with NodeCalls. `told` is the size of each node's replies."""

    def __init__(self, *names: str) -> None:
        self.hubs = {name: Hub(fakes.OneNode(), PATHS) for name in names}
        self._here = {name: RoomsHere(name, hub) for name, hub in self.hubs.items()}
        self.told: dict[str, int] = {}

    async def request(self, verb: str, *words: str) -> NodeReplies:
        nodes = {}
        for name, here in self._here.items():
            text = json.encode_struct(await getattr(here, verb.removeprefix("rooms."))(words))
            self.told[name] = len(text)
            nodes[f"{name}.1"] = msgspec.Raw(text.encode())
        return NodeReplies(nodes, [])

    async def recent(self, namespace: str, room: Room, most: int) -> list[Any]:
        return []

    def join(self, node: str, room: Room, sid: str, namespace: str = "/tickets") -> Socket:
        socket = fakes.socket(namespace, fakes.user(f"u-{sid}"), sid=Sid(sid))
        hub = self.hubs[node]
        hub.add(socket)
        hub.rooms(namespace).join(socket, room)
        return socket

    async def get(self, kind: Any, *arguments: Any) -> Any:
        """Return the answer of a handler's GET."""
        parts = {"calls": self, "logs": self, "namespaces": PATHS}
        return (await kind.get.__wrapped__(kind.within(None, parts), *arguments)).body


@aio
async def test_nodes_return_the_number_and_the_first_members_of_a_large_room() -> None:
    """Fetching all 100,000 members with all their rooms took 29 MB and blocked their node meanwhile."""
    cluster = Cluster("n1", "n2")
    for number in range(20_000):
        socket = cluster.join("n2", BIG, f"sid-{number:06}-of-20-chars"[:20])
        socket.rooms |= {Room(f"ticket:{number}-{other}") for other in range(5)}
    cluster.join("n1", BIG, "sid-000000-a", "/chat")
    cluster.join("n1", BIG, "sid-000000-b")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others_work = asyncio.create_task(others())
    view: RoomView = await cluster.get(RoomHandler, BIG, InRoom())
    others_work.cancel()
    assert turns >= 20_000 / 500
    assert view.memberCount == 20_002 and len(view.members) == MAX_MEMBERS
    assert [(one.namespace, one.sid) for one in view.members] == sorted(
        (one.namespace, one.sid) for one in view.members
    )
    assert [(one.node, one.sid) for one in view.members[:3]] == [
        ("n1", "sid-000000-a"),  # of /chat
        ("n1", "sid-000000-b"),
        ("n2", "sid-000000-of-20-cha"),
    ]
    assert cluster.told["n2"] < 100_000  # 500 of them, of some 100 bytes
    (alone,) = (await cluster.get(RoomHandler, BIG, InRoom(namespace="/chat"))).members
    assert alone.sid == "sid-000000-a"


async def pages(cluster: Cluster, sort: RoomSort, limit: int) -> list[FoundRooms]:
    found, cursor = [], ""
    while True:
        found.append(
            await cluster.get(RoomsHandler, FindRooms(prefix="ticket:", sort=sort, limit=limit, cursor=cursor))
        )
        if not (cursor := found[-1].next or ""):
            return found


@pytest.mark.parametrize("sort", get_args(RoomSort))
@aio
async def test_pages_contain_every_room_even_if_nodes_have_more_than_they_return(
    sort: RoomSort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node returned its largest rooms whatever the order, so pages sorted by name left out small ones."""
    monkeypatch.setattr(rooms, "MAX_REPORTED", 10)
    cluster, sizes = Cluster("n1", "n2"), Counter[tuple[str, str]]()
    for node in cluster.hubs:
        for number in range(30):
            if (number + int(node[1])) % 3:  # some on both nodes, some on one
                for at in range(1 + number % 4):
                    cluster.join(node, Room(f"ticket:{number:02}"), f"{node}-{number}-{at}", PATHS[number % 2])
                    sizes[f"ticket:{number:02}", PATHS[number % 2]] += 1
    found = await pages(cluster, sort, 4)
    rows = [row for page in found for row in page.items]
    if sort.endswith("name"):
        assert [(row.room, row.namespace) for row in rows] == sorted(sizes, reverse=sort == "-name")
        assert {(row.room, row.namespace): row.members for row in rows} == sizes
        assert not any(page.cut for page in found)
    else:
        assert all(page.cut for page in found) and len(rows) >= 10
        members = [row.members for row in rows]
        assert members == sorted(members, reverse=sort == "-members")
    assert not (await cluster.get(RoomsHandler, FindRooms(prefix="ticket:01", sort=sort))).cut

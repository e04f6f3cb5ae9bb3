"""Nodes with the tickets namespace on a real Valkey, their common log in memory; and what their clients were told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.hub.backplane import LocalMembers
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Event, User
from insightdesk_rt.helpdesk.tickets.access import MayRead, TicketAccess
from insightdesk_rt.helpdesk.tickets.namespace import Applied, SubscribeTicket, Tickets
from insightdesk_rt.helpdesk.tickets.readers import ReaderStore
from insightdesk_rt.helpdesk.tickets.store import TicketChange, TicketStore
from insightdesk_rt.helpdesk.viewer_store import ViewerStore
from tests.support import fakes

PATH = "/tickets"
ANNA, BERT = fakes.user("anna", team="t1"), fakes.user("bert", team="t1")
ROOT, CARL = fakes.user("root", "admin"), fakes.user("carl", "customer")


class Line:
    """One node's end of a log that several share. What it publishes reaches the others at once."""

    deliver: Callable[[Event], None]

    def attach(self, members: LocalMembers) -> None:
        self.deliver = members.deliver

    def __init__(self, log: fakes.OneNode, lines: list[Line]) -> None:
        self._log, self._lines = log, lines
        self.available = log.available
        self.append, self.append_all = log.append, log.append_all
        self.listen, self.unlisten = log.listen, log.unlisten
        self.position, self.read, self.reach = log.position, log.read, log.reach
        self.available = log.available
        lines.append(self)

    def publish(self, event: Event) -> None:
        for line in self._lines:
            if line is not self:
                line.deliver(event)


class Node:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.clock = fakes.Clock()
        self.hub = Hub(Line(cluster.log, cluster.lines), [PATH], cluster.max_rooms)
        self.store = TicketStore(cluster.valkey, cluster.valkey.names.namespace("/tickets"))
        self.viewers = ViewerStore(cluster.valkey, cluster.valkey.names.namespace("/tickets"), lambda: self.name)
        access = cluster.access or TicketAccess(self.store, cluster.agent_access)
        self.tickets = Tickets(
            self.hub,
            self.clock,
            self.store,
            self.viewers,
            access,
            ReaderStore(cluster.valkey, cluster.valkey.names.namespace("/tickets")),
            agent_access=cluster.agent_access,
            incarnation=lambda: self.name,
            recheck_on_all_nodes=cluster.recheck_on_all_nodes,
        )

    async def connect(self, user: User) -> Socket:
        socket = fakes.socket(PATH, user)
        await self.tickets.coming(user)
        self.hub.add(socket)
        await self.hub.enter(socket, first_rooms(user))
        await self.tickets.joined(socket)
        return socket

    async def disconnect(self, socket: Socket, why: CloseReason = CloseReason.TRANSPORT_CLOSE) -> None:
        self.hub.remove(socket)
        await self.tickets.left(socket, why)

    async def open(self, user: User, ticket_id: str = "42") -> Socket:
        """Return a socket of the user that has the ticket open and has been told nothing since."""
        socket = await self.connect(user)
        await self.tickets.subscribe(socket, SubscribeTicket(ticket_id))
        told(socket)
        return socket

    async def put(self, ticket_id: str = "42", **fields: Any) -> Applied:
        return await self.tickets.apply(ticket_id, TicketChange(**fields))

    async def idle(self) -> None:
        """Wait for what runs beside."""
        while self.tickets._tasks:
            await self.tickets._tasks.wait()

    async def pass_time(self, ms: int) -> None:
        """Let time go by and what it starts come to its end."""
        await self.idle()
        self.clock.advance(ms)
        await self.idle()


class Cluster:
    def __init__(
        self, valkey: Valkey, agent_access: str = "team", access: MayRead | None = None, max_rooms: int = 0
    ) -> None:
        self.valkey, self.agent_access, self.access, self.max_rooms = valkey, agent_access, access, max_rooms
        self.log = fakes.OneNode()
        self.lines: list[Line] = []
        self.one, self.two = Node(self, "n1"), Node(self, "n2")
        self.log.deliver = self.deliver

        self.rechecks = 0  # of all nodes

    async def recheck_on_all_nodes(self, ticket_id: str, offset: Any) -> None:
        self.rechecks += 1
        for node in (self.one, self.two):
            await node.tickets.recheck_access(ticket_id, offset)

    def deliver(self, event: Event) -> None:
        for line in self.lines:
            line.deliver(event)


@asynccontextmanager
async def a_cluster(url: str, prefix: str, **settings: Any) -> AsyncIterator[Cluster]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    cluster = Cluster(valkey, **settings)
    yield cluster
    for node in (cluster.one, cluster.two):
        await node.idle()
        node.hub.check()
        await node.tickets.close()
    await valkey.close()


def told(socket: Socket) -> list[tuple[str, Any]]:
    """What the client was sent since the last look: names and payloads."""
    texts = socket.client.texts  # type: ignore[attr-defined]
    found = [(m["event"], m["data"]) for m in map(json.loads, texts)]
    texts.clear()
    return found


def names(socket: Socket) -> list[str]:
    return [name for name, _ in told(socket)]

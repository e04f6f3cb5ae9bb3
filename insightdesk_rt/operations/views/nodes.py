"""The nodes of the cluster: their state, and draining one before an upgrade.

    GET  /api/v1/nodes                       every living node; `missing` names those that did not answer
    GET  /api/v1/nodes/history               their statistics of the last 15 minutes
    POST /api/v1/nodes/{nodeId}/drain        disconnect its clients over a time, and refuse new ones
    POST /api/v1/nodes/{nodeId}/undrain      accept clients again

Any node answers for all. A drained node keeps running and answers other nodes and the admin port.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, BulkChange, Change
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.dispatch.dispatch import Dispatch
from insightdesk_rt.engine.doors.drain import Drain, Progress
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.operations.views import distinct
from insightdesk_rt.operations.views.health import Checked, Lately
from insightdesk_rt.operations.views.node_stats import POINT_S, NodeStats, Numbers, max_files


class NodeState(Numbers, kw_only=True):
    """`connections` by transport, `sockets` by namespace; `hears`: does it receive the other nodes' events?

    `checks` are those of its /readyz, at most a second old; `maxFiles` is how many `openFiles` there may be, 0 where a
    node's version does not say. `clockSkewMs`: how far the machine's clock is ahead of Valkey's.
    """

    node: str
    version: str
    uptimeSeconds: float
    sockets: dict[str, int]
    users: int
    rooms: int
    leads: bool
    hears: bool
    drain: Progress | None = None
    incarnation: str = ""
    maxFiles: int = 0
    checks: list[Checked] = []
    clockSkewMs: int = 0


class DrainBody(BulkChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    overSeconds: Annotated[float, Meta(ge=0, le=3600)]


class NodeName(Struct):
    node: str


class Drained(Struct, omit_defaults=True):
    """`count` is set in a dry run: the clients that would be disconnected."""

    node: str
    count: int | None = None


class Sample(Struct):
    """`at` is Unix seconds; rates per second; the quantiles are null when nothing was delivered.

    `loopLagMs` is the greatest of the 10 s before, so a stall shows in two samples.
    """

    at: float
    connections: int
    eventsIn: float
    eventsOut: float
    deliveryP50Ms: float | None
    deliveryP99Ms: float | None
    loopLagMs: float


class Nodes(Struct):
    """`users`: the number of different users connected to the nodes that answered.

    Exact up to 512 on each node, beyond that within a few percent.
    """

    nodes: list[NodeState]
    users: int
    missing: list[str]


class Users(Struct):
    """The users of one node: how many, and the marks that identify users of several nodes (distinct.py)."""

    count: int
    marks: list[int]


class NodeHistory(Struct):
    node: str
    everySeconds: int
    samples: list[Sample]


class History(Struct):
    nodes: list[NodeHistory]
    missing: list[str]


class Node:
    """This node's replies to calls about nodes."""

    def __init__(
        self,
        node_id: str,
        version: str,
        dispatch: Dispatch,
        hub: Hub,
        stats: NodeStats,
        namespaces: Collection[str],
        drain: Drain,
        leads: Callable[[], bool],
        hears: Callable[[], bool],
        checks: Lately,
        clock_skew_ms: Callable[[], int],
    ) -> None:
        self.node_id = node_id
        self.drain = drain
        self._version = version
        self._dispatch = dispatch
        self._hub = hub
        self._stats = stats
        self._namespaces = namespaces
        self._leads = leads
        self._hears = hears
        self._checks = checks
        self._clock_skew_ms = clock_skew_ms
        self._began_s = time.monotonic()

    async def state(self, arguments: tuple[str, ...] = ()) -> NodeState:
        return NodeState(
            **msgspec.structs.asdict(self._stats.numbers()),
            node=self.node_id,
            version=self._version,
            uptimeSeconds=round(time.monotonic() - self._began_s, 1),
            sockets={namespace: len(self._hub.sockets(namespace)) for namespace in self._namespaces},
            users=self._dispatch.user_count(),
            rooms=sum(len(self._hub.rooms(namespace).names()) for namespace in self._namespaces),
            leads=self._leads(),
            hears=self._hears(),
            drain=self.drain.progress,
            maxFiles=max_files(),
            checks=await self._checks.results(),
            clockSkewMs=self._clock_skew_ms(),
        )

    async def users(self, arguments: tuple[str, ...] = ()) -> Users:
        found = self._dispatch.users()
        return Users(len(found), distinct.marks(found))

    async def history(self, arguments: tuple[str, ...] = ()) -> NodeHistory:
        samples = [Sample(*point) for point in self._stats.history]
        return NodeHistory(self.node_id, POINT_S, samples)

    async def clients(self, arguments: tuple[str, ...]) -> int | None:
        """Return how many clients a drain would disconnect; None if another node is meant. Argument: node id."""
        return self.drain.clients if arguments[0] == self.node_id else None

    async def begin_drain(self, arguments: tuple[str, ...]) -> bool:
        """Begin a drain; return False if another node is meant. Arguments: node id, seconds."""
        node_id, over_s = arguments
        if node_id != self.node_id:
            return False
        self.drain.begin(float(over_s))
        return True

    async def undrain(self, arguments: tuple[str, ...]) -> bool:
        if arguments[0] != self.node_id:
            return False
        await self.drain.undo()
        return True


class NodesHandler(Handler):
    calls: NodeCalls

    @operation("viewer", answer=Nodes)
    async def get(self) -> Answer:
        """The state of every living node."""
        states, user_counts = await asyncio.gather(self.calls.request("node.state"), self.calls.request("node.users"))
        nodes, missing = decode_replies(states, NodeState)
        users, _ = decode_replies(user_counts, Users)  # a node missing here is missing above, or older
        for incarnation, node in nodes.items():
            node.incarnation = incarnation
        different = distinct.count([(one.count, one.marks) for one in users.values()])
        return Answer(Nodes(sorted(nodes.values(), key=lambda node: node.node), different, missing))


class HistoryHandler(Handler):
    calls: NodeCalls

    @operation("viewer", answer=History)
    async def get(self) -> Answer:
        """The statistics of every living node for the last 15 minutes, a sample every five seconds, the oldest
        first.
        """
        nodes, missing = decode_replies(await self.calls.request("node.history"), NodeHistory)
        return Answer(History(sorted(nodes.values(), key=lambda node: node.node), missing))


class OneNodeHandler(Handler):
    """The base of changes to one node, which any node can receive."""

    calls: NodeCalls

    async def ask_node(self, verb: str, node_id: str, *arguments: str) -> bytes:
        """Return the node's answer as JSON. Raises RtError UNAVAILABLE, NOT_FOUND."""
        replies = await self.calls.request(verb, node_id, *arguments)
        found = [bytes(text) for text in replies.nodes.values() if bytes(text) not in (b"false", b"null")]
        if not found:
            if replies.missing:
                raise RtError("UNAVAILABLE", f"Not all nodes answered: {', '.join(replies.missing)}.")
            raise RtError("NOT_FOUND", "There is no such node.")
        return found[0]


class DrainHandler(OneNodeHandler):
    @operation("operator", body=DrainBody, answer=Drained, action="node.drain", errors=("NOT_FOUND",))
    async def post(self, node_id: str, body: DrainBody) -> Answer:
        """Disconnect the node's clients, evenly over `overSeconds`, and accept no new ones.

        They reconnect to other nodes. GET /nodes shows the progress.
        """
        if body.dryRun:
            return Answer(Drained(node_id, int(await self.ask_node("node.clients", node_id))))
        await self.ask_node("node.drain", node_id, str(body.overSeconds))
        return Answer(Drained(node_id))


class UndrainHandler(OneNodeHandler):
    @operation("operator", body=Change, answer=NodeName, action="node.undrain", errors=("NOT_FOUND", "DRAINING"))
    async def post(self, node_id: str, body: Change) -> Answer:
        """Let the node accept clients again."""
        await self.ask_node("node.undrain", node_id)
        return Answer(NodeName(node_id))


def node_routes(admin: Admin, node: Node, calls: NodeCalls) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file, and register this node's replies to their calls."""
    calls.handle("node.state", node.state)
    calls.handle("node.users", node.users)
    calls.handle("node.history", node.history)
    calls.handle("node.clients", node.clients)
    calls.handle("node.drain", node.begin_drain)
    calls.handle("node.undrain", node.undrain)
    parts = {"admin": admin, "calls": calls}
    return [
        (r"/api/v1/nodes", NodesHandler, parts),
        (r"/api/v1/nodes/history", HistoryHandler, parts),
        (r"/api/v1/nodes/([^/]+)/drain", DrainHandler, parts),
        (r"/api/v1/nodes/([^/]+)/undrain", UndrainHandler, parts),
    ]

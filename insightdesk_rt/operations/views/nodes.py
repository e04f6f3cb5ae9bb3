"""The nodes of the cluster: what each says of itself, and sending the clients of one elsewhere before an upgrade.

    GET  /api/v1/nodes                       every living node; `missing` names those that did not answer
    GET  /api/v1/nodes/history               what they did in the last 15 minutes
    POST /api/v1/nodes/{nodeId}/drain        its clients are sent away over a time, and new ones refused
    POST /api/v1/nodes/{nodeId}/undrain      it takes clients again

Any node may be asked. A drained node goes on running, for what other nodes and the admin port ask of it.
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
    """`connections` by transport, `sockets` by namespace; `hears` is whether it gets the other nodes' events.

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
    """`count` is of a dry run: the clients that would be sent away."""

    node: str
    count: int | None = None


class Sample(Struct):
    """`at` is Unix seconds; rates per second; the quantiles are null when nothing was delivered.

    `loopLagMs` is the greatest of the 10 s before, so that a stall is seen in two of them.
    """

    at: float
    connections: int
    eventsIn: float
    eventsOut: float
    deliveryP50Ms: float | None
    deliveryP99Ms: float | None
    loopLagMs: float


class Nodes(Struct):
    """`users`: how many different ones are connected to the nodes that answered, each counted once.

    Exact up to 512 on each node, beyond that within a few percent.
    """

    nodes: list[NodeState]
    users: int
    missing: list[str]


class Users(Struct):
    """The users of one node: how many, and the marks by which those of several are counted once (distinct.py)."""

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
    """This node, as the others may ask about it."""

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

    async def state(self, words: tuple[str, ...] = ()) -> NodeState:
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

    async def users(self, words: tuple[str, ...] = ()) -> Users:
        found = self._dispatch.users()
        return Users(len(found), distinct.marks(found))

    async def history(self, words: tuple[str, ...] = ()) -> NodeHistory:
        samples = [Sample(*point) for point in self._stats.history]
        return NodeHistory(self.node_id, POINT_S, samples)

    async def clients(self, words: tuple[str, ...]) -> int | None:
        """Return how many clients a drain would send away. `words`: node id; None: this is another."""
        return self.drain.clients if words[0] == self.node_id else None

    async def begin_drain(self, words: tuple[str, ...]) -> bool:
        """`words`: node id, seconds. Returns whether this is the node."""
        node_id, over_s = words
        if node_id != self.node_id:
            return False
        self.drain.begin(float(over_s))
        return True

    async def undrain(self, words: tuple[str, ...]) -> bool:
        if words[0] != self.node_id:
            return False
        await self.drain.undo()
        return True


class NodesHandler(Handler):
    calls: NodeCalls

    @operation("viewer", answer=Nodes)
    async def get(self) -> Answer:
        """What every living node says of itself."""
        said, also_said = await asyncio.gather(self.calls.request("node.state"), self.calls.request("node.users"))
        nodes, missing = decode_replies(said, NodeState)
        users, _ = decode_replies(also_said, Users)  # who is missing there is missing above, or of an older version
        for incarnation, node in nodes.items():
            node.incarnation = incarnation
        different = distinct.count([(one.count, one.marks) for one in users.values()])
        return Answer(Nodes(sorted(nodes.values(), key=lambda node: node.node), different, missing))


class HistoryHandler(Handler):
    calls: NodeCalls

    @operation("viewer", answer=History)
    async def get(self) -> Answer:
        """What every living node did in the last 15 minutes, a sample for every five seconds, the oldest first."""
        nodes, missing = decode_replies(await self.calls.request("node.history"), NodeHistory)
        return Answer(History(sorted(nodes.values(), key=lambda node: node.node), missing))


class OneNodeHandler(Handler):
    """What changes one node, wherever the request lands."""

    calls: NodeCalls

    async def tell(self, verb: str, node_id: str, *words: str) -> bytes:
        """Return what the node answered, as JSON. Raises RtError UNAVAILABLE, NOT_FOUND."""
        said = await self.calls.request(verb, node_id, *words)
        found = [bytes(text) for text in said.nodes.values() if bytes(text) not in (b"false", b"null")]
        if not found:
            if said.missing:
                raise RtError("UNAVAILABLE", f"Not all nodes answered: {', '.join(said.missing)}.")
            raise RtError("NOT_FOUND", "There is no such node.")
        return found[0]


class DrainHandler(OneNodeHandler):
    @operation("operator", body=DrainBody, answer=Drained, action="node.drain", errors=("NOT_FOUND",))
    async def post(self, node_id: str, body: DrainBody) -> Answer:
        """Send the node's clients to the others, evenly over `overSeconds`, and take no new ones.

        GET /nodes shows how far it is.
        """
        if body.dryRun:
            return Answer(Drained(node_id, int(await self.tell("node.clients", node_id))))
        await self.tell("node.drain", node_id, str(body.overSeconds))
        return Answer(Drained(node_id))


class UndrainHandler(OneNodeHandler):
    @operation("operator", body=Change, answer=NodeName, action="node.undrain", errors=("NOT_FOUND", "DRAINING"))
    async def post(self, node_id: str, body: Change) -> Answer:
        """Let the node take clients again."""
        await self.tell("node.undrain", node_id)
        return Answer(NodeName(node_id))


def node_routes(admin: Admin, node: Node, calls: NodeCalls) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application, and answer for this node what they ask of all."""
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

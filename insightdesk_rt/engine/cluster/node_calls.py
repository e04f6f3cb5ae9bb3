"""NodeCalls: requests from one node to all nodes, such as "who is in this room?" or "recheck access to this ticket".

A request is published once on the channel of all nodes. Each node replies on the requester's own channel, in several
messages if the reply is long. The result is complete when every living node (`Leases.living`, read again while one is
missing) has replied. After five seconds it is what has come, with the names of the nodes that are missing, which may
include the requester itself. Delivery is not guaranteed: use a logged event where it must be.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import Raw, Struct

from insightdesk_rt.engine.cluster.requests import (
    INFO_PER_REPLY,
    LimitReport,
    NodeReply,
    NodeRequest,
    Replaced,
    SocketInfo,
    in_parts,
    in_pieces,
    info_of,
)
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, Room, new_id
from insightdesk_rt.engine.shared_limits import Use
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
LOOK_S = 0.5  # between two looks at who lives, while a node is missing
# Added to the timeout of a recheck: a dead node counts as living for up to five seconds (LEASE_MS and BEAT_MS of the
# leases), and a change of access should wait for that rather than be refused.
DYING_S = 2.0
FAILED = ("UNAVAILABLE", "INTERNAL")  # other errors are the result

RequestHandler = Callable[[tuple[str, ...]], Awaitable[Any]]  # takes the arguments, returns plain JSON or a Struct

_message = msgspec.json.Decoder(NodeRequest | NodeReply | Replaced | LimitReport)


class FoundMembers(NamedTuple):
    sockets: list[SocketInfo]
    missing: list[str]  # incarnations of the nodes that did not reply


class NodeReplies(NamedTuple):
    nodes: dict[str, Raw]  # incarnation → its reply, JSON text
    missing: list[str]


class Bus(Protocol):
    """What NodeCalls uses of the backplane."""

    address: str
    on_call: list[Callable[[bytes], None]]

    def send_to_node(self, address: str, text: str) -> bool: ...

    def send_to_all(self, text: str) -> bool: ...


class _PendingRequest:
    """A request that waits for replies. `done` is set once no node is missing."""

    __slots__ = ("done", "missing", "replies")

    def __init__(self, missing: set[str]) -> None:
        self.missing = missing
        self.replies: list[NodeReply] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._check_done()

    def take(self, reply: NodeReply) -> None:
        if reply.node not in self.missing:
            return  # not a node that was asked
        self.replies.append(reply)
        if not reply.more:
            self.missing.discard(reply.node)
            self._check_done()

    def drop_dead(self, living: Collection[str]) -> None:
        """Stop waiting for nodes that have died, and drop their incomplete replies."""
        dead = self.missing.difference(living)
        self.replies = [reply for reply in self.replies if reply.node not in dead]
        self.missing -= dead
        self._check_done()

    def _check_done(self) -> None:
        if not self.missing and not self.done.done():
            self.done.set_result(None)


class NodeCalls:
    """`living` and `incarnation` come from the leases. `handle` adds the verbs of other parts.

    `on_replaced(pid)` listeners end the connection of a session that went on elsewhere. `on_recheck(namespace, subject,
    offset)` listeners remove this node's sockets that may not read a ticket or conversation any more. Listeners of
    `on_limits` take what any node uses of shared limits, this one included. There is no verb that nothing uses, because
    each is a power over all nodes.
    """

    def __init__(
        self,
        bus: Bus,
        hub: Hub,
        incarnation: Callable[[], str],
        living: Callable[[], Awaitable[Collection[str]]],
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._bus = bus
        self._hub = hub
        self._incarnation = incarnation
        self._living = living
        self.on_replaced: list[Callable[[str], None]] = []
        self.on_limits: list[Callable[[LimitReport], None]] = []
        self.on_recheck: list[Callable[[str, str, Offset], Awaitable[None]]] = []
        self._handlers: dict[str, RequestHandler] = {}
        self._timeout_s = timeout_s
        self._pending: dict[str, _PendingRequest] = {}
        self._tasks = OwnedTasks(log)
        self.poison = 0
        bus.on_call.append(self.received)

    async def close(self) -> None:
        await self._tasks.close()

    # ── requests; all raise RtError UNAVAILABLE while Valkey is unreachable ──────────────────────────────────────

    async def fetch_sockets(
        self, namespace: str, rooms: Collection[Room] = (), skip: Collection[str] = ()
    ) -> FoundMembers:
        """Return the members of any of the rooms (all sockets of the namespace if none is named), on all nodes."""
        replies, missing = await self._collect("fetch", namespace, rooms, skip)
        return FoundMembers([one for reply in replies for one in reply.sockets], missing)

    async def recheck_on_all_nodes(self, namespace: str, subject: str, offset: Offset) -> None:
        """Have every node look again who may be in a ticket or conversation, after the event at `offset`.

        Raises RtError UNAVAILABLE unless all living nodes have done it: then it must be asked again. A node whose lease
        ends meanwhile need not: it looks again by itself, should it come back.
        """
        within_s = self._timeout_s + DYING_S
        _, missing = await self._collect("recheck", namespace, more=(subject, offset), within_s=within_s)
        if missing:
            raise RtError("UNAVAILABLE", f"Not all nodes answered: {', '.join(missing)}.")

    def handle(self, verb: str, handler: RequestHandler) -> None:
        """Handle requests of this verb, from other nodes and this one. If it raises RtError, the node is missing."""
        self._handlers[verb] = handler

    async def request(self, verb: str, *arguments: str) -> NodeReplies:
        """Send a request to every living node, this one included, and return the replies.

        A node without a handler for it (an older version) counts as missing. Raises RtError UNAVAILABLE, and what the
        handler raises on this node, unless it failed here and other nodes have replied.
        """
        replies, missing = await self._collect(verb, more=arguments)
        known = {reply.node: reply.info for reply in replies if bytes(reply.info)}
        parts: dict[str, list[str]] = {}
        for reply in replies:
            if reply.part:
                parts.setdefault(reply.node, []).append(reply.part)
        known |= {node: Raw("".join(texts).encode()) for node, texts in parts.items() if node not in missing}
        return NodeReplies(known, sorted({*missing, *(reply.node for reply in replies if reply.node not in known)}))

    def replaced(self, address: str, pid: str) -> None:
        """Notify a node that the client of a session has come back with another connection."""
        self._bus.send_to_node(address, json.encode_struct(Replaced(pid)))

    def report_limits(self, uses: dict[str, list[Use]]) -> bool:
        """Tell all nodes what this node uses of shared limits. Returns False if Valkey is known to be unreachable."""
        return self._bus.send_to_all(json.encode_struct(LimitReport(self._bus.address, uses)))

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _collect(
        self,
        verb: str,
        namespace: str = "",
        rooms: Collection[Room] = (),
        skip: Collection[str] = (),
        more: Collection[str] = (),
        within_s: float = 0.0,
    ) -> tuple[list[NodeReply], list[str]]:
        """Send a request and collect the replies. `within_s`: 0.0 means the usual timeout."""
        request = NodeRequest(new_id(), self._bus.address, verb, namespace, tuple(rooms), tuple(skip), tuple(more))
        me = self._incarnation()
        pending = _PendingRequest(set(await self._living()) - {me})
        self._pending[request.id] = pending
        own_task = asyncio.get_running_loop().create_task(self._handle_here(request))
        try:
            if pending.missing and not self._bus.send_to_all(json.encode_struct(request)):
                await asyncio.wait(
                    [own_task], timeout=self._timeout_s
                )  # it is done at least on this node: it may revoke access
                raise RtError("UNAVAILABLE")
            await self._wait(pending, own_task, within_s or self._timeout_s)
            own = own_task.result() if own_task.done() else RtError("UNAVAILABLE")
        finally:
            del self._pending[request.id]
            own_task.cancel()
        missing = sorted(pending.missing)
        if isinstance(own, RtError):
            if own.code not in FAILED or not pending.replies:
                raise own
            own, missing = [], sorted([*missing, me])
        if missing:
            log.warning("not all nodes replied to a request", extra={"verb": verb, "missing": len(missing)})
        return own + pending.replies, missing

    async def _handle_here(self, request: NodeRequest) -> list[NodeReply] | RtError:
        """Handle the request on this node. Its error must not lose the replies of the others."""
        try:
            return await self._do(request)
        except RtError as refused:
            return refused
        except Exception:
            log.exception("a request failed on this node", extra={"verb": request.verb[:20]})
            return RtError("INTERNAL")

    async def _wait(self, pending: _PendingRequest, own_task: asyncio.Task[Any], within_s: float) -> None:
        """Wait until all nodes have replied or the time is over, but not for nodes that died meanwhile."""
        now = asyncio.get_running_loop().time
        end_s = now() + within_s
        waiting: set[asyncio.Future[Any]] = {own_task, pending.done}
        while waiting and (left_s := end_s - now()) > 0:
            _, waiting = await asyncio.wait(waiting, timeout=min(left_s, LOOK_S))
            if pending.done in waiting:
                try:
                    pending.drop_dead(await self._living())
                except RtError:
                    pass  # who lives is not known

    # ── answering ─────────────────────────────────────────────────────────────────────────────────────────────────

    def received(self, text: bytes) -> None:
        """Take a message of another node; the backplane has checked its seal. Never raises."""
        try:
            message = json.decode(_message, text)
        except json.BadJson:
            self.poison += 1
            return
        if isinstance(message, NodeReply):
            if pending := self._pending.get(message.id):  # else it came too late
                pending.take(message)
        elif isinstance(message, Replaced):
            for evict in self.on_replaced:
                evict(message.pid)
        elif isinstance(message, LimitReport):
            for listener in self.on_limits:
                listener(message)
        elif message.to != self._bus.address:
            self._tasks.spawn(self._reply(message), "replying to another node")

    async def _reply(self, request: NodeRequest) -> None:
        try:
            for reply in await self._do(request):
                self._bus.send_to_node(request.to, json.encode_struct(reply))
        except RtError as refused:  # for the requester this node is missing
            log.debug("a request of another node was refused", extra={"verb": request.verb[:20], "why": refused.code})
        except Exception:
            log.exception("a request of another node failed", extra={"verb": request.verb[:20]})

    async def _do(self, request: NodeRequest) -> list[NodeReply]:
        """Handle a request on this node. An unknown verb is from a newer version: the reply is empty."""
        node = self._incarnation()
        if handler := self._handlers.get(request.verb):
            result = await handler(request.more)
            text = json.encode_struct(result) if isinstance(result, Struct) else json.dumps(result)
            if len(text) > INFO_PER_REPLY:
                return in_pieces(request.id, node, text)
            return [NodeReply(request.id, node, info=Raw(text.encode()))]
        if request.verb == "recheck":
            subject, offset = request.more
            for recheck in self.on_recheck:
                await recheck(request.namespace, subject, Offset(offset))
            return [NodeReply(request.id, node)]
        if request.verb == "fetch":
            return in_parts(request.id, node, [info_of(socket, node) for socket in self._chosen(request)])
        return [NodeReply(request.id, node)]

    def _chosen(self, request: NodeRequest) -> list[Socket]:
        try:
            if request.rooms:
                groups = self._hub.rooms(request.namespace).groups([Room(room) for room in request.rooms], request.skip)
                return list(itertools.chain.from_iterable(groups.values()))
            everyone: Iterable[Socket] = self._hub.sockets(request.namespace).values()
        except KeyError:
            return []  # this version does not have the namespace
        return [one for one in everyone if one.sid not in request.skip and one.rooms.isdisjoint(request.skip)]

"""What one node asks all others: who is in a room, to look again who may be there, and what other parts `answer`.

The question goes out once on the channel of all nodes; each answers on the asker's own, in several messages if it has
much to say. The answer is complete when every living node (`Leases.living`, asked again while one is missing) has
answered; after five seconds it is what there is, and names the nodes that are missing, perhaps the asker itself.
Nothing here is certain to arrive: who needs that uses a logged event.
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
    INFO_PER_ANSWER,
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
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
LOOK_S = 0.5  # until it is asked again who lives
# Beyond the timeout: a node that dies is listed as living for up to five seconds (LEASE_MS and BEAT_MS of the leases),
# and who changes access had better wait for the end of that than be refused.
DYING_S = 2.0
FAILED = ("UNAVAILABLE", "INTERNAL")  # other errors are what the answer is

Does = Callable[[tuple[str, ...]], Awaitable[Any]]  # takes the words of a question, returns plain JSON or a Struct

_message = msgspec.json.Decoder(NodeRequest | NodeReply | Replaced)


class FoundMembers(NamedTuple):
    sockets: list[SocketInfo]
    missing: list[str]  # incarnations of nodes that did not answer


class NodeAnswers(NamedTuple):
    nodes: dict[str, Raw]  # incarnation → its answer, JSON text
    missing: list[str]


class Bus(Protocol):
    """What the backplane lends."""

    address: str
    on_call: list[Callable[[bytes], None]]

    def send_to_node(self, address: str, text: str) -> bool: ...

    def send_to_all(self, text: str) -> bool: ...


class _PendingRequest:
    """A question that is asked. `missing` and `answers` change here only; `done` once nobody is missing."""

    __slots__ = ("answers", "done", "missing")

    def __init__(self, missing: set[str]) -> None:
        self.missing = missing
        self.answers: list[NodeReply] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._look()

    def take(self, answer: NodeReply) -> None:
        if answer.node not in self.missing:
            return  # nobody we asked
        self.answers.append(answer)
        if not answer.more:
            self.missing.discard(answer.node)
            self._look()

    def only(self, living: Collection[str]) -> None:
        """Wait no longer for nodes that have died, nor keep the half of what they had to say."""
        dead = self.missing.difference(living)
        self.answers = [answer for answer in self.answers if answer.node not in dead]
        self.missing -= dead
        self._look()

    def _look(self) -> None:
        if not self.missing and not self.done.done():
            self.done.set_result(None)


class NodeCalls:
    """`living` and `incarnation` come from the leases. `answer` adds verbs of other parts.

    `on_replaced(pid)` listeners end the connection of a session that went on elsewhere. `on_recheck(namespace, subject,
    offset)` listeners remove this node's sockets that may not read a ticket or conversation any more. There is no verb
    that nothing uses, because each is a power over all nodes.
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
        self.on_recheck: list[Callable[[str, str, Offset], Awaitable[None]]] = []
        self._does: dict[str, Does] = {}
        self._timeout_s = timeout_s
        self._pending: dict[str, _PendingRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.poison = 0
        bus.on_call.append(self.received)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ── what the hub's users ask; all raise RtError UNAVAILABLE while Valkey is away ──────────────────────────────

    async def fetch_sockets(
        self, namespace: str, rooms: Collection[Room] = (), skip: Collection[str] = ()
    ) -> FoundMembers:
        """Return the members of any of the rooms (all sockets of the namespace if none is named), on all nodes."""
        answers, missing = await self._ask("fetch", namespace, rooms, skip)
        return FoundMembers([one for answer in answers for one in answer.sockets], missing)

    async def recheck_on_all_nodes(self, namespace: str, subject: str, offset: Offset) -> None:
        """Have every node look again who may be in a ticket or conversation, after the event at `offset`.

        Raises RtError UNAVAILABLE unless all living nodes have done it: then it must be asked again. A node whose lease
        ends meanwhile need not: it looks again by itself, should it come back.
        """
        within_s = self._timeout_s + DYING_S
        _, missing = await self._ask("recheck", namespace, more=(subject, offset), within_s=within_s)
        if missing:
            raise RtError("UNAVAILABLE", f"Not all nodes answered: {', '.join(missing)}.")

    def answer(self, verb: str, does: Does) -> None:
        """Answer a question of other nodes, and of this one. RtError raised by `does`: the asker finds it missing."""
        self._does[verb] = does

    async def ask(self, verb: str, *words: str) -> NodeAnswers:
        """Ask every living node, this one included, what `answer` was set up for there.

        A node without it (an older version) counts as missing. Raises RtError UNAVAILABLE, and what `does` raises here,
        unless it failed here and others have answered.
        """
        answers, missing = await self._ask(verb, more=words)
        known = {answer.node: answer.info for answer in answers if bytes(answer.info)}
        parts: dict[str, list[str]] = {}
        for answer in answers:
            if answer.part:
                parts.setdefault(answer.node, []).append(answer.part)
        known |= {node: Raw("".join(texts).encode()) for node, texts in parts.items() if node not in missing}
        return NodeAnswers(known, sorted({*missing, *(answer.node for answer in answers if answer.node not in known)}))

    def replaced(self, address: str, pid: str) -> None:
        """Tell a node that the client of a session has come back with another connection."""
        self._bus.send_to_node(address, json.encode_struct(Replaced(pid)))

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(
        self,
        verb: str,
        namespace: str = "",
        rooms: Collection[Room] = (),
        skip: Collection[str] = (),
        more: Collection[str] = (),
        within_s: float = 0.0,
    ) -> tuple[list[NodeReply], list[str]]:
        """`within_s`: 0.0 means the usual time."""
        ask = NodeRequest(new_id(), self._bus.address, verb, namespace, tuple(rooms), tuple(skip), tuple(more))
        me = self._incarnation()
        pending = _PendingRequest(set(await self._living()) - {me})
        self._pending[ask.id] = pending
        doing = asyncio.get_running_loop().create_task(self._own(ask))
        try:
            if pending.missing and not self._bus.send_to_all(json.encode_struct(ask)):
                await asyncio.wait([doing], timeout=self._timeout_s)  # here at least it is done: it may take access
                raise RtError("UNAVAILABLE")
            await self._wait(pending, doing, within_s or self._timeout_s)
            own = doing.result() if doing.done() else RtError("UNAVAILABLE")
        finally:
            del self._pending[ask.id]
            doing.cancel()
        missing = sorted(pending.missing)
        if isinstance(own, RtError):
            if own.code not in FAILED or not pending.answers:
                raise own
            own, missing = [], sorted([*missing, me])
        if missing:
            log.warning("a call was not answered by all nodes", extra={"verb": verb, "missing": len(missing)})
        return own + pending.answers, missing

    async def _own(self, ask: NodeRequest) -> list[NodeReply] | RtError:
        """Do here what is asked of all. An error of ours must not cost the answers of the others."""
        try:
            return await self._do(ask)
        except RtError as refused:
            return refused
        except Exception:
            log.exception("a call failed here", extra={"verb": ask.verb[:20]})
            return RtError("INTERNAL")

    async def _wait(self, pending: _PendingRequest, doing: asyncio.Task[Any], within_s: float) -> None:
        """Wait until all have answered, or the time is over; not for a node that is found to have died meanwhile."""
        now = asyncio.get_running_loop().time
        end_s = now() + within_s
        waiting: set[asyncio.Future[Any]] = {doing, pending.done}
        while waiting and (left_s := end_s - now()) > 0:
            _, waiting = await asyncio.wait(waiting, timeout=min(left_s, LOOK_S))
            if pending.done in waiting:
                try:
                    pending.only(await self._living())
                except RtError:
                    pass  # it is not known

    # ── answering ─────────────────────────────────────────────────────────────────────────────────────────────────

    def received(self, text: bytes) -> None:
        """Take what another node sent; the bus has seen to it that it was one. Never raises."""
        try:
            message = json.decode(_message, text)
        except json.BadJson:
            self.poison += 1
            return
        if isinstance(message, NodeReply):
            if pending := self._pending.get(message.id):  # else it is too late
                pending.take(message)
        elif isinstance(message, Replaced):
            for evict in self.on_replaced:
                evict(message.pid)
        elif message.to != self._bus.address:
            self._spawn(self._reply(message))

    async def _reply(self, ask: NodeRequest) -> None:
        try:
            for answer in await self._do(ask):
                self._bus.send_to_node(ask.to, json.encode_struct(answer))
        except RtError as refused:  # the asker finds this node missing
            log.debug("a call was not answered", extra={"verb": ask.verb[:20], "why": refused.code})
        except Exception:
            log.exception("a call of another node failed", extra={"verb": ask.verb[:20]})

    async def _do(self, ask: NodeRequest) -> list[NodeReply]:
        """Answer for this node. An unknown verb is a newer node's: it is answered, with nothing done."""
        node = self._incarnation()
        if does := self._does.get(ask.verb):
            said = await does(ask.more)
            text = json.encode_struct(said) if isinstance(said, Struct) else json.dumps(said)
            if len(text) > INFO_PER_ANSWER:
                return in_pieces(ask.id, node, text)
            return [NodeReply(ask.id, node, info=Raw(text.encode()))]
        if ask.verb == "recheck":
            subject, offset = ask.more
            for recheck in self.on_recheck:
                await recheck(ask.namespace, subject, Offset(offset))
            return [NodeReply(ask.id, node)]
        if ask.verb == "fetch":
            return in_parts(ask.id, node, [info_of(socket, node) for socket in self._chosen(ask)])
        return [NodeReply(ask.id, node)]

    def _chosen(self, ask: NodeRequest) -> list[Socket]:
        try:
            if ask.rooms:
                groups = self._hub.rooms(ask.namespace).groups([Room(room) for room in ask.rooms], ask.skip)
                return list(itertools.chain.from_iterable(groups.values()))
            everyone: Iterable[Socket] = self._hub.sockets(ask.namespace).values()
        except KeyError:
            return []  # a namespace that this version does not have
        return [one for one in everyone if one.sid not in ask.skip and one.rooms.isdisjoint(ask.skip)]

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

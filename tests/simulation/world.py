"""World: nodes, clients and publishers of one schedule, made of the package's own parts over model servers.

A node has the parts that make a cluster: the connection to Valkey, the backplane, the hub, sessions, leases and calls
between nodes. A client is a socket without a network: it may be cut, miss what was put into its outbox meanwhile, and
come back to any node. What clients receive is recorded for the judge of the torture.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable

from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.leases import BEAT_MS, Leases
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.sessions import ClusterSessions
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Event, Room, User, UserId, new_sid
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.native import NativeCodec
from tests.cluster.torture.judge import Record, Sent
from tests.simulation.model_scripts import Scripts
from tests.simulation.model_server import ModelServer
from tests.simulation.network import Network
from tests.simulation.virtual_loop import VirtualLoop

NAMESPACE = "/tickets"
ROOMS = tuple(Room(f"ticket:{number}") for number in range(1, 4))
PREFIX = "sim"
START_S = 1_800_000_000.0
SERVERS = 4  # at most, in one schedule
TICK = "tick"
TICK_MS = 2_000
SCRIPTS = Scripts()


class Node:
    """One node. `ticks` are the times at which it did the work that is done once per cluster."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = False
        self.ticks: list[float] = []
        self.cleared: Counter[str] = Counter()
        self.valkey = Valkey(f"valkey://{name}.valkey:6379", PREFIX)
        self.backplane = ValkeyBackplane(self.valkey, [NAMESPACE], name)
        self.hub = Hub(self.backplane, [NAMESPACE])
        self.leases = Leases(self.valkey, name, self._clear, self._register)
        self.calls = NodeCalls(self.backplane, self.hub, lambda: self.leases.incarnation, self.leases.living)
        self.sessions = ClusterSessions(
            self.valkey,
            name,
            self.backplane.address,
            lambda: self.leases.incarnation,
            self.backplane.position,
            self.calls.replaced,
        )
        self.calls.on_replaced.append(self.sessions.evict)
        self.hub.on_rooms.append(self.sessions.moved)
        self._beats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start as app/server.py does. A node whose Valkey is unreachable does not start: it is tried again."""
        await self.valkey.start()
        await self.backplane.start()
        self.sessions.start()
        while True:
            try:
                await self.leases.beat()
                break
            except RtError:
                await asyncio.sleep(0.2)
        self.valkey.on_up.append(lambda replaced: self.leases.re_register_soon() if replaced else None)
        self._beats = asyncio.create_task(self._beat())
        self.alive = True

    def pids(self) -> set[str]:
        """Return the sessions whose sockets are on this node."""
        return {socket.pid for socket in self.hub.sockets(NAMESPACE).values()}

    async def die(self) -> None:
        """End without a word, as by SIGKILL: nothing that it sends from here on arrives."""
        self.alive = False
        self.world.network.node_died(self.name)
        await self.close()

    async def close(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
        await self.leases.close()
        await self.sessions.close()
        await self.calls.close()
        await self.backplane.close()
        await self.valkey.close()

    async def _beat(self) -> None:
        while True:
            try:
                await self.leases.beat()
                if await self.leases.claims(TICK, TICK_MS):
                    self.ticks.append(self.world.loop.time())
            except RtError:
                pass  # with the next beat
            await asyncio.sleep(BEAT_MS / 1000)

    async def _clear(self, dead: str) -> None:
        await self.sessions.node_lost(dead)
        self.cleared[dead] += 1

    async def _register(self) -> None:
        await self.sessions.re_register()


class Line:
    """One connection of a client: what a socket needs of its client and of its outbox."""

    agent = address = "sim"
    behind = False

    def __init__(self, client: Client, node: Node) -> None:
        self.id = client.id
        self.client, self.node = client, node
        self.sockets: dict[str, Socket] = {}
        self.open = True  # does what is put arrive?

    @property
    def socket(self) -> Socket:
        return self.sockets[NAMESPACE]

    def put(self, message: Encoded) -> CloseReason | None:
        if self.open:
            self.client.receive(json.loads(message.text))
        return None

    def when_room(self, call: Callable[[], None]) -> None:
        raise AssertionError("its outbox is never full")

    def leave(self, namespace: str) -> None:
        self.close(CloseReason.SERVER_LEFT)

    def close(self, why: CloseReason) -> None:
        """The connection ends, and its node knows: as dispatch does, it removes the socket and notes the session."""
        self.open = False
        self.client.lost(self)
        if self.socket.gone:
            return
        self.node.hub.remove(self.socket)
        self.socket.gone = True
        if self.node.alive and self.socket.pid:
            self.node.sessions.ended(self.socket, why)


class Client:
    """A client with recovery, which connects again and again."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.id = f"client{number}"
        self.record = Record(self.id)
        self.user = User(UserId(f"u{number}"), "agent")
        self.rooms = tuple(world.chance.sample(ROOMS, 2))
        self.pid = self.offset = ""
        self.line: Line | None = None  # once it is greeted
        self._connecting: Line | None = None
        self._joined = False

    @property
    def connected(self) -> bool:
        return self.line is not None

    def lost(self, line: Line) -> None:
        if self.line is line:
            self.line = None
        if self._connecting is line:
            self._connecting = None

    def cut(self) -> None:
        """The connection is lost. The node notices after a while, or when the client comes back."""
        line = self.line
        if line is not None:
            line.open = False
            self.lost(line)
            self.world.loop.call_later(self.world.chance.random() * 2, line.close, CloseReason.TRANSPORT_CLOSE)

    def node_died(self, node: Node) -> None:
        for line in (self.line, self._connecting):
            if line is not None and line.node is node:
                line.open = False
                self.lost(line)

    async def connect(self, node: Node) -> None:
        """Connect as dispatch does: resume the session if there is one, otherwise begin a new one and join rooms."""
        line = self._connecting = Line(self, node)
        codec, sent = NativeCodec(True), node.hub.sent[NAMESPACE]
        socket = Socket(new_sid(), NAMESPACE, self.user, line, line, codec, sent)
        line.sockets[NAMESPACE] = socket
        try:
            await self._enter(node, line, socket)
        except RtError:
            line.close(CloseReason.UNAVAILABLE)

    async def _enter(self, node: Node, line: Line, socket: Socket) -> None:
        if not (self.pid and await self._resumes(node, line, socket)):
            if socket.gone:
                return
            socket.pid = node.sessions.new_pid()
            node.hub.add(socket)
            await node.hub.enter(socket, (Room(f"user:{self.user.id}"),))
            self._greeted(line, False)
            if socket.gone:
                return
            node.sessions.opened(socket)
        if not self._joined:
            await node.hub.join_all(socket, self.rooms)
        if self.line is line and not self._joined:
            self._joined = True
            for room in self.rooms:
                self.record.joined(room, self.world.loop.time())

    async def _resumes(self, node: Node, line: Line, socket: Socket) -> bool:
        async with node.sessions.claim(socket, self.pid, self.offset) as found:
            if found is None:
                return False
            fresh, socket.sid, socket.pid = socket.sid, found.sid, found.pid
            node.hub.add(socket)
            rooms, since, starts = found.rooms, found.offset, found.starts
            if await node.hub.resume(socket, rooms, since, lambda: self._greeted(line, True), starts):
                node.sessions.opened(socket, found)
                return True
            node.hub.forget(socket)
            socket.sid = fresh
            if not socket.gone:
                node.sessions.drop(found)
            return False

    def _greeted(self, line: Line, recovered: bool) -> None:
        if self._connecting is not line or not line.open:
            return
        self.line, self._connecting = line, None
        if not recovered:
            self.offset, self._joined = "", False
        if self.pid:  # otherwise it is its first connection
            self.record.came_back(recovered)
        self.pid = line.socket.pid

    def receive(self, message: dict[str, object]) -> None:
        data = message["data"]
        assert isinstance(data, dict)
        now_s = self.world.loop.time()
        if message["event"] == "resync":
            for room in data["rooms"]:
                self.record.resync(room, now_s)
            # It reloads. What it loads may contain events that come again, or that came just before.
            heard = self.record.heard
            self.record.sessions.append([one for one in heard if one.at_s < now_s])
            self.record.heard = [one for one in heard if one.at_s == now_s]
            return
        self.offset = str(message["offset"])
        self.record.hears((data["by"], data["n"]), self.offset, now_s)


class World:
    """What a schedule acts on. `primary` is the server to which new connections lead."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.network = Network(self.chance)
        self.loop = VirtualLoop(self.network, START_S)
        self.network.loop = self.loop
        self.steps: list[str] = []
        self.primary = self._new_server("a")
        self.nodes: list[Node] = []
        self.dead: list[Node] = []
        self.clients: list[Client] = []
        self.sent: list[Sent] = []
        self.log_kept = True  # no server lost anything
        self.replaced: ModelServer | None = None  # an old primary that still takes writes beside its successor
        self.split = False  # were there ever two primaries?
        self.published_by: dict[str, Node] = {}
        self.taken_by: dict[tuple[str, int], Node] = {}  # the node that acknowledged an event

    async def close(self) -> None:
        """End all that still runs."""
        for node in self.nodes:
            await node.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def now_ms(self) -> int:
        return int(self.loop.time() * 1000)

    def key(self, name: str) -> bytes:
        """Return the name of a key of the leases."""
        return self.nodes[0].valkey.names.cluster.key(name).encode()

    def note(self, what: str) -> None:
        """Say what the schedule does, for the one who replays a seed."""
        self.steps.append(f"{self.loop.time() - START_S:7.3f} {what}")

    def _new_server(self, name: str) -> ModelServer:
        """Servers' clocks differ in their last digit, so two primaries never give one id to two events.

        Real ones may, by chance. A client that moves from one to the other with just that offset is not noticed.
        """
        last = ord(name) % SERVERS
        return ModelServer(name, lambda: self.now_ms() // SERVERS * SERVERS + last, SCRIPTS)

    def promoted(self, lag_ms: int) -> ModelServer:
        """Return a new primary: a replica of the present one that lacks its last `lag_ms`."""
        server = self._new_server(chr(ord(self.primary.name) + 1))
        server.start(self.primary.kept_without(lag_ms))
        return server

    async def new_node(self) -> Node:
        name = f"n{len(self.nodes) + len(self.dead) + 1}"
        self.network.where[name] = self.primary
        node = Node(self, name)
        self.nodes.append(node)
        await node.start()
        return node

    def new_client(self) -> Client:
        client = Client(self, len(self.clients) + 1)
        self.clients.append(client)
        return client

    def some_node(self) -> Node | None:
        living = [node for node in self.nodes if node.alive]
        return self.chance.choice(living) if living else None

    async def keep_connected(self, client: Client) -> None:
        """Do as a client library: connect again after a while, to any node."""
        while True:
            node = self.some_node()
            if not client.connected and node is not None:
                await client.connect(node)
            await asyncio.sleep(0.05 + self.chance.random() * 0.5)

    async def keep_publishing(self, by: str, until_s: float) -> None:
        """Publish one event after the other, each until it is acknowledged, as a back end does."""
        number = 0
        while self.loop.time() < until_s:
            number += 1
            rooms = tuple(self.chance.sample(ROOMS, self.chance.choice((1, 1, 2))))
            sent = Sent((by, number), frozenset(rooms), self.loop.time())
            self.sent.append(sent)
            text = json.dumps({"by": by, "n": number})
            event = Event(NAMESPACE, "said", text, rooms, (), f"{by}-{number}")
            while not sent.offset:
                await self._try(by, sent, event)
            await asyncio.sleep(self.chance.random() ** 3 * 0.5)

    async def _try(self, by: str, sent: Sent, event: Event) -> None:
        node = self.published_by.get(by)
        if node is None or not node.alive:
            node = self.some_node()
        if node is None:
            await asyncio.sleep(0.1)
            return
        self.published_by[by] = node
        sent.tries += 1
        try:
            offset = await node.backplane.append(event)
        except RtError as refused:
            assert refused.code == "UNAVAILABLE", refused
            await asyncio.sleep(0.1 + self.chance.random() * 0.3)
            return
        if node.alive:  # otherwise its answer never arrived
            sent.offset, sent.acked_s = offset, self.loop.time()
            # What only the old one of two primaries took was never replicated. It is sent again, but not promised.
            replicated = self.replaced is None or node.valkey.run_id != self.replaced.run_id
            sent.kept = replicated
            self.taken_by[sent.key] = node

"""Network: connections between nodes and model servers, with delays from a seed, cuts, and names that move.

A connection keeps the order of its bytes. While a node is cut off from a server nothing travels between the two, and
neither end notices: what was sent arrives after the cut, as TCP repeats it. A stopped server reads and sends nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from tests.simulation.model_server import ModelServer, Session
from tests.simulation.virtual_loop import VirtualLoop

USUAL_S, SLOW_S, SLOW_SHARE = 0.002, 0.06, 0.03  # delays of most messages, and of the few that take long


class Network:
    """`where[node]` is the server to which the host name `<node>.valkey` leads."""

    def __init__(self, chance: random.Random) -> None:
        self.loop: VirtualLoop
        self.chance = chance
        self.where: dict[str, ModelServer] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._stopped: set[str] = set()
        self._dead: set[str] = set()
        self._connections: dict[Connection, None] = {}

    async def dial(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> tuple[Any, Any]:
        node = host.partition(".")[0]
        await asyncio.sleep(self.delay_s())
        if node in self._dead:
            raise OSError("the machine is gone")
        while not self.passes(node, self.where[node]):  # noqa: ASYNC110  virtual time: to poll costs nothing
            await asyncio.sleep(0.2)  # a SYN is repeated
        server = self.where[node]
        if not server.alive:
            raise ConnectionRefusedError(f"{server.name} does not run")
        connection = Connection(self, node, server, factory())
        self._connections[connection] = None
        connection.protocol.connection_made(connection)
        return connection, connection.protocol

    def delay_s(self) -> float:
        longest = SLOW_S if self.chance.random() < SLOW_SHARE else USUAL_S
        return self.chance.random() * longest

    def passes(self, node: str, server: ModelServer) -> bool:
        return (node, server.name) not in self._cuts and server.name not in self._stopped

    # ── what a schedule may do ────────────────────────────────────────────────────────────────────────────────────

    def cut(self, node: str, server: ModelServer) -> None:
        self._cuts.add((node, server.name))

    def heal_cut(self, node: str, server: ModelServer) -> None:
        self._cuts.discard((node, server.name))
        self._deliver_held()

    def reset(self, node: str, server: ModelServer) -> None:
        """The node's connections to a server end, as when a proxy leads elsewhere."""
        for connection in [one for one in self._connections if one.node == node and one.server is server]:
            connection.reset()

    def stop(self, server: ModelServer) -> None:
        """The process is stopped, as by SIGSTOP."""
        self._stopped.add(server.name)

    def go_on(self, server: ModelServer) -> None:
        self._stopped.discard(server.name)
        self._deliver_held()

    def heal(self) -> None:
        """End all cuts and stops."""
        self._cuts.clear()
        self._stopped.clear()
        self._deliver_held()

    def _deliver_held(self) -> None:
        for connection in self._connections:
            connection.to_server.go_on()
            connection.to_node.go_on()

    def node_died(self, node: str) -> None:
        """The node's machine is gone: its servers see the connections end."""
        self._dead.add(node)
        for connection in [one for one in self._connections if one.node == node]:
            connection.abort()

    def forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)


class Direction:
    """What travels one way. None means the end of the connection."""

    def __init__(self, connection: Connection, arrive: Callable[[bytes | None], None]) -> None:
        self._connection = connection
        self._arrive = arrive
        self._on_the_way: list[bytes | None] = []
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, data: bytes | None) -> None:
        self._on_the_way.append(data)
        if self._timer is None:
            self.go_on()

    def go_on(self) -> None:
        network = self._connection.network
        if self._on_the_way and self._timer is None and network.passes(self._connection.node, self._connection.server):
            self._last_s = max(self._last_s, network.loop.time() + network.delay_s())
            self._timer = network.loop.call_at(self._last_s, self._arrived)

    def _arrived(self) -> None:
        self._timer = None
        network, connection = self._connection.network, self._connection
        if not network.passes(connection.node, connection.server):
            return
        arrived, self._on_the_way = self._on_the_way, []
        for data in arrived:
            self._arrive(data)
        self.go_on()


class Connection(asyncio.Transport):
    """The node's end of a connection; the server's is `session`."""

    def __init__(self, network: Network, node: str, server: ModelServer, protocol: Any) -> None:
        super().__init__()
        self.network, self.node, self.server, self.protocol = network, node, server, protocol
        self.to_server = Direction(self, self._server_reads)
        self.to_node = Direction(self, self._node_reads)
        self.session: Session = server.accept(self._server_sends, self._server_ends)
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closed:
            self.to_server.send(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self.to_server.send(None)
            self.network.loop.call_soon(self.protocol.connection_lost, None)

    def reset(self) -> None:
        """End it at both ends."""
        self.to_server.send(None)
        self.to_node.send(None)

    def is_closing(self) -> bool:
        return self._closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def _server_reads(self, data: bytes | None) -> None:
        if data is None:
            self.session.closed()
            self.network.forget(self)
        elif self.session in self.server.sessions:
            self.session.receive(data)

    def _server_sends(self, data: bytes) -> None:
        if data:
            self.to_node.send(data)

    def _server_ends(self) -> None:
        self.to_node.send(None)

    def _node_reads(self, data: bytes | None) -> None:
        if self._closed:
            return
        if data is None:
            self._closed = True
            self.network.forget(self)
            self.protocol.connection_lost(ConnectionResetError("the server closed the connection"))
        else:
            self.protocol.data_received(data)

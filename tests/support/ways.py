"""Every way to the handlers of a client port: the fast path, Tornado, TLS, deflate, and another node's relay and
handover. Limits are the same on all of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from tornado.netutil import bind_sockets
from tornado.web import Application

from insightdesk_rt.engine.cluster.directory import NodePlace, new_place
from insightdesk_rt.engine.doors.client_port import ClientPort, PortSettings
from insightdesk_rt.engine.doors.engineio import socketio_handlers
from insightdesk_rt.engine.doors.handlers import NoHandler
from insightdesk_rt.engine.doors.listener import Times, make_http_server
from insightdesk_rt.engine.doors.relay import Relay, bind_local, foreign_routes, relay_routes
from insightdesk_rt.engine.transport.handover import Handover
from tests.support.certificates import contexts
from tests.support.door import Door, Http, RawSocket, door

WAYS = ("fast", "tornado", "tls", "deflate", "relay")
POLL = "/socket.io/?EIO=4&transport=polling"
SOCKET = "/socket.io/?EIO=4&transport=websocket"
OTHER = "n2"  # the node that is reached on the way "relay"; the door is n1


class OnePlace:
    """A directory of one node."""

    def __init__(self, place: NodePlace) -> None:
        self.place = place

    async def find(self, node_id: str) -> NodePlace | None:
        return self.place if node_id == self.place.node else None


class ByWay:
    """A client port and how to reach it. `number` is the TCP port to use: the other node's on the way "relay"."""

    def __init__(self, way: str, door: Door, how: dict[str, Any]) -> None:
        self.way = way
        self.door = door
        self.number = door.number
        self.connections: list[Http] = []
        self.how = how
        self.front: ClientPort | None = None
        self.relay: Relay | None = None

    @property
    def over_limit(self) -> dict[str, int]:
        """What was counted, by either node."""
        counts = self.door.registry.over_limit
        return dict(counts + self.front.registry.over_limit if self.front is not None else counts)

    async def http(self) -> Http:
        how = {name: value for name, value in self.how.items() if name != "headers"}
        return await Http.to(self, **how)  # type: ignore[arg-type]

    async def session(self) -> str:
        """Open a polling session at its node and return its id."""
        at_home = {name: value for name, value in self.how.items() if name != "headers"}
        http = await Http.to(self.door, **at_home)
        opened = await http.ask("GET", POLL)
        await http.close()
        sid: str = json.loads(opened.body[1:])["sid"]
        return sid

    async def socket(self) -> RawSocket:
        """Return a websocket of Socket.IO; on the way "relay" one that has taken over from the polls of a session."""
        if self.way != "relay":
            socket = await RawSocket.to(self, SOCKET, **self.how)  # type: ignore[arg-type]
            assert (await socket.text()).startswith("0{")
            return socket
        socket = await RawSocket.to(self, f"{SOCKET}&sid={await self.session()}")  # type: ignore[arg-type]
        socket.say("2probe")
        assert await socket.text() == "3probe"
        socket.say("5")
        return socket


@asynccontextmanager
async def door_by(way: str, **options: Any) -> AsyncIterator[ByWay]:
    """`options` are those of `door`; the other node has the same settings."""
    tls, client = contexts() if way == "tls" else (None, None)
    how: dict[str, Any] = {"ssl": client} if client else {}
    if way == "deflate":
        how["headers"] = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    no_fast_path = (
        mock.patch("tests.support.door.fast_path_allowed", lambda *_, **__: False) if way == "tornado" else None
    )
    if no_fast_path is not None:
        no_fast_path.start()
    try:
        async with door(tls=tls, websocket_deflate=way == "deflate", **options) as opened:
            by = ByWay(way, opened, how)
            if way == "relay":
                async with another_node(by, options):
                    yield by
            else:
                yield by
            for connection in by.connections:
                await connection.close()
    finally:
        if no_fast_path is not None:
            no_fast_path.stop()


@asynccontextmanager
async def another_node(by: ByWay, options: dict[str, Any]) -> AsyncIterator[None]:
    """Start the node that is reached, and the door's ends of relay and handover."""
    owner, opened = by.door.client_port, by.door
    place = new_place("n1", "")
    directory: Any = OnePlace(place)
    settings: dict[str, Any] = {"default_handler_class": NoHandler, "default_handler_args": {"port": owner}}
    times = Times(options.get("head_ms", 600_000) / 1000, options.get("body_timeout_s", 30), 10)
    inner = make_http_server(Application(relay_routes(owner, place.key), **settings), times)
    inner.add_sockets([bind_local(place)])
    handover = Handover(place.local, place.key, Relay(owner, directory).take)
    handover.start()

    front_settings = {name: value for name, value in options.items() if name in PortSettings.__struct_fields__}
    front = by.front = ClientPort(type(opened.registry)(opened.wheel), opened.recorder, PortSettings(**front_settings))
    relay = by.relay = Relay(front, directory)
    routes = [*foreign_routes(front, relay, OTHER), *socketio_handlers(front)]
    settings = {"default_handler_class": NoHandler, "default_handler_args": {"port": front}}
    counted = front.registry.over_limit
    outer = make_http_server(Application(routes, **settings), times, lambda setting: counted.update([setting]))
    sockets = bind_sockets(0, "127.0.0.1")
    outer.add_sockets(sockets)
    by.number = sockets[0].getsockname()[1]
    try:
        yield
    finally:
        handover.close()
        for server in (outer, inner):
            server.stop()
            await server.close_all_connections()

"""Composition: builds every part from the settings, owns both ports, starts the clocks, and stops all in reverse.

Nothing else in the package knows more than the parts it was handed.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from tornado.httpserver import HTTPServer
from tornado.ioloop import PeriodicCallback
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from insightdesk_rt import __version__
from insightdesk_rt.admin.base import Admin, NotFound
from insightdesk_rt.admin.health import Check, health_routes
from insightdesk_rt.admin.nodes import Node, node_routes
from insightdesk_rt.admin.push import push_routes
from insightdesk_rt.cluster.backplane import ValkeyBackplane
from insightdesk_rt.cluster.calls import Calls
from insightdesk_rt.cluster.leases import BEAT_MS, Leases
from insightdesk_rt.cluster.resume import Resume
from insightdesk_rt.cluster.valkey import Valkey
from insightdesk_rt.config import ConfigError, Loaded, shown
from insightdesk_rt.demo import Demo
from insightdesk_rt.desk import Desk, build_desk
from insightdesk_rt.drain import Drain
from insightdesk_rt.embedded import Embedded, EmbeddedError, start_embedded
from insightdesk_rt.errors import RtError
from insightdesk_rt.handlers.base import ClientPort, NoHandler
from insightdesk_rt.handlers.demo import demo_routes
from insightdesk_rt.handlers.engineio import socketio_handlers
from insightdesk_rt.handlers.native import native_handlers
from insightdesk_rt.hub.hub import Hub
from insightdesk_rt.keys import KeyRing
from insightdesk_rt.namespaces import PATHS
from insightdesk_rt.namespaces.dispatch import Dispatch
from insightdesk_rt.pieces import client_host, dispatch_settings, port_settings, replay, signer, tls
from insightdesk_rt.transport.wheel import Wheel, monotonic_ms

log = logging.getLogger(__name__)

WHEEL_STEP_MS = 50
SWEEP_MS = 60_000
REVIVE_MS = 500
BACKLOG = 1024  # connections the kernel holds for us: a storm of reconnects comes at once
STOP_WITHIN_S = 10.0
BODY_S = 30.0
MAX_BODY_BYTES = 65_536  # of paths that take none; the doors that take one say so themselves


class StartError(Exception):
    """Why the server did not start, in one line for the terminal."""


class Server:
    """One node. `start` raises StartError or ConfigError and leaves nothing behind; `stop` ends what it started."""

    def __init__(self, loaded: Loaded) -> None:
        self.settings = loaded.settings
        self.node_id = loaded.settings.node_id or "n" + secrets.token_hex(3)
        self.embedded: Embedded | None = None
        self.port = self.admin_port = 0
        self._drain_s = 0.0
        self._forgotten = False
        self._stack = contextlib.AsyncExitStack()  # what must be ended, the last first

    async def start(self) -> None:
        settings = self.settings
        try:
            clients = _bind("port", settings.address, settings.port)
            self._stack.callback(_close_all, clients)
            admins = _bind("admin_port", settings.admin_address, settings.admin_port)
            self._stack.callback(_close_all, admins)
            self.port, self.admin_port = clients[0].getsockname()[1], admins[0].getsockname()[1]
            await self._build(clients, admins)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, drain_s: float = 0.0) -> None:
        """Send clients away, spread over `drain_s`, in a way that makes them come back; then end everything else."""
        self._drain_s = drain_s
        await self._stack.aclose()

    async def _build(self, clients: list[socket.socket], admins: list[socket.socket]) -> None:
        settings, stack = self.settings, self._stack
        keys = KeyRing(settings)
        await keys.start()
        stack.push_async_callback(keys.close)
        valkey = await self._valkey()
        backplane = ValkeyBackplane(
            valkey,
            PATHS,
            self.node_id,
            log_max_entries=settings.log_max_entries,
            max_event_bytes=settings.max_event_bytes,
        )
        hub = Hub(backplane, PATHS, settings.max_rooms_per_socket, replay(settings))
        backplane.on_resync = hub.resync
        await backplane.start()
        stack.push_async_callback(backplane.close)

        wheel = Wheel(WHEEL_STEP_MS, monotonic_ms)
        holdings: list[Holding] = []
        leases = Leases(valkey, self.node_id, lambda dead: _clear(holdings, dead), lambda: _put_down(holdings))
        try:
            desk = build_desk(settings, valkey, hub, wheel, lambda: leases.incarnation)
        except ValueError as why:
            raise ConfigError(str(why)) from None
        holdings.append(desk)
        sessions = None
        if settings.connection_recovery:
            sessions = Resume(
                valkey,
                self.node_id,
                backplane.address,
                lambda: leases.incarnation,
                hub.position,
                lambda address, pid: calls.replaced(address, pid),
                window_s=settings.recovery_window_s,
            )
            holdings.append(sessions)
            hub.on_rooms = sessions.moved
            sessions.start()
            stack.push_async_callback(sessions.close)
        await self._register(valkey, leases, desk)
        stack.push_async_callback(leases.close)
        for namespace in desk.namespaces:
            stack.push_async_callback(namespace.close)
        dispatch = Dispatch(hub, desk.namespaces, keys.verify, wheel, dispatch_settings(settings), sessions)
        stack.push_async_callback(dispatch.close, STOP_WITHIN_S)
        calls = Calls(
            backplane,
            hub,
            lambda: leases.incarnation,
            leases.living,
            dispatch.expel,
            sessions.evict if sessions is not None else lambda pid: None,
            desk.recheck,
        )
        stack.push_async_callback(calls.close)
        desk.everywhere(calls.recheck)
        self._start_clocks(wheel, dispatch, desk, leases, holdings)

        host = client_host(settings, wheel, self.node_id)
        port = ClientPort(host, dispatch, port_settings(settings))
        demo = Demo(host, dispatch, desk.tickets, desk.notifications, signer(settings)) if settings.demo else None
        self._serve(
            clients,
            [*socketio_handlers(port), *native_handlers(port, PATHS), *demo_routes(demo)],
            default_handler_class=NoHandler,
            default_handler_args={"port": port},
            max_body_size=MAX_BODY_BYTES,
            ssl_options=tls(settings),
        )
        if demo is not None:
            await demo.start()
            stack.push_async_callback(demo.close)
        drain = Drain(host, lambda yes: setattr(port, "accepting", yes))
        node = Node(
            self.node_id, __version__, host, hub, PATHS, drain, lambda: leases.leads, lambda: backplane.subscribed
        )
        admin = Admin(keys.verify)
        self._serve(
            admins,
            [
                *health_routes(admin, _checks(valkey, backplane, port)),
                *node_routes(admin, node, calls),
                *push_routes(admin, desk.tickets, desk.notifications, hub, PATHS, settings.max_event_bytes),
            ],
            default_handler_class=NotFound,
            default_handler_args={"admin": admin},
            ssl_options=tls(settings),
        )
        # A stop goes up from here: no new clients, then those there are sent away while polls are still answered.
        stack.push_async_callback(self._send_away, drain)

    async def _register(self, valkey: Valkey, leases: Leases, desk: Desk) -> None:
        """Be known to the other nodes, and clear up after those that died when nobody was there to see it."""
        try:
            await leases.beat()
            await desk.only(await leases.living())
        except RtError as refused:
            raise StartError(f"valkey_url: {refused.message}") from None
        valkey.on_up.append(self._valkey_up)

    def _valkey_up(self, replaced: bool) -> None:
        self._forgotten = self._forgotten or replaced

    async def _valkey(self) -> Valkey:
        settings = self.settings
        url = settings.valkey_url
        if not url:
            try:
                self.embedded = start_embedded(settings.data_dir, durable=settings.durable)
            except EmbeddedError as why:
                raise StartError(str(why)) from None
            self._stack.callback(self.embedded.stop)
            self._tick(self._revive, REVIVE_MS, "watching the embedded Valkey")
            url = self.embedded.url
        valkey = Valkey(url, settings.valkey_prefix, durable=settings.durable)
        self._stack.push_async_callback(valkey.close)
        await valkey.start()
        if not valkey.available:
            raise StartError(f"valkey_url = {shown('valkey_url', url)}: nobody answers there")
        return valkey

    def _revive(self) -> None:
        if self.embedded is not None and self.embedded.restart_if_dead():
            log.error("the embedded Valkey had died and was started again")

    def _start_clocks(
        self, wheel: Wheel, dispatch: Dispatch, desk: Desk, leases: Leases, holdings: Sequence[Holding]
    ) -> None:
        async def beat() -> None:
            await leases.beat()
            if self._forgotten:  # by a Valkey that came back as another: what this node holds is put down again
                await _put_down(holdings)
                self._forgotten = False

        self._tick(beat, BEAT_MS, "the lease")
        self._tick(wheel.turn, WHEEL_STEP_MS, "the wheel")
        self._tick(dispatch.sweep, SWEEP_MS, "sweeping")
        for namespace in desk.namespaces:
            for ticker in namespace.tickers:
                call = getattr(namespace, ticker.method)
                if ticker.on_leader:
                    call = _when(lambda: leases.leads, call)
                self._tick(call, ticker.every_ms, f"{namespace.path} {ticker.method}")

    def _tick(self, call: Callable[[], Awaitable[None] | None], every_ms: float, what: str) -> None:
        """Run something on a clock until the server stops: start to start, late turns skipped, failures logged."""

        async def turn() -> None:
            try:
                done = call()
                if done is not None:
                    await done
            except RtError as refused:
                log.debug("a turn was skipped", extra={"what": what, "why": refused.code})
            except Exception:
                log.exception("a turn failed", extra={"what": what})

        clock = PeriodicCallback(turn, every_ms)
        clock.start()
        self._stack.callback(clock.stop)

    async def _send_away(self, drain: Drain) -> None:
        await drain.finish(self._drain_s)

    def _serve(self, sockets: list[socket.socket], routes: list[Any], **options: Any) -> None:
        """Answer HTTP on sockets that are bound already."""
        of_server = {name: options.pop(name) for name in ("max_body_size", "ssl_options") if name in options}
        application = Application(routes, log_function=_no_access_log, **options)
        # Headers that take longer than the handshake may, and connections kept open that long for nothing, are cut.
        server = HTTPServer(
            application, idle_connection_timeout=self.settings.handshake_timeout_s, body_timeout=BODY_S, **of_server
        )
        server.add_sockets(sockets)

        async def close() -> None:
            server.stop()
            await server.close_all_connections()

        self._stack.push_async_callback(close)


# ── health ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _checks(valkey: Valkey, backplane: ValkeyBackplane, port: ClientPort) -> list[Check]:
    async def answers() -> str:
        await valkey.command("PING")
        return ""

    async def hears() -> str:
        return "" if backplane.subscribed else "this node does not hear the others"

    async def accepts() -> str:
        return "" if port.accepting else "this node sends its clients away"

    return [Check("valkey", answers), Check("subscription", hears), Check("drain", accepts)]


class Holding(Protocol):
    """What keeps facts in Valkey under this node's name."""

    async def node_lost(self, incarnation: str) -> None: ...

    def rejoin(self) -> Awaitable[None] | None: ...


async def _clear(holdings: Sequence[Holding], dead: str) -> None:
    for holding in holdings:
        await holding.node_lost(dead)


async def _put_down(holdings: Sequence[Holding]) -> None:
    for holding in holdings:
        done = holding.rejoin()
        if done is not None:
            await done


def _when(true: Callable[[], bool], call: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def maybe() -> None:
        if true():
            await call()

    return maybe


# ── sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bind(name: str, address: str, port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, address, backlog=BACKLOG)
    except (OSError, OverflowError) as why:
        reason = getattr(why, "strerror", None) or str(why)
        raise StartError(f"{name} = {port}: cannot listen on {address}: {reason}") from None


def _close_all(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _no_access_log(handler: RequestHandler) -> None:
    """Requests are counted, not logged: a line each would bury what matters, and a sid is a secret."""

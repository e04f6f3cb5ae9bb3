"""Composition: builds every part from the settings, owns both ports, starts the clocks, and stops all in reverse.

Nothing else in the package knows more than the parts it was handed.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec import structs
from tornado.web import Application, RequestHandler

from insightdesk_rt.api.handler import NotFound
from insightdesk_rt.api.keys_and_scopes import AdminAccess, KeyFile
from insightdesk_rt.app.certificates import Certificates
from insightdesk_rt.app.config import LoadedSettings, flat, shown, table
from insightdesk_rt.app.embedded_valkey import Embedded, EmbeddedError
from insightdesk_rt.demo import Demo
from insightdesk_rt.demo.routes import demo_routes
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.clock import ValkeyClock
from insightdesk_rt.engine.cluster.directory import Directory, new_place
from insightdesk_rt.engine.cluster.leases import BEAT_MS, Leases
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.rivals import Rivals, has_ended, this_process
from insightdesk_rt.engine.cluster.seal import Seal
from insightdesk_rt.engine.cluster.sessions import ClusterSessions
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import Dispatch
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.dispatch.namespace import Context
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.doors.drain import Drain
from insightdesk_rt.engine.doors.engineio import socketio_handlers
from insightdesk_rt.engine.doors.fast_path.fast_path import FastPath, fast_path_allowed
from insightdesk_rt.engine.doors.handlers import ClientHealthHandler, NoHandler
from insightdesk_rt.engine.doors.listener import StartError, bind, close_all, make_http_server, port_of
from insightdesk_rt.engine.doors.native import native_handlers
from insightdesk_rt.engine.doors.relay import Relay, answers, bind_local, foreign_routes, relay_routes
from insightdesk_rt.engine.doors.static_files import client_script_routes
from insightdesk_rt.engine.errors import ConfigError, RtError
from insightdesk_rt.engine.hub.hub import Hub, Replay
from insightdesk_rt.engine.periodic import Work, every, only_if
from insightdesk_rt.engine.secret import shown_url
from insightdesk_rt.engine.signing_keys import DemoKeys, KeyRing, cluster_key, fingerprints
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.handover import Handover
from insightdesk_rt.engine.transport.lag import LoopLag
from insightdesk_rt.engine.transport.wheel import Wheel, monotonic_ms
from insightdesk_rt.helpdesk.features import FACTS, FEATURES, PATHS, binary_events, sent_events
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from insightdesk_rt.operations.moderation.moderation import TICK_MS, Moderation
from insightdesk_rt.operations.moderation.rule_store import RuleStore
from insightdesk_rt.operations.routes import AdminPortSettings, ServerParts, admin_port
from insightdesk_rt.operations.views.configuration import SettingView
from insightdesk_rt.operations.views.node_stats import EVERY_S, NodeStats

log = logging.getLogger(__name__)

WHEEL_STEP_MS = 50
SWEEP_MS = 60_000
REVIVE_MS = 500
NUMBERS_MS = EVERY_S * 1000
STOP_WITHIN_S = 10.0
MAX_BODY_BYTES = 65_536  # of paths that take none; the doors that take one say so themselves


class Server:
    """One node. `start` raises StartError or ConfigError and leaves nothing behind; `stop` ends what it started.

    `clients` are the client port's listening sockets, if somebody has bound them already.
    """

    def __init__(self, loaded: LoadedSettings, clients: list[socket.socket] | None = None) -> None:
        self.loaded, self.settings = loaded, loaded.settings
        self.node_id = loaded.settings.process.node_id or "n" + secrets.token_hex(3)
        self._clients = clients
        self.embedded: Embedded | None = None
        self.port = self.admin_port = 0
        self._drain_s = 0.0
        self._certificates = Certificates(loaded.settings.tls)
        self._stack = contextlib.AsyncExitStack()  # what must be ended, the last first

    async def start(self) -> None:
        settings = self.settings
        try:
            clients = self._clients or self._bind("port", settings.client_port.address, settings.client_port.port)
            admins = self._bind("admin_port", settings.admin_port.admin_address, settings.admin_port.admin_port)
            relays = self._bind("relay_port", (settings.relay.relay_address,), settings.relay.relay_port)
            self.port, self.admin_port = port_of(clients), port_of(admins)
            await self._build(clients, admins, relays)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, drain_s: float = 0.0) -> None:
        """Send clients away, spread over `drain_s`, in a way that makes them come back; then end everything else."""
        self._drain_s = drain_s
        await self._stack.aclose()

    def reload(self) -> None:
        """Load the certificate and key again, for connections from now on. Logs how it went."""
        self._certificates.reload()

    def _bind(self, setting: str, addresses: Sequence[str], port: int) -> list[socket.socket]:
        sockets = bind(setting, addresses, port) if any(addresses) else []
        self._stack.callback(close_all, sockets)
        return sockets

    async def _build(
        self, clients: list[socket.socket], admins: list[socket.socket], relays: list[socket.socket]
    ) -> None:
        settings, stack = self.settings, self._stack
        admin_keys = KeyFile(settings.admin_port.admin_keys_file)
        keys = KeyRing(settings.tokens)
        demo_keys = DemoKeys(settings.tokens) if settings.process.demo else None
        await keys.start()
        stack.push_async_callback(keys.close)
        valkey = await self._valkey()
        clock = ValkeyClock(valkey)
        await _or_say(valkey, clock.look())
        self._tick(clock.look, BEAT_MS, "Valkey's clock")
        backplane = ValkeyBackplane(
            valkey,
            PATHS,
            self.node_id,
            settings=settings.event_log,
            seal=Seal(cluster_key(settings.tokens), clock.now_ms),
            facts=FACTS,
        )
        wheel = Wheel(WHEEL_STEP_MS, monotonic_ms)
        host = ClientRegistry(wheel, node_id=self.node_id, limits=settings.outbox, settings=settings.clients)
        hub = Hub(
            backplane,
            PATHS,
            settings.hub.max_rooms_per_socket,
            Replay.within(settings.outbox),
            sent_events(),
            host.flusher.delivered,
        )
        await backplane.start()
        stack.push_async_callback(backplane.close)

        holdings: list[Holding] = []
        leases = Leases(
            valkey,
            self.node_id,
            lambda dead: _clear(holdings, leases, directory, dead),
            lambda: _put_down(holdings),
        )
        calls = NodeCalls(backplane, hub, lambda: leases.incarnation, leases.living)
        context = Context(
            hub,
            wheel,
            valkey,
            calls,
            lambda: leases.incarnation,
            leases.fenced,
            backplane.recovered,
            settings.features,
        )
        try:
            features = Features(FEATURES, context)
        except ValueError as why:
            raise ConfigError(str(why)) from None
        backplane.on_facts_lost.append(features.put_down_again)
        calls.on_recheck.append(features.recheck_access)
        sessions = None
        if settings.recovery.connection_recovery:
            sessions = ClusterSessions(
                valkey,
                self.node_id,
                backplane.address,
                lambda: leases.incarnation,
                hub.position,
                calls.replaced,
                window_s=settings.recovery.recovery_window_s,
            )
            holdings.append(sessions)
            calls.on_replaced.append(sessions.evict)
            hub.on_rooms.append(sessions.moved)
            sessions.start()
            stack.push_async_callback(sessions.close)
        relay_at = f"{settings.relay.relay_address}:{port_of(relays)}" if relays else ""
        place = new_place(self.node_id, relay_at, this_process(), fingerprints(settings.tokens))
        directory = Directory(valkey, lambda: leases.incarnation, place)
        holdings += [directory, features]  # the features last: it gives a dead node's clients a moment
        rivals = Rivals(valkey, place, lambda: leases.incarnation)
        await _or_say(valkey, self._register(valkey, leases, features, directory, rivals))
        for namespace in features:
            stack.push_async_callback(namespace.close)
        verify = demo_keys.beside(keys.verify) if demo_keys is not None else keys.verify
        moderation = Moderation(
            RuleStore(valkey), self.node_id, host, hub, verify, lambda: leases.leads, clock.now_s, leases.lost
        )
        dispatch = Dispatch(hub, features, moderation.admission, wheel, settings.dispatch, sessions)
        stack.push_async_callback(dispatch.close, STOP_WITHIN_S)
        stack.push_async_callback(calls.close)
        await _or_say(valkey, moderation.start(calls, dispatch.calls))
        self._tick(moderation.tick, TICK_MS, "what admins have ruled")
        self._start_clocks(wheel, dispatch, features, leases, directory)

        lag = LoopLag()
        lag.start()
        stack.callback(lag.stop)
        stats = NodeStats(host, hub, dispatch.calls, lag)
        stats.turn()
        self._tick(stats.turn, NUMBERS_MS, "this node's numbers")
        packets = structs.replace(settings.packets, binary=binary_events())
        port = ClientPort(host, dispatch, settings.client_port, moderation.access.blocks.blocks_address, packets)
        no_path: dict[str, Any] = {"default_handler_class": NoHandler, "default_handler_args": {"port": port}}
        relay = Relay(port, directory)
        handover = Handover(place.local, place.key, relay.take)
        stack.callback(handover.close)
        handover.start()
        self._serve(
            [*relays, bind_local(place)], relay_routes(port, place.key), **no_path, max_body_size=MAX_BODY_BYTES
        )
        demo = (
            Demo(host, dispatch, features.of(Tickets), features.of(Notifications), demo_keys.sign)
            if demo_keys
            else None
        )
        self._serve(
            clients,
            [
                *foreign_routes(port, relay, self.node_id),
                *socketio_handlers(port),
                *native_handlers(port, PATHS),
                *client_script_routes(),
                *demo_routes(demo),
                ("/healthz", ClientHealthHandler, {"port": port}),
            ],
            **no_path,
            max_body_size=MAX_BODY_BYTES,
            ssl_options=self._certificates.context(),
            fast_path_of=port,
        )
        if demo is not None:
            await demo.start()
            stack.push_async_callback(demo.close)
        drain = Drain(host, lambda yes: setattr(port, "accepting", yes))
        admin, routes = admin_port(
            ServerParts(
                admin_port_settings(self.loaded),
                self.node_id,
                PATHS,
                AdminAccess(lambda token: moderation.access.passed(keys.verify(token)), admin_keys),
                valkey,
                clock,
                backplane,
                calls,
                hub,
                dispatch,
                features,
                moderation,
                port,
                stats,
                lag,
                drain,
                lambda: leases.leads,
            )
        )
        self._serve(
            admins,
            routes,
            default_handler_class=NotFound,
            default_handler_args={"admin": admin},
            ssl_options=self._certificates.context(),
        )
        # A stop goes up from here: no new clients, then those there are sent away while polls are still answered.
        stack.push_async_callback(self._send_away, drain)

    async def _register(
        self, valkey: Valkey, leases: Leases, features: Features, directory: Directory, rivals: Rivals
    ) -> None:
        """Be known to the other nodes, and clear up after those that died when nobody was there to see it."""
        if why := await rivals.before():
            raise StartError(why)
        self._stack.push_async_callback(directory.withdraw)
        self._stack.push_async_callback(leases.close)
        await leases.beat()
        await directory.announce()
        if why := await rivals.after():
            raise StartError(why)
        await leases.takes_over()
        await features.reap_all_except(leases.registered)
        await directory.reap_all_except(leases.registered)
        # One that came back as another may have forgotten what this node holds.
        valkey.on_up.append(lambda replaced: leases.re_register_soon() if replaced else None)

    async def _valkey(self) -> Valkey:
        settings = self.settings
        url = settings.valkey.valkey_url.reveal()
        if not url:
            try:
                self.embedded = settings.embedded.start()
            except EmbeddedError as why:
                raise StartError(str(why)) from None
            self._stack.callback(self.embedded.stop)
            self._tick(self._revive, REVIVE_MS, "watching the embedded Valkey")
            url = self.embedded.url
        valkey = Valkey(url, settings.valkey.valkey_prefix, durable=settings.valkey.durable)
        self._stack.push_async_callback(valkey.close)
        await valkey.start()
        if not valkey.available:
            raise StartError(f"valkey_url = {shown_url(url)}: {valkey.trouble}")
        return valkey

    def _revive(self) -> None:
        if self.embedded is not None and self.embedded.restart_if_dead():
            log.error("the embedded Valkey had died and was started again")

    def _start_clocks(
        self, wheel: Wheel, dispatch: Dispatch, features: Features, leases: Leases, directory: Directory
    ) -> None:
        async def beat() -> None:
            await leases.beat()
            await directory.reconcile()

        self._tick(beat, BEAT_MS, "the lease")
        self._tick(wheel.turn, WHEEL_STEP_MS, "the wheel")
        self._tick(dispatch.sweep, SWEEP_MS, "sweeping")
        for namespace in features:
            for ticker in namespace.tickers:
                work, what = getattr(namespace, ticker.method), f"{namespace.path} {ticker.method}"
                if ticker.on_leader:
                    work = only_if(partial(leases.claims, what, ticker.every_ms), work)
                self._tick(work, ticker.every_ms, what)

    def _tick(self, work: Work, every_ms: float, what: str) -> None:
        """Run something on a clock until the server stops."""
        self._stack.callback(every(every_ms, work, what).stop)

    async def _send_away(self, drain: Drain) -> None:
        await drain.finish(self._drain_s)

    def _serve(
        self, sockets: list[socket.socket], routes: list[Any], *, fast_path_of: ClientPort | None = None, **options: Any
    ) -> None:
        """Answer HTTP on bound sockets. `fast_path_of` is the client port whose plain requests take the fast path."""
        of_server = {name: options.pop(name) for name in ("max_body_size", "ssl_options") if name in options}
        application = Application(routes, log_function=_no_access_log, **options)
        times = self.settings.http
        head_ms, unread_ms = times.handshake_timeout_s * 1000, times.unread_timeout_s * 1000
        first = None
        counted = fast_path_of.host.over_limit if fast_path_of is not None else Counter[str]()
        server = make_http_server(application, times, lambda setting: counted.update([setting]), **of_server)
        if fast_path_of is not None and fast_path_allowed(fast_path_of, tls=bool(of_server.get("ssl_options"))):
            way = FastPath(fast_path_of, server.take, PATHS, head_ms=head_ms, unread_ms=unread_ms)
            self._stack.callback(way.close)
            first = way.take
        server.add_sockets(sockets, first)

        async def close() -> None:
            server.stop()
            await server.close_all_connections()

        self._stack.push_async_callback(close)


class Holding(Protocol):
    """What keeps facts in Valkey under this node's name."""

    async def node_lost(self, incarnation: str) -> None: ...

    def re_register(self) -> Awaitable[None] | None: ...


async def _clear(holdings: Sequence[Holding], leases: Leases, directory: Directory, dead: str) -> None:
    """Clear what a node held that was declared dead, unless it answers: then it is only cut off from Valkey.

    Its users are here, and it comes back or dies. Raises RtError UNAVAILABLE: to be called again.
    """
    place = await directory.place_of(dead)
    if place is not None and not directory.is_own(place):
        if has_ended(place):
            await leases.has_ended(dead)
        elif await answers(place):
            raise RtError("UNAVAILABLE", "It answers, and is only cut off from Valkey.")
    for holding in holdings:
        await holding.node_lost(dead)


async def _put_down(holdings: Sequence[Holding]) -> None:
    for holding in holdings:
        done = holding.re_register()
        if done is not None:
            await done


async def _or_say(valkey: Valkey, start: Awaitable[None]) -> None:
    """Await what needs Valkey. Raises StartError with the reason when that does not serve."""
    try:
        await start
    except RtError as refused:
        raise StartError(f"valkey_url = {shown_url(valkey.url)}: {valkey.trouble or refused.message}") from None


def _no_access_log(handler: RequestHandler) -> None:
    """Requests are counted, not logged: a line each would bury what matters, and a sid is a secret."""


def admin_port_settings(loaded: LoadedSettings) -> AdminPortSettings:
    """Return what the admin port is told of the settings."""
    settings, values = loaded.settings, flat(loaded.settings)
    return AdminPortSettings(
        settings.tokens.user_keys,
        (*settings.admin_port.admin_hosts, *settings.admin_port.admin_address),
        settings.admin_port.on_loopback,
        settings.event_log.max_event_bytes,
        [
            SettingView(name, shown(name, values[name]), loaded.origins[name], one.group, one.help)
            for name, one in table().items()
        ],
    )

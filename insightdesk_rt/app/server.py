"""The composition of one node: builds every part from the settings, and stops all of them in reverse order.

    open_keys         the keys that tokens are checked with
    build_cluster     Valkey, the event log, and this node's place among the others
    build_feed        the feed of the helpdesk's back end
    build_clients     the clients and sockets of this node, and their way to other nodes
    build_features    the helpdesk, from its table; then the node registers in the cluster
    build_backend     the interfaces to the helpdesk's back end, from its table
    build_operations  moderation, the dispatcher that obeys it, and the numbers of this node
    open_ports        the HTTP servers: other nodes, clients, admins

Each returns what later steps use, and registers on `Start.stop` how its parts end. Nothing else in the package knows
more than the parts it was given.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from msgspec import structs
from tornado.web import Application, RequestHandler

from insightdesk_rt.api.handler import NotFound
from insightdesk_rt.api.keys_and_scopes import AdminAccess, KeyFile
from insightdesk_rt.app.certificates import Certificates
from insightdesk_rt.app.config import LoadedSettings, Settings, flat, shown, table
from insightdesk_rt.app.embedded_valkey import Embedded, EmbeddedError
from insightdesk_rt.backend.feed.log import FeedLog
from insightdesk_rt.backend.feed.reader import FeedReader
from insightdesk_rt.backend.feed.settings import FeedSettings
from insightdesk_rt.backend.hooks.connect import ConnectHook
from insightdesk_rt.backend.hooks.part import Hooks
from insightdesk_rt.backend.part import BackendContext, BackendPart
from insightdesk_rt.backend.parts import PARTS
from insightdesk_rt.demo import Demo
from insightdesk_rt.demo.routes import demo_routes
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.clock import ValkeyClock
from insightdesk_rt.engine.cluster.directory import Directory, NodePlace, new_place
from insightdesk_rt.engine.cluster.leases import BEAT_MS, Leases
from insightdesk_rt.engine.cluster.limit_exchange import LimitExchange
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.rivals import Rivals, has_ended, this_process
from insightdesk_rt.engine.cluster.seal import Seal
from insightdesk_rt.engine.cluster.sessions import ClusterSessions
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import Admission, Dispatch, Verify
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.dispatch.namespace import Context, Namespace
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
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.periodic import Work, only_if, start_periodic
from insightdesk_rt.engine.secret import shown_url
from insightdesk_rt.engine.settings import WHEEL_STEP_MS
from insightdesk_rt.engine.shared_limits import EXCHANGE_MS, SharedLimits
from insightdesk_rt.engine.signing_keys import DemoKeys, KeyRing, cluster_key, fingerprints
from insightdesk_rt.engine.tokens import Pass
from insightdesk_rt.engine.transport.client import Client
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

SWEEP_MS = 60_000
REVIVE_MS = 500
NUMBERS_MS = EVERY_S * 1000
STOP_WITHIN_S = 10.0
MAX_BODY_BYTES = 65_536  # of paths that take no body; handlers that take one have their own limit


class Server:
    """One node. If `start` raises StartError or ConfigError, it leaves nothing behind; `stop` stops all parts.

    `clients` are the client port's listening sockets, if they are bound already.
    """

    def __init__(self, loaded: LoadedSettings, clients: list[socket.socket] | None = None) -> None:
        self.settings = loaded.settings
        self.node_id = loaded.settings.process.node_id or "n" + secrets.token_hex(3)
        self.port = self.admin_port = 0
        self.embedded: Embedded | None = None
        self._clients = clients
        self._drain_s = 0.0
        self._admin_keys: KeyFile | None = None
        self._certificates = Certificates(loaded.settings.tls)
        self._ring: KeyRing | None = None
        self._start = Start(loaded, self.node_id, contextlib.AsyncExitStack())

    async def start(self) -> None:
        try:
            await self._build()
        except BaseException:
            await self.stop()
            raise

    async def stop(self, drain_s: float = 0.0) -> None:
        """Disconnect the clients over `drain_s`, in a way that makes them reconnect; then end everything else."""
        self._drain_s = drain_s
        await self._start.stop.aclose()

    def reload(self) -> None:
        """Reload the certificate for new connections, the keys that verify tokens, and those of the admin port.

        Logs the results.
        """
        self._certificates.reload()
        if self._ring is not None:
            self._ring.reload()
        if self._admin_keys is not None:
            self._admin_keys.reload()

    async def _build(self) -> None:
        start = self._start
        bound = bind_ports(start, self._clients)  # first, so that a port in use is noticed before anything else starts
        self.port, self.admin_port = port_of(bound.clients), port_of(bound.admins)
        keys = await open_keys(start)
        self._ring = keys.ring
        self._admin_keys = keys.admins
        cluster = await build_cluster(start, bound)
        self.embedded = cluster.embedded
        feed = build_feed(start, cluster)
        clients = await build_clients(start, cluster)
        features = await build_features(start, cluster, clients, feed)
        backend = await build_backend(start, cluster, feed, clients, features)
        operations = await build_operations(start, keys, cluster, clients, features, backend)
        await open_ports(start, bound, self._certificates, keys, cluster, feed, clients, features, backend, operations)
        # A stop begins here: no new clients, then the present ones are disconnected while polls are still answered.
        start.stop.push_async_callback(self._drain, operations.drain)

    async def _drain(self, drain: Drain) -> None:
        await drain.finish(self._drain_s)


class Start(NamedTuple):
    """The context of every step of the start. `stop` stops the started parts in reverse order."""

    loaded: LoadedSettings
    node_id: str
    stop: contextlib.AsyncExitStack

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def every(self, ms: float, work: Work, what: str) -> None:
        """Run work periodically until the server stops."""
        self.stop.callback(start_periodic(ms, work, what).stop)


class BoundPorts(NamedTuple):
    """Listening sockets that do not accept yet."""

    clients: list[socket.socket]
    admins: list[socket.socket]
    relays: list[socket.socket]


def bind_ports(start: Start, clients: list[socket.socket] | None) -> BoundPorts:
    settings = start.settings

    def bound(setting: str, addresses: Sequence[str], port: int) -> list[socket.socket]:
        sockets = bind(setting, addresses, port) if any(addresses) else []
        start.stop.callback(close_all, sockets)
        return sockets

    client, admin, relay = settings.client_port, settings.admin_port, settings.relay
    return BoundPorts(
        clients or bound("port", client.address, client.port),
        bound("admin_port", admin.admin_address, admin.admin_port),
        bound("relay_port", (relay.relay_address,), relay.relay_port),
    )


class Keys(NamedTuple):
    """`demo` signs and checks the tokens of the demo's people; None without --demo."""

    admins: KeyFile
    ring: KeyRing
    demo: DemoKeys | None

    @property
    def verify(self) -> Verify:
        return self.ring.verify if self.demo is None else self.demo.beside(self.ring.verify)


async def open_keys(start: Start) -> Keys:
    settings = start.settings
    admins, ring = KeyFile(settings.admin_port.admin_keys_file), KeyRing(settings.tokens)
    keys = Keys(admins, ring, DemoKeys(settings.tokens) if settings.process.demo else None)
    await keys.ring.start()
    start.stop.push_async_callback(keys.ring.close)
    return keys


# ── the cluster ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Holding(Protocol):
    """A part that stores facts in Valkey under this node's incarnation."""

    async def node_lost(self, incarnation: str) -> None: ...

    def re_register(self) -> Awaitable[None] | None: ...


class ClusterParts(NamedTuple):
    """`place` says how other nodes reach this one. `holdings` are called when a node has died or registers again."""

    valkey: Valkey
    embedded: Embedded | None
    clock: ValkeyClock
    backplane: ValkeyBackplane
    leases: Leases
    place: NodePlace
    directory: Directory
    holdings: list[Holding]

    def leads(self) -> bool:
        return self.leases.leads


async def build_cluster(start: Start, bound: BoundPorts) -> ClusterParts:
    """Connect to Valkey and prepare this node's place in the cluster. `build_features` registers it."""
    settings, node_id = start.settings, start.node_id
    valkey, embedded = await open_valkey(start)
    clock = ValkeyClock(valkey)
    await or_start_error(valkey, clock.look())
    start.every(BEAT_MS, clock.look, "Valkey's clock")
    seal = Seal(cluster_key(settings.tokens), clock.now_ms)
    backplane = ValkeyBackplane(valkey, PATHS, node_id, settings=settings.event_log, seal=seal, facts=FACTS)
    holdings: list[Holding] = []
    leases = Leases(
        valkey, node_id, lambda dead: clear_up_after(dead, leases, directory, holdings), lambda: re_register(holdings)
    )
    relay_at = f"{settings.relay.relay_address}:{port_of(bound.relays)}" if bound.relays else ""
    place = new_place(node_id, relay_at, this_process(), fingerprints(settings.tokens))
    directory = Directory(valkey, leases.current, place)
    return ClusterParts(valkey, embedded, clock, backplane, leases, place, directory, holdings)


async def open_valkey(start: Start) -> tuple[Valkey, Embedded | None]:
    """Connect to the Valkey of the settings, or start an embedded one. Raises StartError."""
    settings, embedded = start.settings, None
    url = settings.valkey.valkey_url.reveal()
    if not url:
        try:
            embedded = settings.embedded.start()
        except EmbeddedError as why:
            raise StartError(str(why)) from None
        start.stop.callback(embedded.stop)
        start.every(REVIVE_MS, partial(revive, embedded), "watching the embedded Valkey")
        url = embedded.url
    valkey = settings.valkey.connect_to(url, PATHS)
    start.stop.push_async_callback(valkey.close)
    await valkey.start()
    if not valkey.available:
        raise StartError(f"valkey_url = {shown_url(url)}: {valkey.trouble}")
    return valkey, embedded


def revive(embedded: Embedded) -> None:
    if embedded.restart_if_dead():
        log.error("the embedded Valkey had died and was started again")


async def clear_up_after(dead: str, leases: Leases, directory: Directory, holdings: Sequence[Holding]) -> None:
    """Clear what a node held that was declared dead.

    A node that still answers is only cut off from Valkey. It keeps its users, and comes back or dies. Raises RtError
    UNAVAILABLE: call it again.
    """
    place = await directory.place_of(dead)
    if place is not None and not directory.is_own(place):
        if has_ended(place):
            await leases.has_ended(dead)
        elif await answers(place):
            raise RtError("UNAVAILABLE", "It answers, and is only cut off from Valkey.")
    for holding in holdings:
        await holding.node_lost(dead)


async def re_register(holdings: Sequence[Holding]) -> None:
    """Store again what this node holds. Raises RtError UNAVAILABLE: call it again."""
    for holding in holdings:
        done = holding.re_register()
        if done is not None:
            await done


async def or_start_error(valkey: Valkey, work: Awaitable[None]) -> None:
    """Await what needs Valkey. Raises StartError with the reason if Valkey does not serve it."""
    try:
        await work
    except RtError as refused:
        raise StartError(f"valkey_url = {shown_url(valkey.url)}: {valkey.trouble or refused.message}") from None


# ── the feed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class FeedParts(NamedTuple):
    """The feed's log, and this node's readers of it."""

    log: FeedLog
    reader: FeedReader


def build_feed(start: Start, cluster: ClusterParts) -> FeedParts:
    feed = FeedLog(cluster.valkey, start.settings.features.of(FeedSettings))
    start.stop.push_async_callback(feed.close)
    return FeedParts(feed, FeedReader(feed))


# ── the clients ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ClientParts(NamedTuple):
    """`sessions` is None when connection recovery is off. `limits` are those that count once per cluster."""

    wheel: Wheel
    limits: SharedLimits
    registry: ClientRegistry
    hub: Hub
    calls: NodeCalls
    sessions: ClusterSessions | None


async def build_clients(start: Start, cluster: ClusterParts) -> ClientParts:
    """Make the table of clients, the hub with their sockets and rooms, and the calls to other nodes."""
    settings, leases = start.settings, cluster.leases
    wheel = Wheel(WHEEL_STEP_MS, monotonic_ms)
    limits = SharedLimits(cluster.backplane.address)
    registry = ClientRegistry(
        wheel, node_id=start.node_id, limits=settings.outbox, settings=settings.clients, shared=limits
    )
    hub = Hub(
        cluster.backplane,
        PATHS,
        settings.hub.max_rooms_per_socket,
        Replay.within(settings.outbox),
        sent_events(),
        registry.flusher.delivered,
    )
    await cluster.backplane.start()
    start.stop.push_async_callback(cluster.backplane.close)
    calls = NodeCalls(cluster.backplane, hub, cluster.leases.current, leases.living)
    start.stop.push_async_callback(calls.close)
    sessions = open_sessions(start, cluster, hub, calls) if settings.recovery.connection_recovery else None
    exchange = LimitExchange(limits, calls, lambda: leases.nodes, wheel.now_ms)
    start.stop.callback(exchange.close)
    start.every(EXCHANGE_MS, exchange.turn, "shared limits")
    return ClientParts(wheel, limits, registry, hub, calls, sessions)


def open_sessions(start: Start, cluster: ClusterParts, hub: Hub, calls: NodeCalls) -> ClusterSessions:
    sessions = ClusterSessions(
        cluster.valkey,
        start.node_id,
        cluster.backplane.address,
        cluster.leases.current,
        hub.position,
        calls.replaced,
        window_s=start.settings.recovery.recovery_window_s,
    )
    cluster.holdings.append(sessions)
    calls.on_replaced.append(sessions.evict)
    hub.on_rooms.append(sessions.moved)
    sessions.start()
    start.stop.push_async_callback(sessions.close)
    return sessions


# ── the features ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def build_features(start: Start, cluster: ClusterParts, clients: ClientParts, feed: FeedParts) -> Features:
    """Build every feature of the table, then register this node in the cluster. Raises ConfigError, StartError."""
    context = Context(
        clients.hub,
        clients.wheel,
        cluster.valkey,
        clients.calls,
        cluster.leases.current,
        cluster.leases.fenced,
        cluster.backplane.recovered,
        cluster.clock.now_ms,
        start.settings.features,
        feed.log.append,
    )
    try:
        features = Features(FEATURES, context)
    except ValueError as why:
        raise ConfigError(str(why)) from None
    cluster.backplane.on_facts_lost.append(features.put_down_again)
    clients.calls.on_recheck.append(features.recheck_access)
    cluster.holdings.extend((cluster.directory, features))  # features last: clients of a dead node get a moment
    await or_start_error(cluster.valkey, register(start, cluster, features))
    for feature in features:
        start.stop.push_async_callback(feature.close)
    return features


async def register(start: Start, cluster: ClusterParts, features: Features) -> None:
    """Register in the cluster, and clear up after nodes that died while no other node was there to see it."""
    leases, directory = cluster.leases, cluster.directory
    rivals = Rivals(cluster.valkey, cluster.place, cluster.leases.current)
    if why := await rivals.before():
        raise StartError(why)
    start.stop.push_async_callback(directory.withdraw)
    start.stop.push_async_callback(leases.close)
    await leases.beat()
    await directory.announce()
    if why := await rivals.after():
        raise StartError(why)
    await leases.takes_over()
    await features.reap_all_except(leases.registered)
    await directory.reap_all_except(leases.registered)
    # A Valkey that was replaced by another may have lost what this node holds.
    cluster.valkey.on_up.append(lambda replaced: leases.re_register_soon() if replaced else None)


# ── the back end ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def build_backend(
    start: Start, cluster: ClusterParts, feed: FeedParts, clients: ClientParts, features: Features
) -> tuple[BackendPart, ...]:
    """Build and start every part of the table. Raises ConfigError, StartError."""
    settings = start.settings
    context = BackendContext(
        features,
        clients.hub,
        cluster.valkey,
        clients.calls,
        PATHS,
        settings.event_log.max_event_bytes,
        settings.features,
        feed.log,
        feed.reader,
        cluster.leads,
        cluster.clock.now_ms,
    )
    try:
        backend = tuple(kind(context) for kind in PARTS)
    except ValueError as why:
        raise ConfigError(str(why)) from None
    for part in backend:
        start.stop.push_async_callback(part.close)
        await or_start_error(cluster.valkey, part.start())
    return backend


# ── moderation and numbers ────────────────────────────────────────────────────────────────────────────────────────────


class OperationParts(NamedTuple):
    moderation: Moderation
    dispatch: Dispatch
    lag: LoopLag
    stats: NodeStats
    port: ClientPort
    drain: Drain


async def build_operations(
    start: Start,
    keys: Keys,
    cluster: ClusterParts,
    clients: ClientParts,
    features: Features,
    backend: Sequence[BackendPart],
) -> OperationParts:
    """Make what admins rule, the dispatcher that obeys it, and the numbers of this node; start the periodic work."""
    settings, registry, hub = start.settings, clients.registry, clients.hub
    moderation = Moderation(
        RuleStore(cluster.valkey),
        start.node_id,
        registry,
        hub,
        keys.verify,
        cluster.leads,
        cluster.clock.now_s,
        cluster.leases.lost,
    )
    hooks = next(part for part in backend if isinstance(part, Hooks))
    dispatch = open_dispatch(start, moderation, hooks, clients, features)
    features.of(Tickets).passes.verify = partial(verify_pass, keys.ring, moderation)
    await or_start_error(cluster.valkey, moderation.start(clients.calls, dispatch.calls))
    start.every(TICK_MS, moderation.tick, "what admins have ruled")
    start_periodic_work(start, cluster, clients, features, backend, dispatch)
    lag = LoopLag()
    lag.start()
    start.stop.callback(lag.stop)
    stats = NodeStats(registry, hub, dispatch.calls, lag)
    stats.turn()
    start.every(NUMBERS_MS, stats.turn, "this node's numbers")
    packets = structs.replace(settings.packets, binary=binary_events())
    blocks = moderation.access.blocks.blocks_address
    port = ClientPort(registry, dispatch, settings.client_port, blocks, packets, clients.limits)
    drain = Drain(registry, partial(setattr, port, "accepting"))
    return OperationParts(moderation, dispatch, lag, stats, port, drain)


def open_dispatch(
    start: Start, moderation: Moderation, hooks: Hooks, clients: ClientParts, features: Features
) -> Dispatch:
    dispatch = Dispatch(
        clients.hub,
        features,
        admission_of(moderation, hooks.connect),
        clients.wheel,
        start.settings.dispatch,
        clients.sessions,
        own_events=hooks.own_events,
        shared=clients.limits,
    )
    start.stop.push_async_callback(dispatch.close, STOP_WITHIN_S)
    return dispatch


def verify_pass(ring: KeyRing, moderation: Moderation, text: str, user: User) -> Pass:
    """Return a valid pass that the user shows. A revocation of the user or session concerns it like a token."""
    shown = ring.verify_pass(text)
    session_id = shown.session_id or user.session_id
    moderation.access.passed(structs.replace(user, issued_s=shown.issued_s, session_id=session_id))
    return shown


def admission_of(moderation: Moderation, connect: ConnectHook | None) -> Admission:
    """Return who may connect: users of tokens and, with `connect_url`, users whom the back end names."""
    if connect is None:
        return moderation.admission
    hook = connect

    async def identify(client: Client, namespace: str) -> User:
        return moderation.access.passed(await hook.identify(client, namespace))

    return moderation.admission._replace(identify=identify)


def start_periodic_work(
    start: Start,
    cluster: ClusterParts,
    clients: ClientParts,
    features: Features,
    backend: Sequence[BackendPart],
    dispatch: Dispatch,
) -> None:
    leases = cluster.leases

    async def beat() -> None:
        await leases.beat()
        await cluster.directory.reconcile()

    start.every(BEAT_MS, beat, "the lease")
    start.every(WHEEL_STEP_MS, clients.wheel.turn, "the wheel")
    start.every(SWEEP_MS, dispatch.sweep, "sweeping")
    named: list[tuple[str, Namespace | BackendPart]] = [(feature.path, feature) for feature in features]
    for name, owner in [*named, *((part.name, part) for part in backend)]:
        for ticker in owner.tickers:
            work, what = getattr(owner, ticker.method), f"{name} {ticker.method}"
            if ticker.on_leader:
                work = only_if(partial(leases.claims, what, ticker.every_ms), work)
            start.every(ticker.every_ms, work, what)


# ── the ports ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def open_ports(
    start: Start,
    bound: BoundPorts,
    certificates: Certificates,
    keys: Keys,
    cluster: ClusterParts,
    feed: FeedParts,
    clients: ClientParts,
    features: Features,
    backend: Sequence[BackendPart],
    operations: OperationParts,
) -> None:
    """Begin to answer: other nodes, then clients, then admins."""
    relay = open_relay_port(start, bound, cluster, operations.port)
    demo = None
    if keys.demo is not None:
        tickets, notifications = features.of(Tickets), features.of(Notifications)
        demo = Demo(clients.registry, operations.dispatch, tickets, notifications, keys.demo.sign)
    open_client_port(start, bound.clients, certificates, operations.port, relay, demo)
    if demo is not None:
        await demo.start()
        start.stop.push_async_callback(demo.close)
    admin, routes = admin_port(admin_parts(start, keys, cluster, feed, clients, features, backend, operations))
    serve(
        start,
        bound.admins,
        Application(
            routes, log_function=no_access_log, default_handler_class=NotFound, default_handler_args={"admin": admin}
        ),
        ssl_options=certificates.context(),
    )


def open_relay_port(start: Start, bound: BoundPorts, cluster: ClusterParts, port: ClientPort) -> Relay:
    """Answer other nodes, which pass on the polls of this node's clients."""
    relay, place = Relay(port, cluster.directory), cluster.place
    handover = Handover(place.local, place.key, relay.take)
    start.stop.callback(handover.close)
    handover.start()
    application = client_application(port, relay_routes(port, place.key))
    serve(start, [*bound.relays, bind_local(place)], application, max_body_size=MAX_BODY_BYTES)
    return relay


def open_client_port(
    start: Start,
    sockets: list[socket.socket],
    certificates: Certificates,
    port: ClientPort,
    relay: Relay,
    demo: Demo | None,
) -> None:
    application = client_application(
        port,
        [
            *foreign_routes(port, relay, start.node_id),
            *socketio_handlers(port),
            *native_handlers(port, PATHS),
            *client_script_routes(),
            *demo_routes(demo),
            ("/healthz", ClientHealthHandler, {"port": port}),
        ],
    )
    options = {"max_body_size": MAX_BODY_BYTES, "ssl_options": certificates.context()}
    serve(start, sockets, application, fast_path_of=port, **options)


def client_application(port: ClientPort, routes: list[Any]) -> Application:
    return Application(
        routes, log_function=no_access_log, default_handler_class=NoHandler, default_handler_args={"port": port}
    )


def admin_parts(
    start: Start,
    keys: Keys,
    cluster: ClusterParts,
    feed: FeedParts,
    clients: ClientParts,
    features: Features,
    backend: Sequence[BackendPart],
    operations: OperationParts,
) -> ServerParts:
    access = operations.moderation.access
    return ServerParts(
        admin_port_settings(start.loaded),
        start.node_id,
        PATHS,
        AdminAccess(access.checked(keys.ring.verify), keys.admins, clients.wheel.now_ms, clients.limits),
        cluster.valkey,
        cluster.clock,
        cluster.backplane,
        feed.log,
        clients.calls,
        clients.hub,
        operations.dispatch,
        features,
        backend,
        operations.moderation,
        operations.port,
        operations.stats,
        operations.lag,
        operations.drain,
        cluster.leads,
    )


def serve(
    start: Start,
    sockets: list[socket.socket],
    application: Application,
    *,
    fast_path_of: ClientPort | None = None,
    **options: Any,
) -> None:
    """Answer HTTP on bound sockets. `fast_path_of` is the client port whose plain requests take the fast path."""
    times, first = start.settings.http, None
    counted = fast_path_of.registry.over_limit if fast_path_of is not None else Counter[str]()
    server = make_http_server(application, times, lambda setting: counted.update([setting]), **options)
    if fast_path_of is not None and fast_path_allowed(fast_path_of, tls=bool(options.get("ssl_options"))):
        head_ms, unread_ms = times.handshake_timeout_s * 1000, times.unread_timeout_s * 1000
        fast_path = FastPath(fast_path_of, server.take, PATHS, head_ms=head_ms, unread_ms=unread_ms)
        start.stop.callback(fast_path.close)
        first = fast_path.take
    server.add_sockets(sockets, first)

    async def close() -> None:
        server.stop()
        await server.close_all_connections()

    start.stop.push_async_callback(close)


def no_access_log(handler: RequestHandler) -> None:
    """Requests are counted, not logged: a line each would bury what matters, and a sid is a secret."""


def admin_port_settings(loaded: LoadedSettings) -> AdminPortSettings:
    """Return the settings that the admin port uses and shows."""
    settings, values = loaded.settings, flat(loaded.settings)
    return AdminPortSettings(
        settings.tokens.user_keys,
        (*settings.admin_port.admin_hosts, *settings.admin_port.admin_address),
        settings.admin_port.on_loopback,
        [
            SettingView(name, shown(name, values[name]), loaded.origins[name], one.group, one.help)
            for name, one in table().items()
        ],
    )

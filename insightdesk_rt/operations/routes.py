"""The admin port of one node: its parts put together, and all its routes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from insightdesk_rt import __version__
from insightdesk_rt.api.audit import audit_routes
from insightdesk_rt.api.audit_store import AuditLog
from insightdesk_rt.api.handler import Admin, Handler
from insightdesk_rt.api.keys_and_scopes import AdminAccess
from insightdesk_rt.api.openapi import openapi_routes
from insightdesk_rt.api.sessions import Sessions
from insightdesk_rt.backend.push.push import push_routes
from insightdesk_rt.backend.push.rechecks import recheck_routes
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.clock import ValkeyClock
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import Dispatch
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.doors.admission import ClientPort
from insightdesk_rt.engine.doors.drain import Drain
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.engine.transport.lag import LoopLag
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from insightdesk_rt.operations.console.console import console_routes, session_routes
from insightdesk_rt.operations.moderation.moderation import Moderation
from insightdesk_rt.operations.moderation.moderation_routes import moderation_routes
from insightdesk_rt.operations.moderation.notice_routes import notice_routes
from insightdesk_rt.operations.moderation.rates_routes import RatesHandler, SettingView, tuning_routes
from insightdesk_rt.operations.views.clients import Connections
from insightdesk_rt.operations.views.connections import Everywhere, connection_routes
from insightdesk_rt.operations.views.health import Lately, health_routes, node_checks
from insightdesk_rt.operations.views.helpdesk import helpdesk_routes
from insightdesk_rt.operations.views.live_events import watch_routes
from insightdesk_rt.operations.views.metrics import Sources, metrics_routes
from insightdesk_rt.operations.views.node_stats import NodeStats
from insightdesk_rt.operations.views.nodes import Node, node_routes
from insightdesk_rt.operations.views.rooms import room_routes
from insightdesk_rt.operations.views.users import user_routes


class AdminPortSettings(NamedTuple):
    """What the admin port is told of the configuration."""

    user_keys: UserKeys
    hosts: Collection[str]  # names and addresses by which it may be called
    on_loopback: bool  # only this machine can reach it
    max_event_bytes: int
    shown: Sequence[SettingView]  # every setting, for GET /api/v1/config


class ServerParts(NamedTuple):
    """What the port is about: this node's parts, and `calls` for those of the others. `leads`: is it the leader?"""

    settings: AdminPortSettings
    node_id: str
    namespaces: Collection[str]
    access: AdminAccess
    valkey: Valkey
    clock: ValkeyClock
    backplane: ValkeyBackplane
    calls: NodeCalls
    hub: Hub
    dispatch: Dispatch
    features: Features
    moderation: Moderation
    port: ClientPort
    stats: NodeStats
    lag: LoopLag
    drain: Drain
    leads: Callable[[], bool]


def admin_port(parts: ServerParts) -> tuple[Admin, list[tuple[str, type[Handler], dict[str, Any]]]]:
    """Return the routes of the port for a Tornado Application, and answer for this node what they ask of all."""
    settings, node_id, port, hub, features = parts.settings, parts.node_id, parts.port, parts.hub, parts.features
    keys = settings.user_keys
    audit, sessions = AuditLog(parts.valkey), Sessions(parts.valkey)
    admin = Admin(
        parts.access,
        audit.add,
        node_id,
        settings.hosts,
        lambda request: port.peer(request).address,
        lambda request: port.peer(request).scheme == "https",
        sessions=sessions,
        now_ms=parts.clock.now_ms,
    )
    checks = node_checks(parts.valkey, parts.backplane, port, parts.lag)
    node = Node(
        node_id,
        __version__,
        parts.dispatch,
        hub,
        parts.stats,
        parts.namespaces,
        parts.drain,
        parts.leads,
        lambda: parts.backplane.subscribed,
        Lately(checks),
        lambda: parts.clock.skew_ms,
    )
    sources = Sources(
        node_id,
        __version__,
        port,
        parts.dispatch,
        hub,
        parts.valkey,
        parts.clock,
        parts.backplane,
        features.of(Presence),
        parts.lag,
    )
    everywhere = Everywhere(parts.calls)
    moderation, rules = parts.moderation, parts.moderation.rules
    tuning = RatesHandler(
        node_id,
        __version__,
        settings.shown,
        rules,
        moderation.rates,
        moderation.levels,
        parts.dispatch.calls,
        parts.calls,
    )
    routes = [
        *health_routes(admin, checks),
        *node_routes(admin, node, parts.calls),
        *connection_routes(admin, Connections(node_id, port.host, hub), everywhere, parts.calls, keys),
        *user_routes(admin, everywhere, features.of(Presence).store, moderation.gate, keys),
        *room_routes(admin, node_id, hub, parts.calls, parts.backplane.logs),
        *(route for feature in features for route in feature.routes(admin)),
        *helpdesk_routes(admin, features, keys),
        *recheck_routes(admin, features.of(Tickets), parts.calls, keys),
        *moderation_routes(admin, rules, moderation.gate, parts.calls, keys),
        *notice_routes(admin, rules, moderation.notices, parts.namespaces),
        *tuning_routes(admin, tuning),
        *audit_routes(admin, audit),
        *push_routes(
            admin,
            features.of(Tickets),
            features.of(Notifications),
            hub,
            parts.namespaces,
            settings.max_event_bytes,
            keys,
        ),
    ]
    watch = watch_routes(admin, parts.valkey, parts.calls, parts.namespaces, routes, keys)
    described = [*routes, *watch, *session_routes(admin, sessions, keys)]
    metrics = metrics_routes(admin, sources, checks, open=settings.on_loopback)
    return admin, [*described, *metrics, *openapi_routes(admin, described), *console_routes(admin)]

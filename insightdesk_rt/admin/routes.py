"""The admin port of one node: its parts put together, and all its routes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from insightdesk_rt import __version__
from insightdesk_rt.admin.access import Access
from insightdesk_rt.admin.audit import audit_routes
from insightdesk_rt.admin.base import Admin, Handler
from insightdesk_rt.admin.clients import Connections
from insightdesk_rt.admin.connections import Everywhere, connection_routes
from insightdesk_rt.admin.console import console_routes, session_routes
from insightdesk_rt.admin.health import Lately, health_routes, node_checks
from insightdesk_rt.admin.helpdesk import helpdesk_routes
from insightdesk_rt.admin.metrics import Sources, metrics_routes
from insightdesk_rt.admin.moderation import moderation_routes
from insightdesk_rt.admin.nodes import Node, node_routes
from insightdesk_rt.admin.notices import notice_routes
from insightdesk_rt.admin.openapi import openapi_routes
from insightdesk_rt.admin.push import push_routes
from insightdesk_rt.admin.rechecks import recheck_routes
from insightdesk_rt.admin.rooms import room_routes
from insightdesk_rt.admin.sessions import Sessions
from insightdesk_rt.admin.tuning import Tuning, tuning_routes
from insightdesk_rt.admin.users import user_routes
from insightdesk_rt.admin.watch import watch_routes
from insightdesk_rt.cluster.backplane import ValkeyBackplane
from insightdesk_rt.cluster.calls import Calls
from insightdesk_rt.cluster.clock import ValkeyClock
from insightdesk_rt.cluster.valkey import Valkey
from insightdesk_rt.config import Loaded
from insightdesk_rt.desk import Desk
from insightdesk_rt.drain import Drain
from insightdesk_rt.handlers.port import ClientPort
from insightdesk_rt.hub.hub import Hub
from insightdesk_rt.limits import or_any
from insightdesk_rt.moderation.moderation import Moderation
from insightdesk_rt.namespaces.dispatch import Dispatch
from insightdesk_rt.node_stats import NodeStats
from insightdesk_rt.stores.audit import AuditLog
from insightdesk_rt.transport.lag import LoopLag


class Parts(NamedTuple):
    """What the port is about: this node's parts, and `calls` for those of the others. `leads`: is it the leader?"""

    loaded: Loaded
    node_id: str
    namespaces: Collection[str]
    access: Access
    valkey: Valkey
    clock: ValkeyClock
    backplane: ValkeyBackplane
    calls: Calls
    hub: Hub
    dispatch: Dispatch
    desk: Desk
    moderation: Moderation
    port: ClientPort
    stats: NodeStats
    lag: LoopLag
    drain: Drain
    leads: Callable[[], bool]


def admin_port(parts: Parts) -> tuple[Admin, list[tuple[str, type[Handler], dict[str, Any]]]]:
    """Return the routes of the port for a Tornado Application, and answer for this node what they ask of all."""
    settings, node_id, port, hub, desk = parts.loaded.settings, parts.node_id, parts.port, parts.hub, parts.desk
    keys = settings.user_keys
    audit, sessions = AuditLog(parts.valkey), Sessions(parts.valkey)
    admin = Admin(
        parts.access,
        audit.add,
        node_id,
        (*settings.admin_hosts, *settings.admin_address),
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
        desk.presence,
        parts.lag,
    )
    everywhere = Everywhere(parts.calls)
    moderation, rules = parts.moderation, parts.moderation.rules
    tuning = Tuning(
        node_id,
        __version__,
        parts.loaded,
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
        *user_routes(admin, everywhere, desk.presence.store, moderation.gate, keys),
        *room_routes(admin, node_id, hub, parts.calls, parts.backplane.logs),
        *helpdesk_routes(admin, desk, keys),
        *recheck_routes(admin, desk.tickets, parts.calls, keys),
        *moderation_routes(admin, rules, moderation.gate, parts.calls, keys),
        *notice_routes(admin, rules, moderation.notices, parts.namespaces),
        *tuning_routes(admin, tuning),
        *audit_routes(admin, audit),
        *push_routes(
            admin, desk.tickets, desk.notifications, hub, parts.namespaces, or_any(settings.max_event_bytes), keys
        ),
    ]
    watch = watch_routes(admin, parts.valkey, parts.calls, parts.namespaces, routes, keys)
    described = [*routes, *watch, *session_routes(admin, sessions, keys)]
    metrics = metrics_routes(admin, sources, checks, open=settings.admin_on_loopback)
    return admin, [*described, *metrics, *openapi_routes(admin, described), *console_routes(admin)]

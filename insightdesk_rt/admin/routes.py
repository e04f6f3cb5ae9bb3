"""All routes of the admin port, and the description that is made of those that speak JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from insightdesk_rt.admin.audit import audit_routes
from insightdesk_rt.admin.base import Admin, Handler
from insightdesk_rt.admin.clients import Connections
from insightdesk_rt.admin.connections import connection_routes
from insightdesk_rt.admin.health import Check, health_routes
from insightdesk_rt.admin.metrics import Sources, metrics_routes
from insightdesk_rt.admin.nodes import Node, node_routes
from insightdesk_rt.admin.openapi import openapi_routes
from insightdesk_rt.admin.push import push_routes
from insightdesk_rt.cluster.calls import Calls
from insightdesk_rt.config import Settings, is_loopback
from insightdesk_rt.desk import Desk
from insightdesk_rt.hub.hub import Hub
from insightdesk_rt.stores.audit import AuditLog


class Parts(NamedTuple):
    """What the API is about: this node's parts, and `calls` for those of the others."""

    calls: Calls
    node: Node
    connections: Connections
    hub: Hub
    desk: Desk
    audit: AuditLog
    checks: Sequence[Check]
    sources: Sources
    namespaces: Collection[str]
    settings: Settings


def admin_routes(admin: Admin, parts: Parts) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of the port for a Tornado Application, and answer for this node what they ask of all."""
    desk, settings = parts.desk, parts.settings
    routes = [
        *health_routes(admin, parts.checks),
        *node_routes(admin, parts.node, parts.calls),
        *connection_routes(admin, parts.connections, parts.calls, desk.presence.store),
        *audit_routes(admin, parts.audit),
        *push_routes(admin, desk.tickets, desk.notifications, parts.hub, parts.namespaces, settings.max_event_bytes),
    ]
    metrics = metrics_routes(admin, parts.sources, parts.checks, open=is_loopback(settings.admin_address))
    return [*routes, *metrics, *openapi_routes(admin, routes)]

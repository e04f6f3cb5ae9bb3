"""All routes by which the helpdesk's back end pushes: tickets, comments, notifications, and events of its own."""

from __future__ import annotations

from collections.abc import Collection

from insightdesk_rt.api.handler import Admin
from insightdesk_rt.backend.push.emit import emit_routes
from insightdesk_rt.backend.push.notifications import notification_push_routes
from insightdesk_rt.backend.push.tickets import ticket_push_routes
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.tickets.namespace import Tickets


def push_routes(
    admin: Admin,
    tickets: Tickets,
    notifications: Notifications,
    hub: Hub,
    namespaces: Collection[str],
    max_event_bytes: int = 262_144,
    keys: UserKeys = UserKeys(),
) -> list[Route]:
    """Return the routes for a Tornado Application. `namespaces`: the paths that an emitted event may name."""
    return [
        *ticket_push_routes(admin, tickets, keys),
        *notification_push_routes(admin, notifications, keys),
        *emit_routes(admin, hub, namespaces, max_event_bytes),
    ]

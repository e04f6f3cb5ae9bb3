"""The admin port of one node: all its routes, and the parts of the node that they show and change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from insightdesk_rt import __version__
from insightdesk_rt.api.audit import audit_routes
from insightdesk_rt.api.audit_store import AuditLog
from insightdesk_rt.api.handler import Admin
from insightdesk_rt.api.keys_and_scopes import AdminAccess
from insightdesk_rt.api.openapi import Route, openapi_routes
from insightdesk_rt.backend.feed.log import FeedLog
from insightdesk_rt.backend.hooks.part import Hooks
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.backend.webhooks.webhooks import Webhooks
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.clock import ValkeyClock
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import Dispatch
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.doors.drain import Drain
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.engine.transport.lag import LoopLag
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.operations.console.console import console_routes, session_routes
from insightdesk_rt.operations.console.sessions import Sessions
from insightdesk_rt.operations.moderation.access_rules import AccessRuleChanges
from insightdesk_rt.operations.moderation.blocks import block_routes
from insightdesk_rt.operations.moderation.log_levels import log_level_routes
from insightdesk_rt.operations.moderation.moderation import Moderation
from insightdesk_rt.operations.moderation.notices import notice_routes
from insightdesk_rt.operations.moderation.rates import rate_routes
from insightdesk_rt.operations.moderation.revocations import revocation_routes
from insightdesk_rt.operations.views.clients import Connections
from insightdesk_rt.operations.views.configuration import SettingView, config_routes
from insightdesk_rt.operations.views.connections import Everywhere, connection_routes
from insightdesk_rt.operations.views.health import Check, Lately, health_routes, node_checks
from insightdesk_rt.operations.views.live_events import watch_routes
from insightdesk_rt.operations.views.metrics import Sources, metrics_routes
from insightdesk_rt.operations.views.node_stats import NodeStats
from insightdesk_rt.operations.views.nodes import Node, node_routes
from insightdesk_rt.operations.views.rooms import room_routes
from insightdesk_rt.operations.views.users import user_routes


class AdminPortSettings(NamedTuple):
    """The parts of the configuration that the admin port shows."""

    user_keys: UserKeys
    hosts: Collection[str]  # names and addresses by which it may be called
    on_loopback: bool  # only this machine can reach it
    shown: Sequence[SettingView]  # every setting, for GET /api/v1/config


class ServerParts(NamedTuple):
    """The parts of this node that the port shows and changes; `calls` reach those of other nodes.

    `leads`: is this the leading node?
    """

    settings: AdminPortSettings
    node_id: str
    namespaces: Collection[str]
    access: AdminAccess
    valkey: Valkey
    clock: ValkeyClock
    backplane: ValkeyBackplane
    feed: FeedLog
    calls: NodeCalls
    hub: Hub
    dispatch: Dispatch
    features: Features
    backend: Collection[BackendPart]
    moderation: Moderation
    port: ClientPort
    stats: NodeStats
    lag: LoopLag
    drain: Drain
    leads: Callable[[], bool]


def admin_port(parts: ServerParts) -> tuple[Admin, list[Route]]:
    """Return the admin port's routes for a Tornado Application, and register this node's replies to their calls."""
    audit, sessions = AuditLog(parts.valkey), Sessions(parts.valkey)
    admin = _admin(parts, audit, sessions)
    checks = node_checks(parts.valkey, parts.backplane, parts.port, parts.lag)
    routes = [
        *health_routes(admin, checks),
        *_node_routes(admin, parts, checks),
        *_client_routes(admin, parts),
        *(route for part in (*parts.features, *parts.backend) for route in part.routes(admin)),
        *_moderation_routes(admin, parts),
        *audit_routes(admin, audit),
    ]
    keys = parts.settings.user_keys
    watch = watch_routes(admin, parts.valkey, parts.calls, parts.namespaces, routes, keys)
    described = [*routes, *watch, *session_routes(admin, sessions, keys)]
    return admin, [
        *described,
        *metrics_routes(admin, _sources(parts), checks, open=parts.settings.on_loopback),
        *openapi_routes(admin, described),
        *console_routes(admin),
    ]


def _admin(parts: ServerParts, audit: AuditLog, sessions: Sessions) -> Admin:
    return Admin(
        parts.access,
        audit.add,
        parts.node_id,
        parts.settings.hosts,
        parts.port.peer,
        sessions=sessions,
        now_ms=parts.clock.now_ms,
    )


def _node_routes(admin: Admin, parts: ServerParts, checks: Sequence[Check]) -> list[Route]:
    node = Node(
        parts.node_id,
        __version__,
        parts.dispatch,
        parts.hub,
        parts.stats,
        parts.namespaces,
        parts.drain,
        parts.leads,
        lambda: parts.backplane.subscribed,
        Lately(checks),
        lambda: parts.clock.skew_ms,
    )
    return [
        *node_routes(admin, node, parts.calls),
        *config_routes(admin, parts.node_id, __version__, parts.settings.shown, parts.calls),
    ]


def _client_routes(admin: Admin, parts: ServerParts) -> list[Route]:
    keys, everywhere = parts.settings.user_keys, Everywhere(parts.calls)
    here = Connections(parts.node_id, parts.port.registry, parts.hub)
    return [
        *connection_routes(admin, here, everywhere, parts.calls, keys),
        *user_routes(admin, everywhere, parts.features.of(Presence).store, parts.moderation.access, keys),
        *room_routes(admin, parts.node_id, parts.hub, parts.calls, parts.backplane.logs),
    ]


def _moderation_routes(admin: Admin, parts: ServerParts) -> list[Route]:
    moderation, calls, keys = parts.moderation, parts.calls, parts.settings.user_keys
    rules, access = moderation.rules, moderation.access
    tables = (access.revocations.table, access.blocks.table)
    changes = AccessRuleChanges(rules, parts.port.registry, calls, tables)
    return [
        *revocation_routes(admin, changes, access.revocations, keys, parts.feed.append),
        *block_routes(admin, changes, access.blocks, keys),
        *notice_routes(admin, rules, moderation.notices, parts.namespaces),
        *rate_routes(admin, parts.node_id, rules, moderation.rates, calls),
        *log_level_routes(admin, rules, moderation.levels, calls),
    ]


def _sources(parts: ServerParts) -> Sources:
    return Sources(
        parts.node_id,
        __version__,
        parts.port,
        parts.dispatch,
        parts.hub,
        parts.valkey,
        parts.clock,
        parts.backplane,
        parts.features.of(Presence),
        parts.lag,
        next(part for part in parts.backend if isinstance(part, Hooks)),
        parts.feed,
        next(part for part in parts.backend if isinstance(part, Webhooks)),
    )

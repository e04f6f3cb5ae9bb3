"""The settings, handed down piece by piece: what each part is told of them, and nothing more."""

from __future__ import annotations

from insightdesk_rt.app.config import LoadedSettings, Settings, shown, table
from insightdesk_rt.engine.dispatch import dispatch as dispatching
from insightdesk_rt.engine.doors.client_port import PortSettings
from insightdesk_rt.engine.hub.hub import Replay
from insightdesk_rt.engine.rate_limits import Rate, or_any
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.helpdesk.features import FEATURES
from insightdesk_rt.operations.routes import AdminPortSettings
from insightdesk_rt.operations.views.configuration import SettingView


def client_host(settings: Settings, wheel: Wheel, node_id: str) -> ClientRegistry:
    return ClientRegistry(
        wheel,
        node_id=node_id,
        limits=OutboxLimits(
            or_any(settings.max_outbox_bytes),
            or_any(settings.max_outbox_events),
            or_any(settings.volatile_outbox_bytes),
        ),
        connect_timeout_ms=settings.connect_timeout_s * 1000,
        upgrade_timeout_ms=settings.upgrade_timeout_s * 1000,
        message_timeout_ms=settings.message_timeout_s * 1000,
        max_clients_per_address=settings.max_connections_per_address,
        max_connects_per_minute=settings.max_connects_per_connection_per_minute,
        max_unfinished_per_user=or_any(settings.max_unfinished_bytes_per_user),
        max_unfinished=or_any(settings.max_unfinished_bytes),
    )


def admin_port_settings(loaded: LoadedSettings) -> AdminPortSettings:
    settings = loaded.settings
    return AdminPortSettings(
        settings.user_keys,
        (*settings.admin_hosts, *settings.admin_address),
        settings.admin_on_loopback,
        or_any(settings.max_event_bytes),
        [
            SettingView(name, shown(name, getattr(settings, name)), loaded.origins[name], one.group, one.help)
            for name, one in table().items()
        ],
    )


def replay(settings: Settings) -> Replay:
    """Half of what an outbox holds: the other half is for what comes meanwhile."""
    return Replay(or_any(settings.max_outbox_events) // 2, or_any(settings.max_outbox_bytes) // 2)


def binary_events() -> frozenset[tuple[str, str]]:
    """Return namespace and name of the events that take attachments."""
    return frozenset((one.path, spec.name) for one in FEATURES for spec in one.events.values() if spec.binary)


def port_settings(settings: Settings) -> PortSettings:
    return PortSettings(
        allowed_origins=settings.allowed_origins,
        loopback=settings.on_loopback,
        trusted_proxies=settings.trusted_proxies,
        transports=settings.transports,
        trailing_slash=settings.add_trailing_slash,
        ping_interval_ms=settings.ping_interval_ms,
        ping_timeout_ms=settings.ping_timeout_ms,
        max_payload_bytes=or_any(settings.max_payload_bytes),
        max_fragments=or_any(settings.max_fragments_per_message),
        packets=PacketLimits(
            max_attachments=or_any(settings.max_attachments_per_packet),
            max_attachments_bytes=4 * or_any(settings.max_payload_bytes),
            max_namespaces=max(PacketLimits().max_namespaces, or_any(settings.max_namespaces_per_connection)),
            max_namespace=or_any(settings.max_namespace_chars),
            max_event_name=or_any(settings.max_event_name_chars),
            max_depth=or_any(settings.max_json_depth),
            max_connect=or_any(settings.max_connect_bytes),
            binary=binary_events(),
        ),
        recovery=settings.connection_recovery,
        deflate=settings.websocket_deflate,
        connects_per_address_per_second=settings.max_connects_per_address_per_second,
    )


def dispatch_settings(settings: Settings) -> dispatching.DispatchSettings:
    rates = settings.rates
    return dispatching.DispatchSettings(
        rates.pop("default", Rate(100, 60)),
        rates,
        settings.max_connections_per_user,
        settings.max_namespaces_per_connection,
        or_any(settings.max_waiting_calls_per_socket),
        or_any(settings.max_json_depth),
        settings.max_connects_per_user_per_minute,
    )

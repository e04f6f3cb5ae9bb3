"""What the parts are told of the settings: a limit of 0 is none."""

from __future__ import annotations

from insightdesk_rt.app.config import Settings
from insightdesk_rt.app.config.checks import doubts, misfits
from insightdesk_rt.app.pieces import client_host, dispatch_settings, port_settings, replay
from insightdesk_rt.engine.dispatch import dispatch as dispatching
from insightdesk_rt.engine.doors.client_port import PortSettings
from insightdesk_rt.engine.hub.hub import Replay
from insightdesk_rt.engine.rate_limits import ANY
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.limits import PacketLimits

LIMITS = (
    "max_payload_bytes",
    "max_connect_bytes",
    "max_fragments_per_message",
    "max_attachments_per_packet",
    "max_json_depth",
    "max_event_name_chars",
    "max_namespace_chars",
    "max_event_bytes",
    "max_outbox_bytes",
    "max_outbox_events",
    "volatile_outbox_bytes",
    "max_waiting_calls_per_socket",
    "max_unfinished_bytes_per_user",
    "max_unfinished_bytes",
    "max_namespaces_per_connection",
)


def test_the_defaults_of_the_settings_are_those_of_the_parts() -> None:
    settings = Settings()
    assert port_settings(settings) == PortSettings(loopback=True, packets=PacketLimits(binary=frozenset()))
    assert client_host(settings, Wheel(50, lambda: 0), "n1").limits == OutboxLimits()
    told = dispatch_settings(settings)
    assert (told.max_waiting_calls, told.max_json_depth) == (
        dispatching.DispatchSettings().max_waiting_calls,
        dispatching.DispatchSettings().max_json_depth,
    )


def test_a_limit_of_0_is_none() -> None:
    settings = Settings(**dict.fromkeys(LIMITS, 0))  # type: ignore[arg-type]
    assert list(misfits(settings)) == list(doubts(settings)) == []
    assert client_host(settings, Wheel(50, lambda: 0), "n1").limits == OutboxLimits(ANY, ANY, ANY)
    assert replay(settings) == Replay(ANY // 2, ANY // 2)
    port = port_settings(settings)
    assert (port.max_payload_bytes, port.max_fragments) == (ANY, ANY)
    assert port.packets == PacketLimits(ANY, 4 * ANY, ANY, ANY, ANY, ANY, ANY, frozenset())
    told = dispatch_settings(settings)
    assert (told.max_waiting_calls, told.max_json_depth, told.max_namespaces_per_connection) == (ANY, ANY, 0)

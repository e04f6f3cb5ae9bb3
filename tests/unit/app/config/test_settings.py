"""The table of settings, and the structs of the parts that get their values from it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from insightdesk_rt.app.config import changed, compose, flat, table
from insightdesk_rt.app.config.checks import doubts, misfits
from insightdesk_rt.app.config.settings import GROUPS
from insightdesk_rt.engine.addresses import is_loopback
from insightdesk_rt.engine.hub.hub import Replay
from insightdesk_rt.engine.rate_limits import ANY, Rate
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.helpdesk.chat.settings import ChatSettings
from insightdesk_rt.helpdesk.tickets.settings import TicketSettings

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
    "handshake_timeout_s",
    "body_timeout_s",
    "unread_timeout_s",
)


def test_every_setting_has_a_default_a_help_and_a_group() -> None:
    values = flat(compose())
    for name, setting in table().items():
        assert values[name] == setting.default
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert setting.help and setting.group and setting.expected
        assert len(setting.help) <= 80, f"{name}: a help is one line"


def test_groups_stand_together() -> None:
    groups = [setting.group for setting in table().values()]
    changes = 1 + sum(one != two for one, two in pairwise(groups))
    assert changes == len(set(groups))


def test_the_order_of_the_documentation_names_only_settings_that_exist() -> None:
    """A setting without a place in GROUPS stands at the end of a group."""
    named = [name for names in GROUPS.values() for name in names]
    assert len(named) == len(set(named))
    assert not set(named) - set(table())


def test_numbers_have_bounds_and_words_have_choices() -> None:
    assert table()["port"].expected == "a whole number from 0 to 65535"
    assert table()["log_format"].expected == "kv or json"
    assert table()["demo"].expected == "true or false"
    assert table()["allowed_origins"].expected == "a list of texts"


def test_a_flag_is_written_with_dashes() -> None:
    assert table()["ping_interval_ms"].flag == "--ping-interval-ms"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        compose().client_port.port = 1  # type: ignore[misc]


def test_a_value_reaches_every_part_that_uses_the_setting() -> None:
    settings = compose(typing_ms=700, max_json_depth=7, max_payload_bytes=5000)
    assert settings.features.of(TicketSettings).typing_ms == settings.features.of(ChatSettings).typing_ms == 700
    assert settings.packets.max_json_depth == settings.dispatch.max_json_depth == 7
    assert settings.packets.max_payload_bytes == settings.client_port.max_payload_bytes == 5000
    assert settings.packets.max_attachments_bytes == 20_000
    assert settings.features.by_name["typing_ms"] == 700


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(TypeError, match="no such settings: prot"):
        compose(prot=1)


def test_some_values_can_be_replaced() -> None:
    settings = changed(compose(port=5, max_payload_bytes=0), port=6)
    assert settings.client_port.port == 6 and settings.client_port.max_payload_bytes == ANY
    assert changed(settings, port=5) == compose(port=5, max_payload_bytes=0)


def test_a_limit_of_0_is_no_limit() -> None:
    settings = compose(**dict.fromkeys(LIMITS, 0))
    assert list(misfits(settings)) == list(doubts(settings)) == []
    assert {name: flat(settings)[name] for name in LIMITS} == dict.fromkeys(LIMITS, 0), "they are shown as written"
    assert settings.outbox == OutboxLimits(ANY, ANY, ANY)
    assert Replay.within(settings.outbox) == Replay(ANY // 2, ANY // 2)
    assert settings.client_port.max_payload_bytes == settings.client_port.max_fragments_per_message == ANY
    assert settings.packets == PacketLimits(ANY, ANY, ANY, ANY, ANY, ANY, 0, 4 * ANY, ANY)
    dispatch = settings.dispatch
    limits = (dispatch.max_waiting_calls_per_socket, dispatch.max_json_depth, dispatch.max_namespaces_per_connection)
    assert limits == (ANY, ANY, 0)
    assert settings.clients.max_unfinished_bytes == settings.http.body_timeout_s == ANY


def test_rates_are_read() -> None:
    dispatch = compose(rate_limits={"chat:message": "5/1", "default": "7/2"}).dispatch
    assert dispatch.rates == {"chat:message": Rate(5, 1)} and dispatch.default_rate == Rate(7, 2)
    assert compose().dispatch.default_rate == Rate(100, 60)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [(address, True) for address in ("127.0.0.1", "127.9.9.9", "::1", "localhost")]
    + [(address, False) for address in ("0.0.0.0", "", "::", "10.0.0.1", "localhost.example.com")],
)
def test_loopback_addresses_are_recognised(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
    assert compose(address=(address,)).client_port.on_loopback is loopback
    assert compose(address=("127.0.0.1", address)).client_port.on_loopback is loopback
    assert compose(admin_address=("::1", address)).admin_port.on_loopback is loopback

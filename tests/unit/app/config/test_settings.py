"""The table: what a setting is called, what it may be, and that nobody can change it afterwards."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from insightdesk_rt.app.config import Settings, table
from insightdesk_rt.engine.addresses import is_loopback
from insightdesk_rt.engine.rate_limits import Rate


def test_every_setting_has_a_default_a_help_and_a_group() -> None:
    settings = Settings()
    for name, setting in table().items():
        assert getattr(settings, name) == setting.default
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert setting.help and setting.group and setting.expected
        assert len(setting.help) <= 80, f"{name}: a help is one line"


def test_groups_stand_together() -> None:
    groups = [setting.group for setting in table().values()]
    changes = 1 + sum(one != two for one, two in pairwise(groups))
    assert changes == len(set(groups))


def test_a_number_names_its_bounds_and_a_word_its_choices() -> None:
    assert table()["port"].expected == "a whole number from 0 to 65535"
    assert table()["log_format"].expected == "kv or json"
    assert table()["demo"].expected == "true or false"
    assert table()["allowed_origins"].expected == "a list of texts"


def test_a_flag_is_written_with_dashes() -> None:
    assert table()["ping_interval_ms"].flag == "--ping-interval-ms"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


def test_rates_are_read() -> None:
    assert Settings(rate_limits={"chat:message": "5/1"}).rates == {"chat:message": Rate(5, 1)}


@pytest.mark.parametrize(
    ("address", "loopback"),
    [(address, True) for address in ("127.0.0.1", "127.9.9.9", "::1", "localhost")]
    + [(address, False) for address in ("0.0.0.0", "", "::", "10.0.0.1", "localhost.example.com")],
)
def test_loopback_is_what_only_this_machine_reaches(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
    assert Settings(address=(address,)).on_loopback is loopback
    assert Settings(address=("127.0.0.1", address)).on_loopback is loopback
    assert Settings(admin_address=("::1", address)).admin_on_loopback is loopback

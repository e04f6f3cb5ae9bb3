"""Checks of settings together. Each row has the changed settings, and the setting that the error names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.app.config import compose, file_misfits
from insightdesk_rt.app.config.checks import doubts, misfits

SECRET = "s" * 32
FIT: list[dict[str, Any]] = [
    {},
    {"address": ("0.0.0.0",), "jwt_secret": SECRET},
    {"address": ("0.0.0.0",), "jwt_secret_file": "/run/secret"},
    {"address": ("::",), "jwt_algorithms": ("RS256",), "jwks_url": "https://id.example.com/jwks"},
    {"jwt_algorithms": ("RS256", "HS256"), "jwt_public_key_file": "/key.pem"},
    {"jwt_algorithms": ("RS256", "ES256", "EdDSA"), "jwks_url": "http://127.0.0.1:1/jwks"},
    {"port": 0, "admin_port": 0},
    {"port": 3001, "admin_port": 3001, "admin_address": ("127.0.0.2",)},
    {
        "allowed_origins": (
            "https://desk.example.com",
            "http://localhost:5173",
            "capacitor://localhost",
            "null",
            "file://",
            "*",
        )
    },
    {"trusted_proxies": ("10.0.0.0/8", "::1", "192.168.0.1")},
    {"valkey_url": "unix:///run/valkey.sock"},
    {"valkey_url": "valkeys://user:pass@valkey.internal:6380/0"},
    {"access": "desk.access:make"},
    {"admin_address": ("10.0.0.1",), "admin_allow_plaintext": True},
    {"admin_address": ("10.0.0.1",), "tls_cert_file": "a", "tls_key_file": "b"},
    {"transports": ("websocket",)},
    {"rate_limits": {"default": "200/60", "chat:message": "10/1"}},
]
MISFIT: list[tuple[str, dict[str, Any]]] = [
    ("admin_port", {"port": 3002}),
    ("tls_key_file", {"tls_cert_file": "a"}),
    ("tls_key_file", {"tls_key_file": "a"}),
    ("admin_address", {"admin_address": ("0.0.0.0",)}),
    ("demo", {"demo": True, "address": ("0.0.0.0",), "jwt_secret": SECRET}),
    ("allowed_origins", {"allowed_origins": ("desk.example.com",)}),
    ("allowed_origins", {"allowed_origins": ("https://desk.example.com/",)}),
    ("allowed_origins", {"allowed_origins": ("https://Desk.example.com",)}),
    ("allowed_origins", {"allowed_origins": ("https://desk.example.com:99999",)}),
    ("allowed_origins", {"allowed_origins": ("https://[::1",)}),
    ("allowed_origins", {"allowed_origins": ("https://*.example.com",)}),
    ("trusted_proxies", {"trusted_proxies": ("10.0.0.1/8",)}),
    ("trusted_proxies", {"trusted_proxies": ("proxy.internal",)}),
    ("jwt_secret", {"jwt_secret": "short"}),
    ("jwt_secret_file", {"jwt_secret": SECRET, "jwt_secret_file": "/run/secret"}),
    ("address", {"address": ("0.0.0.0",)}),
    ("address", {"address": ()}),
    ("admin_address", {"admin_address": ()}),
    ("address", {"address": ("",)}),
    ("address", {"address": ("*",), "jwt_secret": SECRET}),
    ("address", {"address": ("[::1]",), "jwt_secret": SECRET}),
    ("address", {"address": ("127.0.0.1:3001",), "jwt_secret": SECRET}),
    ("address", {"address": ("127.0.0.1 ::1",), "jwt_secret": SECRET}),
    ("admin_address", {"admin_address": ("127.0.0.1", "0.0.0.0")}),
    ("admin_port", {"port": 3001, "admin_port": 3001, "admin_address": ("127.0.0.2", "::1")}),
    ("jwt_algorithms", {"jwt_algorithms": ()}),
    ("jwt_algorithms", {"jwt_algorithms": ("none",)}),
    ("jwt_algorithms", {"jwt_algorithms": ("HS256", "nOnE")}),
    ("jwt_algorithms", {"jwt_algorithms": ("RS256",)}),
    ("jwt_algorithms", {"jwt_algorithms": ("RS256",), "jwks_url": "https://x/jwks", "jwt_secret": SECRET}),
    ("jwt_algorithms", {"jwt_public_key_file": "/key.pem"}),
    ("jwt_algorithms", {"jwks_url": "https://x/jwks"}),
    ("jwt_algorithms", {"jwt_algorithms": ("RS256", "PS256"), "jwks_url": "https://x/jwks"}),
    ("jwt_algorithms", {"jwt_algorithms": ("RS256", "ES256"), "jwt_public_key_file": "/key.pem"}),
    ("jwks_url", {"jwt_algorithms": ("RS256",), "jwks_url": "file:///etc/passwd"}),
    ("jwks_url", {"jwt_algorithms": ("RS256",), "jwks_url": "https://user:pass@x/jwks"}),
    ("jwks_url", {"jwt_algorithms": ("RS256",), "jwks_url": "https:///jwks"}),
    ("valkey_url", {"valkey_url": "http://x"}),
    ("valkey_url", {"valkey_url": "valkey://"}),
    ("valkey_url", {"valkey_url": "localhost:6379"}),
    ("valkey_prefix", {"valkey_prefix": ""}),
    ("valkey_prefix", {"valkey_prefix": "a:b"}),
    ("valkey_prefix", {"valkey_prefix": "a*"}),
    ("node_id", {"node_id": "n.1"}),
    ("node_id", {"node_id": "n" * 33}),
    ("data_dir", {"data_dir": ""}),
    ("access", {"access": "desk.access"}),
    ("access", {"access": "desk/access.py:make"}),
    ("transports", {"transports": ()}),
    ("transports", {"transports": ("webtransport",)}),
    ("max_payload_bytes", {"max_payload_bytes": 1023}),
    ("max_connect_bytes", {"max_connect_bytes": 1023}),
    ("max_outbox_events", {"max_outbox_events": 9}),
    ("max_event_bytes", {"max_event_bytes": 0}),
    ("max_event_bytes", {"max_event_bytes": 2_000_000}),
    ("volatile_outbox_bytes", {"volatile_outbox_bytes": 2_000_000}),
    ("rate_limits", {"rate_limits": {"chat:message": "5"}}),
    ("rate_limits", {"rate_limits": {"chat:message": "0/5"}}),
]


@pytest.mark.parametrize("changed", FIT, ids=str)
def test_these_settings_are_valid(changed: dict[str, Any]) -> None:
    assert list(misfits(compose(**changed))) == []


@pytest.mark.parametrize(("name", "changed"), MISFIT, ids=str)
def test_the_error_for_contradictory_settings_names_one_to_change(name: str, changed: dict[str, Any]) -> None:
    found = list(misfits(compose(**changed)))
    assert name in [one for one, _ in found]
    assert all("\n" not in why for _, why in found)


def test_doubtful_settings_are_warned_of() -> None:
    assert list(doubts(compose())) == []
    assert "jwks_url" in next(doubts(compose(jwks_url="http://id.example.com/jwks")))
    assert list(doubts(compose(jwks_url="http://127.0.0.1/jwks"))) == []
    assert "allowed_origins" in next(doubts(compose(allowed_origins=("*",))))
    assert "null" in next(doubts(compose(allowed_origins=("null",))))
    assert "max_payload_bytes" in next(doubts(compose(max_payload_bytes=2_000_000)))


def test_the_error_for_a_missing_file_names_its_setting(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("x")
    settings = compose(
        data_dir=str(there / "data"),
    )
    assert [name for name, _ in file_misfits(settings)] == ["data_dir"]
    assert list(file_misfits(compose(data_dir=str(tmp_path / "not" / "yet")))) == []
    assert sorted(tmp_path.iterdir()) == [there], "a check changes nothing"


GOOD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwQ3ZZIo2LaLa="
CONNECT = {"connect_url": "http://10.0.0.7/connect", "hook_secret": GOOD_SECRET}
RPC = {"rpc_url": "http://10.0.0.7/rpc", "hook_secret": GOOD_SECRET}


@pytest.mark.parametrize(
    ("values", "name", "words"),
    [
        ({"access_url": "http://10.0.0.7/access"}, "access_url", "requests are signed: set hook_secret_file"),
        ({"access_url": "desk", "hook_secret": GOOD_SECRET}, "access_url", "expected http(s)://host/path"),
        ({"access_url": "http://a:b@desk/", "hook_secret": GOOD_SECRET}, "access_url", "without a password"),
        ({"hook_secret": "secret"}, "hook_secret", "Expected whsec_ and 24 to 64 random bytes"),
        ({"hook_secret": "whsec_c2hvcnQ="}, "hook_secret", "Expected whsec_ and 24 to 64 random bytes"),
        ({"hook_secret": GOOD_SECRET, "hook_secret_file": "x"}, "hook_secret_file", "hook_secret is set too"),
        ({**CONNECT, "allowed_origins": ("*",)}, "allowed_origins", "name the origins of your pages"),
        ({**CONNECT, "connect_headers": ()}, "connect_headers", "at least one header"),
        ({**CONNECT, "connect_headers": ("Cookie",)}, "connect_headers", "'Cookie': expected a header"),
        ({**CONNECT, "connect_headers": ("webhook-id",)}, "connect_headers", "expected a header"),
        ({"rpc_events": ("/tickets a:b",)}, "rpc_events", "are needed together"),
        ({**RPC, "rpc_events": ("a:b",)}, "rpc_events", "expected a namespace and the name of an event"),
        ({**RPC, "rpc_events": ("/tickets connect",)}, "rpc_events", "expected a namespace and the name"),
        ({**RPC, "rpc_events": ("/nowhere a:b",)}, "rpc_events", "there is no such namespace"),
        ({**RPC, "rpc_events": ("/tickets ticket:typing",)}, "rpc_events", "the server itself answers this event"),
        ({**RPC, "rpc_events": ("/ session:refresh",)}, "rpc_events", "the server itself answers this event"),
    ],
)
def test_a_hook_needs_a_web_address_and_a_secret(values: dict[str, Any], name: str, words: str) -> None:
    (found,) = [why for setting, why in misfits(compose(**values)) if setting == name]
    assert words in found
    good = {"access_url": "http://10.0.0.7/access", **CONNECT, **RPC, "rpc_events": ("/tickets macro:run",)}
    assert not list(misfits(compose(**good)))

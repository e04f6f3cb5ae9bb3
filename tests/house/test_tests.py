"""The tests mirror the package: each file has its test at the same path below tests/unit, or a row here."""

from __future__ import annotations

from pathlib import Path

from tests.house.test_layout import PACKAGE, TESTS, name_of, sources

# File or folder of the package → its test, for code that can only be tested together with real parts. Every settings.py
# is tested by SETTINGS_TEST. A file of backend/push has a test of its own or is tested with the others there.
SETTINGS_TEST = "unit/app/config/test_settings.py"
ELSEWHERE = {
    "backend/push/rooms": "integration/test_users_of_the_back_end.py",  # sockets of two nodes
    "backend/push/user_data": "integration/test_users_of_the_back_end.py",  # what remains in a whole server
    "__main__": "integration/test_process.py",
    "api/audit": "integration/test_admin.py",
    "api/sse": "integration/test_watch.py",
    "api/whom": "hostile/test_separate_ids.py",
    "app/cli": "integration/test_commands.py",
    "app/cli/operate": "unit/app/cli/test_main.py",
    "app/config/printed": "unit/app/config/test_printed.py",
    "app/embedded_valkey": "integration/test_embedded.py",
    "app/process": "integration/test_process.py",
    "app/server": "integration/test_process.py",
    "app/workers": "integration/test_workers.py",
    "backend/feed/routes": "integration/test_feed.py",
    "backend/parts": "unit/backend/test_part.py",
    "backend/hooks/connect": "integration/test_connect_and_rpc_hooks.py",
    "backend/hooks/rpc": "integration/test_connect_and_rpc_hooks.py",
    "backend/hooks/part": "integration/test_access_hook.py",
    "backend/hooks/settings": "unit/app/config/test_checks.py",
    "backend/webhooks/routes": "integration/test_webhooks.py",
    "backend/webhooks/store": "unit/backend/webhooks/test_delivery.py",
    "backend/webhooks/webhooks": "integration/test_webhooks.py",
    "backend/push/access": "integration/test_moderation.py",
    "backend/push": "unit/backend/push/test_routes.py",
    "demo": "integration/test_demo.py",
    "demo/routes": "integration/test_demo.py",
    "engine/cluster": "contract/test_backplane.py",
    "engine/cluster/event_monitor": "integration/test_watch.py",
    "engine/dispatch/calls": "unit/engine/dispatch/test_dispatch.py",
    "engine/dispatch/expiry": "unit/engine/dispatch/test_dispatch.py",
    "engine/doors/answers": "hostile/test_both_paths.py",
    "engine/doors/client_port": "integration/test_engineio_http.py",
    "engine/doors/engineio": "integration/test_engineio_http.py",
    "engine/doors/fast_path/http_connection": "unit/engine/doors/fast_path/test_fast_path.py",
    "engine/doors/framing": "hostile/test_limits.py",
    "engine/doors/handlers": "integration/test_engineio_http.py",
    "engine/doors/native": "contract/test_transport.py",
    "engine/doors/static_files": "integration/test_client_js.py",
    "engine/doors/relay": "integration/test_relay.py",
    "engine/hub/backplane": "contract/test_backplane.py",
    "engine/published_keys": "unit/engine/test_signing_keys.py",
    "engine/transport/base": "contract/test_transport.py",
    "engine/transport/client": "contract/test_transport.py",
    "engine/transport/polling": "contract/test_transport.py",
    "engine/transport/registry": "unit/engine/transport/test_client_registry.py",
    "engine/transport/stream": "contract/test_transport.py",
    "engine/transport/tornado_private": "unit/app/test_private_parts.py",
    "engine/transport/unread": "unit/engine/doors/test_listener.py",
    "engine/wire/codec": "unit/engine/wire/test_socketio.py",
    "engine/wire/limits": "hostile/test_wire_limits.py",
    "engine/wire/unfinished": "unit/engine/wire/test_frames.py",
    "feed": "integration/test_feed.py",
    "helpdesk/chat/reports": "unit/helpdesk/test_reports.py",
    "helpdesk/chat/routes": "integration/test_helpdesk_admin.py",
    "helpdesk/dashboard/routes": "integration/test_helpdesk_admin.py",
    "helpdesk/features": "integration/test_process.py",
    "helpdesk/notifications/reports": "unit/helpdesk/test_reports.py",
    "helpdesk/presence/reports": "unit/helpdesk/test_reports.py",
    "helpdesk/presence/routes": "integration/test_helpdesk_admin.py",
    "helpdesk/tickets/audience": "unit/helpdesk/test_host_access.py",
    "helpdesk/tickets/passes": "integration/test_passes.py",
    "helpdesk/tickets/readers": "unit/helpdesk/test_host_access.py",
    "helpdesk/tickets/reports": "unit/helpdesk/test_reports.py",
    "operations/console/console": "console/test_sessions.py",
    "operations/moderation": "integration/test_moderation.py",
    "operations/moderation/rule_store": "unit/operations/moderation/test_rules.py",
    "operations/routes": "integration/test_admin.py",
    "operations/views/clients": "integration/test_connections.py",
    "operations/views/configuration": "integration/test_moderation.py",
    "operations/views/connections": "integration/test_connections.py",
    "operations/views/live_events": "integration/test_watch.py",
    "operations/views/metrics": "integration/test_metrics.py",
    "operations/views/nodes": "integration/test_nodes.py",
    "operations/views/users": "integration/test_connections.py",
}


def test_each_source_has_its_test() -> None:
    missing = []
    for path in sources():
        name = name_of(path)
        if path.name == "__init__.py":
            continue
        folder, _, stem = name.rpartition("/")
        mirrored = TESTS / "unit" / folder / f"test_{stem}.py"
        place = ELSEWHERE.get(name) or (SETTINGS_TEST if stem == "settings" else ELSEWHERE.get(folder, "nowhere"))
        if not mirrored.exists() and not (TESTS / place).exists():
            missing.append(name)
    assert not missing, f"write tests/unit/…/test_….py for each, or name their test in ELSEWHERE: {missing}"


def test_the_table_names_only_existing_files() -> None:
    """A row for a deleted file, or one with its own test, would hide a new file without a test."""
    gone = [
        name
        for name, place in ELSEWHERE.items()
        if not ((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()) or not (TESTS / place).exists()
    ]
    assert gone == []


def test_every_test_file_is_in_a_known_folder() -> None:
    known = {path.name for path in TESTS.iterdir() if path.is_dir()}
    assert known >= {"unit", "contract", "scenarios", "integration", "console", "cluster", "hostile", "fuzz", "house"}
    assert not [path for path in Path(TESTS).glob("test_*.py")]

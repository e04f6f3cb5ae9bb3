"""client.js, the browser client of the native protocol, run in Node against a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess

HERE = Path(__file__).parent
CLIENT_JS = HERE.parents[1] / "insightdesk_rt" / "engine" / "doors" / "static" / "client.js"
NODE = shutil.which("node")
REQUIRED = "node" in os.environ.get("INSIGHTDESK_RT_REQUIRE", "")
SHORT_S = 6

needs_node = pytest.mark.skipif(NODE is None and not REQUIRED, reason="no node: apt-get install nodejs")


def flags() -> list[str]:
    """Return the flags with which this Node has a WebSocket: 22 needs none, 20 and 21 need one."""
    assert NODE is not None, "node is required"
    major = int(re.findall(r"\d+", subprocess.check_output([NODE, "--version"], text=True))[0])
    if major < 20:
        pytest.skip(f"node {major} has no WebSocket")
    return [] if major >= 22 else ["--experimental-websocket", "--no-warnings"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("client_js"))
    server.start()
    yield server
    assert server.stop() == 0
    server.assert_quiet()


@pytest.fixture(scope="module")
def said(server: ServerProcess) -> dict[str, Any]:
    """The results of each step of client_js_story.js."""
    if NODE is None and not REQUIRED:
        pytest.skip("no node")
    push(server)
    tokens = {
        "agent": server.token("ann", "agent", "support", name="Ann"),
        "customer": server.token("mia", "customer"),
        "expired": server.token("ann", "agent", "support", ttl_s=-10),
        "shortlived": server.token("ann", "agent", "support", ttl_s=SHORT_S),
        "shortlivedMs": SHORT_S * 1000 + 500,
        "admin": server.token("ada", "admin"),
        "ticketUrl": ticket_url(server),
    }
    story = subprocess.run(
        [str(NODE), *flags(), str(HERE / "client_js_story.js"), str(CLIENT_JS), base(server), json.dumps(tokens)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    steps = {line["step"]: line["data"] for line in map(json.loads, story.stdout.splitlines())}
    assert steps.get("done"), f"{story.stdout}\n{story.stderr}"
    return steps


def base(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}"


def ticket_url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.admin_port}/api/v1/tickets/42"


def push(server: ServerProcess) -> None:
    request = urllib.request.Request(
        ticket_url(server),
        json.dumps({"subject": "Broken", "teamId": "support"}).encode(),
        {"Authorization": "Bearer " + server.token("ada", "admin"), "Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 201


@needs_node
def test_it_connects_and_sends_what_was_queued_before(said: dict[str, Any]) -> None:
    assert said["connected"] == {"sid": True, "recovered": False, "connected": True}
    assert said["waited"] == "42"


@needs_node
def test_a_call_is_answered_or_refused_with_the_servers_error(said: dict[str, Any]) -> None:
    assert said["ack"] == {"ok": True, "ticketId": "42"}
    assert said["refused"] == {"code": "BAD_REQUEST", "field": "ticketId", "error": True}
    assert said["late"] == "TIMEOUT"


@needs_node
def test_errors_without_an_ack_are_events_and_listeners_may_fail(said: dict[str, Any]) -> None:
    assert said["error event"] == "UNKNOWN_EVENT"
    assert said["a listener that throws must not stop the others"]


@needs_node
def test_it_reconnects_after_a_cut_and_sends_what_was_queued(said: dict[str, Any]) -> None:
    assert said["down"] == [False, "DISCONNECTED", False]
    assert said["back"] == {"same": True, "recovered": True, "later": True}


@needs_node
def test_missed_events_arrive_after_connect(said: dict[str, Any]) -> None:
    assert said["missed"] == ["connect", "ticket:updated"]


@needs_node
def test_a_listener_gets_the_offset_at_which_a_subscription_can_start(said: dict[str, Any]) -> None:
    """So that nothing is missed between the creation of a ticket, for example, and the subscription to it."""
    assert said["since"] == {"offset": True, "connect": True, "repeated": ["status", "priority"]}


@needs_node
def test_it_does_not_reconnect_to_a_namespace_that_refused_it(said: dict[str, Any]) -> None:
    assert said["forbidden"] == {"code": "FORBIDDEN", "close": 4403, "final": True}
    assert said["expired"] == {"code": "AUTH_TOKEN_EXPIRED", "close": 4401, "final": True}


@needs_node
def test_it_reconnects_with_a_new_token_that_it_requests_once(said: dict[str, Any]) -> None:
    assert said["renewed"] == 1, "two namespaces, one request for a token"
    assert said["stuck"] == {"code": 4401, "final": True, "tried": 2}


@needs_node
def test_a_token_is_renewed_on_the_open_connection_before_it_expires(said: dict[str, Any]) -> None:
    assert said["refreshed"] == {"renewals": 1, "cut": 0, "works": True}


@needs_node
def test_an_unreachable_server_is_reported_and_tried_again(said: dict[str, Any]) -> None:
    assert said["away"] == {"code": "OFFLINE", "final": True}


def test_its_types_are_served_beside_it(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"{base(server)}/rt/client.d.ts", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "namespace insightdesk" in answer.read().decode()


def test_it_is_small_and_has_no_dependencies() -> None:
    text = CLIENT_JS.read_text()
    assert len(text.encode()) < 8192
    assert not re.search(r"\brequire\(|^import |^export |\beval\(|innerHTML", text.split("*/", 1)[1], re.MULTILINE)

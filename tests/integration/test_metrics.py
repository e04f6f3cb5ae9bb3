"""/metrics of a real server under real traffic: everything that happened is counted exactly, and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.kit import Target
from tests.support.aio import aio
from tests.support.clients import Door, Refused
from tests.support.native_client import NativeDoor
from tests.support.python_client import PythonDoor
from tests.support.scrape import Scrape, fetch, scrape, scraped
from tests.support.server import ServerProcess

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "operations.md").read_text()
RULES = (ROOT / "conf" / "prometheus-alerts.yml").read_text()
UPDATES = 7
DOORS = (NativeDoor(), PythonDoor("python-websocket", "websocket"), PythonDoor("python-polling", "polling"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("metrics"), presence_grace_ms=200, drain_seconds=0)
    server.start()
    yield server
    assert server.stop() == 0
    server.assert_quiet()


def conserved(now: Scrape) -> None:
    """Check that every queued message was written, was dropped for a reason, or still waits."""
    waiting = now.of("outbox_messages")
    assert now.of("messages_queued_total") == (
        now.of("messages_written_total") + now.of("messages_dropped_total") + waiting
    )


class Rise:
    """Measures how much counters increased between two scrapes."""

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self._before, self._after = before, after

    def of(self, name: str, **labels: str) -> float:
        return self._after.of(name, **labels) - self._before.of(name, **labels)


async def put(server: ServerProcess, ticket_id: str, **fields: Any) -> None:
    status, answer = await server.push("PUT", f"/api/v1/tickets/{ticket_id}", fields)
    assert status in (200, 201), answer


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
@aio
async def test_what_a_client_does_is_counted_exactly(server: ServerProcess, door: Door) -> None:
    tag = secrets.token_hex(3)
    ticket = f"ticket-{tag}"
    await put(server, ticket, subject="Printer", status="open", priority="normal", teamId=tag)
    before = await scrape(server)
    transport = "polling" if "polling" in door.name else "websocket"
    tickets: dict[str, str] = {"namespace": "/tickets"}

    peer = await door.open(server.address, "/tickets", {"token": server.token(f"ada-{tag}", "agent", tag)})
    await peer.ok("ticket:subscribe", {"ticketId": ticket})
    for number in range(UPDATES):
        await put(server, ticket, subject=f"Printer {number}")
        await peer.expect("ticket:updated")
    for _ in range(30):
        await peer.ok("ticket:typing", {"ticketId": ticket})
    for _ in range(3):
        assert (await peer.error("ticket:typing", {"ticketId": ticket}))["code"] == "RATE_LIMITED"
    assert (await peer.error("made:up", {}))["code"] == "UNKNOWN_EVENT"
    assert (await peer.error("ticket:subscribe", {"ticketId": 1}))["code"] == "BAD_REQUEST"
    during = await scrape(server)
    seen = len([heard for heard in peer.events if heard.event == "ticket:updated"])
    await peer.close()
    after = await scraped(server, lambda now: now.of("connections") == 0, "the client is gone")

    rise = Rise(before, after)
    assert rise.of("connections_opened_total", transport=transport) == rise.of("connections_opened_total") == 1
    assert (during.of("connections", transport=transport), during.of("connections")) == (1, 1)
    assert rise.of("connects_total", **tickets) == rise.of("connects_total") == 1
    assert (during.of("sockets", **tickets), after.of("sockets")) == (1, 0)
    assert rise.of("connections_closed_total") == 1
    assert rise.of("events_in_total", event="ticket:subscribe", **tickets) == 2
    assert rise.of("events_in_total", event="ticket:typing", **tickets) == 33
    assert rise.of("events_in_total", event="other", **tickets) == 1
    assert rise.of("events_in_total") == 36
    assert rise.of("rate_limited_total", event="ticket:typing", **tickets) == rise.of("rate_limited_total") == 3
    errors = {"RATE_LIMITED": 3, "UNKNOWN_EVENT": 1, "BAD_REQUEST": 1}
    assert {code: rise.of("call_errors_total", code=code) for code in errors} == errors
    assert rise.of("call_errors_total") == 5
    # events over their rate, and unknown ones, reach no handler
    assert rise.of("handler_seconds_count", event="ticket:typing", **tickets) == 30
    assert rise.of("handler_seconds_count") == 32 and 0 < rise.of("handler_seconds_sum") < 5
    assert seen == UPDATES
    assert rise.of("events_out_total", event="ticket:updated", **tickets) == UPDATES
    assert rise.of("events_logged_total") >= UPDATES and rise.of("events_log_failed_total") == 0
    assert UPDATES <= rise.of("delivery_seconds_count") <= rise.of("events_logged_total")
    assert rise.of("received_bytes_total") > 0 and rise.of("sent_bytes_total") > UPDATES * 100
    assert rise.of("messages_dropped_total", reason="behind") == 0
    for now in (before, during, after):
        conserved(now)


@aio
async def test_refusals_are_counted_by_reason(server: ServerProcess) -> None:
    before = await scrape(server)
    expired = server.token("ada", "agent", ttl_s=-60)
    for auth, code in (
        ({}, "AUTH_TOKEN_MISSING"),
        ({"token": "x.y.z"}, "AUTH_TOKEN_INVALID"),
        ({"token": expired}, "AUTH_TOKEN_EXPIRED"),
        ({"token": server.token("ada", "agent", "red")}, "FORBIDDEN"),
    ):
        with pytest.raises(Refused, match=code):
            await NativeDoor().open(server.address, "/dashboard", auth)
    target = Target(server.port)
    http = await target.http()
    assert (await http.ask("GET", "/socket.io/?EIO=4&transport=polling&sid=nobody")).status == 400
    assert (await http.ask("GET", "/socket.io/?EIO=3&transport=polling")).status == 400
    evil = {"Origin": "https://evil.example"}
    assert (await http.ask("GET", "/socket.io/?EIO=4&transport=polling", headers=evil)).status == 403
    await target.close()
    rise = Rise(before, await scrape(server))
    codes = ("AUTH_TOKEN_MISSING", "AUTH_TOKEN_INVALID", "AUTH_TOKEN_EXPIRED", "FORBIDDEN")
    assert {code: rise.of("connects_refused_total", reason=code) for code in codes} == dict.fromkeys(codes, 1)
    assert rise.of("connects_refused_total") == 4 and rise.of("connects_total") == 0
    reasons = ("SESSION_ID_UNKNOWN", "UNSUPPORTED_PROTOCOL_VERSION", "FORBIDDEN")
    assert {why: rise.of("requests_refused_total", reason=why) for why in reasons} == dict.fromkeys(reasons, 1)


@aio
async def test_messages_dropped_for_a_client_that_does_not_read_are_counted(server: ServerProcess) -> None:
    """Volatile events are dropped first, then the client is closed. At any time, every message is accounted for."""
    before = await scrape(server)
    tag = secrets.token_hex(3)
    client = await deaf(server, server.token(f"ada-{tag}", "agent", tag))
    try:
        await fill(server, before, tag)
    finally:
        client.close()


async def fill(server: ServerProcess, before: Scrape, tag: str) -> None:
    body = {"namespace": "/tickets", "event": f"of-{tag}", "data": "x" * 50_000, "room": f"user:ada-{tag}"}

    async def emit(volatile: bool) -> None:
        status, answer = await server.push("POST", "/api/v1/emit", {**body, "volatile": volatile})
        assert status == 200, answer

    await scraped(server, lambda now: now.of("sockets") == 1, "it has joined")
    for _ in range(400):
        await emit(volatile=True)
        now = await scrape(server)
        conserved(now)
        if now.of("messages_dropped_total", reason="behind") > before.of("messages_dropped_total", reason="behind"):
            break
    dropped = Rise(before, now).of("messages_dropped_total", reason="behind")
    assert dropped == 1 and now.of("outbox_bytes") > 0 and now.of("connections") == 1
    for _ in range(400):
        await emit(volatile=False)
        now = await scrape(server)
        conserved(now)
        if not now.of("connections"):
            break
    rise = Rise(before, now)
    assert rise.of("connections_closed_total", reason="slow_consumer") == 1
    assert rise.of("messages_dropped_total", reason="closed") >= 1
    assert rise.of("events_out_total", namespace="/tickets", event="other") > 1, "a back end's own events"
    assert not any(tag in key for key, _ in now.values) and tag not in str(now.labels("events_out_total", "event"))
    assert (now.of("outbox_bytes"), now.of("outbox_messages")) == (0, 0)


async def deaf(server: ServerProcess, token: str) -> socket.socket:
    """Return a native client that has joined /tickets and reads nothing more; its kernel buffers are small."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, server.address)
    handshake = (
        b"GET /rt/tickets HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\n\r\n"
    )
    hello = b'{"event":"connect","data":{}}'
    await loop.sock_sendall(plain, handshake + bytes([0x81, 0x80 | len(hello), 0, 0, 0, 0]) + hello)
    return plain


@aio
async def test_presence_is_counted_by_status(server: ServerProcess) -> None:
    before = await scrape(server)
    tag = secrets.token_hex(3)
    peer = await NativeDoor().open(server.address, "/presence", {"token": server.token(f"ada-{tag}", "agent", tag)})
    for status in ("busy", "away", "busy"):
        await peer.ok("presence:status", {"status": status})
    await peer.close()
    after = await scraped(
        server, lambda now: Rise(before, now).of("presence_transitions_total", status="offline") == 1, "offline"
    )
    rise = Rise(before, after)
    counted = {status: rise.of("presence_transitions_total", status=status) for status in ("online", "busy", "away")}
    assert counted == {"online": 1, "busy": 2, "away": 1}


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@aio
async def test_process_metrics_match_the_kernels_figures(server: ServerProcess) -> None:
    now = await scrape(server)
    listed = len(os.listdir(f"/proc/{server.pid}/fd"))
    assert abs(now.of("process_open_fds") - listed) <= 3  # the scrape's own connection
    rss_kb = resident_kb(server.pid)
    assert now.of("process_resident_memory_bytes") == pytest.approx(rss_kb * 1024, rel=0.1)
    assert now.of("process_max_fds") == resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[0]
    assert now.of("process_start_time_seconds") == pytest.approx(os.stat(f"/proc/{server.pid}").st_ctime, abs=60)
    assert now.of("build_info") == 1 and now.of("ready") == len(now.labels("ready", "check")) == 5
    assert now.of("valkey_up") == now.of("subscription_up") == 1 and now.of("valkey_pipeline_seconds_count") > 0


@aio
async def test_a_page_that_names_this_machine_as_its_own_host_reads_nothing(server: ServerProcess) -> None:
    """DNS rebinding: the browser sends the request to 127.0.0.1, with the other site's name in Host."""
    assert (await fetch(server, Host=f"evil.example:{server.admin_port}")).code == 403
    assert (await fetch(server, Host=f"localhost:{server.admin_port}")).code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-For", "198.51.100.7"),
        ("x-forwarded-for", ""),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "127.0.0.1"),
        ("Forwarded", "for=198.51.100.7"),
        ("Via", "1.1 proxy"),
    ],
)
@aio
async def test_requests_passed_on_by_a_local_proxy_need_a_token(server: ServerProcess, name: str, value: str) -> None:
    """Regression: a reverse proxy for the console made /metrics public."""
    assert (await fetch(server, **{name: value})).code == 401
    bearer = f"Bearer {server.token('prometheus', 'admin')}"
    assert (await fetch(server, **{name: value, "Authorization": bearer})).code == 200


@aio
async def test_off_loopback_it_needs_a_token(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, admin_address="0.0.0.0", admin_allow_plaintext="true", drain_seconds=0)
    server.start()
    try:
        assert (await fetch(server)).code == 401
        customer = server.token("carl", "customer")
        assert (await fetch(server, Authorization=f"Bearer {customer}")).code == 403
        shown = await fetch(server, Authorization=f"Bearer {server.token('prometheus', 'admin')}")
        assert shown.code == 200 and b"insightdesk_rt_build_info{" in shown.body
    finally:
        server.stop()


# ── readiness ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def failing(server: ServerProcess) -> set[str]:
    status, answer = await server.push("GET", "/readyz", token=None)
    assert (status == 200) is answer["ready"]
    return {check["name"] for check in answer["checks"] if not check["ok"]}


async def until_failing(server: ServerProcess, names: set[str], deadline_s: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while (now := await failing(server)) != names:
        assert loop.time() < end, f"failing: {now}, not {names}"
        await asyncio.sleep(0.05)


@aio
async def test_a_blocked_event_loop_makes_the_node_unready_for_two_seconds(server: ServerProcess) -> None:
    before = await scrape(server)
    os.kill(server.pid, signal.SIGSTOP)
    await asyncio.sleep(1.3)
    os.kill(server.pid, signal.SIGCONT)
    await until_failing(server, {"loop"}, 1.5)
    await until_failing(server, set(), 3.5)
    after = await scrape(server)
    assert after.of("loop_lag_max_seconds") > 1, "the last ten seconds"
    over_1s = {"le": "1.0"}
    slow = after.of("loop_lag_seconds_count") - after.of("loop_lag_seconds_bucket", **over_1s)
    assert slow > before.of("loop_lag_seconds_count") - before.of("loop_lag_seconds_bucket", **over_1s)


@aio
async def test_a_shortage_of_file_descriptors_makes_the_node_unready(server: ServerProcess) -> None:
    await until_failing(server, set(), 5)
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    target = Target(server.port)
    for _ in range(80):
        await target.http()
    await until_failing(server, set(), 5)
    greatest = max(map(int, os.listdir(f"/proc/{server.pid}/fd")))
    try:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (greatest + 6, limits[1]))  # some more may be opened
        await until_failing(server, {"files"}, 5)
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        await target.close()
    await until_failing(server, set(), 5)


# ── the documentation ───────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_metrics_and_their_labels_match_the_documentation(server: ServerProcess) -> None:
    now = await scrape(server)
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*)\|", DOC, re.MULTILINE)
    documented = {name: set(labels.replace(",", " ").split()) for name, labels in rows if "_" in name}
    assert set(documented) == now.families
    for name, labels in documented.items():
        series = [dict(has) for each, has in now.values if each.removesuffix("_count") == name]
        assert all(set(has) == labels for has in series), name


@aio
async def test_alerts_use_only_existing_metrics(server: ServerProcess) -> None:
    now = await scrape(server)
    exported = {name for name, _ in now.values} | now.families  # of a webhook there are series once there is one
    used = set(re.findall(r"\b(?:insightdesk_rt|process)_\w+", RULES))
    assert used and used <= exported

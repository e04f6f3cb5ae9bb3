"""Liveness and readiness: each check is reported by name, and none can block the answer."""

from __future__ import annotations

import asyncio

import pytest

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.operations.views import health
from insightdesk_rt.operations.views.health import Check, Checked, Lately, health_routes
from tests.support.admin_port import a_port, make_admin
from tests.support.aio import aio


async def well() -> str:
    return ""


async def unwell() -> str:
    return "draining"


async def broken() -> str:
    raise ConnectionError("redis://user:password@host")


async def refused() -> str:
    raise RtError("UNAVAILABLE")


async def hanging() -> str:
    await asyncio.sleep(60)
    return ""


@aio
async def test_a_process_is_ready_if_all_checks_pass() -> None:
    admin = make_admin()
    async with a_port(admin, health_routes(admin, [Check("valkey", well), Check("bus", well)])) as port:
        alive = await port.ask("GET", "/healthz", bearer=None)
        assert (alive.status, alive.json) == (200, {"status": "ok"})
        ready = await port.ask("GET", "/readyz", bearer=None)
        assert ready.status == 200
        assert ready.json == {"ready": True, "checks": [{"name": "valkey", "ok": True}, {"name": "bus", "ok": True}]}


@aio
async def test_the_checks_run_once_for_many_recent_requests() -> None:
    now_s, runs = 100.0, 0

    async def counted() -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return "full" if runs > 1 else ""

    lately = Lately([Check("files", counted)], lambda: now_s)
    first = await asyncio.gather(*(lately.results() for _ in range(5)))
    now_s += 0.9
    assert first == [[Checked("files", True)]] * 5 == [await lately.results()] * 5 and runs == 1
    now_s += 0.1
    assert await lately.results() == [Checked("files", False, "full")] and runs == 2


@aio
async def test_each_failing_check_is_named_and_reveals_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_WITHIN_S", 0.05)
    admin = make_admin()
    checks = [Check("valkey", broken), Check("node", unwell), Check("bus", hanging), Check("loop", well)]
    async with a_port(admin, health_routes(admin, checks)) as port:
        reply = await port.ask("GET", "/readyz", bearer=None)
        assert reply.status == 503 and reply.json["ready"] is False
        assert {check["name"]: check.get("why", "") for check in reply.json["checks"]} == {
            "valkey": "the check itself failed; the log says why",
            "node": "draining",
            "bus": "no answer within 0 s",
            "loop": "",
        }
        assert "password" not in reply.text
        assert (await port.ask("GET", "/healthz", bearer=None)).status == 200


@aio
async def test_a_failing_check_has_a_readable_reason_and_a_bug_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It shows no class name, and logs no line per request, because balancers ask every second."""
    assert (await health.run_check(Check("valkey", refused))).why == RtError("UNAVAILABLE").message
    check = Check("valkey", broken)
    for _ in range(3):
        assert "Error" not in (await health.run_check(check)).why
    assert len(caplog.records) == 1

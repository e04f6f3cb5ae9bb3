"""What admins rule has its limits: who goes over one is answered as the description of the API says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from insightdesk_rt.api.openapi import describe
from insightdesk_rt.engine.cluster.node_calls import NodeAnswers
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.operations.moderation.blocks_and_revocations import BlocksAndRevocations
from insightdesk_rt.operations.moderation.log_levels import LogLevels
from insightdesk_rt.operations.moderation.moderation_routes import moderation_routes
from insightdesk_rt.operations.moderation.notice_routes import notice_routes
from insightdesk_rt.operations.moderation.notices import Notices
from insightdesk_rt.operations.moderation.rates import Rates
from insightdesk_rt.operations.moderation.rates_routes import RatesHandler, tuning_routes
from insightdesk_rt.operations.moderation.rule_store import RuleStore
from insightdesk_rt.operations.moderation.rules import Rules
from tests.support import fakes
from tests.support.admin_port import Port, a_port, make_admin
from tests.support.aio import aio

MOST = 2


class OneNode:
    """Asks this node alone."""

    def __init__(self) -> None:
        self.does: dict[str, Any] = {}

    def answer(self, verb: str, does: Any) -> None:
        self.does[verb] = does

    async def ask(self, verb: str, *words: str) -> NodeAnswers:
        return NodeAnswers({"n1.1": Raw(msgspec.json.encode(await self.does[verb](words)))}, [])


@asynccontextmanager
async def ruling(url: str, prefix: str) -> AsyncIterator[tuple[Port, dict[str, Any]]]:
    """A port where MOST of each kind may be ruled, and its description."""
    valkey = Valkey(url, prefix)
    await valkey.start()
    calls: Any = OneNode()
    rules = Rules(RuleStore(valkey))
    gate = BlocksAndRevocations(rules, SimpleNamespace(clients={}), lambda token: pytest.fail("nobody asked"))  # type: ignore[arg-type]
    notices = Notices(rules, Hub(fakes.OneNode(), ["/chat"]), lambda: True)
    levels = LogLevels(rules, "n1")
    events = {event: None for event in ("one", "two", "three")}
    client_calls: Any = SimpleNamespace(overrule=lambda event, rate: None, rates=lambda: {"/chat": events})
    rates = Rates(rules, client_calls)
    for table in (gate.revocations, gate.blocks, notices.table, levels.table, rates.table):
        table.most = MOST
    rules.connect(calls)
    await rules.start()
    admin = make_admin()
    tuning = RatesHandler("n1", "0", (), rules, rates, levels, client_calls, calls)  # type: ignore[arg-type]
    routes = [
        *moderation_routes(admin, rules, gate, calls),
        *notice_routes(admin, rules, notices, ["/chat"]),
        *tuning_routes(admin, tuning),
    ]
    try:
        async with a_port(admin, routes) as port:
            yield port, describe(routes)["paths"]
    finally:
        ruled = list(levels.table.rules.values())
        levels.table.rules.clear()
        for rule in ruled:  # loggers are this whole process's
            await levels.table.changed(rule, None)
        await valkey.close()


FULL = (
    ("POST", "/revocations", "/revocations", [{"userId": name} for name in "abc"]),
    ("POST", "/blocks", "/blocks", [{"userId": name} for name in "abc"]),
    ("POST", "/notices", "/notices", [{"message": name} for name in "abc"]),
    ("PUT", "/ratelimits/{event}", "/ratelimits/", [{"max": 1, "window": 60, "forSeconds": 60}] * 3),
    ("PUT", "/logging", "/logging", [{"logger": "", "level": "info", "forSeconds": 60, "node": None}] * 3),
)


@pytest.mark.parametrize(("method", "declared", "path", "bodies"), FULL, ids=[one[2] for one in FULL])
@aio
async def test_what_is_one_too_many_is_a_conflict_and_declared(
    method: str, declared: str, path: str, bodies: list[dict[str, Any]], valkey_url: str, prefix: str
) -> None:
    async with ruling(valkey_url, prefix) as (port, paths):
        statuses = []
        for at, body in enumerate(bodies):
            to = f"/api/v1{path}" + (("one", "two", "three")[at] if path.endswith("/") else "")
            if path == "/logging":
                body = {**body, "logger": ("", "operations", "engine.cluster")[at]}
            reply = await port.ask(method, to, {**body, "reason": "test"})
            statuses.append(reply.status)
        assert statuses[:MOST] in ([200] * MOST, [201] * MOST) and statuses[MOST] == 409, reply.text
        assert reply.error["code"] == "CONFLICT" and "2 of them" in reply.error["message"]
        responses = paths[f"/api/v1{declared}"][method.lower()]["responses"]
        assert "CONFLICT" in responses["409"]["description"]
        for code in ("MISSING", "INVALID", "EXPIRED"):
            assert f"AUTH_TOKEN_{code}" in responses["401"]["description"]
        assert "AUTH_SESSION_REVOKED" in responses["401"]["description"]

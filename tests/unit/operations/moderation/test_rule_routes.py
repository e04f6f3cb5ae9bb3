"""Each kind of rule has a maximum number. One more is refused as the API's description says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from insightdesk_rt.api.openapi import describe
from insightdesk_rt.engine.cluster.node_calls import NodeReplies
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.operations.moderation.access_rules import AccessRuleChanges
from insightdesk_rt.operations.moderation.blocks import block_routes
from insightdesk_rt.operations.moderation.blocks_and_revocations import BlocksAndRevocations
from insightdesk_rt.operations.moderation.log_levels import LogLevels, log_level_routes
from insightdesk_rt.operations.moderation.notices import Notices, notice_routes
from insightdesk_rt.operations.moderation.rates import Rates, rate_routes
from insightdesk_rt.operations.moderation.revocations import revocation_routes
from insightdesk_rt.operations.moderation.rule_store import RuleStore
from insightdesk_rt.operations.moderation.rules import Rules
from tests.support import fakes
from tests.support.admin_port import Port, a_port, make_admin
from tests.support.aio import aio

MAX_RULES = 2


class OneNode:
    """Node calls in a cluster of one node."""

    def __init__(self) -> None:
        self.does: dict[str, Any] = {}

    def handle(self, verb: str, does: Any) -> None:
        self.does[verb] = does

    async def request(self, verb: str, *words: str) -> NodeReplies:
        return NodeReplies({"n1.1": Raw(msgspec.json.encode(await self.does[verb](words)))}, [])


@asynccontextmanager
async def port_with_few_rules(url: str, prefix: str) -> AsyncIterator[tuple[Port, dict[str, Any]]]:
    """An admin port with a limit of MAX_RULES of each kind, and its description."""
    valkey = Valkey(url, prefix)
    await valkey.start()
    calls: Any = OneNode()
    rules = Rules(RuleStore(valkey))
    registry: Any = SimpleNamespace(clients={})
    access = BlocksAndRevocations(rules, registry)
    notices = Notices(rules, Hub(fakes.OneNode(), ["/chat"]), lambda: True)
    levels = LogLevels(rules, "n1")
    events = {event: None for event in ("one", "two", "three")}
    client_calls: Any = SimpleNamespace(overrule=lambda event, rate: None, rates=lambda: {"/chat": events})
    rates = Rates(rules, client_calls)
    tables = (access.revocations.table, access.blocks.table)
    for table in (*tables, notices.table, levels.table, rates.table):
        table.max_rules = MAX_RULES
    rules.connect(calls)
    await rules.start()
    admin = make_admin()
    changes = AccessRuleChanges(rules, registry, calls, tables)
    routes = [
        *revocation_routes(admin, changes, access.revocations),
        *block_routes(admin, changes, access.blocks),
        *notice_routes(admin, rules, notices, ["/chat"]),
        *rate_routes(admin, "n1", rules, rates, calls),
        *log_level_routes(admin, rules, levels, calls),
    ]
    try:
        async with a_port(admin, routes) as port:
            yield port, describe(routes)["paths"]
    finally:
        set_levels = list(levels.table.rules.values())
        levels.table.rules.clear()
        for rule in set_levels:  # loggers belong to the whole process
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
async def test_one_rule_too_many_is_a_conflict_as_described(
    method: str, declared: str, path: str, bodies: list[dict[str, Any]], valkey_url: str, prefix: str
) -> None:
    async with port_with_few_rules(valkey_url, prefix) as (port, paths):
        statuses = []
        for at, body in enumerate(bodies):
            to = f"/api/v1{path}" + (("one", "two", "three")[at] if path.endswith("/") else "")
            if path == "/logging":
                body = {**body, "logger": ("", "operations", "engine.cluster")[at]}
            reply = await port.ask(method, to, {**body, "reason": "test"})
            statuses.append(reply.status)
        assert statuses[:MAX_RULES] in ([200] * MAX_RULES, [201] * MAX_RULES) and statuses[MAX_RULES] == 409, reply.text
        assert reply.error["code"] == "CONFLICT" and "already 2 of them" in reply.error["message"]
        responses = paths[f"/api/v1{declared}"][method.lower()]["responses"]
        assert "CONFLICT" in responses["409"]["description"]
        for code in ("MISSING", "INVALID", "EXPIRED"):
            assert f"AUTH_TOKEN_{code}" in responses["401"]["description"]
        assert "AUTH_SESSION_REVOKED" in responses["401"]["description"]

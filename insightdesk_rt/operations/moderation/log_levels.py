"""Log levels: make a logger of the package log more, or less, for a while, on all nodes or on one.

GET    /api/v1/logging      the level of each logger, on each node
PUT    /api/v1/logging      set another level, for a while
"""

from __future__ import annotations

import logging
from typing import Annotated, Literal

from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, Change
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.operations.moderation.rule_routes import DAY_S, Ruled, rule_id, time_or_none
from insightdesk_rt.operations.moderation.rules import Rule, Rules, RuleTable

MAX_LEVELS = 200
PACKAGE = "insightdesk_rt"
STATE = "levels.state"

Level = Literal["debug", "info", "warning", "error"]
LoggerName = Annotated[
    str, Meta(max_length=100, description="as log lines name it, or a first part of that; empty: all")
]
NodeId = Annotated[str, Meta(max_length=64)]


class LevelRule(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """`logger` is a logger as log lines name it ("transport.client") or a first part of that name; "" means all.

    `node` "" means all nodes.
    """

    logger: str
    level: Level
    node: str = ""


class Logger(Struct):
    """`until`: when a level ends that was set for the logger or a first part of its name; null: it is configured."""

    logger: str
    level: str
    until: str | None


class NodeLoggers(Struct):
    node: str
    loggers: list[Logger]


class LogLevels:
    """Applies the levels that admins set to this process's loggers."""

    def __init__(self, rules: Rules, node_id: str) -> None:
        self._node_id = node_id
        self.table = RuleTable("level", LevelRule, MAX_LEVELS, self._changed)
        rules.add(self.table)

    def state(self) -> NodeLoggers:
        """Return the level of every logger of this node, and when it ends."""
        loggers = []
        for name, level in self.loggers().items():
            rule = self.rule_over(name)
            loggers.append(Logger(name, level, time_or_none(rule.until_ms) if rule is not None else None))
        return NodeLoggers(self._node_id, loggers)

    def loggers(self) -> dict[str, str]:
        """Return the effective level of each logger of the package; "" is the package's own."""
        names = [PACKAGE, *(name for name in logging.root.manager.loggerDict if name.startswith(f"{PACKAGE}."))]
        return {
            name.removeprefix(PACKAGE).removeprefix("."): logging.getLevelName(
                logging.getLogger(name).getEffectiveLevel()
            ).lower()
            for name in sorted(names)
        }

    def rule_of(self, logger: str) -> LevelRule | None:
        """Return the rule for exactly this logger; one for this node wins over one for all nodes."""
        found = [rule for rule in self.table.rules.values() if rule.logger == logger and self._is_here(rule)]
        return max(found, key=lambda rule: bool(rule.node), default=None)

    def rule_over(self, logger: str) -> LevelRule | None:
        """Return the rule that decides a logger's level: its own, or that of the longest first part of its name."""
        while True:
            if (rule := self.rule_of(logger)) is not None or not logger:
                return rule
            logger = logger.rpartition(".")[0]

    async def _changed(self, old: LevelRule | None, new: LevelRule | None) -> int:
        rule = new or old
        if rule is not None and self._is_here(rule):
            now = self.rule_of(rule.logger)
            name = f"{PACKAGE}.{rule.logger}" if rule.logger else PACKAGE
            logging.getLogger(name).setLevel(now.level.upper() if now is not None else logging.NOTSET)
        return 0

    def _is_here(self, rule: LevelRule) -> bool:
        return rule.node in ("", self._node_id)


# ── the routes ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Loggers(Struct):
    nodes: list[NodeLoggers]
    missing: list[str]


class SetLevel(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    logger: LoggerName
    level: Level
    forSeconds: Annotated[int, Meta(ge=1, le=7 * DAY_S)]
    node: Annotated[NodeId | None, Meta(description="default: all nodes")] = None


class LoggingHandler(Handler):
    rules: Rules
    levels: LogLevels
    calls: NodeCalls

    @operation("viewer", answer=Loggers)
    async def get(self) -> Answer:
        """The level of each logger, on each node."""
        answers, missing = decode_replies(await self.calls.request(STATE), NodeLoggers)
        return Answer(Loggers(sorted(answers.values(), key=lambda one: one.node), missing))

    @operation(
        "operator",
        body=SetLevel,
        answer=Ruled,
        errors=("CONFLICT",),
        action="logging.set",
        target=lambda body: body.logger or "all",
    )
    async def put(self, body: SetLevel) -> Answer:
        """Log more, or less, for a while; then the configured level applies again."""
        if body.node is not None:
            answers, missing = decode_replies(await self.calls.request(STATE), NodeLoggers)
            if not missing and body.node not in {one.node for one in answers.values()}:
                raise RtError("BAD_REQUEST", "There is no such node.", field="node")
        if body.logger and not any(f"{name}.".startswith(f"{body.logger}.") for name in self.levels.loggers()):
            raise RtError("BAD_REQUEST", "There is no such logger.", field="logger")
        now_ms = self.rules.now_ms()
        rule = LevelRule(
            id=rule_id("level", body.logger, body.node or ""),
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=now_ms + body.forSeconds * 1000,
            logger=body.logger,
            level=body.level,
            node=body.node or "",
        )
        done = await self.rules.put(self.levels.table, rule)
        return Answer(Ruled(rule.id, done.count, done.missing))


def log_level_routes(admin: Admin, rules: Rules, levels: LogLevels, calls: NodeCalls) -> list[Route]:
    """Return the route of this file, and register this node's replies to its calls."""

    async def state(arguments: tuple[str, ...]) -> NodeLoggers:
        return levels.state()

    calls.handle(STATE, state)
    return [(r"/api/v1/logging", LoggingHandler, {"admin": admin, "rules": rules, "levels": levels, "calls": calls})]

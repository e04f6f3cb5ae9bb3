"""More logs, or fewer, for a while: the level of a logger of the package on all nodes, or on one."""

from __future__ import annotations

import logging
from typing import Literal

from insightdesk_rt.operations.moderation.rules import Rule, Rules, RuleTable

MAX_LEVELS = 200
PACKAGE = "insightdesk_rt"

Level = Literal["debug", "info", "warning", "error"]


class LevelRule(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """`logger` as log lines name it ("transport.client"), or a first part of that; "": all. `node` "": on all."""

    logger: str
    level: Level
    node: str = ""


class LogLevels:
    def __init__(self, rules: Rules, node_id: str) -> None:
        self._node_id = node_id
        self.table = RuleTable("level", LevelRule, MAX_LEVELS, self._changed)
        rules.add(self.table)

    def loggers(self) -> dict[str, str]:
        """Return the level that counts here for each logger there is, "" among them."""
        names = [PACKAGE, *(name for name in logging.root.manager.loggerDict if name.startswith(f"{PACKAGE}."))]
        return {
            name.removeprefix(PACKAGE).removeprefix("."): logging.getLevelName(
                logging.getLogger(name).getEffectiveLevel()
            ).lower()
            for name in sorted(names)
        }

    def rule_of(self, logger: str) -> LevelRule | None:
        """Return what was ruled for a logger here, for this node before all nodes."""
        found = [rule for rule in self.table.rules.values() if rule.logger == logger and self._is_here(rule)]
        return max(found, key=lambda rule: bool(rule.node), default=None)

    def rule_over(self, logger: str) -> LevelRule | None:
        """Return what was ruled that a logger's level is of here: for itself, or for the longest first part of it."""
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

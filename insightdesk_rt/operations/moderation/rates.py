"""How often a user may do something, other than configured for a while, on all nodes."""

from __future__ import annotations

from insightdesk_rt.engine.dispatch.calls import Calls
from insightdesk_rt.engine.rate_limits import Rate
from insightdesk_rt.operations.moderation.rules import Rule, Rules, RuleTable

MAX_RATES = 200  # there are fewer events


class RateRule(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """`id` is the event's name, or "default"."""

    max: int
    per_s: int


class Rates:
    """`calls` are those of this node's clients."""

    def __init__(self, rules: Rules, calls: Calls) -> None:
        self._calls = calls
        self.table = RuleTable("rate", RateRule, MAX_RATES, self._changed)
        rules.add(self.table)

    async def _changed(self, old: RateRule | None, new: RateRule | None) -> int:
        if new is not None:
            self._calls.overrule(new.id, Rate(new.max, new.per_s))
        elif old is not None:
            self._calls.overrule(old.id, None)
        return 0

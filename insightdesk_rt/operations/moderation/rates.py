"""Rates: how often a user may send an event, changed while the servers run, on all nodes.

GET    /api/v1/ratelimits              the rate of each event, and the users who recently exceeded one
PUT    /api/v1/ratelimits/{event}      set another rate, for a while or until it is taken back
DELETE /api/v1/ratelimits/{event}      return to the configured rate
"""

from __future__ import annotations

import time
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, Change, Removal
from insightdesk_rt.api.whom import customer_of, user_of
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.counters import OTHER
from insightdesk_rt.engine.dispatch.calls import DEFAULT, Calls
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import iso
from insightdesk_rt.engine.rate_limits import Rate
from insightdesk_rt.operations.moderation.rule_routes import DAY_S, Ruled, Seconds, time_or_none
from insightdesk_rt.operations.moderation.rules import Rule, Rules, RuleTable

MAX_RATES = 200  # there are fewer events
MAX_OFFENDERS = 100
STATE = "rates.state"

EventName = Annotated[str, Meta(min_length=1, max_length=64)]


class RateRule(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """`id` is the event's name, or "default"."""

    max: int
    per_s: int


class Limit(Struct):
    """At most `max` calls of a user in `windowSeconds`. `limited`: calls refused since the nodes started."""

    namespace: str
    event: str
    max: int
    windowSeconds: int
    overriddenUntil: str | None
    overridden: bool
    limited: int


class OffenderView(Struct):
    """A node refused `count` calls of a user, the last one at `lastAt`.

    With separate ids a customer is named by `customerId`, and `userId` is null.
    """

    userId: str | None
    namespace: str
    event: str
    count: int
    lastAt: str
    node: str
    customerId: str | UnsetType = UNSET


class Limits(Struct):
    limits: list[Limit]
    offenders: list[OffenderView]
    missing: list[str]


class Rates:
    """Applies the rates that admins set to the calls of this node's clients."""

    def __init__(self, rules: Rules, calls: Calls) -> None:
        self._calls = calls
        self.table = RuleTable("rate", RateRule, MAX_RATES, self._changed)
        rules.add(self.table)

    def state(self, node_id: str) -> Limits:
        """Return the rates in force on this node, and its users who recently exceeded one."""
        return Limits(self._limits(), self._offenders(node_id), [])

    def check_event(self, event: str) -> None:
        """Raise RtError NOT_FOUND for an event that no client may send."""
        if not any(event in rates for rates in self._calls.rates().values()):
            raise RtError("NOT_FOUND", "There is no such event.")

    def _limits(self) -> list[Limit]:
        limits = []
        for namespace, rates in self._calls.rates().items():
            for event, rate in rates.items():
                rule = self.table.rules.get(event)
                limits.append(
                    Limit(
                        namespace,
                        event,
                        rate.max,
                        rate.per_s,
                        time_or_none(rule.until_ms) if rule is not None else None,
                        rule is not None,
                        self._calls.errors[namespace, OTHER if event == DEFAULT else event, "RATE_LIMITED"],
                    )
                )
        return limits

    def _offenders(self, node_id: str) -> list[OffenderView]:
        now_ms = self._calls.now_ms()
        clock_zero_ms = int(time.time() * 1000) - now_ms  # the calls' clock is monotonic
        return [
            OffenderView(
                user_of(one.user),
                one.namespace,
                one.event,
                one.refusals,
                iso(one.last_ms + clock_zero_ms),
                node_id,
                customer_of(one.user),
            )
            for one in self._calls.offenders.worst(MAX_OFFENDERS, now_ms)
        ]

    async def _changed(self, old: RateRule | None, new: RateRule | None) -> int:
        if new is not None:
            self._calls.overrule(new.id, Rate(new.max, new.per_s))
        elif old is not None:
            self._calls.overrule(old.id, None)
        return 0


# ── the routes ──────────────────────────────────────────────────────────────────────────────────────────────────────


class SetRate(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `max` calls of a user in `window` seconds."""

    max: Annotated[int, Meta(ge=1, le=1_000_000)]
    window: Annotated[int, Meta(ge=1, le=DAY_S)]
    forSeconds: Annotated[Seconds | None, Meta(description="default: until it is taken back")] = None


class LimitsHandler(Handler):
    calls: NodeCalls

    @operation("viewer", answer=Limits)
    async def get(self) -> Answer:
        """The rate of each event that clients may send, and the users who exceeded one in the last ten minutes."""
        answers, missing = decode_replies(await self.calls.request(STATE), Limits)
        limits: dict[tuple[str, str], Limit] = {}
        for answer in answers.values():
            for one in answer.limits:
                known = limits.setdefault((one.namespace, one.event), one)
                if known is not one:
                    known.limited += one.limited
        offenders = [one for answer in answers.values() for one in answer.offenders]
        offenders.sort(
            key=lambda one: (-one.count, one.userId or "", one.customerId or "", one.namespace, one.event, one.node)
        )
        return Answer(Limits(list(limits.values()), offenders[:MAX_OFFENDERS], missing))


class LimitHandler(Handler):
    rules: Rules
    rates: Rates

    @operation("operator", body=SetRate, answer=Ruled, action="ratelimit.set", errors=("NOT_FOUND", "CONFLICT"))
    async def put(self, event: EventName, body: SetRate) -> Answer:
        """Set the rate of an event on all nodes. "default" is the rate of all events without one of their own."""
        self.rates.check_event(event)
        now_ms = self.rules.now_ms()
        rule = RateRule(
            id=event,
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=now_ms + body.forSeconds * 1000 if body.forSeconds else 0,
            max=body.max,
            per_s=body.window,
        )
        done = await self.rules.put(self.rates.table, rule)
        return Answer(Ruled(event, done.count, done.missing))

    @operation("operator", query=Removal, answer=Ruled, action="ratelimit.reset", errors=("NOT_FOUND",))
    async def delete(self, event: EventName, query: Removal) -> Answer:
        """Return to the configured rate of an event."""
        done = await self.rules.remove(self.rates.table, event)
        return Answer(Ruled(event, done.count, done.missing))


def rate_routes(admin: Admin, node_id: str, rules: Rules, rates: Rates, calls: NodeCalls) -> list[Route]:
    """Return the routes of this file, and register this node's replies to their calls."""

    async def state(arguments: tuple[str, ...]) -> Limits:
        return rates.state(node_id)

    calls.handle(STATE, state)
    return [
        (r"/api/v1/ratelimits", LimitsHandler, {"admin": admin, "calls": calls}),
        (r"/api/v1/ratelimits/([^/]+)", LimitHandler, {"admin": admin, "rules": rules, "rates": rates}),
    ]

"""What may be turned while it runs, on all nodes: rates and log levels; and what was configured.

GET    /api/v1/ratelimits              the rate of each event, and who was refused for too much of one
PUT    /api/v1/ratelimits/{event}      another rate, for a while or until it is taken back
DELETE /api/v1/ratelimits/{event}      the configured one again
GET    /api/v1/logging                 the level of each logger, on each node
PUT    /api/v1/logging                 another level, for a while
GET    /api/v1/config                  the settings of a node, and where each value came from
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Change, Query, Removal
from insightdesk_rt.api.whom import customer_of, user_of
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import understood
from insightdesk_rt.engine.counters import OTHER
from insightdesk_rt.engine.dispatch.calls import DEFAULT
from insightdesk_rt.engine.dispatch.calls import Calls as ClientCalls
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import iso
from insightdesk_rt.operations.moderation.log_levels import Level, LevelRule, LogLevels
from insightdesk_rt.operations.moderation.rates import RateRule, Rates
from insightdesk_rt.operations.moderation.rule_routes import DAY_S, RuleHandler, Seconds, rule_id, time_or_none
from insightdesk_rt.operations.moderation.rules import Rules

MAX_OFFENDERS = 100
RATES, LEVELS, CONFIG = "rates.state", "levels.state", "config.state"

EventName = Annotated[str, Meta(min_length=1, max_length=64)]
LoggerName = Annotated[
    str, Meta(max_length=100, description="as log lines name it, or a first part of that; empty: all")
]
NodeId = Annotated[str, Meta(max_length=64)]


class Limit(Struct):
    """At most `max` calls of a user in `windowSeconds`. `limited`: calls refused since the nodes' starts."""

    namespace: str
    event: str
    max: int
    windowSeconds: int
    overriddenUntil: str | None
    overridden: bool
    limited: int


class OffenderView(Struct):
    """`count` calls of a user were refused on a node, the last one at `lastAt`.

    A customer where ids are separate has `customerId`, and null for `userId`.
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


class SetRate(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `max` calls of a user in `window` seconds."""

    max: Annotated[int, Meta(ge=1, le=1_000_000)]
    window: Annotated[int, Meta(ge=1, le=DAY_S)]
    forSeconds: Annotated[Seconds | None, Meta(description="without it: until it is taken back")] = None


class Logger(Struct):
    """`until` is when a level ends that was set for the logger or a first part of it, null where it is configured."""

    logger: str
    level: str
    until: str | None


class NodeLoggers(Struct):
    node: str
    loggers: list[Logger]


class Loggers(Struct):
    nodes: list[NodeLoggers]
    missing: list[str]


class SetLevel(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    logger: LoggerName
    level: Level
    forSeconds: Annotated[int, Meta(ge=1, le=7 * DAY_S)]
    node: Annotated[NodeId | None, Meta(description="without it: all")] = None


class OfNode(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: Annotated[NodeId, Meta(description="without it: the one that answers")] = ""


class SettingView(Struct):
    """`value` as it would be written; secrets are hidden. `origin`: "default", "command line", a file and line, …"""

    name: str
    value: str
    origin: str
    group: str
    help: str


class Config(Struct):
    node: str
    version: str
    settings: list[SettingView]


class RatesHandler:
    """This node, as the others may ask about it, and what all handlers here need."""

    def __init__(
        self,
        node_id: str,
        version: str,
        settings: Sequence[SettingView],
        rules: Rules,
        rates: Rates,
        levels: LogLevels,
        client_calls: ClientCalls,
        calls: NodeCalls,
    ) -> None:
        self.node_id = node_id
        self.rules = rules
        self.rates = rates
        self.levels = levels
        self.client_calls = client_calls
        self.calls = calls
        self._version = version
        self._settings = list(settings)
        calls.answer(RATES, self.rates_here)
        calls.answer(LEVELS, self.levels_here)
        calls.answer(CONFIG, self.config_here)

    async def rates_here(self, words: tuple[str, ...]) -> Limits:
        errors = self.client_calls.errors
        limits = []
        for namespace, rates in self.client_calls.rates().items():
            for event, rate in rates.items():
                rule = self.rates.table.rules.get(event)
                limited = errors[namespace, OTHER if event == DEFAULT else event, "RATE_LIMITED"]
                limits.append(
                    Limit(
                        namespace,
                        event,
                        rate.max,
                        rate.per_s,
                        time_or_none(rule.until_ms) if rule is not None else None,
                        rule is not None,
                        limited,
                    )
                )
        now_ms = self.client_calls.now_ms()
        behind_ms = int(time.time() * 1000) - now_ms
        offenders = [
            OffenderView(
                user_of(one.user),
                one.namespace,
                one.event,
                one.refusals,
                iso(one.last_ms + behind_ms),
                self.node_id,
                customer_of(one.user),
            )
            for one in self.client_calls.offenders.worst(MAX_OFFENDERS, now_ms)
        ]
        return Limits(limits, offenders, [])

    async def levels_here(self, words: tuple[str, ...]) -> NodeLoggers:
        loggers = []
        for name, level in self.levels.loggers().items():
            rule = self.levels.rule_over(name)
            loggers.append(Logger(name, level, time_or_none(rule.until_ms) if rule is not None else None))
        return NodeLoggers(self.node_id, loggers)

    async def config_here(self, words: tuple[str, ...]) -> Config | None:
        """Answer only if it is this node that is meant."""
        if words[0] != self.node_id:
            return None
        return Config(self.node_id, self._version, self._settings)

    def check_event(self, event: str) -> None:
        """Raise RtError NOT_FOUND for an event that no client may send."""
        if not any(event in rates for rates in self.client_calls.rates().values()):
            raise RtError("NOT_FOUND", "There is no such event.")


class LimitsHandler(Handler):
    tuning: RatesHandler

    @operation("viewer", answer=Limits)
    async def get(self) -> Answer:
        """The rate of each event that clients may send, and who was refused for too much within ten minutes."""
        answers, missing = understood(await self.tuning.calls.ask(RATES), Limits)
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
    tuning: RatesHandler

    @operation("operator", body=SetRate, answer=RuleHandler, action="ratelimit.set", errors=("NOT_FOUND", "CONFLICT"))
    async def put(self, event: EventName, body: SetRate) -> Answer:
        """Set the rate of an event on all nodes; "default" is that of all events without one of their own."""
        tuning = self.tuning
        tuning.check_event(event)
        now_ms = tuning.rules.now_ms()
        rule = RateRule(
            id=event,
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=now_ms + body.forSeconds * 1000 if body.forSeconds else 0,
            max=body.max,
            per_s=body.window,
        )
        done = await tuning.rules.put(tuning.rates.table, rule)
        return Answer(RuleHandler(event, done.count, done.missing))

    @operation("operator", query=Removal, answer=RuleHandler, action="ratelimit.reset", errors=("NOT_FOUND",))
    async def delete(self, event: EventName, query: Removal) -> Answer:
        """Go back to the configured rate of an event."""
        done = await self.tuning.rules.remove(self.tuning.rates.table, event)
        return Answer(RuleHandler(event, done.count, done.missing))


class LoggingHandler(Handler):
    tuning: RatesHandler

    @operation("viewer", answer=Loggers)
    async def get(self) -> Answer:
        """The level of each logger, on each node."""
        answers, missing = understood(await self.tuning.calls.ask(LEVELS), NodeLoggers)
        return Answer(Loggers(sorted(answers.values(), key=lambda one: one.node), missing))

    @operation(
        "operator",
        body=SetLevel,
        answer=RuleHandler,
        errors=("CONFLICT",),
        action="logging.set",
        target=lambda body: body.logger or "all",
    )
    async def put(self, body: SetLevel) -> Answer:
        """Log more, or less, for a while; then the configured level counts again."""
        tuning = self.tuning
        if body.node is not None:
            answers, missing = understood(await tuning.calls.ask(LEVELS), NodeLoggers)
            if not missing and body.node not in {one.node for one in answers.values()}:
                raise RtError("BAD_REQUEST", "There is no such node.", field="node")
        names = tuning.levels.loggers()
        if not any(f"{name}.".startswith(f"{body.logger}.") or not body.logger for name in names):
            raise RtError("BAD_REQUEST", "There is no such logger.", field="logger")
        now_ms = tuning.rules.now_ms()
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
        done = await tuning.rules.put(tuning.levels.table, rule)
        return Answer(RuleHandler(rule.id, done.count, done.missing))


class ConfigHandler(Handler):
    tuning: RatesHandler

    @operation("viewer", query=OfNode, answer=Config, errors=("NOT_FOUND",))
    async def get(self, query: OfNode) -> Answer:
        """What a node runs with, and where each value came from; secrets are hidden."""
        node = query.node or self.tuning.node_id
        said = await self.tuning.calls.ask(CONFIG, node)
        answers, missing = understood(said, msgspec.Raw)
        found = [text for text in answers.values() if bytes(text) != b"null"]
        if not found:
            if missing:
                raise RtError("UNAVAILABLE", f"Not all nodes answered: {', '.join(missing)}.")
            raise RtError("NOT_FOUND", "There is no such node.")
        return Answer(msgspec.json.decode(found[0], type=Config))


def tuning_routes(admin: Admin, tuning: RatesHandler) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application."""
    parts = {"admin": admin, "tuning": tuning}
    return [
        (r"/api/v1/ratelimits", LimitsHandler, parts),
        (r"/api/v1/ratelimits/([^/]+)", LimitHandler, parts),
        (r"/api/v1/logging", LoggingHandler, parts),
        (r"/api/v1/config", ConfigHandler, parts),
    ]

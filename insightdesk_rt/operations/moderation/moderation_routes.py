"""Who is kept out: sessions and tokens that were revoked, users and addresses that are blocked, on all nodes.

    GET    /api/v1/revocations           those that hold
    POST   /api/v1/revocations           a session, or a user's tokens issued before a time; what is connected with one
                                         is closed at once
    DELETE /api/v1/revocations/{id}      take one back
    GET    /api/v1/blocks                POST, DELETE /{id}: the same for a user, an address or a network

The id is made of what is meant: to ask for the same again replaces it, so that a request may be repeated.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, BulkChange, Removal
from insightdesk_rt.api.paging import Page, Paged
from insightdesk_rt.api.whom import customer_of, key_of, user_of
from insightdesk_rt.engine.addresses import parse_address
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import understood
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import RuleId, SessionIdText, UserIdText
from insightdesk_rt.engine.model import UserKeys, iso
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.moderation.blocks_and_revocations import (
    Block,
    BlocksAndRevocations,
    Revocation,
    Ruled,
    parse_network,
)
from insightdesk_rt.operations.moderation.rule_routes import (
    DAY_S,
    RuleHandler,
    Seconds,
    Time,
    end_ms,
    page,
    rule_id,
    time_or_none,
    unix_ms,
)
from insightdesk_rt.operations.moderation.rules import Rules, RuleTable

COUNT = "gate.count"
KEPT_DAYS = 30  # a revocation, unless told otherwise: a token lives for a day, in few places for longer
SKEW_MS = 60_000

Customer = Annotated[UserIdText, Meta(description='a customer, with user_ids = "separate", where userId is staff')]
Network = Annotated[str, Meta(min_length=1, max_length=60)]


class Revoke(BulkChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sessionId: Annotated[SessionIdText | None, Meta(description="the token's claim of that name")] = None
    userId: UserIdText | None = None
    customerId: Customer | None = None
    issuedBefore: Annotated[Time | None, Meta(description="with userId or customerId; without it: now")] = None
    until: Annotated[Time | None, Meta(description="when its tokens have all expired; without it: in 30 days")] = None


class MakeBlock(BulkChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    userId: UserIdText | None = None
    customerId: Customer | None = None
    ip: Network | None = None
    cidr: Annotated[Network | None, Meta(description="at most a /8, of IPv6 a /16")] = None
    until: Annotated[Time | None, Meta(description="without it, and without forSeconds: until it is taken back")] = None
    forSeconds: Seconds | None = None


class RevocationView(Struct):
    id: str
    sessionId: str | None
    userId: str | None
    issuedBefore: str | None
    by: str
    at: str
    reason: str
    until: str | None
    customerId: str | UnsetType = UNSET


class BlockView(Struct):
    id: str
    userId: str | None
    ip: str | None
    cidr: str | None
    by: str
    at: str
    reason: str
    until: str | None
    customerId: str | UnsetType = UNSET


class Moderate:
    """What the handlers share: the rules, and how to ask all nodes how many connections one would close."""

    def __init__(self, rules: Rules, gate: BlocksAndRevocations, calls: NodeCalls, keys: UserKeys) -> None:
        self.rules = rules
        self.keys = keys
        self.gate = gate
        self._calls = calls
        calls.answer(COUNT, self._count_here)

    async def do(self, table: RuleTable[Any], rule: Ruled, dry: bool) -> Answer:
        if not dry:
            done = await self.rules.put(table, rule)
            return Answer(RuleHandler(rule.id, done.count, done.missing), 201)
        said = await self._calls.ask(COUNT, table.kind, json.encode_struct(rule))
        counts, missing = understood(said, int)
        return Answer(RuleHandler(None, sum(counts.values()), await self.rules.not_reached(missing)))

    async def _count_here(self, words: tuple[str, ...]) -> int:
        kind, text = words
        tables: list[RuleTable[Any]] = [self.gate.revocations, self.gate.blocks]
        table = next(one for one in tables if one.kind == kind)
        return await self.gate.count(json.decode(table.decoder, text))


class RevocationsHandler(Handler):
    moderate: Moderate

    @operation("viewer", query=Paged, answer=Page[RevocationView])
    async def get(self, query: Paged) -> Answer:
        """The revocations that hold, the newest first."""
        return Answer(page(self.moderate.gate.revocations, query, view_revocation))

    @operation(
        "operator",
        body=Revoke,
        answer=RuleHandler,
        statuses=(200, 201),
        errors=("CONFLICT",),
        action="session.revoke",
        target=lambda body: _named(user=body.userId, customer=body.customerId, session=body.sessionId),
    )
    async def post(self, body: Revoke) -> Answer:
        """Revoke a session, or a user's tokens that were issued before a time.

        Connections of it are closed on every node, new ones are refused with AUTH_SESSION_REVOKED.
        """
        rules, gate = self.moderate.rules, self.moderate.gate
        user = key_of(self.moderate.keys, body.userId, body.customerId)
        if (body.sessionId is None) == (not user):
            raise RtError("BAD_REQUEST", "Say either sessionId or userId.", field="sessionId")
        if body.issuedBefore is not None and not user:
            raise RtError("BAD_REQUEST", "It goes with userId.", field="issuedBefore")
        now_ms = rules.now_ms()
        before_ms = unix_ms(body.issuedBefore) if body.issuedBefore is not None else now_ms
        if before_ms > now_ms + SKEW_MS:
            raise RtError("BAD_REQUEST", "It is in the future; to keep a user out, block them.", field="issuedBefore")
        if before_ms <= 0:  # no token is that old: whoever says so has left something out, and would revoke nothing
            raise RtError("BAD_REQUEST", "It is before 1970.", field="issuedBefore")
        until_ms = end_ms(now_ms, body.until, KEPT_DAYS * DAY_S)
        id = rule_id("session", body.sessionId) if body.sessionId is not None else rule_id("user", user)
        old = gate.revocations.rules.get(id)
        rule = Revocation(
            id=id,
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=max(until_ms, old.until_ms) if old is not None else until_ms,
            session_id=body.sessionId or "",
            user_id=user,
            issued_before_ms=max(before_ms, old.issued_before_ms if old is not None else 0) if user else 0,
        )
        return await self.moderate.do(gate.revocations, rule, body.dryRun)


class BlocksHandler(Handler):
    moderate: Moderate

    @operation("viewer", query=Paged, answer=Page[BlockView])
    async def get(self, query: Paged) -> Answer:
        """The blocks that hold, the newest first."""
        return Answer(page(self.moderate.gate.blocks, query, view_block))

    @operation(
        "operator",
        body=MakeBlock,
        answer=RuleHandler,
        statuses=(200, 201),
        errors=("CONFLICT",),
        action="block.add",
        target=lambda body: _named(user=body.userId, customer=body.customerId) or body.ip or body.cidr or "",
    )
    async def post(self, body: MakeBlock) -> Answer:
        """Block a user, an address or a network. The admin port itself stays open to blocked addresses."""
        rules, gate = self.moderate.rules, self.moderate.gate
        user = key_of(self.moderate.keys, body.userId, body.customerId)
        if sum(bool(one) for one in (user, body.ip, body.cidr)) != 1:
            raise RtError("BAD_REQUEST", "Say one of userId, ip and cidr.", field="userId")
        if body.until is not None and body.forSeconds is not None:
            raise RtError("BAD_REQUEST", "Say until or forSeconds.", field="forSeconds")
        ip, cidr = "", ""
        if body.ip is not None:
            address = parse_address(body.ip)
            if address is None:
                raise RtError("BAD_REQUEST", "This is no address.", field="ip")
            ip = str(address)
        if body.cidr is not None:
            try:
                cidr = parse_network(body.cidr)
            except ValueError as why:
                raise RtError("BAD_REQUEST", str(why), field="cidr") from None
        now_ms = rules.now_ms()
        rule = Block(
            id=rule_id("block", user, ip, cidr),
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=end_ms(now_ms, body.until, body.forSeconds or 0),
            user_id=user,
            ip=ip,
            cidr=cidr,
        )
        return await self.moderate.do(gate.blocks, rule, body.dryRun)


class RevocationHandler(Handler):
    moderate: Moderate

    @operation("operator", query=Removal, answer=RuleHandler, action="session.unrevoke", errors=("NOT_FOUND",))
    async def delete(self, id: RuleId, query: Removal) -> Answer:
        """Take a revocation back: its tokens count again."""
        done = await self.moderate.rules.remove(self.moderate.gate.revocations, id)
        return Answer(RuleHandler(id, done.count, done.missing))


class BlockHandler(Handler):
    moderate: Moderate

    @operation("operator", query=Removal, answer=RuleHandler, action="block.remove", errors=("NOT_FOUND",))
    async def delete(self, id: RuleId, query: Removal) -> Answer:
        """Take a block back."""
        done = await self.moderate.rules.remove(self.moderate.gate.blocks, id)
        return Answer(RuleHandler(id, done.count, done.missing))


def _named(**whom: str | None) -> str:
    """Return what the audit log calls whom it was done to: `user:ann`, `session:s1`."""
    return next((f"{kind}:{id}" for kind, id in whom.items() if id), "")


def view_revocation(rule: Revocation) -> RevocationView:
    return RevocationView(
        rule.id,
        rule.session_id or None,
        user_of(rule.user_id),
        time_or_none(rule.issued_before_ms),
        rule.by,
        iso(rule.at_ms),
        rule.reason,
        time_or_none(rule.until_ms),
        customer_of(rule.user_id),
    )


def view_block(rule: Block) -> BlockView:
    return BlockView(
        rule.id,
        user_of(rule.user_id),
        rule.ip or None,
        rule.cidr or None,
        rule.by,
        iso(rule.at_ms),
        rule.reason,
        time_or_none(rule.until_ms),
        customer_of(rule.user_id),
    )


def moderation_routes(
    admin: Admin, rules: Rules, gate: BlocksAndRevocations, calls: NodeCalls, keys: UserKeys = UserKeys()
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application, and answer for this node what they ask of all."""
    parts = {"admin": admin, "moderate": Moderate(rules, gate, calls, keys)}
    return [
        (r"/api/v1/revocations", RevocationsHandler, parts),
        (r"/api/v1/revocations/([^/]+)", RevocationHandler, parts),
        (r"/api/v1/blocks", BlocksHandler, parts),
        (r"/api/v1/blocks/([^/]+)", BlockHandler, parts),
    ]

"""Revocations: sessions and tokens that are no longer accepted, on all nodes.

    GET    /api/v1/revocations           the revocations in force
    POST   /api/v1/revocations           revoke a session, or a user's tokens that were issued before a time; their
                                         connections close at once
    DELETE /api/v1/revocations/{id}      take a revocation back

The id is derived from what is revoked, so a repeated request replaces the revocation instead of adding one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, BulkChange, Removal
from insightdesk_rt.api.paging import Page, Paged
from insightdesk_rt.api.whom import customer_of, key_of, user_of
from insightdesk_rt.backend.feed.types import SessionRevokedReport
from insightdesk_rt.engine.dispatch.namespace import FeedEntry, Tell, tell_nobody
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.ids import RuleId, SessionIdText, UserIdText
from insightdesk_rt.engine.model import User, UserKeys, iso
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.operations.moderation.access_rules import AccessRule, AccessRuleChanges, audit_name, close_clients
from insightdesk_rt.operations.moderation.rule_routes import (
    DAY_S,
    CustomerIdText,
    Ruled,
    Time,
    end_ms,
    rule_id,
    rules_page,
    time_or_none,
    unix_ms,
)
from insightdesk_rt.operations.moderation.rules import Rules, RuleTable, newest_first

MAX_REVOCATIONS = 50_000  # some 25 MB on each node
KEPT_DAYS = 30  # by default; most tokens live for a day, a few back ends make longer ones
SKEW_MS = 60_000


class Revocation(AccessRule, frozen=True, kw_only=True, omit_defaults=True):
    """Revokes one session, or a user's tokens issued before a time (Unix ms). A token without `iat` always counts.

    `user_id` is a UserKey.
    """

    session_id: str = ""
    user_id: str = ""
    issued_before_ms: int = 0

    def concerns(self, user: User) -> bool:
        if self.session_id:
            return user.session_id == self.session_id
        return user.key == self.user_id and user.issued_s * 1000 < self.issued_before_ms


class Revocations:
    """This node's copy of the revocations, by session and by user."""

    def __init__(self, rules: Rules, registry: ClientRegistry) -> None:
        self._registry = registry
        self._sessions: dict[str, Revocation] = {}
        self._users: dict[str, Revocation] = {}
        self.table = RuleTable("revocation", Revocation, MAX_REVOCATIONS, self._changed)
        rules.add(self.table)

    def revoked(self, user: User) -> bool:
        """Is the token that this user came with revoked?"""
        candidates = (self._sessions.get(user.session_id), self._users.get(user.key))
        return any(one is not None and one.concerns(user) for one in candidates)

    def of(self, user_key: str, session_ids: Collection[str]) -> list[Revocation]:
        """Return the revocations of a user and of any of the sessions, the newest first."""
        named = [self._users.get(user_key), *map(self._sessions.get, session_ids)]
        return newest_first(one for one in named if one is not None)

    async def _changed(self, old: Revocation | None, new: Revocation | None) -> int:
        if old is not None:
            self._sessions.pop(old.session_id, None)
            self._users.pop(old.user_id, None)
        if new is None:
            return 0
        if new.session_id:
            self._sessions[new.session_id] = new
        else:
            self._users[new.user_id] = new
        return await close_clients(self._registry, new, CloseReason.REVOKED, RtError("AUTH_SESSION_REVOKED"))


# ── the routes ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Revoke(BulkChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sessionId: Annotated[SessionIdText | None, Meta(description="the token's claim of that name")] = None
    userId: UserIdText | None = None
    customerId: CustomerIdText | None = None
    issuedBefore: Annotated[Time | None, Meta(description="with userId or customerId; default: now")] = None
    until: Annotated[Time | None, Meta(description="when all its tokens have expired; default: in 30 days")] = None


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


class RevocationsHandler(Handler):
    changes: AccessRuleChanges
    revocations: Revocations
    tell: Tell
    keys: UserKeys

    @operation("viewer", query=Paged, answer=Page[RevocationView])
    async def get(self, query: Paged) -> Answer:
        """The revocations in force, the newest first."""
        return Answer(rules_page(self.revocations.table, query, view_revocation))

    @operation(
        "operator",
        body=Revoke,
        answer=Ruled,
        statuses=(200, 201),
        errors=("CONFLICT",),
        action="session.revoke",
        target=lambda body: audit_name(user=body.userId, customer=body.customerId, session=body.sessionId),
    )
    async def post(self, body: Revoke) -> Answer:
        """Revoke a session, or a user's tokens that were issued before a time.

        Every node closes the connections that use one; new ones are refused with AUTH_SESSION_REVOKED.
        """
        user = key_of(self.keys, body.userId, body.customerId)
        if (body.sessionId is None) == (not user):
            raise RtError("BAD_REQUEST", "Give either sessionId or userId.", field="sessionId")
        if body.issuedBefore is not None and not user:
            raise RtError("BAD_REQUEST", "issuedBefore needs userId.", field="issuedBefore")
        now_ms = self.changes.rules.now_ms()
        before_ms = _before_ms(body, now_ms)
        until_ms = end_ms(now_ms, body.until, KEPT_DAYS * DAY_S)
        id = rule_id("session", body.sessionId) if body.sessionId is not None else rule_id("user", user)
        old = self.revocations.table.rules.get(id)
        revocation = Revocation(
            id=id,
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=max(until_ms, old.until_ms) if old is not None else until_ms,
            session_id=body.sessionId or "",
            user_id=user,
            issued_before_ms=max(before_ms, old.issued_before_ms if old is not None else 0) if user else 0,
        )
        answer = await self.changes.put(self.revocations.table, revocation, body.dryRun)
        if not body.dryRun:  # UNAVAILABLE: the same request again tells the back end, and changes nothing else
            await self.tell([FeedEntry(f"revocation.{id}.{now_ms}", now_ms, report_revocation(revocation))])
        return answer


class RevocationHandler(Handler):
    changes: AccessRuleChanges
    revocations: Revocations

    @operation("operator", query=Removal, answer=Ruled, action="session.unrevoke", errors=("NOT_FOUND",))
    async def delete(self, id: RuleId, query: Removal) -> Answer:
        """Remove a revocation: its tokens are accepted again."""
        return await self.changes.remove(self.revocations.table, id)


def _before_ms(body: Revoke, now_ms: int) -> int:
    """Return `issuedBefore` in Unix ms, by default now. Raises RtError BAD_REQUEST for the future and before 1970."""
    before_ms = unix_ms(body.issuedBefore) if body.issuedBefore is not None else now_ms
    if before_ms > now_ms + SKEW_MS:
        raise RtError("BAD_REQUEST", "The time is in the future; to keep a user out, block them.", field="issuedBefore")
    if before_ms <= 0:  # no token is that old, so the caller has a bug, and the request would revoke nothing
        raise RtError("BAD_REQUEST", "The time is before 1970.", field="issuedBefore")
    return before_ms


def view_revocation(revocation: Revocation) -> RevocationView:
    return RevocationView(
        revocation.id,
        revocation.session_id or None,
        user_of(revocation.user_id),
        time_or_none(revocation.issued_before_ms),
        revocation.by,
        iso(revocation.at_ms),
        revocation.reason,
        time_or_none(revocation.until_ms),
        customer_of(revocation.user_id),
    )


def report_revocation(revocation: Revocation) -> SessionRevokedReport:
    """Return the feed entry of a revocation."""
    before_ms = revocation.issued_before_ms
    return SessionRevokedReport(
        sessionId=revocation.session_id,
        userId=user_of(revocation.user_id) or "",
        customerId=customer_of(revocation.user_id) or "",
        issuedBefore=iso(before_ms) if before_ms else "",
        until=iso(revocation.until_ms),
        by=revocation.by,
        reason=revocation.reason,
    )


def revocation_routes(
    admin: Admin,
    changes: AccessRuleChanges,
    revocations: Revocations,
    keys: UserKeys = UserKeys(),
    tell: Tell = tell_nobody,
) -> list[Route]:
    """Return the routes of this file. `tell` tells the back end of each revocation."""
    parts = {"admin": admin, "changes": changes, "revocations": revocations}
    return [
        (r"/api/v1/revocations", RevocationsHandler, {**parts, "tell": tell, "keys": keys}),
        (r"/api/v1/revocations/([^/]+)", RevocationHandler, parts),
    ]

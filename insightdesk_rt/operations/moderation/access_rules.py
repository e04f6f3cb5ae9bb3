"""The common parts of blocks and revocations, which name users or addresses and close the connections they apply to.

A new rule acts on every node before the admin is answered. A revoked client is disconnected, reconnects by itself and
is refused. A blocked client gets a disconnect that tells it not to reconnect.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from insightdesk_rt.api.operation import Answer
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry, in_turns
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.moderation.rule_routes import Ruled
from insightdesk_rt.operations.moderation.rules import Rule, Rules, RuleTable

log = logging.getLogger(__name__)

COUNT = "gate.count"  # between nodes, so it keeps the name that earlier versions answer to


class AccessRule(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """Base class of rules about users or addresses."""

    def concerns(self, user: User) -> bool:
        raise NotImplementedError

    def concerns_client(self, client: Client) -> bool:
        """Does the rule apply to an open connection?"""
        return any(self.concerns(socket.user) for socket in client.sockets.values())


async def close_clients(registry: ClientRegistry, rule: AccessRule, why: CloseReason, error: RtError) -> int:
    """Close this node's connections that a rule applies to, after sending each the error. Returns how many."""
    text = json.dumps(error.as_dict())
    count = 0
    async for client in in_turns(registry.clients.values()):
        if not rule.concerns_client(client):
            continue
        count += 1
        try:
            for socket in tuple(client.sockets.values()):
                if socket.connected:
                    socket.emit("error", text)
        except Exception:  # it must be closed all the same, and so must the others
            log.exception("cannot send a client the reason for its disconnect", extra={"why": why.value})
        if why is CloseReason.BLOCKED:
            client.dismiss(why)
        else:
            client.close(why)
    return count


class AccessRuleChanges:
    """The common part of the routes of blocks and revocations: set a rule, or count the connections it would close."""

    def __init__(
        self, rules: Rules, registry: ClientRegistry, calls: NodeCalls, tables: Sequence[RuleTable[Any]]
    ) -> None:
        self.rules = rules
        self._registry = registry
        self._calls = calls
        self._tables = {table.kind: table for table in tables}
        calls.handle(COUNT, self._count_here)

    async def put(self, table: RuleTable[Any], rule: AccessRule, dry: bool) -> Answer:
        """Set a rule and answer how many connections it closed on all nodes; `dry`: would close."""
        if not dry:
            done = await self.rules.put(table, rule)
            return Answer(Ruled(rule.id, done.count, done.missing), 201)
        replies = await self._calls.request(COUNT, table.kind, json.encode_struct(rule))
        counts, missing = decode_replies(replies, int)
        return Answer(Ruled(None, sum(counts.values()), await self.rules.not_reached(missing)))

    async def remove(self, table: RuleTable[Any], id: str) -> Answer:
        """Take a rule back. Raises RtError UNAVAILABLE, NOT_FOUND."""
        done = await self.rules.remove(table, id)
        return Answer(Ruled(id, done.count, done.missing))

    async def _count_here(self, arguments: tuple[str, ...]) -> int:
        kind, text = arguments
        rule = json.decode(self._tables[kind].decoder, text)
        return len([one async for one in in_turns(self._registry.clients.values()) if rule.concerns_client(one)])


def audit_name(**whom: str | None) -> str:
    """Return the target of an audit entry, of the first that is given: `user:ann`, `session:s1`."""
    return next((f"{kind}:{id}" for kind, id in whom.items() if id), "")

"""Blocks: users, addresses and networks that may not connect, on all nodes.

    GET    /api/v1/blocks           the blocks in force
    POST   /api/v1/blocks           block a user, an address or a network; their connections close at once
    DELETE /api/v1/blocks/{id}      take a block back

The id is derived from what is blocked, so a repeated request replaces the block instead of adding one. Addresses are
compared as the client port sees them, that is behind trusted proxies. The admin port stays open to blocked addresses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache
from ipaddress import ip_network
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, BulkChange, Removal
from insightdesk_rt.api.paging import Page, Paged
from insightdesk_rt.api.whom import customer_of, key_of, user_of
from insightdesk_rt.engine.addresses import parse_address, parse_net
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.ids import RuleId, UserIdText
from insightdesk_rt.engine.model import User, UserKeys, iso
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.operations.moderation.access_rules import AccessRule, AccessRuleChanges, audit_name, close_clients
from insightdesk_rt.operations.moderation.rule_routes import (
    CustomerIdText,
    Ruled,
    Seconds,
    Time,
    end_ms,
    rule_id,
    rules_page,
    time_or_none,
)
from insightdesk_rt.operations.moderation.rules import Rules, RuleTable, newest_first

MAX_BLOCKS = 10_000
MIN_PREFIX = {4: 8, 6: 16}  # a wider network is a typing error that would lock everybody out

NetKey = tuple[int, int, int]  # IP version, prefix length, the address's first bits
Network = Annotated[str, Meta(min_length=1, max_length=60)]


class Block(AccessRule, frozen=True, kw_only=True, omit_defaults=True):
    """Blocks a user (`user_id` is a UserKey), an address, or all addresses of a network."""

    user_id: str = ""
    ip: str = ""
    cidr: str = ""

    def concerns(self, user: User) -> bool:
        return bool(self.user_id) and user.key == self.user_id

    def concerns_client(self, client: Client) -> bool:
        if self.user_id:
            return super().concerns_client(client)
        parsed = parse_address(client.address)
        return parsed is not None and parsed in _network(self.cidr or self.ip)


class Blocks:
    """This node's copy of the blocks, indexed so that a new connection costs one look-up per prefix length in use."""

    def __init__(self, rules: Rules, registry: ClientRegistry) -> None:
        self._registry = registry
        self._users: dict[str, Block] = {}
        self._nets: dict[NetKey, dict[str, Block]] = {}  # by id: 192.0.2.1 and 192.0.2.1/32 are two blocks of one
        self._prefixes: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}  # prefix lengths in use, and how often
        self.table = RuleTable("block", Block, MAX_BLOCKS, self._changed)
        rules.add(self.table)

    def blocks_user(self, user: User) -> bool:
        return user.key in self._users

    def blocks_address(self, address: str) -> bool:
        """Is the address blocked? False for text that is not an address."""
        return bool(self._nets) and any(self._keys(address))

    def of(self, user_key: str, addresses: Collection[str]) -> list[Block]:
        """Return the blocks of a user and of any of the addresses, the newest first."""
        found = {
            block.id: block
            for address in addresses
            for key in self._keys(address)
            for block in self._nets[key].values()
        }
        if user_key in self._users:
            found[self._users[user_key].id] = self._users[user_key]
        return newest_first(found.values())

    async def _changed(self, old: Block | None, new: Block | None) -> int:
        if old is not None:
            self._users.pop(old.user_id, None)
            if old.ip or old.cidr:
                self._remove_net(_net_key(old), old.id)
        if new is None:
            return 0
        if new.user_id:
            self._users[new.user_id] = new
        else:
            self._add_net(_net_key(new), new)
        return await close_clients(self._registry, new, CloseReason.BLOCKED, blocked())

    def _add_net(self, key: NetKey, block: Block) -> None:
        self._nets.setdefault(key, {})[block.id] = block
        self._prefixes[key[0]][key[1]] += 1

    def _remove_net(self, key: NetKey, id: str) -> None:
        prefixes, length = self._prefixes[key[0]], key[1]
        del self._nets[key][id]
        prefixes[length] -= 1
        if not self._nets[key]:
            del self._nets[key]
        if not prefixes[length]:
            del prefixes[length]

    def _keys(self, address: str) -> Iterator[NetKey]:
        """Yield the blocked networks that contain an address; none for text that is not an address."""
        parsed = parse_address(address)
        if parsed is None:
            return
        version, bits, number = parsed.version, parsed.max_prefixlen, int(parsed)
        for prefix in self._prefixes[version]:
            key = version, prefix, number >> (bits - prefix)
            if key in self._nets:
                yield key


def blocked() -> RtError:
    """Return the error that a blocked client receives."""
    return RtError("FORBIDDEN", "You are blocked.")


def parse_network(text: str) -> str:
    """Return a network in its canonical spelling. Raises ValueError with a line that says what is wrong."""
    network = parse_net(text, strict=False)
    if network.prefixlen < MIN_PREFIX[network.version]:
        raise ValueError(f"a network wider than /{MIN_PREFIX[network.version]} is not blocked")
    return str(network)


_network = lru_cache(maxsize=64)(ip_network)


def _net_key(block: Block) -> NetKey:
    network = ip_network(block.cidr or block.ip)
    return (
        network.version,
        network.prefixlen,
        int(network.network_address) >> (network.max_prefixlen - network.prefixlen),
    )


# ── the routes ──────────────────────────────────────────────────────────────────────────────────────────────────────


class MakeBlock(BulkChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    userId: UserIdText | None = None
    customerId: CustomerIdText | None = None
    ip: Network | None = None
    cidr: Annotated[Network | None, Meta(description="at most a /8, for IPv6 a /16")] = None
    until: Annotated[Time | None, Meta(description="default: until it is taken back, unless forSeconds is given")] = (
        None
    )
    forSeconds: Seconds | None = None


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


class BlocksHandler(Handler):
    changes: AccessRuleChanges
    blocks: Blocks
    keys: UserKeys

    @operation("viewer", query=Paged, answer=Page[BlockView])
    async def get(self, query: Paged) -> Answer:
        """The blocks in force, the newest first."""
        return Answer(rules_page(self.blocks.table, query, view_block))

    @operation(
        "operator",
        body=MakeBlock,
        answer=Ruled,
        statuses=(200, 201),
        errors=("CONFLICT",),
        action="block.add",
        target=lambda body: audit_name(user=body.userId, customer=body.customerId) or body.ip or body.cidr or "",
    )
    async def post(self, body: MakeBlock) -> Answer:
        """Block a user, an address or a network. The admin port itself stays open to blocked addresses."""
        user = key_of(self.keys, body.userId, body.customerId)
        if sum(bool(one) for one in (user, body.ip, body.cidr)) != 1:
            raise RtError("BAD_REQUEST", "Give exactly one of userId, ip and cidr.", field="userId")
        if body.until is not None and body.forSeconds is not None:
            raise RtError("BAD_REQUEST", "Give either until or forSeconds.", field="forSeconds")
        ip, cidr = _ip(body.ip), _cidr(body.cidr)
        now_ms = self.changes.rules.now_ms()
        block = Block(
            id=rule_id("block", user, ip, cidr),
            by=self.asker.id,
            at_ms=now_ms,
            reason=body.reason,
            until_ms=end_ms(now_ms, body.until, body.forSeconds or 0),
            user_id=user,
            ip=ip,
            cidr=cidr,
        )
        return await self.changes.put(self.blocks.table, block, body.dryRun)


class BlockHandler(Handler):
    changes: AccessRuleChanges
    blocks: Blocks

    @operation("operator", query=Removal, answer=Ruled, action="block.remove", errors=("NOT_FOUND",))
    async def delete(self, id: RuleId, query: Removal) -> Answer:
        """Remove a block."""
        return await self.changes.remove(self.blocks.table, id)


def _ip(text: str | None) -> str:
    if text is None:
        return ""
    address = parse_address(text)
    if address is None:
        raise RtError("BAD_REQUEST", "This is not an IP address.", field="ip")
    return str(address)


def _cidr(text: str | None) -> str:
    try:
        return parse_network(text) if text is not None else ""
    except ValueError as why:
        raise RtError("BAD_REQUEST", str(why), field="cidr") from None


def view_block(block: Block) -> BlockView:
    return BlockView(
        block.id,
        user_of(block.user_id),
        block.ip or None,
        block.cidr or None,
        block.by,
        iso(block.at_ms),
        block.reason,
        time_or_none(block.until_ms),
        customer_of(block.user_id),
    )


def block_routes(admin: Admin, changes: AccessRuleChanges, blocks: Blocks, keys: UserKeys = UserKeys()) -> list[Route]:
    """Return the routes of this file."""
    parts = {"admin": admin, "changes": changes, "blocks": blocks}
    return [
        (r"/api/v1/blocks", BlocksHandler, {**parts, "keys": keys}),
        (r"/api/v1/blocks/([^/]+)", BlockHandler, parts),
    ]

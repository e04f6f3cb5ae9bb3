"""Who may not come in, or stay: revoked sessions and tokens, blocked users and addresses.

Asked with every token that is shown (connect, resume, session:refresh, admin port) and with every new connection, from
what this node knows, so that it costs no round trip and holds while Valkey is away. What is ruled anew closes the
connections that are there: a revoked one is cut, comes back by itself and is refused; a blocked one is told to stay
away. Addresses are compared as the client port sees them, trusted proxies looked through.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from ipaddress import ip_network

from insightdesk_rt.engine.addresses import parse_address, parse_net
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry, in_turns
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.moderation.rules import Rule, Rules, RuleTable, newest_first

log = logging.getLogger(__name__)

MAX_REVOCATIONS = 50_000  # some 25 MB on each node
MAX_BLOCKS = 10_000
MIN_PREFIX = {4: 8, 6: 16}  # a wider network is a slip of the pen that locks everybody out


class Revocation(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """Of one session, or of a user's tokens that were issued before a time (Unix ms; one without `iat` always was).

    `user_id` is a UserKey, here and of a block.
    """

    session_id: str = ""
    user_id: str = ""
    issued_before_ms: int = 0

    def concerns(self, user: User) -> bool:
        if self.session_id:
            return user.session_id == self.session_id
        return user.key == self.user_id and user.issued_s * 1000 < self.issued_before_ms


class Block(Rule, frozen=True, kw_only=True, omit_defaults=True):
    """Of a user, an address, or all addresses of a network."""

    user_id: str = ""
    ip: str = ""
    cidr: str = ""

    def concerns(self, user: User) -> bool:
        return bool(self.user_id) and user.key == self.user_id


Ruled = Revocation | Block
NetKey = tuple[int, int, int]  # IP version, prefix length, the address's first bits


class BlocksAndRevocations:
    """`verify` is what tokens are read by. Its own `verify` also asks whether they still count."""

    def __init__(self, rules: Rules, host: ClientRegistry, verify: Callable[[object], User]) -> None:
        self._host = host
        self._verify = verify
        self._sessions: dict[str, Revocation] = {}
        self._users: dict[str, Revocation] = {}
        self._blocked: dict[str, Block] = {}
        self._nets: dict[NetKey, dict[str, Block]] = {}  # by id: 192.0.2.1 and 192.0.2.1/32 are two blocks of one
        self._prefixes: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}  # lengths of those, how many of each
        self.revocations = RuleTable("revocation", Revocation, MAX_REVOCATIONS, self._revoked)
        self.blocks = RuleTable("block", Block, MAX_BLOCKS, self._blocked_now)
        rules.add(self.revocations)
        rules.add(self.blocks)

    def verify(self, token: object) -> User:
        """Return who the token speaks for. Raises RtError AUTH_*, AUTH_SESSION_REVOKED, FORBIDDEN (blocked)."""
        return self.passed(self._verify(token))

    def passed(self, user: User) -> User:
        """Return the user of a token that was verified. Raises RtError AUTH_SESSION_REVOKED, FORBIDDEN (blocked)."""
        why = self._why_not(user)
        if why is not None:
            raise why
        return user

    def admit(self, client: Client) -> None:
        """Raise RtError FORBIDDEN if the client's address is blocked: it may have been since its first request."""
        if self.shuts_out(client.address):
            raise _blocked()

    def shuts_out(self, address: str) -> bool:
        """Is the address blocked? Text that is no address is not."""
        return bool(self._nets) and any(self._keys(address))

    def blocks_of(self, user_id: str, addresses: Collection[str]) -> list[Block]:
        """Return the blocks of a user and of any of the addresses, the newest first."""
        found = {
            block.id: block
            for address in addresses
            for key in self._keys(address)
            for block in self._nets[key].values()
        }
        if user_id in self._blocked:
            found[self._blocked[user_id].id] = self._blocked[user_id]
        return newest_first(found.values())

    def revocations_of(self, user_id: str, session_ids: Collection[str]) -> list[Revocation]:
        """Return the revocations of a user and of any of the sessions, the newest first."""
        named = [self._users.get(user_id), *map(self._sessions.get, session_ids)]
        return newest_first(one for one in named if one is not None)

    async def count(self, rule: Ruled) -> int:
        """Return how many connections of this node a rule would close."""
        return len([client async for client in in_turns(self._host.clients.values()) if concerned(client, rule)])

    # ── what was ruled ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _revoked(self, old: Revocation | None, new: Revocation | None) -> int:
        if old is not None:
            self._sessions.pop(old.session_id, None)
            self._users.pop(old.user_id, None)
        if new is None:
            return 0
        if new.session_id:
            self._sessions[new.session_id] = new
        else:
            self._users[new.user_id] = new
        return await self._close(new, CloseReason.REVOKED, RtError("AUTH_SESSION_REVOKED"))

    async def _blocked_now(self, old: Block | None, new: Block | None) -> int:
        if old is not None:
            self._blocked.pop(old.user_id, None)
            if old.ip or old.cidr:
                self._let_in(_net_key(old), old.id)
        if new is not None and new.user_id:
            self._blocked[new.user_id] = new
        elif new is not None:
            self._keep_out(_net_key(new), new)
        return await self._close(new, CloseReason.BLOCKED, _blocked()) if new is not None else 0

    def _keep_out(self, key: NetKey, block: Block) -> None:
        self._nets.setdefault(key, {})[block.id] = block
        self._prefixes[key[0]][key[1]] += 1

    def _let_in(self, key: NetKey, id: str) -> None:
        prefixes, length = self._prefixes[key[0]], key[1]
        del self._nets[key][id]
        prefixes[length] -= 1
        if not self._nets[key]:
            del self._nets[key]
        if not prefixes[length]:
            del prefixes[length]

    async def _close(self, rule: Ruled, why: CloseReason, error: RtError) -> int:
        text = json.dumps(error.as_dict())
        count = 0
        async for client in in_turns(self._host.clients.values()):
            if not concerned(client, rule):
                continue
            count += 1
            try:
                for socket in tuple(client.sockets.values()):
                    if socket.connected:
                        socket.emit("error", text)
            except Exception:  # it is closed all the same, and so are the others
                log.exception("a client could not be told why it is closed", extra={"why": why.value})
            if why is CloseReason.BLOCKED:
                client.dismiss(why)
            else:
                client.close(why)
        return count

    # ── who is concerned ───────────────────────────────────────────────────────────────────────────────────────────

    def _why_not(self, user: User) -> RtError | None:
        for revocation in (self._sessions.get(user.session_id), self._users.get(user.key)):
            if revocation is not None and revocation.concerns(user):
                return RtError("AUTH_SESSION_REVOKED")
        return _blocked() if user.key in self._blocked else None

    def _keys(self, address: str) -> Iterator[NetKey]:
        """Yield the blocked networks that an address is of; none for text that is no address."""
        parsed = parse_address(address)
        if parsed is None:
            return
        version, bits, number = parsed.version, parsed.max_prefixlen, int(parsed)
        for prefix in self._prefixes[version]:
            key = version, prefix, number >> (bits - prefix)
            if key in self._nets:
                yield key


def concerned(client: Client, rule: Ruled) -> bool:
    """Does a rule concern a connection that is there?"""
    if isinstance(rule, Block) and not rule.user_id:
        parsed = parse_address(client.address)
        return parsed is not None and parsed in _network(rule.cidr or rule.ip)
    return any(rule.concerns(socket.user) for socket in client.sockets.values())


def parse_network(text: str) -> str:
    """Return a network in its one spelling. Raises ValueError with a line that says what is wrong."""
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


def _blocked() -> RtError:
    return RtError("FORBIDDEN", "You are blocked.")

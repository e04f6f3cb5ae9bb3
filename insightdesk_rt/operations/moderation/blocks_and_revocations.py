"""The one check of who may connect, and stay connected: not a revoked session or token, nor a blocked user or address.

It is asked with every token that is presented (connect, resume, session:refresh, admin port) and with every new
connection. It answers from this node's memory: no round trip, and it works while Valkey is unreachable.
"""

from __future__ import annotations

from collections.abc import Callable

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.operations.moderation.blocks import Blocks, blocked
from insightdesk_rt.operations.moderation.revocations import Revocations
from insightdesk_rt.operations.moderation.rules import Rules


class BlocksAndRevocations:
    def __init__(self, rules: Rules, registry: ClientRegistry) -> None:
        self.revocations = Revocations(rules, registry)
        self.blocks = Blocks(rules, registry)

    def checked(self, verify: Callable[[object], User]) -> Callable[[object], User]:
        """Return what reads a token with `verify`, and then checks that it still counts.

        Raises what `verify` raises, and RtError AUTH_SESSION_REVOKED, FORBIDDEN (blocked).
        """
        return lambda token: self.passed(verify(token))

    def passed(self, user: User) -> User:
        """Return a user who is not kept out. Raises RtError AUTH_SESSION_REVOKED, FORBIDDEN (blocked)."""
        if self.revocations.revoked(user):
            raise RtError("AUTH_SESSION_REVOKED")
        if self.blocks.blocks_user(user):
            raise blocked()
        return user

    def admit(self, client: Client) -> None:
        """Raise RtError FORBIDDEN if the client's address is blocked: it may have been since its first request."""
        if self.blocks.blocks_address(client.address):
            raise blocked()

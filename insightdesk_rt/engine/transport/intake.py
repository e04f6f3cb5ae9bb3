"""Intake: counts the bytes of unfinished incoming messages, per user and for the whole node.

Each message has limits of its own, but a user may have hundreds of connections and begin a message on each. When a user
exceeds the limit per user, the connection of theirs that holds the most bytes is closed. When the node's limit is
exceeded, the largest connection of the user who holds the most is closed. The connection that came last is not closed
for that: one user must not use up a limit at the cost of others, and many people who have shown no token yet may share
one address, or one proxy that is not trusted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple, Protocol

from insightdesk_rt.engine.rate_limits import counted_as

USER, NODE = "max_unfinished_bytes_per_user", "max_unfinished_bytes"


class HoldingClient(Protocol):
    """A client that may hold an unfinished message."""

    address: str
    sockets: dict[str, Any]  # namespace → hub Socket

    def holds_too_much(self, limit_name: str) -> None:
        """Close the client because the limit of this name was exceeded."""
        ...


class IntakeExcess(NamedTuple):
    """The client that must be closed, and the name of the exceeded limit."""

    client: HoldingClient
    limit_name: str


class Intake:
    __slots__ = ("_held", "_max_node", "_max_user", "_of_user", "total")

    def __init__(self, max_user_bytes: int, max_node_bytes: int) -> None:
        self._max_user = max_user_bytes
        self._max_node = max_node_bytes
        self._held: dict[HoldingClient, tuple[str, int]] = {}
        self._of_user: Counter[str] = Counter()
        self.total = 0

    def hold(self, client: HoldingClient, held_bytes: int) -> IntakeExcess | None:
        """Set how many bytes of unfinished input a client holds. Returns the client to close, if one must be."""
        self.forget(client)
        if not held_bytes:
            return None
        owner = owner_of(client)
        self._held[client] = (owner, held_bytes)
        self._of_user[owner] += held_bytes
        self.total += held_bytes
        if self._of_user[owner] > self._max_user:
            return IntakeExcess(self._largest(owner), USER)
        if self.total > self._max_node:
            (biggest, _), *_ = self._of_user.most_common(1)
            return IntakeExcess(self._largest(biggest), NODE)
        return None

    def _largest(self, owner: str) -> HoldingClient:
        """Return the client that holds most of what its owner holds; of several, the one that came first."""
        theirs = [(held_bytes, client) for client, (whose, held_bytes) in self._held.items() if whose == owner]
        return max(theirs, key=lambda each: each[0])[1]

    def forget(self, client: HoldingClient) -> None:
        """Forget what a client holds. Idempotent."""
        owner, held_bytes = self._held.pop(client, ("", 0))
        if held_bytes:
            self.total -= held_bytes
            self._of_user[owner] -= held_bytes
            if not self._of_user[owner]:
                del self._of_user[owner]


def owner_of(client: HoldingClient) -> str:
    """Return the user of a client, or, where it has joined nothing yet, what its address counts as."""
    for socket in client.sockets.values():
        return f"user {socket.user.key}"
    return f"address {counted_as(client.address)}"

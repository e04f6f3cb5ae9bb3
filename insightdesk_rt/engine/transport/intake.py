"""Intake: bytes of messages that have begun to come in and are not whole yet, per user and of the whole node.

Each message has limits of its own, but a user may have hundreds of connections, and begin a message on each. Of a user
who holds more than their part, the connection that holds most is closed. If all together hold more than the node may,
it is one of whoever holds most. Never is it who came last: a limit must not be reached by one at the cost of another,
and behind one address, or a proxy that is not trusted, are many people who have shown no token yet.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from insightdesk_rt.engine.rate_limits import counted_as

if TYPE_CHECKING:
    from insightdesk_rt.engine.transport.client import Client

USER, NODE = "max_unfinished_bytes_per_user", "max_unfinished_bytes"


class Over(NamedTuple):
    """Who must be closed, and the setting that was exceeded."""

    client: Client
    setting: str


class Intake:
    __slots__ = ("_held", "_max_node", "_max_user", "_of_user", "total")

    def __init__(self, max_user_bytes: int, max_node_bytes: int) -> None:
        self._max_user = max_user_bytes
        self._max_node = max_node_bytes
        self._held: dict[Client, tuple[str, int]] = {}
        self._of_user: Counter[str] = Counter()
        self.total = 0

    def hold(self, client: Client, held_bytes: int) -> Over | None:
        """Note how many bytes of unfinished input a client has now. Returns who is over a limit by that, if any."""
        self.forget(client)
        if not held_bytes:
            return None
        owner = owner_of(client)
        self._held[client] = (owner, held_bytes)
        self._of_user[owner] += held_bytes
        self.total += held_bytes
        if self._of_user[owner] > self._max_user:
            return Over(self._largest(owner), USER)
        if self.total > self._max_node:
            (most, _), *_ = self._of_user.most_common(1)
            return Over(self._largest(most), NODE)
        return None

    def _largest(self, owner: str) -> Client:
        """Return the client that holds most of what its owner holds; of several, the one that came first."""
        theirs = [(held_bytes, client) for client, (whose, held_bytes) in self._held.items() if whose == owner]
        return max(theirs, key=lambda each: each[0])[1]

    def forget(self, client: Client) -> None:
        """The client has nothing unfinished here any more. Idempotent."""
        owner, held_bytes = self._held.pop(client, ("", 0))
        if held_bytes:
            self.total -= held_bytes
            self._of_user[owner] -= held_bytes
            if not self._of_user[owner]:
                del self._of_user[owner]


def owner_of(client: Client) -> str:
    """Return the user of a client, or, where it has joined nothing yet, what its address counts as."""
    for socket in client.sockets.values():
        return f"user {socket.user.key}"
    return f"address {counted_as(client.address)}"

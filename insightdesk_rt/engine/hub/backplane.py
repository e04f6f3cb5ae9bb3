"""What the hub needs of the other nodes: eight verbs, declared here, implemented in engine/cluster/backplane.py.

The rule both sides rely on: a logged event reaches members only through `deliver`, in the order of the log, on the
node that published it too. A volatile one is delivered here at once and comes from other nodes through `deliver`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from msgspec import Struct

from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room


class Backlog(Struct, frozen=True):
    """What a log holds for some rooms after an offset; not `complete` if it no longer reaches back that far.

    Offsets below `floor` are of a log that was lost; what was lost with it and sent again lies behind the floor.
    """

    events: list[Event]  # in order
    complete: bool
    upto: Offset  # everything up to here was looked at
    floor: Offset = NO_OFFSET


class LocalMembers(Protocol):
    """What a backplane needs of its node's hub."""

    def deliver(self, event: Event) -> None:
        """Called from the loop, once for every event that concerns a room this node listens to."""
        ...

    def has_members(self, namespace: str, room: Room) -> bool:
        """Has the room members here? Asked before its channel is dropped, because a join may have come meanwhile."""
        ...

    def resync(self, namespace: str, rooms: Collection[Room]) -> None:
        """Events of these rooms are lost: their members must reload."""
        ...


class Backplane(Protocol):
    def attach(self, members: LocalMembers) -> None:
        """Take the hub of this node. The hub calls it once, before the backplane starts."""
        ...

    @property
    def available(self) -> bool:
        """Can the other nodes be reached, as far as is known? If not, who comes new is sent away, not let in deaf."""
        ...

    async def reach(self) -> None:
        """Return once the store has answered: then it can be reached now. Raises RtError UNAVAILABLE."""
        ...

    async def append(self, event: Event) -> Offset:
        """Put a logged event into its namespace's log, once per `event.id`, and return its offset.

        Raises RtError UNAVAILABLE if Valkey did not confirm within its deadline; the same id may be tried again.
        """
        ...

    def publish(self, event: Event) -> None:
        """Tell the other nodes of a volatile event; may be lost."""
        ...

    async def listen(self, namespace: str, room: Room) -> Offset:
        """Hear a room from now on. Returns once it is sure: everything after the returned offset will be delivered.

        While Valkey is away it returns at once; the room is then listened to, and caught up, on reconnection. Raises
        RtError UNAVAILABLE if that has begun and takes seconds.
        """
        ...

    def unlisten(self, namespace: str, room: Room) -> None:
        """The last member on this node has left; the channel is dropped a little later."""
        ...

    def position(self, namespace: str) -> Offset:
        """Everything of this node's rooms up to here was delivered: the offset a client may be told."""
        ...

    async def read(
        self, namespace: str, rooms: Iterable[Room], since: Offset, most: int = ..., user: str = ""
    ) -> Backlog:
        """Read what the log holds for the rooms after `since`; nothing, and not complete, if that is more than `most`.

        One question of a `user` at a time. Raises RtError UNAVAILABLE, also if the node has more questions than it may.
        """
        ...

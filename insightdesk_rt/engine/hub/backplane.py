"""The hub's interface to the other nodes: nine methods, implemented in engine/cluster/backplane.py.

Both sides rely on this rule: a logged event reaches members only through `deliver`, in the order of the log, also on
the node that published it. A volatile event is delivered there at once, and on other nodes through `deliver`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room


class Backlog(Struct, frozen=True):
    """What a log holds for some rooms after an offset. Not `complete` if the log does not reach back that far.

    Offsets below `floor` belong to a log that was lost. Events that were sent again after that have later offsets.
    """

    events: list[Event]  # in order
    complete: bool
    upto: Offset  # everything up to here was read
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

    def resync_newer(self, namespace: str, rooms: Mapping[Room, Offset]) -> None:
        """Members that came to one of these rooms after its offset may have missed events: they must reload."""
        ...


class Backplane(Protocol):
    def attach(self, members: LocalMembers) -> None:
        """Take the hub of this node. The hub calls it once, before the backplane starts."""
        ...

    def available(self, namespace: str) -> bool:
        """Is the log of the namespace reachable, as far as is known? If not, new clients of it are refused."""
        ...

    async def reach(self, namespace: str) -> None:
        """Return once the store has answered, which proves the log reachable. Raises RtError UNAVAILABLE."""
        ...

    async def append(self, event: Event) -> Offset:
        """Append an event to its namespace's log, once per `event.id`, and return its offset.

        Raises RtError UNAVAILABLE if Valkey did not confirm within its deadline; the same id may be tried again.
        """
        ...

    async def append_all(self, events: Sequence[Event]) -> list[Offset | RtError]:
        """Append events of one namespace in this order; return the offset of each, or the error that `append` raises.

        After an event that Valkey did not confirm, no later one is tried.
        """
        ...

    def publish(self, event: Event) -> None:
        """Send a volatile event to the other nodes; it may be lost."""
        ...

    async def listen(self, namespace: str, room: Room) -> Offset:
        """Listen to a room. Returns once everything after the returned offset is certain to be delivered.

        While Valkey is unreachable this returns at once; the room is subscribed and caught up on reconnection. Raises
        RtError UNAVAILABLE if catching up has begun and takes seconds.
        """
        ...

    def unlisten(self, namespace: str, room: Room) -> None:
        """The last member on this node has left: unsubscribe the channel a little later."""
        ...

    def position(self, namespace: str) -> Offset:
        """All events of this node's rooms up to here were delivered: the offset that a client may be sent."""
        ...

    async def read(
        self, namespace: str, rooms: Iterable[Room], since: Offset, most: int = ..., user: str = ""
    ) -> Backlog:
        """Read what the log holds for the rooms after `since`. Empty and not complete if that is more than `most`.

        A `user` has one read at a time. Raises RtError UNAVAILABLE, also if too many reads are under way on this node.
        """
        ...

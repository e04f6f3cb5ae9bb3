"""Access rechecks of one namespace, and the joins that they overtake.

When access to a room changes, every node checks the members of that room again. A socket that is about to join is not
a member yet: its access was checked before the change, the recheck does not see it, and it would join with the old
answer. So each join remembers which rooms were rechecked since it began. If its own is among them, it starts again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Room

TRIES = 5  # attempts of one join if its access is rechecked during each
ALL_ROOMS = Room("")

Result = TypeVar("Result")
Unchanged = Callable[[], bool]


class AccessChanged(Exception):
    """Access to a room was rechecked while a socket was about to join it. The caller must check access again."""


class AccessRechecks:
    """The joins that run now, and the rooms that were rechecked since each of them began."""

    def __init__(self) -> None:
        self._rechecked: dict[object, set[Room]] = {}

    def note(self, room: Room = ALL_ROOMS) -> None:
        """Note that access to a room, or to any room, is rechecked from now on. Call it before the recheck begins."""
        for rooms in self._rechecked.values():
            rooms.add(room)

    async def join(self, rooms: Collection[Room], check_and_join: Callable[[Unchanged], Awaitable[Result]]) -> Result:
        """Run `check_and_join`, again each time that it raises AccessChanged. Returns what it returns.

        `check_and_join` checks access first, and joins last. It is given a function that returns False once access to
        one of the rooms was rechecked. Raises RtError UNAVAILABLE after TRIES, and what `check_and_join` raises.
        """
        for _ in range(TRIES):
            rechecked: set[Room] = set()
            key = object()
            self._rechecked[key] = rechecked
            try:
                return await check_and_join(lambda seen=rechecked: seen.isdisjoint((*rooms, ALL_ROOMS)))  # type: ignore[misc]
            except AccessChanged:
                continue
            finally:
                del self._rechecked[key]
        raise RtError("UNAVAILABLE")

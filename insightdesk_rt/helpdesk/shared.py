"""Shared reads: concurrent callers of the same expensive read get one result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Runs one read at a time per key. A caller that asks during a read gets the next one, which starts after it."""

    def __init__(self) -> None:
        self._reads: dict[Hashable, _Reads] = {}

    async def ask(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a read that began no earlier than this call. Do not change it: it is shared.

        Raises what `read` raises, if it is this caller that runs it.
        """
        reads = self._reads.get(key)
        if reads is None:
            reads = self._reads[key] = _Reads()
        begun = reads.begun
        reads.users += 1
        try:
            async with reads.turn:
                if reads.found_by <= begun:
                    reads.begun += 1
                    reads.found = await read()
                    reads.found_by = reads.begun
                found: T = reads.found
                return found
        finally:
            reads.users -= 1
            if not reads.users:
                del self._reads[key]


class _Reads:
    """The reads of one key. `begun`: how many there were; `found_by`: the number of the read that returned `found`."""

    __slots__ = ("begun", "found", "found_by", "turn", "users")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.users = self.begun = self.found_by = 0
        self.found: Any = None

"""One answer for all who ask the same at the same time, where an answer costs Valkey more than a question does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Reads one at a time per key. Who asks while one is under way is given the next, which begins after they asked."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Waiting] = {}

    async def ask(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Return what a read found that began no earlier than this call. Do not change it: others have it too.

        Raises what `read` raises, if this call's turn came to read.
        """
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Waiting()
        begun = line.begun
        line.users += 1
        try:
            async with line.turn:
                if line.found_by <= begun:
                    line.begun += 1
                    line.found = await read()
                    line.found_by = line.begun
                found: T = line.found
                return found
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[key]


class _Waiting:
    """`begun`: reads so far; `found_by`: the number of the one whose answer is `found`."""

    __slots__ = ("begun", "found", "found_by", "turn", "users")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.users = self.begun = self.found_by = 0
        self.found: Any = None

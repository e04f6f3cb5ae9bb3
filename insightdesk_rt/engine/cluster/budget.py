"""Budget: limits how much of Valkey's time this node's clients may take to read what they missed.

A read of the logs costs as much as its result is long, up to thousands of events, while other commands cost
microseconds. So these reads use a connection of their own (`Valkey`, `costly=True`), a few at a time, and each user has
one read at a time. A user who resumes a hundred sockets waits for their own reads, and nobody else waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from insightdesk_rt.engine.errors import RtError

WAIT_S = 10.0  # a stock client gives up a connect after 20 s


class Budget:
    """`at_once`: how many reads may be under way on this node."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._turns: dict[str, _Turn] = {}
        self.refused = 0

    @asynccontextmanager
    async def of(self, user: str) -> AsyncIterator[None]:
        """Let the block run in the user's turn. Raises RtError UNAVAILABLE if the turn has not come after WAIT_S."""
        turn = self._turns.get(user)
        if turn is None:
            turn = self._turns[user] = _Turn()
        turn.users += 1
        try:
            await self._soon(turn.lock)
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[user]

    @asynccontextmanager
    async def one_read(self) -> AsyncIterator[None]:
        """Hold one of the node's places while the block does one read. Raises as `of`."""
        await self._soon(self._free)
        try:
            yield
        finally:
            self._free.release()

    async def _soon(self, lock: asyncio.Lock | asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await lock.acquire()
        except TimeoutError:
            self.refused += 1
            raise RtError("UNAVAILABLE", "Too many clients are catching up; try again.") from None


class _Turn:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0

"""How much of Valkey's time this node's clients may have for what they missed.

A question to the logs costs what its answer is, up to thousands of events, while one of everybody else costs
microseconds. So those questions go over a connection of their own (`Valkey`, `costly=True`), a few at a time, and a
user has one at a time: who asks from a hundred sockets waits for themselves, and not everybody for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from insightdesk_rt.engine.errors import RtError

WAIT_S = 10.0  # a stock client gives up a connect after 20 s


class Budget:
    """`at_once`: questions that are under way on this node."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._turns: dict[str, _Turn] = {}
        self.refused = 0

    @asynccontextmanager
    async def of(self, user: str) -> AsyncIterator[None]:
        """Hold the user's turn while the block runs. Raises RtError UNAVAILABLE if it has not come after WAIT_S."""
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
    async def question(self) -> AsyncIterator[None]:
        """Hold one of the places while the block asks one thing. Raises as `of`."""
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

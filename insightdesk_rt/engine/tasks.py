"""OwnedTasks: background tasks that belong to one object, which cancels them when it closes.

asyncio keeps only a weak reference to a task and reports its failure only when the task is collected. Here each task is
referenced until it ends, and its failure is logged once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from insightdesk_rt.engine.errors import RtError

T = TypeVar("T")


class OwnedTasks:
    """`spawn` tasks; `close` cancels those that still run. Failures go to the owner's logger."""

    __slots__ = ("_log", "_tasks")

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Start the work as a task. `what` names it in the log if it fails."""
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def wait(self, within_s: float | None = None) -> None:
        """Wait until all tasks that run now have ended, or the time has passed."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=within_s)

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        for task in tuple(self._tasks):
            task.cancel()
        await self.wait()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        failed = task.exception()
        if isinstance(failed, RtError):
            self._log.log(failed.log_level, "%s failed: %s", task.get_name(), failed.code)
        elif failed is not None:
            self._log.error("%s failed", task.get_name(), exc_info=failed)

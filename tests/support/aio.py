"""`@aio`: run a coroutine test on a fresh loop with a deadline, so that a hanging test is a failing one."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

DEADLINE_S = 40.0


def aio(test: Callable[..., Awaitable[None]], deadline_s: float = DEADLINE_S) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def body() -> None:
            async with asyncio.timeout(deadline_s):
                await test(*args, **kwargs)

        asyncio.run(body())

    return run


async def until(true: Callable[[], Any], what: str, deadline_s: float = 15.0) -> Any:
    """Return the first truthy value of `true()` (awaited, if it can be); fail naming `what` past the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        value = true()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if loop.time() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        await asyncio.sleep(0.005)

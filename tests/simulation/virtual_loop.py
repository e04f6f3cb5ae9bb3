"""An asyncio event loop whose clock jumps to the next timer, and whose connections lead into a model network.

Nothing in it waits: a minute of a cluster's life takes as long as its callbacks run. The order of callbacks is
asyncio's own. What differs between two runs is when messages arrive, which the network decides from its seed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest.mock import patch


class Stuck(Exception):
    """Nothing is scheduled any more, and the run is not over."""


class Dialer(Protocol):
    async def dial(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> tuple[Any, Any]:
        """Connect, as `loop.create_connection` does: return the transport and the protocol. Raises OSError."""
        ...


class VirtualLoop(asyncio.BaseEventLoop):
    """`network` receives all connections. There are no threads, no real sockets and no signals."""

    def __init__(self, network: Dialer, start_s: float) -> None:
        super().__init__()
        self._network = network
        self._now_s = start_s
        self._selector = self  # BaseEventLoop asks its selector how long to wait
        self._clock_resolution = 1e-6  # a float of Unix seconds cannot show less

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """Jump to the next timer instead of waiting for it."""
        if timeout is None:
            raise Stuck
        self._now_s += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str = "", port: int = 0, **_: Any
    ) -> tuple[Any, Any]:
        return await self._network.dial(protocol_factory, host, port)


@contextmanager
def clock_of(loop: VirtualLoop) -> Iterator[None]:
    """Let the time module show the loop's time, since the package asks it too."""
    with (
        patch.object(time, "monotonic", loop.time),
        patch.object(time, "monotonic_ns", lambda: int(loop.time() * 1e9)),
        patch.object(time, "time", loop.time),
    ):
        yield

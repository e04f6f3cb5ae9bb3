"""What waits for a reader of a stream. Streams themselves are tested on real processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from insightdesk_rt.admin.stream import MAX_WAITING, MAX_WAITING_BYTES, EventStream
from tests.support.aio import aio


@aio
async def test_what_is_not_kept_is_said_so_and_a_long_one_is_kept_if_alone() -> None:
    """A reading longer than what may wait was never sent; one that was dropped was taken for sent."""
    handler: Any = SimpleNamespace()
    stream = EventStream(handler, "viewer")
    assert stream.put("state", "x" * (MAX_WAITING_BYTES + 1))
    assert not stream.put("state", "y")
    short = EventStream(handler, "viewer")
    assert [short.put("event", "{}") for _ in range(MAX_WAITING + 1)] == [True] * MAX_WAITING + [False]

"""The queue of a stream's reader. Streams themselves are tested on real processes."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.sse import MAX_OF_ONE, MAX_STREAMS, MAX_WAITING, MAX_WAITING_BYTES, EventStream, Streams
from insightdesk_rt.engine.errors import RtError
from tests.support.aio import aio


@aio
async def test_a_dropped_event_is_reported_and_a_long_one_is_kept_if_alone() -> None:
    """An event longer than the queue's limit was never sent, and a dropped one counted as sent."""
    handler: Any = SimpleNamespace()
    stream = EventStream(handler, "viewer")
    assert stream.put("state", "x" * (MAX_WAITING_BYTES + 1))
    assert not stream.put("state", "y")
    short = EventStream(handler, "viewer")
    assert [short.put("event", "{}") for _ in range(MAX_WAITING + 1)] == [True] * MAX_WAITING + [False]


def test_a_readers_place_is_released_however_the_stream_ends() -> None:
    streams = Streams()

    def refusal(name: str) -> str:
        try:
            with streams.place(Principal(name, "viewer")):
                return ""
        except RtError as refused:
            return refused.code

    with ExitStack() as open_ones:
        for number in range(MAX_STREAMS):
            assert refusal(f"reader{number // MAX_OF_ONE}") == ""
            open_ones.enter_context(streams.place(Principal(f"reader{number // MAX_OF_ONE}", "viewer")))
        assert refusal("reader0") == "RATE_LIMITED"
        assert refusal("another") == "UNAVAILABLE"
    for _ in range(MAX_OF_ONE + 1):
        with pytest.raises(ZeroDivisionError), streams.place(Principal("reader0", "viewer")):
            raise ZeroDivisionError
    assert refusal("reader0") == refusal("another") == ""

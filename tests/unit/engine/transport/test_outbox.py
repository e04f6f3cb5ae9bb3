"""The outbox: one write per loop turn, in order; at its limit volatile messages go first, then the client."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport import outbox as outboxes
from insightdesk_rt.engine.transport.outbox import Flusher, Outbox, OutboxLimits
from insightdesk_rt.engine.wire.codec import Encoded
from tests.support.aio import aio, until


class Sink:
    """A transport that takes everything, or holds it back."""

    name = "sink"
    max_messages = 0
    unfinished = 0

    def __init__(self) -> None:
        self.writes: list[list[str]] = []
        self.writable = True
        self.keeps = False

    def write(self, messages: list[Encoded]) -> int:
        self.writes.append([message.text for message in messages])
        if self.keeps:
            self.writable = False
            return sum(message.size for message in messages)
        return 0

    def close(self, why: CloseReason, code: int = 0) -> None: ...


def message(text: str, size: int = 10, *, volatile: bool = False) -> Encoded:
    return Encoded(text, b"x" * size, volatile=volatile)


def outbox(limits: OutboxLimits = OutboxLimits()) -> tuple[Outbox, Sink]:
    box, sink = Outbox(limits, Flusher()), Sink()
    box.transport = sink
    return box, sink


@aio
async def test_all_messages_of_a_turn_are_one_write() -> None:
    box, sink = outbox()
    for text in "abc":
        assert box.put(message(text)) is None
    assert sink.writes == [] and box.bytes == 30
    await asyncio.sleep(0)
    assert sink.writes == [["a", "b", "c"]] and box.bytes == 0
    box.put(message("d"))
    await asyncio.sleep(0)
    assert sink.writes == [["a", "b", "c"], ["d"]]


@aio
async def test_one_callback_flushes_all_outboxes_and_a_failing_one_affects_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flusher = Flusher()
    boxes = [Outbox(OutboxLimits(), flusher) for _ in range(3)]
    sinks = [Sink() for _ in boxes]
    for box, sink in zip(boxes, sinks, strict=True):
        box.transport = sink
        box.put(message("a"))

    def breaks(messages: list[Encoded]) -> int:
        raise ZeroDivisionError

    sinks[1].write = breaks  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        await asyncio.sleep(0)
    assert sinks[0].writes == sinks[2].writes == [["a"]]
    assert [record.message for record in caplog.records] == ["flush failed"]


@aio
async def test_messages_wait_in_order_while_the_transport_is_not_writable() -> None:
    box, sink = outbox()
    sink.keeps = True
    box.put(message("a"))
    await asyncio.sleep(0)
    assert box.bytes == 10
    box.put(message("b"))
    box.put(message("c"))
    await asyncio.sleep(0)
    assert sink.writes == [["a"]] and box.bytes == 30
    box.sent(4)
    assert box.bytes == 26
    sink.writable, sink.keeps = True, False
    box.drained()
    assert sink.writes == [["a"], ["b", "c"]] and box.bytes == 0


@aio
async def test_a_large_volatile_message_is_not_behind_by_itself() -> None:
    box, sink = outbox(OutboxLimits(max_outbox_bytes=100, max_outbox_events=10, volatile_outbox_bytes=40))
    assert box.put(message("large", 90, volatile=True)) is None
    assert box.put(message("next", volatile=True)) is None
    box.flush()
    assert sink.writes == [["large"]] and box.dropped == 1


@aio
async def test_a_client_that_is_behind_loses_only_volatile_messages() -> None:
    box, sink = outbox(OutboxLimits(max_outbox_bytes=100, max_outbox_events=1_000, volatile_outbox_bytes=40))
    sink.writable = False
    assert box.put(message("v1", volatile=True)) is None
    assert box.put(message("l1", 30)) is None
    assert box.put(message("v2", volatile=True)) is None  # over volatile_bytes: not queued
    assert box.dropped == 1 and box.bytes == 40
    assert box.put(message("l2", 60)) is None
    assert box.put(message("l3", 5)) is None  # v1 is dropped
    assert box.dropped == 2
    assert box.put(message("l4", 30)) is CloseReason.SLOW_CONSUMER
    assert box.put(message("v3", volatile=True)) is None
    sink.writable = True
    box.drained()
    assert sink.writes == [["l1", "l2", "l3"]]


@aio
async def test_the_number_of_messages_is_limited_too() -> None:
    box, sink = outbox(OutboxLimits(max_outbox_bytes=10_000, max_outbox_events=3, volatile_outbox_bytes=10_000))
    sink.writable = False
    assert [box.put(message(str(n), 1)) for n in range(4)] == [None, None, None, CloseReason.SLOW_CONSUMER]


@aio
async def test_bytes_held_by_the_transport_count_until_they_are_sent() -> None:
    box, sink = outbox(OutboxLimits(max_outbox_bytes=100, max_outbox_events=10, volatile_outbox_bytes=100))
    sink.keeps = True
    box.put(message("a", 90))
    await asyncio.sleep(0)
    assert box.put(message("b", 20)) is CloseReason.SLOW_CONSUMER
    box.sent(50)
    assert box.put(message("b", 20)) is None


@aio
async def test_a_closed_outbox_drops_messages() -> None:
    box, sink = outbox()
    box.put(message("a"))
    box.close()
    assert box.put(message("b")) is None
    assert box.put(message("c", volatile=True)) is None
    await asyncio.sleep(0)
    assert sink.writes == [] and box.take() == []


@aio
async def test_a_change_of_transport_between_turns_keeps_the_order() -> None:
    """The upgrade from polling: unwritten messages are sent on the websocket in order."""
    box, polling = outbox()
    polling.writable = False
    box.put(message("a"))
    await asyncio.sleep(0)
    websocket = Sink()
    box.transport = websocket
    box.put(message("b"))
    box.flush()
    assert polling.writes == [] and websocket.writes == [["a", "b"]]


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.booleans(), st.sampled_from(["", "flush", "block", "drain"])), max_size=60
    )
)
def test_logged_messages_keep_their_order_and_bytes_are_counted_correctly(steps: list[tuple[int, bool, str]]) -> None:
    async def body() -> None:
        box, sink = outbox(OutboxLimits(max_outbox_bytes=150, max_outbox_events=12, volatile_outbox_bytes=60))
        accepted: list[str] = []
        for number, (size, volatile, then) in enumerate(steps):
            why = box.put(message(str(number), size, volatile=volatile))
            assert why in (None, CloseReason.SLOW_CONSUMER) and not (volatile and why)
            if why is None and not volatile:
                accepted.append(str(number))
            assert box.bytes <= 150
            assert box.bytes == sum(queued.size for queued in box._queue or ())
            if then == "block":
                sink.writable = False
            elif then == "drain":
                sink.writable = True
                box.drained()
            elif then == "flush":
                box.flush()
        sink.writable = True
        box.drained()
        written = [text for write in sink.writes for text in write]
        assert written == sorted(written, key=int)
        assert [text for text in written if text in accepted] == accepted

    asyncio.run(body())


@aio
async def test_a_transport_with_a_maximum_per_write_gets_the_rest_in_order() -> None:
    """python-engineio's client gives up on a payload of more than 16 packets."""
    box, sink = outbox()
    sink.max_messages = 15
    for n in range(32):
        box.put(message(str(n)))
    for _ in range(3):
        box.flush()
    assert [len(write) for write in sink.writes] == [15, 15, 2]
    assert [text for write in sink.writes for text in write] == [str(n) for n in range(32)]
    assert box.bytes == 0


@aio
async def test_very_many_outboxes_are_written_in_several_turns_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outboxes, "TURN_NS", -1)
    flusher, sink, order = Flusher(), Sink(), list[str]()
    boxes = [Outbox(OutboxLimits(), flusher) for _ in range(2 * outboxes.CLOCK_EVERY + 2)]
    monkeypatch.setattr(sink, "write", lambda messages: order.extend(each.text for each in messages) or 0)
    for box in boxes:
        box.transport = sink
        box.put(message("event"))
    flusher.delivered("1795397242677-0")
    loop = asyncio.get_running_loop()
    loop.call_soon(order.append, "other")
    await asyncio.sleep(0)
    boxes[0].put(message("later"))  # already written: it has its turn after those that wait
    boxes[-1].put(message("too"))  # still waiting: one write takes both
    assert flusher.delivery.total == 0, "not all are written yet"
    await until(lambda: flusher.written == flusher.queued, "all are written")
    each = outboxes.CLOCK_EVERY
    assert order[each] == "other" and order.count("event") == len(boxes)
    assert order[-3:] == ["event", "too", "later"]
    assert flusher.delivery.total == 1


@aio
async def test_an_empty_outbox_takes_one_message_of_any_size_and_a_second_one_closes() -> None:
    """A client that reads is not closed because others wrote a lot; one that does not read is."""
    limits = OutboxLimits(max_outbox_bytes=1_000)
    box, sink = outbox(limits)
    sink.writable = False
    assert box.put(message("volatile", 900, volatile=True)) is None
    assert box.put(message("huge", 5_000)) is None, "the volatile message is dropped"
    assert box.put(message("one more")) is CloseReason.SLOW_CONSUMER
    sink.writable = True
    box.drained()
    assert sink.writes == [["huge"]] and box.put(message("again", 5_000)) is None


@aio
async def test_code_that_waits_for_room_is_called_when_half_is_read() -> None:
    box, sink = outbox(OutboxLimits(max_outbox_bytes=1_000))
    called: list[str] = []
    sink.writable = False
    box.put(message("a", 500))
    assert not box.behind
    box.put(message("b", 1))
    assert box.behind
    box.when_room(lambda: called.append("room"))
    sink.keeps = sink.writable = True
    box.drained()
    assert box.behind and called == [], "the kernel has not taken it"
    box.sent(1)
    assert not box.behind and called == ["room"]
    box.sent(500)
    assert called == ["room"], "once"


@aio
async def test_code_that_waits_for_room_is_called_when_the_client_ends() -> None:
    box, sink = outbox(OutboxLimits(max_outbox_bytes=1_000))
    called: list[str] = []
    sink.writable = False
    box.put(message("a", 900))
    box.when_room(lambda: called.append("end"))
    box.close()
    assert called == ["end"] and not box.behind

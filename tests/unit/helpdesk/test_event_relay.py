"""The event relay: in order, once, and later if it fails now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Event, Offset
from insightdesk_rt.helpdesk.event_relay import EventRelay, Together
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from tests.support.aio import aio


class Store:
    def __init__(self) -> None:
        self.upto: dict[str, int] = {}
        self.left: list[PendingEvent] = []

    async def mark_published(self, upto: dict[str, int]) -> None:
        self.upto.update(upto)

    async def overdue(self) -> list[PendingEvent]:
        return self.left


class Log:
    """A relay that records what it published. `refuse`: kind → error code."""

    def __init__(self, **refuse: str) -> None:
        self.said: list[str] = []
        self.refuse = refuse
        self.store = Store()
        self.tasks: list[asyncio.Task[None]] = []
        self.relay = EventRelay(self.store, self.say, self.spawn)  # type: ignore[arg-type]

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def say(self, change: PendingEvent) -> None:
        await asyncio.sleep(0)
        if change.kind == "bug":
            raise ZeroDivisionError
        if change.kind in self.refuse:
            raise RtError(self.refuse[change.kind])
        self.said.append(change.id)


def change(subject: str, seq: int, kind: str = "fine") -> PendingEvent:
    return PendingEvent("s", subject, seq, kind, "{}")


@aio
async def test_events_of_a_subject_are_published_in_order_and_then_forgotten() -> None:
    log = Log()
    await log.relay.publish([change("a", 1), change("b", 7), change("a", 2)])
    await asyncio.gather(*log.tasks)
    assert [said for said in log.said if said.startswith("s.a")] == ["s.a.1", "s.a.2"] and "s.b.7" in log.said
    assert log.store.upto == {"a": 2, "b": 7}


@aio
async def test_an_event_that_valkey_refuses_delays_its_own_subject_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "insightdesk_rt.helpdesk.event_relay")
    log = Log(late="UNAVAILABLE")
    await log.relay.publish(
        [change("a", 1), change("a", 2, "late"), change("a", 3), change("b", 1), change("c", 1, "late")]
    )
    await asyncio.gather(*log.tasks)
    assert log.store.upto == {"a": 1, "b": 1} and "s.a.3" not in log.said
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]


@aio
async def test_an_event_that_can_never_be_published_does_not_block_others(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(big="PAYLOAD_TOO_LARGE")
    await log.relay.publish([change("a", 1, "big"), change("a", 2, "bug"), change("a", 3)])
    await asyncio.gather(*log.tasks)
    assert log.store.upto == {"a": 3} and log.said == ["s.a.3"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


@aio
async def test_overdue_events_are_published() -> None:
    log = Log()
    log.store.left = [change("a", 4)]
    await log.relay.publish_overdue()
    assert log.said == ["s.a.4"]
    log.store.left = []
    await log.relay.publish_overdue()
    assert len(log.tasks) == 1


@aio
async def test_concurrent_callers_publish_each_event_once() -> None:
    """Otherwise n people who write at the same time would publish n² events."""
    log = Log()
    everything = [change("a", n) for n in range(1, 51)]
    await asyncio.gather(*(log.relay.publish(everything[:n]) for n in range(1, 51)))
    assert log.said == [f"s.a.{n}" for n in range(1, 51)]
    await asyncio.gather(*log.tasks)
    assert log.store.upto == {"a": 50} and log.relay._turns == {}


@aio
async def test_a_caller_that_waited_for_a_failed_one_fails_too(caplog: pytest.LogCaptureFixture) -> None:
    """With a hanging server all callers wait for one deadline, and not one after the other."""
    log = Log(late="UNAVAILABLE")
    attempts = 0
    say = log.say

    async def counted(change: PendingEvent) -> None:
        nonlocal attempts
        attempts += 1
        await say(change)

    log.relay._publish_one = counted
    results = await asyncio.gather(
        *(log.relay.publish_or_raise([change("a", 1, "late")]) for _ in range(5)), return_exceptions=True
    )
    assert [getattr(result, "code", None) for result in results] == ["UNAVAILABLE"] * 5 and attempts == 1
    log.refuse.clear()
    await log.relay.publish_or_raise([change("a", 1, "late")])
    assert log.said == ["s.a.1"]


@aio
async def test_callers_get_the_message_and_fields_of_the_refusal() -> None:
    """Which nodes had not answered was dropped, and the store blamed."""
    log = Log()

    async def say(change: PendingEvent) -> None:
        await asyncio.sleep(0)
        raise RtError("UNAVAILABLE", "Not all nodes answered: n2.", field=1)

    log.relay._publish_one = say
    results = await asyncio.gather(
        *(log.relay.publish_or_raise([change("a", 1)]) for _ in range(3)), return_exceptions=True
    )
    told = [result.as_dict() for result in results if isinstance(result, RtError)]
    assert told == [{"code": "UNAVAILABLE", "message": "Not all nodes answered: n2.", "field": 1}] * 3


# ── many changes together ────────────────────────────────────────────────────────────────────────────────────────────


class Batching(Log):
    """A relay that also publishes together. `alone`: kinds that must be published by themselves."""

    def __init__(self, alone: str = "", full_after: int = 1_000, untold: str = "", **refuse: str) -> None:
        super().__init__(**refuse)
        self.alone, self.full_after, self.untold = alone, full_after, untold
        self.calls: list[list[str]] = []
        self.told: list[list[str]] = []
        self.done: list[str] = []
        together = Together(self.events, self.append_all, self.published)
        self.relay = EventRelay(self.store, self.say, self.spawn, tell=self.tell, together=together)  # type: ignore[arg-type]

    async def events(self, one: PendingEvent) -> list[Event] | None:
        await asyncio.sleep(0)
        return None if one.kind == self.alone else [Event("/t", one.kind, "{}", (), id=one.id)]

    async def append_all(self, events: Sequence[Event]) -> list[Offset | RtError]:
        self.calls.append([one.id for one in events])
        await asyncio.sleep(0)
        found: list[Offset | RtError] = []
        for number, one in enumerate(events):
            if number >= self.full_after:
                found.append(RtError("UNAVAILABLE"))
            elif one.name in self.refuse:
                found.append(RtError(self.refuse[one.name]))
            else:
                self.said.append(one.id)
                found.append(Offset(f"{len(self.said)}-0"))
        return found

    async def published(self, done: Sequence[tuple[PendingEvent, Offset]]) -> None:
        self.done += [one.id for one, _ in done]

    async def tell(self, *changes: PendingEvent) -> None:
        if self.untold:
            raise RtError(self.untold)
        self.told.append([one.id for one in changes])


def codes(results: list[Any]) -> list[Any]:
    return [one.code if isinstance(one, RtError) else one for one in results]


@aio
async def test_changes_of_a_batch_are_published_in_one_call_and_each_gets_its_own_result() -> None:
    """A later change of a subject names the earlier ones, which are still pending, too."""
    log = Batching()
    a, b, c = change("a", 1), change("b", 1), change("a", 2)
    results = await log.relay.publish_all([[a], [b], [a, c], []])
    await asyncio.gather(*log.tasks)
    assert results == ["1-0", "3-0", "2-0", None]
    assert log.calls == [["s.a.1", "s.a.2", "s.b.1"]] == log.told and log.done == log.calls[0]
    assert log.store.upto == {"a": 2, "b": 1}


@aio
async def test_a_change_that_must_be_published_by_itself_keeps_its_place_in_its_subject() -> None:
    log = Batching(alone="moved")
    results = await log.relay.publish_all(
        [[change("a", 1)], [change("a", 2, "moved")], [change("b", 1)], [change("a", 3)]]
    )
    await asyncio.gather(*log.tasks)
    assert log.calls == [["s.b.1"]] and results[2] == "1-0"
    assert [said for said in log.said if said.startswith("s.a")] == ["s.a.1", "s.a.2", "s.a.3"]
    assert log.store.upto == {"a": 3, "b": 1}


@aio
async def test_a_change_that_the_log_did_not_confirm_stays_pending_and_so_do_later_ones() -> None:
    log = Batching(full_after=2)
    results = await log.relay.publish_all([[change("a", 1)], [change("b", 1)], [change("b", 2)], [change("c", 1)]])
    await asyncio.gather(*log.tasks)
    assert codes(results) == ["1-0", "2-0", "UNAVAILABLE", "UNAVAILABLE"]
    assert log.store.upto == {"a": 1, "b": 1}


@aio
async def test_a_change_that_the_back_end_could_not_be_told_of_stays_pending() -> None:
    log = Batching(untold="UNAVAILABLE")
    assert codes(await log.relay.publish_all([[change("a", 1)]])) == ["UNAVAILABLE"]
    await asyncio.gather(*log.tasks)
    assert log.store.upto == {} and log.done == []


@aio
async def test_an_event_of_a_batch_that_can_never_be_published_does_not_block_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Batching(big="PAYLOAD_TOO_LARGE")
    results = await log.relay.publish_all([[change("a", 1, "big")], [change("a", 2)], [change("b", 1)]])
    await asyncio.gather(*log.tasks)
    assert results == [None, "1-0", "2-0"] and log.store.upto == {"a": 2, "b": 1}
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@aio
async def test_batches_and_single_changes_of_one_subject_take_turns() -> None:
    log = Batching()
    changes = [change("a", seq) for seq in range(1, 9)]
    await asyncio.gather(
        log.relay.publish_all([changes[:3], [change("b", 1)]]),
        log.relay.publish_or_raise(changes[:5]),
        log.relay.publish_all([changes[:7]]),
        log.relay.publish_or_raise(changes),
    )
    await asyncio.gather(*log.tasks)
    assert [said for said in log.said if said.startswith("s.a")] == [one.id for one in changes]
    assert not log.relay._turns

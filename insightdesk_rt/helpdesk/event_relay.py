"""Event relay: publishes pending events to the log, in order and once, and retries what failed.

A change is stored together with its pending event (pending_events.py) before the event is published. So a handler may
answer its client as soon as the change is stored: the event may be late, but it is not lost. Older events of a subject
are always published first. Event ids are made of subject and seq, so the log drops events that another node has
published in the meantime.

At the same time the change is written to the feed of the helpdesk's back end. An event counts as published once both
are done. So the retries that deliver an event to clients also deliver it to the back end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset
from insightdesk_rt.helpdesk.pending_events import PendingEvent, PendingEvents

log = logging.getLogger(__name__)

Publish = Callable[[PendingEvent], Awaitable[object]]
Logged = Offset | RtError
Revoke = Callable[[PendingEvent], Awaitable[object]]
TellOf = Callable[..., Awaitable[object]]  # takes one change or several; tells of them in one step
Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class _SubjectTurn:
    """A subject whose events are published here, perhaps for several callers at once.

    Callers take turns and publish nothing twice. Without turns, n people who write in a conversation at the same time
    would each publish the messages of all n. `result`: what `publish` returned for the event `upto`. `failures`: a
    caller that was waiting when another one failed fails too, instead of trying the same event again.
    """

    __slots__ = ("callers", "failures", "lock", "refusal", "result", "upto")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.callers = 0
        self.upto = 0
        self.result: Any = None
        self.failures = 0
        self.refusal: RtError | None = None


class _Published(NamedTuple):
    """The progress of a caller. If an event failed, `refusal` has the reason and `id` is that event."""

    upto: int
    result: Any
    refusal: RtError | None = None
    id: str = ""


class Together(NamedTuple):
    """How a feature publishes the changes of a batch.

    `events` returns the logged events of a change, in order; None for a change that must be published by itself,
    because more than its events has to happen. `append_all` is the hub's. `published` is called with the changes that
    the log has, and the offset of the last event of each. It must not raise.
    """

    events: Callable[[PendingEvent], Awaitable[Sequence[Event] | None]]
    append_all: Callable[[Sequence[Event]], Awaitable[list[Logged]]]
    published: Callable[[Sequence[tuple[PendingEvent, Offset]]], Awaitable[None]] | None = None


class EventRelay:
    """Publishes the pending events of one store.

    `publish` logs one event under `event.id`. `spawn` runs work that nobody waits for. `revoke` takes the access that
    a change ends. `publish` does so too: `revoke` is for changes that must wait because an earlier event cannot be
    published. What `revoke` fails to do is done when the event is published. `tell` tells the back end of changes.
    `together` is for `publish_all`.
    """

    def __init__(
        self,
        store: PendingEvents,
        publish: Publish,
        spawn: Spawn,
        revoke: Revoke | None = None,
        tell: TellOf | None = None,
        together: Together | None = None,
    ) -> None:
        self._store = store
        self._publish_one = publish
        self._spawn = spawn
        self._revoke = revoke
        self._tell = tell
        self._together = together
        self._turns: dict[str, _SubjectTurn] = {}

    async def publish(self, events: Collection[PendingEvent]) -> None:
        """Publish events: subjects side by side, the events of one subject in order. Does not raise.

        Events that Valkey does not take now stay pending; the node that leads publishes them later.
        """
        subjects: dict[str, list[PendingEvent]] = {}
        for event in events:
            subjects.setdefault(event.subject, []).append(event)
        done = await asyncio.gather(*(self._publish_in_turn(those) for those in subjects.values()))
        self._mark_published({subject: got.upto for subject, got in zip(subjects, done, strict=True) if got.upto})
        for got in done:
            if got.refusal:
                log.log(got.refusal.log_level, "an event is late", extra={"id": got.id, "why": got.refusal.code})

    async def publish_or_raise(self, events: Sequence[PendingEvent]) -> Any:
        """Publish events of one subject, and return what `publish` returned for the last one, or for a later one.

        For callers that may answer only once the log has the events: a back end that gets an error sends the same
        request again. Raises RtError UNAVAILABLE; what was not published stays pending.
        """
        if not events:
            return None
        got = await self._publish_in_turn(events)
        if got.upto:
            self._mark_published({events[0].subject: got.upto})
        if got.refusal:
            why = got.refusal  # a copy: other callers may raise the same one
            raise RtError(why.code, why.message, **why.fields)
        return got.result

    async def publish_all(self, changes: Sequence[Sequence[PendingEvent]]) -> list[Any]:
        """Publish the pending events of many changes together, the events of one subject in order.

        Returns for each change what `publish_or_raise` returns or raises for it. Changes that `Together` can publish
        need one call to Valkey for all of them; the others are published as by `publish_or_raise`, side by side.
        """
        subjects: dict[str, dict[int, PendingEvent]] = {}
        for events in changes:
            for event in events:
                subjects.setdefault(event.subject, {})[event.seq] = event
        ordered = {subject: sorted(those.values(), key=lambda one: one.seq) for subject, those in subjects.items()}
        found = await self._publish_together(ordered) if self._together is not None else {}
        # The rest: somebody publishes the subject already, or the change must be published by itself.
        rest = [subject for subject in ordered if (subject, ordered[subject][-1].seq) not in found]
        done = await asyncio.gather(*(self._publish_in_turn(ordered[subject]) for subject in rest))
        self._mark_published({subject: got.upto for subject, got in zip(rest, done, strict=True) if got.upto})
        results = dict(zip(rest, done, strict=True))

        def result(events: Sequence[PendingEvent]) -> Any:
            if not events:
                return None
            last = events[-1]
            if (got := results.get(last.subject)) is not None:
                return got.refusal or got.result
            return found[last.subject, last.seq]

        return [result(events) for events in changes]

    async def _publish_together(
        self, subjects: Mapping[str, Sequence[PendingEvent]]
    ) -> dict[tuple[str, int], Logged | None]:
        """Publish subjects whose turn is free, in one call. Returns the results by subject and seq."""
        assert self._together is not None
        mine: dict[str, _SubjectTurn] = {}
        try:
            for subject in subjects:
                if subject not in self._turns:  # nobody publishes it, so taking the turn does not wait
                    mine[subject] = self._turns[subject] = turn = _SubjectTurn()
                    turn.callers += 1
                    await turn.lock.acquire()
            prepared: list[tuple[PendingEvent, Sequence[Event]]] = []
            for subject in list(mine):
                if (events := await self._prepare(subjects[subject])) is None:
                    self._end_turn(subject, mine.pop(subject))
                else:
                    prepared += zip(subjects[subject], events, strict=True)
            return await self._append_prepared(prepared, mine) if prepared else {}
        finally:
            for subject, turn in mine.items():
                self._end_turn(subject, turn)

    async def _prepare(self, changes: Sequence[PendingEvent]) -> list[Sequence[Event]] | None:
        """Return the events of a subject's changes, or None if one of them must be published by itself."""
        assert self._together is not None
        found = []
        for change in changes:
            try:
                events = await self._together.events(change)
            except Exception:  # it is tried again by itself, which logs what is wrong
                return None
            if not events:
                return None
            found.append(events)
        return found

    async def _append_prepared(
        self, prepared: Sequence[tuple[PendingEvent, Sequence[Event]]], turns: Mapping[str, _SubjectTurn]
    ) -> dict[tuple[str, int], Logged | None]:
        assert self._together is not None
        logged, not_told = await asyncio.gather(
            self._together.append_all([event for _, events in prepared for event in events]),
            self._tell_all([change for change, _ in prepared]),
        )
        offsets = iter(logged)
        found: dict[tuple[str, int], Logged | None] = {}
        done: list[tuple[PendingEvent, Offset]] = []
        upto: dict[str, int] = {}
        for change, events in prepared:
            results, turn = [next(offsets) for _ in events], turns[change.subject]
            refusal = not_told or next((one for one in results if isinstance(one, RtError)), None)
            if refusal is not None and refusal.kind.retry:
                turn.failures += 1
                turn.refusal = found[change.subject, change.seq] = refusal
                continue
            if refusal is not None:  # as in `_try`
                log.error("an event cannot be published", extra={"id": change.id, "why": refusal.code})
            offset = next((one for one in reversed(results) if not isinstance(one, RtError)), None)
            turn.upto = upto[change.subject] = change.seq
            turn.result = found[change.subject, change.seq] = offset
            if offset is not None:
                done.append((change, offset))
        self._mark_published(upto)
        if done and self._together.published is not None:
            await self._together.published(done)
        return found

    async def _tell_all(self, changes: Sequence[PendingEvent]) -> RtError | None:
        """Tell the back end of changes in one step. Returns the error after which it must be done again."""
        if self._tell is None:
            return None
        try:
            try:
                await self._tell(*changes)
            except Exception as failed:
                if isinstance(failed, RtError) and failed.kind.retry:
                    raise
                for change in changes:  # one of them cannot be told of, which this logs
                    await self._tell_of(self._tell, change)
        except RtError as refused:
            return refused
        return None

    def _end_turn(self, subject: str, turn: _SubjectTurn) -> None:
        turn.lock.release()
        turn.callers -= 1
        if not turn.callers:
            del self._turns[subject]

    async def publish_overdue(self) -> None:
        """Publish what other nodes left pending. Call it every second or so on the node that leads."""
        await self.publish(await self._store.overdue())

    def _mark_published(self, upto: dict[str, int]) -> None:
        if upto:
            self._spawn(self._store.mark_published(upto), "marking events as published")

    async def _publish_in_turn(self, events: Sequence[PendingEvent]) -> _Published:
        """Publish events of one subject when it is this caller's turn."""
        subject = events[0].subject
        turn = self._turns.get(subject)
        if turn is None:
            turn = self._turns[subject] = _SubjectTurn()
        failures = turn.failures
        turn.callers += 1
        try:
            async with turn.lock:
                upto = 0
                for number, event in enumerate(events):
                    new = event.seq > turn.upto
                    if new and (turn.failures != failures or not await self._try(turn, event)):
                        await self._revoke_all(events[number:])
                        return _Published(upto, None, turn.refusal, event.id)
                    upto = event.seq
                return _Published(upto, turn.result)
        finally:
            turn.callers -= 1
            if not turn.callers:
                del self._turns[subject]

    async def _revoke_all(self, events: Sequence[PendingEvent]) -> None:
        """Take the access that these changes end, although their events cannot be published yet."""
        for event in events if self._revoke else ():
            assert self._revoke is not None
            try:
                await self._revoke(event)
            except RtError as refused:
                log.warning("access is taken late", extra={"id": event.id, "why": refused.code})
                return
            except Exception:
                log.exception("access is taken late", extra={"id": event.id})
                return

    async def _try(self, turn: _SubjectTurn, event: PendingEvent) -> bool:
        """Publish one event. False if it must be tried again later, with the reason in `turn.refusal`."""
        try:
            turn.result = await self._publish_and_tell(event)
        except RtError as refused:
            if refused.kind.retry:
                turn.failures += 1
                turn.refusal = refused
                return False
            # It would fail every time, and hold up the events after it.
            log.error("an event cannot be published", extra={"id": event.id, "kind": event.kind, "why": refused.code})
        except Exception:
            log.exception("an event cannot be published", extra={"id": event.id, "kind": event.kind})
        turn.upto = event.seq
        return True

    async def _publish_and_tell(self, event: PendingEvent) -> object:
        """Publish one event and write its change to the feed, at the same time. Raises RtError of either."""
        if self._tell is None:
            return await self._publish_one(event)
        # Begun first, so that both commands are in one pipeline. Two coroutines in one gather would be two tasks.
        telling = asyncio.gather(self._tell_of(self._tell, event), return_exceptions=True)
        try:
            result = await self._publish_one(event)
        finally:
            [told] = await telling
        if told is not None:
            raise told
        return result

    @staticmethod
    async def _tell_of(tell: TellOf, event: PendingEvent) -> None:
        try:
            await tell(event)
        except RtError as refused:
            if refused.kind.retry:
                raise
            log.error("the back end cannot be told", extra={"id": event.id, "kind": event.kind, "why": refused.code})
        except Exception:
            log.exception("the back end cannot be told", extra={"id": event.id, "kind": event.kind})


# ── changes that take access away ────────────────────────────────────────────────────────────────────────────────────


async def revoke_then_publish(
    revoke: Callable[[], Awaitable[object]], publish: Callable[[], Awaitable[Offset]]
) -> Offset:
    """Take the access that a change ends, then publish the change, which those who lost access must not see.

    Returns and raises what `publish` does. Raises UNAVAILABLE, with nothing published, if access could not be taken.
    """
    await _revoke(lambda _: revoke(), NO_OFFSET)
    return await publish()


async def publish_then_revoke(publish: Awaitable[Offset], revoke: Callable[[Offset], Awaitable[object]]) -> Offset:
    """Publish a change that takes access from somebody, then take the access, even if the event cannot be published.

    For events that those who lose access may still get; use `revoke_then_publish` for all others. `revoke(offset)`
    takes out everybody who may not be in the room any more once they were sent the event at the offset, or at once if
    there is no event. Returns and raises what `publish` does. Raises UNAVAILABLE if access could not be taken, whether
    or not the event was published; both must then be done again.
    """
    try:
        offset = await publish
    except Exception:
        await _revoke(revoke, NO_OFFSET)
        raise
    await _revoke(revoke, offset)
    return offset


async def _revoke(revoke: Callable[[Offset], Awaitable[object]], offset: Offset) -> None:
    try:
        await revoke(offset)
    except RtError as refused:
        if refused.code == "UNAVAILABLE":
            raise
        log.error("access could not be taken away; trying again", extra={"why": refused.code})
        raise RtError("UNAVAILABLE") from None
    except Exception:
        log.exception("access could not be taken away; trying again")
        raise RtError("UNAVAILABLE") from None

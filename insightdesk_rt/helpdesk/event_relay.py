"""Teller: turns stored changes into logged events, in order, once, also when the first attempt does not come through.

A change is stored before it is told, and its record goes with it (helpdesk/pending_events.py). So a handler may
answer its client as soon as the change is stored: the event may come late, but it comes. Who tells a change first
tells the older ones of the same subject; ids made of subject and number let the log drop what somebody else told
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import NO_OFFSET, Offset
from insightdesk_rt.helpdesk.pending_events import PendingEvent, PendingEvents

log = logging.getLogger(__name__)

Say = Callable[[PendingEvent], Awaitable[object]]
Close = Callable[[PendingEvent], Awaitable[object]]
Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class _Line:
    """A subject that is being told here, by several at once perhaps: they take turns, and say nothing twice.

    Without it each of n who speak at once in a conversation would tell what all n said. `said`: what `say` returned for
    the change `upto`. `failures`: who was waiting when one failed fails too, instead of waiting for the same in turn.
    """

    __slots__ = ("failures", "refusal", "said", "tellers", "turn", "upto")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.tellers = 0
        self.upto = 0
        self.said: Any = None
        self.failures = 0
        self.refusal: RtError | None = None


class _Published(NamedTuple):
    """How far a caller got; `refusal` and `id` say why, and with which change, not to the end."""

    upto: int
    said: Any
    refusal: RtError | None = None
    id: str = ""


class EventRelay:
    """`say` makes one change known (it logs the event under `change.id`); `spawn` runs what nobody waits for.

    `close` takes the access that a change ends. `say` does so too: `close` is for changes that must wait, as one before
    them cannot be told. What it cannot do now is done when the change is said.
    """

    def __init__(self, store: PendingEvents, say: Say, spawn: Spawn, close: Close | None = None) -> None:
        self._store = store
        self._say = say
        self._spawn = spawn
        self._close = close
        self._lines: dict[str, _Line] = {}

    async def tell(self, changes: Collection[PendingEvent]) -> None:
        """Make the changes known; subjects side by side, those of one subject in order. Raises nothing.

        What Valkey does not take now stays untold, and the node that leads tells it later.
        """
        subjects: dict[str, list[PendingEvent]] = {}
        for change in changes:
            subjects.setdefault(change.subject, []).append(change)
        done = await asyncio.gather(*(self._tell(those) for those in subjects.values()))
        self._forget({subject: told.upto for subject, told in zip(subjects, done, strict=True) if told.upto})
        for told in done:
            if told.refusal:
                log.log(told.refusal.log_level, "an event is late", extra={"id": told.id, "why": told.refusal.code})

    async def tell_or_raise(self, changes: Sequence[PendingEvent]) -> Any:
        """Make changes of one subject known, and return what `say` returned for the last one, or for a later one.

        For who may answer only after that: a back end that is told of a failure sends the same again. Raises RtError
        UNAVAILABLE; what was not told stays untold.
        """
        if not changes:
            return None
        told = await self._tell(changes)
        if told.upto:
            self._forget({changes[0].subject: told.upto})
        if told.refusal:
            why = told.refusal  # others may be told the same
            raise RtError(why.code, why.message, **why.fields)
        return told.said

    async def tell_overdue(self) -> None:
        """Make known what others left untold. For the node that leads, every second or so."""
        await self.tell(await self._store.overdue())

    def _forget(self, upto: dict[str, int]) -> None:
        if upto:
            self._spawn(self._store.told(upto), "saying what was told")

    async def _tell(self, changes: Sequence[PendingEvent]) -> _Published:
        """Tell changes of one subject when it is this caller's turn."""
        subject = changes[0].subject
        line = self._lines.get(subject)
        if line is None:
            line = self._lines[subject] = _Line()
        failures = line.failures
        line.tellers += 1
        try:
            async with line.turn:
                upto = 0
                for number, change in enumerate(changes):
                    new = change.seq > line.upto
                    if new and (line.failures != failures or not await self._said(line, change)):
                        await self._close_all(changes[number:])
                        return _Published(upto, None, line.refusal, change.id)
                    upto = change.seq
                return _Published(upto, line.said)
        finally:
            line.tellers -= 1
            if not line.tellers:
                del self._lines[subject]

    async def _close_all(self, changes: Sequence[PendingEvent]) -> None:
        """Take the access that these end, although they are not told yet."""
        for change in changes if self._close else ():
            assert self._close is not None
            try:
                await self._close(change)
            except RtError as refused:
                log.warning("access is taken late", extra={"id": change.id, "why": refused.code})
                return
            except Exception:
                log.exception("access is taken late", extra={"id": change.id})
                return

    async def _said(self, line: _Line, change: PendingEvent) -> bool:
        """Return whether the change is behind us; if not, the line says why."""
        try:
            line.said = await self._say(change)
        except RtError as refused:
            if refused.kind.retry:
                line.failures += 1
                line.refusal = refused
                return False
            # It would be refused each time, and hold up what comes after it.
            log.error("an event cannot be told", extra={"id": change.id, "kind": change.kind, "why": refused.code})
        except Exception:
            log.exception("an event cannot be told", extra={"id": change.id, "kind": change.kind})
        line.upto = change.seq
        return True


async def close_and_tell(close: Callable[[], Awaitable[object]], tell: Callable[[], Awaitable[Offset]]) -> Offset:
    """Take the access that a change ends, then tell of the change: it may hold what is not for those who lost access.

    Returns what `tell` returns and raises what it raises; UNAVAILABLE, with nothing told, if access could not be taken.
    """
    await _close(lambda _: close(), NO_OFFSET)
    return await tell()


async def tell_and_close(tell: Awaitable[Offset], close: Callable[[Offset], Awaitable[object]]) -> Offset:
    """Tell of a change that takes access from somebody, and take it: also if it cannot be told.

    For events that those who lose access may hear; see `close_and_tell` for all others.
    `close(offset)` takes out who may not be in the room any more, once they were sent the event at the offset; without
    an event, at once. Returns what `tell` returns and raises what it raises; UNAVAILABLE if access could not be taken,
    whatever became of the telling: then both must be done again.
    """
    try:
        offset = await tell
    except Exception:
        await _close(close, NO_OFFSET)
        raise
    await _close(close, offset)
    return offset


async def _close(close: Callable[[Offset], Awaitable[object]], offset: Offset) -> None:
    try:
        await close(offset)
    except RtError as refused:
        if refused.code == "UNAVAILABLE":
            raise
        log.error("access could not be taken away; trying again", extra={"why": refused.code})
        raise RtError("UNAVAILABLE") from None
    except Exception:
        log.exception("access could not be taken away; trying again")
        raise RtError("UNAVAILABLE") from None

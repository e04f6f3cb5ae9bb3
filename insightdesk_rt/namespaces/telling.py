"""Teller: turns stored changes into logged events, in order, once, also when the first attempt does not come through.

A change is stored before it is told, and its record goes with it (stores/untold.py). So a handler may answer its client
as soon as the change is stored: the event may come late, but it comes. Who tells a change first tells the older ones of
the same subject; ids made of subject and number let the log drop what somebody else told meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

from insightdesk_rt.errors import RtError
from insightdesk_rt.stores.untold import Untold, UntoldChanges

log = logging.getLogger(__name__)

Say = Callable[[Untold], Awaitable[object]]
Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class Teller:
    """`say` makes one change known (it logs the event under `change.id`); `spawn` runs what nobody waits for."""

    def __init__(self, store: UntoldChanges, say: Say, spawn: Spawn) -> None:
        self._store = store
        self._say = say
        self._spawn = spawn

    async def tell(self, changes: Collection[Untold]) -> None:
        """Make the changes known; subjects side by side, those of one subject in order. Raises nothing.

        What Valkey does not take now stays untold, and the node that leads tells it later.
        """
        if not changes:
            return
        subjects: dict[str, list[Untold]] = {}
        for change in changes:
            subjects.setdefault(change.subject, []).append(change)
        upto = await asyncio.gather(*(self._tell(those) for those in subjects.values()))
        told = {subject: seq for subject, seq in zip(subjects, upto, strict=True) if seq}
        if told:
            self._spawn(self._store.told(told), "saying what was told")

    async def tell_or_raise(self, changes: Collection[Untold]) -> Any:
        """Make changes of one subject known, and return what `say` returned for the last one.

        For who may answer only after that: a back end that is told of a failure sends the same again. Raises RtError
        UNAVAILABLE; what was not told stays untold.
        """
        said = None
        for change in changes:
            try:
                said = await self._say(change)
            except RtError as refused:
                if refused.kind.retry:
                    raise
                log.error("an event cannot be told", extra={"id": change.id, "kind": change.kind, "why": refused.code})
        upto = {change.subject: change.seq for change in changes}
        if upto:
            self._spawn(self._store.told(upto), "saying what was told")
        return said

    async def tell_overdue(self) -> None:
        """Make known what others left untold. For the node that leads, every second or so."""
        await self.tell(await self._store.overdue())

    async def _tell(self, changes: list[Untold]) -> int:
        """Return the number of the last one told, 0 for none."""
        upto = 0
        for change in changes:
            try:
                await self._say(change)
            except RtError as refused:
                if refused.kind.retry:
                    log.warning("an event is late", extra={"id": change.id, "kind": change.kind, "why": refused.code})
                    return upto
                # It would be refused each time, and hold up what comes after it.
                log.error("an event cannot be told", extra={"id": change.id, "kind": change.kind, "why": refused.code})
            except Exception:
                log.exception("an event cannot be told", extra={"id": change.id, "kind": change.kind})
            upto = change.seq
        return upto

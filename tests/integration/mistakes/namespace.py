"""Handlers with mistakes: one fails at once, one after it has waited, and one works."""

from __future__ import annotations

import asyncio

from insightdesk_rt.engine.dispatch.namespace import Namespace, Payload, event
from insightdesk_rt.engine.hub.socket import Socket


class Mistake(Payload):
    mark: str  # part of the error's text, so that the log can be searched for it


class Mistakes(Namespace):
    path = "/mistakes"

    @event("mistake:now")
    def now(self, socket: Socket, ask: Mistake) -> None:
        raise ZeroDivisionError(ask.mark)

    @event("mistake:later")
    async def later(self, socket: Socket, ask: Mistake) -> None:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError(ask.mark)

    @event("mistake:none")
    def none(self, socket: Socket, ask: Mistake) -> None:
        """A correct handler."""

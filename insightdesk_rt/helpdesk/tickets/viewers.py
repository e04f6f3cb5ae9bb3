"""Who looks at and who types on tickets: what this node knows of its own sockets, and how all nodes hear of it.

Facts for all nodes lie in helpdesk/viewer_store.py. What should lie there follows from the state here alone, so a
write that failed is simply made again. `ticket:viewers` is the whole list, read a moment after a change and not with
it: of two changes at once on two nodes the list that arrives last then holds both. Typing: typing.py.

A user with two tabs looks as long as one does. A view belongs to a socket, not to its sid: a session that comes back
has the same sid, and may be here before its old socket's end is told. A node that stops takes nobody off: its clients
are on their way to other nodes, and those do it after a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import ClassVar, NamedTuple

from insightdesk_rt.engine.dispatch.namespace import Namespace, Outbound
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Named, Person, Sid, ticket_room, ticket_staff_room
from insightdesk_rt.helpdesk.pages import fitting
from insightdesk_rt.helpdesk.typing_indicators import TYPING_MS, ShownTyping, TypingIndicators
from insightdesk_rt.helpdesk.viewer_store import Viewer, ViewerStore, ViewState

SETTLE_MS = 200  # many times what a message between two nodes takes, and too short to be missed
RETRY_MS = 1_000
BATCH = 500  # views per pipeline: some 20 ms, in which other commands wait
PARTS = 16  # of a page, is what a list of viewers may have: some 130 with usual names
GRACE_MS = 2_000  # a page reloads in one or two seconds; nobody should see its reader vanish and come back


class TicketTyping(Outbound):
    event: ClassVar[str] = "ticket:typing"
    ticketId: str
    user: Person


class TicketStopTyping(Outbound):
    """A customer is named by `customerId` where ids are separate."""

    event: ClassVar[str] = "ticket:stopTyping"
    ticketId: str
    userId: str = ""
    customerId: str = ""


def stop_typing(ticket_id: str, who: Named) -> TicketStopTyping:
    return TicketStopTyping(ticket_id, who.user_id, who.customer_id)


# In another tab of the same user it is shown.
SHOWN = ShownTyping(TicketTyping, stop_typing, ticket_room, lambda key, sid: (sid,) if sid else ())


class TicketViewers(Outbound):
    """All who look at the ticket; for staff. `more`: they are too many for one list, which has those who came first."""

    event: ClassVar[str] = "ticket:viewers"
    ticketId: str
    viewers: list[Viewer]
    more: bool = False


class Here(NamedTuple):
    """Who looks and who types. `more`: they are not all."""

    viewers: list[Viewer]
    typing: list[Person]
    more: bool


class ViewedTicket(NamedTuple):
    socket: Socket  # whose end ends it
    person: Person
    state: ViewState


class ViewerTracker:
    def __init__(self, namespace: Namespace, store: ViewerStore, typing_ms: int = TYPING_MS) -> None:
        self._namespace = namespace
        self._store = store
        self._views: dict[tuple[Sid, str], ViewedTicket] = {}
        self.typing = TypingIndicators(namespace, store, SHOWN, typing_ms)
        self._settling: set[str] = set()

    async def live(self, ticket_id: str) -> Here:
        """Return who looks and types, on all nodes, as far as they fit into a list. Raises RtError UNAVAILABLE."""
        live = await self._store.live(ticket_id)
        limit_bytes = self._namespace.hub.page_bytes // PARTS
        viewers, more_viewers = fitting(live.viewers, limit_bytes)
        typing, more_typing = fitting(live.typing, limit_bytes)
        return Here(viewers, typing, more_viewers or more_typing)

    # ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def view(self, socket: Socket, ticket_id: str, state: ViewState | None = None) -> None:
        """The socket looks at the ticket. Without a state: as it did before, or `viewing`.

        One that went while it was let in joined nothing that its end could take back, and looks at nothing.
        """
        if socket.gone:
            return
        before = self._views.get((socket.sid, ticket_id))
        state = state or (before.state if before else "viewing")
        self._views[socket.sid, ticket_id] = ViewedTicket(socket, socket.user.person, state)
        await self._settle(socket.sid, ticket_id)

    def leave(self, socket: Socket, ticket_id: str) -> None:
        """The socket is out of the ticket: it neither looks nor types there."""
        self.typing.stop(socket, ticket_id)
        self._stop_viewing(socket, [ticket_id])

    def socket_left(self, socket: Socket, ticket_ids: Collection[str], may_return: bool) -> None:
        """The socket is gone. It types no more; it still looks for a moment, if it may come back."""
        for ticket_id in ticket_ids:
            self.typing.stop(socket, ticket_id)
        if may_return:
            self._namespace.later(("gone", socket), GRACE_MS, self._stop_viewing, socket, list(ticket_ids))
        else:
            self._stop_viewing(socket, ticket_ids)

    def socket_returned(self, socket: Socket, ticket_ids: Collection[str]) -> None:
        """A session that came back looks on, in the socket that it has now."""
        for ticket_id in ticket_ids:
            if view := self._views.get((socket.sid, ticket_id)):
                self._views[socket.sid, ticket_id] = view._replace(socket=socket)

    def _stop_viewing(self, socket: Socket, ticket_ids: Collection[str]) -> None:
        for ticket_id in ticket_ids:
            view = self._views.get((socket.sid, ticket_id))
            if view is not None and view.socket is socket:
                del self._views[socket.sid, ticket_id]
                self._namespace.spawn(self._settle(socket.sid, ticket_id), "leaving a ticket")

    async def _settle(self, sid: Sid, ticket_id: str) -> None:
        """Make the store say of this socket and ticket what is true here; if it cannot now, in a second."""
        try:
            await self._put(sid, ticket_id)
        except RtError:
            self._namespace.later(("settle", sid, ticket_id), RETRY_MS, self._settle_again, sid, ticket_id)

    async def _put(self, sid: Sid, ticket_id: str) -> None:
        view = self._views.get((sid, ticket_id))
        if view is None:
            changed = await self._store.leave(ticket_id, sid)
        else:
            changed = await self._store.view(ticket_id, sid, view.person, view.state)
        if changed:
            self._viewers_changed(ticket_id, SETTLE_MS)

    def _settle_again(self, sid: Sid, ticket_id: str) -> None:
        self._namespace.spawn(self._settle(sid, ticket_id), "settling a viewer")

    def _viewers_changed(self, ticket_id: str, delay_ms: int) -> None:
        if ticket_id not in self._settling:  # not put off by each further change
            self._settling.add(ticket_id)
            self._namespace.later(("viewers", ticket_id), delay_ms, self._publish_viewers, ticket_id)

    def _publish_viewers(self, ticket_id: str) -> None:
        self._settling.discard(ticket_id)
        self._namespace.spawn(self._read_and_publish(ticket_id), "publishing viewers")

    async def _read_and_publish(self, ticket_id: str) -> None:
        try:
            live = await self.live(ticket_id)
        except RtError:
            self._viewers_changed(ticket_id, RETRY_MS)
        else:
            self._namespace.publish(TicketViewers(ticket_id, live.viewers, live.more), ticket_staff_room(ticket_id))

    # ── nodes come and go ──────────────────────────────────────────────────────────────────────────────────────────

    async def re_register(self) -> None:
        """Put down again all who look from here: Valkey lost it, or the others had declared this node dead.

        Raises RtError UNAVAILABLE: call it again.
        """
        todo = tuple(self._views)
        for start in range(0, len(todo), BATCH):
            await asyncio.gather(*(self._put(sid, ticket_id) for sid, ticket_id in todo[start : start + BATCH]))

    async def node_lost(self, node: str) -> None:
        """Take off and tell what the sockets of a node did that died or stopped, once they had time to come back here.

        Raises RtError UNAVAILABLE: call it again.
        """
        over = asyncio.Event()
        self._namespace.later(over, GRACE_MS, over.set)
        await over.wait()
        async for batch in self._store.drop_node(node):
            await asyncio.gather(*(self._publish_after_drop(ticket_id, typing) for ticket_id, typing in batch.items()))

    async def _publish_after_drop(self, ticket_id: str, typing: list[str]) -> None:
        live = await self._store.live(ticket_id)
        viewers, more = fitting(live.viewers, self._namespace.hub.page_bytes // PARTS)
        self._namespace.publish(TicketViewers(ticket_id, viewers, more), ticket_staff_room(ticket_id))
        self.typing.stopped_on_lost_node(ticket_id, typing, live.typing)

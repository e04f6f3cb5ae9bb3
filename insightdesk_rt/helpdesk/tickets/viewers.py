"""Viewers: who views a ticket in the sockets of this node, and how the other nodes and the staff see it.

viewer_store.py holds the facts of all nodes. What it should hold follows from the state here alone, so a write that
failed is simply repeated. `ticket:viewers` is the whole list, read a moment after a change and not together with it: if
two nodes change it at once, the list that arrives last then has both changes. For typing see typing_indicators.py.

A user with two tabs views a ticket as long as one tab does. A view belongs to a socket, not to its sid: a session that
comes back has the same sid, and may be here before its old socket has left. A node that stops removes nobody: its
clients are on their way to other nodes, which clear its entries after a moment.
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

SETTLE_MS = 200  # many times what a message between two nodes takes, and too short to be noticed
RETRY_MS = 1_000
BATCH = 500  # views per pipeline: some 20 ms in which other commands wait
PARTS = 16  # a list of viewers may have this fraction of `page_bytes`: some 130 people with usual names
GRACE_MS = 2_000  # a page reloads in one or two seconds, and its viewer should not vanish and come back


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


# The user's other tabs get it.
SHOWN = ShownTyping(TicketTyping, stop_typing, ticket_room, lambda key, sid: (sid,) if sid else ())


class TicketViewers(Outbound):
    """All viewers of the ticket; for staff. `more`: there are more than fit, and the list has those who came first."""

    event: ClassVar[str] = "ticket:viewers"
    ticketId: str
    viewers: list[Viewer]
    more: bool = False


class Here(NamedTuple):
    """Viewers and typing users. `more`: the lists are not complete."""

    viewers: list[Viewer]
    typing: list[Person]
    more: bool


class ViewedTicket(NamedTuple):
    socket: Socket  # the view ends when this socket leaves
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
        """Return viewers and typing users of all nodes, as many as fit into a list. Raises RtError UNAVAILABLE."""
        live = await self._store.live(ticket_id)
        limit_bytes = self._namespace.hub.page_bytes // PARTS
        viewers, more_viewers = fitting(live.viewers, limit_bytes)
        typing, more_typing = fitting(live.typing, limit_bytes)
        return Here(viewers, typing, more_viewers or more_typing)

    # ── viewing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def view(self, socket: Socket, ticket_id: str, state: ViewState | None = None) -> None:
        """Store that the socket views the ticket. Without a state: in its last state, or `viewing`.

        A socket that left while it was being let in is ignored, because no later `leave` would undo this.
        """
        if socket.gone:
            return
        before = self._views.get((socket.sid, ticket_id))
        state = state or (before.state if before else "viewing")
        self._views[socket.sid, ticket_id] = ViewedTicket(socket, socket.user.person, state)
        await self._settle(socket.sid, ticket_id)

    def leave(self, socket: Socket, ticket_id: str) -> None:
        """The socket closed the ticket: it neither views it nor types there any more."""
        self.typing.stop(socket, ticket_id)
        self._stop_viewing(socket, [ticket_id])

    def socket_left(self, socket: Socket, ticket_ids: Collection[str], may_return: bool) -> None:
        """The socket left. It stops typing. If it may come back, it stays a viewer for a moment."""
        for ticket_id in ticket_ids:
            self.typing.stop(socket, ticket_id)
        if may_return:
            self._namespace.later(("gone", socket), GRACE_MS, self._stop_viewing, socket, list(ticket_ids))
        else:
            self._stop_viewing(socket, ticket_ids)

    def socket_returned(self, socket: Socket, ticket_ids: Collection[str]) -> None:
        """A session was resumed: it goes on viewing in this socket."""
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
        """Store the state of this socket in this ticket. If Valkey is unreachable, try again in a second."""
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
        if ticket_id not in self._settling:  # further changes must not postpone it
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

    # ── nodes come and go ────────────────────────────────────────────────────────────────────────────────────────────

    async def re_register(self) -> None:
        """Store again all views of this node: Valkey lost them, or the other nodes had declared this node dead.

        Raises RtError UNAVAILABLE: call it again.
        """
        todo = tuple(self._views)
        for start in range(0, len(todo), BATCH):
            await asyncio.gather(*(self._put(sid, ticket_id) for sid, ticket_id in todo[start : start + BATCH]))

    async def node_lost(self, node: str) -> None:
        """Remove and publish what the sockets of a lost node did, after a moment in which they may come back here.

        Raises RtError UNAVAILABLE: call it again.
        """
        ended = asyncio.Event()
        self._namespace.later(ended, GRACE_MS, ended.set)
        await ended.wait()
        async for batch in self._store.drop_node(node):
            await asyncio.gather(*(self._publish_after_drop(ticket_id, typing) for ticket_id, typing in batch.items()))

    async def _publish_after_drop(self, ticket_id: str, typing: list[str]) -> None:
        live = await self._store.live(ticket_id)
        viewers, more = fitting(live.viewers, self._namespace.hub.page_bytes // PARTS)
        self._namespace.publish(TicketViewers(ticket_id, viewers, more), ticket_staff_room(ticket_id))
        self.typing.stopped_on_lost_node(ticket_id, typing, live.typing)

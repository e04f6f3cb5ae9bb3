"""Signed passes: a token of the back end that lets one user open some tickets for a while, without asking anybody.

    {"sub": "ann", "rooms": ["ticket:42"], "exp": 1795401000}

A socket that opened a ticket with a pass stays in it until the pass ends, whatever the access check says. It is out
earlier when the ticket is deleted, or when the user's session ends. This file knows which sockets of this node hold
passes for which tickets; the namespace takes them out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, UserKeys, ticket_room
from insightdesk_rt.engine.tokens import Pass

VerifyPass = Callable[[str, User], Pass]


class TicketPasses:
    """`verify` returns a pass that is valid now and not revoked. Raises RtError AUTH_*; None: there are no passes."""

    def __init__(self, verify: VerifyPass | None = None) -> None:
        self.verify = verify
        self._until_s: dict[Socket, dict[str, int]] = {}

    def show(self, socket: Socket, ticket_id: str, text: str) -> int:
        """Note that a socket shows a pass for a ticket. Returns until when it holds, in Unix seconds.

        Raises RtError AUTH_*, FORBIDDEN (for another user or ticket).
        """
        if self.verify is None:
            raise RtError("FORBIDDEN", "Passes are not accepted here.", ticketId=ticket_id)
        shown, user = self.verify(text, socket.user), socket.user
        if user.separate_ids and not shown.role:
            raise RtError("FORBIDDEN", "The pass needs the claim role: ids are separate.", ticketId=ticket_id)
        if UserKeys(user.separate_ids).of(shown.sub, shown.role or user.role) != user.key:
            raise RtError("FORBIDDEN", "The pass is for another user.", ticketId=ticket_id)
        if ticket_room(ticket_id) not in shown.rooms:
            raise RtError("FORBIDDEN", f"The pass does not name {ticket_room(ticket_id)}.", ticketId=ticket_id)
        self._until_s.setdefault(socket, {})[ticket_id] = shown.expires_s
        return shown.expires_s

    def holds(self, socket: Socket, ticket_id: str) -> bool:
        return ticket_id in self._until_s.get(socket, ())

    def left_s(self, socket: Socket, ticket_id: str, now_s: float) -> float | None:
        """Return for how long the socket's pass for a ticket holds; None if it has none."""
        until_s = self._until_s.get(socket, {}).get(ticket_id)
        return None if until_s is None else until_s - now_s

    def drop(self, socket: Socket, ticket_id: str) -> bool:
        """Forget the socket's pass for a ticket. Returns whether it had one."""
        held = self._until_s.get(socket)
        if held is None or held.pop(ticket_id, None) is None:
            return False
        if not held:
            del self._until_s[socket]
        return True

    def unused(self, socket: Socket) -> list[str]:
        """Return the tickets for which the socket has a pass and that it has not open: its call may have failed."""
        return [one for one in self._until_s.get(socket, ()) if ticket_room(one) not in socket.rooms]

    def left(self, socket: Socket) -> Collection[str]:
        """Forget all passes of a socket that has ended. Returns their tickets."""
        return self._until_s.pop(socket, {})

"""The demo's back end. It has the tickets with their texts in memory, changes them through the methods that the admin
port calls, and makes tokens for the visitor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import UNSET, Raw

from insightdesk_rt.demo.cast import ADA, AGENTS, EVERYBODY, FRESH_IDS, MIA, MINE, NORA, TEAM, TICKETS, Opening, Who
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import iso, new_id
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.notifications.store import Content
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from insightdesk_rt.helpdesk.tickets.store import (
    PRIORITIES,
    STATUSES,
    Actor,
    Comment,
    Priority,
    TicketChange,
    TicketStatus,
)

TOKEN_S = 3600
KEPT_COMMENTS = 30
KEPT_PUSHED = 100
OWN_IDS = frozenset({*FRESH_IDS, *(opening.id for opening in TICKETS)})
VISITOR = {"agent": NORA, "customer": MIA}

Sign = Callable[[Mapping[str, Any]], str]


class Helpdesk:
    def __init__(self, tickets: Tickets, notifications: Notifications, sign: Sign) -> None:
        self._tickets = tickets
        self._notifications = notifications
        self._sign = sign
        self.rows: dict[str, dict[str, Any]] = {}  # the tickets as the page gets them
        # The same for tickets that somebody pushed through the admin port, newest last. The robots leave them alone.
        self._pushed: dict[str, dict[str, Any]] = {}

    def token(self, who: Who) -> str:
        claims = {"sub": who.id, "name": who.name, "role": who.role, "exp": int(time.time()) + TOKEN_S}
        return self._sign(claims if who.role == "customer" else {**claims, "teamId": TEAM})

    def as_seen(self) -> dict[str, Any]:
        """Return the data that the page shows first."""
        visitor = {"agent": NORA, "customer": MIA, "admin": ADA}
        return {
            "people": {name: {"token": self.token(who), "user": who._asdict()} for name, who in visitor.items()},
            "names": [{"id": who.id, "name": who.name} for who in EVERYBODY],
            "agents": [{"id": who.id, "name": who.name} for who in AGENTS],
            "mine": MINE,
            "tickets": [*self.rows.values(), *self._pushed.values()],
        }

    async def seed(self) -> None:
        """Create all tickets of the start. Idempotent. Raises RtError UNAVAILABLE."""
        for ticket_id in FRESH_IDS:  # left by an earlier run on the same data
            await self.remove(ticket_id)
        for opening in TICKETS:
            await self.open(opening)

    async def open(self, opening: Opening) -> None:
        assignee_id = opening.assignee.id if opening.assignee else None
        change = TicketChange(
            subject=opening.subject,
            status=opening.status,
            priority=opening.priority,
            requesterId=opening.requester.id,
            assigneeId=assignee_id,
            teamId=TEAM,
        )
        await self._tickets.apply(opening.id, change)
        self.rows[opening.id] = {
            "ticketId": opening.id,
            "subject": opening.subject,
            "status": opening.status,
            "priority": opening.priority,
            "requesterId": opening.requester.id,
            "assigneeId": assignee_id,
            "updatedAt": iso(int(time.time() * 1000)),
            "comments": [],
        }
        await self.comment(opening.requester, opening.id, opening.text)

    async def remove(self, ticket_id: str) -> None:
        self.rows.pop(ticket_id, None)
        try:
            await self._tickets.remove(ticket_id)
        except RtError as refused:
            if refused.code != "NOT_FOUND":
                raise

    async def comment(self, who: Who, ticket_id: str, text: str, note: bool = False) -> None:
        row = self._row(ticket_id)
        kind = "note" if note else "reply"
        comment = Comment(new_id(), cast(Any, kind), Actor(who.id, who.name), text)
        await self._tickets.comment(ticket_id, comment, False)
        if ticket_id in self._pushed:
            return  # its event comes back like everybody's
        at = iso(int(time.time() * 1000))
        author = {"id": who.id, "name": who.name}
        shown = {"id": comment.id, "kind": kind, "author": author, "excerpt": text, "createdAt": at}
        row["comments"] = [*row["comments"], shown][-KEPT_COMMENTS:]
        row["updatedAt"] = at

    async def change(self, who: Who, ticket_id: str, status: str = "", priority: str = "") -> None:
        """Set what is given. Raises RtError BAD_REQUEST for an unknown status or priority."""
        row = self._row(ticket_id)
        if (status and status not in STATUSES) or (priority and priority not in PRIORITIES):
            raise RtError("BAD_REQUEST", "There is no such status or priority.")
        change = TicketChange(
            status=cast(TicketStatus, status) if status else UNSET,
            priority=cast(Priority, priority) if priority else UNSET,
            by=Actor(who.id, who.name),
        )
        await self._tickets.apply(ticket_id, change)
        if ticket_id in self._pushed:
            return  # its event comes back like everybody's
        row |= {"status": status or row["status"], "priority": priority or row["priority"]}
        row["updatedAt"] = iso(int(time.time() * 1000))

    # ── tickets that somebody else pushed ────────────────────────────────────────────────────────────────────────────

    def pushed(self, ticket: Mapping[str, Any]) -> bool:
        """Add a ticket that was created; return whether it is not the demo's own, and new here."""
        ticket_id = ticket["ticketId"]
        if ticket_id in OWN_IDS or ticket_id in self._pushed:
            return False
        self._pushed[ticket_id] = {**ticket, "comments": []}
        while len(self._pushed) > KEPT_PUSHED:
            del self._pushed[next(iter(self._pushed))]
        return True

    def changed(self, ticket_id: str, changes: Mapping[str, Any], at: str) -> None:
        if row := self._pushed.get(ticket_id):
            row |= {field: now for field, (_, now) in changes.items()}
            row["updatedAt"] = at

    def commented(self, ticket_id: str, comment: Mapping[str, Any]) -> None:
        if row := self._pushed.get(ticket_id):
            row["comments"] = [*row["comments"], comment][-KEPT_COMMENTS:]
            row["updatedAt"] = comment["createdAt"]

    def gone(self, ticket_id: str) -> None:
        self._pushed.pop(ticket_id, None)

    def cut(self, ticket_id: str) -> None:
        """Remove all comments of a ticket but the first."""
        if row := self.rows.get(ticket_id):
            row["comments"] = row["comments"][:1]

    async def notify(self, user_id: str, type: str, title: str, body: str, ticket_id: str) -> None:
        data = Raw(json.dumps({"ticketId": ticket_id}).encode())
        await self._notifications.push([user_id], Content(new_id(), type, title, body, data=data))

    def _row(self, ticket_id: str) -> dict[str, Any]:
        row = self.rows.get(ticket_id) or self._pushed.get(ticket_id)
        if row is None:
            raise RtError("NOT_FOUND")
        return row

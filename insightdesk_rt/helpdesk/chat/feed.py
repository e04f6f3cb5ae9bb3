"""Which event of the chat goes to whom.

chat:message  chat:read       everybody who has the conversation open
chat:presence
chat:accepted  chat:closed    also all devices of its customer and of its agent
chat:idleWarning  chat:rated
chat:transferred              the same, the old and the new agent. Its note goes to the staff who have the conversation
                              open after it, and to the new agent
chat:queue                    the staff who may take it: the team and admins; without a team all agents. Never a
                              customer, whatever team a token names
chat:conversation             all devices of its customer, when it begins

Agents get an event of their own that leaves out customers, because a customer may have the same id as an agent.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.dispatch.namespace import Namespace
from insightdesk_rt.engine.model import (
    NO_OFFSET,
    Event,
    Named,
    Offset,
    Person,
    Room,
    UserKeys,
    chat_room,
    chat_staff_room,
    role_room,
    team_room,
    user_room,
)
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.chat import events as out
from insightdesk_rt.helpdesk.chat.conversation import Message, Reason, State
from insightdesk_rt.helpdesk.pending_events import PendingEvent

CUSTOMERS = role_room("customer")
STAFF = (role_room("agent"), role_room("admin"))


class ChatFact(Struct, gc=False):
    """The data of a pending event (`report` in chat_lib.lua): the conversation then, who changed it, and more."""

    conversationId: str
    customerId: str
    teamId: str
    at: int
    byId: str
    byName: str
    agentId: str = ""
    agentName: str = ""
    customerName: str = ""
    subject: str = ""
    preview: str = ""
    queuedAt: int = 0
    waitingSince: int = 0
    fromId: str = ""
    fromName: str = ""
    note: str = ""
    state: State = "waiting"
    reason: Reason = "agent"
    userId: str = ""
    side: Literal["", "customer", "agent"] = ""  # whose id `userId` is
    upTo: int = 0
    online: bool = False
    score: int = 0
    comment: str = ""
    closesAt: int = 0


_fact = msgspec.json.Decoder(ChatFact)
_message = msgspec.json.Decoder(Message)


class ChatFeed:
    def __init__(self, namespace: Namespace, keys: UserKeys = UserKeys()) -> None:
        self._namespace = namespace
        self._keys = keys

    async def publish(self, change: PendingEvent, agent_id: str = "") -> Offset:
        """Log the events of one change, under ids made of its id. Returns the last offset. Raises RtError.

        `agent_id` is the agent who has the conversation now; only a transfer needs it.
        """
        hub, offset = self._namespace.hub, NO_OFFSET
        for event in self.events(change, agent_id):
            offset = await hub.emit(event.namespace, event.rooms, event.name, event.payload, event.skip, event.id)
        return offset

    def events(self, change: PendingEvent, agent_id: str = "") -> list[Event]:
        """Return the events of one change in order. `agent_id`: see `publish`."""
        if change.kind == "message":
            m = json.decode(_message, change.data)
            message = out.ChatMessage(change.subject, m.id, out.at(m.at), m.author, m.text, m.clientId)
            return [self._event(message, chat_room(change.subject), id=change.id)]
        if change.kind == "place":  # from an older version of this server, which logged it
            return []
        if change.kind == "transferred":
            return self._transferred(json.decode(_fact, change.data), change.id, agent_id)
        make: Any = getattr(self, "_" + change.kind)
        events: list[Event] = make(json.decode(_fact, change.data), change.id)
        return events

    def _started(self, fact: ChatFact, id: str) -> list[Event]:
        customer, read = out.ChatMember(fact.customerId, fact.customerName, True), {"customer": 0, "agent": 0}
        seen = out.ConversationView(fact.conversationId, "waiting", customer, out.at(fact.at), 0, read)
        seen.subject, seen.teamId = fact.subject, fact.teamId
        return [self._event(out.ChatOpened(seen), self._customer_room(fact), id=id)]

    def _queued(self, fact: ChatFact, id: str) -> list[Event]:
        since = out.at(fact.waitingSince)
        customer = Person(fact.customerId, fact.customerName)  # type: ignore[arg-type]
        entry = out.QueueEntry(
            fact.conversationId, customer, out.at(fact.queuedAt), since, fact.teamId, fact.subject, fact.preview
        )
        return [self._event(out.ChatQueue(added=[entry]), *takers(fact.teamId), skip=(CUSTOMERS,), id=id)]

    def _dequeued(self, fact: ChatFact, id: str) -> list[Event]:
        gone = out.ChatQueue(removed=[fact.conversationId])
        return [self._event(gone, *takers(fact.teamId), skip=(CUSTOMERS,), id=id)]

    def _accepted(self, fact: ChatFact, id: str) -> list[Event]:
        taken = out.ChatTaken(fact.conversationId, Person(fact.agentId, fact.agentName), out.at(fact.at))  # type: ignore[arg-type]
        return self._to_members(taken, fact, id)

    def _transferred(self, fact: ChatFact, id: str, agent_id: str) -> list[Event]:
        """Log a transfer. The caller has already removed users without access, so the staff room may get the note.

        A user's own room may be that of an agent who lost access, so its devices get the event without the note.
        Devices that have the conversation open get it through the staff room. The same holds for the new agent, if a
        later transfer took the conversation away before this one was published.
        """
        moved = out.ChatTransferred(
            fact.conversationId,
            fact.state,
            out.at(fact.at),
            out.person(fact.agentId, fact.agentName),
            fact.teamId,
            out.person(fact.fromId, fact.fromName),
            out.person(fact.byId, fact.byName),
        )
        staff = chat_staff_room(fact.conversationId)
        new = [user_room(self._keys.staff(fact.agentId))] if fact.agentId and fact.agentId == agent_id else []
        whole = msgspec.structs.replace(moved, note=fact.note)
        events = [self._event(whole, staff, *new, skip=(CUSTOMERS,), id=id + ".staff")]
        others = [user_room(self._keys.staff(agent)) for agent in (fact.fromId, fact.agentId) if agent]
        if others := [room for room in others if room not in new]:
            events.append(self._event(moved, *others, skip=(staff, CUSTOMERS), id=id + ".agents"))
        return [*events, self._event(moved, *self._customer_rooms(fact), skip=STAFF, id=id)]

    def _closed(self, fact: ChatFact, id: str) -> list[Event]:
        by = out.person(fact.byId, fact.byName)
        closed = out.ChatClosed(fact.conversationId, fact.reason, out.at(fact.at), by)
        return self._to_members(closed, fact, id)

    def _rated(self, fact: ChatFact, id: str) -> list[Event]:
        return self._to_members(out.ChatRated(fact.conversationId, fact.score, fact.comment), fact, id)

    def _warned(self, fact: ChatFact, id: str) -> list[Event]:
        return self._to_members(out.IdleWarning(fact.conversationId, out.at(fact.closesAt)), fact, id)

    def _read(self, fact: ChatFact, id: str) -> list[Event]:
        who = self._named(fact)
        read = out.ReadUpTo(
            conversationId=fact.conversationId, userId=who.user_id, customerId=who.customer_id, upTo=fact.upTo
        )
        return [self._event(read, chat_room(fact.conversationId), id=id)]

    def _present(self, fact: ChatFact, id: str) -> list[Event]:
        room = chat_room(fact.conversationId)
        who = self._named(fact)
        present = out.PresentAgents(
            conversationId=fact.conversationId, userId=who.user_id, customerId=who.customer_id, online=fact.online
        )
        return [self._event(present, room, id=id)]

    def _named(self, fact: ChatFact) -> Named:
        return Named(fact.userId, self._keys.separate and fact.side == "customer")

    def _customer_room(self, fact: ChatFact) -> Room:
        return user_room(self._keys.customer(fact.customerId))

    def _customer_rooms(self, fact: ChatFact) -> list[Room]:
        """Return the room of all users who have it open, including agents, and the room of its customer's devices."""
        return [chat_room(fact.conversationId), self._customer_room(fact)]

    def _to_members(self, out: Any, fact: ChatFact, id: str) -> list[Event]:
        """Return an event for everybody who has it open and the customer's devices, after one for the agent's."""
        rooms, events = self._customer_rooms(fact), []
        if fact.agentId:
            agent = user_room(self._keys.staff(fact.agentId))
            events.append(self._event(out, agent, skip=(*rooms, CUSTOMERS), id=id + ".agent"))
        return [*events, self._event(out, *rooms, id=id)]

    def _event(self, out: Any, *rooms: Room, skip: Any = (), id: str) -> Event:
        return self._namespace.logged(out, *rooms, skip=skip, id=id)


def takers(team_id: str) -> list[Room]:
    """Return the rooms of the staff that may take a conversation waiting for this team."""
    return [team_room(team_id) if team_id else role_room("agent"), role_room("admin")]

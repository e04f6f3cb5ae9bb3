"""The helpdesk as admins see it: who is here, the chats and what may be done to them, the numbers of the dashboard.

GET  /api/v1/presence                    agents and admins by status; or `userIds=a,b`, whoever they are
GET  /api/v1/chats                       conversations of a state, to be paged through
GET  /api/v1/chats/{id}                  one of them
POST /api/v1/chats/{id}/close            end it, wait for another agent, give it to an agent: all whom it
                     …/requeue           concerns are told as if an admin had done it in a client
                     …/assign
GET  /api/v1/metrics/{which}             tickets, queue or agents, as on /dashboard
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.operation import Answer, Change, Query
from insightdesk_rt.api.paging import USUAL_LIMIT, Cursor, Limit, Page, Paged, make_cursor, read_cursor
from insightdesk_rt.api.whom import customer_of, keys_of, user_of
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import ConversationId, Refused, TeamIdText, UserIdText
from insightdesk_rt.engine.model import Role, Status, User, UserId, UserKeys, iso
from insightdesk_rt.helpdesk.chat.conversation import State
from insightdesk_rt.helpdesk.chat.events import ConversationView, view
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.dashboard.namespace import Dashboard
from insightdesk_rt.helpdesk.dashboard.stats import AgentMetrics, QueueMetrics, Stats, TicketMetrics
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.helpdesk.presence.store import KnownPresence, PresenceList, PresenceStore

BY_KEY = User(UserId("key:"), "admin", "Support")  # no user's id, and no key's; the audit log says which it was
STATUSES: tuple[Status, ...] = ("online", "busy", "away", "offline")


class Present(Struct):
    """`lastSeen` is null for one who is unknown; so are name, role and team. A customer where ids are separate has
    `customerId`, and null for `userId`."""

    userId: str | None
    name: str | None
    role: Role | None
    teamId: str | None
    status: Status
    lastSeen: str | None
    customerId: str | UnsetType = UNSET


class FindPresent(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[Limit | None, Meta(description="100, unless told otherwise; not with userIds")] = None
    cursor: Cursor = ""
    userIds: Annotated[
        list[str],
        Meta(
            max_length=500, description="all of these, on one page; given several times, each is one id, commas and all"
        ),
    ] = []
    customerIds: Annotated[
        list[str], Meta(max_length=500, description='the same of customers, with user_ids = "separate"')
    ] = []
    status: Status | Literal[""] = ""


class FoundPresent(Page[Present]):
    """Those of `userIds` and of `customerIds` that no user can have."""

    refused: list[Refused] = []
    refusedCustomers: list[Refused] = []


class FindChats(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: State = "waiting"


class Requeue(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    teamId: Annotated[TeamIdText | None, Meta(description="another team's queue")] = None


class Assign(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    agentId: UserIdText


class PresenceHandler(Handler):
    presence: PresenceStore
    keys: UserKeys

    @operation("viewer", query=FindPresent, answer=FoundPresent)
    async def get(self, query: FindPresent) -> Answer:
        """Who is here: those who are asked for, or all agents and admins that were here within 30 days."""
        if query.userIds or query.customerIds:
            for name, given in (("limit", query.limit), ("cursor", query.cursor)):
                if given:
                    raise RtError(
                        "BAD_REQUEST",
                        "It does not go with userIds or customerIds, who are all on one page.",
                        field=name,
                    )
            asked, refused, refused_customers = keys_of(self.keys, query.userIds, query.customerIds)
            found_now = await self.presence.known(asked)
            items = [_present(one) for one in found_now if query.status in ("", one.seen.status)]
            return Answer(FoundPresent(items, refused=refused, refusedCustomers=refused_customers))
        statuses = (query.status,) if query.status else STATUSES
        after, limit = read_cursor(query.cursor, PresenceList), query.limit or USUAL_LIMIT
        found = await self.presence.staff(statuses, limit + 1, after)
        shown = found[:limit]
        known = await self.presence.known([one.key for one in shown]) if shown else []
        cursor = make_cursor(*shown[-1]) if len(found) > limit else None
        return Answer(FoundPresent([_present(one) for one in known], cursor))


class ChatsHandler(Handler):
    chat: Chat

    @operation("viewer", query=FindChats, answer=Page[ConversationView])
    async def get(self, query: FindChats) -> Answer:
        """Conversations of a state: those that wait or are active from the oldest, closed ones from the newest."""
        after = read_cursor(query.cursor, tuple[int, str])
        found = await self.chat.store.listed(query.state, query.limit + 1, after)
        shown = found[: query.limit]
        last = shown[-1] if len(found) > query.limit else None
        cursor = make_cursor(last.at, last.conversation.id) if last is not None else None
        return Answer(Page([view(one.conversation, True) for one in shown], cursor))


class ChatHandler(Handler):
    chat: Chat

    @operation("viewer", answer=ConversationView, errors=("NOT_FOUND",))
    async def get(self, conversation_id: ConversationId) -> Answer:
        """One conversation, without what was said in it."""
        conversation = await self.chat.store.get(conversation_id)
        if conversation is None:
            raise RtError("NOT_FOUND", "There is no such conversation.")
        return Answer(view(conversation, True))


class ActingHandler(Handler):
    """What may be done to a conversation."""

    chat: Chat

    async def admin_of(self, conversation_id: str) -> User:
        """Return who asks, as the chat knows people. Raises RtError NOT_FOUND: no such conversation."""
        if await self.chat.store.get(conversation_id) is None:
            raise RtError("NOT_FOUND", "There is no such conversation.")
        return _as_user(self.asker)


class CloseHandler(ActingHandler):
    @operation("operator", body=Change, answer=ConversationView, action="chat.close", errors=("NOT_FOUND",))
    async def post(self, conversation_id: ConversationId, body: Change) -> Answer:
        """End a conversation; again is nothing."""
        user = await self.admin_of(conversation_id)
        return Answer(await self.chat.publish_change(await self.chat.store.close(user, conversation_id)))


class RequeueHandler(ActingHandler):
    @operation(
        "operator", body=Requeue, answer=ConversationView, action="chat.requeue", errors=("NOT_FOUND", "CONFLICT")
    )
    async def post(self, conversation_id: ConversationId, body: Requeue) -> Answer:
        """Let it wait for another agent, in the place it had; CONFLICT if it is closed, or nobody of that team here."""
        user = await self.admin_of(conversation_id)
        change = await self.chat.store.transfer(user, conversation_id, team_id=body.teamId or "", note=body.reason)
        return Answer(await self.chat.publish_change(change))


class AssignHandler(ActingHandler):
    @operation("operator", body=Assign, answer=ConversationView, action="chat.assign", errors=("NOT_FOUND", "CONFLICT"))
    async def post(self, conversation_id: ConversationId, body: Assign) -> Answer:
        """Give it to an agent; CONFLICT if that one is not in the chat now, or the conversation is closed."""
        user = await self.admin_of(conversation_id)
        change = await self.chat.store.transfer(user, conversation_id, agent_id=body.agentId, note=body.reason)
        return Answer(await self.chat.publish_change(change))


class TicketMetricsHandler(Handler):
    stats: Stats

    @operation("viewer", answer=TicketMetrics)
    async def get(self) -> Answer:
        """The tickets in numbers, as they are now."""
        return Answer((await self.stats.read()).tickets)


class QueueMetricsHandler(Handler):
    stats: Stats

    @operation("viewer", answer=QueueMetrics)
    async def get(self) -> Answer:
        """The chat queue in numbers, as it is now."""
        return Answer((await self.stats.read()).queue)


class AgentMetricsHandler(Handler):
    stats: Stats

    @operation("viewer", answer=AgentMetrics)
    async def get(self) -> Answer:
        """Agents by status, as it is now."""
        return Answer((await self.stats.read()).agents)


def helpdesk_routes(
    admin: Admin, features: Features, keys: UserKeys = UserKeys()
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application."""
    chat = {"admin": admin, "chat": features.of(Chat)}
    numbers = {"admin": admin, "stats": features.of(Dashboard).stats}
    return [
        (r"/api/v1/presence", PresenceHandler, {"admin": admin, "presence": features.of(Presence).store, "keys": keys}),
        (r"/api/v1/chats", ChatsHandler, chat),
        (r"/api/v1/chats/([^/]+)", ChatHandler, chat),
        (r"/api/v1/chats/([^/]+)/close", CloseHandler, chat),
        (r"/api/v1/chats/([^/]+)/requeue", RequeueHandler, chat),
        (r"/api/v1/chats/([^/]+)/assign", AssignHandler, chat),
        (r"/api/v1/metrics/tickets", TicketMetricsHandler, numbers),
        (r"/api/v1/metrics/queue", QueueMetricsHandler, numbers),
        (r"/api/v1/metrics/agents", AgentMetricsHandler, numbers),
    ]


def _present(known: KnownPresence) -> Present:
    seen = known.seen
    last = iso(seen.last_seen_ms) if seen.last_seen_ms else None
    return Present(
        user_of(seen.key),
        known.name or None,
        known.role,
        known.team_id or None,
        seen.status,
        last,
        customer_of(seen.key),
    )


def _as_user(who: Principal) -> User:
    """Return an admin of the port as the chat knows people. Customers are told: a key is nobody in particular."""
    return BY_KEY if who.is_key else User(UserId(who.name), "admin", who.name)

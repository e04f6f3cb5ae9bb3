"""The connections of all nodes: find and disconnect them.

    GET    /api/v1/connections                 open connections
    GET    /api/v1/connections/closed          closed connections, and why: the newest 1,000 of each node
    POST   /api/v1/connections/disconnect      disconnect all that match; `dryRun` counts them
    DELETE /api/v1/connections/{sid}           disconnect one

Without `reconnect` a client is told not to reconnect; a stock client then stays disconnected until its page is
reloaded. With `reconnect` the connection is closed and the client reconnects at once. Neither ends the user's token;
a revocation does.
"""

from __future__ import annotations

import heapq
from typing import Annotated, Any, Literal

from msgspec import Meta

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, BulkChange, Count, Query, Removal, given
from insightdesk_rt.api.paging import USUAL_LIMIT, Cursor, Limit, Page, Paged, cut, read_cursor
from insightdesk_rt.api.whom import key_of
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import RoomOrEmpty, SocketId, UserIdOrEmpty
from insightdesk_rt.engine.model import Role, UserKeys
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.views.clients import (
    AskClients,
    AskClosed,
    Closed,
    Connection,
    Connections,
    OfUser,
    Row,
    Rows,
    SendAway,
    Sort,
    Transport,
    Wanted,
)

Text = Annotated[str, Meta(max_length=200)]
Customer = Annotated[UserIdOrEmpty, Meta(description='a customer, with user_ids = "separate", where user is staff')]
Reconnect = Annotated[bool, Meta(description="let the client reconnect by itself")]


class Filters(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters; a connection must match all that are given."""

    user: UserIdOrEmpty = ""
    customer: Customer = ""
    ip: Text = ""
    room: RoomOrEmpty = ""
    namespace: Text = ""
    node: Text = ""
    transport: Transport | Literal[""] = ""
    role: Role | Literal[""] = ""
    sid: Text = ""

    def wanted(self, keys: UserKeys) -> Wanted:
        user = key_of(keys, self.user, self.customer, ("user", "customer"))
        return Wanted(user, self.ip, self.room, self.namespace, self.node, self.transport, self.role, self.sid)


class Find(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = USUAL_LIMIT
    cursor: Cursor = ""
    sort: Annotated[Sort, Meta(description="with - in front descending")] = "-connected"


class FindClosed(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: UserIdOrEmpty = ""
    customer: Customer = ""
    ip: Text = ""
    node: Text = ""
    sid: Text = ""


class Found(Page[Connection]):
    """`total` is the number of items on all pages."""

    total: int = 0


class Kick(Removal, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reconnect: Reconnect = False


class Disconnect(BulkChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    where: Filters
    reconnect: Reconnect = False


class Everywhere:
    """Finds and closes the connections of all nodes."""

    def __init__(self, calls: NodeCalls) -> None:
        self._calls = calls

    async def find(
        self, wanted: Wanted, limit: int, sort: Sort = "-connected", after: tuple[float | str, str] | None = None
    ) -> tuple[list[Row], int, list[str]]:
        """Return the first `limit` after a position, how many match in all, and the nodes that did not answer."""
        asked = json.encode_struct(AskClients(wanted, limit, sort, after))
        answers, missing = decode_replies(await self._calls.request("connections.find", asked), Rows)
        pick = heapq.nlargest if sort.startswith("-") else heapq.nsmallest
        rows = pick(limit, (row for answer in answers.values() for row in answer.rows), key=_place)
        return rows, sum(answer.total for answer in answers.values()), missing

    async def closed(
        self, wanted: Wanted, limit: int, before: tuple[str, str] | None = None
    ) -> tuple[list[Closed], list[str]]:
        """Return the newest `limit` closed connections."""
        asked = json.encode_struct(AskClosed(wanted, limit, before))
        answers, missing = decode_replies(await self._calls.request("connections.closed", asked), list[Closed])
        every = (one for answer in answers.values() for one in answer)
        return heapq.nlargest(limit, every, key=lambda one: (one.closedAt, one.sid)), missing

    async def of_user(self, user_id: str) -> tuple[list[OfUser], list[str]]:
        """Return the rooms and closed connections that each node knows of a user."""
        answers, missing = decode_replies(await self._calls.request("connections.of_user", user_id), OfUser)
        return list(answers.values()), missing

    async def send_away(self, wanted: Wanted, reconnect: bool = False, dry: bool = False) -> Count:
        """Close all matching connections."""
        asked = json.encode_struct(SendAway(wanted, reconnect, dry))
        answers, missing = decode_replies(await self._calls.request("connections.close", asked), int)
        return Count(sum(answers.values()), missing)


def _place(row: Row) -> tuple[Any, str]:
    return row.key, row.shown.sid


class ConnectionsHandler(Handler):
    everywhere: Everywhere
    keys: UserKeys

    @operation("viewer", query=Find, answer=Found)
    async def get(self, query: Find) -> Answer:
        """Find connections, on all nodes."""
        kind = tuple[str, str] if query.sort.endswith("user") else tuple[float, str]
        after: Any = read_cursor(query.cursor, kind)
        rows, total, missing = await self.everywhere.find(query.wanted(self.keys), query.limit + 1, query.sort, after)
        shown, cursor = cut(rows, query.limit, _place)
        return Answer(Found([row.shown for row in shown], cursor, missing, total))


class ClosedHandler(Handler):
    everywhere: Everywhere
    keys: UserKeys

    @operation("viewer", query=FindClosed, answer=Page[Closed])
    async def get(self, query: FindClosed) -> Answer:
        """Find closed connections, the newest first, among the last 1,000 of each node."""
        before = read_cursor(query.cursor, tuple[str, str])
        user = key_of(self.keys, query.user, query.customer, ("user", "customer"))
        wanted = Wanted(user, query.ip, node=query.node, sid=query.sid)
        found, missing = await self.everywhere.closed(wanted, query.limit + 1, before)
        shown, cursor = cut(found, query.limit, lambda one: (one.closedAt, one.sid))
        return Answer(Page(shown, cursor, missing))


class DisconnectHandler(Handler):
    everywhere: Everywhere
    keys: UserKeys

    @operation(
        "operator",
        body=Disconnect,
        answer=Count,
        action="connection.disconnect",
        target=lambda body: " ".join(f"{name}={value}" for name, value in given(body.where).items()),
    )
    async def post(self, body: Disconnect) -> Answer:
        """Disconnect all connections that match; at least one filter is required."""
        wanted = body.where.wanted(self.keys)
        if wanted == Wanted():
            raise RtError(
                "BAD_REQUEST",
                "Give at least one filter; all connections cannot be disconnected at once.",
                field="where",
            )
        return Answer(await self.everywhere.send_away(wanted, body.reconnect, body.dryRun))


class ConnectionHandler(Handler):
    everywhere: Everywhere

    @operation("operator", query=Kick, answer=Count, action="connection.kick", errors=("NOT_FOUND",))
    async def delete(self, sid: SocketId, query: Kick) -> Answer:
        """Disconnect one connection, named by its own sid or that of one of its sockets."""
        rows, _, _ = await self.everywhere.find(Wanted(sid=sid), 1)
        if rows and (user := rows[0].shown.user) is not None:
            self.done_to = f"{user.role or 'user'}:{user.id}"  # the role is set only for customers with separate ids
        done = await self.everywhere.send_away(Wanted(sid=sid), query.reconnect)
        if not done.count and not done.missing:
            raise RtError("NOT_FOUND", "There is no such connection.")
        return Answer(done)


def connection_routes(
    admin: Admin, here: Connections, everywhere: Everywhere, calls: NodeCalls, keys: UserKeys = UserKeys()
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file, and register this node's replies to their calls."""
    calls.handle("connections.find", here.find)
    calls.handle("connections.closed", here.closed)
    calls.handle("connections.close", here.send_away)
    calls.handle("connections.of_user", here.of_user)
    parts = {"admin": admin, "everywhere": everywhere}
    finding = {**parts, "keys": keys}
    return [
        (r"/api/v1/connections", ConnectionsHandler, finding),
        (r"/api/v1/connections/closed", ClosedHandler, finding),
        (r"/api/v1/connections/disconnect", DisconnectHandler, finding),
        (r"/api/v1/connections/([^/]+)", ConnectionHandler, parts),
    ]

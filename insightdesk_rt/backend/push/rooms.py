"""The helpdesk's back end puts users into rooms of its own and takes them out.

    POST /api/v1/rooms/{room}/join     {"userId": "ann"}
    POST /api/v1/rooms/{room}/leave    {"userId": "ann"}

All sockets that the user has in one namespace now, on all nodes, become members. A session that is resumed is in its
rooms again; a new connection is not. The rooms that this server manages (`MANAGED`) are refused: tokens and the
access to tickets and chats decide their members.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.api.whom import key_of
from insightdesk_rt.backend.part import BackendContext, BackendPart
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import RoomName, UserIdText
from insightdesk_rt.engine.model import Room
from insightdesk_rt.helpdesk.features import refuse_namespace

VERB = "rooms.change"
MAIN = "/"
# The beginnings of rooms that this server manages: engine/model.py makes their names.
MANAGED = (
    *("user:", "customer:", "role:", "team:", "ticket:", "ticket-staff:", "chat:", "chat-staff:"),
    *("presence:", "presence-customer:", "dashboard", "view:"),
)


class RoomBody(Struct, forbid_unknown_fields=True, kw_only=True):
    userId: UserIdText | None = None
    customerId: Annotated[UserIdText | None, Meta(description='with user_ids = "separate"')] = None
    namespace: Annotated[str, Meta(description="in which namespace the room is")] = MAIN


class RoomChanged(Struct):
    """`count`: the user's sockets that are in the room now, or have left it. `full`: those that are in as many rooms as
    a socket may be, and did not join. `missing`: nodes that did not answer in time.
    """

    count: int
    full: int = 0
    missing: list[str] = []


class RoomChanges(BackendPart):
    """Asks all nodes, and changes the rooms of this one's sockets."""

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._hub = context.hub
        context.calls.handle(VERB, self._here)

    def routes(self, api: Admin) -> Iterable[Route]:
        parts = {"admin": api, "changes": self}
        return [
            (r"/api/v1/rooms/([^/]+)/join", JoinRoomHandler, parts),
            (r"/api/v1/rooms/([^/]+)/leave", LeaveRoomHandler, parts),
        ]

    async def ask(self, how: str, namespace: str, room: str, key: str) -> RoomChanged:
        """Have all nodes do it. Raises RtError UNAVAILABLE."""
        replies = await self.context.calls.request(VERB, how, namespace, room, key)
        counts, missing = decode_replies(replies, tuple[int, int])
        return RoomChanged(sum(one for one, _ in counts.values()), sum(full for _, full in counts.values()), missing)

    async def _here(self, arguments: tuple[str, ...]) -> tuple[int, int]:
        how, namespace, room, key = arguments
        sockets = self._hub.sockets(namespace) if namespace in self._hub.namespaces else {}
        count = full = 0
        for socket in [one for one in sockets.values() if one.user.key == key]:
            try:
                if how == "leave":
                    count += room in socket.rooms
                    self._hub.leave(socket, Room(room))
                else:
                    await self._hub.join(socket, Room(room))
                    count += room in socket.rooms  # not if it disconnected meanwhile
            except RtError as refused:
                if refused.code != "TOO_MANY_ROOMS":
                    raise
                full += 1
        return count, full


class _RoomHandler(Handler):
    changes: RoomChanges

    async def change(self, how: str, room: str, body: RoomBody) -> Answer:
        context = self.changes.context
        if refusal := refuse_namespace(body.namespace, context.namespaces):
            raise RtError("BAD_REQUEST", refusal, field="namespace")
        if room.startswith(MANAGED):
            raise RtError("BAD_REQUEST", "This server decides who is in this room; use one of your own", field="room")
        self.asker.require_push(body.namespace, (), "namespace")
        self.asker.require_push(body.namespace, [room], "room")
        key = key_of(context.settings.user_keys, body.userId, body.customerId)
        if not key:
            raise RtError("BAD_REQUEST", "Object missing required field `userId`", field="userId")
        return Answer(await self.changes.ask(how, body.namespace, room, key))


class JoinRoomHandler(_RoomHandler):
    @operation("publisher", body=RoomBody, answer=RoomChanged)
    async def post(self, room: RoomName, body: RoomBody) -> Answer:
        """Put all sockets that a user has in a namespace into a room of the back end's own. Idempotent."""
        return await self.change("join", room, body)


class LeaveRoomHandler(_RoomHandler):
    @operation("publisher", body=RoomBody, answer=RoomChanged)
    async def post(self, room: RoomName, body: RoomBody) -> Answer:
        """Take all sockets that a user has in a namespace out of a room of the back end's own. Idempotent."""
        return await self.change("leave", room, body)

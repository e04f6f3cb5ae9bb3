"""The helpdesk's back end pushes notifications: `POST /api/v1/notifications`.

An answer means that the log has the events. After 503 the same request again, with the same `id`, repeats nothing that
is done, and does what is left. The rules are those of the namespace; this file knows the body and its limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.operation import NO_CONTROLS, Answer
from insightdesk_rt.api.whom import customer, keys_of
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.backend.push.emit import clean_json
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import PushId, Refused, UserIdText
from insightdesk_rt.engine.model import UserKey, UserKeys, new_id, user_room
from insightdesk_rt.engine.wire.texts import PLAIN, VISIBLE
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.notifications.store import Content

MAX_USERS = 1000  # of one notification: each costs one event
MAX_DATA_BYTES = 16_384  # of a notification, which is kept for months


class NotificationBody(Struct, forbid_unknown_fields=True, kw_only=True):
    type: Annotated[str, Meta(min_length=1, max_length=64, pattern=NO_CONTROLS)]
    title: Annotated[str, Meta(min_length=1, max_length=300, pattern=VISIBLE)]
    body: Annotated[str, Meta(max_length=4000, pattern=PLAIN)] = ""
    url: Annotated[str, Meta(max_length=2000, pattern=NO_CONTROLS)] = ""
    data: Raw | UnsetType = UNSET
    userId: UserIdText | UnsetType = UNSET
    userIds: Annotated[list[Any], Meta(min_length=1, max_length=MAX_USERS)] | UnsetType = UNSET
    customerId: UserIdText | UnsetType = UNSET
    customerIds: Annotated[list[Any], Meta(min_length=1, max_length=MAX_USERS)] | UnsetType = UNSET
    id: PushId | UnsetType = UNSET


class Pushed(Struct, omit_defaults=True):
    """`refused`, `refusedCustomers`: ids of `userIds` and of `customerIds` that no user can have; the others are
    notified."""

    id: str
    refused: list[Refused] = []
    refusedCustomers: list[Refused] = []


class NotificationRequest(NamedTuple):
    keys: list[UserKey]
    content: Content
    answer: Pushed


class NotificationPushes:
    """Checks notifications of a back end, and has the namespace push them.

    A publisher's key needs the room of each user who is notified.
    """

    def __init__(self, notifications: Notifications, keys: UserKeys) -> None:
        self._notifications = notifications
        self._keys = keys

    def request(self, who: Principal, body: NotificationBody) -> NotificationRequest:
        """Return the request of a notification, which gets an id if it has none. Raises RtError BAD_REQUEST,
        FORBIDDEN.
        """
        keys, refused, refused_customers = self._users(body)
        who.require_push(Notifications.path, map(user_room, keys) if who.limits else (), "userId")
        data = body.data if body.data is UNSET else Raw(clean_json(body.data).encode())
        if data is not UNSET and len(bytes(data)) > MAX_DATA_BYTES:
            raise RtError("BAD_REQUEST", f"Expected at most {MAX_DATA_BYTES} bytes", field="data")
        id = new_id() if body.id is UNSET else body.id
        content = Content(id, body.type, body.title, body.body, body.url, data)
        return NotificationRequest(keys, content, Pushed(id, refused, refused_customers))

    async def push(self, request: NotificationRequest) -> Pushed:
        """Push one notification. Raises RtError CONFLICT, UNAVAILABLE."""
        await self._notifications.push(request.keys, request.content)
        return request.answer

    async def push_all(self, requests: Sequence[NotificationRequest]) -> list[Struct | RtError]:
        """Push many notifications together; return the answer to each, or why it was refused."""
        refused = await self._notifications.push_all([(one.keys, one.content) for one in requests])
        return [why or request.answer for request, why in zip(requests, refused, strict=True)]

    def _users(self, body: NotificationBody) -> tuple[list[UserKey], list[Refused], list[Refused]]:
        keys, refused, refused_customers = keys_of(self._keys, body.userIds or [], body.customerIds or [])
        if body.userId is not UNSET:
            keys.append(self._keys.staff(body.userId))
        if body.customerId is not UNSET:
            keys.append(customer(self._keys, body.customerId))
        if not keys:
            raise RtError("BAD_REQUEST", "Object missing required field `userId`", field="userId")
        if len(keys) > MAX_USERS:
            raise RtError("BAD_REQUEST", f"Expected at most {MAX_USERS} users", field="userIds")
        return keys, refused, refused_customers


class NotificationsHandler(Handler):
    pushes: NotificationPushes

    @operation("publisher", body=NotificationBody, answer=Pushed, statuses=(201,), errors=("CONFLICT",))
    async def post(self, body: NotificationBody) -> Answer:
        """Notify one or several users. A repeat under the same `id` changes nothing for users who have it.

        CONFLICT if one of the users has another notification with that `id`; the other users are notified first.
        """
        return Answer(await self.pushes.push(self.pushes.request(self.asker, body)), 201)


class NotificationPush(BackendPart):
    def routes(self, api: Admin) -> Iterable[Route]:
        pushes = NotificationPushes(self.context.features.of(Notifications), self.context.settings.user_keys)
        return [(r"/api/v1/notifications", NotificationsHandler, {"admin": api, "pushes": pushes})]

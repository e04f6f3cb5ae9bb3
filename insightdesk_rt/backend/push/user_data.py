"""Deletes all that the helpdesk's stores keep of a user, as data protection asks for.

    DELETE /api/v1/users/{userId}/data?reason=…
    DELETE /api/v1/customers/{customerId}/data?reason=…     with user_ids = "separate"

First the user's clients are disconnected, on all nodes, in a way that ends their sessions. Then each feature deletes
what it keeps (`Namespace.forget`). docs/backend.md lists what remains for a while. A repeat deletes what is left.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Removal
from insightdesk_rt.api.whom import customer
from insightdesk_rt.backend.part import BackendContext, BackendPart
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.ids import UserIdText
from insightdesk_rt.engine.model import UserKey

VERB = "user.disconnect"


class Deleted(Struct):
    """What was deleted, how many of each kind: `connections` that were closed, `conversations`, `messages` in them,
    `notifications`, `presence`. `missing`: nodes that did not answer in time, and may have connections of the user.
    """

    deleted: dict[str, int]
    missing: list[str]


class UserData(BackendPart):
    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._hub = context.hub
        context.calls.handle(VERB, self._disconnect)

    def routes(self, api: Admin) -> Iterable[Route]:
        parts = {"admin": api, "data": self}
        return [
            (r"/api/v1/users/([^/]+)/data", UserDataHandler, parts),
            (r"/api/v1/customers/([^/]+)/data", CustomerDataHandler, parts),
        ]

    async def delete(self, key: UserKey) -> Deleted:
        """Delete it. Raises RtError UNAVAILABLE: the same call again deletes what is left."""
        counts, missing = decode_replies(await self.context.calls.request(VERB, key), int)
        deleted = {"connections": sum(counts.values())}
        for feature in self.context.features:
            for kind, count in (await feature.forget(key)).items():
                deleted[kind] = deleted.get(kind, 0) + count
        return Deleted(deleted, missing)

    async def _disconnect(self, arguments: tuple[str, ...]) -> int:
        (key,) = arguments
        every = [socket for path in self._hub.namespaces for socket in self._hub.sockets(path).values()]
        clients = {socket.client for socket in every if socket.user.key == key}
        for client in clients:
            client.close(CloseReason.KICKED)
        return len(clients)


class UserDataHandler(Handler):
    data: UserData

    @operation("admin", query=Removal, answer=Deleted, action="user.delete_data")
    async def delete(self, user_id: UserIdText, query: Removal) -> Answer:
        """Delete all that is kept of a user, and disconnect the user's clients."""
        return Answer(await self.data.delete(self.data.context.settings.user_keys.staff(user_id)))


class CustomerDataHandler(Handler):
    data: UserData

    @operation("admin", query=Removal, answer=Deleted, action="customer.delete_data")
    async def delete(self, customer_id: UserIdText, query: Removal) -> Answer:
        """Delete all that is kept of a customer, with separate ids, and disconnect the customer's clients."""
        return Answer(await self.data.delete(customer(self.data.context.settings.user_keys, customer_id)))

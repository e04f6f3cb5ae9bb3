"""The helpdesk's back end sends events of its own to rooms: `POST /api/v1/emit`.

An answer means that the log has the event, unless it is volatile. After 503 the same request again, with the same
`id`, emits nothing twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.engine import ids
from insightdesk_rt.engine.cluster.publisher import fingerprint
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.ids import EventId, RoomName
from insightdesk_rt.engine.model import Room
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.features import refuse_event, refuse_namespace

MAX_ROOMS = 100  # of one event: each is a channel on which it is published

EventName = Annotated[str, Meta(pattern=ids.EVENT_NAME.pattern)]


class EmitBody(Struct, forbid_unknown_fields=True):
    namespace: str
    event: EventName
    data: Raw | UnsetType = UNSET
    room: RoomName | UnsetType = UNSET
    rooms: Annotated[list[RoomName], Meta(min_length=1, max_length=MAX_ROOMS)] | UnsetType = UNSET
    skip: RoomName | Annotated[list[RoomName], Meta(max_length=MAX_ROOMS)] | UnsetType = field(
        name="except", default=UNSET
    )
    volatile: bool = False
    id: EventId | UnsetType = UNSET


class Emitted(Struct):
    """`offset` is null for a volatile event."""

    offset: str | None


class EmitHandler(Handler):
    hub: Hub
    namespaces: Collection[str]
    max_event_bytes: int

    @operation("admin", body=EmitBody, answer=Emitted, errors=("CONFLICT",))
    async def post(self, body: EmitBody) -> Answer:
        """Send an event of the back end's own to rooms. A volatile event is not logged and has no offset.

        CONFLICT if another event had the same `id` within two minutes.
        """
        refusals = {"namespace": refuse_namespace(body.namespace, self.namespaces), "event": refuse_event(body.event)}
        for name, refusal in refusals.items():
            if refusal:
                raise RtError("BAD_REQUEST", refusal, field=name)
        rooms = [Room(room) for room in _one_or_more(body.room, body.rooms, "room")]
        skip = [] if body.skip is UNSET else [body.skip] if isinstance(body.skip, str) else body.skip
        payload = "null" if body.data is UNSET else clean_json(body.data)
        if len(payload.encode()) > self.max_event_bytes:
            raise RtError("PAYLOAD_TOO_LARGE", f"An event may have {self.max_event_bytes} bytes.", field="data")
        if body.volatile:
            self.hub.publish(body.namespace, rooms, body.event, payload, skip)
            return Answer(Emitted(None))
        id = same = ""
        if body.id is not UNSET:
            id, same = f"emit.{body.id}", fingerprint(body.namespace, body.event, payload, rooms, skip)
        return Answer(Emitted(await self.hub.emit(body.namespace, rooms, body.event, payload, skip, id, same)))


class EmitPush(BackendPart):
    def routes(self, api: Admin) -> Iterable[Route]:
        context = self.context
        parts = {"hub": context.hub, "namespaces": context.namespaces, "max_event_bytes": context.max_event_bytes}
        return [(r"/api/v1/emit", EmitHandler, {"admin": api, **parts})]


def clean_json(data: Raw) -> str:
    """Return the back end's JSON as this server would have written it, because nothing checks it again on its way out.

    Raises RtError BAD_REQUEST.
    """
    try:
        return json.dumps(json.loads(data))
    except json.BadJson as bad:
        raise RtError("BAD_REQUEST", bad.why, field="data") from None


def _one_or_more(one: str | UnsetType, more: list[str] | UnsetType, name: str) -> list[str]:
    """Return the values of two fields, `room` and `rooms`, together. One of them must be given."""
    given = ([] if one is UNSET else [one]) + ([] if more is UNSET else more)
    if not given:
        raise RtError("BAD_REQUEST", f"Object missing required field `{name}`", field=name)
    return given

"""The helpdesk's back end sends events of its own to rooms: `POST /api/v1/emit`.

An answer means that the log has the event, unless it is volatile. After 503 the same request again, with the same
`id`, emits nothing twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.backend.part import BackendContext, BackendPart
from insightdesk_rt.engine import ids
from insightdesk_rt.engine.cluster.publisher import fingerprint
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.ids import EventId, RoomName
from insightdesk_rt.engine.model import Event, Room, new_id
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.features import refuse_event, refuse_namespace

MAX_ROOMS = 100  # of one event: each is a channel on which it is published

EventName = Annotated[str, Meta(pattern=ids.EVENT_NAME.pattern)]


class EmitBody(Struct, forbid_unknown_fields=True, kw_only=True):
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


class Emits:
    """Checks the events of back ends, and publishes them. `namespaces`: the paths that an event may name."""

    def __init__(self, hub: Hub, namespaces: Collection[str], max_event_bytes: int) -> None:
        self._hub = hub
        self._namespaces = namespaces
        self._max_event_bytes = max_event_bytes

    def event(self, who: Principal, body: EmitBody) -> Event:
        """Return the event of a request; a volatile one has no id. Raises RtError BAD_REQUEST, FORBIDDEN,
        PAYLOAD_TOO_LARGE.
        """
        refusals = {"namespace": refuse_namespace(body.namespace, self._namespaces), "event": refuse_event(body.event)}
        for name, refusal in refusals.items():
            if refusal:
                raise RtError("BAD_REQUEST", refusal, field=name)
        rooms = tuple(Room(room) for room in _one_or_more(body.room, body.rooms, "room"))
        who.require_push(body.namespace, (), "namespace")
        who.require_push(body.namespace, rooms, "room")
        skip = () if body.skip is UNSET else (body.skip,) if isinstance(body.skip, str) else tuple(body.skip)
        payload = "null" if body.data is UNSET else clean_json(body.data)
        if len(payload.encode()) > self._max_event_bytes:
            raise RtError("PAYLOAD_TOO_LARGE", f"An event may have {self._max_event_bytes} bytes.", field="data")
        id = same = ""
        if body.volatile:
            pass
        elif body.id is UNSET:
            id = new_id()
        else:
            id, same = f"emit.{body.id}", fingerprint(body.namespace, body.event, payload, rooms, skip)
        return Event(body.namespace, body.event, payload, rooms, skip, id, fingerprint=same)

    async def publish(self, event: Event) -> Emitted:
        """Publish one event. Raises RtError UNAVAILABLE, CONFLICT."""
        if not event.logged:
            self._hub.publish(event.namespace, event.rooms, event.name, event.payload, event.skip)
            return Emitted(None)
        head = event.namespace, event.rooms, event.name, event.payload, event.skip
        return Emitted(await self._hub.emit(*head, event.id, event.fingerprint))

    async def publish_all(self, events: Sequence[Event]) -> list[Struct | RtError]:
        """Publish many events, those of one namespace in their order; return the answer to each, or its error."""
        found: dict[int, Struct | RtError] = {}
        logged: dict[str, list[int]] = {}
        for number, event in enumerate(events):
            if event.logged:
                logged.setdefault(event.namespace, []).append(number)
                continue
            try:
                found[number] = await self.publish(event)
            except RtError as refused:
                found[number] = refused
        for numbers in logged.values():
            offsets = await self._hub.append_all([events[number] for number in numbers])
            for number, offset in zip(numbers, offsets, strict=True):
                found[number] = offset if isinstance(offset, RtError) else Emitted(offset)
        return [found[number] for number in range(len(events))]


class EmitHandler(Handler):
    emits: Emits

    @operation("publisher", body=EmitBody, answer=Emitted, errors=("CONFLICT",))
    async def post(self, body: EmitBody) -> Answer:
        """Send an event of the back end's own to rooms. A volatile event is not logged and has no offset.

        CONFLICT if another event had the same `id` within two minutes.
        """
        return Answer(await self.emits.publish(self.emits.event(self.asker, body)))


class EmitPush(BackendPart):
    def routes(self, api: Admin) -> Iterable[Route]:
        return [(r"/api/v1/emit", EmitHandler, {"admin": api, "emits": emits_of(self.context)})]


def emits_of(context: BackendContext) -> Emits:
    return Emits(context.hub, context.namespaces, context.max_event_bytes)


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

"""Live streams: events as they are published, and answers of the API as they change. Both are server-sent events.

    GET /api/v1/events     event: event    {at, namespace, event, rooms, except, offset, volatile, bytes, payload?}
    GET /api/v1/live       event: state    {watch, status, body}; a refusal's body is {error}

Both also send `event: alive` after ten seconds without another event, `event: dropped` {count} to a reader that was too
slow, and `event: end` {code} at the end. The events are those of all nodes and emitters. Events that were published
while the connection to Valkey was lost are not shown later.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote

from msgspec import Meta, Raw, Struct, field

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, Query, given, read_path, read_query
from insightdesk_rt.api.sse import EventStream, StreamHandler, Streams
from insightdesk_rt.api.whom import key_of
from insightdesk_rt.engine.cluster.event_monitor import EventMonitor
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import RoomOrEmpty, UserIdOrEmpty
from insightdesk_rt.engine.model import Event, Room, UserKey, UserKeys, iso, offset_key, user_room
from insightdesk_rt.engine.wire import json

POLL_S = 2.0  # between two requests of the watched answers
ROOMS_S = 5.0  # between two updates of the rooms of a watched user
MAX_WATCHED = 10
MAX_PAYLOAD = 16_384  # characters; a longer payload is left out

Text = Annotated[str, Meta(max_length=200)]
Watched = Annotated[str, Meta(min_length=1, max_length=2_000)]


class WatchEvents(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: Annotated[UserIdOrEmpty, Meta(description="events sent to this user's connections")] = ""
    customer: Annotated[UserIdOrEmpty, Meta(description='events sent to a customer, with user_ids = "separate"')] = ""
    room: RoomOrEmpty = ""
    namespace: Text = ""
    event: Text = ""
    payload: Annotated[Literal["none", "full"], Meta(description="full needs the scope admin")] = "none"


class WatchState(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    watch: Annotated[
        list[Watched],
        Meta(
            min_length=1,
            max_length=MAX_WATCHED,
            description="paths of this API after /api/v1/ with their queries, each percent-encoded once more",
        ),
    ]


class Overheard(Struct, omit_defaults=True):
    """A published event. `at` is Valkey's time for a logged event, this node's for a volatile one."""

    at: str
    namespace: str
    event: str
    rooms: Sequence[str]
    volatile: bool
    bytes: int
    offset: str = ""
    skip: Sequence[str] = field(name="except", default=())
    payload: Raw = Raw()


class EventsHandler(StreamHandler):
    valkey: Valkey
    calls: NodeCalls
    namespaces: Collection[str]
    keys: UserKeys

    @operation("viewer", query=WatchEvents, stream=True)
    async def get(self, query: WatchEvents) -> None:
        """Stream the events of all nodes as they are published."""
        if query.payload == "full":
            self.require("admin")
        user = key_of(self.keys, query.user, query.customer, ("user", "customer"))
        stream = EventStream(self, "admin" if query.payload == "full" else "viewer")
        user_rooms: set[tuple[str, str]] = set()

        def heard(event: Event) -> None:
            if (query.event and event.name != query.event) or (query.room and Room(query.room) not in event.rooms):
                return
            if user:
                reached = {(event.namespace, room) for room in event.rooms} & user_rooms
                left_out = {(event.namespace, room) for room in event.skip} & user_rooms
                if not reached or left_out:
                    return
            stream.put("event", _shown(event, query.payload == "full"))

        async def look() -> None:
            found = await self._rooms_of(user, [query.namespace] if query.namespace else self.namespaces)
            user_rooms.clear()
            user_rooms.update(found)

        monitor = EventMonitor(heard, lambda: stream.end("UNAVAILABLE"))
        with self.streams.place(self.asker):  # before the monitor opens a Valkey connection
            if query.payload == "full":  # this shows all chats, so reading is written to the audit log
                whom = " ".join(f"{name}={text}" for name, text in given(query).items() if name != "payload")
                came = self.admin.peer(self.request).address
                await self.admin.record(self.asker, "events.read", whom, query, came, "ok")
            await monitor.open(self.valkey, query.namespace, query.room)
            try:
                await stream.run(look if user else None, ROOMS_S)
            finally:
                monitor.close()

    async def _rooms_of(self, key: UserKey, namespaces: Collection[str]) -> set[tuple[str, str]]:
        room = user_room(key)
        asked = await asyncio.gather(*(self.calls.fetch_sockets(namespace, [room]) for namespace in namespaces))
        found = {(one.namespace, name) for said in asked for one in said.sockets for name in one.rooms}
        return found | {(namespace, room) for namespace in namespaces}


class LiveHandler(StreamHandler):
    routes: Sequence[Route]

    @operation("viewer", query=WatchState, stream=True)
    async def get(self, query: WatchState) -> None:
        """Stream the answers of other calls: at once, and again when they change."""
        watched = {watch: unquote(watch) for watch in query.watch}
        asked = {watch: self._find(path) for watch, path in watched.items()}
        stream = EventStream(self, "viewer")
        last: dict[str, str] = {}

        async def look() -> None:
            answers = await asyncio.gather(*(one() for one in asked.values()))
            for watch, (status, body) in zip(asked, answers, strict=True):
                if last.get(watch) != body:
                    about = json.dumps(watched[watch])
                    if stream.put("state", f'{{"watch":{about},"status":{status},"body":{body}}}'):
                        last[watch] = body

        with self.streams.place(self.asker):
            await stream.run(look, POLL_S)

    def _find(self, watch: str) -> Callable[[], Awaitable[tuple[int, str]]]:
        """Return a function that answers a path. An error becomes that path's answer, and the others continue."""
        try:
            return self._inner(watch)
        except RtError as refused:
            answer = _refusal(refused)

            async def refuse() -> tuple[int, str]:
                return answer

            return refuse

    def _inner(self, watch: str) -> Inner:
        """Raise RtError BAD_REQUEST if there is no such path or its query is wrong; FORBIDDEN."""
        path, _, query = watch.partition("?")
        for pattern, kind, parts in self.routes:
            match = re.fullmatch(pattern, f"/api/v1/{path}")
            about = getattr(kind.get, "operation", None)
            if match and about is not None and not about.stream and about.scope is not None:
                self.require(about.scope)
                return Inner(self, kind, parts, [unquote(part) for part in match.groups()], query)
        raise RtError("BAD_REQUEST", "This path cannot be watched", field="watch")


class Inner:
    """A GET of another handler, called repeatedly from inside the server."""

    def __init__(
        self, outer: Handler, kind: type[Handler], parts: dict[str, Any], path: Sequence[str], query: str
    ) -> None:
        about = kind.get.operation  # type: ignore[attr-defined]
        given = parse_qs(query, keep_blank_values=True)
        values = {name: [text.encode() for text in texts] for name, texts in given.items()}
        self._method: Any = kind.get.__wrapped__  # type: ignore[attr-defined]
        read = read_query(about.query or Query, values)
        self._arguments = [*read_path(about, path), *([read] if about.query is not None else [])]
        self._handler = kind.within(outer.who, parts)

    async def __call__(self) -> tuple[int, str]:
        """Return status and JSON body."""
        try:
            answer: Answer = await self._method(self._handler, *self._arguments)
        except RtError as refused:
            return _refusal(refused)
        body = answer.body
        return answer.status, json.encode_struct(body) if isinstance(body, Struct) else json.dumps(body)


def watch_routes(
    admin: Admin,
    valkey: Valkey,
    calls: NodeCalls,
    namespaces: Collection[str],
    routes: Sequence[Route],
    keys: UserKeys = UserKeys(),
) -> list[Route]:
    """Return the routes of this file. `routes` can be watched."""
    both = {"admin": admin, "streams": Streams()}
    events = {"valkey": valkey, "calls": calls, "namespaces": namespaces, "keys": keys}
    return [
        (r"/api/v1/events", EventsHandler, {**both, **events}),
        (r"/api/v1/live", LiveHandler, {**both, "routes": routes}),
    ]


def _refusal(refused: RtError) -> tuple[int, str]:
    return refused.kind.http, json.dumps({"error": refused.as_dict()})


def _shown(event: Event, whole: bool) -> str:
    offset = event.offset or ""
    at = iso(offset_key(offset)[0] if offset else int(time.time() * 1000))
    size = len(event.payload.encode())
    shown = Overheard(at, event.namespace, event.name, event.rooms, not offset, size, offset, event.skip)
    if whole and len(event.payload) <= MAX_PAYLOAD:
        shown.payload = Raw(event.payload.encode())
    return json.encode_struct(shown)

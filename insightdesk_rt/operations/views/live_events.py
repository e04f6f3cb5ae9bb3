"""Watching: events as they are published, and what the API answers as it changes. Both are server-sent events.

    GET /api/v1/events     event: event    {at, namespace, event, rooms, except, offset, volatile, bytes, payload?}
    GET /api/v1/live       event: state    {watch, status, body}; a refusal's body is {error}

and in both `event: alive` when there was nothing else for ten seconds, `event: dropped` {count} for a reader that was
too slow, `event: end` {code} when it is over. Events are those of all nodes and emitters; what a connection to Valkey
lost meanwhile is not shown again: this is a window, not a log.
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

LOOK_S = 2.0  # between two looks at what is watched
ROOMS_S = 5.0  # between two looks at the rooms a watched user is in
MAX_WATCHED = 10
MAX_PAYLOAD = 16_384  # characters; a longer one is left out

Text = Annotated[str, Meta(max_length=200)]
Watched = Annotated[str, Meta(min_length=1, max_length=2_000)]


class WatchEvents(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: Annotated[UserIdOrEmpty, Meta(description="what this user's connections are sent")] = ""
    customer: Annotated[UserIdOrEmpty, Meta(description='the same of a customer, with user_ids = "separate"')] = ""
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
            description="paths of this API behind /api/v1/ with their queries, each percent-encoded once more",
        ),
    ]


class Overheard(Struct, omit_defaults=True):
    """`at` is Valkey's time for a logged event, this node's for a volatile one."""

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
        """Watch what is published, on all nodes, as it happens."""
        if query.payload == "full":
            self.require("admin")
        user = key_of(self.keys, query.user, query.customer, ("user", "customer"))
        stream = EventStream(self, "admin" if query.payload == "full" else "viewer")
        theirs: set[tuple[str, str]] = set()

        def heard(event: Event) -> None:
            if (query.event and event.name != query.event) or (query.room and Room(query.room) not in event.rooms):
                return
            if user:
                reached = {(event.namespace, room) for room in event.rooms} & theirs
                left_out = {(event.namespace, room) for room in event.skip} & theirs
                if not reached or left_out:
                    return
            stream.put("event", _shown(event, query.payload == "full"))

        async def look() -> None:
            found = await self._rooms_of(user, [query.namespace] if query.namespace else self.namespaces)
            theirs.clear()
            theirs.update(found)

        tap = EventMonitor(heard, lambda: stream.end("UNAVAILABLE"))
        with self.streams.place(self.asker):  # before the tap: who may not have a stream costs Valkey no connection
            if query.payload == "full":  # all chats, as they are written: who reads along leaves a trace
                whom = " ".join(f"{name}={text}" for name, text in given(query).items() if name != "payload")
                came = self.admin.address(self.request)
                await self.admin.record(self.asker, "events.read", whom, query, came, "ok")
            await tap.open(self.valkey, query.namespace, query.room)
            try:
                await stream.run(look if user else None, ROOMS_S)
            finally:
                tap.close()

    async def _rooms_of(self, key: UserKey, namespaces: Collection[str]) -> set[tuple[str, str]]:
        room = user_room(key)
        asked = await asyncio.gather(*(self.calls.fetch_sockets(namespace, [room]) for namespace in namespaces))
        found = {(one.namespace, name) for said in asked for one in said.sockets for name in one.rooms}
        return found | {(namespace, room) for namespace in namespaces}


class LiveHandler(StreamHandler):
    routes: Sequence[Route]

    @operation("viewer", query=WatchState, stream=True)
    async def get(self, query: WatchState) -> None:
        """Watch what other calls answer: at once, and again whenever it is something else."""
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
            await stream.run(look, LOOK_S)

    def _find(self, watch: str) -> Callable[[], Awaitable[tuple[int, str]]]:
        """Return what answers a path. What is wrong with one is its answer too: the others go on."""
        try:
            return self._inner(watch)
        except RtError as refused:
            answer = _refusal(refused)

            async def refuse() -> tuple[int, str]:
                return answer

            return refuse

    def _inner(self, watch: str) -> Inner:
        """Raises RtError BAD_REQUEST: there is no such path, or its query is wrong; FORBIDDEN."""
        path, _, query = watch.partition("?")
        for pattern, kind, parts in self.routes:
            match = re.fullmatch(pattern, f"/api/v1/{path}")
            about = getattr(kind.get, "operation", None)
            if match and about is not None and not about.stream and about.scope is not None:
                self.require(about.scope)
                return Inner(self, kind, parts, [unquote(part) for part in match.groups()], query)
        raise RtError("BAD_REQUEST", "This cannot be watched", field="watch")


class Inner:
    """A GET of another handler, asked from within, again and again."""

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
    """Return the routes of this file. `routes`: what may be watched."""
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

"""What the back end may push, the answers, and what a retry does."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from insightdesk_rt.api.handler import Admin
from insightdesk_rt.backend.feed.log import FeedLog
from insightdesk_rt.backend.feed.reader import FeedReader
from insightdesk_rt.backend.part import BackendContext
from insightdesk_rt.backend.parts import PARTS
from insightdesk_rt.backend.push.emit import MAX_ROOMS
from insightdesk_rt.backend.push.notifications import MAX_USERS
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.dispatch.namespace import Context
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, User
from insightdesk_rt.engine.settings import FeatureSettings
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.features import FEATURES, PATHS
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.tickets.namespace import SubscribeTicket, Tickets
from tests.support import fakes
from tests.support.admin_port import Port, Reply, a_port, make_admin, token
from tests.support.aio import aio
from tests.support.ticketing import ANNA, CARL, told

TICKET, COMMENTS = "/api/v1/tickets/42", "/api/v1/tickets/42/comments"
NOTIFICATIONS, EMIT = "/api/v1/notifications", "/api/v1/emit"
AUTHOR = {"id": "bert", "name": "Bert"}
REPLY = {"kind": "reply", "author": AUTHOR, "excerpt": "on it"}
NOTICE = {"userId": "anna", "type": "mention", "title": "T"}
EVENT = {"namespace": "/tickets", "room": "ticket:42", "event": "ticket:printed", "data": {"pages": 3}}


class OwnCalls:
    """Calls of a node that is the only one."""

    tickets: Tickets

    def handle(self, verb: str, handler: Any) -> None: ...

    async def recheck_on_all_nodes(self, namespace: str, subject: str, offset: Offset) -> None:
        await self.tickets.recheck_access(subject, offset)


async def recovered(namespace: str) -> None:
    """Valkey has lost nothing."""


def now_ms() -> int:
    return int(time.time() * 1000)


class Desk:
    """All namespaces, behind a real port. With `log.away` the log refuses events."""

    def __init__(self, valkey: Valkey) -> None:
        self.log = fakes.OneNode()
        self.hub = Hub(self.log, PATHS)
        calls: Any = OwnCalls()
        context = Context(
            self.hub,
            fakes.Clock(),
            valkey,
            calls,
            lambda: "n1",
            lambda incarnation: None,
            recovered,
            now_ms,
            FeatureSettings(),
        )
        self.features = features = Features(FEATURES, context)
        self.tickets, self.notifications = features.of(Tickets), features.of(Notifications)
        self.chat = features.of(Chat)
        calls.tickets = self.tickets
        feed = FeedLog(valkey)
        self.context = BackendContext(
            features,
            self.hub,
            valkey,
            calls,
            PATHS,
            1_000,
            FeatureSettings(),
            feed,
            FeedReader(feed),
            lambda: True,
            now_ms,
        )
        self.port: Port

    async def connect(self, path: str, user: User) -> Socket:
        socket = fakes.socket(path, user)
        self.hub.add(socket)
        await self.hub.enter(socket, first_rooms(user))
        return socket

    async def open(self, user: User) -> Socket:
        socket = await self.connect("/tickets", user)
        await self.tickets.subscribe(socket, SubscribeTicket("42"))
        told(socket)
        return socket

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        reply = await self.port.ask(method, path, body)
        assert reply.status == status, reply.text
        return reply.json


def routes_of(desk: Desk, admin: Admin) -> list[Any]:
    return [route for part in PARTS for route in part(desk.context).routes(admin)]


@asynccontextmanager
async def a_desk(url: str, prefix: str) -> AsyncIterator[Desk]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    desk = Desk(valkey)
    admin = make_admin(max_body_bytes=300_000)
    try:
        async with a_port(admin, routes_of(desk, admin)) as desk.port:
            yield desk
    finally:
        for feature in desk.features:
            await feature.close()
        await valkey.close()


# ── tickets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_ticket_is_created_changed_read_and_deleted(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        agents = await desk.connect("/tickets", ANNA)
        created = await desk.ask("PUT", TICKET, {"subject": "Größe", "teamId": "t1"}, 201)
        assert created == {"ticketId": "42", "version": 1, "offset": "1-0"}
        changed = await desk.ask("PUT", TICKET, {"status": "open", "assigneeId": "bert", "by": AUTHOR})
        assert (changed["version"], changed["offset"]) == (2, "4-0")
        shown = await desk.ask("GET", TICKET)
        assert shown.pop("updatedAt") >= shown.pop("createdAt")
        assert shown == {
            "ticketId": "42", "version": 2, "subject": "Größe", "status": "open", "priority": "normal",
            "requesterId": None, "assigneeId": "bert", "teamId": "t1", "watchers": [],
        }  # fmt: skip
        assert (await desk.ask("DELETE", TICKET))["version"] == 3
        assert [name for name, _ in told(agents)] == ["ticket:created", "ticket:deleted"]
        for method in ("GET", "DELETE"):
            assert (await desk.ask(method, TICKET, status=404))["error"]["code"] == "NOT_FOUND"


@aio
async def test_a_change_without_effect_and_a_retry_get_the_same_answer_and_publish_once(
    valkey_url: str, prefix: str
) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await desk.ask("PUT", TICKET, {"teamId": "t1"}, 201)
        anna = await desk.open(ANNA)
        desk.log.away = True
        reply = await desk.port.ask("PUT", TICKET, {"status": "open"})
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
        desk.log.away = False
        first = await desk.ask("PUT", TICKET, {"status": "open"})
        for _ in range(2):
            assert await desk.ask("PUT", TICKET, {"status": "open"}) == first
        assert [name for name, _ in told(anna)] == ["ticket:updated"]


@aio
async def test_a_late_job_gets_the_answer_that_nothing_was_applied(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await desk.ask("PUT", TICKET, {"teamId": "t1", "at": "2026-11-30T12:00:00Z", "status": "closed"}, 201)
        anna = await desk.open(ANNA)
        late = await desk.ask("PUT", TICKET, {"at": "2026-11-30T12:59:59.999999+01:00", "status": "open"})
        assert late == {"ticketId": "42", "version": 1, "offset": late["offset"], "applied": False}
        assert (await desk.ask("DELETE", f"{TICKET}?at=2026-11-30T11:00:00Z"))["applied"] is False
        for wrong in ("0.5", "1796063000", "yesterday", ""):
            assert (await desk.ask("DELETE", f"{TICKET}?at={wrong}", status=400))["error"]["field"] == "at", wrong
        assert told(anna) == []
        newer = await desk.ask("PUT", TICKET, {"at": "2026-11-30T12:00:01Z", "status": "open"})
        assert newer["version"] == 2 and "applied" not in newer
        assert (await desk.ask("PUT", TICKET, {"at": "2026-11-30T12:00:01"}, 400))["error"]["field"] == "at"


@aio
async def test_a_change_of_another_version_is_refused_and_a_condition_in_a_header_is_not_ignored(
    valkey_url: str, prefix: str
) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await desk.ask("PUT", TICKET, {"status": "open"}, 201)
        refused = (await desk.ask("PUT", TICKET, {"status": "closed", "ifVersion": 3}, 409))["error"]
        assert (refused["code"], refused["field"], refused["version"]) == ("CONFLICT", "ifVersion", 1)
        assert (await desk.ask("PUT", TICKET, {"status": "closed", "ifVersion": 1}))["version"] == 2
        assert (await desk.ask("DELETE", f"{TICKET}?ifVersion=1", status=409))["error"]["version"] == 2
        for method, path in (("PUT", TICKET), ("DELETE", TICKET), ("POST", COMMENTS), ("POST", EMIT)):
            for header in ("If-Match", "If-None-Match", "If-Unmodified-Since"):
                reply = await desk.port.ask(method, path, {"status": "new"}, headers=f'{header}: "1"\r\n')
                assert (reply.status, reply.error["code"], reply.error["field"]) == (400, "BAD_REQUEST", header)
        assert (await desk.ask("GET", TICKET))["version"] == 2


@aio
async def test_a_note_goes_to_staff_and_a_comment_id_is_published_once(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        assert (await desk.ask("POST", COMMENTS, REPLY, 404))["error"]["code"] == "NOT_FOUND"
        await desk.ask("PUT", TICKET, {"teamId": "t1", "requesterId": "carl"}, 201)
        anna, carl = await desk.open(ANNA), await desk.open(CARL)
        note = await desk.ask("POST", COMMENTS, {"kind": "note", "author": AUTHOR, "excerpt": "angry"}, 201)
        assert note["ticketId"] == "42" and note["id"] and note["version"] == 1 and note["offset"]
        for _ in range(2):
            reply = await desk.ask("POST", COMMENTS, {**REPLY, "id": "c1"}, 201)
            assert (reply["id"], reply["offset"]) == ("c1", "3-0")
        assert [data["comment"]["kind"] for _, data in told(anna)] == ["note", "reply"]
        assert [data["comment"]["kind"] for _, data in told(carl)] == ["reply"]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", TICKET, {"status": "broken"}, "status"),
        ("PUT", TICKET, {"priority": None}, "priority"),
        ("PUT", TICKET, {"watchers": "anna"}, "watchers"),
        ("PUT", TICKET, {"watchers": ["anna", 5]}, "watchers[1]"),
        ("PUT", TICKET, {"watchers": ["w"] * 201}, "watchers"),
        ("PUT", TICKET, {"teamID": "t1"}, "teamID"),
        ("PUT", TICKET, {"by": {"id": "x", "name": "X", "age": 3}}, "by.age"),
        ("PUT", "/api/v1/tickets/a:b", {}, "ticketId"),
        ("PUT", "/api/v1/tickets/42%0a", {}, "ticketId"),
        ("PUT", "/api/v1/tickets/" + "4" * 65, {}, "ticketId"),
        ("GET", "/api/v1/tickets/%20", None, "ticketId"),
        ("DELETE", "/api/v1/tickets/..%2f..", None, "ticketId"),
        ("POST", COMMENTS, {**REPLY, "kind": "shout"}, "kind"),
        ("POST", COMMENTS, {**REPLY, "author": {"name": "B"}}, "author.id"),
        ("POST", COMMENTS, {**REPLY, "excerpt": "x" * 281}, "excerpt"),
        ("POST", COMMENTS, {**REPLY, "id": "a b"}, "id"),
        ("POST", NOTIFICATIONS, {"type": "t", "title": "T"}, "userId"),
        ("POST", NOTIFICATIONS, {"userIds": [], "type": "t", "title": "T"}, "userIds"),
        ("POST", NOTIFICATIONS, {"userIds": ["u"] * (MAX_USERS + 1), "type": "t", "title": "T"}, "userIds"),
        ("POST", NOTIFICATIONS, {**NOTICE, "title": ""}, "title"),
        ("POST", NOTIFICATIONS, {**NOTICE, "userId": "a\nb"}, "userId"),
        ("POST", NOTIFICATIONS, {**NOTICE, "data": "x" * 20_000}, "data"),
        ("POST", NOTIFICATIONS, {**NOTICE, "id": "x" * 65}, "id"),
        ("POST", EMIT, {**EVENT, "namespace": "/admin"}, "namespace"),
        ("POST", EMIT, {**EVENT, "event": "disconnect"}, "event"),
        ("POST", EMIT, {**EVENT, "event": "x" * 129}, "event"),
        ("POST", EMIT, {**EVENT, "event": ""}, "event"),
        ("POST", EMIT, {**EVENT, "room": "x" * 201}, "room"),
        ("POST", EMIT, {**EVENT, "rooms": ["r"] * (MAX_ROOMS + 1)}, "rooms"),
        ("POST", EMIT, {"namespace": "/tickets", "event": "e", "data": 1}, "room"),
        ("POST", EMIT, {**EVENT, "except": [5]}, "except[0]"),
        ("POST", EMIT, {**EVENT, "volatile": "yes"}, "volatile"),
        ("POST", EMIT, {**EVENT, "id": ""}, "id"),
    ],
)
@aio
async def test_an_invalid_field_is_named_and_changes_nothing(
    valkey_url: str, prefix: str, method: str, path: str, body: Any, field: str
) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        error = (await desk.ask(method, path, body, 400))["error"]
        assert error["code"] == "BAD_REQUEST" and error["field"].startswith(field)
        assert desk.log.log == desk.log.published == []


# ── notifications ────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_notification_is_stored_and_published_once_per_id(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        anna = await desk.connect("/notifications", ANNA)
        body = {**NOTICE, "body": "b", "url": "/t/42", "data": {"é": [1, None, 0.1]}, "id": "n1"}
        for _ in range(2):
            assert await desk.ask("POST", NOTIFICATIONS, body, 201) == {"id": "n1"}
        (name, notification), _ = told(anna)
        given = {key: value for key, value in body.items() if key != "userId"}
        assert name == "notification" and {key: notification[key] for key in given} == given
        made = await desk.ask("POST", NOTIFICATIONS, {"userIds": ["anna"], "type": "t", "title": "T"}, 201)
        assert made["id"] != "n1" and [name for name, _ in told(anna)] == ["notification", "notification:count"]


@aio
async def test_an_invalid_id_does_not_stop_other_users_from_being_notified(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        anna = await desk.connect("/notifications", ANNA)
        body = {"userIds": ["a\nb", "anna", 7], "type": "t", "title": "T"}
        made = await desk.ask("POST", NOTIFICATIONS, body, 201)
        assert [one["index"] for one in made["refused"]] == [0, 2]
        assert [name for name, _ in told(anna)] == ["notification", "notification:count"]
        none = await desk.ask("POST", NOTIFICATIONS, {**body, "userIds": ["a\nb"]}, status=400)
        assert none["error"]["field"] == "userIds[0]"


# ── emit ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_an_event_of_the_back_ends_own_goes_to_its_rooms_once_per_id(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        anna, carl = await desk.connect("/tickets", ANNA), await desk.connect("/tickets", CARL)
        everybody = {**EVENT, "room": "user:anna", "rooms": ["user:carl", "user:anna"]}
        first = await desk.ask("POST", EMIT, {**everybody, "id": "e1"})
        assert first["offset"] == "1-0" == (await desk.ask("POST", EMIT, {**everybody, "id": "e1"}))["offset"]
        assert told(anna) == told(carl) == [("ticket:printed", {"pages": 3})]
        await desk.ask("POST", EMIT, {**everybody, "except": "role:customer"})
        await desk.ask("POST", EMIT, {**everybody, "except": [anna.sid]})
        assert len(told(anna)) == len(told(carl)) == 1
        volatile = {"namespace": "/tickets", "rooms": ["user:anna"], "event": "x", "volatile": True}
        assert await desk.ask("POST", EMIT, volatile) == {"offset": None}
        assert told(anna) == [("x", None)]


@pytest.mark.parametrize("data", [None, 5, "text", [], {"deep": {"er": [1.5, "é", True]}}, {"a": "\u2028"}])
@aio
async def test_any_json_is_passed_on_unchanged(valkey_url: str, prefix: str, data: Any) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        anna = await desk.connect("/tickets", ANNA)
        await desk.ask("POST", EMIT, {**EVENT, "room": "user:anna", "data": data})
        assert told(anna) == [("ticket:printed", data)]


@aio
async def test_json_that_could_harm_a_client_is_cleaned_or_refused(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        anna = await desk.connect("/tickets", ANNA)

        async def emit(data: bytes) -> Reply:
            head = b'{"namespace":"/tickets","room":"user:anna","event":"e","data":'
            return await desk.port.ask("POST", EMIT, head + data + b"}")

        assert (await emit(b' [ "\\ud800" ,\n"\xff" ] ')).status == 200
        assert told(anna) == [("e", ["\ufffd", "\ufffd"])]
        for bad in (b"[" * 100 + b"]" * 100, b"NaN", b"01", b'"\x1e"', b"1e999"):
            assert (await emit(bad)).status == 400, bad
        big = await emit(json.dumps("x" * 1_000).encode())
        assert (big.status, big.error["code"], big.error["field"]) == (413, "PAYLOAD_TOO_LARGE", "data")
        assert told(anna) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", TICKET), ("PUT", TICKET), ("DELETE", TICKET), ("POST", COMMENTS), ("POST", NOTIFICATIONS), ("POST", EMIT)],
)
@aio
async def test_every_push_needs_an_admins_token(valkey_url: str, prefix: str, method: str, path: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        assert (await desk.port.ask(method, path, {}, bearer=None)).status == 401
        assert (await desk.port.ask(method, path, {}, bearer=token("agent"))).status == 403

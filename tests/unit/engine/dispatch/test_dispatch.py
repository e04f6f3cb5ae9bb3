"""Dispatch: connecting, the order of calls, their answers, and what happens when a client disconnects."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from insightdesk_rt.app.logs import Lines
from insightdesk_rt.engine.dispatch.dispatch import Admission, Dispatch, DispatchSettings, first_rooms
from insightdesk_rt.engine.dispatch.namespace import ADMINS, STAFF, Namespace, Payload, Rate, event
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.tokens import secret_key, sign, verify
from insightdesk_rt.engine.wire.codec import Ack, Call, Connect
from insightdesk_rt.engine.wire.native import NativeCodec
from insightdesk_rt.engine.wire.socketio import SocketIOCodec
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.tokens import KEYS, claims, token


class Text(Payload):
    text: str


class Ids(Payload):
    ids: list[str]


class Sum(msgspec.Struct):
    total: int


class Desk(Namespace):
    """A namespace with one handler of each kind."""

    path = "/desk"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate = asyncio.Event()
        self.heard: list[str] = []
        self.ended: list[tuple[set[str], CloseReason]] = []
        self.first = True

    async def joined(self, socket: Socket) -> None:
        socket.emit("welcome", "{}")

    async def left(self, socket: Socket, why: CloseReason) -> None:
        self.ended.append((set(socket.rooms), why))

    @event("say", limit=Rate(3, 10))
    def say(self, socket: Socket, ask: Text) -> None:
        self.heard.append(ask.text)

    @event("many", limit=Rate(5, 10), weigh=lambda ask: len(ask.ids))
    def many(self, socket: Socket, ask: Ids) -> None:
        self.heard += ask.ids

    @event("sum")
    def sum(self, socket: Socket, ask: Text) -> Sum:
        return Sum(len(ask.text))

    @event("slow")
    async def slow(self, socket: Socket, ask: Text) -> dict[str, str]:
        await self.gate.wait()
        self.heard.append(ask.text)
        return {"text": ask.text}

    @event("staff", allow=STAFF)
    def staff(self, socket: Socket) -> None: ...

    @event("broken")
    def broken(self, socket: Socket) -> None:
        raise ZeroDivisionError

    @event("breaks-later")
    async def breaks_later(self, socket: Socket) -> Sum:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    @event("list")
    def listing(self, socket: Socket) -> dict[str, int]:
        return [1]  # type: ignore[return-value]

    @event("list-later")
    async def listing_later(self, socket: Socket) -> dict[str, int]:
        return [1]  # type: ignore[return-value]

    @event("file", binary=True)
    def file(self, socket: Socket, ask: Any) -> dict[str, int]:
        return {"size": len(ask["file"])}


class Admins(Namespace):
    path = "/admins"
    allow = ADMINS


class House:
    """A dispatch with its hub, and one client."""

    def __init__(self, settings: DispatchSettings = DispatchSettings(), **verified: User) -> None:
        self.node, self.clock = fakes.OneNode(), fakes.Clock()
        self.hub = Hub(self.node, ["/desk", "/admins"])
        self.desk = Desk(self.hub, self.clock)
        self.users = {"good": fakes.user(), "customer": fakes.user("c1", "customer"), **verified}
        self.dispatch = Dispatch(
            self.hub, [self.desk, Admins(self.hub, self.clock)], Admission(self.verify), self.clock, settings
        )
        self.client = fakes.AskingClient()

    def verify(self, token: object) -> User:
        if not token:
            raise RtError("AUTH_TOKEN_MISSING")
        if token not in self.users:
            raise RtError("AUTH_TOKEN_INVALID")
        return self.users[token]  # type: ignore[index]

    def ask(self, token: object = "good", namespace: str = "/desk", client: Any = None) -> None:
        auth = Raw(json.dumps({"token": token}).encode()) if token is not None else Raw(b"")
        self.dispatch.connect_received(client or self.client, Connect(namespace, auth))

    async def inside(self, token: object = "good", client: Any = None) -> Socket:
        client = client or self.client
        self.ask(token, client=client)
        await until(lambda: client.session.accepted and not client.sockets["/desk"].busy, "connected")
        client.texts.clear()
        return client.sockets["/desk"]  # type: ignore[no-any-return]

    def call(self, name: str, data: object = None, ack: int | None = None, client: Any = None) -> None:
        payload = Raw(b"" if data is None else json.dumps(data).encode())
        self.dispatch.call_received(client or self.client, Call("/desk", name, payload, ack))

    def sent(self) -> list[Any]:
        found = [json.loads(text) for text in self.client.texts]
        self.client.texts.clear()
        return found


@aio
async def test_a_client_with_a_valid_token_joins_its_first_rooms() -> None:
    house = House(good=fakes.user("u1", team="t1"))
    house.ask()
    await until(lambda: len(house.client.texts) == 2, "connect and welcome")
    connect, welcome = house.sent()
    assert connect["event"] == "connect" and len(connect["data"]["sid"]) == 20
    assert welcome["event"] == "welcome"
    socket = house.client.sockets["/desk"]
    assert socket.rooms == {"user:u1", "role:agent", "team:t1"} == set(first_rooms(socket.user))


@pytest.mark.parametrize(
    ("token", "namespace", "code"),
    [
        (None, "/desk", "AUTH_TOKEN_MISSING"),
        ("", "/desk", "AUTH_TOKEN_MISSING"),
        ("bad", "/desk", "AUTH_TOKEN_INVALID"),
        ("good", "/admins", "FORBIDDEN"),
    ],
)
def test_a_refused_client_receives_the_code_and_no_state_is_kept(token: object, namespace: str, code: str) -> None:
    house = House()
    house.ask(token, namespace)
    assert house.client.refusals == [(namespace, code)]
    assert house.sent()[0]["data"]["code"] == code
    assert house.client.sockets == {} and sum(house.dispatch.refused.values()) == 1


NOW_S = 1_800_000_000
FAULTS = {
    "signed with another secret": (sign(claims(exp=NOW_S + 60), secret_key(b"x" * 32, ("HS256",))), "signature"),
    "no exp": (token(exp=...), "no exp"),
    "no role": (token(exp=NOW_S + 60, role=...), "role is none of"),
    "an unknown role": (token(exp=NOW_S + 60, role="supervisor"), "role is none of"),
    "a number for sub": (token(exp=NOW_S + 60, sub=17), "sub is a number"),
    "an audience": (token(exp=NOW_S + 60, aud="desk"), "another audience"),
    "iat in the future": (token(exp=NOW_S + 60, iat=NOW_S + 90), "in the future"),
    "iat in milliseconds": (token(exp=NOW_S + 60, iat=NOW_S * 1000), "milliseconds"),
    "quotes": (f'"{token(exp=NOW_S + 60)}"', "quotes"),
    "a team that is a list": (token(exp=NOW_S + 60, iat=NOW_S, teamId=["a"]), "teamId"),
    "expired": (token(exp=NOW_S - 60, iat=NOW_S - 90), "expired"),
    "none": (None, "auth.token"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_kind_of_refusal_is_logged_with_its_reason(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise nine different mistakes in a token look the same, and integrators search for hours."""
    caplog.set_level(logging.INFO)
    text, words = FAULTS[fault]
    house = House()
    house.client.native = False
    house.dispatch = Dispatch(
        house.hub, [house.desk], Admission(lambda shown: verify(shown, KEYS, NOW_S)), house.clock, DispatchSettings()
    )
    for _ in range(5):
        house.ask(text)
    (record,) = [record for record in caplog.records if record.getMessage() == "connect refused"]
    assert words in record.why and record.namespace == "/desk"  # type: ignore[attr-defined]
    line = Lines("kv").format(record)
    assert text is None or not any(part in line for part in text.strip('"').split(".")), (
        "nothing of the token is logged"
    )
    ((code, why),) = house.dispatch.refused
    assert house.dispatch.refused[code, why] == 5 and code in line
    assert (words in why) is (code == "AUTH_TOKEN_INVALID"), "the metric has the reason for invalid tokens"


def test_a_connect_to_an_unknown_namespace_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    house = House()
    for number in range(100):
        house.ask(namespace=f"/{number}")
    assert [record.why for record in caplog.records] == ["there is no such namespace"]  # type: ignore[attr-defined]
    assert house.dispatch.refused == {("INVALID_NAMESPACE", ""): 100}


@pytest.mark.parametrize(("native", "words"), [(False, "io(url, {auth: {token}})"), (True, "Authorization: Bearer")])
def test_a_client_without_a_token_learns_where_to_put_it(native: bool, words: str) -> None:
    house = House()
    house.client.native = native
    house.ask(None)
    assert words in house.sent()[0]["data"]["message"]


def test_an_auth_that_is_not_an_object_is_refused() -> None:
    house = House()
    house.dispatch.connect_received(house.client, Connect("/desk", Raw(b"[1]")))  # type: ignore[arg-type]
    assert house.client.refusals == [("/desk", "AUTH_TOKEN_INVALID")]


def test_an_unknown_namespace_is_refused_as_invalid() -> None:
    house = House()
    house.ask(namespace="/random")
    assert "Invalid namespace" in house.client.texts[0] and house.client.refusals == [("/random", "")]


@aio
async def test_a_bearer_header_replaces_the_token() -> None:
    house = House()
    house.client.bearer = "good"
    house.ask(None)
    await until(lambda: house.client.session.accepted, "connected")


@aio
async def test_connections_of_a_user_are_limited() -> None:
    house = House(DispatchSettings(max_connections_per_user=1))
    await house.inside()
    second = fakes.AskingClient()
    house.ask(client=second)
    assert second.refusals == [("/desk", "TOO_MANY_CONNECTIONS")]
    house.dispatch.client_ended(house.client, CloseReason.TRANSPORT_CLOSE)  # type: ignore[arg-type]
    await house.inside(client=second)


@aio
async def test_results_and_errors_are_sent_as_acks() -> None:
    house = House()
    await house.inside()
    house.call("say", {"text": "hello"}, ack=0)
    house.call("sum", {"text": "hello"}, ack=1)
    house.call("say", {"text": 5}, ack=2)
    house.call("say", {}, ack=3)
    house.call("nothing", {}, ack=4)
    acks = {m["ack"]: m["data"] for m in house.sent()}
    assert acks[0] == {"ok": True} and acks[1] == {"ok": True, "total": 5}
    assert [acks[i]["error"]["code"] for i in (2, 3, 4)] == ["BAD_REQUEST", "BAD_REQUEST", "UNKNOWN_EVENT"]
    assert acks[2]["error"]["field"] == "text" == acks[3]["error"]["field"]
    assert house.desk.heard == ["hello"]


@aio
async def test_without_an_ack_the_same_error_is_an_event() -> None:
    house = House()
    await house.inside()
    house.call("say", {"text": None})
    (error,) = house.sent()
    assert error["event"] == "error" and error["data"]["code"] == "BAD_REQUEST" and error["data"]["event"] == "say"


@aio
async def test_an_event_over_its_rate_limit_is_refused_with_the_time_to_retry() -> None:
    house = House()
    await house.inside()
    other = fakes.AskingClient()
    await house.inside(client=other)
    for n in range(3):
        house.call("say", {"text": str(n)}, client=house.client if n else other)
    house.call("say", {"text": "too many"})
    (error,) = house.sent()
    assert error["data"]["code"] == "RATE_LIMITED" and error["data"]["retryAfter"] == 10
    assert house.desk.heard == ["0", "1", "2"], "all sockets of a user share one limit"
    house.clock.advance(10_001)
    house.call("say", {"text": "again"})
    assert house.desk.heard[-1] == "again"


@aio
async def test_a_call_counts_against_its_rate_limit_by_its_weight() -> None:
    """A call for many items must not bypass the limit of items."""
    house = House()
    await house.inside()
    house.call("many", {"ids": ["a", "b", "c"]}, ack=1)
    house.call("many", {"ids": ["d", "e", "g"]}, ack=2)
    house.call("many", {"ids": ["f"]}, ack=3)
    answers = {frame["ack"]: frame["data"] for frame in house.sent()}
    assert [answers[ack]["ok"] for ack in (1, 2, 3)] == [True, False, True], "five in ten seconds"
    assert answers[2]["error"]["code"] == "RATE_LIMITED" and answers[2]["error"]["retryAfter"] == 10
    assert house.desk.heard == ["a", "b", "c", "f"]


@aio
async def test_a_rate_window_outlives_the_connection_and_is_forgotten_once_it_has_run_out() -> None:
    house = House()
    await house.inside()
    for _ in range(3):
        house.call("say", {"text": "x"})
    house.dispatch.client_ended(house.client, CloseReason.TRANSPORT_CLOSE)  # type: ignore[arg-type]
    house.dispatch.sweep()
    house.client = fakes.AskingClient()
    await house.inside()
    house.call("say", {"text": "x"})
    assert house.sent()[0]["data"]["code"] == "RATE_LIMITED"
    house.dispatch.client_ended(house.client, CloseReason.TRANSPORT_CLOSE)  # type: ignore[arg-type]
    house.clock.advance(60_001)
    house.dispatch.sweep()
    assert house.dispatch.calls._windows == {}


@aio
async def test_calls_of_a_socket_run_in_order_of_arrival() -> None:
    house = House()
    await house.inside()
    house.call("slow", {"text": "first"}, ack=1)
    house.call("say", {"text": "second"}, ack=2)
    house.call("slow", {"text": "third"}, ack=3)
    assert house.desk.heard == []
    house.desk.gate.set()
    await until(lambda: len(house.client.texts) == 3, "three acks")
    assert house.desk.heard == ["first", "second", "third"]
    assert [m["ack"] for m in house.sent()] == [1, 2, 3]


@aio
async def test_the_number_of_waiting_calls_is_limited() -> None:
    house = House()
    await house.inside()
    house.call("slow", {"text": "x"})
    for n in range(1_000 + 1):
        house.call("sum", {"text": ""}, ack=n)
    (refused,) = house.sent()
    assert refused["ack"] == 1_000 and refused["data"]["error"]["code"] == "RATE_LIMITED"


@aio
async def test_the_bytes_of_a_users_waiting_calls_are_limited_across_sockets() -> None:
    """A thousand calls of a megabyte behind a slow one would be a gigabyte for each socket."""
    house = House()
    other = fakes.AskingClient()
    await house.inside()
    await house.inside(client=other)
    big = {"text": "x" * 1_000_000}
    for client in (house.client, other):
        house.call("slow", {"text": "x"}, client=client)
        for _ in range(4):
            house.call("sum", big, ack=1, client=client)
    assert len(house.client.texts) == 0
    refused = [json.loads(text)["data"]["error"]["code"] for text in other.texts]
    assert refused == ["RATE_LIMITED"], "seven calls wait"
    house.dispatch.client_ended(other, CloseReason.TRANSPORT_CLOSE)  # type: ignore[arg-type]
    for _ in range(3):
        house.call("sum", big, ack=2)
    assert house.client.texts == [], "the bytes of the ended socket are released"
    house.desk.gate.set()
    await until(lambda: len(house.client.texts) == 7, "all are answered")
    assert house.dispatch.calls._waiting_bytes == {}


class Unread(fakes.AskingClient):
    """A client with unread messages."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Any] = []

    def when_room(self, call: Any) -> None:
        self.waits.append(call)

    def reads(self) -> None:
        self.behind = False
        for call in self.waits:
            call()


@aio
async def test_calls_wait_while_the_client_has_not_read_earlier_answers() -> None:
    """Otherwise an agent who requests a hundred chats at once would be closed because of what customers wrote there."""
    house = House()
    house.client = client = Unread()
    await house.inside()
    client.behind = True
    for number in range(3):
        house.call("sum", {"text": "x" * number}, ack=number)
    await asyncio.sleep(0)
    assert house.sent() == [] and client.waits
    client.reads()
    await until(lambda: len(client.texts) == 3, "the answers")
    assert [frame["ack"] for frame in house.sent()] == [0, 1, 2]


@aio
async def test_a_call_that_waits_for_a_slow_reader_ends_with_its_client() -> None:
    house = House()
    house.client = client = Unread()
    socket = await house.inside()
    client.behind = True
    house.call("sum", {"text": ""}, ack=1)
    house.dispatch.client_ended(client, CloseReason.TRANSPORT_CLOSE)  # type: ignore[arg-type]
    await until(lambda: house.desk.ended and socket.task is None, "left")
    assert client.texts == []


@aio
async def test_calls_wait_until_the_connect_is_done() -> None:
    """On the native protocol a client may call before its connect is answered."""
    house = House()
    house.ask()
    house.call("sum", {"text": "ab"}, ack=1)
    await until(lambda: len(house.client.texts) == 3, "connect, welcome and ack")
    assert house.sent()[2] == {"ack": 1, "data": {"ok": True, "total": 2}}


@aio
async def test_roles_are_checked_per_event() -> None:
    house = House()
    await house.inside("customer")
    house.call("staff", ack=1)
    assert house.sent()[0]["data"]["error"]["code"] == "FORBIDDEN"


@pytest.mark.parametrize("native", [True, False], ids=["native", "socketio"])
@pytest.mark.parametrize("name", ["broken", "breaks-later", "list", "list-later"])
@aio
async def test_an_unexpected_error_is_logged_once_and_answered_internal(
    name: str, native: bool, caplog: pytest.LogCaptureFixture
) -> None:
    house = House()
    house.client.codec = NativeCodec() if native else SocketIOCodec()
    socket = await house.inside()
    house.call(name, ack=1)
    await until(lambda: not socket.busy, "answered")
    (text,) = house.client.texts
    assert '"code":"INTERNAL"' in text and text.startswith('{"ack":1,' if native else "43/desk,1[")
    (record,) = caplog.records
    assert record.message == "handler failed" and record.exc_info
    house.call("sum", {"text": "ab"}, ack=2)
    assert house.client.closed is None and '"total":2' in house.client.texts[-1]


@aio
async def test_attachments_reach_only_handlers_that_accept_them() -> None:
    house = House()
    await house.inside()
    holder = Raw(b'{"file":{"_placeholder":true,"num":0}}')
    house.dispatch.call_received(house.client, Call("/desk", "file", holder, 1, (b"abc",)))  # type: ignore[arg-type]
    house.dispatch.call_received(house.client, Call("/desk", "say", holder, 2, (b"abc",)))  # type: ignore[arg-type]
    first, second = house.sent()
    assert first["data"] == {"ok": True, "size": 3} and second["data"]["error"]["code"] == "BAD_REQUEST"


@aio
async def test_left_is_called_after_the_running_handler_with_the_last_rooms() -> None:
    house = House()
    socket = await house.inside()
    house.call("slow", {"text": "late"}, ack=1)
    await asyncio.sleep(0)
    house.dispatch.client_ended(house.client, CloseReason.PING_TIMEOUT)  # type: ignore[arg-type]
    assert list(house.hub.sockets("/desk")) == [] and house.desk.ended == []
    house.desk.gate.set()
    await until(lambda: house.desk.ended, "left")
    assert house.desk.heard == ["late"] and house.sent() == []
    assert house.desk.ended == [({"user:u1", "role:agent"}, CloseReason.PING_TIMEOUT)]
    assert socket.gone
    house.hub.check()


@aio
async def test_a_client_that_leaves_while_connecting_leaves_no_state() -> None:
    house = House()
    house.ask()
    house.dispatch.client_ended(house.client, CloseReason.TRANSPORT_CLOSE)  # type: ignore[arg-type]
    await house.dispatch.close(1)
    assert house.client.texts == [] and house.desk.ended == []
    assert list(house.hub.sockets("/desk")) == [] and list(house.hub.rooms("/desk").names()) == []


@aio
async def test_every_connect_that_comes_before_the_answer_is_answered_with_the_same_sid() -> None:
    house = House()
    for _ in range(3):
        house.ask()
    await until(lambda: house.client.sockets["/desk"].connected, "the answer")
    sid = house.client.sockets["/desk"].sid
    assert [frame["data"]["sid"] for frame in house.sent() if frame["event"] == "connect"] == [sid] * 3
    house.ask()
    assert [frame["data"]["sid"] for frame in house.sent() if frame["event"] == "connect"] == [sid], "after it, too"
    assert list(house.hub.sockets("/desk")) == [sid] and house.dispatch.user_count() == 1
    assert house.client.closed is None and house.desk.ended == []


@pytest.mark.parametrize("answered", [False, True])
@aio
async def test_a_second_connect_with_another_token_replaces_the_first(answered: bool) -> None:
    """When somebody signs out and in again, the second socket must not get the first one's sid, rooms and user."""
    house = House()
    if answered:
        await house.inside("good")
        first = house.client.sockets["/desk"]
    else:
        house.ask("good")
        first = house.client.sockets["/desk"]
    house.ask("customer")
    await until(lambda: house.client.sockets["/desk"].connected, "the second has joined")
    second = house.client.sockets["/desk"]
    assert second is not first and second.sid != first.sid and second.user.id == "c1"
    assert first.gone and list(house.hub.sockets("/desk")) == [second.sid]
    assert [frame["data"]["sid"] for frame in house.sent() if frame["event"] == "connect"] == [second.sid]
    await until(lambda: [why for _, why in house.desk.ended] == [CloseReason.CLIENT_LEFT] * answered, "left")


@aio
async def test_a_second_connect_with_a_bad_token_ends_the_first_and_is_refused() -> None:
    house = House()
    await house.inside()
    house.ask("wrong")
    assert house.client.refusals == [("/desk", "AUTH_TOKEN_INVALID")]
    assert house.client.sockets == {} and list(house.hub.sockets("/desk")) == []


@aio
async def test_leaving_one_namespace_keeps_the_connection() -> None:
    house = House()
    await house.inside()
    house.dispatch.leave_received(house.client, "/desk")  # type: ignore[arg-type]
    await until(lambda: house.desk.ended, "left")
    assert house.desk.ended[0][1] is CloseReason.CLIENT_LEFT and house.client.closed is None
    await house.inside()


@aio
async def test_a_clients_ack_reaches_the_code_that_waits_for_it() -> None:
    house = House()
    socket = await house.inside()
    asked = asyncio.ensure_future(socket.request("ask", "{}", 1))
    await asyncio.sleep(0)
    house.dispatch.ack_received(house.client, Ack("/desk", 0, Raw(b"[1]")))  # type: ignore[arg-type]
    assert bytes(await asked) == b"[1]"


@aio
async def test_a_connection_is_closed_when_its_token_expires() -> None:
    now = int(time.time())
    house = House(good=msgspec.structs.replace(fakes.user(), expires_s=now + 100))
    await house.inside()
    house.clock.advance(41_000)
    house.users["good"] = house.client.sockets["/desk"].user
    house.clock.advance(1)
    assert house.client.closed is None
    # the wheel says a minute is left; the wall clock of this test still says 100 s, so it is asked again later
    house.client.sockets["/desk"].user = msgspec.structs.replace(house.users["good"], expires_s=now + 30)
    house.clock.advance(100_000)
    (expiring,) = [m for m in house.sent() if m["event"] == "session:expiring"]
    assert expiring["data"]["expiresAt"] == now + 30
    house.clock.advance(31_000)
    assert house.sent()[-1]["data"]["code"] == "AUTH_TOKEN_EXPIRED"
    assert house.client.closed is CloseReason.TOKEN_EXPIRED


@aio
async def test_session_refresh_extends_all_sockets_of_the_user() -> None:
    house = House()
    later = msgspec.structs.replace(fakes.user(), expires_s=4_100_000_000)
    house.users |= {"next": later, "other": fakes.user("u2"), "promoted": fakes.user("u1", "admin")}
    socket = await house.inside()
    for ack, shown in enumerate(["next", "other", "promoted", "bad", 7]):
        house.call("session:refresh", {"token": shown}, ack=ack)
    await until(lambda: len(house.client.texts) == 5, "each is answered")
    acks = [m["data"] for m in house.sent()]
    assert acks[0] == {"ok": True, "expiresAt": 4_100_000_000} and socket.user == later
    assert [a["error"]["code"] for a in acks[1:]] == ["FORBIDDEN", "FORBIDDEN", "AUTH_TOKEN_INVALID", "BAD_REQUEST"]


@aio
async def test_while_valkey_is_unreachable_the_transport_is_closed_so_that_the_client_reconnects() -> None:
    """A stock client retries after a lost transport, but not after a CONNECT_ERROR."""
    house = House()

    async def away(socket: Socket, rooms: object) -> None:
        raise RtError("UNAVAILABLE")

    house.hub.enter = away  # type: ignore[assignment, method-assign]
    house.ask()
    await until(lambda: house.client.closed, "closed")
    assert house.client.closed is CloseReason.UNAVAILABLE and house.client.texts == []
    assert house.client.sockets == {}


@aio
async def test_a_client_can_be_refused_because_of_its_address() -> None:
    house = House()

    def shut(client: Any) -> None:
        assert client is house.client
        raise RtError("FORBIDDEN")

    house.dispatch._admission = house.dispatch._admission._replace(admit=shut)
    house.ask()
    assert house.client.refusals == [("/desk", "FORBIDDEN")] and house.client.sockets == {}

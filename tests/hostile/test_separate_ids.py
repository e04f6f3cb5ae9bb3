"""With `user_ids = "separate"`, a customer and a staff member with the same id never influence each other.

Each test checks one kind of data per user, with two people of one id. `server` of conftest.py has shared ids.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.kit import QUIET_S, Caller, Target
from tests.support.aio import aio
from tests.support.server import ServerProcess

DESK = ("/tickets", "/chat", "/notifications", "/presence")
MAX_CONNECTIONS = 8


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("apart"),
        user_ids="separate",
        presence_grace_ms=100,
        drain_seconds=0,
        max_connections_per_user=MAX_CONNECTIONS,
    )
    server.start()
    yield server
    code = server.stop()
    server.assert_quiet()
    assert code == 0, server.last_words()


class Two:
    """A customer and an agent of one id, and a colleague of the agent."""

    def __init__(self, server: ServerProcess, id: str) -> None:
        self.server, self.id, self.target = server, id, Target(server.port)
        self.tokens = {
            role: server.token(id, role, "" if role == "customer" else "t") for role in ("customer", "agent")
        }

    async def __aenter__(self) -> Two:
        self.customer = await Caller.to(self.target, self.tokens["customer"], *DESK)
        self.agent = await Caller.to(self.target, self.tokens["agent"], *DESK)
        self.mate = await Caller.to(self.target, self.server.token("mate", "agent", "t"), *DESK)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.target.close()

    async def api(self, method: str, path: str, body: Any = None, status: int | tuple[int, ...] = (200, 201)) -> Any:
        got, answer = await self.server.push(method, "/api/v1" + path, body)
        wanted = (status,) if isinstance(status, int) else status
        assert got in wanted, f"{method} {path}: {got} {answer}"
        return answer

    async def statuses(self, **lists: list[str]) -> list[dict[str, Any]]:
        query = "&".join(f"{name}={','.join(ids)}" for name, ids in lists.items())
        found: list[dict[str, Any]] = (await self.api("GET", f"/presence?{query}"))["items"]
        return found


async def quiet() -> None:
    await asyncio.sleep(QUIET_S)


@aio
async def test_a_customer_and_an_agent_of_one_id_have_separate_rooms(apart: ServerProcess) -> None:
    async with Two(apart, "41") as two:
        user, customer = await two.api("GET", "/users/41"), await two.api("GET", "/customers/41")
        assert "user:41" in user["rooms"] and "customer:41" not in user["rooms"]
        assert "customer:41" in customer["rooms"] and "user:41" not in customer["rooms"]
        assert (user["role"], customer["role"]) == ("agent", "customer")
        assert (user["connectionCount"], customer["connectionCount"]) == (1, 1)
        for room, told, other in (("user:41", two.agent, two.customer), ("customer:41", two.customer, two.agent)):
            await two.api("POST", "/emit", {"namespace": "/tickets", "room": room, "event": f"to {room}", "data": 1})
            await told.until(lambda told=told, room=room: told.heard(f"to {room}"), room)
            await quiet()
            assert not other.heard(f"to {room}")


@aio
async def test_an_id_that_looks_like_a_customers_key_gives_no_access_to_that_customer(apart: ServerProcess) -> None:
    """No `sub` that a token may contain gives access to a customer's rooms or stored data."""
    async with Two(apart, "40") as two:
        tricky = ["customer:40", "customer\\t40", "customer 40", "user:40"]
        people = [await Caller.to(two.target, apart.token(id, "agent", "t"), *DESK) for id in tricky]
        await two.api("POST", "/notifications", {"customerId": "40", "type": "x", "title": "only for customer 40"})
        await two.customer.until(lambda: two.customer.heard("notification"), "the bell")
        await quiet()
        for one in (*people, two.agent):
            assert not one.heard("notification")


@aio
async def test_a_customer_and_an_agent_of_one_id_have_separate_notifications(apart: ServerProcess) -> None:
    async with Two(apart, "42") as two:
        await two.api("POST", "/notifications", {"userId": "42", "type": "x", "title": "for agent 42", "id": "a"})
        await two.api(
            "POST", "/notifications", {"customerIds": ["42"], "type": "x", "title": "for customer 42", "id": "c"}
        )
        for caller in (two.agent, two.customer):
            await caller.until(lambda caller=caller: caller.heard("notification"), "the bell")
        await quiet()
        for caller, own, other in ((two.agent, "a", "c"), (two.customer, "c", "a")):
            assert [one["id"] for one in caller.heard("notification")] == [own]
            listed = await caller.call("/notifications", "notification:list", {})
            assert ([one["id"] for one in listed["notifications"]], listed["unread"]) == ([own], 1)
            assert await caller.outcome("/notifications", "notification:markRead", {"id": other}) == "NOT_FOUND"
        assert (await two.customer.call("/notifications", "notification:markAllRead", {}))["unread"] == 0
        assert (await two.agent.call("/notifications", "notification:list", {}))["unread"] == 1
        assert not two.agent.heard("notification:read")


@aio
async def test_a_customer_and_an_agent_of_one_id_have_separate_presence(apart: ServerProcess) -> None:
    async with Two(apart, "43") as two:
        ask = {"userIds": ["43"], "customerIds": ["43"]}
        assert await two.mate.outcome("/presence", "presence:subscribe", ask) == "ok"
        (listed,) = two.mate.heard("presence:list")
        assert [{**one, "lastSeen": 0} for one in listed] == [
            {"userId": "43", "status": "online", "lastSeen": 0},
            {"customerId": "43", "status": "online", "lastSeen": 0},
        ]
        two.mate.events.clear()
        assert await two.customer.outcome("/presence", "presence:status", {"status": "busy"}) == "ok"
        await two.mate.until(lambda: two.mate.heard("presence:update"), "the customer's status")
        assert two.mate.heard("presence:update") == [{"customerId": "43", "status": "busy"}]
        assert [one["status"] for one in await two.statuses(userIds=["43"], customerIds=["43"])] == ["online", "busy"]
        two.mate.events.clear()
        await two.agent.close()

        def told() -> list[dict[str, Any]]:
            return [one for one in two.mate.heard("presence:update") if "43" in one.values()]

        await two.mate.until(told, "the agent goes offline")
        assert [(one.get("userId"), one["status"]) for one in told()] == [("43", "offline")]
        agent, customer = await two.statuses(userIds=["43"], customerIds=["43"])
        assert (agent["userId"], agent["status"], "customerId" in agent) == ("43", "offline", False)
        assert (customer["userId"], customer["customerId"], customer["status"]) == (None, "43", "busy")
        staff = (await two.api("GET", "/presence"))["items"]
        assert "43" in {one["userId"] for one in staff} and not any("customerId" in one for one in staff)


@aio
async def test_a_customer_may_watch_their_own_status_and_no_agents(apart: ServerProcess) -> None:
    async with Two(apart, "44") as two:
        ask = {"userIds": ["44"]}
        assert await two.customer.outcome("/presence", "presence:subscribe", ask) == "FORBIDDEN"
        own = {"userIds": [], "customerIds": ["44"]}
        assert await two.customer.outcome("/presence", "presence:subscribe", own) == "ok"


@aio
async def test_a_customer_and_an_agent_of_one_id_have_separate_limits(apart: ServerProcess) -> None:
    async with Two(apart, "45") as two:
        outcomes = [await two.customer.outcome("/presence", "presence:status", {"status": "busy"}) for _ in range(7)]
        assert outcomes == ["ok"] * 5 + ["RATE_LIMITED"] * 2
        assert await two.agent.outcome("/presence", "presence:status", {"status": "busy"}) == "ok"
        offenders = (await two.api("GET", "/ratelimits"))["offenders"]
        assert [(one["userId"], one["customerId"]) for one in offenders if one.get("customerId") == "45"] == [
            (None, "45")
        ]
        assert not [one for one in offenders if one["userId"] == "45"]

        more = [Caller(await two.target.socket()) for _ in range(MAX_CONNECTIONS)]
        let_in = [await one.join("/tickets", two.tokens["customer"]) for one in more]
        assert let_in == [True] * (MAX_CONNECTIONS - 1) + [False]
        assert await Caller(await two.target.socket()).join("/tickets", two.tokens["agent"])


@pytest.mark.parametrize("what", ["revocations", "blocks"])
@aio
async def test_a_customer_and_an_agent_of_one_id_are_blocked_and_revoked_separately(
    apart: ServerProcess, what: str
) -> None:
    id = f"46{what}"
    async with Two(apart, id) as two:
        for field, out, stays, count in (("customerId", two.customer, two.agent, 1), ("userId", two.agent, None, 2)):
            dry = await two.api("POST", f"/{what}", {field: id, "reason": "try", "dryRun": True})
            assert dry["count"] == count
            made = await two.api("POST", f"/{what}", {field: id, "reason": "test"})
            assert (made["count"], made["missing"]) == (count, [])
            await out.until(lambda out=out: out.code is not None, "it is closed")
            if stays is not None:
                assert await stays.outcome("/tickets", "ticket:unsubscribe", {"ticketId": "x"}) == "ok"
                assert await Caller(await two.target.socket()).join("/chat", two.tokens["agent"])
            (shown,) = [one for one in (await two.api("GET", f"/{what}"))["items"] if one["id"] == made["id"]]
            assert (shown["userId"], shown.get("customerId")) == ((None, id) if stays else (id, None))
            about = await two.api("GET", f"/customers/{id}" if stays else f"/users/{id}")
            assert [one["id"] for one in about[what]] == [made["id"]]
        for role in two.tokens:
            assert not await Caller(await two.target.socket()).join("/chat", two.tokens[role])


@aio
async def test_a_customer_and_an_agent_of_one_id_are_found_and_disconnected_separately(apart: ServerProcess) -> None:
    async with Two(apart, "47") as two:
        for name, role in (("user", "agent"), ("customer", "customer")):
            found = (await two.api("GET", f"/connections?{name}=47"))["items"]
            assert [one["role"] for one in found] == [role]
        both = await two.api("GET", "/connections?user=47&customer=47", status=400)
        assert both["error"]["field"] == "customer"
        done = await two.api("POST", "/customers/47/disconnect", {"reason": "test"})
        assert done["count"] == 1
        await two.customer.until(lambda: two.customer.code is not None or two.customer.left, "sent away")
        assert await two.agent.outcome("/tickets", "ticket:unsubscribe", {"ticketId": "x"}) == "ok"
        closed = (await two.api("GET", "/connections/closed?customer=47"))["items"]
        assert {one["role"] for one in closed} <= {"customer"}
        assert not (await two.api("GET", "/connections/closed?user=47"))["items"]
        where = {"where": {"customer": "47"}, "reason": "test", "dryRun": True}
        assert (await two.api("POST", "/connections/disconnect", where))["count"] == 0
        assert (await two.api("POST", "/users/47/disconnect", {"reason": "test", "dryRun": True}))["count"] == 1


@aio
async def test_typing_is_shown_to_the_other_user_of_the_same_id(apart: ServerProcess) -> None:
    async with Two(apart, "48") as two:
        await two.api("PUT", "/tickets/typed48", {"subject": "x", "teamId": "t", "requesterId": "48"})
        for caller in (two.customer, two.agent):
            assert await caller.outcome("/tickets", "ticket:subscribe", {"ticketId": "typed48"}) == "ok"
        assert await two.customer.outcome("/tickets", "ticket:typing", {"ticketId": "typed48"}) == "ok"
        await two.agent.until(lambda: two.agent.heard("ticket:typing"), "the customer types")
        assert two.agent.heard("ticket:typing")[0]["user"] == {"id": "48", "name": "48", "role": "customer"}
        late = await Caller.to(two.target, two.tokens["agent"], "/tickets")
        typing = (await late.call("/tickets", "ticket:subscribe", {"ticketId": "typed48"}))["typing"]
        assert typing == [{"id": "48", "name": "48", "role": "customer"}]
        assert await two.agent.outcome("/tickets", "ticket:typing", {"ticketId": "typed48"}) == "ok"
        await two.customer.until(lambda: two.customer.heard("ticket:typing"), "the agent types")
        assert await two.agent.outcome("/tickets", "ticket:stopTyping", {"ticketId": "typed48"}) == "ok"
        await two.customer.until(lambda: two.customer.heard("ticket:stopTyping"), "the agent stops")
        assert two.customer.heard("ticket:stopTyping") == [{"ticketId": "typed48", "userId": "48"}]
        assert not two.agent.heard("ticket:stopTyping"), "the customer still types"
        assert await two.customer.outcome("/tickets", "ticket:stopTyping", {"ticketId": "typed48"}) == "ok"
        await two.agent.until(lambda: two.agent.heard("ticket:stopTyping"), "the customer stops")
        assert two.agent.heard("ticket:stopTyping") == [{"ticketId": "typed48", "customerId": "48"}]


@aio
async def test_a_customer_and_an_agent_of_one_id_can_chat_with_each_other(apart: ServerProcess) -> None:
    """The same id and the same clientId on both sides are two people and two messages."""
    async with Two(apart, "49") as two:
        started = await two.customer.call("/chat", "chat:start", {"clientId": "1", "teamId": "t"})
        chat = {"conversationId": started["conversationId"]}
        assert await two.agent.outcome("/chat", "chat:accept", chat) == "ok"
        for caller, text in ((two.customer, "I ask"), (two.agent, "I answer")):
            assert await caller.outcome("/chat", "chat:message", {**chat, "text": text, "clientId": "m1"}) == "ok"
        for caller in (two.customer, two.agent):
            await caller.until(lambda caller=caller: len(caller.heard("chat:message")) == 2, "both messages")
            assert [one["author"]["role"] for one in caller.heard("chat:message")] == ["customer", "agent"]
        assert await two.customer.outcome("/chat", "chat:typing", chat) == "ok"
        await two.agent.until(lambda: two.agent.heard("chat:typing"), "the customer types")
        assert await two.customer.outcome("/chat", "chat:stopTyping", chat) == "ok"
        await two.agent.until(lambda: two.agent.heard("chat:stopTyping"), "the customer stops")
        assert two.agent.heard("chat:stopTyping")[0]["customerId"] == "49"
        assert await two.customer.outcome("/chat", "chat:read", {**chat, "upTo": 2}) == "ok"
        await two.agent.until(lambda: two.agent.heard("chat:read"), "the customer has read")
        assert two.agent.heard("chat:read")[-1] == {**chat, "customerId": "49", "upTo": 2}
        view = await two.api("GET", f"/chats/{chat['conversationId']}")
        assert (view["customer"]["online"], view["agent"]["online"]) == (True, True)
        two.agent.events.clear()
        await two.customer.close()
        await two.agent.until(lambda: two.agent.heard("chat:presence"), "the customer went")
        assert two.agent.heard("chat:presence") == [{**chat, "customerId": "49", "online": False}]
        view = await two.api("GET", f"/chats/{chat['conversationId']}")
        assert (view["customer"]["online"], view["agent"]["online"]) == (False, True)
        back = await Caller.to(two.target, two.tokens["customer"], "/chat")
        await back.until(lambda: back.heard("chat:conversation"), "the customer's own chat")
        await two.agent.until(lambda: len(two.agent.heard("chat:presence")) == 2, "the customer is back")
        assert await two.agent.outcome("/chat", "chat:close", chat) == "ok"


@aio
async def test_an_agents_chats_do_not_count_as_those_of_the_customer_of_that_id(apart: ServerProcess) -> None:
    """A customer may have ten open conversations; those accepted by the agent of the same id do not count."""
    async with Two(apart, "50") as two:
        asker = await Caller.to(two.target, apart.token("asker", "customer"), "/chat")
        taken = []
        for number in range(10):
            asked = await asker.call("/chat", "chat:start", {"clientId": str(number), "teamId": "t"})
            taken.append({"conversationId": asked["conversationId"]})
            assert await two.agent.outcome("/chat", "chat:accept", taken[-1]) == "ok"
        started = await two.customer.call("/chat", "chat:start", {"clientId": "1"})
        assert started["ok"], started
        anew = await Caller.to(two.target, two.tokens["customer"], "/chat")
        await anew.until(lambda: anew.heard("chat:conversation"), "the customer's own")
        await quiet()
        assert [one["conversation"]["conversationId"] for one in anew.heard("chat:conversation")] == [
            started["conversationId"]
        ]
        assert await two.customer.outcome("/chat", "chat:close", {"conversationId": started["conversationId"]}) == "ok"
        for chat in taken:
            assert await two.agent.outcome("/chat", "chat:close", chat) == "ok"


@aio
async def test_a_chat_is_transferred_to_the_agent_and_not_to_the_customer_of_that_id(apart: ServerProcess) -> None:
    async with Two(apart, "51-agent") as two:
        customer = await Caller.to(two.target, apart.token("51", "customer"), *DESK)
        asker = await Caller.to(two.target, apart.token("asker51", "customer"), "/chat")
        asked = await asker.call("/chat", "chat:start", {"clientId": "1", "teamId": "t"})
        chat = {"conversationId": asked["conversationId"]}
        assert await two.mate.outcome("/chat", "chat:accept", chat) == "ok"
        hand = {**chat, "agentId": "51", "note": "secret"}
        assert await two.mate.outcome("/chat", "chat:transfer", hand) == "CONFLICT", "the customer is no agent"
        agent = await Caller.to(two.target, apart.token("51", "agent", "t"), "/chat")
        customer.events.clear()
        assert await two.mate.outcome("/chat", "chat:transfer", hand) == "ok"
        await agent.until(lambda: agent.heard("chat:transferred"), "it is handed over")
        await quiet()
        assert customer.events == []
        assert await agent.outcome("/chat", "chat:close", chat) == "ok"


@aio
async def test_each_field_of_a_ticket_names_either_staff_or_customers(apart: ServerProcess) -> None:
    """`watchers` and `assigneeId` are staff, `requesterId` and `customerWatchers` are customers."""
    async with Two(apart, "52") as two:
        path, of = "/tickets/of52", {"ticketId": "of52"}
        await two.api("PUT", path, {"subject": "x", "teamId": "other", "watchers": ["52"], "assigneeId": "52"})
        assert await two.customer.outcome("/tickets", "ticket:subscribe", of) == "FORBIDDEN"
        await two.agent.until(lambda: two.agent.heard("ticket:assigned"), "the agent's assignment")
        await quiet()
        assert not two.customer.heard("ticket:assigned")
        await two.api("PUT", path, {"customerWatchers": ["52"]})
        assert (await two.api("GET", path))["customerWatchers"] == ["52"]
        assert await two.customer.outcome("/tickets", "ticket:subscribe", of) == "ok"
        assert await two.agent.outcome("/tickets", "ticket:subscribe", of) == "FORBIDDEN"
        await two.api("PUT", path, {"customerWatchers": [], "priority": "high"})
        await two.customer.until(lambda: two.customer.heard("ticket:unsubscribed"), "out of the ticket")
        assert "customerWatchers" not in json.dumps(two.customer.heard("ticket:updated"))
        await two.api("PUT", path, {"requesterId": "52"})
        again = await two.customer.call("/tickets", "ticket:subscribe", {**of, "since": "0-0"})
        assert again["ok"]
        await two.api("POST", "/access/recheck", {"customerId": "52"})
        await two.api(
            "POST", f"{path}/comments", {"kind": "note", "author": {"id": "1", "name": "x"}, "excerpt": "secret"}
        )
        await quiet()
        assert "secret" not in json.dumps(two.customer.events)


@aio
async def test_only_its_own_user_can_resume_a_session(apart: ServerProcess) -> None:
    async with Two(apart, "53") as two:
        first = await Caller.to(two.target, two.tokens["customer"], "/tickets")
        pid = first.pids["/tickets"]
        await first.close()
        thief = Caller(await two.target.socket())
        await thief.join("/tickets", two.tokens["agent"], pid=pid)
        assert thief.pids["/tickets"] != pid
        owner = Caller(await two.target.socket())
        await owner.join("/tickets", two.tokens["customer"], pid=pid)
        assert owner.pids["/tickets"] == pid


CUSTOMER_ID: list[tuple[str, str, Any, str]] = [
    ("GET", "/customers/1", None, "customerId"),
    ("POST", "/customers/1/disconnect", {"reason": "x"}, "customerId"),
    ("GET", "/connections?customer=1", None, "customer"),
    ("GET", "/connections/closed?customer=1", None, "customer"),
    ("POST", "/connections/disconnect", {"where": {"customer": "1"}, "reason": "x"}, "customer"),
    ("GET", "/presence?customerIds=1", None, "customerIds"),
    ("GET", "/events?customer=1", None, "customer"),
    ("POST", "/notifications", {"customerId": "1", "type": "x", "title": "x"}, "customerId"),
    ("POST", "/notifications", {"customerIds": ["1"], "type": "x", "title": "x"}, "customerIds"),
    ("POST", "/revocations", {"customerId": "1", "reason": "x"}, "customerId"),
    ("POST", "/blocks", {"customerId": "1", "reason": "x"}, "customerId"),
    ("POST", "/access/recheck", {"customerId": "1"}, "customerId"),
    ("PUT", "/tickets/refused", {"subject": "x", "customerWatchers": ["1"]}, "customerWatchers"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"), CUSTOMER_ID, ids=lambda one: one if isinstance(one, str) else ""
)
@aio
async def test_with_shared_ids_fields_for_customers_are_refused(
    server: ServerProcess, method: str, path: str, body: Any, field: str
) -> None:
    """A caller that uses them expects separate ids, and would also block the agent."""
    status, answer = await server.push(method, "/api/v1" + path, body)
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (400, "BAD_REQUEST", field)
    assert "user_ids" in answer["error"]["message"]


@aio
async def test_with_shared_ids_one_id_is_one_person(server: ServerProcess) -> None:
    async with Two(server, "60") as two:
        error = await two.mate.call("/presence", "presence:subscribe", {"userIds": [], "customerIds": ["60"]})
        assert error["error"]["field"] == "customerIds"
        await two.api("POST", "/notifications", {"userId": "60", "type": "x", "title": "for both"})
        for caller in (two.customer, two.agent):
            await caller.until(lambda caller=caller: caller.heard("notification"), "the bell")


@aio
async def test_the_console_learns_that_ids_are_separate(apart: ServerProcess, server: ServerProcess) -> None:
    """Otherwise a click on a customer's name would show, and block, the agent of that id."""
    _, session = await apart.push("GET", "/api/v1/session")
    assert session["separateIds"] is True
    _, session = await server.push("GET", "/api/v1/session")
    assert "separateIds" not in session
    async with Two(apart, "54") as two:
        shown = {
            one["role"]: one["user"]
            for one in (await two.api("GET", "/connections"))["items"]
            if one["user"]["id"] == "54"
        }
        assert (shown["customer"].get("role"), shown["agent"].get("role")) == ("customer", None)

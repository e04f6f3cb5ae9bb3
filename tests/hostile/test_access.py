"""Access control: every event, sent by users without permission, with ids of others and with invalid ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from insightdesk_rt.engine import ids
from tests.hostile.kit import QUIET_S, Caller, Target
from tests.support.aio import aio
from tests.support.server import ServerProcess

DESK = ("/tickets", "/chat", "/notifications", "/presence")
# Invalid ids that some parser might accept: separators of rooms and channels, patterns, look-alikes, sizes.
CRAFTED = [
    "1:x", "*", "a\nb", "mine\n", "x" * 100_000, "\uff4dine", "mine\u200b", "mine ", "ticket:mine", "../mine", "mine\0",
    "{mine}", "", "-", "role:agent", "\u043cine", "a b", "[a-z]", "$(id)", "\u202emine", "mine#", "mine,ours",
]  # fmt: skip


async def people(target: Target, tokens: dict[str, str]) -> dict[str, Caller]:
    return {name: await Caller.to(target, token, *DESK) for name, token in tokens.items()}


def strangers(server: ServerProcess) -> dict[str, str]:
    """Tokens of users who have no access to the data of a customer and of the team "red"."""
    return {
        "a customer": server.token("mallory", "customer"),
        "a customer with the team in the token": server.token("molly", "customer", "red"),
        "an agent of another team": server.token("bob", "agent", "blue"),
        "an agent of no team": server.token("nobody", "agent"),
    }


@aio
async def test_nobody_opens_types_in_or_views_a_ticket_that_is_not_theirs(server: ServerProcess) -> None:
    await server.push("PUT", "/api/v1/tickets/theirs", {"subject": "x", "requesterId": "carl", "teamId": "red"})
    target = Target(server.port)
    for name, caller in (await people(target, strangers(server))).items():
        for event, more in (
            ("ticket:subscribe", {}),
            ("ticket:subscribe", {"since": "0-0"}),
            ("ticket:typing", {}),
            ("ticket:stopTyping", {}),
            ("ticket:view", {"state": "viewing"}),
        ):
            ask = {"ticketId": "theirs", **more}
            assert await caller.outcome("/tickets", event, ask) == "FORBIDDEN", f"{name}: {event}"
        assert "theirs" not in json.dumps(caller.events)
    await target.close()


@aio
async def test_an_invalid_id_is_refused_before_it_becomes_a_room(server: ServerProcess) -> None:
    target = Target(server.port)
    ada = await Caller.to(target, server.token("craft", "agent", "red"), *DESK)
    asks: list[tuple[str, str, Callable[[str], Any]]] = [
        ("/tickets", "ticket:subscribe", lambda id: {"ticketId": id}),
        ("/tickets", "ticket:unsubscribe", lambda id: {"ticketId": id}),
        ("/chat", "chat:join", lambda id: {"conversationId": id}),
        ("/presence", "presence:subscribe", lambda id: {"userIds": [id]}),
    ]
    for namespace, event, payload in asks:
        for crafted in CRAFTED:
            outcome = await ada.outcome(namespace, event, payload(crafted))
            # A user's id may be any visible text: the part before the first ':' of a room name is never part of the id.
            wanted = "ok" if namespace == "/presence" and ids.USER.fits(crafted) else "BAD_REQUEST"
            assert outcome == wanted, f"{event} {crafted[:20]!r}: {outcome}"
    _, who = await server.push("GET", "/api/v1/users/craft")
    joined = [one.partition(":")[0] for one in who["rooms"]]
    assert set(joined) == {"user", "role", "team", "presence"}
    await target.close()


@aio
async def test_an_internal_note_reaches_no_customer_live_or_later(server: ServerProcess) -> None:
    await server.push("PUT", "/api/v1/tickets/noted", {"subject": "x", "requesterId": "carl", "teamId": "red"})
    target = Target(server.port)
    carl = await Caller.to(target, server.token("carl", "customer", "red"), *DESK)
    ada = await Caller.to(target, server.token("ada", "agent", "red"), *DESK)
    offset = ""
    for caller in (carl, ada):
        offset = (await caller.call("/tickets", "ticket:subscribe", {"ticketId": "noted"}))["offset"]
    note = {"kind": "note", "author": {"id": "ada", "name": "Ada"}, "excerpt": "a secret of the desk"}
    assert (await server.push("POST", "/api/v1/tickets/noted/comments", note))[0] == 201
    await server.push("PUT", "/api/v1/tickets/noted", {"watchers": ["secret-watcher"], "teamId": "purple"})
    await server.push("PUT", "/api/v1/tickets/noted", {"teamId": "red"})
    await ada.until(lambda: ada.heard("ticket:commented"), "the agent receives the note")
    for since in (offset, "0-0"):
        await carl.call("/tickets", "ticket:unsubscribe", {"ticketId": "noted"})
        await carl.call("/tickets", "ticket:subscribe", {"ticketId": "noted", "since": since})
    await asyncio.sleep(QUIET_S)
    assert "secret" not in json.dumps(carl.events)
    assert "purple" not in json.dumps(carl.events)
    assert not carl.heard("ticket:viewers")
    await target.close()


@aio
async def test_nobody_reads_or_touches_a_conversation_that_is_not_theirs(server: ServerProcess) -> None:
    target = Target(server.port)
    carl = await Caller.to(target, server.token("carla", "customer"), *DESK)
    ada = await Caller.to(target, server.token("ada", "agent", "red"), *DESK)
    others = await people(target, strangers(server))
    start = {"clientId": "1", "text": "between us", "teamId": "red"}
    chat = (await carl.call("/chat", "chat:start", start))["conversationId"]
    tries: list[tuple[str, dict[str, Any]]] = [
        ("chat:join", {}),
        ("chat:join", {"since": "0-0"}),
        ("chat:history", {}),
        ("chat:accept", {}),
        ("chat:message", {"text": "it is me", "clientId": "e"}),
        ("chat:read", {"upTo": 1}),
        ("chat:typing", {}),
        ("chat:stopTyping", {}),
        ("chat:transfer", {"teamId": "blue"}),
        ("chat:close", {}),
        ("chat:rate", {"score": 1}),
    ]
    for state in ("waiting", "active", "closed"):
        if state == "active":
            assert await ada.outcome("/chat", "chat:accept", {"conversationId": chat}) == "ok"
        if state == "closed":
            assert await ada.outcome("/chat", "chat:close", {"conversationId": chat}) == "ok"
        for name, caller in others.items():
            for event, more in tries:
                outcome = await caller.outcome("/chat", event, {"conversationId": chat, **more})
                assert outcome == "FORBIDDEN", f"{state}: {name}: {event}: {outcome}"
    await asyncio.sleep(QUIET_S)
    for name, caller in others.items():
        assert chat not in json.dumps(caller.events), name
    await target.close()


@aio
async def test_a_customer_cannot_accept_transfer_or_be_given_a_conversation(
    server: ServerProcess,
) -> None:
    target = Target(server.port)
    carl = await Caller.to(target, server.token("carlo", "customer", "red"), *DESK)
    mallory = await Caller.to(target, server.token("mallory", "customer"), *DESK)
    ada = await Caller.to(target, server.token("ada", "agent", "red"), *DESK)
    start = {"clientId": "1", "text": "hello", "teamId": "red"}
    chat = {"conversationId": (await carl.call("/chat", "chat:start", start))["conversationId"]}
    assert await carl.outcome("/chat", "chat:accept", chat) == "FORBIDDEN"
    assert await carl.outcome("/chat", "chat:transfer", {**chat, "agentId": "carlo"}) == "FORBIDDEN"
    assert await ada.outcome("/chat", "chat:start", start) == "FORBIDDEN"
    assert await ada.outcome("/chat", "chat:accept", chat) == "ok"
    for somebody in ("mallory", "carlo", "nobody-at-all"):
        assert await ada.outcome("/chat", "chat:transfer", {**chat, "agentId": somebody}) == "CONFLICT"
    assert not mallory.heard("chat:accepted")
    assert not carl.heard("chat:queue")
    await target.close()


@aio
async def test_only_admins_may_join_the_dashboard_and_receive_its_numbers(server: ServerProcess) -> None:
    target = Target(server.port)
    for token in (*strangers(server).values(), server.token("ada", "agent", "red")):
        caller = Caller(await target.socket())
        assert not await caller.join("/dashboard", token)
        assert caller.refused == {"/dashboard": "FORBIDDEN"}
    assert (await Caller.to(target, server.token("root", "admin"), "/dashboard")).code is None
    await target.close()


@aio
async def test_a_customer_receives_no_presence_even_with_a_team_in_the_token(server: ServerProcess) -> None:
    target = Target(server.port)
    spies = [
        await Caller.to(target, server.token("spy1", "customer"), "/presence"),
        await Caller.to(target, server.token("spy2", "customer", "red"), "/presence"),
    ]
    mate = await Caller.to(target, server.token("mate", "agent", "red"), "/presence")
    for spy in spies:
        assert await spy.outcome("/presence", "presence:subscribe", {"userIds": ["ada"]}) == "FORBIDDEN"
    await Caller.to(target, server.token("newcomer", "agent", "red"), "/presence")
    await mate.until(lambda: "newcomer" in json.dumps(mate.events), "the teammate receives the status")
    await asyncio.sleep(QUIET_S)
    for spy in spies:
        seen = {update["userId"] for update in spy.heard("presence:update")}
        assert "newcomer" not in seen, "customers must not learn when an agent works"
    await target.close()


@aio
async def test_a_notification_reaches_only_its_user(server: ServerProcess) -> None:
    target = Target(server.port)
    ada = await Caller.to(target, server.token("ada", "agent", "red"), "/notifications")
    others = await people(target, strangers(server))
    push = {"userId": "ada", "type": "x", "title": "for ada", "id": "n-ada"}
    assert (await server.push("POST", "/api/v1/notifications", push))[0] == 201
    await ada.until(lambda: ada.heard("notification"), "ada receives it")
    await asyncio.sleep(QUIET_S)
    for caller in others.values():
        assert not caller.heard("notification")
        assert await caller.outcome("/notifications", "notification:markRead", {"id": "n-ada"}) == "NOT_FOUND"
        assert (await caller.call("/notifications", "notification:list", {}))["notifications"] == []
    await target.close()


@aio
async def test_a_token_refresh_cannot_change_the_user(server: ServerProcess) -> None:
    target = Target(server.port)
    mallory = await Caller.to(target, server.token("mallory", "customer"), "/chat")
    for token in (
        server.token("ada", "agent", "red"),
        server.token("mallory", "agent"),
        server.token("mallory", "admin"),
        server.token("mallory", "customer", "red"),
    ):
        assert await mallory.outcome("/chat", "session:refresh", {"token": token}) == "FORBIDDEN"
    token = server.token("mallory", "customer")
    assert await mallory.outcome("/chat", "session:refresh", {"token": token}) == "ok"
    await target.close()


@aio
async def test_a_refresh_in_one_namespace_changes_no_role_in_another(server: ServerProcess) -> None:
    await server.push("PUT", "/api/v1/tickets/two-hats", {"subject": "x", "requesterId": "carl", "teamId": "red"})
    target = Target(server.port)
    caller = await Caller.to(target, server.token("hatter", "customer"), "/tickets")
    await caller.join("/chat", server.token("hatter", "agent", "red"))
    ask = {"token": server.token("hatter", "agent", "red", ttl_s=900)}
    assert await caller.outcome("/chat", "session:refresh", ask) == "ok"
    outcome = await caller.outcome("/tickets", "ticket:subscribe", {"ticketId": "two-hats"})
    assert outcome == "FORBIDDEN", "a customer of /tickets must not read the desk's tickets"
    await target.close()


@aio
async def test_a_customer_with_an_agents_id_receives_nothing_that_is_meant_for_staff(server: ServerProcess) -> None:
    """A customer and an agent may have the same id. The role of the socket decides, with any setting of user_ids."""
    target = Target(server.port)
    spies = [
        await Caller.to(target, server.token("77", "customer"), *DESK),
        await Caller.to(target, server.token("77", "customer", "red77"), *DESK),  # a customer's token may name a team
    ]
    agent = await Caller.to(target, server.token("77", "agent", "red77"), *DESK)
    mate = await Caller.to(target, server.token("78", "agent", "red77"), *DESK)
    mia = await Caller.to(target, server.token("mia77", "customer"), *DESK)
    for spy in spies:  # the customer's own events: presence and the like
        spy.events.clear()

    # tickets: created, assigned, changed, a note, viewers, deleted
    path, subject = "/api/v1/tickets/secret77", {"subject": "secret", "teamId": "red77", "requesterId": "mia77"}
    await server.push("PUT", path, {**subject, "assigneeId": "77"})
    assert await agent.outcome("/tickets", "ticket:subscribe", {"ticketId": "secret77"}) == "ok"
    await server.push("PUT", path, {"assigneeId": "78", "priority": "high"})
    await server.push("PUT", path, {"assigneeId": "77", "watchers": ["w"]})
    note = {"kind": "note", "author": {"id": "78", "name": "B"}, "excerpt": "secret note"}
    await server.push("POST", f"{path}/comments", note)
    await server.push("PUT", path, {"teamId": "blue77"})
    await server.push("PUT", path, {"teamId": "red77"})
    await server.push("DELETE", path)

    # chats: queued, accepted, handed over with a note both ways, read, rated
    start = {"clientId": "s77", "text": "secret chat", "teamId": "red77"}
    chat = {"conversationId": (await mia.call("/chat", "chat:start", start))["conversationId"]}
    assert await mate.outcome("/chat", "chat:accept", chat) == "ok"
    assert await mate.outcome("/chat", "chat:transfer", {**chat, "agentId": "77", "note": "secret word"}) == "ok"
    assert await agent.outcome("/chat", "chat:join", chat) == "ok"
    assert await agent.outcome("/chat", "chat:transfer", {**chat, "agentId": "78", "note": "secret word"}) == "ok"
    assert await mate.outcome("/chat", "chat:transfer", {**chat, "agentId": "77"}) == "ok"
    assert await agent.outcome("/chat", "chat:typing", chat) == "ok"
    assert await agent.outcome("/chat", "chat:message", {**chat, "text": "secret", "clientId": "1"}) == "ok"
    assert await agent.outcome("/chat", "chat:close", chat) == "ok"
    assert await mia.outcome("/chat", "chat:rate", {**chat, "score": 2, "comment": "secret"}) == "ok"
    # presence of the team
    assert await mate.outcome("/presence", "presence:status", {"status": "busy"}) == "ok"

    await agent.until(lambda: agent.heard("chat:rated") and agent.heard("ticket:deleted"), "the agent's events")
    await agent.until(lambda: any(one["userId"] == "78" for one in agent.heard("presence:update")), "presence")
    assert {"ticket:created", "ticket:assigned", "ticket:deleted", "chat:queue", "chat:accepted", "chat:closed"} <= {
        name for _, name, _ in mate.events
    }, "the events that the spies do not receive were sent to others"
    assert [one.get("note") for one in agent.heard("chat:transferred")] == ["secret word", "secret word", None]
    assert [(one["from"], one["to"]) for one in agent.heard("ticket:assigned")] == [
        (None, "77"),
        ("77", "78"),
        ("78", "77"),
    ]
    assert [one.get("note") for one in mia.heard("chat:transferred")] == [None, None, None]
    await asyncio.sleep(QUIET_S)
    for spy in spies:
        told = [event for event in spy.events if event[1] not in ("presence:update", "chat:conversation")]
        assert told == []
        assert "secret" not in json.dumps(spy.events)
    await target.close()

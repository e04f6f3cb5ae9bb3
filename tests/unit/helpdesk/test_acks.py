"""An ack means that the log has the event: of every event that clients may send, and what back ends and admins do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.helpdesk.features import FEATURES
from insightdesk_rt.helpdesk.notifications.store import Content
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment, TicketChange
from tests.support.aio import aio
from tests.support.whole_desk import ANNA, BERT, CARL, ROOT, WholeDesk, a_whole_desk

# What is answered without anything for others to hear, or with what may be lost (typing, who looks).
NOTHING_LOGGED = {
    "chat:history",
    "chat:join",
    "chat:leave",
    "chat:stopTyping",
    "chat:typing",
    "notification:list",
    "presence:subscribe",
    "presence:unsubscribe",
    "ticket:stopTyping",
    "ticket:subscribe",
    "ticket:typing",
    "ticket:unsubscribe",
    "ticket:view",
}


class Scene:
    """People in a conversation that waits, is active or is closed, and a bell with two notifications."""

    def __init__(self, whole: WholeDesk, conversation_id: str) -> None:
        self.whole = whole
        self.c = conversation_id
        self.ask = whole.ask


async def waiting(whole: WholeDesk) -> Scene:
    for user in (ANNA, BERT, ROOT):
        await whole.socket("/chat", user)
        await whole.socket("/presence", user)
    started = await whole.ask(CARL, "chat:start", clientId="s1", teamId="t1", text="Hello?")
    await whole.desk.tickets.apply("42", TicketChange(teamId="t1"))
    for id in ("n1", "n2"):
        await whole.desk.notifications.push(["anna"], Content(id, "mention", "T"))
    return Scene(whole, started["conversationId"])


async def active(whole: WholeDesk) -> Scene:
    scene = await waiting(whole)
    await scene.ask(ANNA, "chat:accept", conversationId=scene.c)
    await scene.ask(ANNA, "chat:message", conversationId=scene.c, text="Hi", clientId="m0")
    return scene


async def closed(whole: WholeDesk) -> Scene:
    scene = await active(whole)
    await scene.ask(ANNA, "chat:close", conversationId=scene.c)
    return scene


Prepare = Callable[[WholeDesk], Awaitable[Scene]]
Do = Callable[[Scene], Awaitable[Any]]


def asks(user: Any, name: str, **payload: Any) -> Do:
    return lambda s: s.ask(user, name, **{key: s.c if value == "c" else value for key, value in payload.items()})


CLIENTS: dict[str, tuple[Prepare, Do]] = {
    "chat:start": (waiting, asks(CARL, "chat:start", clientId="s2", text="Again")),
    "chat:accept": (waiting, asks(ANNA, "chat:accept", conversationId="c")),
    "chat:message": (active, asks(CARL, "chat:message", conversationId="c", text="It smokes", clientId="m1")),
    "chat:read": (active, asks(CARL, "chat:read", conversationId="c", upTo=2)),
    "chat:transfer": (active, asks(ANNA, "chat:transfer", conversationId="c", agentId="bert", note="Knows it")),
    "chat:close": (active, asks(CARL, "chat:close", conversationId="c")),
    "chat:rate": (closed, asks(CARL, "chat:rate", conversationId="c", score=5)),
    "notification:markRead": (waiting, asks(ANNA, "notification:markRead", id="n1")),
    "notification:markAllRead": (waiting, asks(ANNA, "notification:markAllRead")),
    "presence:status": (waiting, asks(ANNA, "presence:status", status="busy")),
}
COMMENT = Comment("c1", "reply", Actor("bert", "Bert"), "on it")  # type: ignore[arg-type]
OTHERS: dict[str, tuple[Prepare, Do]] = {
    "transfer to a team": (active, asks(ANNA, "chat:transfer", conversationId="c", teamId="t1")),
    "PUT ticket": (waiting, lambda s: s.whole.desk.tickets.apply("43", TicketChange(subject="S"))),
    "DELETE ticket": (waiting, lambda s: s.whole.desk.tickets.remove("42")),
    "POST comment": (waiting, lambda s: s.whole.desk.tickets.comment("42", COMMENT, remember=True)),
    "POST notification": (
        waiting,
        lambda s: s.whole.desk.notifications.push(["anna", "bert"], Content("n3", "mention", "T")),
    ),
    "POST chat close": (active, lambda s: admins(s, s.whole.desk.chat.store.close(ROOT, s.c))),
    "POST chat requeue": (active, lambda s: admins(s, s.whole.desk.chat.store.transfer(ROOT, s.c))),
    "POST chat assign": (active, lambda s: admins(s, s.whole.desk.chat.store.transfer(ROOT, s.c, agent_id="bert"))),
}


async def admins(scene: Scene, change: Awaitable[Any]) -> Any:
    return await scene.whole.desk.chat.publish_change(await change)


def test_every_event_of_every_namespace_is_in_one_of_the_tables() -> None:
    names = {name for namespace in FEATURES for name in namespace.events}
    missing, gone = names - NOTHING_LOGGED - set(CLIENTS), (NOTHING_LOGGED | set(CLIENTS)) - names
    assert not missing, f"add each to CLIENTS, or to NOTHING_LOGGED if its handler logs no event: {sorted(missing)}"
    assert not gone and not NOTHING_LOGGED & set(CLIENTS), f"no such events: {sorted(gone)}"


@pytest.mark.parametrize("name", [*CLIENTS, *OTHERS])
@aio
async def test_a_caller_learns_that_the_log_refused_and_a_repeat_does_it_once(
    valkey_url: str, prefix: str, name: str
) -> None:
    """After UNAVAILABLE the same request again is answered as the first would have been, and logs each event once."""
    prepare, do = {**CLIENTS, **OTHERS}[name]
    async with a_whole_desk(valkey_url, prefix + "a") as whole:
        scene = await prepare(whole)
        before = len(whole.log.log)
        wanted = await do(scene)
        names = [event.name for event in whole.log.log[before:]]
        assert names and await whole.owed() == []

    async with a_whole_desk(valkey_url, prefix + "b") as whole:
        scene = await prepare(whole)
        before = len(whole.log.log)
        whole.log.full = True
        for _ in range(2):
            with pytest.raises(RtError) as refused:
                await do(scene)
            assert refused.value.code == "UNAVAILABLE"
        assert len(whole.log.log) == before
        whole.log.full = False
        answer = await do(scene)
        assert type(answer) is type(wanted)
        assert [event.name for event in whole.log.log[before:]] == names and await whole.owed() == []
        if name != "DELETE ticket":  # there is none any more
            await do(scene)
        assert [event.name for event in whole.log.log[before:]] == names, "and once more changes nothing"


@pytest.mark.parametrize("name", sorted(NOTHING_LOGGED))
@aio
async def test_calls_that_succeed_while_the_log_refuses_need_no_event(valkey_url: str, prefix: str, name: str) -> None:
    async with a_whole_desk(valkey_url, prefix) as whole:
        scene = await active(whole)
        space, _, what = name.partition(":")
        payload = {"chat": {"conversationId": scene.c}, "ticket": {"ticketId": "42"}, "presence": {"userIds": ["bert"]}}
        if space == "ticket":
            await whole.ask(ANNA, "ticket:subscribe", ticketId="42")
        before = len(whole.log.log)
        whole.log.full = True
        more = {"state": "viewing"} if what == "view" else {}
        await whole.ask(ANNA, name, **payload.get(space, {}), **more)
        whole.log.full = False
        assert len(whole.log.log) == before and await whole.owed() == []

"""Ids that callers choose: a repeat has no second effect, and another request under a used id is refused.

Every place that takes such an id has a row in PLACES.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import Raw

from insightdesk_rt.backend.push.emit import EmitBody
from insightdesk_rt.backend.push.notifications import NotificationBody
from insightdesk_rt.backend.push.tickets import CommentBody
from insightdesk_rt.engine.cluster.publisher import fingerprint
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import user_room
from insightdesk_rt.helpdesk.features import FEATURES
from insightdesk_rt.helpdesk.notifications.store import Content
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment, TicketChange
from tests.support import fakes
from tests.support.aio import aio
from tests.support.whole_desk import ANNA, CARL, WholeDesk, a_whole_desk

BERT = Actor("bert", "Bert")  # type: ignore[arg-type]


async def comment(whole: WholeDesk, **other: Any) -> object:
    said = {"kind": "reply", "author": BERT, "excerpt": "on it", **other}
    return await whole.desk.tickets.comment("42", Comment(id="c1", **said), remember=True)


async def notify(whole: WholeDesk, **other: Any) -> object:
    said = {"type": "mention", "title": "T", "data": Raw(b'{"a":1}'), **other}
    return await whole.desk.notifications.push(["anna"], Content(id="n1", **said))


async def emit(whole: WholeDesk, namespace: str = "/tickets", **other: Any) -> object:
    said: dict[str, Any] = {
        "rooms": [user_room("anna")],
        "name": "desk:news",
        "payload": '{"a":1}',
        "skip": (),
        **other,
    }
    same = fingerprint(namespace, said["name"], said["payload"], said["rooms"], said["skip"])
    return await whole.hub.emit(namespace, **said, id="emit.e1", fingerprint=same)


async def start(whole: WholeDesk, **other: Any) -> object:
    return await whole.ask(CARL, "chat:start", **{"clientId": "s1", "subject": "S", "text": "Hello?", **other})


async def say(whole: WholeDesk, **other: Any) -> object:
    (chat,) = await whole.desk.chat.store.mine(CARL)
    return await whole.ask(
        CARL, "chat:message", **{"conversationId": chat.id, "text": "Help!", "clientId": "m1", **other}
    )


class Place(NamedTuple):
    field: str  # that the refusal names
    do: Callable[..., Awaitable[object]]
    others: tuple[dict[str, Any], ...]  # what makes it another request


PLACES = {
    "comment": Place("id", comment, ({"kind": "note"}, {"author": Actor("x", "X")}, {"excerpt": "no"})),  # type: ignore[arg-type]
    "notification": Place("id", notify, ({"type": "sla"}, {"title": "U"}, {"url": "/x"}, {"data": Raw(b"2")})),
    "emit": Place(
        "id",
        emit,
        ({"name": "x"}, {"payload": "1"}, {"rooms": [user_room("x")]}, {"skip": ("x",)}, {"namespace": "/chat"}),
    ),
    "chat:start": Place("clientId", start, ({"subject": "T"}, {"text": "Hi"}, {"text": None}, {"teamId": "t9"})),
    "chat:message": Place("clientId", say, ({"text": "Cancel it!"},)),
}


def test_every_place_that_takes_an_id_of_the_caller_is_in_the_table() -> None:
    named = {
        spec.name
        for namespace in FEATURES
        for spec in namespace.events.values()
        if "clientId" in {field.name for field in msgspec.structs.fields(spec.payload)}
    }
    bodies = {"comment": CommentBody, "notification": NotificationBody, "emit": EmitBody}
    assert all("id" in body.__struct_fields__ for body in bodies.values())
    assert named | set(bodies) == set(PLACES)


async def ready(whole: WholeDesk) -> None:
    await whole.desk.tickets.apply("42", TicketChange(teamId="t1"))
    await whole.ask(CARL, "chat:start", clientId="s0")
    for path in ("/tickets", "/chat", "/notifications"):
        await whole.socket(path, ANNA)
    await whole.ask(ANNA, "ticket:subscribe", ticketId="42")


@pytest.mark.parametrize("name", PLACES)
@aio
async def test_another_request_under_a_used_id_is_a_conflict_that_names_the_field(
    valkey_url: str, prefix: str, name: str
) -> None:
    """It was answered ok and lost: a page counts from 1 again after a reload, a back end numbers each of its tables."""
    place = PLACES[name]
    async with a_whole_desk(valkey_url, prefix) as whole:
        await ready(whole)
        first = await place.do(whole)
        logged = len(whole.log.log)
        for other in place.others:
            with pytest.raises(RtError) as refused:
                await place.do(whole, **other)
            assert (refused.value.code, refused.value.fields) == ("CONFLICT", {"field": place.field}), other
            assert refused.value.message.startswith(f"{place.field}: ") and refused.value.kind.http == 409
        assert await place.do(whole) == first, "the first request is still known"
        assert len(whole.log.log) == logged


@pytest.mark.parametrize("name", PLACES)
@aio
async def test_an_id_gives_one_event_even_if_valkey_forgot_that_it_was_used(
    valkey_url: str, prefix: str, name: str
) -> None:
    """The answer was lost and so was Valkey's last second: the caller sends the same again, as the page tells it to."""
    place = PLACES[name]
    async with a_whole_desk(valkey_url, prefix) as whole:
        await ready(whole)
        await whole.idle()
        copy = whole.copy()
        first = await place.do(whole)
        await whole.idle()
        logged = [event.name for event in whole.log.log]
        whole.lose(copy)
        again = await place.do(whole)
        names = [event.name for event in whole.log.log]
        if name == "chat:start":  # that it waits is told again: the queue is a list by conversationId
            assert again == first and names == [*logged, "chat:queue"]
        else:
            assert names == logged


@aio
async def test_ids_of_users_whose_names_join_to_the_same_text_do_not_collide(valkey_url: str, prefix: str) -> None:
    """The customer "a" with the clientId "b:x" is not the agent "a:b" with "x", nor the agent "a" with "b:x"."""
    async with a_whole_desk(valkey_url, prefix) as whole:
        carl, anna = fakes.user("a", "customer"), fakes.user("a:b")
        chat = (await whole.ask(carl, "chat:start", clientId="s1"))["conversationId"]
        await whole.ask(anna, "chat:accept", conversationId=chat)
        numbers = [
            (await whole.ask(user, "chat:message", conversationId=chat, text=text, clientId=client_id))["id"]
            for user, text, client_id in ((carl, "one", "b:x"), (anna, "two", "x"), (anna, "three", "b:x"))
        ]
        assert numbers == [1, 2, 3]
        said = [event for event in whole.log.log if event.name == "chat:message"]
        assert len({event.id for event in said}) == 3

"""Invalid input gets a clear error that names the field. Only the sender gets it, and the connection stays."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from insightdesk_rt.engine.dispatch.namespace import EventSpec
from insightdesk_rt.helpdesk.features import FEATURES
from tests.scenarios.conftest import stock_clients
from tests.scenarios.story import Story
from tests.support.clients import Peer
from tests.support.wrong import Schemas

MISSING = object()
LONG = "x" * 5000
BAD_IDS = (MISSING, 5, None, "", "a:b", "a b", "*", LONG)

# event → field → invalid values. An optional field is not tested as missing. An event that is not here is tested with
# values that contradict its declaration (`contradicting`), so only an event with further rules needs a row.
WRONG: dict[str, dict[str, dict[str, tuple[Any, ...]]]] = {
    "/tickets": {
        "ticket:subscribe": {"ticketId": BAD_IDS, "since": (5, "yesterday", "")},
        "ticket:view": {"ticketId": BAD_IDS, "state": (MISSING, 5, None, "sleeping", "")},
    },
    "/chat": {
        "chat:start": {
            "clientId": (MISSING, 5, "", LONG),
            "subject": (5, LONG),
            "text": (5, LONG),
            "teamId": (5, "a\n", LONG),
        },
        "chat:join": {"conversationId": BAD_IDS, "since": (5, "yesterday", "")},
        "chat:message": {
            "conversationId": (MISSING, 5, "a\n", LONG),
            "text": (MISSING, 5, LONG, ""),
            "clientId": (MISSING, 5, "", LONG),
        },
        "chat:read": {"conversationId": BAD_IDS, "upTo": (MISSING, "one", 5.5, 0, None, [])},
        "chat:history": {"conversationId": BAD_IDS, "before": ("one", 5.5, 0, []), "limit": ("ten", 0, -1, 101, 1.5)},
        "chat:transfer": {
            "conversationId": BAD_IDS,
            "agentId": (5, "a\n"),
            "teamId": (5, "a\n", LONG),
            "note": (5, LONG),
        },
        "chat:rate": {
            "conversationId": BAD_IDS,
            "score": (MISSING, "good", 0, 6, 2.5, None),
            "comment": (5, LONG),
        },
    },
    "/notifications": {
        "notification:markRead": {"id": (MISSING, 5, None, "", LONG)},
        "notification:list": {"limit": ("ten", 0, -1, 1.5, 100000), "before": (5, LONG)},
    },
    "/presence": {
        "presence:status": {"status": (MISSING, 5, None, ["busy"])},
        "presence:subscribe": {"userIds": (MISSING, 5, None, "ada", [5], ["a\n"], ["a"] * 2000)},
        "presence:unsubscribe": {"userIds": (MISSING, 5, None, "ada", [5], ["a\n"], ["a"] * 2000)},
    },
}

GOOD: dict[str, Any] = {
    "ticketId": "t1",
    "state": "viewing",
    "conversationId": "c1",
    "clientId": "1",
    "text": "hello",
    "upTo": 1,
    "score": 5,
    "id": "n1",
    "limit": 10,
    "status": "busy",
    "userIds": ["u1"],
}
OPTIONAL = {"since", "subject", "teamId", "agentId", "note", "before", "comment"}


def test_the_table_names_only_declared_events() -> None:
    declared = {(namespace.path, name) for namespace in FEATURES for name in namespace.events}
    assert not {(path, name) for path, events in WRONG.items() for name in events} - declared


def contradicting(spec: EventSpec) -> dict[str, tuple[Any, ...]]:
    """Return values that contradict the declaration of each field, as many as the event's rate limit lets through."""
    (_,), components = msgspec.json.schema_components([spec.payload])
    schemas = Schemas({"components": {"schemas": components}})
    declared = components[spec.payload.__name__]
    most = spec.rate.max if spec.rate else len(LONG)
    return {
        name: ((MISSING,) * (name in declared.get("required", ())) + tuple(v for _, v in schemas.wrong(field)))[:most]
        for name, field in declared.get("properties", {}).items()
    }


@pytest.mark.parametrize("spec", [spec for one in FEATURES for spec in one.events.values()], ids=lambda spec: spec.name)
def test_each_declaration_says_which_values_are_invalid(spec: EventSpec) -> None:
    assert all(contradicting(spec).values())


@pytest.mark.parametrize("namespace", [feature.path for feature in FEATURES if feature.events])
async def test_each_invalid_field_is_named(story: Story, namespace: str) -> None:
    # each position of a field has its own users: their rate limits must not come first
    peers: dict[str, Peer] = {}
    (feature,) = (one for one in FEATURES if one.path == namespace)
    for event, spec in feature.events.items():
        fields = WRONG.get(namespace, {}).get(event) or contradicting(spec)
        for position, (field, values) in enumerate(fields.items()):
            who = story.agent(f"A{position}") if "agent" in spec.allow else story.customer(f"C{position}")
            peer = peers.get(who.id) or await story.join(who, namespace)
            peers[who.id] = peer
            good = {
                name: GOOD[name]
                for name in fields
                if name not in OPTIONAL and not (event == "chat:start" and name == "text")
            }
            for value in values:
                payload = {**good, field: value}
                if value is MISSING:
                    del payload[field]
                error = await peer.error(event, payload)
                what = f"{event} {field}={value!r}"[:100]
                assert error["code"] == "BAD_REQUEST", f"{what}: {error}"
                assert error["field"].split("[")[0] == field, f"{what}: {error}"  # "userIds[0]" names it too
                assert LONG[:100] not in error["message"], what
    for peer in peers.values():
        await peer.settled()


async def test_a_payload_that_is_not_an_object_is_a_bad_request(story: Story) -> None:
    ada = await story.join(story.agent(), "/tickets")
    for payload in ("42", 42, None, True, ["42"], []):
        assert (await ada.error("ticket:subscribe", payload))["code"] == "BAD_REQUEST", payload
    assert (await ada.error("ticket:subscribe"))["field"] == "ticketId"


async def test_without_an_acknowledgement_the_same_error_is_an_event(story: Story) -> None:
    ada = await story.join(story.agent(), "/tickets")
    acked = await ada.error("ticket:subscribe", {"ticketId": 5})
    await ada.emit("ticket:subscribe", {"ticketId": 5})
    assert await ada.expect("error") == acked
    assert acked["event"] == "ticket:subscribe"


async def test_an_event_that_does_not_exist_is_called_unknown(story: Story) -> None:
    ada = await story.join(story.agent(), "/tickets")
    for event in ("ticket:explode", "chat:message", "error", "__proto__", "é", "toString"):
        assert (await ada.error(event, {}))["code"] == "UNKNOWN_EVENT", event
        await ada.emit(event, {})
        await ada.expect("error", {"code": "UNKNOWN_EVENT", "event": event})


async def test_fields_from_a_newer_client_are_ignored(story: Story) -> None:
    ticket = await story.ticket()
    ada = await story.join(story.agent(), "/tickets")
    await ada.ok("ticket:subscribe", {"ticketId": ticket, "colour": {"deep": ["er"]}})


@stock_clients
async def test_unexpected_binary_is_a_bad_request(story: Story) -> None:
    ada = await story.join(story.agent(), "/tickets")
    assert (await ada.error("ticket:subscribe", {"ticketId": b"\x00\x01"}))["code"] == "BAD_REQUEST"
    await ada.settled()


async def test_text_arrives_as_it_was_sent(story: Story) -> None:
    """Unicode of every plane, separators of JavaScript and of Engine.IO payloads, quotes and control characters."""
    text = 'é€😀 "\\/ \u2028\u2029 \x1e \x00\t\n <script> \ufeff'
    ada = story.agent()
    peer = await story.join(ada, "/notifications")
    title = text.replace("\x1e", "").replace("\x00", "")  # a text has no control characters but newline and tab
    await story.push("POST", "/notifications", {"userId": ada.id, "type": "t", "title": title, "data": {text: text}})
    told = await peer.expect("notification")
    assert told["title"] == title
    assert told["data"] == {text: text}


async def test_a_large_message_arrives_whole(story: Story) -> None:
    """Larger than one read of a socket and than the 16-bit length of a websocket frame."""
    ada = story.agent()
    peer = await story.join(ada, "/notifications")
    data = {"text": "0123456789é" * 15_000}
    emit = {"namespace": "/notifications", "room": f"user:{ada.id}", "event": "notification:big", "data": data}
    await story.push("POST", "/emit", emit)
    assert await peer.expect("notification:big") == data
    error = await peer.error("notification:markRead", {"id": "0123456789é" * 50_000})
    assert error["code"] == "BAD_REQUEST"

"""A batch: each operation has its own result, order is kept, a retry doubles nothing, and members get one write."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insightdesk_rt.api.keys_and_scopes import new_key, push_limits
from insightdesk_rt.api.openapi import describe
from insightdesk_rt.backend.push.batch import AT_ONCE, MAX_NOTIFIED, MAX_OPERATIONS, MAX_ROOMS_OF_BATCH, BatchHandler
from tests.support.admin_port import Audit, a_port, make_admin
from tests.support.aio import aio, until
from tests.support.ticketing import ANNA, CARL, told
from tests.unit.backend.push.test_routes import AUTHOR, EVENT, NOTICE, REPLY, Desk, a_desk, routes_of

BATCH, IMPORT = "/api/v1/batch", "/api/v1/tickets"


async def batch(desk: Desk, *operations: dict[str, Any], status: int = 200) -> list[dict[str, Any]]:
    answer = await desk.ask("POST", BATCH, {"operations": operations}, status)
    found: list[dict[str, Any]] = answer["results"]
    return found


def put(ticket_id: str = "42", **fields: Any) -> dict[str, Any]:
    return {"op": "ticket.put", "ticketId": ticket_id, **fields}


def events(desk: Desk) -> list[str]:
    return [event.name for event in desk.log.log]


@aio
async def test_each_operation_is_answered_as_its_single_call(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        agents = await desk.connect("/tickets", ANNA)
        results = await batch(
            desk,
            put(subject="Größe", teamId="t1"),
            put(status="open", by=AUTHOR),
            {"op": "ticket.comment", "ticketId": "42", **REPLY, "id": "c1"},
            {"op": "notification", **NOTICE, "id": "n1"},
            {"op": "emit", **EVENT},
            {"op": "emit", **EVENT, "volatile": True},
            {"op": "chat.start", "customerId": "mia", "customerName": "Mia", "clientId": "m1", "text": "Hello"},
            {"op": "ticket.delete", "ticketId": "42"},
        )
        offsets = [one.pop("offset", "none") for one in results]
        assert all(offset is not None for offset in (*offsets[:3], offsets[4], offsets[7])) and offsets[5] is None
        chat = results[6].pop("conversationId")
        assert results == [
            {"ticketId": "42", "version": 1},
            {"ticketId": "42", "version": 2},
            {"ticketId": "42", "id": "c1", "version": 2},
            {"id": "n1"},
            {},
            {},
            {"position": 1},
            {"ticketId": "42", "version": 3},
        ]
        (said,) = await batch(
            desk, {"op": "chat.message", "conversationId": chat, "author": AUTHOR, "text": "Hi", "clientId": "b1"}
        )
        assert said["id"] == 2 and said["at"]
        assert [name for name, _ in told(agents)] == ["ticket:created", "ticket:deleted"], "it has the ticket not open"
        own = [name for name in events(desk) if name.startswith("ticket:") and name != "ticket:printed"]
        assert own == ["ticket:created", "ticket:updated", "ticket:commented", "ticket:deleted", "ticket:deleted"]


@aio
async def test_a_wrong_operation_fails_alone_and_names_its_field(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        wrong: list[tuple[Any, str, str]] = [
            (put(status="done"), "BAD_REQUEST", "status"),
            (put("a b"), "BAD_REQUEST", "ticketId"),
            ({"op": "ticket.put"}, "BAD_REQUEST", "ticketId"),
            (put(nonsense=1), "BAD_REQUEST", "nonsense"),
            ({"op": "ticket.burn", "ticketId": "42"}, "BAD_REQUEST", "op"),
            ({"ticketId": "42"}, "BAD_REQUEST", "op"),
            (7, "BAD_REQUEST", ""),
            (put("42", ifVersion=9), "CONFLICT", "ifVersion"),
            ({"op": "ticket.delete", "ticketId": "none"}, "NOT_FOUND", ""),
            ({"op": "ticket.comment", "ticketId": "none", **REPLY}, "NOT_FOUND", ""),
            ({"op": "emit", **EVENT, "namespace": "/none"}, "BAD_REQUEST", "namespace"),
            ({"op": "emit", **EVENT, "event": "connect"}, "BAD_REQUEST", "event"),
            ({"op": "emit", **EVENT, "data": "x" * 1_000}, "PAYLOAD_TOO_LARGE", "data"),
            ({"op": "notification", **NOTICE, "customerId": "mia"}, "BAD_REQUEST", "customerId"),
            (
                {"op": "chat.message", "conversationId": "none", "author": AUTHOR, "text": "Hi", "clientId": "1"},
                "NOT_FOUND",
                "",
            ),
        ]
        results = await batch(desk, put("1"), *(one for one, _, _ in wrong), put("2"))
        assert [results[0]["version"], results[-1]["version"]] == [1, 1]
        for (operation, code, field), result in zip(wrong, results[1:-1], strict=True):
            error = result["error"]
            assert (error["code"], error.get("field", "")) == (code, field), (operation, error)
            assert error["message"] and "regex" not in error["message"]


@aio
async def test_operations_of_one_ticket_keep_their_order_and_reach_a_client_together(
    valkey_url: str, prefix: str
) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await batch(desk, put(teamId="t1"))
        agent = await desk.open(ANNA)
        calls = desk.log.calls = 0
        results = await batch(desk, *(put(subject=str(number)) for number in range(2 * AT_ONCE + 10)))
        assert [one["version"] for one in results] == list(range(2, 2 * AT_ONCE + 12))
        seen = [data["changes"]["subject"][1] for name, data in told(agent) if name == "ticket:updated"]
        assert seen == [str(number) for number in range(2 * AT_ONCE + 10)]
        assert desk.log.calls - calls == 3, "each hundred is logged in one step"
        offsets = [int(one["offset"].partition("-")[0]) for one in results]
        assert offsets == sorted(set(offsets)), "each has the offset of its own event"


@aio
async def test_the_same_batch_again_changes_nothing(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        again = [
            put(status="open", id="p1"),
            put(status="solved", id="p2"),  # without ids, a repeat would open it and solve it again
            {"op": "ticket.comment", "ticketId": "42", **REPLY, "id": "c1"},
            {"op": "notification", **NOTICE, "id": "n1"},
            {"op": "emit", **EVENT, "id": "e1"},
            {"op": "chat.start", "customerId": "mia", "customerName": "Mia", "clientId": "m1", "text": "Hello"},
            {"op": "ticket.delete", "ticketId": "42", "id": "d1"},
        ]
        first = await batch(desk, *again)
        count = len(desk.log.log)
        second = await batch(desk, *again)
        assert len(desk.log.log) == count
        assert not any("error" in one for one in first + second)
        assert second[5] == first[5] and second[6]["version"] == first[6]["version"] == 3
        (other,) = await batch(desk, put(status="new", id="p1"))
        assert (other["error"]["code"], other["error"]["field"]) == ("CONFLICT", "id")


@aio
async def test_a_change_with_an_id_is_not_repeated_after_a_later_change(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        change = {"status": "open", "id": "job-1"}
        await desk.ask("PUT", "/api/v1/tickets/42", change, 201)
        await desk.ask("PUT", "/api/v1/tickets/42", {"status": "solved"})
        assert (await desk.ask("PUT", "/api/v1/tickets/42", change))["version"] == 2
        assert (await desk.ask("GET", "/api/v1/tickets/42"))["status"] == "solved"


@aio
async def test_a_repeated_deletion_does_not_delete_a_ticket_that_came_back(valkey_url: str, prefix: str) -> None:
    """Also if it found no ticket the first time."""
    async with a_desk(valkey_url, prefix) as desk:
        path = "/api/v1/tickets/42"
        await desk.ask("DELETE", f"{path}?id=d1", status=404)
        await desk.ask("PUT", path, {"subject": "A"}, 201)
        await desk.ask("DELETE", f"{path}?id=d1", status=404)
        assert (await desk.ask("DELETE", f"{path}?id=d2"))["version"] == 2
        await desk.ask("PUT", path, {"subject": "B"}, 201)
        await desk.ask("DELETE", f"{path}?id=d2")
        assert (await desk.ask("GET", path))["subject"] == "B"
        assert (await desk.ask("DELETE", f"{path}?id=d2&ifVersion=9", status=409))["error"]["field"] == "id"


@aio
async def test_operations_after_a_failure_of_the_log_are_unavailable_and_a_retry_does_them(
    valkey_url: str, prefix: str
) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await batch(desk, put("0", teamId="t1"))
        operations = [
            *(put(str(number), subject="A", id=f"a{number}") for number in range(AT_ONCE)),
            {"op": "emit", **EVENT, "id": "e1"},
            {"op": "ticket.put", "ticketId": "wrong id"},
            put("last", subject="A"),
        ]
        desk.log.full = True
        results = await batch(desk, *operations)
        assert {one["error"]["code"] for one in results} == {"UNAVAILABLE"}, "what follows a failure is not tried"
        desk.log.full = False
        results = await batch(desk, *operations)
        assert [one["error"]["code"] for one in results if "error" in one] == ["BAD_REQUEST"]
        ids = [event.id for event in desk.log.log]
        assert len(ids) == len(set(ids))
        assert [event.name for event in desk.log.log].count("ticket:printed") == 1
        for number in range(1, AT_ONCE):
            shown = await desk.ask("GET", f"/api/v1/tickets/{number}")
            assert (shown["version"], shown["subject"]) == (1, "A")


TICKETS = st.sampled_from(["a", "b", "c"])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), TICKETS, st.sampled_from(["open", "pending", "solved"])),
        st.tuples(st.just("comment"), TICKETS, st.just("")),
        st.tuples(st.just("emit"), TICKETS, st.just("")),
        st.tuples(st.just("delete"), TICKETS, st.just("")),
    ),
    min_size=1,
    max_size=AT_ONCE + 20,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, room=st.lists(st.integers(0, 60), max_size=4))
def test_whenever_the_log_fills_up_retries_end_as_one_faultless_batch(
    valkey_url: str, changes: list[tuple[str, str, str]], room: list[int]
) -> None:
    """`room`: how many events the log takes during each attempt; then it takes all."""
    operations: list[dict[str, Any]] = []
    for number, (kind, ticket, status) in enumerate(changes):
        id = f"i{number}"
        if kind == "put":
            operations.append(put(ticket, status=status, subject=id, id=id))
        elif kind == "comment":
            operations.append({"op": "ticket.comment", "ticketId": ticket, **REPLY, "id": id})
        elif kind == "emit":
            operations.append({"op": "emit", **EVENT, "room": ticket, "data": number, "id": id})
        else:
            operations.append({"op": "ticket.delete", "ticketId": ticket, "id": id})
    model: dict[str, str] = {}
    wanted: list[tuple[str, str]] = []  # subject after each effective change of a ticket
    for number, (kind, ticket, _) in enumerate(changes):
        if kind == "put":
            model[ticket] = f"i{number}"
            wanted.append((ticket, f"i{number}"))
        elif kind == "delete" and model.pop(ticket, None) is not None:
            wanted.append((ticket, "deleted"))

    @aio
    async def body() -> None:
        async with a_desk(valkey_url, f"h{secrets.token_hex(4)}") as desk:
            for left in [*room, None]:
                desk.log.room = left
                results = await batch(desk, *operations)
            assert not [one for one in results if one.get("error", {}).get("code") == "UNAVAILABLE"]
            ids = [event.id for event in desk.log.log]
            assert len(ids) == len(set(ids))
            assert [e.payload for e in desk.log.log if e.name == "ticket:printed"] == [
                str(number) for number, (kind, *_) in enumerate(changes) if kind == "emit"
            ]
            for ticket in "abc":
                reply = await desk.port.ask("GET", f"/api/v1/tickets/{ticket}")
                assert (reply.json.get("subject") if reply.status == 200 else None) == model.get(ticket)
                assert published(desk, ticket) == [what for name, what in wanted if name == ticket]

    body()


def published(desk: Desk, ticket: str) -> list[str]:
    """Return what the log says of a ticket, in order: its subject after each change, or that it was deleted."""
    found = []
    for event in desk.log.log:
        data = json.loads(event.payload)
        if event.id.endswith(".staff") or not isinstance(data, dict) or data.get("ticketId") != ticket:
            continue
        if event.name == "ticket:created":
            found.append(data["ticket"]["subject"])
        elif event.name == "ticket:updated":
            found.append(data["changes"]["subject"][1])
        elif event.name == "ticket:deleted":
            found.append("deleted")
    return found


@aio
async def test_access_that_a_batch_ends_is_taken_before_the_event(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await batch(desk, put(teamId="t1", requesterId="carl"))
        agent, customer = await desk.open(ANNA), await desk.open(CARL)
        results = await batch(desk, put(subject="A"), put(teamId="t2", requesterId=None), put(subject="secret"))
        assert [one["version"] for one in results] == [2, 3, 4]
        for socket in (agent, customer):
            names = [name for name, _ in told(socket)]
            assert names == ["ticket:unsubscribed"] or names == ["ticket:updated", "ticket:unsubscribed"]


@aio
async def test_an_import_puts_a_thousand_tickets_and_says_which_are_wrong(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        rows = [{"ticketId": str(number), "subject": "A"} for number in range(MAX_OPERATIONS)]
        rows[500] = {"ticketId": "500", "subject": 5}  # type: ignore[dict-item]
        answer = await desk.ask("PUT", IMPORT, {"tickets": rows})
        assert [one.get("version") for one in answer["results"]] == [1] * 500 + [None] + [1] * 499
        assert answer["results"][500]["error"]["field"] == "subject"
        again = await desk.ask("PUT", IMPORT, {"tickets": rows})
        assert [one.get("version") for one in again["results"]] == [1] * 500 + [None] + [1] * 499
        assert events(desk).count("ticket:created") == 999


@aio
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "operations"),
        ({"operations": []}, "operations"),
        ({"operations": {}}, "operations"),
        ({"operations": [{}] * (MAX_OPERATIONS + 1)}, "operations"),
        ({"operations": [{}], "more": 1}, "more"),
    ],
)
async def test_a_batch_that_is_none_is_refused_as_a_whole(
    valkey_url: str, prefix: str, body: dict[str, Any], field: str
) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        answer = await desk.ask("POST", BATCH, body, 400)
        assert answer["error"]["field"] == field


@aio
async def test_the_recipients_of_a_batch_are_limited_together(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        users = [f"u{number}" for number in range(MAX_NOTIFIED - 1)]
        many = {"op": "notification", "type": "t", "title": "T", "userIds": users}
        results = await batch(desk, many, {"op": "notification", **NOTICE}, {"op": "notification", **NOTICE})
        assert [one.get("error", {}).get("field") for one in results] == [None, None, "userIds"]
        rooms = [f"r{number}" for number in range(100)]
        wide = {"op": "emit", "namespace": "/tickets", "event": "e", "rooms": rooms, "volatile": True}
        results = await batch(desk, *[wide] * (MAX_ROOMS_OF_BATCH // 100 + 1))
        assert [one.get("error", {}).get("field") for one in results][-2:] == [None, "rooms"]


@aio
async def test_a_batch_is_carried_out_although_its_sender_has_gone(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        text = json.dumps({"operations": [put(str(number)) for number in range(3 * AT_ONCE)]}).encode()
        await desk.port.send_and_leave("POST", BATCH, text)
        await until(lambda: events(desk).count("ticket:created") == 3 * AT_ONCE, "all operations of the batch")


def test_the_description_of_the_api_has_every_operation_of_a_batch() -> None:
    document = describe([(r"/api/v1/batch", BatchHandler, {})])
    items = document["paths"]["/api/v1/batch"]["post"]["x-items"]
    schemas = document["components"]["schemas"]
    assert set(items["discriminator"]["mapping"]) == {
        *("ticket.put", "ticket.delete", "ticket.comment", "notification", "emit", "chat.start", "chat.message"),
    }
    assert {"ticketId", "subject", "at", "id"} <= set(schemas["TicketPut"]["properties"])


# ── a publisher's key ────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_publisher_pushes_only_into_its_namespaces_and_rooms(
    valkey_url: str, prefix: str, tmp_path: Any
) -> None:
    """A batch is checked operation by operation, by the rule of the single call."""
    key, line = new_key(
        "shop", "publisher", push_limits(["/tickets", "/notifications"], ["ticket:EU-", "team:eu", "user:eu-"])
    )
    file = tmp_path / "keys"
    file.write_text(line)
    file.chmod(0o600)
    cases: list[tuple[dict[str, Any], str]] = [
        (put("EU-1"), ""),
        (put("US-1"), "ticketId"),
        (put("EU-1", teamId="eu2"), ""),
        (put("EU-1", teamId="us"), "teamId"),
        (put("EU-1", teamId=None), ""),
        ({"op": "ticket.comment", "ticketId": "EU-1", **REPLY}, ""),
        ({"op": "ticket.comment", "ticketId": "US-1", **REPLY}, "ticketId"),
        ({"op": "notification", **NOTICE, "userId": "eu-anna"}, ""),
        ({"op": "notification", **NOTICE, "userIds": ["eu-anna", "us-ben"]}, "userId"),
        ({"op": "emit", **EVENT, "room": "ticket:EU-1"}, ""),
        ({"op": "emit", **EVENT, "rooms": ["ticket:EU-1", "ticket:US-1"]}, "room"),
        ({"op": "emit", **EVENT, "namespace": "/chat", "room": "team:eu"}, "namespace"),
        ({"op": "emit", **EVENT, "namespace": "/chat", "room": "team:eu", "volatile": True}, "namespace"),
        ({"op": "chat.start", "customerId": "mia", "customerName": "Mia", "clientId": "m1"}, "none"),
        (
            {"op": "chat.message", "conversationId": "c1", "author": AUTHOR, "text": "Hi", "clientId": "1"},
            "conversationId",
        ),
        ({"op": "ticket.delete", "ticketId": "US-1"}, "ticketId"),
        ({"op": "ticket.delete", "ticketId": "EU-1"}, ""),
    ]
    async with a_desk(valkey_url, prefix) as desk:
        admin = make_admin(max_body_bytes=300_000, keys_file=str(file), audit=Audit())
        async with a_port(admin, routes_of(desk, admin)) as port:
            reply = await port.ask("POST", BATCH, {"operations": [one for one, _ in cases]}, bearer=key)
            for (operation, field), result in zip(cases, reply.json["results"], strict=True):
                error = result.get("error", {})
                assert (
                    error.get("field", "none" if error else "") == field
                    and error.get("code", "FORBIDDEN") == "FORBIDDEN"
                ), (
                    operation,
                    result,
                )
            reply = await port.ask("PUT", IMPORT, {"tickets": [{"ticketId": "US-1"}, {"ticketId": "EU-9"}]}, bearer=key)
            assert [one.get("version") for one in reply.json["results"]] == [None, 1]
            for method, path in (("GET", "/api/v1/tickets/EU-9"), ("PUT", "/api/v1/tickets/US-1")):
                reply = await port.ask(method, path, {} if method == "PUT" else None, bearer=key)
                assert (reply.status, reply.error["code"]) == (403, "FORBIDDEN")

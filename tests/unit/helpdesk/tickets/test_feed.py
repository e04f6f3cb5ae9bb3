"""Which event of a change goes to whom, and which fields a customer does not get."""

from __future__ import annotations

from typing import Any

import pytest

from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment
from tests.support import fakes
from tests.support.aio import aio
from tests.support.ticketing import ANNA, BERT, CARL, ROOT, Cluster, a_cluster, told

OTTO = fakes.user("otto", team="t2")
DORA = fakes.user("dora")  # an agent of no team
TEAM_CUSTOMER = fakes.user("mallory", "customer", team="t1")
EVERYBODY = (ANNA, OTTO, DORA, ROOT, CARL, TEAM_CUSTOMER)


async def all_connect(cluster: Cluster) -> dict[str, Socket]:
    return {user.id: await (cluster.one if n % 2 else cluster.two).connect(user) for n, user in enumerate(EVERYBODY)}


def who_heard(sockets: dict[str, Socket], name: str) -> set[str]:
    heard = set()
    for user_id, socket in sockets.items():
        events = [event for event, _ in told(socket)]
        assert events.count(name) <= 1, f"{user_id} is in several of the rooms and was told twice"
        if name in events:
            heard.add(user_id)
    return heard


@pytest.mark.parametrize(
    ("agent_access", "team", "heard"),
    [
        ("team", "t1", {"anna", "root"}),
        ("team", None, {"anna", "otto", "dora", "root"}),
        ("all", "t1", {"anna", "otto", "dora", "root"}),
    ],
)
@aio
async def test_a_new_ticket_goes_to_staff_who_may_read_it_by_role_and_team(
    valkey_url: str, prefix: str, agent_access: str, team: str | None, heard: set[str]
) -> None:
    async with a_cluster(valkey_url, prefix, agent_access=agent_access) as cluster:
        sockets = await all_connect(cluster)
        await cluster.one.put(teamId=team, subject="A", requesterId="carl")
        assert who_heard(sockets, "ticket:created") == heard
        await cluster.two.tickets.remove("42")
        assert who_heard(sockets, "ticket:deleted") >= heard


@aio
async def test_the_event_of_a_new_ticket_has_all_its_fields(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        root = await cluster.one.connect(ROOT)
        await cluster.two.put(teamId="t1", subject="A", watchers=["w"])
        ((name, created),) = told(root)
        ticket = created["ticket"]
        assert (name, created["ticketId"], created["version"]) == ("ticket:created", "42", 1)
        assert ticket.pop("createdAt") == ticket.pop("updatedAt")
        assert ticket == {
            "ticketId": "42", "version": 1, "subject": "A", "status": "new", "priority": "normal", "requesterId": None,
            "assigneeId": None, "teamId": "t1", "watchers": ["w"],
        }  # fmt: skip


async def opened(cluster: Cluster) -> tuple[Socket, Socket]:
    """An agent and the customer who asked, both with the ticket open."""
    await cluster.one.put(teamId="t1", requesterId="carl")
    return await cluster.one.open(ANNA), await cluster.two.open(CARL)


@aio
async def test_a_change_has_old_and_new_values_time_and_author(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, carl = await opened(cluster)
        await cluster.two.put(status="open", by=Actor("bert", "Bert"))
        ((name, updated),) = told(anna)
        assert name == "ticket:updated" and told(carl) == [(name, updated)]
        assert len(updated.pop("updatedAt")) == 24
        assert updated == {
            "ticketId": "42", "version": 2, "changes": {"status": ["new", "open"]}, "by": {"id": "bert", "name": "Bert"}
        }  # fmt: skip


@aio
async def test_a_customer_gets_the_version_but_not_the_fields_for_staff(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, carl = await opened(cluster)
        await cluster.two.put(watchers=["w"], priority="high")
        await cluster.two.put(watchers=[])
        ((_, first), (_, second)) = told(anna)
        assert first["changes"] == {"watchers": [[], ["w"]], "priority": ["normal", "high"]}
        assert second["changes"] == {"watchers": [["w"], []]}
        shown = [(data["version"], data["changes"]) for _, data in told(carl)]
        assert shown == [(2, {"priority": ["normal", "high"]}), (3, {})]


@aio
async def test_the_new_team_of_a_ticket_gets_the_change(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        sockets = await all_connect(cluster)
        anna, carl = await opened(cluster)
        for socket in sockets.values():
            told(socket)
        await cluster.one.put(teamId="t2")
        assert who_heard(sockets, "ticket:updated") == {"otto", "root"}
        assert [name for name, _ in told(anna)] == ["ticket:unsubscribed"]
        assert [data["changes"] for _, data in told(carl)] == [{}]


@aio
async def test_an_assignment_goes_to_the_open_ticket_and_to_both_people(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, carl = await opened(cluster)
        bert, otto = await cluster.two.connect(BERT), await cluster.one.connect(OTTO)
        told(bert), told(otto)

        def assigned(socket: Socket) -> list[Any]:
            return [data for name, data in told(socket) if name == "ticket:assigned"]

        await cluster.one.put(assigneeId="bert", by=Actor("anna", "Anna"))
        want = {"ticketId": "42", "version": 2, "from": None, "to": "bert", "by": {"id": "anna", "name": "Anna"}}
        assert assigned(anna) == assigned(carl) == assigned(bert) == [want]
        await cluster.one.put(assigneeId=None)
        assert assigned(bert) == [{"ticketId": "42", "version": 3, "from": "bert", "to": None}]
        await cluster.one.put("43", teamId="t1", assigneeId="bert")
        assert assigned(bert) == [{"ticketId": "43", "version": 1, "from": None, "to": "bert"}]
        assert assigned(otto) == []


@aio
async def test_a_note_goes_to_staff_only(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, carl = await opened(cluster)
        for kind in ("note", "reply"):
            comment = Comment(kind[0], kind, Actor("bert", "Bert"), f"a {kind}")
            for _ in range(2):
                await cluster.two.tickets.comment("42", comment, remember=True)
                await cluster.two.idle()
        said = told(anna)
        assert [(name, data["comment"]["excerpt"]) for name, data in said] == [
            ("ticket:commented", "a note"),
            ("ticket:commented", "a reply"),
        ]
        note = said[0][1]
        assert len(note["comment"].pop("createdAt")) == 24
        assert note == {
            "ticketId": "42",
            "version": 1,
            "comment": {"id": "n", "kind": "note", "author": {"id": "bert", "name": "Bert"}, "excerpt": "a note"},
        }
        assert [data["comment"]["kind"] for _, data in told(carl)] == ["reply"]


@aio
async def test_every_event_of_a_change_has_an_id_of_its_own(valkey_url: str, prefix: str) -> None:
    """Or the log would take the second for the first, told again."""
    user: User = ROOT
    async with a_cluster(valkey_url, prefix) as cluster:
        root = await cluster.one.connect(user)
        await cluster.one.put(teamId="t1", assigneeId="a")
        await cluster.one.put(teamId="t2", assigneeId="b", watchers=["w"])
        await cluster.one.tickets.remove("42")
        ids = [event.id for event in cluster.log.log]
        assert len(set(ids)) == len(ids) == 9
        assert all(id.startswith("ticket.42.") for id in ids)
        assert told(root)

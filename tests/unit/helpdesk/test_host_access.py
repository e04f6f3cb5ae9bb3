"""The host's own check of who may read a ticket: it is asked wherever a user could get anything of a ticket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, ticket_room, ticket_staff_room
from insightdesk_rt.helpdesk.tickets import audience as ticket_audience
from insightdesk_rt.helpdesk.tickets.access import HostAccess
from insightdesk_rt.helpdesk.tickets.audience import in_buckets
from insightdesk_rt.helpdesk.tickets.namespace import SubscribeTicket
from insightdesk_rt.helpdesk.tickets.readers import ReaderStore
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment
from tests.support import fakes
from tests.support.aio import aio
from tests.support.ticketing import ANNA, BERT, CARL, ROOT, Cluster, a_cluster, names, told

DORA, OTTO = fakes.user("dora"), fakes.user("otto", team="t2")
MALLORY = fakes.user("mallory", "customer", team="t1")
EVERYBODY = (ANNA, BERT, OTTO, DORA, ROOT, CARL, MALLORY)


async def story(cluster: Cluster) -> None:
    """Everything that a ticket can go through."""
    one, two = cluster.one, cluster.two
    await one.put(subject="CEO's salary is wrong", teamId="t1", requesterId="carl", assigneeId="anna")
    await two.put("43", subject="no team yet: data breach", requesterId="carl", watchers=["mallory"])
    await one.put(teamId="t2", subject="moved")
    await two.put(assigneeId="bert", status="open")
    for kind in ("note", "reply"):
        await one.tickets.comment("42", Comment(kind, kind, Actor("bert", "Bert"), f"a {kind}"), True)  # type: ignore[arg-type]
    await two.tickets.remove("42")


async def enter(cluster: Cluster) -> dict[str, Socket]:
    sockets = {u.id: await (cluster.one if n % 2 else cluster.two).connect(u) for n, u in enumerate(EVERYBODY)}
    for socket in sockets.values():
        told(socket)
    return sockets


@aio
async def test_nobody_gets_any_event_of_a_ticket_if_the_check_always_denies(valkey_url: str, prefix: str) -> None:
    """Whatever rooms a user is in by role, team and name."""
    async with a_cluster(valkey_url, prefix, access=HostAccess(lambda user, ticket_id: False)) as cluster:
        sockets = await enter(cluster)
        await story(cluster)
        assert {user_id: names(socket) for user_id, socket in sockets.items() if socket.client.texts} == {}  # type: ignore[attr-defined]
        for socket in sockets.values():
            with pytest.raises(RtError, match=r"FORBIDDEN|NOT_FOUND"):
                await cluster.one.tickets.subscribe(socket, SubscribeTicket("43", "0-1"))
            assert await cluster.one.tickets.still_allowed(socket.user, [ticket_room("43")]) == []
        assert not any(socket.client.texts for socket in sockets.values())  # type: ignore[attr-defined]


@aio
async def test_only_the_user_whom_the_check_allows_gets_events(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix, access=HostAccess(lambda user, ticket_id: user.id == "dora")) as cluster:
        sockets = await enter(cluster)
        await story(cluster)
        heard = {user_id: names(socket) for user_id, socket in sockets.items() if socket.client.texts}  # type: ignore[attr-defined]
        assert heard == {"dora": ["ticket:created", "ticket:created", "ticket:updated", "ticket:deleted"]}


@aio
async def test_an_unassigned_agent_loses_the_ticket_at_once_if_the_check_looks_at_the_assignee(
    valkey_url: str, prefix: str
) -> None:
    async def check(user: User, ticket_id: str) -> bool:
        ticket = await cluster.one.store.get(ticket_id)
        return ticket is not None and ticket.assigneeId == user.id

    async with a_cluster(valkey_url, prefix, access=HostAccess(check)) as cluster:
        await cluster.one.put(assigneeId="anna")
        anna, bert = await cluster.two.open(ANNA), await cluster.one.connect(BERT)
        told(bert)
        await cluster.one.put(assigneeId="bert")
        assert names(anna) == ["ticket:unsubscribed"]
        assert not {ticket_room("42"), ticket_staff_room("42")} & anna.rooms
        assert names(bert) == ["ticket:assigned"]
        await cluster.one.tickets.comment("42", Comment("c", "note", Actor("bert", "Bert"), "for bert only"), True)
        assert names(anna) == []


@pytest.mark.parametrize("kind", ["subject", "status", "comment", "creation"])
@aio
async def test_the_hosts_check_runs_again_before_each_change_of_a_ticket_is_published(
    valkey_url: str, prefix: str, kind: str
) -> None:
    """It may go by anything: the status, a word in the subject, the host's own tables. Who may not read the ticket any
    more hears nothing of the change."""
    may = True
    async with a_cluster(valkey_url, prefix, access=HostAccess(lambda user, ticket_id: may)) as cluster:
        if kind != "creation":
            await cluster.one.put(subject="x")
        carl = await cluster.two.open(CARL)
        may = False
        if kind == "comment":
            await cluster.one.tickets.comment("42", Comment("c", "reply", Actor("b", "B"), "x"), True)
        else:
            await cluster.one.put(**({"status": "open"} if kind == "status" else {"subject": "secret"}))
        assert ticket_room("42") not in carl.rooms and names(carl) == ["ticket:unsubscribed"]


@aio
async def test_our_own_rules_need_no_user_list_and_recheck_only_changes_that_matter(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReaderStore, "all", lambda self: pytest.fail("nobody need be asked about"))
    monkeypatch.setattr(ReaderStore, "note", lambda self, users: pytest.fail("nobody need be noted"))
    async with a_cluster(valkey_url, prefix) as cluster:
        await enter(cluster)
        await cluster.one.put(teamId="t1")
        await cluster.one.put(subject="another", status="open", priority="high")
        await cluster.one.tickets.comment("42", Comment("c", "reply", Actor("b", "B"), "x"), True)
        await cluster.one.tickets.note_readers()
        assert cluster.rechecks == 0


@aio
async def test_the_check_runs_once_per_user_whatever_the_number_of_tabs_and_tokens(
    valkey_url: str, prefix: str
) -> None:
    asked: list[str] = []

    def check(user: User, ticket_id: str) -> bool:
        asked.append(user.id)
        return True

    async with a_cluster(valkey_url, prefix, access=HostAccess(check)) as cluster:
        for number in range(5):
            user = fakes.user("anna", team="t1", session_id=f"s{number}", issued_s=number)
            told(await (cluster.one if number % 2 else cluster.two).connect(user))
        await cluster.one.put(subject="x")
        assert asked == ["anna"]


@aio
async def test_a_user_with_two_teams_in_two_tabs_gets_what_both_may_read(valkey_url: str, prefix: str) -> None:
    """Both tabs are in one room: the user's."""
    async with a_cluster(valkey_url, prefix, access=HostAccess(lambda user, _: user.team_id == "t1")) as cluster:
        red, blue = await cluster.one.connect(ANNA), await cluster.two.connect(fakes.user("anna", team="t2"))
        told(red), told(blue)
        await cluster.one.put(subject="x")
        assert names(red) == names(blue) == []


@aio
async def test_a_user_who_just_left_gets_events_on_return_and_one_who_left_long_ago_is_not_checked(
    valkey_url: str, prefix: str
) -> None:
    """The event is in the log for the user's room: a session that is resumed is sent it."""
    async with a_cluster(valkey_url, prefix, access=HostAccess(lambda user, ticket_id: True)) as cluster:
        anna = await cluster.one.connect(ANNA)
        await cluster.one.disconnect(anna)
        await cluster.two.put(subject="x")
        (event,) = [one for one in cluster.log.log if one.name == "ticket:created"]
        assert event.rooms == ("user:anna",)
        short = ReaderStore(
            cluster.valkey, cluster.valkey.names.namespace("/tickets"), window_ms=-119_999
        )  # a millisecond is left
        await asyncio.sleep(0.005)
        assert await short.all() == []


@aio
async def test_a_check_that_does_not_answer_denies_and_delays_nothing(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticket_audience, "HOST_DEADLINE_S", 0.05)

    async def check(user: User, ticket_id: str) -> bool:
        if user.id == "anna":
            await asyncio.Event().wait()
        if user.id in ("bert", "carl"):
            raise ValueError("the host's database is away")
        return True

    async with a_cluster(valkey_url, prefix, access=HostAccess(check)) as cluster:
        sockets = await enter(cluster)
        await cluster.one.put(subject="x")
        heard = {user_id for user_id, socket in sockets.items() if "ticket:created" in names(socket)}
        assert heard == {"otto", "dora", "root"}


@aio
async def test_a_broken_check_logs_one_line_and_not_one_per_user(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    def check(user: User, ticket_id: str) -> bool:
        raise ValueError("the host's database is away")

    async with a_cluster(valkey_url, prefix, access=HostAccess(check)) as cluster:
        await enter(cluster)
        for number in range(3):
            await cluster.one.put(f"4{number}", subject="x")
        assert [record.getMessage() for record in caplog.records] == ["the host's access check failed"]


@aio
async def test_a_recheck_of_a_user_or_ticket_removes_users_who_may_not_read_any_more(
    valkey_url: str, prefix: str
) -> None:
    """The host's own facts changed: no push of ours says so."""
    open_to: Callable[[User, str], bool]
    open_to = lambda user, ticket_id: True  # noqa: E731
    async with a_cluster(valkey_url, prefix, access=HostAccess(lambda u, t: open_to(u, t))) as cluster:
        for ticket_id in ("42", "43"):
            await cluster.one.put(ticket_id, subject="x")
        anna, bert = await cluster.one.open(ANNA), await cluster.one.open(BERT)
        await cluster.one.tickets.subscribe(anna, SubscribeTicket("43"))
        open_to = lambda user, ticket_id: user.id != "anna" or ticket_id == "43"  # noqa: E731
        assert await cluster.one.tickets.recheck_user("bert") == 0
        assert await cluster.one.tickets.recheck_user("anna") == 1
        assert ticket_room("42") not in anna.rooms and ticket_room("43") in anna.rooms
        open_to = lambda user, ticket_id: False  # noqa: E731
        assert await cluster.one.tickets.recheck_access("42") == 1
        assert ticket_room("42") not in bert.rooms


def test_a_very_large_staff_gets_several_events_and_each_user_the_same_one_on_a_repeat() -> None:
    rooms: list[Any] = [f"user:{number:0>100}" for number in range(5_000)]
    buckets = in_buckets(rooms)
    assert sorted(room for bucket in buckets for room in bucket) == rooms
    assert all(sum(len(room) for room in bucket) < 2 * ticket_audience.ROOMS_BYTES for bucket in buckets)
    again = in_buckets(rooms[::-1])
    assert [set(bucket) for bucket in again] == [set(bucket) for bucket in buckets]
    assert in_buckets([]) == [[]]

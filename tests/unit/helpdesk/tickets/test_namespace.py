"""Opening tickets, losing access, and pushes of the back end: two nodes, one Valkey, a log in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.backplane import Backlog
from insightdesk_rt.engine.model import Offset, User, ticket_room, ticket_staff_room
from insightdesk_rt.helpdesk.tickets.access import HostAccess
from insightdesk_rt.helpdesk.tickets.namespace import OnTicket, SubscribeTicket, ViewTicket
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment, TicketChange
from tests.support import fakes
from tests.support.aio import aio
from tests.support.ticketing import ANNA, BERT, CARL, ROOT, Cluster, a_cluster, names, told

WANDA, OTTO = fakes.user("wanda", "customer"), fakes.user("otto", team="t2")
NOTE = Comment("c1", "note", Actor("bert", "Bert"), "he is angry")
REPLY = Comment("c2", "reply", Actor("bert", "Bert"), "on it")


async def refusal(work: Any) -> RtError:
    with pytest.raises(RtError) as refused:
        await work
    return refused.value


@aio
async def test_opening_a_ticket_sends_its_state_and_the_ack_says_the_same(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        applied = await cluster.one.put(teamId="t1", requesterId="carl")
        anna = await cluster.one.connect(ANNA)
        told(anna)
        answer = await cluster.one.tickets.subscribe(anna, SubscribeTicket("42"))
        ((name, subscribed),) = told(anna)
        assert name == "ticket:subscribed"
        assert subscribed["viewers"][0]["user"] == {"id": "anna", "name": "Anna"}
        assert {**subscribed, "viewers": []} == {
            "ticketId": "42", "offset": applied.offset, "version": 1, "viewers": [], "typing": [], "complete": True
        }  # fmt: skip
        assert (answer.ticketId, answer.offset, answer.version) == ("42", applied.offset, 1)
        assert {ticket_room("42"), ticket_staff_room("42")} <= anna.rooms

        carl = await cluster.two.connect(CARL)
        assert (await cluster.two.tickets.subscribe(carl, SubscribeTicket("42"))).viewers == []
        assert ticket_staff_room("42") not in carl.rooms


@aio
async def test_users_without_access_are_refused_and_admins_learn_if_there_is_no_such_ticket(
    valkey_url: str, prefix: str
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        for user, ticket_id, code in [
            (OTTO, "42", "FORBIDDEN"),
            (CARL, "42", "FORBIDDEN"),
            (ANNA, "43", "FORBIDDEN"),
            (ROOT, "43", "NOT_FOUND"),
        ]:
            socket = await cluster.one.connect(user)
            refused = await refusal(cluster.one.tickets.subscribe(socket, SubscribeTicket(ticket_id)))
            assert (refused.code, refused.fields) == (code, {"ticketId": ticket_id})
            assert ticket_room(ticket_id) not in socket.rooms
            for call in (cluster.one.tickets.typing, cluster.one.tickets.stop_typing):
                with pytest.raises(RtError, match="FORBIDDEN"):
                    call(socket, OnTicket(ticket_id))
            assert (
                await refusal(cluster.one.tickets.view(socket, ViewTicket(ticket_id, "viewing")))
            ).code == "FORBIDDEN"


@aio
async def test_a_client_that_returns_with_an_offset_gets_missed_events_first_and_in_order(
    valkey_url: str, prefix: str
) -> None:
    """Notes and replies lie in two rooms; staff get them in the one order of the log."""
    async with a_cluster(valkey_url, prefix) as cluster:
        since = (await cluster.one.put(teamId="t1", requesterId="carl")).offset
        await cluster.one.put(status="open")
        await cluster.one.tickets.comment("42", NOTE, True)
        await cluster.one.put(watchers=["wanda"])
        await cluster.one.tickets.comment("42", REPLY, True)
        for user, want in [
            (ANNA, ["updated", "commented", "updated", "commented", "subscribed"]),
            (CARL, ["updated", "updated", "commented", "subscribed"]),
        ]:
            socket = await cluster.two.connect(user)
            told(socket)
            await cluster.two.tickets.subscribe(socket, SubscribeTicket("42", since))
            got = told(socket)
            assert [name.removeprefix("ticket:") for name, _ in got] == want
            versions = [data["version"] for name, data in got if name == "ticket:updated"]
            assert versions == [2, 3]
            assert "angry" not in str(got) or user is ANNA
            assert "wanda" not in str(got) or user is ANNA


@aio
async def test_a_client_that_was_offline_too_long_must_reload(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")

        async def trimmed(namespace: str, rooms: Any, since: Offset, *more: Any) -> Backlog:
            return Backlog([], False, cluster.log.position(namespace))

        cluster.lines[0].read = trimmed
        anna = await cluster.one.connect(ANNA)
        answer = await cluster.one.tickets.subscribe(anna, SubscribeTicket("42", "0-1"))
        assert answer.complete is False
        assert told(anna)[-1] == ("resync", {"rooms": ["ticket:42"], "ticketId": "42"})
        assert ticket_room("42") in anna.rooms


@aio
async def test_a_socket_cannot_exceed_its_limit_of_rooms(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix, max_rooms=3) as cluster:
        await cluster.one.put(teamId="t1")
        anna = await cluster.one.connect(ANNA)  # user, role and team
        for since in (None, "0-1"):
            refused = await refusal(cluster.one.tickets.subscribe(anna, SubscribeTicket("42", since)))
            assert refused.code == "TOO_MANY_ROOMS"


@aio
async def test_closing_a_ticket_ends_its_events(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        anna = await cluster.one.open(ANNA)
        assert cluster.one.tickets.unsubscribe(anna, OnTicket("42")).ticketId == "42"
        cluster.one.tickets.unsubscribe(anna, OnTicket("42"))
        assert told(anna) == [("ticket:unsubscribed", {"ticketId": "42"})] * 2
        await cluster.one.put(status="open")
        assert told(anna) == []


# ── losing access ────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_users_who_lose_access_leave_the_room_on_every_node_before_the_change_is_published(
    valkey_url: str, prefix: str
) -> None:
    """Deny first, tell second: the change that takes access may hold what is not for those who lose it."""
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1", requesterId="carl", watchers=["wanda"])
        anna, wanda = await cluster.one.open(ANNA), await cluster.two.open(WANDA)
        carl, root = await cluster.one.open(CARL), await cluster.two.open(ROOT)
        out = ("ticket:unsubscribed", {"ticketId": "42", "reason": "access"})

        await cluster.two.put(watchers=[], requesterId="carl", subject="not for wanda")
        assert told(wanda) == [out]
        assert names(anna) == ["ticket:updated"], "users who keep access are not affected"
        await cluster.two.put(teamId="t2", subject="not for anna")
        assert told(anna) == [out] and ticket_staff_room("42") not in anna.rooms
        told(carl)
        await cluster.two.put(requesterId="somebody", subject="not for carl")
        assert told(carl) == [out]
        told(root)
        await cluster.one.put(subject="Not for them")
        assert names(anna) == names(wanda) == names(carl) == []
        assert names(root) == ["ticket:updated"]


@aio
async def test_all_nodes_recheck_access_only_after_changes_that_may_matter(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1", requesterId="carl", watchers=["wanda"])
        await cluster.one.put(subject="Nobody can be in a new one, and this changes nothing")
        assert cluster.rechecks == 0
        await cluster.one.put(watchers=[])
        assert cluster.rechecks == 1
        await cluster.one.idle()  # until that is noted as told
        await cluster.one.tickets.remove("42")
        assert cluster.rechecks == 2


@aio
async def test_a_deletion_is_published_before_everybody_is_removed(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1", requesterId="carl")
        sockets = [await cluster.one.open(ROOT), await cluster.two.open(CARL), await cluster.two.open(ANNA)]
        removed = await cluster.two.tickets.remove("42")
        assert removed.version == 2 and removed.offset == cluster.log.position("/tickets")
        for socket in sockets:
            assert names(socket) == ["ticket:deleted", "ticket:unsubscribed"]
        await cluster.two.idle()
        assert (await refusal(cluster.two.tickets.remove("42"))).code == "NOT_FOUND"
        assert (await refusal(cluster.two.tickets.get("42"))).code == "NOT_FOUND"
        assert (await refusal(cluster.two.tickets.comment("42", NOTE, True))).code == "NOT_FOUND"


@pytest.mark.parametrize("failed", ["", "publishing", "taking access"])
@aio
async def test_a_deletion_reaches_only_those_who_could_read_the_ticket_until_then(
    valkey_url: str, prefix: str, failed: str
) -> None:
    """It holds an id and a version only. It is published before access is taken, but after each earlier change took
    the access that it ended, also if that failed at first."""
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1", requesterId="carl", watchers=["wanda"])
        anna, wanda = await cluster.one.open(ANNA), await cluster.two.open(WANDA)
        carl, root = await cluster.one.open(CARL), await cluster.two.open(ROOT)

        async def refuse(*_: Any) -> Any:
            raise RtError("UNAVAILABLE")

        tickets, line = cluster.two.tickets, cluster.lines[1]
        append, recheck = line.append, tickets._recheck_on_all_nodes
        if failed == "publishing":
            line.append = refuse
        elif failed == "taking access":
            tickets._recheck_on_all_nodes = refuse
        changes = (lambda: cluster.two.put(teamId="t2", watchers=[], subject="secret"), lambda: tickets.remove("42"))
        for change in changes:
            if failed:
                assert (await refusal(change())).code == "UNAVAILABLE"
            else:
                await change()
                await cluster.two.idle()  # until it is noted as published
        if failed == "taking access":
            assert not any(names(one) for one in (anna, wanda, carl, root)), "nothing is published either"
        line.append, tickets._recheck_on_all_nodes = append, recheck
        await tickets.publish_overdue()
        if failed:
            await tickets.remove("42")  # the same request again publishes what is pending
        out = ("ticket:unsubscribed", {"ticketId": "42", "reason": "access"})
        assert told(anna) == told(wanda) == [out]
        for socket in (carl, root):
            heard = told(socket)
            assert out in heard
            deleted = [data for name, data in heard if name == "ticket:deleted"]
            # The ticket was gone before its earlier change took access: that took everybody out.
            assert deleted == ([] if failed and socket is carl else [{"ticketId": "42", "version": 3}])
        assert not any(ticket_room("42") in one.rooms for one in (carl, root, anna, wanda))


@pytest.mark.parametrize("several", [False, True])
@aio
async def test_a_client_that_opens_a_ticket_while_it_loses_access_gets_no_later_events(
    valkey_url: str, prefix: str, several: bool
) -> None:
    """The change that takes the access is in the log when it is read for the one who asked since before it."""
    async with a_cluster(valkey_url, prefix) as cluster:
        before = await cluster.one.put(teamId="t1")
        anna = await cluster.one.connect(ANNA)
        told(anna)
        listen = cluster.lines[0].listen

        async def slow(namespace: str, room: Any) -> Offset:
            await cluster.two.put(teamId="t2", subject="not for anna")
            return await listen(namespace, room)

        cluster.lines[0].listen = slow
        if several:
            opened: Any = await cluster.one.tickets.subscribe(anna, SubscribeTicket(None, before.offset, ["42"]))
            assert [one.ok for one in opened.tickets] == [False]
        else:
            asked = cluster.one.tickets.subscribe(anna, SubscribeTicket("42", before.offset))
            assert (await refusal(asked)).code == "FORBIDDEN"
        assert names(anna) == [] and ticket_room("42") not in anna.rooms


@aio
async def test_a_client_that_opens_a_ticket_while_it_loses_access_does_not_get_in(valkey_url: str, prefix: str) -> None:
    """The check says yes, the recheck finds nobody in the room, and only then comes the join."""
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        anna = await cluster.one.connect(ANNA)
        listen = cluster.lines[0].listen

        async def slow(namespace: str, room: Any) -> Offset:
            await cluster.two.put(teamId="t2")
            return await listen(namespace, room)

        cluster.lines[0].listen = slow
        assert (await refusal(cluster.one.tickets.subscribe(anna, SubscribeTicket("42")))).code == "FORBIDDEN"
        assert ticket_room("42") not in anna.rooms and "ticket:subscribed" not in names(anna)


@aio
async def test_a_recheck_waits_for_the_event_for_a_limited_time(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insightdesk_rt.engine.hub.hub.DELIVERED_WITHIN_S", 0.05)
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        anna, root = await cluster.one.open(ANNA), await cluster.one.open(ROOT)
        await cluster.one.store.put("42", TicketChange(teamId="t2"))
        await cluster.one.tickets.recheck_access("42", Offset("999999-0"))
        assert names(anna) == ["ticket:unsubscribed"] and names(root) == []
        await cluster.one.store.put("42", TicketChange(teamId="t1"))
        late = await cluster.one.open(ANNA)
        await cluster.one.store.put("42", TicketChange(teamId="t2"))
        await cluster.one.tickets.recheck_all()
        assert names(late) == ["ticket:unsubscribed"]


@aio
async def test_a_node_that_counted_as_dead_rechecks_access_to_tickets(valkey_url: str, prefix: str) -> None:
    """Nobody waited for it when access changed. An emptied store is no reason: it says no of everybody."""
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        anna = await cluster.one.open(ANNA)
        await cluster.one.store.put("42", TicketChange(teamId="t2"))
        await cluster.one.tickets.re_register()
        assert ticket_room("42") in anna.rooms
        cluster.one.name = "n1, declared dead"
        await cluster.one.tickets.re_register()
        assert names(anna) == ["ticket:unsubscribed"] and ticket_room("42") not in anna.rooms


@aio
async def test_a_session_that_is_resumed_keeps_only_tickets_its_user_may_still_read(
    valkey_url: str, prefix: str
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        await cluster.one.put("43", teamId="t1")
        anna = fakes.socket("/tickets", ANNA)
        cluster.two.hub.add(anna)
        await cluster.two.hub.enter(anna, [ticket_room("42"), ticket_staff_room("42"), ticket_room("43")])
        await cluster.one.store.put("43", TicketChange(teamId="t2"))
        await cluster.two.tickets.joined(anna)
        assert told(anna) == [("ticket:unsubscribed", {"ticketId": "43", "reason": "access"})]
        assert ticket_room("42") in anna.rooms and ticket_room("43") not in anna.rooms
        assert [v.user.id for v in (await cluster.one.viewers.live("42")).viewers] == ["anna"]


@aio
async def test_the_hosts_check_decides_alone_and_its_failure_opens_nothing(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers: dict[str, Any] = {"anna": True}

    def check(user: User, ticket_id: str) -> bool:
        answer: bool = answers[user.id]
        return answer

    async with a_cluster(valkey_url, prefix, access=HostAccess(check)) as cluster:
        anna = await cluster.one.open(ANNA, "only-the-host-knows-it")
        root = await cluster.one.connect(ROOT)
        assert (await refusal(cluster.one.tickets.subscribe(root, SubscribeTicket("42")))).code == "INTERNAL"
        answers.clear()
        await cluster.one.tickets.recheck_access("only-the-host-knows-it")
        assert names(anna) == ["ticket:unsubscribed"]
        assert {record.message for record in caplog.records} == {"the host's access check failed"}


# ── stored and told are one promise ──────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_repeat_after_a_failure_publishes_what_is_left_once(valkey_url: str, prefix: str) -> None:
    """The change was stored, then Valkey did not take the event: 503, and the back end tries again."""
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        await cluster.one.idle()
        anna = await cluster.one.open(ANNA)
        cluster.log.away = True
        assert (await refusal(cluster.one.put(status="open", assigneeId="bert"))).code == "UNAVAILABLE"
        assert names(anna) == []
        cluster.log.away = False
        applied = await cluster.two.put(status="open", assigneeId="bert")
        assert (applied.version, applied.created) == (2, False)
        assert applied.offset == cluster.log.position("/tickets")
        assert names(anna) == ["ticket:updated", "ticket:assigned"]
        await cluster.two.idle()
        assert await cluster.two.put(status="open") == applied
        assert names(anna) == []


@aio
async def test_a_repeated_creation_is_still_reported_as_a_creation(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        cluster.log.away = True
        assert (await refusal(cluster.one.put(teamId="t1"))).code == "UNAVAILABLE"
        cluster.log.away = False
        applied = await cluster.one.put(teamId="t1")
        assert (applied.version, applied.created) == (1, True)
        cluster.log.away = True
        await cluster.one.idle()
        assert (await refusal(cluster.one.tickets.remove("42"))).code == "UNAVAILABLE"
        cluster.log.away = False
        assert (await cluster.one.tickets.remove("42")).version == 2


@aio
async def test_the_leader_publishes_what_a_dead_node_left_pending_and_takes_access(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        await cluster.one.idle()
        anna = await cluster.one.open(ANNA)
        await cluster.two.store.put("42", TicketChange(teamId="t2"))  # and dies
        store = cluster.one.store.pending
        overdue = store.overdue
        monkeypatch.setattr(store, "overdue", lambda: overdue(age_ms=0))
        await asyncio.sleep(0.005)
        await cluster.one.tickets.publish_overdue()
        await cluster.one.idle()
        assert names(anna) == ["ticket:unsubscribed"]
        await cluster.one.tickets.publish_overdue()
        assert await overdue(age_ms=0) == []


@aio
async def test_concurrent_changes_are_published_in_the_order_of_their_versions(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        anna = await cluster.one.open(ANNA)
        nodes = (cluster.one, cluster.two)
        await asyncio.gather(*(nodes[n % 2].put(subject=str(n)) for n in range(40)))
        versions = [data["version"] for name, data in told(anna)]
        assert versions == list(range(2, 42))


@aio
async def test_nothing_is_confirmed_while_valkey_is_unreachable(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(Valkey("unix:///nowhere/s", prefix))
    anna = await cluster.one.connect(ANNA)
    for work in (
        cluster.one.put(teamId="t1"),
        cluster.one.tickets.remove("42"),
        cluster.one.tickets.subscribe(anna, SubscribeTicket("42")),
    ):
        assert (await refusal(work)).code == "UNAVAILABLE"
    assert BERT.id not in caplog.text

"""Viewers and typing: others see both, both always end, and two nodes agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Room, ticket_room, ticket_staff_room
from insightdesk_rt.helpdesk.tickets.namespace import OnTicket, SubscribeTicket, ViewTicket
from insightdesk_rt.helpdesk.tickets.viewers import GRACE_MS, RETRY_MS, SETTLE_MS
from insightdesk_rt.helpdesk.tickets.viewers import ViewedTicket as Looks
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey
from tests.support.ticketing import ANNA, BERT, CARL, ROOT, Cluster, Node, a_cluster, names, told

TICKET = OnTicket("42")
ANNA_TYPES = ("ticket:typing", {"ticketId": "42", "user": {"id": "anna", "name": "Anna"}})
ANNA_STOPS = ("ticket:stopTyping", {"ticketId": "42", "userId": "anna"})


async def opened(cluster: Cluster) -> tuple[Socket, Socket, Socket]:
    """Anna and Bert on one node, the customer Carl on the other, all with the ticket open."""
    await cluster.one.put(teamId="t1", requesterId="carl")
    await cluster.one.put("43", teamId="t1", requesterId="carl")
    people = await cluster.one.open(ANNA), await cluster.one.open(BERT), await cluster.two.open(CARL)
    await cluster.one.pass_time(SETTLE_MS)
    await cluster.two.pass_time(SETTLE_MS)
    for socket in people:
        told(socket)
    return people


async def came_back(
    cluster: Cluster, old: Socket, node: Node | None = None, rooms: Sequence[Room] = (ticket_room("42"),)
) -> Socket:
    """Return the socket that goes on with the session of another."""
    node = node or cluster.one
    back = fakes.socket("/tickets", old.user, sid=old.sid)
    node.hub.add(back)
    await node.hub.enter(back, [*rooms, *([ticket_staff_room("42")] if rooms and old.user.is_staff else [])])
    await node.tickets.joined(back)
    return back


async def lost(node: Node, name: str) -> None:
    clearing = asyncio.create_task(node.tickets.node_lost(name))
    await asyncio.sleep(0)
    await node.pass_time(GRACE_MS)
    await clearing


def viewers(socket: Socket) -> list[dict[str, str]]:
    """The lists of viewers the client was sent: user → state."""
    return [
        {viewer["user"]["id"]: viewer["state"] for viewer in data["viewers"]}
        for name, data in told(socket)
        if name == "ticket:viewers"
    ]


# ── typing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_typing_reaches_the_others_on_all_nodes_and_ends_five_seconds_after_the_last_call(
    valkey_url: str, prefix: str
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, carl = await opened(cluster)
        cluster.one.tickets.typing(anna, TICKET)
        await cluster.one.pass_time(4_999)
        cluster.one.tickets.typing(anna, TICKET)
        await cluster.one.pass_time(4_999)
        assert told(bert) == told(carl) == [ANNA_TYPES, ANNA_TYPES]
        await cluster.one.pass_time(1)
        assert told(bert) == told(carl) == [ANNA_STOPS]
        assert told(anna) == []
        await cluster.one.pass_time(60_000)
        assert told(bert) == []


@aio
async def test_typing_in_two_tickets_loses_neither(valkey_url: str, prefix: str) -> None:
    """One timer per socket would lose one of them."""
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        for socket in (anna, bert):
            await cluster.one.tickets.subscribe(socket, SubscribeTicket("43"))
            told(socket)
        cluster.one.tickets.typing(anna, OnTicket("42"))
        await cluster.one.pass_time(1_000)
        cluster.one.tickets.typing(anna, OnTicket("43"))
        await cluster.one.pass_time(4_000)
        stops = [data["ticketId"] for name, data in told(bert) if name == "ticket:stopTyping"]
        assert stops == ["42"]
        await cluster.one.pass_time(1_000)
        assert told(bert)[-1] == ("ticket:stopTyping", {"ticketId": "43", "userId": "anna"})


@aio
async def test_stop_typing_ends_it_and_is_published_once(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        cluster.one.tickets.typing(anna, TICKET)
        await until(lambda: told(bert) == [ANNA_TYPES], "who types is told, once it is noted")
        cluster.one.tickets.stop_typing(anna, TICKET)
        cluster.one.tickets.stop_typing(anna, TICKET)
        assert told(bert) == [ANNA_STOPS]
        await cluster.one.pass_time(5_000)
        assert told(bert) == [], "its timer ended with it"
        assert len(cluster.one.tickets.viewers.typing) == 0


@aio
async def test_a_user_who_stops_before_typing_was_stored_never_shows_as_typing(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        cluster.one.tickets.typing(anna, TICKET)
        cluster.one.tickets.stop_typing(anna, TICKET)
        await cluster.one.pass_time(5_000)
        assert told(bert) == [ANNA_STOPS]
        assert (await cluster.one.tickets.viewers.live(TICKET.ticketId)).typing == []


@pytest.mark.parametrize("how", ["unsubscribes", "leaves", "dies", "loses access"])
@aio
async def test_typing_ends_when_the_user(valkey_url: str, prefix: str, how: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, _, carl = await opened(cluster)
        cluster.one.tickets.typing(anna, TICKET)
        await until(lambda: told(carl), "carl sees her type")
        if how == "unsubscribes":
            cluster.one.tickets.unsubscribe(anna, TICKET)
        elif how == "loses access":
            await cluster.two.put(teamId="t2")
        else:
            why = CloseReason.CLIENT_LEFT if how == "leaves" else CloseReason.TRANSPORT_ERROR
            await cluster.one.disconnect(anna, why)
        assert ANNA_STOPS in told(carl)
        await cluster.one.pass_time(10_000)
        assert names(carl) == []


@aio
async def test_a_user_with_two_tabs_types_until_both_have_stopped(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        other_tab = await cluster.one.open(ANNA)
        await cluster.one.pass_time(SETTLE_MS)
        told(other_tab)
        cluster.one.tickets.typing(anna, TICKET)
        await cluster.one.pass_time(3_000)
        cluster.one.tickets.typing(other_tab, TICKET)
        assert told(other_tab) == [ANNA_TYPES], "only the socket that typed is left out"
        await cluster.one.pass_time(2_000)
        assert told(bert).count(ANNA_STOPS) == 0, "the first tab's five seconds are over, the second types"
        cluster.one.tickets.stop_typing(other_tab, TICKET)
        assert told(bert) == [ANNA_STOPS]

        cluster.one.tickets.typing(anna, TICKET)
        cluster.one.tickets.typing(other_tab, TICKET)
        await cluster.one.disconnect(other_tab)
        assert ANNA_STOPS not in told(bert)
        cluster.one.tickets.stop_typing(anna, TICKET)
        assert told(bert) == [ANNA_STOPS]


@aio
async def test_a_client_that_opens_the_ticket_sees_who_types(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, _, carl = await opened(cluster)
        cluster.one.tickets.typing(anna, TICKET)
        await cluster.one.idle()
        late = await cluster.two.tickets.subscribe(carl, SubscribeTicket("42"))
        assert [person.id for person in late.typing] == ["anna"]
        mine = await cluster.one.tickets.subscribe(anna, SubscribeTicket("42"))
        assert mine.typing == [], "not the user's own typing"
        cluster.one.tickets.stop_typing(anna, TICKET)
        await cluster.one.idle()
        assert (await cluster.two.tickets.subscribe(carl, SubscribeTicket("42"))).typing == []


@aio
async def test_typing_works_while_valkey_is_unreachable(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(Valkey("unix:///nowhere/s", prefix))
    anna, bert = await cluster.one.connect(ANNA), await cluster.one.connect(BERT)
    for socket in (anna, bert):
        await cluster.one.hub.join(socket, ticket_room("42"))
    cluster.one.tickets.typing(anna, TICKET)
    await cluster.one.pass_time(5_000)
    assert told(bert) == [ANNA_TYPES, ANNA_STOPS]
    assert caplog.records == []


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_staff_see_viewers_and_customers_do_not(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, carl = await opened(cluster)
        seen = await cluster.one.tickets.view(bert, ViewTicket("42", "replying"))
        assert [(viewer.user.id, viewer.state) for viewer in seen.viewers] == [
            ("anna", "viewing"),
            ("bert", "replying"),
        ]
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna) == viewers(bert) == [{"anna": "viewing", "bert": "replying"}]
        assert told(carl) == []
        assert (await cluster.two.tickets.view(carl, ViewTicket("42", "viewing"))).viewers == []
        await cluster.two.pass_time(SETTLE_MS)
        assert viewers(anna) == [{"anna": "viewing", "bert": "replying", "carl": "viewing"}], (
            "a customer who sends a view is seen"
        )
        assert told(carl) == []


@aio
async def test_many_changes_give_one_message_and_no_change_gives_none(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        for state in ("replying", "away", "replying"):
            await cluster.one.tickets.view(bert, ViewTicket("42", state))
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna) == [{"anna": "viewing", "bert": "replying"}]
        await cluster.one.tickets.subscribe(bert, SubscribeTicket("42"))
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna) == [], "opening it once more changes nothing, not the state either"


@aio
async def test_two_users_who_open_a_ticket_at_once_on_two_nodes_see_each_other(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1")
        anna, bert = await cluster.one.open(ANNA), await cluster.two.open(BERT)
        for node in (cluster.two, cluster.one):
            await node.pass_time(SETTLE_MS)
        both = {"anna": "viewing", "bert": "viewing"}
        assert viewers(anna)[-1] == viewers(bert)[-1] == both


@aio
async def test_a_page_reload_does_not_show_the_user_leaving(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        await cluster.one.disconnect(bert)
        await cluster.one.pass_time(GRACE_MS - 500)
        again = await cluster.one.open(BERT)
        await cluster.one.pass_time(500)
        await cluster.one.pass_time(SETTLE_MS)
        assert {frozenset(seen) for seen in viewers(anna)} == {frozenset({"anna", "bert"})}
        await cluster.one.disconnect(again)
        await cluster.one.pass_time(GRACE_MS)
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna) == [{"anna": "viewing"}]


@aio
async def test_a_viewer_who_closes_the_ticket_disappears_at_once(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        await cluster.one.disconnect(bert, CloseReason.CLIENT_LEFT)
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna) == [{"anna": "viewing"}]
        third = await cluster.one.open(BERT)
        cluster.one.tickets.unsubscribe(third, TICKET)
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna)[-1] == {"anna": "viewing"}
        assert list(cluster.one.tickets.viewers._views) == [(anna.sid, "42")]


@aio
async def test_a_socket_that_leaves_while_it_is_let_in_does_not_stay_a_viewer(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        cluster.one.tickets.unsubscribe(bert, TICKET)
        await cluster.one.disconnect(bert, CloseReason.TRANSPORT_CLOSE)
        await cluster.one.tickets.viewers.view(
            bert, "42"
        )  # its subscribe was under way, and made it no member any more
        await cluster.one.pass_time(GRACE_MS)
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna)[-1] == {"anna": "viewing"}
        assert list(cluster.one.tickets.viewers._views) == [(anna.sid, "42")]


@aio
async def test_a_session_that_returns_in_time_stays_a_viewer(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        await cluster.one.tickets.view(bert, ViewTicket("42", "replying"))
        await cluster.one.pass_time(SETTLE_MS)
        told(anna)
        await cluster.one.disconnect(bert)
        await came_back(cluster, bert)
        await cluster.one.pass_time(GRACE_MS)
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna) == []
        assert (await cluster.one.viewers.live("42")).viewers[1].state == "replying"


@aio
async def test_a_session_may_return_before_its_old_socket_left(valkey_url: str, prefix: str) -> None:
    """That end waits for the handler that runs: it took view and typing of the one that was there by then."""
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, carl = await opened(cluster)
        await cluster.two.tickets.view(carl, ViewTicket("42", "viewing"))
        await cluster.two.pass_time(SETTLE_MS)
        told(anna)
        cluster.one.hub.remove(bert)
        cluster.two.hub.remove(carl)
        bert.gone = carl.gone = True
        back, customer = await came_back(cluster, bert), await came_back(cluster, carl, cluster.two)
        cluster.one.tickets.typing(back, TICKET)
        for node, socket in ((cluster.one, bert), (cluster.two, carl)):
            await node.tickets.left(socket, CloseReason.TRANSPORT_CLOSE)
            await node.pass_time(GRACE_MS)
            await node.pass_time(SETTLE_MS)
        assert viewers(anna) == []
        assert [v.user.id for v in (await cluster.one.viewers.live("42")).viewers] == ["anna", "bert", "carl"]
        await cluster.one.pass_time(5_000 - GRACE_MS - SETTLE_MS)
        assert told(anna) == [("ticket:stopTyping", {"ticketId": "42", "userId": "bert"})], "when its time is over"
        await cluster.one.disconnect(back, CloseReason.CLIENT_LEFT)
        await cluster.two.disconnect(customer, CloseReason.CLIENT_LEFT)
        await cluster.one.pass_time(SETTLE_MS)
        await cluster.two.pass_time(SETTLE_MS)
        assert viewers(anna)[-1] == {"anna": "viewing"}


@aio
async def test_a_user_who_returns_without_access_is_not_shown_as_viewer(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        await cluster.one.disconnect(bert)
        await came_back(cluster, bert, rooms=[])
        await cluster.one.pass_time(GRACE_MS)
        await cluster.one.pass_time(SETTLE_MS)
        assert viewers(anna) == [{"anna": "viewing"}]


# ── nodes and Valkey come and go ─────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_users_of_a_dead_node_no_longer_view_or_type(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, carl = await opened(cluster)
        cluster.two.tickets.typing(carl, TICKET)
        cluster.one.tickets.typing(bert, TICKET)
        ghost = await cluster.two.open(fakes.user("ghost", "admin"))
        cluster.two.tickets.typing(ghost, TICKET)
        also_here = await cluster.one.open(fakes.user("ghost", "admin"))
        cluster.one.tickets.typing(also_here, TICKET)
        await cluster.one.idle()
        await cluster.two.idle()
        told(anna)
        await lost(cluster.one, "n2")
        heard = told(anna)
        assert [data.get("userId") for name, data in heard if name == "ticket:stopTyping"] == ["carl"]
        *_, last = [data["viewers"] for name, data in heard if name == "ticket:viewers"]
        assert {viewer["user"]["id"] for viewer in last} == {"anna", "bert", "ghost"}


@aio
async def test_a_node_with_a_new_incarnation_stores_its_viewers_again(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await opened(cluster)
        await lost(cluster.two, "n1")
        assert (await cluster.two.viewers.live("42")).viewers == []
        cluster.one.name = "n1-again"
        await cluster.one.tickets.re_register()
        assert [v.user.id for v in (await cluster.two.viewers.live("42")).viewers] == ["anna", "bert"]


@aio
async def test_many_views_are_stored_again_in_few_pipelines(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        watch, sockets = cluster.one.tickets.viewers, [fakes.socket("/tickets", BERT) for _ in range(1_200)]
        for number, socket in enumerate(sockets):
            watch._views[socket.sid, f"t{number}"] = Looks(socket, BERT.person, "viewing")
        before = cluster.valkey.counters["batches"]
        await watch.re_register()
        assert cluster.valkey.counters["batches"] - before <= 4
        assert [v.user.id for v in (await cluster.one.viewers.live("t1199")).viewers] == ["bert"]


@aio
async def test_a_failed_re_registration_raises_so_that_it_is_repeated(prefix: str) -> None:
    cluster = Cluster(Valkey("unix:///nowhere/s", prefix))
    watch, socket = cluster.one.tickets.viewers, fakes.socket("/tickets", BERT)
    watch._views[socket.sid, "42"] = Looks(socket, BERT.person, "viewing")
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await watch.re_register()


@aio
async def test_clients_that_move_from_a_stopping_node_do_not_show_as_leaving(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, bert, _ = await opened(cluster)
        root = await cluster.two.open(ROOT)
        for socket in (anna, bert):
            await cluster.one.disconnect(socket, CloseReason.SHUTDOWN)
        await cluster.one.tickets.close()
        clearing = asyncio.create_task(cluster.two.tickets.node_lost("n1"))
        await asyncio.sleep(0)
        await cluster.two.pass_time(GRACE_MS - 500)
        await cluster.two.open(ANNA)
        await cluster.two.pass_time(499)
        assert viewers(root) and all({"anna", "bert", "root"} == {*seen} for seen in viewers(root))
        await cluster.two.pass_time(1)
        await clearing
        assert viewers(root) == [{"anna": "viewing", "root": "viewing"}]


@aio
async def test_two_nodes_that_clear_the_same_dead_node_do_not_block_each_other(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await opened(cluster)
        both = [asyncio.create_task(cluster.two.tickets.node_lost("n1")) for _ in range(2)]
        await asyncio.sleep(0)
        await cluster.two.pass_time(GRACE_MS)
        done = await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 5)
        assert None in done and (await cluster.two.viewers.live("42")).viewers == []


@aio
async def test_failed_writes_are_repeated_when_valkey_is_reachable_again(
    prefix: str,
) -> None:
    with OwnValkey() as server:
        async with a_cluster(server.url, prefix) as cluster:
            anna, bert, _ = await opened(cluster)
            server.freeze()
            with pytest.raises(RtError):
                await cluster.one.tickets.view(bert, ViewTicket("42", "replying"))
            cluster.one.tickets.unsubscribe(anna, TICKET)
            await cluster.one.idle()
            server.thaw()
            await until(lambda: cluster.valkey.available, "valkey is back")
            for _ in range(3):
                await cluster.one.pass_time(RETRY_MS)
            live = await cluster.one.viewers.live("42")
            assert [(viewer.user.id, viewer.state) for viewer in live.viewers] == [("bert", "replying")]
            assert viewers(bert)[-1] == {"bert": "replying"}

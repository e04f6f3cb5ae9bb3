"""The hub of one node: delivery, its order, and replay for sockets that join later."""

import asyncio
import json

import pytest

from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub, Replay
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Event, Offset, Right, Room
from tests.support import fakes
from tests.support.aio import aio

T = Room("ticket:1")


def hub_of(max_rooms: int = 0) -> tuple[Hub, fakes.OneNode]:
    node = fakes.OneNode()
    return Hub(node, ["/tickets", "/chat"], max_rooms), node


def added(hub: Hub, peer: fakes.Peer | None = None) -> tuple[Socket, list[str]]:
    peer = peer or fakes.Peer()
    socket = fakes.socket("/tickets", peer=peer)
    hub.add(socket)
    return socket, peer.texts


@aio
async def test_a_logged_event_reaches_members_with_its_offset() -> None:
    hub, _ = hub_of()
    one, texts = added(hub)
    other, silent = added(hub)
    await hub.join(one, T)
    offset = await hub.emit("/tickets", [T], "ticket:updated", '{"a":1}')
    assert [json.loads(t) for t in texts] == [{"event": "ticket:updated", "data": {"a": 1}, "offset": offset}]
    assert silent == [] and other.rooms == set()


@aio
async def test_a_volatile_event_is_delivered_here_and_published_for_others() -> None:
    hub, node = hub_of()
    one, texts = added(hub)
    two, texts_two = added(hub)
    await hub.join(one, T)
    await hub.join(two, T)
    hub.publish("/tickets", [T], "ticket:typing", "{}", skip=[one.sid])
    assert texts == [] and len(texts_two) == 1
    assert [e.name for e in node.published] == ["ticket:typing"] and not node.published[0].logged


@aio
async def test_a_rooms_channel_is_subscribed_while_it_has_members() -> None:
    hub, node = hub_of()
    one, _ = added(hub)
    two, _ = added(hub)
    await hub.join(one, T)
    await hub.join(two, T)
    hub.remove(one)
    assert node.unheard == []
    hub.remove(two)
    hub.remove(two)
    assert node.unheard == [("/tickets", T)]
    hub.check()


@aio
async def test_a_removed_socket_keeps_its_last_rooms() -> None:
    hub, _ = hub_of()
    one, _ = added(hub)
    await hub.join(one, T)
    hub.remove(one)
    assert one.rooms == {T} and one.gone
    assert list(hub.members("/tickets", T)) == []


@aio
async def test_a_removed_socket_keeps_the_rights_by_which_it_joined() -> None:
    """They are written to the session's record at its end. Without them the replay on a resume had no limit."""
    hub, _ = hub_of()
    one, _ = added(hub)
    await hub.join_all(one, [T], None, Right(Offset("5-0"), "first life"))
    before = dict(one.starts or {})
    assert before[T].life == "first life"
    hub.remove(one)
    assert one.starts == before


@aio
async def test_a_socket_that_disconnects_while_joining_joins_nothing() -> None:
    hub, node = hub_of()
    one, _ = added(hub)
    hub.remove(one)
    await hub.join(one, T)
    await hub.enter(one, [T])
    assert T not in hub.rooms("/tickets") and ("/tickets", T) in node.unheard


@aio
async def test_the_channel_of_a_failed_join_is_unsubscribed() -> None:
    hub, node = hub_of()
    socket, _ = added(hub)
    node.away = True
    for attempt in (hub.join(socket, T, Offset("1-0")), hub.resume(socket, {T}, Offset("1-0"))):
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await attempt
        assert node.unheard.pop() == ("/tickets", T) and not node.unheard and socket.rooms == set()


@aio
async def test_a_join_with_since_replays_missed_events_once() -> None:
    hub, _ = hub_of()
    writer, _ = added(hub)
    await hub.join(writer, T)
    offsets = [await hub.emit("/tickets", [T], "e", str(n)) for n in range(5)]
    late, texts = added(hub)
    joined = await hub.join(late, T, since=offsets[1])
    assert joined == (offsets[4], True)
    await hub.emit("/tickets", [T], "e", "5")
    assert [json.loads(t)["data"] for t in texts] == [2, 3, 4, 5]
    assert (await hub.join(late, T, since=offsets[0])).complete
    assert len(texts) == 4, "joined already: nothing is sent again"


@aio
async def test_a_resume_replays_missed_events_in_order_without_skipped_ones() -> None:
    hub, _ = hub_of()
    writer, _ = added(hub)
    a, b = Room("a"), Room("b")
    await hub.enter(writer, [a, b])
    await hub.emit("/tickets", [a], "e", "0")
    late, texts = added(hub)
    await hub.emit("/tickets", [a], "e", "1")
    await hub.emit("/tickets", [b], "e", "2")
    await hub.emit("/tickets", [a, b], "e", "3")
    await hub.emit("/tickets", [a], "e", "4", skip=[late.sid])
    await hub.emit("/tickets", [a], "e", "5", skip=["b"])
    assert await hub.resume(late, [a, b], Offset("1-0"))
    await hub.emit("/tickets", [b], "e", "6")
    assert [json.loads(t)["data"] for t in texts] == [1, 2, 3, 6]


@aio
async def test_an_event_logged_again_is_not_replayed_to_a_client_that_has_it() -> None:
    hub, node = hub_of()
    late, texts = added(hub)
    node.log.append(Event("/tickets", "e", "1", (T,), (), "x", Offset("9-0"), "", Offset("3-0")))
    node.log.append(Event("/tickets", "e", "2", (T,), (), "y", Offset("10-0"), "", Offset("5-0")))
    assert await hub.resume(late, [T], Offset("4-0"))
    assert [json.loads(t)["data"] for t in texts] == [2]


@aio
async def test_rooms_per_socket_are_limited() -> None:
    hub, _ = hub_of(max_rooms=2)
    one, _ = added(hub)
    await hub.join(one, Room("a"))
    await hub.join(one, Room("b"))
    await hub.join(one, Room("b"))
    with pytest.raises(RtError, match="TOO_MANY_ROOMS"):
        await hub.join(one, Room("c"))


@aio
async def test_a_client_that_is_too_far_behind_is_closed_and_others_are_served() -> None:
    hub, _ = hub_of()
    slow = fakes.Peer(full=True)
    one, _ = added(hub, slow)
    two, texts = added(hub)
    await hub.join(one, T)
    await hub.join(two, T)
    await hub.emit("/tickets", [T], "e", "1")
    assert slow.closed is CloseReason.SLOW_CONSUMER and len(texts) == 1


@aio
async def test_a_string_payload_is_always_followed_by_an_offset() -> None:
    """A stock client uses a last argument that is a string as its offset, so ours must be the last one."""
    hub, _ = hub_of()
    one, texts = added(hub)
    await hub.join(one, T)
    first = await hub.emit("/tickets", [T], "e", "1")
    hub.publish("/tickets", [T], "v", '"text"')
    hub.publish("/tickets", [T], "v", "{}")
    assert json.loads(texts[1])["offset"] == first
    assert "offset" not in json.loads(texts[2])


@aio
async def test_an_event_logged_again_is_not_delivered_to_members_that_joined_later() -> None:
    """They would get it after later events of its publisher, or twice if it was replayed on their resume."""
    hub, _ = hub_of()
    early, texts_early = added(hub)
    await hub.enter(early, [T])
    since = hub.position("/tickets")
    lost = await hub.emit("/tickets", [T], "ticket:updated", "1")
    late, texts_late = added(hub)
    await hub.enter(late, [T])
    back, texts_back = added(hub)
    assert await hub.resume(back, [T], since)
    asked, texts_asked = added(hub)
    await hub.enter(asked, [Room("ticket:2")])
    await hub.join(asked, T, since)
    joined, texts_joined = added(hub)
    joined.since = since
    await hub.join(joined, T)
    texts = (texts_early, texts_late, texts_back, texts_asked, texts_joined)
    for heard in texts:
        heard.clear()
    hub.deliver(Event("/tickets", "ticket:updated", "1", (T,), (), "e1", Offset("99999999999999-0"), was=lost))
    assert [len(heard) for heard in texts] == [1, 0, 0, 0, 0]


@aio
async def test_a_client_that_is_ahead_of_its_node_waits_until_the_node_has_caught_up() -> None:
    """Its last node was quicker. If it became a member now, it would be sent again what it has."""
    hub, log = hub_of()
    early, _ = added(hub)
    await hub.enter(early, [T])
    ahead = await hub.emit("/tickets", [T], "ticket:updated", "1")
    behind, reached = Offset("0-0"), asyncio.Event()
    log.position = lambda namespace: ahead if reached.is_set() else behind  # type: ignore[method-assign]
    back, _ = added(hub)
    resuming = asyncio.create_task(hub.resume(back, [T], ahead))
    await asyncio.wait([resuming], timeout=0.05)
    assert not resuming.done() and T not in back.rooms
    reached.set()
    assert await resuming and T in back.rooms


@aio
async def test_a_node_that_stays_behind_its_client_does_not_resume_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insightdesk_rt.engine.hub.hub.DELIVERED_WITHIN_S", 0.05)
    hub, log = hub_of()
    ahead = await hub.emit("/tickets", [T], "ticket:updated", "1")
    log.position = lambda namespace: Offset("0-0")  # type: ignore[method-assign]
    back, _ = added(hub)
    with pytest.raises(RtError) as refused:
        await hub.resume(back, [T], ahead)
    assert refused.value.code == "UNAVAILABLE" and T not in back.rooms


@aio
async def test_only_members_that_came_after_an_uncertain_event_are_told_to_reload() -> None:
    hub, _ = hub_of()
    early, texts_early = added(hub)
    await hub.enter(early, [T])
    offset = await hub.emit("/tickets", [T], "ticket:updated", "1")
    late, texts_late = added(hub)
    await hub.enter(late, [T])
    joined, texts_joined = added(hub)
    await hub.enter(joined, [Room("ticket:2")])
    joined.since = Offset("0-0")
    await hub.join(joined, T)
    for texts in (texts_early, texts_late, texts_joined):
        texts.clear()
    hub.resync_newer("/tickets", {T: offset, Room("ticket:3"): offset})
    assert texts_early == []
    for texts in (texts_late, texts_joined):
        (told,) = map(json.loads, texts)
        assert (told["event"], told["data"]) == ("resync", {"rooms": [T]})


@aio
async def test_new_sockets_are_refused_while_other_nodes_are_unreachable() -> None:
    """Also if the nodes become unreachable while a room is being subscribed."""
    hub, log = hub_of()
    socket, _ = added(hub)
    log.away = True
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await hub.enter(socket, [T])
    assert not socket.rooms and log.heard == []
    log.away = False
    listen = log.listen

    async def listens_for_long(namespace: str, room: Room) -> Offset:
        log.away = True
        return await listen(namespace, room)

    log.listen = listens_for_long  # type: ignore[method-assign]
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await hub.enter(socket, [T])
    assert not socket.rooms and log.unheard == [("/tickets", T)], "the room is unsubscribed"


@aio
async def test_a_replay_that_may_repeat_events_of_a_lost_log_is_not_complete() -> None:
    """The client's offset is of the lost log, so it is unknown whether it has the events that were logged again."""
    hub, log = hub_of()
    socket, texts = added(hub)
    for offset, was in (("50-0", ""), ("51-0", "10-0")):
        log.log.append(Event("/tickets", "e", "1", (T,), id=offset, offset=Offset(offset), was=Offset(was)))
    log.floor = Offset("40-0")
    assert not await hub.resume(socket, [T], Offset("50-0")) and texts == []
    assert await hub.resume(socket, [T], Offset("51-0")), "all events are older than the client's offset"
    log.floor = Offset("5-0")
    other, texts = added(hub)
    assert await hub.resume(other, [T], Offset("50-0")) and texts == [], "the client got it when it was logged first"


@aio
async def test_a_client_that_missed_more_bytes_than_the_replay_limit_is_sent_none() -> None:
    """Otherwise it would be closed as a slow consumer, resume, and be sent the same again."""
    node = fakes.OneNode()
    hub = Hub(node, ["/tickets"], replay=Replay(events=1_000, size_bytes=2_000))
    for number in range(20):
        await hub.emit("/tickets", [Room("ticket:1")], "x", f'"{number:0100}"')
    for since, complete in (("12-0", True), ("1-0", False)):
        socket = fakes.socket("/tickets")
        hub.add(socket)
        joined = await hub.join(socket, Room("ticket:1"), Offset(since))
        assert joined.complete is complete
        assert len(socket.client.texts) == (8 if complete else 0)  # type: ignore[attr-defined]

"""A replay from the log never contains more than a client would have received live, whatever it claims.

A client sends an offset, a pid or a `since`. The server does not trust it. It limits the replay by the begin of the
session, by the join of the room, and by the time since which the user may read the ticket or the conversation.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from msgspec import Raw

from insightdesk_rt.engine.cluster.session_record import since
from insightdesk_rt.engine.cluster.sessions import ClusterSessions
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import Admission, Dispatch
from insightdesk_rt.engine.dispatch.namespace import Namespace
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import NO_OFFSET, Offset, User, ticket_room, ticket_staff_room
from insightdesk_rt.engine.wire.codec import Connect
from insightdesk_rt.helpdesk.chat.events import JoinChat
from insightdesk_rt.helpdesk.tickets.namespace import SubscribeTicket
from insightdesk_rt.helpdesk.tickets.store import Actor, Comment
from tests.support import chatting, fakes, ticketing
from tests.support.aio import aio, until
from tests.support.ticketing import ANNA, CARL, ROOT, Cluster, a_cluster

ZOE, DORA = fakes.user("zoe", team="t2"), fakes.user("dora", "customer")
USERS = (ANNA, ZOE, CARL, DORA, ROOT)


def logged(socket: Socket) -> list[str]:
    """Return the logged events that the client was sent, oldest first, each by its offset and its text."""
    return [text for text in socket.client.texts if is_logged(json.loads(text))]  # type: ignore[attr-defined]


def said(socket: Socket) -> set[str]:
    """The same without offsets, since an event of a ticket may be logged once per group of readers."""
    frames = map(json.loads, logged(socket))
    return {json.dumps([frame["event"], frame["data"]], sort_keys=True) for frame in frames}


def is_logged(frame: dict[str, Any]) -> bool:
    return "offset" in frame and frame["event"] != "ticket:subscribed"


class World:
    """One ticket and one node. `step` makes a random change to the ticket."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.random, self.comments = cluster, random.Random(seed), 0

    async def step(self) -> None:
        one, pick = self.cluster.one, self.random.choice
        match self.random.randrange(8):
            case 0 | 1:
                await one.put(teamId=pick((None, "t1", "t2")))
            case 2:
                await one.put(requesterId=pick((None, "carl", "dora")))
            case 3:
                await one.put(watchers=pick(([], ["carl"], ["carl", "dora"])))
            case 4:
                await one.put(subject=f"s{self.random.random()}")
            case 5 | 6:
                self.comments += 1
                kind = pick(("reply", "note"))
                comment = Comment(f"c{self.comments}", kind, Actor("x", "X"), f"text {self.comments}")  # type: ignore[arg-type]
                try:
                    await one.tickets.comment("42", comment, True)
                except RtError as refused:
                    assert refused.code == "NOT_FOUND"
            case 7:
                try:
                    await one.tickets.remove("42")
                except RtError as refused:
                    assert refused.code == "NOT_FOUND"
        await one.idle()

    async def tries(self, socket: Socket, claim: Offset | None = None) -> bool:
        """Subscribe to the ticket. Returns whether that was allowed."""
        try:
            await self.cluster.one.tickets.subscribe(socket, SubscribeTicket("42", claim))
            return True
        except RtError as refused:
            assert refused.code in ("FORBIDDEN", "NOT_FOUND")
            return False

    def any_offset(self) -> Offset:
        return self.random.choice([NO_OFFSET, *(event.offset for event in self.cluster.log.log)])


@pytest.mark.parametrize("seed", range(12))
@aio
async def test_a_subscription_replays_only_events_its_user_would_have_received_live(
    seed: int, valkey_url: str, prefix: str
) -> None:
    """Each user has a second client that is always connected, and has the ticket open whenever it may."""
    async with a_cluster(valkey_url, prefix) as cluster:
        world = World(cluster, seed)
        shadows = {user: await cluster.one.connect(user) for user in USERS}
        for _ in range(25):
            await world.step()
            for user, shadow in shadows.items():
                if ticket_room("42") not in shadow.rooms:
                    await world.tries(shadow)
                late = await cluster.one.connect(user)
                await world.tries(late, world.any_offset())
                assert said(late) <= said(shadow), user.id
                await cluster.one.disconnect(late)


@pytest.mark.parametrize("seed", range(12))
@aio
async def test_a_resumed_session_receives_only_what_a_connected_one_did(
    seed: int, valkey_url: str, prefix: str
) -> None:
    """Two sockets of a user do the same. One is disconnected and resumes with any offset. With its own offset it gets
    everything, unless it is notified that it may not read the ticket any more.
    """
    async with a_cluster(valkey_url, prefix) as cluster:
        world, one = World(cluster, seed), cluster.one
        for _ in range(4):
            for _ in range(world.random.randrange(4)):
                await world.step()
            for user in USERS:
                stays, goes = await one.connect(user), await one.connect(user)
                begun = one.hub.position("/tickets")
                await world.step()
                if await world.tries(stays):
                    await world.tries(goes)
                await world.step()
                own = json.loads(logged(goes)[-1])["offset"] if logged(goes) else one.hub.position("/tickets")
                rooms, starts, had = set(goes.rooms), dict(goes.starts or {}), logged(goes)
                await one.disconnect(goes)
                for _ in range(world.random.randrange(4)):
                    await world.step()
                for claim in (world.any_offset(), NO_OFFSET, own):
                    back = fakes.socket("/tickets", user)
                    one.hub.add(back)
                    kept = await one.tickets.still_allowed(user, rooms, starts)
                    has = since(claim, begun, begun, begun)
                    assert await one.hub.resume(back, kept, has, starts=starts)
                    assert said(back) <= said(stays), (user.id, claim)
                    if claim == own and rooms == set(kept):
                        assert had + logged(back) == logged(stays), user.id
                    one.hub.remove(back)
                await one.disconnect(stays)


@aio
async def test_a_recreated_ticket_does_not_replay_events_of_the_deleted_one(valkey_url: str, prefix: str) -> None:
    """A client that asks for older events must reload: `complete` is false."""
    async with a_cluster(valkey_url, prefix) as cluster:
        one = cluster.one
        await one.put(subject="the CEO's salary", requesterId="dora")
        await one.tickets.remove("42")
        await one.put(subject="a printer", requesterId="carl")
        await one.put(subject="two printers")
        await one.idle()
        customer = await one.connect(CARL)
        answer = await one.tickets.subscribe(customer, SubscribeTicket("42", NO_OFFSET))
        assert [json.loads(text)["data"]["changes"] for text in logged(customer)] == [
            {"subject": ["a printer", "two printers"]}
        ]
        assert not answer.complete


@aio
async def test_a_resumed_session_gets_no_events_of_a_ticket_recreated_meanwhile(valkey_url: str, prefix: str) -> None:
    """A connected client would have been removed from the ticket, so a resuming one is, too."""
    async with a_cluster(valkey_url, prefix) as cluster:
        one = cluster.one
        await one.put(subject="first", teamId="t1")
        await one.idle()
        agent = await one.open(ANNA)
        rooms, starts = set(agent.rooms), dict(agent.starts or {})
        await one.disconnect(agent)
        await one.tickets.remove("42")
        await one.put(subject="second", teamId="t1")
        assert rooms - set(await one.tickets.still_allowed(ANNA, rooms, starts)) == {
            ticket_room("42"),
            ticket_staff_room("42"),
        }


@aio
async def test_an_agent_who_regains_a_chat_gets_no_events_from_in_between(valkey_url: str, prefix: str) -> None:
    """The conversation goes to another team and returns. Neither `since` nor a resume replays those events."""
    async with chatting.a_cluster(valkey_url, prefix) as cluster:
        state = cluster.valkey.names.namespace("/chat").log_state

        async def noted() -> Offset:  # the log of these tests is in memory; return what the real one would
            await cluster.valkey.command("HSET", state, "top", cluster.log.position("/chat"))
            return cluster.log.position("/chat")

        carl, anna = await cluster.one.enters(chatting.CARL), await cluster.one.enters(chatting.ANNA)
        root, _ = await cluster.one.enters(chatting.ROOT), await cluster.one.enters(chatting.ZOE)
        chat = (await carl.ask("chat:start", clientId="1", teamId="t1"))["conversationId"]
        await anna.ask("chat:join", conversationId=chat)
        rooms, starts = set(anna.socket.rooms), dict(anna.socket.starts or {})
        for team in ("t2", "t1"):
            await noted()
            await root.ask("chat:transfer", conversationId=chat, teamId=team, note=f"secret of {team}")
        came_back = await noted()
        anna.heard()
        joined = await anna.ask("chat:join", conversationId=chat, since="0-0")
        replayed = [data.get("note") for name, data in anna.heard() if name == "chat:transferred"]
        assert "secret of t2" not in replayed and not joined["complete"]
        kept = await cluster.one.chat.still_allowed(chatting.ANNA, rooms, starts)
        assert rooms - set(kept) == {room for room in rooms if chat in room}
        assert came_back != NO_OFFSET


class Door:
    """Connects one user to one namespace of a node, with sessions in Valkey."""

    def __init__(self, valkey: Valkey, hub: Hub, namespace: Namespace, user: User) -> None:
        self.sessions = ClusterSessions(
            valkey, "n1", "n1.address", lambda: "n1", hub.position, lambda address, pid: None
        )
        hub.on_rooms.append(self.sessions.moved)
        admission = Admission(lambda token: user)
        self.path = namespace.path
        self.dispatch = Dispatch(hub, [namespace], admission, fakes.Clock(), sessions=self.sessions)

    async def connect(self, **auth: str) -> fakes.AskingClient:
        client = fakes.AskingClient()
        self.dispatch.connect_received(client, Connect(self.path, Raw(json.dumps({"token": "good", **auth}).encode())))  # type: ignore[arg-type]
        await until(
            lambda: self.path in client.session.accepted and not client.sockets[self.path].busy, "the client has joined"
        )
        return client


def heard(client: fakes.AskingClient) -> list[tuple[str, Any]]:
    found = [(each["event"], each["data"]) for each in map(json.loads, client.texts)]
    client.texts.clear()
    return found


@pytest.mark.parametrize("what", ["ticket", "chat"])
@aio
async def test_a_client_that_resumes_while_it_loses_access_gets_no_later_events(
    valkey_url: str, prefix: str, what: str
) -> None:
    """Its access is checked, then revoked and the change published, and only then the log is read for it."""
    support: Any = ticketing if what == "ticket" else chatting
    async with support.a_cluster(valkey_url, prefix) as cluster:
        one, two = cluster.one, cluster.two
        if what == "ticket":
            await one.put(teamId="t1")
            feature, subject, lost = one.tickets, "42", "ticket:unsubscribed"
        else:
            carl, root = await two.enters(chatting.CARL), await two.enters(chatting.ROOT)
            await two.enters(chatting.ZOE)
            feature, lost = one.chat, "resync"
            subject = (await carl.ask("chat:start", clientId="1", teamId="t1"))["conversationId"]

        async def take_access() -> None:
            if what == "ticket":
                await two.put(teamId="t2", subject="secret")
            else:
                await root.ask("chat:transfer", conversationId=subject, teamId="t2", note="secret")

        door = Door(cluster.valkey, one.hub, feature, ANNA)
        client = await door.connect()
        socket = client.sockets[door.path]
        if what == "ticket":
            await feature.subscribe(socket, SubscribeTicket("42"))
        else:
            await feature.join(socket, JoinChat(subject))
        door.dispatch.client_ended(client, CloseReason.TRANSPORT_CLOSE)  # type: ignore[arg-type]
        backplane = one.hub._backplane
        listen = backplane.listen

        async def slow(namespace: str, room: Any) -> Offset:
            backplane.listen = listen
            await take_access()
            return await listen(namespace, room)

        backplane.listen = slow
        client = await door.connect(pid=socket.pid)
        told = heard(client)
        assert told[0][0] == "connect" and told[0][1]["recovered"], told
        assert told[1][0] == lost and [name for name, _ in told].count(lost) == 1
        assert "secret" not in str(told)
        assert not any(subject in room for room in client.sockets[door.path].rooms)
        await door.sessions.close()


def test_a_replay_never_starts_before_the_session() -> None:
    """Also without an offset, with an invalid one, and with one that is valid only because the rooms had no events."""
    for claim in ("", "1-0", "0-0", "nonsense", "49-7", "99999999999999999-0"):
        assert since(claim, "50-0", "50-0", "50-0") == "50-0", claim
    assert since("60-0", "50-0", "50-0", "50-0") == "60-0"
    assert since("1-0", "50-0", "50-0", "90-0") == "90-0", "its rooms had no events up to there"

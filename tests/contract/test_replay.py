"""What a client may be sent from the log: never more than it would have been sent live, whatever it claims.

A client hands back an offset, a pid, a `since`. Each is a claim, and the server bounds it by what it knows: where the
session began, where a room was joined, since when the user may read the ticket or the conversation.
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
    """The same without offsets: what is told of a ticket may be logged once per group of readers."""
    frames = map(json.loads, logged(socket))
    return {json.dumps([frame["event"], frame["data"]], sort_keys=True) for frame in frames}


def is_logged(frame: dict[str, Any]) -> bool:
    return "offset" in frame and frame["event"] != "ticket:subscribed"


class World:
    """One ticket and one node; `step` does something to the ticket at random."""

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
        """The client asks for the ticket; return whether it was let in."""
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
async def test_a_subscription_replays_nothing_that_its_user_was_not_told_live(
    seed: int, valkey_url: str, prefix: str
) -> None:
    """Each user has a shadow that is always there, and has the ticket open whenever it may."""
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
async def test_a_resumed_session_is_sent_nothing_that_one_that_stayed_was_not(
    seed: int, valkey_url: str, prefix: str
) -> None:
    """Two sockets of a user do the same; one is cut, and comes back with any offset. With its own it gets all of it,
    unless it is told that the ticket is closed to it.
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
async def test_a_deleted_ticket_that_comes_back_does_not_replay_its_former_life(valkey_url: str, prefix: str) -> None:
    """Who asks for what it missed before is told to load anew: `complete` is false."""
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
async def test_a_session_is_not_sent_the_second_life_of_a_ticket_that_was_deleted_while_it_was_away(
    valkey_url: str, prefix: str
) -> None:
    """Connected it would have been taken out; so it is, when it comes back."""
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
async def test_an_agent_who_gets_a_chat_back_is_not_sent_what_was_told_of_it_meanwhile(
    valkey_url: str, prefix: str
) -> None:
    """A conversation goes to another team and returns: not by `since`, and not by coming back."""
    async with chatting.a_cluster(valkey_url, prefix) as cluster:
        state = cluster.valkey.names.namespace("/chat").log_state

        async def noted() -> Offset:  # the log of these tests is in memory: say what the real one would
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
    """The way in to one namespace of a node, with sessions in Valkey, for one user."""

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
            lambda: self.path in client.session.accepted and not client.sockets[self.path].busy, "the client is in"
        )
        return client


def heard(client: fakes.AskingClient) -> list[tuple[str, Any]]:
    found = [(each["event"], each["data"]) for each in map(json.loads, client.texts)]
    client.texts.clear()
    return found


@pytest.mark.parametrize("what", ["ticket", "chat"])
@aio
async def test_a_client_that_returns_while_access_is_taken_is_sent_nothing_from_after_that(
    valkey_url: str, prefix: str, what: str
) -> None:
    """Access is checked, then taken and the change published, and only then is the log read for the client."""
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


def test_an_offset_from_before_the_session_began_is_bounded_by_its_beginning() -> None:
    """The same for none, for nonsense, and for one that only quiet rooms make good."""
    for claim in ("", "1-0", "0-0", "nonsense", "49-7", "99999999999999999-0"):
        assert since(claim, "50-0", "50-0", "50-0") == "50-0", claim
    assert since("60-0", "50-0", "50-0", "50-0") == "60-0"
    assert since("1-0", "50-0", "50-0", "90-0") == "90-0", "nothing was said in its rooms up to there"

"""Users who lose access are removed even if that cannot be published: every place that does both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from insightdesk_rt.engine.dispatch.expiry import Expiry
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.model import Event, Offset, ticket_room, ticket_staff_room
from insightdesk_rt.helpdesk.event_relay import publish_then_revoke, revoke_then_publish
from insightdesk_rt.operations.moderation.blocks import Block
from insightdesk_rt.operations.moderation.blocks_and_revocations import BlocksAndRevocations
from insightdesk_rt.operations.moderation.revocations import Revocation
from insightdesk_rt.operations.moderation.rules import Rules
from tests.support import chatting, fakes
from tests.support.aio import aio
from tests.support.ticketing import ANNA, CARL, Cluster, a_cluster

WANDA = fakes.user("wanda", "customer")
REFUSALS = ("PAYLOAD_TOO_LARGE", "INTERNAL", "UNAVAILABLE", "a bug")


def refuse(log: fakes.OneNode, what: str) -> None:
    """From now on the log takes no event."""

    async def append(event: Event) -> Offset:
        raise ValueError(what) if what == "a bug" else RtError(what)

    log.append = append  # type: ignore[method-assign]


async def quietly(work: Awaitable[object]) -> None:
    try:
        await work
    except RtError:
        pass


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize(
    ("who", "change"),
    [
        ("anna", {"teamId": "t2"}),
        ("carl", {"requesterId": "somebody"}),
        ("wanda", {"watchers": []}),
        ("anna", None),  # the ticket is deleted
        ("carl", None),
    ],
)
@aio
async def test_a_user_who_lost_access_to_a_ticket_is_out_even_if_the_change_cannot_be_published(
    valkey_url: str, prefix: str, refusal: str, who: str, change: dict[str, Any] | None, caplog: Any
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        await cluster.one.put(teamId="t1", requesterId="carl", watchers=["wanda"])
        people = {user.id: user for user in (ANNA, CARL, WANDA)}
        socket = await cluster.two.open(people[who])
        for line in cluster.lines:
            refuse(line, refusal)  # type: ignore[arg-type]
        tickets = cluster.one.tickets
        await quietly(tickets.remove("42") if change is None else cluster.one.put(**change))
        assert not {ticket_room("42"), ticket_staff_room("42")} & socket.rooms


@pytest.mark.parametrize("refusal", REFUSALS)
@aio
async def test_a_user_who_lost_access_to_a_conversation_is_out_even_if_the_transfer_cannot_be_published(
    valkey_url: str, prefix: str, refusal: str, caplog: Any
) -> None:
    async with chatting.a_cluster(valkey_url, prefix) as cluster:
        carl, anna = await cluster.one.enters(chatting.CARL), await cluster.one.enters(chatting.ANNA)
        chat = (await carl.ask("chat:start", clientId="1", teamId="t1"))["conversationId"]
        await anna.ask("chat:accept", conversationId=chat)
        mate = await cluster.two.enters(chatting.BERT)
        await mate.ask("chat:join", conversationId=chat)
        await cluster.two.enters(chatting.ZOE)
        for node in (cluster.one, cluster.two):
            refuse(node.hub._backplane, refusal)  # type: ignore[arg-type]
        await quietly(anna.ask("chat:transfer", conversationId=chat, teamId="t2"))
        assert not any(room.startswith("chat") for room in (*mate.socket.rooms, *anna.socket.rooms))


class Mute(fakes.Peer):
    """A client that nothing can be told."""

    sockets: dict[str, Any]
    gone = False

    def put(self, message: Any) -> CloseReason | None:
        raise ValueError("a bug in what writes")

    def dismiss(self, why: CloseReason) -> None:
        self.closed = why


@pytest.mark.parametrize("what", ["session", "tokens", "block"])
@aio
async def test_a_revoked_or_blocked_user_is_closed_even_if_nothing_can_be_sent(what: str, caplog: Any) -> None:
    store: Any = None
    clients = {}
    for number in range(2):  # the second must not suffer from the first
        peer = Mute()
        socket = fakes.socket("/tickets", fakes.user("ann", session_id="s1", issued_s=1), peer)
        socket.connected = True
        peer.sockets = {"/tickets": socket}
        clients[str(number)] = peer
    host: Any = SimpleNamespace(clients=clients)
    access = BlocksAndRevocations(Rules(store), host)
    common: dict[str, Any] = {"id": "r1", "by": "root", "at_ms": 1, "reason": "x"}
    if what == "session":
        count = await access.revocations.table.changed(None, Revocation(session_id="s1", **common))
    elif what == "tokens":
        count = await access.revocations.table.changed(
            None, Revocation(user_id="ann", issued_before_ms=5_000, **common)
        )
    else:
        count = await access.blocks.table.changed(None, Block(user_id="ann", **common))
    assert count == 2
    why = CloseReason.BLOCKED if what == "block" else CloseReason.REVOKED
    assert [peer.closed for peer in clients.values()] == [why, why]
    with pytest.raises(RtError):
        access.checked(lambda token: fakes.user("ann", session_id="s1", issued_s=1))("token")


def test_a_connection_with_an_expired_token_is_closed_even_if_nothing_can_be_sent() -> None:
    clock, peer = fakes.Clock(), Mute()
    socket = fakes.socket("/tickets", fakes.user("ann"), peer)
    expiry = Expiry(lambda token: pytest.fail("nobody asked"), clock)
    with pytest.raises(ValueError, match="a bug"):
        expiry._expired(socket)
    assert peer.closed is CloseReason.TOKEN_EXPIRED
    assert time.time() > 0


@pytest.mark.parametrize("told", [None, *REFUSALS])
@pytest.mark.parametrize("closed", [None, *REFUSALS])
@aio
async def test_publish_then_revoke_ends_only_after_access_was_taken(
    told: str | None, closed: str | None, caplog: Any
) -> None:
    """A refusal that is not `retry` would count as told. So a failed taking is UNAVAILABLE, which is tried again."""
    asked: list[Offset] = []

    def fail(how: str | None) -> None:
        if how is not None:
            raise ValueError(how) if how == "a bug" else RtError(how)

    async def tell() -> Offset:
        fail(told)
        return Offset("7-0")

    async def close(offset: Offset) -> None:
        asked.append(offset)
        fail(closed)

    work: Callable[[], Awaitable[Offset]] = lambda: publish_then_revoke(tell(), close)  # noqa: E731
    if told is None and closed is None:
        assert await work() == "7-0"
    else:
        with pytest.raises((RtError, ValueError)) as refused:
            await work()
        if closed is not None:
            assert isinstance(refused.value, RtError) and refused.value.code == "UNAVAILABLE"
    assert asked == ["7-0" if told is None else "0-0"]


@pytest.mark.parametrize("closed", [None, *REFUSALS])
@aio
async def test_revoke_then_publish_publishes_only_after_access_was_taken(closed: str | None, caplog: Any) -> None:
    done: list[str] = []

    async def close() -> None:
        done.append("closed")
        if closed is not None:
            raise ValueError(closed) if closed == "a bug" else RtError(closed)

    async def tell() -> Offset:
        done.append("told")
        return Offset("7-0")

    if closed is None:
        assert await revoke_then_publish(close, tell) == "7-0"
        assert done == ["closed", "told"]
        return
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await revoke_then_publish(close, tell)
    assert done == ["closed"]


@aio
async def test_a_resumed_socket_whose_access_is_unknown_is_closed_and_may_return(prefix: str, valkey_url: str) -> None:
    async def may_read(user: Any, ticket_id: str) -> bool:
        raise RtError("UNAVAILABLE")

    async with a_cluster(valkey_url, prefix) as cluster:
        node: Cluster = cluster
        await node.one.put(teamId="t1")
        anna = await node.one.open(ANNA)
        node.one.tickets._access.may_read = may_read  # type: ignore[method-assign]
        await node.one.tickets.joined(anna)
        assert anna.client.closed is CloseReason.UNAVAILABLE  # type: ignore[attr-defined]

"""Sizes: the largest answer and event that the limits allow is not too long for its reader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, inspect

from insightdesk_rt.engine.cluster.publisher import EventLogSettings
from insightdesk_rt.engine.counters import EventCounts
from insightdesk_rt.engine.dispatch.namespace import Outbound
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, Person, User, UserId, new_sid
from insightdesk_rt.engine.transport.outbox import Flusher, Outbox, OutboxLimits
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.socketio import SocketIOCodec
from insightdesk_rt.helpdesk.notifications.store import Content, NotificationStore
from insightdesk_rt.helpdesk.pages import fitting, parts
from insightdesk_rt.helpdesk.tickets.namespace import SubscribeTicket, ViewTicket
from insightdesk_rt.helpdesk.tickets.store import MAX_CUSTOMER_WATCHERS, MAX_SUBJECT, MAX_WATCHERS
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.chatting import ANNA, Cluster, a_cluster
from tests.support.chatting import Person as Member
from tests.support.ticketing import a_cluster as a_desk

LETTER = "\U0001f525"  # four bytes, the most that a character has as JSON
LONGEST = 4_000 * LETTER
HALF = OutboxLimits().max_outbox_bytes // 2


class Reader(fakes.Peer):
    """A client with a real outbox. It reads when a test says so, and is as far behind as it may be when it asks."""

    def __init__(self, behind: int = HALF) -> None:
        super().__init__()
        self.outbox = Outbox(OutboxLimits(), Flusher())
        self.outbox.bytes = self.unread = behind
        self.sent: list[Encoded] = []

    def put(self, message: Encoded) -> CloseReason | None:
        return self.outbox.put(message)

    @property
    def behind(self) -> bool:  # type: ignore[override]
        return self.outbox.behind

    def when_room(self, call: Callable[[], None]) -> None:
        self.outbox.when_room(call)

    def reads(self) -> list[tuple[str, Any]]:
        self.outbox.bytes -= self.unread
        self.unread = 0
        taken = self.outbox.take()
        self.sent += taken
        texts = [one.text[one.text.index("[") :] for one in taken if one.text.startswith("42")]
        return [(name, data) for name, data, *_ in map(json.loads, texts)]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[list[tuple[str, Any]]]:
        """Read all the time, a little at a time."""
        heard: list[tuple[str, Any]] = []

        async def read() -> None:
            while True:
                heard.extend(self.reads())
                await asyncio.sleep(0)

        task = asyncio.create_task(read())
        try:
            yield heard
        finally:
            task.cancel()
            heard.extend(self.reads())


def a_socket(namespace: str, user: User, peer: fakes.Peer) -> Socket:
    return Socket(new_sid(), namespace, user, peer, peer, SocketIOCodec(), EventCounts())


def answered(socket: Socket, answer: Any) -> None:
    """Send the answer as dispatch does."""
    socket.send(socket.codec.ack(socket.namespace, 7, msgspec.to_builtins(answer)))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def a_long_conversation(cluster: Cluster, messages: int = 100) -> str:
    """A conversation of the longest messages, by somebody with the longest name."""
    carl = fakes.user("c" * 128, "customer")
    carl = msgspec.structs.replace(carl, name=LETTER * 256)
    store = cluster.one.store
    c = (await store.start(carl, "0", LETTER * 200, "", LONGEST)).conversation.id
    for number in range(1, messages):
        said = await store.message(carl, c, LONGEST, f"{LETTER * 60}{number}")
        await cluster.one.chat._relay.publish(said.pending)
    return c


@aio
async def test_no_page_of_a_conversation_is_too_long_for_its_reader(valkey_url: str, prefix: str) -> None:
    """One customer's messages are the customer's business; the agents who read them are closed for their own faults."""
    async with a_cluster(valkey_url, prefix) as cluster:
        c = await a_long_conversation(cluster)
        asks: list[tuple[str, dict[str, Any]]] = [
            ("chat:accept", {}),
            ("chat:join", {}),
            ("chat:history", {"limit": 100}),
            ("chat:history", {"limit": 100, "before": 60}),
        ]
        for event, fields in asks:
            peer = Reader()
            anna = Member(cluster.one, a_socket("/chat", ANNA, peer))
            cluster.one.hub.add(anna.socket)
            answer = await anna.ask(event, conversationId=c, **fields)
            answered(anna.socket, answer)
            assert peer.closed is None, event
            assert answer["more"] is True
            size = len(json.dumps(answer["messages"], ensure_ascii=False, separators=(",", ":")).encode())
            assert size <= cluster.one.hub.page_bytes
            assert size > cluster.one.hub.page_bytes * 0.9, "no shorter than it has to be"


@aio
async def test_all_messages_are_found_page_by_page(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        c = await a_long_conversation(cluster, 40)
        anna = await cluster.one.enters(ANNA)
        found: list[int] = []
        page = await anna.ask("chat:history", conversationId=c, limit=100)
        while page["messages"]:
            found = [message["id"] for message in page["messages"]] + found
            if not page["more"]:
                break
            page = await anna.ask("chat:history", conversationId=c, limit=100, before=found[0])
        assert found == list(range(1, 41))


@aio
async def test_a_long_queue_is_sent_in_parts(valkey_url: str, prefix: str) -> None:
    """Forty visitors with ten conversations each, all fields as long as they may be, close no agent at connect."""
    async with a_cluster(valkey_url, prefix) as cluster:
        store = cluster.one.store
        for number in range(20):
            visitor = msgspec.structs.replace(fakes.user(f"{number}" + "v" * 120, "customer"), name=LETTER * 256)
            for client_id in range(10):
                await store.start(visitor, f"{client_id}", LETTER * 200, "", LETTER * 4_000)
        for number in range(50):
            customer = fakes.user(f"mine{number}", "customer")
            c = (await store.start(customer, "0", LETTER * 200)).conversation.id
            await store.accept(ANNA, c)
        peer = Reader()
        socket = a_socket("/chat", ANNA, peer)
        cluster.one.hub.add(socket)
        async with peer.reading() as heard:
            await cluster.one.chat.joined(socket)
        assert peer.closed is None
        queues = [data for name, data in heard if name == "chat:queue"]
        assert [sorted(queue) for queue in queues] == [["waiting"], *[["added"]] * (len(queues) - 1)]
        ids = [entry["conversationId"] for queue in queues for entry in queue.get("waiting") or queue["added"]]
        assert len(ids) == len(set(ids)) == 200 and len(queues) > 1
        assert sum(name == "chat:conversation" for name, _ in heard) == 50


@aio
async def test_no_page_of_notifications_is_too_long_for_its_reader(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        store = NotificationStore(cluster.valkey, cluster.valkey.names.namespace("/notifications"))
        data = Raw(json.dumps("d" * 16_000).encode())
        for number in range(100):
            content = Content(f"n{number}", "t" * 64, LETTER * 300, LETTER * 4_000, "u" * 2_000, data)
            await store.push("anna", content)
        page = await store.page("anna", "", 100)
        assert page.more and 1 < len(page.notifications) < 100
        assert len(msgspec.json.encode(page.notifications)) <= cluster.one.hub.page_bytes
        found, last = list(page.notifications), page
        while last.more:
            last = await store.page("anna", found[-1].id, 100)
            found += last.notifications
        assert [one.id for one in found] == [f"n{number}" for number in reversed(range(100))]


@aio
async def test_a_ticket_with_very_many_viewers_can_be_opened(valkey_url: str, prefix: str) -> None:
    async with a_desk(valkey_url, prefix) as desk:
        await desk.one.put("42")
        for number in range(300):
            person = Person(UserId(f"{number}".rjust(128, "p")), LETTER * 256)
            await desk.one.viewers.view("42", f"s{number}", person, "viewing")
            await desk.one.viewers.typing("42", person, 60_000)
        peer = Reader()
        anna = a_socket("/tickets", fakes.user("anna", team="t1"), peer)
        await desk.one.tickets.coming(anna.user)
        desk.one.hub.add(anna)
        shown = await desk.one.tickets.subscribe(anna, SubscribeTicket("42"))
        answered(anna, shown)
        answered(anna, await desk.one.tickets.view(anna, ViewTicket("42", "replying")))
        assert peer.closed is None
        assert shown.more is True and len(shown.viewers) > 5
        desk.one.clock.advance(1_000)
        await until(lambda: any("ticket:viewers" in one for one in map(str, peer.reads())), "the list of viewers")


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────

# The most characters that a field of this name may have: by the pattern or length of what comes in, or by the token.
LENGTHS = {
    **dict.fromkeys(("ticketId", "conversationId", "clientId", "id"), 64),
    **dict.fromkeys(
        ("userId", "customerId", "customerWatchers", "teamId", "requesterId", "assigneeId", "from", "to"), 128
    ),
    **dict.fromkeys(("at", "since", "createdAt", "updatedAt", "lastSeen", "queuedAt", "waitingSince", "closesAt"), 24),
    **dict.fromkeys(("acceptedAt", "closedAt", "startsAt", "endsAt", "asOf"), 24),
    **dict.fromkeys(("offset",), 42),
    **dict.fromkeys(("state", "status", "role", "kind", "reason", "closedReason", "priority", "severity"), 16),
    "name": 256,
    "subject": MAX_SUBJECT,
    "text": 4_000,
    "excerpt": 280,
    "note": 1_000,
    "comment": 1_000,
    "message": 2_000,
    "namespace": 200,
    "author.id": 128,
    "user.id": 128,
    "agent.id": 128,
    "by.id": 128,
    "previous.id": 128,
    "customer.id": 128,
    "closedBy.id": 128,
    "watchers": 128,
    "changes": 128,  # of the longest field, a list of watchers, old and new
    "rooms": 200,
    "ids": 64,
    "removed": 64,
}
COUNTS = {
    "watchers": MAX_WATCHERS,
    "customerWatchers": MAX_CUSTOMER_WATCHERS,
    "ids": 500,
    "removed": 1,
    "added": 1,
    "rooms": 1,
}
# Bounded where they are built, and tested above.
IN_PARTS = {"waiting": 1, "viewers": 1, "typing": 1}


def largest(kind: Any, name: str = "", holder: str = "") -> Any:
    """Return the longest value that a type of ours can have on its way out."""
    if isinstance(kind, inspect.Metadata):
        return largest(kind.type, name, holder)
    if isinstance(kind, inspect.StructType):
        return {
            field.encode_name: largest(field.type, field.encode_name, name)
            for field in kind.fields
            if field.name != "event"
        }
    if isinstance(kind, inspect.UnionType):
        return max((largest(one, name, holder) for one in kind.types), key=lambda one: len(json.dumps(one)))
    if isinstance(kind, inspect.ListType):
        return [largest(kind.item_type, name, holder)] * {**COUNTS, **IN_PARTS}[name]
    if isinstance(kind, inspect.DictType):
        if name == "readUpTo":
            return {"customer": 2**53, "agent": 2**53}
        assert name == "changes", name
        watchers = [LETTER * 128] * MAX_WATCHERS
        short = {field: [LETTER * 128] * 2 for field in ("requesterId", "assigneeId", "teamId", "status", "priority")}
        customers = [LETTER * 128] * MAX_CUSTOMER_WATCHERS
        lists = {"watchers": [watchers, watchers], "customerWatchers": [customers, customers]}
        return {**lists, "subject": [LETTER * MAX_SUBJECT] * 2, **short}
    if isinstance(kind, inspect.StrType):
        return LETTER * LENGTHS.get(f"{holder}.{name}", LENGTHS.get(name, -1)) if name in LENGTHS else missing(name)
    if isinstance(kind, inspect.LiteralType):
        return max(map(str, kind.values), key=len)
    return {inspect.IntType: 2**53, inspect.BoolType: False, inspect.FloatType: 1.5}.get(type(kind))


def missing(name: str) -> str:
    raise AssertionError(f"say in LENGTHS how long {name} may be")


def events() -> list[type[Outbound]]:
    found: list[type[Outbound]] = []
    for one in Outbound.__subclasses__():
        if one.__module__.startswith("insightdesk_rt.") and one.event:
            found.append(one)
    return found


@pytest.mark.parametrize("kind", events(), ids=lambda kind: f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}")
@aio
async def test_the_largest_event_of_each_kind_fits(kind: type[Outbound]) -> None:
    """Into what one event may have, or publishing it would fail; and into the outbox of who has read the other half."""
    payload = json.dumps(largest(inspect.type_info(kind)), ensure_ascii=False, separators=(",", ":"))
    if kind.logged:
        assert len(payload.encode()) <= EventLogSettings().max_event_bytes
    peer = Reader()
    assert peer.put(SocketIOCodec().event("/tickets", kind.event, payload, Offset("1" * 40))) is None


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 40)), st.integers(1, 200))
def test_parts_have_all_items_in_order_within_the_limit(lengths: list[int], limit_bytes: int) -> None:
    people = [Person(UserId("i" * length), "") for length in lengths]
    found = list(parts(people, limit_bytes))
    assert [one for part in found for one in part] == people
    for part in found:
        assert len(part) <= 1 or len(msgspec.json.encode(part)) <= limit_bytes + 2
    first, more = fitting(people, limit_bytes)
    assert first == found[0] and more is (len(found) > 1)

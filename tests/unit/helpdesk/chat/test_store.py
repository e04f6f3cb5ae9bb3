"""The chat scripts: each change once, access, and deadlines."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import msgspec
import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.helpdesk.chat import store as chat
from insightdesk_rt.helpdesk.chat.conversation import Author, ChatQueueStats, Message, QueuePlace
from insightdesk_rt.helpdesk.chat.store import ChatStore, ChatTimes
from insightdesk_rt.helpdesk.pending_events import PendingEvent
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from tests.support import fakes
from tests.support.aio import aio
from tests.support.whole_desk import copied, lose

CARL, DORA = fakes.user("carl", "customer"), fakes.user("dora", "customer")
ANNA, BERT, ZOE = fakes.user("anna", team="t1"), fakes.user("bert", team="t1"), fakes.user("zoe", team="t2")
ROOT = fakes.user("root", "admin")


class Store(ChatStore):
    """A chat whose clocks ring, and whose people come and go, when the test says so."""

    def __init__(self, valkey: Valkey, **settings: int) -> None:
        partition = valkey.names.namespace("/chat")
        self.people = PresenceStore(valkey, partition, grace_ms=0, name="chat-present")
        super().__init__(valkey, partition, self.people, ChatTimes(**settings))
        self.told: dict[str, int] = {}

    async def come(self, *users: User) -> None:
        for user in users:
            await self.people.join(user, "n1")

    async def go(self, user: User) -> None:
        await self.people.leave(user.id, "n1")
        await self.people.sweep()

    async def ring(self, kind: str) -> list[PendingEvent]:
        """As if a long time had passed on the clocks of this kind."""
        key = self._valkey.names.namespace("/chat").key("chat-deadlines")
        for entry in await self._valkey.command("ZRANGE", key, 0, -1):
            if entry.startswith(kind + ":"):
                await self._valkey.command("ZADD", key, 1, entry)
        return self.new(await self.due())

    async def silence(self, conversation_id: str, ms: int) -> None:
        """As if the last word had been said so long ago."""
        last = int(
            await self._valkey.command(
                "HGET", self._valkey.names.namespace("/chat").key("chat", conversation_id), "lastAt"
            )
        )
        await self._valkey.command(
            "HSET", self._valkey.names.namespace("/chat").key("chat", conversation_id), "lastAt", last - ms
        )

    async def clocks(self) -> set[str]:
        entries = await self._valkey.command(
            "ZRANGE", self._valkey.names.namespace("/chat").key("chat-deadlines"), 0, -1
        )
        return {entry.partition(":")[0] for entry in entries}

    def new(self, changes: list[PendingEvent]) -> list[PendingEvent]:
        """Those that were not seen before."""
        fresh = [change for change in changes if change.seq > self.told.get(change.subject, 0)]
        self.told.update((change.subject, change.seq) for change in changes)
        return fresh

    def kinds(self, changes: list[PendingEvent]) -> list[str]:
        return [change.kind for change in self.new(changes)]


@asynccontextmanager
async def a_chat(url: str, prefix: str, **settings: int) -> AsyncIterator[Store]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    store = Store(valkey, **settings)
    await store.come(CARL, DORA, ANNA, BERT, ZOE, ROOT)
    yield store
    await valkey.close()


@asynccontextmanager
async def refused(code: str, **fields: object) -> AsyncIterator[None]:
    with pytest.raises(RtError) as error:
        yield
    assert (error.value.code, error.value.fields) == (code, fields)


def data(change: PendingEvent) -> dict[str, object]:
    return json.loads(change.data)  # type: ignore[no-any-return]


@aio
async def test_the_whole_life_of_a_conversation(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        started = await store.start(CARL, "x1", subject="Printer", team_id="t1", text="It smokes “again”")
        c = started.conversation
        assert (c.state, c.position, c.customer_name, c.team_id, c.subject, c.last) == (
            "waiting",
            1,
            "Carl",
            "t1",
            "Printer",
            1,
        )
        assert store.kinds(started.pending) == ["started", "queued"] and c.preview == "It smokes “again”"

        accepted = await store.accept(ANNA, c.id)
        assert (accepted.conversation.state, accepted.conversation.agent_id) == ("active", "anna")
        assert accepted.conversation.agent_online and accepted.conversation.customer_online
        assert store.kinds(accepted.pending) == ["dequeued", "accepted"]

        said = await store.message(ANNA, c.id, "Pull the plug", "m1")
        assert said.id == 2 and store.kinds(said.pending) == ["message"]
        assert data(said.pending[-1])["author"] == {"id": "anna", "name": "Anna", "role": "agent"}
        assert data(said.pending[-1])["at"] == said.at

        read = await store.read(CARL, c.id, 2)
        assert read.conversation.read_by_customer == 2 and store.kinds(read.pending) == ["read"]

        closed = (await store.close(CARL, c.id)).conversation
        assert (closed.state, closed.closed_reason, closed.closed_by_id) == ("closed", "customer", "carl")
        rated = await store.rate(CARL, c.id, 5, "Thanks")
        assert (rated.conversation.score, rated.conversation.comment) == (5, "Thanks")
        page = await store.view(CARL, c.id, 10)
        assert [(m.id, m.text, m.author.id) for m in page.messages] == [
            (1, "It smokes “again”", "carl"),
            (2, "Pull the plug", "anna"),
        ]
        assert (
            not page.more and await store.clocks() == set() and await store.queue_stats() == ChatQueueStats(0, 0, 0, 0)
        )


@aio
async def test_of_many_agents_who_accept_at_once_exactly_one_does(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation
        agents = [ANNA, BERT, ZOE, ROOT]
        results = await asyncio.gather(*(store.accept(agent, c.id) for agent in agents), return_exceptions=True)
        winners = [agent for agent, result in zip(agents, results, strict=True) if not isinstance(result, Exception)]
        assert len(winners) == 1
        for result in results:
            if isinstance(result, RtError):
                who = {"id": winners[0].id, "name": winners[0].name}
                assert (result.code, result.fields) == ("CONFLICT", {"state": "active", "agent": who})
        assert (await store.accept(winners[0], c.id)).conversation.agent_id == winners[0].id, "a repeat has no effect"
        await store.close(winners[0], c.id)
        async with refused("CONFLICT", state="closed", agent={"id": winners[0].id, "name": winners[0].name}):
            await store.accept(winners[0], c.id)


@aio
async def test_a_repeat_under_the_same_client_id_gets_the_same_answer_and_stores_nothing(
    valkey_url: str, prefix: str
) -> None:
    async with a_chat(valkey_url, prefix) as store:
        starts = await asyncio.gather(*(store.start(CARL, "x1", text="hello") for _ in range(5)))
        (c_id,) = {start.conversation.id for start in starts}
        assert c_id != (await store.start(DORA, "x1")).conversation.id, "ids are each customer's own"
        said = await asyncio.gather(*(store.message(CARL, c_id, "once", "m1") for _ in range(5)))
        assert len({(s.id, s.at) for s in said}) == 1
        assert store.kinds(said[-1].pending).count("message") == 1
        await store.accept(ANNA, c_id)
        assert (await store.message(ANNA, c_id, "mine", "m1")).id == 3, "ids are each author's own"
        await store.close(CARL, c_id)
        again = await store.message(CARL, c_id, "once", "m1")
        assert (again.id, again.at) == (said[0].id, said[0].at), "also after the conversation is closed"
        assert (await store.start(CARL, "x1", text="hello")).conversation.state == "closed"
        assert len((await store.view(CARL, c_id, 10)).messages) == 3


@aio
async def test_a_user_cannot_find_out_whether_a_foreign_conversation_exists(valkey_url: str, prefix: str) -> None:
    """Rows: who; columns: what they may. A conversation that does not exist is answered the same."""
    async with a_chat(valkey_url, prefix) as store:
        waiting = (await store.start(CARL, "x1", team_id="t1")).conversation.id
        taken = (await store.start(CARL, "x2", team_id="t1")).conversation.id
        await store.accept(ANNA, taken)
        ended = (await store.start(CARL, "x3", team_id="t1")).conversation.id
        await store.accept(ANNA, ended)
        await store.close(ANNA, ended)
        asks = {
            "view": lambda who, c: store.view(who, c, 10),
            "accept": lambda who, c: store.accept(who, c),
            "say": lambda who, c: store.message(who, c, "hi", "z"),
            "read": lambda who, c: store.read(who, c, 1),
            "transfer": lambda who, c: store.transfer(who, c, team_id="t1"),
            "rate": lambda who, c: store.rate(who, c, 3),
            "close": lambda who, c: store.close(who, c),
        }
        impostor = fakes.user("anna", "customer")  # a customer whose id is that of the agent
        may: dict[str, dict[str, str]] = {
            "anna": {
                waiting: "view accept transfer close",
                taken: "view accept say read transfer close",
                ended: "view say read close",
            },
            "bert": {waiting: "view accept transfer close", taken: "view", ended: "view close"},
            "dora": {waiting: "", taken: "", ended: ""},
            "zoe": {waiting: "", taken: "", ended: ""},
        }
        for who in (DORA, ZOE, impostor, BERT):
            for c in (waiting, taken, ended, "nothing"):
                for name, ask in asks.items():
                    if name in may.get(who.id if who is not impostor else "dora", {}).get(c, "").split():
                        continue
                    with pytest.raises(RtError) as error:
                        await ask(who, c)
                    allowed = {"FORBIDDEN"}
                    if who is BERT and c in (taken, ended):
                        allowed.add("CONFLICT")  # he may see it, and that somebody was first
                    assert error.value.code in allowed and "subject" not in error.value.fields, (who.id, name)
                    if error.value.code == "FORBIDDEN":
                        assert error.value.fields == {}
        assert (await store.view(ROOT, taken, 1)).conversation.agent_id == "anna"
        async with refused("FORBIDDEN"):
            await store.message(ROOT, taken, "an admin who only looks", "z")


@aio
async def test_a_closed_conversation_accepts_no_more_changes(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        async with refused("CONFLICT", state="waiting"):
            await store.rate(CARL, c, 5)
        await store.close(CARL, c)
        for ask in (
            store.message(CARL, c, "hello?", "m"),
            store.transfer(ANNA, c, team_id="t1"),
            store.accept(ANNA, c),
        ):
            async with refused("CONFLICT", state="closed"):
                await ask
        assert store.kinds((await store.close(CARL, c)).pending)[-1] == "closed"
        assert store.kinds((await store.close(CARL, c)).pending) == [], "closing is idempotent"
        await store.rate(CARL, c, 4, "fine")
        assert (await store.rate(CARL, c, 4, "fine")).conversation.score == 4
        async with refused("CONFLICT", state="closed"):
            await store.rate(CARL, c, 5, "fine")


@aio
async def test_open_conversations_and_messages_of_a_customer_are_limited(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_chat(valkey_url, prefix) as store:
        opened = [(await store.start(CARL, f"x{n}")).conversation.id for n in range(chat.MAX_OPEN)]
        async with refused("CONFLICT"):
            await store.start(CARL, "one more")
        await store.close(CARL, opened[0])
        await store.start(CARL, "one more")
        monkeypatch.setattr(chat, "MAX_MESSAGES", 2)
        for n in range(2):
            await store.message(CARL, opened[1], "hi", f"m{n}")
        async with refused("CONFLICT", state="waiting"):
            await store.message(CARL, opened[1], "hi", "m2")


@aio
async def test_history_is_paged_backwards(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        for n in range(1, 8):
            await store.message(CARL, c, f"no. {n}", f"m{n}")
        newest = await store.view(CARL, c, 3)
        assert [m.id for m in newest.messages] == [5, 6, 7] and newest.more
        older = await store.view(CARL, c, 3, before=5)
        assert [m.id for m in older.messages] == [2, 3, 4] and older.more
        oldest = await store.view(CARL, c, 3, before=2)
        assert [m.id for m in oldest.messages] == [1] and not oldest.more
        assert (await store.view(CARL, c, 3, before=1)).messages == []


@aio
async def test_the_read_mark_never_moves_back(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        await store.accept(ANNA, c)
        for n in range(3):
            await store.message(CARL, c, "hi", f"m{n}")
        assert (await store.read(ANNA, c, 2)).conversation.read_by_agent == 2
        store.new((await store.read(ANNA, c, 1)).pending)
        lower = await store.read(ANNA, c, 1)
        assert lower.conversation.read_by_agent == 2 and store.kinds(lower.pending) == []
        assert (await store.read(ANNA, c, 999)).conversation.read_by_agent == 3, "there are no further messages"


@aio
async def test_places_in_the_queue_are_published_only_when_they_change(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        ids = [(await store.start(fakes.user(f"k{n}", "customer"), "x", team_id="t1")).conversation for n in range(4)]
        assert [c.position for c in ids] == [1, 2, 3, 4] and await store.places() == []
        elsewhere = (await store.start(CARL, "x", team_id="t2")).conversation
        assert elsewhere.position == 1
        await store.accept(ANNA, ids[1].id)
        assert await store.places() == [QueuePlace(ids[2].id, "k2", 2), QueuePlace(ids[3].id, "k3", 3)]
        assert await store.places() == []


@aio
async def test_a_transferred_conversation_keeps_its_place_in_the_queue(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        first = (await store.start(CARL, "x1", team_id="t1")).conversation
        await asyncio.sleep(0.002)
        await store.accept(ANNA, first.id)
        later = (await store.start(DORA, "x1", team_id="t2")).conversation
        moved = await store.transfer(ANNA, first.id, team_id="t2", note="knows printers")
        assert (moved.conversation.state, moved.conversation.team_id, moved.conversation.agent_id) == (
            "waiting",
            "t2",
            "",
        )
        assert moved.conversation.position == 1 and moved.conversation.note == "knows printers"
        assert store.kinds(moved.pending)[-2:] == ["queued", "transferred"]
        assert QueuePlace(later.id, "dora", 2) in await store.places()
        assert [c.id for c in await store.queue(ZOE)] == [first.id, later.id]
        async with refused("FORBIDDEN"):
            await store.view(ANNA, first.id, 1)

        await store.accept(ZOE, first.id)
        handed = await store.transfer(ZOE, first.id, agent_id="bert")
        assert (handed.conversation.state, handed.conversation.agent_id) == ("active", "bert")
        assert [c.id for c in await store.mine(BERT)] == [first.id] and await store.mine(ZOE) == []
        assert store.kinds(handed.pending)[-1] == "transferred"
        assert store.kinds((await store.transfer(BERT, first.id, agent_id="bert")).pending) == [], (
            "a repeat has no effect"
        )


@pytest.mark.parametrize("agent", ["nobody", "dora", "gone"])
def test_a_conversation_can_only_be_transferred_to_a_connected_agent(valkey_url: str, prefix: str, agent: str) -> None:
    @aio
    async def body() -> None:
        async with a_chat(valkey_url, prefix) as store:
            gone = fakes.user("gone", team="t1")
            await store.come(gone)
            await store.go(gone)
            c = (await store.start(CARL, "x1")).conversation.id
            await store.accept(ANNA, c)
            async with refused("CONFLICT", state="active", agent={"id": "anna", "name": "Anna"}):
                await store.transfer(ANNA, c, agent_id=agent)
            assert (await store.view(ANNA, c, 1)).conversation.agent_id == "anna"

    body()


@aio
async def test_queues_are_shown_to_agents_who_may_take_from_them(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        ids = {}
        for n, team in enumerate(["t1", "t2", ""]):
            ids[team] = (await store.start(CARL, f"x{n}", team_id=team)).conversation.id
        assert {c.id for c in await store.queue(ANNA)} == {ids["t1"], ids[""]}
        assert {c.id for c in await store.queue(ZOE)} == {ids["t2"], ids[""]}
        assert {c.id for c in await store.queue(fakes.user("teamless"))} == {ids[""]}
        assert {c.id for c in await store.queue(ROOT)} == set(ids.values())
        assert {c.id for c in await store.mine(CARL)} == set(ids.values())


@aio
async def test_the_numbers_of_the_queue(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        first = (await store.start(CARL, "x1", team_id="t1")).conversation
        await asyncio.sleep(0.05)
        await store.start(DORA, "x1")
        stats = await store.queue_stats()
        assert stats.waiting == 2 and stats.active == 0
        assert 50 <= stats.longestWaitMs < 5_000 and 25 <= stats.averageWaitMs < stats.longestWaitMs
        await store.accept(ANNA, first.id)
        assert (await store.queue_stats()).active == 1
        back = await store.transfer(ANNA, first.id, team_id="t2")
        assert back.conversation.queued_at == first.queued_at < back.conversation.waiting_since
        assert (await store.queue_stats()).waiting == 2


# ── clocks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_conversation_that_waits_too_long_is_closed(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        assert await store.due() == []
        assert [change.kind for change in await store.ring("wait")][-2:] == ["dequeued", "closed"]
        closed = (await store.view(CARL, c, 1)).conversation
        assert (closed.state, closed.closed_reason, closed.closed_by_id) == ("closed", "timeout", "")
        assert await store.ring("wait") == [] and await store.clocks() == set()


@aio
async def test_a_silent_conversation_is_warned_and_then_closed(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix, idle_warning_ms=60_000, idle_timeout_ms=80_000) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        store.new((await store.accept(ANNA, c)).pending)
        assert await store.ring("idle") == [], "there was a message before the deadline"
        await store.silence(c, 60_000)
        (warning,) = await store.ring("idle")
        assert warning.kind == "warned" and isinstance(data(warning)["closesAt"], int)
        assert await store.ring("idle") == [], "there is one warning"
        store.new((await store.message(CARL, c, "still here", "m1")).pending)
        await store.silence(c, 60_000)
        assert [change.kind for change in await store.ring("idle")] == ["warned"], "and another one after a message"
        await store.silence(c, 20_000)
        assert [change.kind for change in await store.ring("idle")] == ["closed"]
        assert (await store.view(CARL, c, 1)).conversation.closed_reason == "idle"


@aio
async def test_a_customer_who_leaves_the_queue_keeps_the_place_for_a_while(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = store.new((await store.start(CARL, "x1")).pending)[0].subject
        await store.go(CARL)
        (left,) = store.new(await store.present("carl"))
        assert left.kind == "present" and data(left)["online"] is False
        assert await store.present("carl") == [], "an unchanged state is not published"
        await store.come(CARL)
        assert data(store.new(await store.present("carl"))[0])["online"] is True
        assert "gone" not in await store.clocks()
        await store.go(CARL)
        await store.present("carl")
        assert [change.kind for change in await store.ring("gone")] == ["present", "dequeued", "closed"]
        assert (await store.view(CARL, c, 1)).conversation.closed_reason == "abandoned"


@aio
async def test_a_conversation_of_a_customer_who_returned_unnoticed_is_not_abandoned(
    valkey_url: str, prefix: str
) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        await store.go(CARL)
        await store.present("carl")
        await store.come(CARL)
        await store.ring("gone")
        assert (await store.view(CARL, c, 1)).conversation.state == "waiting"


@aio
async def test_a_conversation_whose_agent_left_waits_again_in_its_old_place(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1", team_id="t1")).conversation
        await asyncio.sleep(0.002)
        other = (await store.start(DORA, "x1", team_id="t1")).conversation
        await store.accept(ANNA, c.id)
        await store.go(ANNA)
        store.new(await store.present("anna"))
        back = await store.ring("lost")
        assert [change.kind for change in back] == ["queued", "transferred"]
        assert data(back[1])["fromId"] == "anna" and data(back[1])["byId"] == ""
        assert [waiting.id for waiting in await store.queue(BERT)] == [c.id, other.id]
        assert "idle" not in await store.clocks() and await store.mine(ANNA) == []


@aio
async def test_no_key_outlives_its_use(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix, kept_s=100) as store:
        c = (await store.start(CARL, "x1", team_id="t1", text="hi")).conversation.id
        await store.accept(ANNA, c)
        last = (await store.close(ANNA, c)).pending[-1]
        await store.places()
        await store.pending.mark_published({c: last.seq})
        start = f"{{{prefix}/chat}}"
        keys = {key.removeprefix(start) for key in await store._valkey.command("KEYS", f"{start}:chat*")}
        ours = {key for key in keys if not key.startswith(":chat-present")}
        of_it = {f":chat:{c}", f":chat-messages:{c}", f":chat-sent:{c}"}
        (started,) = (key for key in ours if key.startswith(":chat-started:carl:"))
        assert ours == {*of_it, started, ":chat-day:carl", ":chat-waited", ":chat-closed"}
        for key in ours - {":chat-waited"}:
            assert 0 < await store._valkey.command("TTL", start + key) <= 2 * 86_400, key
        assert await store._valkey.command("GET", f"{start}:chat-waited") == "0"


@pytest.mark.parametrize("seed", range(4))
def test_queue_deadlines_and_numbers_agree_whatever_people_do(valkey_url: str, prefix: str, seed: int) -> None:
    """Random requests and clocks; after each, every index holds exactly the conversations it is about."""

    @aio
    async def trial() -> None:
        pick = random.Random(seed)
        async with a_chat(valkey_url, prefix) as store:
            ids: list[str] = []
            copy: dict[bytes, bytes] = {}
            for n in range(150):
                who = pick.choice([CARL, DORA, ANNA, BERT, ZOE, ROOT])
                try:
                    match pick.choice(
                        [
                            "start",
                            "accept",
                            "accept",
                            "say",
                            "transfer",
                            "hand",
                            "close",
                            "leave",
                            "return",
                            "ring",
                            "places",
                            "copy",
                            "lose",
                        ]
                    ):
                        case "start":
                            customer = pick.choice([CARL, DORA])
                            ids.append(
                                (
                                    await store.start(customer, f"x{n}", team_id=pick.choice(["t1", "t2", ""]))
                                ).conversation.id
                            )
                        case "accept" if ids:
                            await store.accept(who, pick.choice(ids))
                        case "say" if ids:
                            await store.message(who, pick.choice(ids), pick.choice(string.printable), f"m{n}")
                        case "transfer" if ids:
                            await store.transfer(who, pick.choice(ids), team_id=pick.choice(["t1", "t2"]))
                        case "hand" if ids:
                            await store.transfer(who, pick.choice(ids), agent_id=pick.choice(["anna", "bert", "zoe"]))
                        case "close" if ids:
                            await store.close(who, pick.choice(ids))
                        case "leave":
                            await store.go(who)
                            await store.present(who.id)
                        case "return":
                            await store.come(who)
                            await store.present(who.id)
                        case "ring":
                            await store.ring(pick.choice(["wait", "gone", "lost"]))
                        case "places":
                            await store.places()
                        case "copy":
                            copy = copied(store._valkey)
                        case "lose" if copy:
                            lose(store._valkey, copy)
                            await store.put_states_again()
                            assert await store.put_states_again() == 0
                except RtError as error:
                    assert error.code in ("FORBIDDEN", "CONFLICT")
                if n % 5 == 0:
                    await check(store, ids)

    trial()


async def check(store: Store, ids: list[str]) -> None:
    async def members(name: str) -> set[str]:
        return set(await store._valkey.command("ZRANGE", store._valkey.names.namespace("/chat").key(name), 0, -1))

    found = [conversation for id in ids if (conversation := await store.get(id))]
    waiting = {c.id for c in found if c.state == "waiting"}
    active = {c.id for c in found if c.state == "active"}
    assert await members("chat-waiting") == waiting and await members("chat-active") == active
    for team in ("t1", "t2", ""):
        assert await members(f"chat-queue:{team}") == {
            c.id for c in found if c.state == "waiting" and c.team_id == team
        }
    for who in (CARL, DORA):
        assert await members(f"chat-open:{who.id}") == {
            c.id for c in found if c.state != "closed" and c.customer_id == who.id
        }
    for who in (ANNA, BERT, ZOE, ROOT):
        assert await members(f"chat-open:{who.id}") == {
            c.id for c in found if c.state == "active" and c.agent_id == who.id
        }
    clocks = await members("chat-deadlines")
    assert {f"wait:{id}" for id in waiting} | {f"idle:{id}" for id in active} == {
        clock for clock in clocks if clock.startswith(("wait:", "idle:"))
    }
    assert {c.removeprefix("gone:") for c in clocks if c.startswith("gone:")} <= waiting
    assert {c.removeprefix("lost:") for c in clocks if c.startswith("lost:")} <= active
    stats = await store.queue_stats()
    assert (stats.waiting, stats.active) == (len(waiting), len(active))
    total = sum(c.waiting_since for c in found if c.state == "waiting")
    assert (
        int(await store._valkey.command("GET", store._valkey.names.namespace("/chat").key("chat-waited")) or 0) == total
    )


# ── what Valkey lost after it was acknowledged ──────────────────────────────────────────────────────────────────────


def lost(number: int, author: User = CARL) -> Message:
    return Message(number, 1_000 + number, Author(author.id, author.name, author.role), f"text {number}", f"m{number}")


@pytest.mark.parametrize("seed", range(6))
@aio
async def test_lost_messages_are_stored_again_in_any_order(valkey_url: str, prefix: str, seed: int) -> None:
    """Some are still there, some are brought twice; each ends under its number, and the next one goes on from there."""
    rng = random.Random(seed)
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        kept = rng.randrange(3)
        for number in range(1, kept + 1):
            await store.message(CARL, c, f"text {number}", f"m{number}")
        brought = [lost(number) for number in range(1, 9)] * 2
        rng.shuffle(brought)
        found = [message.id for message in brought if await store.put_down_again(c, message)]
        assert sorted(found) == list(range(kept + 1, 9)), "each once"
        page = await store.view(CARL, c, 50)
        assert [(m.id, m.text) for m in page.messages] == [(n, f"text {n}") for n in range(1, 9)]
        assert page.conversation.last == page.conversation.read_by_customer == 8
        assert (await store.message(CARL, c, "text 3", "m3")).id == 3, "its author may repeat it"
        assert (await store.message(CARL, c, "new", "m9")).id == 9


@aio
async def test_a_number_given_to_another_message_in_the_meantime_stays_with_it(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        await store.accept(ANNA, c)
        assert (await store.message(ANNA, c, "given out anew", "a1")).id == 1
        for _ in range(2):
            await store.put_down_again(c, lost(1))
        messages = (await store.view(CARL, c, 50)).messages
        assert [(m.id, m.text) for m in messages] == [(1, "given out anew"), (2, "text 1")]
        assert not await store.put_down_again("cnothing", lost(1)), "a conversation that is gone stays gone"


@aio
async def test_a_message_stored_again_in_a_closed_conversation_expires_with_it(valkey_url: str, prefix: str) -> None:
    async with a_chat(valkey_url, prefix, kept_s=100) as store:
        c = (await store.start(CARL, "x1")).conversation.id
        await store.message(CARL, c, "text 2", "m2")
        await store.close(CARL, c)
        assert await store.put_down_again(c, lost(5)) and await store.put_down_again(c, lost(4))
        for key in ("chat-messages", "chat-sent"):
            assert (
                0 < await store._valkey.command("TTL", store._valkey.names.namespace("/chat").key(f"{key}:{c}")) <= 100
            )


LETTER = "\U0001f525"  # four bytes


@aio
async def test_a_conversation_is_full_when_its_messages_reach_the_limit_in_bytes(valkey_url: str, prefix: str) -> None:
    """10,000 messages are 3 MB of usual lines and 160 MB of the longest; 2 MB is what one may have."""
    async with a_chat(valkey_url, prefix) as store:
        c = (await store.start(CARL, "0")).conversation.id
        await store.accept(ANNA, c)
        with pytest.raises(RtError) as refused:
            for number in range(200):
                await store.message(ANNA, c, LETTER * 4_000, f"{number}")
        assert refused.value.code == "CONFLICT" and "long" in refused.value.message
        assert 120 < number < 126
        key = store._valkey.names.namespace("/chat").key("chat-messages", c)
        assert await store._valkey.command("MEMORY", "USAGE", key, "SAMPLES", 0) < 2_500_000
        assert (await store.message(ANNA, c, LETTER * 4_000, "0")).id == 1, (
            "a repeat under a known id is still answered"
        )


@aio
async def test_a_customer_can_store_a_limited_number_of_bytes_per_day(valkey_url: str, prefix: str) -> None:
    """It counts all conversations, also closed ones, so starting another one does not bypass it."""
    async with a_chat(valkey_url, prefix) as store:
        said = 0
        with pytest.raises(RtError) as refused:
            for conversation in range(10):
                c = (await store.start(CARL, f"{conversation}", LETTER * 200)).conversation.id
                for number in range(60):
                    await store.message(CARL, c, LETTER * 4_000, f"{number}")
                    said += 1
                await store.close(CARL, c)
        assert refused.value.code == "RATE_LIMITED" and 86_000 < refused.value.fields["retryAfter"] <= 86_400
        assert 230 < said * 16_000 / chat.DAY_BYTES * 250 < 250
        dora = (await store.start(DORA, "0")).conversation.id
        await store.message(DORA, dora, "others may", "1")
        assert (
            86_000
            < await store._valkey.command("TTL", store._valkey.names.namespace("/chat").key("chat-day", "carl"))
            <= 86_400
        )


@aio
async def test_each_text_of_a_customer_counts_towards_the_bytes_of_the_day(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of text: one that did not count would be the way to fill the memory of all."""
    wide = msgspec.structs.replace(CARL, name=LETTER * 60)
    async with a_chat(valkey_url, prefix) as store:

        async def counted(doing: Awaitable[object]) -> int:
            key = store._valkey.names.namespace("/chat").key("chat-day", "carl")
            before = int(await store._valkey.command("GET", key) or 0)
            await doing
            return int(await store._valkey.command("GET", key)) - before

        base = await counted(store.start(CARL, "a"))
        name = len(CARL.name.encode())
        assert await counted(store.start(wide, "b")) == base + len(wide.name.encode()) - name
        assert await counted(store.start(CARL, "c" * 41)) == base + 2 * 40
        assert await counted(store.start(CARL, "d", subject=LETTER * 9)) == base + len((LETTER * 9).encode())
        conversation = (await store.start(CARL, "e")).conversation.id
        assert await counted(store.message(CARL, conversation, "x" * 500, "f")) > 500
        await store.close(CARL, conversation)
        comment = LETTER * 1_000
        monkeypatch.setattr(chat, "DAY_BYTES", 10_000)
        with pytest.raises(RtError, match="RATE_LIMITED"):
            await store.rate(CARL, conversation, 5, comment)
        monkeypatch.undo()
        assert await counted(store.rate(CARL, conversation, 5, comment)) == len(comment.encode())
        assert await counted(store.rate(CARL, conversation, 5, comment)) == 0, "a repeat has no effect"


@aio
async def test_client_ids_of_started_conversations_expire_after_two_days_however_often_one_starts(
    valkey_url: str, prefix: str
) -> None:
    async with a_chat(valkey_url, prefix) as store:
        first = (await store.start(CARL, "a")).conversation.id
        assert (await store.start(CARL, "a")).conversation.id == first
        keys = [key async for key in _keys(store, "chat-started:*")]
        assert len(keys) == 1
        day = int(keys[0].rpartition(":")[2])
        await store._valkey.command("RENAME", keys[0], f"{keys[0].rpartition(':')[0]}:{day - 1}")
        assert (await store.start(CARL, "a")).conversation.id == first, "yesterday's is known"
        await store.start(CARL, "b")
        for key in [key async for key in _keys(store, "chat-started:*")]:
            assert 0 < await store._valkey.command("TTL", key) <= 2 * 86_400


async def _keys(store: Store, pattern: str) -> AsyncIterator[str]:
    for key in await store._valkey.command("KEYS", store._valkey.names.namespace("/chat").key(pattern)):
        yield key

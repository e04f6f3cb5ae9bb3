"""Who may read, as the back end answers: batches, shared questions, answers that end or come too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.backend.hooks import access as access_module
from insightdesk_rt.backend.hooks.access import MAX_TICKETS, AccessHook, AnswerCache, Asker, _answers
from insightdesk_rt.backend.hooks.client import HookAnswer, HookClient, HookFailed
from insightdesk_rt.engine.model import UserKey
from insightdesk_rt.helpdesk.tickets.access import AccessUnknown
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.back_end import HOOK_SECRET, BackEnd, Raw, back_end

ANN, BOB = fakes.user("ann", team="t1"), fakes.user("bob", "customer")


@asynccontextmanager
async def hook(back: BackEnd, now_s: Callable[[], float] = lambda: 0.0) -> AsyncIterator[AccessHook]:
    client = HookClient("access", back.url("/access"), HOOK_SECRET, timeout_s=2.0)
    client.start()
    one = AccessHook(client, now_s=now_s)
    try:
        yield one
    finally:
        await one.close()
        await client.close()


def allow(ttl_s: float = 0.0, *, read: bool = True) -> Callable[[Any], Any]:
    return lambda asked: {one: {"read": read, "ttl_s": ttl_s} for one in asked.body["ticketIds"]}


@aio
async def test_questions_of_one_user_at_the_same_time_are_one_request() -> None:
    async with back_end() as back, hook(back) as one:
        back.answers["/access"] = lambda asked: {"1": {"read": True}, "2": {"read": False}}
        asked = await asyncio.gather(*(one.may_read(ANN, ticket) for ticket in ("1", "2", "1", "3")))
        assert asked == [True, False, True, False], "a ticket that is not in the answer is denied"
        (question,) = back.asked
        user = {"id": "ann", "role": "agent", "teamId": "t1", "name": ANN.name or None}
        assert question.body == {"user": user, "ticketIds": ["1", "2", "3"]}


@aio
async def test_users_are_asked_about_apart_and_many_tickets_in_several_requests() -> None:
    async with back_end() as back, hook(back) as one:
        back.answers["/access"] = allow()
        tickets = [str(number) for number in range(MAX_TICKETS + 1)]
        both = [one.may_read(user, ticket) for user in (ANN, BOB) for ticket in tickets]
        assert all(await asyncio.gather(*both))
        assert sorted(len(asked.body["ticketIds"]) for asked in back.asked) == [1, 1, MAX_TICKETS, MAX_TICKETS]
        assert {asked.body["user"]["id"] for asked in back.asked} == {"ann", "bob"}


@aio
async def test_a_question_that_is_not_sent_yet_is_shared_also_after_a_push_of_its_ticket() -> None:
    """If another one took its place in the request, its caller would wait for ever."""
    async with back_end() as back, hook(back) as one:
        back.answers["/access"] = allow()
        first = asyncio.create_task(one.may_read(ANN, "1"))
        await asyncio.sleep(0)
        one.forget(ticket_id="1")
        assert await asyncio.wait_for(asyncio.gather(first, one.may_read(ANN, "1")), 5) == [True, True]
        assert [asked.body["ticketIds"] for asked in back.asked] == [["1"]]


@aio
async def test_an_answer_holds_for_its_ttl_and_not_longer() -> None:
    now_s = 100.0
    async with back_end() as back, hook(back, lambda: now_s) as one:
        back.answers["/access"] = allow(60)
        for _ in range(3):
            assert await one.may_read(ANN, "1")
        assert (one.hits, one.misses, len(back.asked)) == (2, 1, 1)
        assert one.ended() == []
        now_s = 160.0
        assert one.ended() == [("ann", "1")] and one.ended() == []
        assert await one.may_read(ANN, "1") and len(back.asked) == 2


@aio
async def test_without_a_ttl_every_question_is_asked() -> None:
    async with back_end() as back, hook(back) as one:
        back.answers["/access"] = allow(0)
        assert await one.may_read(ANN, "1") and await one.may_read(ANN, "1")
        assert len(back.asked) == 2 and one.cached == 0 and one.ended() == []


@pytest.mark.parametrize(
    ("user_key", "ticket_id", "asked_again"),
    [
        ("ann", "1", {("ann", "1")}),
        ("ann", "", {("ann", "1"), ("ann", "2")}),
        ("", "1", {("ann", "1"), ("bob", "1")}),
        ("", "", {("ann", "1"), ("ann", "2"), ("bob", "1"), ("bob", "2")}),
        ("eve", "", set()),
        ("", "9", set()),
    ],
)
def test_a_forgotten_answer_is_asked_for_again(
    user_key: str, ticket_id: str, asked_again: set[tuple[str, str]]
) -> None:
    @aio
    async def body() -> None:
        async with back_end() as back, hook(back) as one:
            back.answers["/access"] = allow(60)
            everything = [(user, ticket) for user in (ANN, BOB) for ticket in ("1", "2")]
            await asyncio.gather(*(one.may_read(*pair) for pair in everything))
            back.asked.clear()
            one.forget(user_key, ticket_id)
            await asyncio.gather(*(one.may_read(*pair) for pair in everything))
            again = {(asked.body["user"]["id"], ticket) for asked in back.asked for ticket in asked.body["ticketIds"]}
            assert again == asked_again

    body()


@pytest.mark.parametrize(
    "answer",
    [
        Raw(401), Raw(403), Raw(404), Raw(429), Raw(500), Raw(302, headers={"Location": "/"}), Raw(200, b"no"),
        [], {"1": True}, {"1": {"read": "yes"}}, {"1": {"read": 1}}, {"1": {}}, {"1": {"read": True, "ttl_s": -1}},
        {"1": {"read": True, "ttl_s": "60"}}, {"1": {"read": True}, "2": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_answer_is_no_answer(answer: Any) -> None:
    @aio
    async def body() -> None:
        async with back_end() as back, hook(back) as one:
            back.answers["/access"] = lambda asked: answer
            with pytest.raises(AccessUnknown):
                await one.may_read(ANN, "1")
            assert one.cached == 0
            back.answers["/access"] = allow()
            assert await one.may_read(ANN, "1"), "the failure is not kept"

    body()


@aio
async def test_a_slow_question_of_one_user_holds_up_nobody_else() -> None:
    async with back_end() as back, hook(back) as one:
        gate = asyncio.Event()

        async def answer(asked: Any) -> Any:
            if asked.body["user"]["id"] == "ann":
                await gate.wait()
            return allow()(asked)

        back.answers["/access"] = answer
        slow = asyncio.ensure_future(one.may_read(ANN, "1"))
        await until(lambda: back.asked, "ann was asked about")
        assert await one.may_read(BOB, "1") and not slow.done()
        gate.set()
        assert await slow


def test_the_cache_is_bounded_and_its_indexes_agree() -> None:
    cache = AnswerCache(most=3)
    keys = [(Asker(UserKey(f"u{number}"), "agent", ""), f"t{number % 2}") for number in range(6)]
    for key in keys:
        cache.put(key, True, 10.0)
    assert len(cache) == 3 and cache.get(keys[0], 0) is None and cache.get(keys[5], 0) is True
    assert len(cache.ended(10.0)) == 6, "the users of dropped answers are asked about again as well"
    assert len(cache) == 0 and not cache._by_user and not cache._by_ticket


class Scripted:
    """Stands for the client: answers arrive when the test says, and say what was true when they were asked."""

    def __init__(self, truth: dict[tuple[str, str], bool]) -> None:
        self.truth = truth
        self.open: list[tuple[asyncio.Future[None], Any]] = []

    async def ask(self, question: Any, read: Callable[[HookAnswer], Any]) -> Any:
        user = question["user"]["id"]
        said = {ticket: {"read": self.truth[user, ticket], "ttl_s": 5} for ticket in question["ticketIds"]}
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open.append((gate, said))
        await gate
        return read(HookAnswer(200, said))


PAIRS = [(user, ticket) for user in ("ann", "bob") for ticket in ("1", "2")]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(PAIRS)),
        st.tuples(st.just("take"), st.sampled_from(PAIRS)),
        st.tuples(st.just("give"), st.sampled_from(PAIRS)),
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("later"), st.integers(1, 6)),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_no_order_of_answers_ends_and_revocations_lets_a_user_read_after_access_was_taken(
    steps: list[tuple[str, Any]],
) -> None:
    """The back end takes access and says so (`forget`): no answer from before is given to anybody any more."""

    async def body() -> None:
        truth = dict.fromkeys(PAIRS, True)
        now_s, scripted = 0.0, Scripted(truth)
        one = AccessHook(scripted, now_s=lambda: now_s)  # type: ignore[arg-type]
        users = {"ann": ANN, "bob": BOB}
        taken: dict[tuple[str, str], bool] = dict.fromkeys(PAIRS, False)
        waiting: list[asyncio.Task[None]] = []

        async def ask(pair: tuple[str, str]) -> None:
            try:
                answer = await one.may_read(users[pair[0]], pair[1])
            except AccessUnknown:
                return
            assert not (answer and taken[pair]), f"{pair} was read after access was taken"

        for what, value in steps:
            if what == "ask":
                waiting.append(asyncio.ensure_future(ask(value)))
            elif what in ("take", "give"):
                truth[value] = what == "give"
                taken[value] = what == "take"
                one.forget(*value)
            elif what == "answer" and scripted.open:
                scripted.open.pop(value % len(scripted.open))[0].set_result(None)
            elif what == "later":
                now_s += value
                one.ended()
            for _ in range(3):
                await asyncio.sleep(0)
        while any(not task.done() for task in waiting):
            for gate, _ in scripted.open:
                gate.set_result(None)
            scripted.open.clear()
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        await one.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access_module, "BATCH_S", 0)
        asyncio.run(body())


def test_the_answer_is_read_as_documented() -> None:
    with pytest.raises(HookFailed, match="wrong_answer"):
        _answers(HookAnswer(200, None))

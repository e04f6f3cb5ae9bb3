"""What the back end may answer, and what each wrong answer is called: against a real server on loopback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from insightdesk_rt.backend.hooks import client as client_module
from insightdesk_rt.backend.hooks.breaker import FAILURES, BreakerState
from insightdesk_rt.backend.hooks.client import MAX_ANSWER_BYTES, OUTCOMES, HookAnswer, HookClient, HookFailed
from tests.support.aio import aio, until
from tests.support.back_end import HOOK_SECRET, BackEnd, Drop, Never, Raw, back_end


def accept(answer: HookAnswer) -> Any:
    if answer.status >= 400:
        raise HookFailed("refused", f"it answered {answer.status}")
    if not isinstance(answer.body, dict):
        raise HookFailed("wrong_answer", "expected an object")
    return answer.body


@asynccontextmanager
async def hook(back: BackEnd, **changed: Any) -> AsyncIterator[HookClient]:
    one = HookClient("access", back.url("/hook"), HOOK_SECRET, **{"timeout_s": 2.0, **changed})
    one.start()
    try:
        yield one
    finally:
        await one.close()


WRONG: list[tuple[Any, str]] = [
    (Raw(400), "refused"),
    (Raw(401, b"<html>"), "refused"),
    (Raw(403), "refused"),
    (Raw(404, b"not found"), "refused"),
    (Raw(429), "refused"),
    (Raw(500, b"oops"), "error"),
    (Raw(503), "error"),
    (Raw(301, headers={"Location": "/elsewhere"}), "redirect"),
    (Raw(302, headers={"Location": "http://169.254.169.254/"}), "redirect"),
    (Raw(200, b"<html>"), "not_json"),
    (Raw(200, b"\xff\xfe"), "not_json"),
    (Raw(200, b"[" * 5000), "not_json"),
    (Raw(200, b'"' + b"x" * MAX_ANSWER_BYTES + b'"'), "too_big"),
    (Raw(200, b""), "wrong_answer"),
    (Raw(200, b"[]"), "wrong_answer"),
    (Raw(200, b"null"), "wrong_answer"),
    (Drop, "unreachable"),
    (Never, "timeout"),
]


@pytest.mark.parametrize(("answer", "outcome"), WRONG, ids=lambda one: str(one)[:40])
def test_each_wrong_answer_has_its_name_in_metrics_and_log(
    answer: Any, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    @aio
    async def body() -> None:
        async with back_end() as back, hook(back, timeout_s=0.2 if answer is Never else 5.0) as one:
            back.answers["/hook"] = lambda asked: answer
            with caplog.at_level(logging.INFO), pytest.raises(HookFailed) as caught:
                await one.ask({"a": 1}, accept)
            assert caught.value.outcome == outcome
            assert one.outcomes == {**dict.fromkeys(OUTCOMES, 0), outcome: 1}
            assert one.seconds.total == 1
            assert all(asked.path == "/hook" for asked in back.asked), "no redirect was followed"
            (record,) = caplog.records
            assert record.message == "the back end was asked in vain" and record.hook == "access"  # type: ignore[attr-defined]
            back.answers["/hook"] = lambda asked: {"good": asked.body["a"]}
            assert await one.ask({"a": 2}, accept) == {"good": 2}, "the next answer counts again"

    body()


@aio
async def test_a_request_is_signed_json_with_its_id_over_a_kept_connection() -> None:
    """The receiver verifies each with the library of Standard Webhooks."""
    async with back_end() as back, hook(back) as one:
        back.answers["/hook"] = lambda asked: {}
        for number in range(5):
            await one.ask({"number": number}, accept, id=f"id-{number}", headers={"cookie": "a=b"})
        assert [asked.body["number"] for asked in back.asked] == list(range(5))
        assert [asked.headers["webhook-id"] for asked in back.asked] == [f"id-{number}" for number in range(5)]
        assert {asked.headers["content-type"] for asked in back.asked} == {"application/json"}
        assert {asked.headers["cookie"] for asked in back.asked} == {"a=b"}
        assert back.connections == 1


@aio
async def test_cookies_of_an_answer_are_not_sent_with_the_next_question() -> None:
    async with back_end() as back, hook(back) as one:
        back.answers["/hook"] = lambda asked: Raw(200, b"{}", {"Set-Cookie": "session=of-ann"})
        await one.ask({}, accept)
        await one.ask({}, accept)
        assert "cookie" not in back.asked[1].headers


@aio
async def test_a_dead_back_end_is_left_alone_and_found_again(caplog: pytest.LogCaptureFixture) -> None:
    async with back_end() as back, hook(back) as one:
        back.answers["/hook"] = lambda asked: {}
        await back.down()
        for _ in range(FAILURES):
            with pytest.raises(HookFailed, match="unreachable"):
                await one.ask({}, accept)
        with pytest.raises(HookFailed, match="breaker_open"):
            await one.ask({}, accept)
        assert one.breaker.state is BreakerState.OPEN
        await back.up()

        async def answers() -> bool:
            try:
                return await one.ask({}, accept) == {}
            except HookFailed:
                return False

        await until(answers, "it is asked again after a pause")
        assert one.breaker.state is BreakerState.CLOSED
    assert {record.message for record in caplog.records if record.levelno >= logging.WARNING} == {
        "the back end was asked in vain"
    }


@aio
async def test_only_so_many_questions_are_asked_at_once_and_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_WAITING", 3)
    async with back_end() as back, hook(back, at_once=2, timeout_s=10.0) as one:
        gate = asyncio.Event()
        now, most = 0, 0

        async def answer(asked: object) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await gate.wait()
            now -= 1
            return {}

        back.answers["/hook"] = answer
        tasks = [asyncio.ensure_future(one.ask({}, accept)) for _ in range(8)]
        await until(lambda: sum(task.done() for task in tasks) == 3, "those that found no place were refused")
        gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one.outcome for one in done if isinstance(one, HookFailed)] == ["busy"] * 3
        assert done.count({}) == 5 and most == 2


@aio
async def test_a_connection_that_closes_at_the_same_moment_costs_no_answer() -> None:
    """A question without effects is asked once more on a new connection; an event is not."""
    async with back_end() as back:
        drops = [True, False]
        back.answers["/hook"] = lambda asked: Drop if drops.pop(0) else {}
        async with hook(back) as one:
            assert await one.ask({}, accept) == {}
        drops[:] = [True, False]
        async with hook(back, retries=False) as one:
            with pytest.raises(HookFailed, match="unreachable"):
                await one.ask({}, accept)
            assert drops == [False]


@aio
async def test_a_question_nobody_waits_for_is_given_up() -> None:
    async with back_end() as back, hook(back, at_once=1) as one:
        back.answers["/hook"] = lambda asked: Never
        task = asyncio.ensure_future(one.ask({}, accept))
        await until(lambda: len(back.asked) == 1, "it was asked")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        back.answers["/hook"] = lambda asked: {}
        assert await one.ask({}, accept) == {}, "its place is free"

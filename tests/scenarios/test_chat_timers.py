"""The deadlines of a chat, on a server with short deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.scenarios.conftest import STORY_S, may_open, within
from tests.scenarios.story import Story, at_once
from tests.scenarios.test_chat import say, start, talking
from tests.support.clients import Door
from tests.support.server import ServerProcess


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("impatient")
    server = ServerProcess(
        folder, chat_waiting_timeout_s=2, chat_idle_timeout_s=9, typing_ms=300, presence_grace_ms=300
    )
    server.start()
    yield server
    server.stop()
    server.assert_quiet()


@pytest.fixture
def stories(doors: dict[str, Door], impatient: ServerProcess, runner: asyncio.Runner) -> Iterator[list[Story]]:
    stories = [Story(door, impatient) for door in doors.values() if may_open(door)]
    yield stories
    for story in stories:
        runner.run(within(STORY_S, story.end()))


async def waits_in_vain(story: Story) -> None:
    carl = await story.join(story.customer(), "/chat")
    ada = await story.join(story.agent(), "/chat")
    chat = await start(story, carl)
    closed = await carl.expect("chat:closed", deadline_s=8)
    assert (closed["conversationId"], closed["reason"]) == (chat, "timeout")
    assert "by" not in closed
    await ada.expect("chat:queue", lambda queue: queue.get("removed") == [chat])


async def test_a_conversation_that_no_agent_accepts_is_closed(stories: list[Story]) -> None:
    await at_once(waits_in_vain, stories)


async def falls_silent(story: Story) -> None:
    carl, ada, chat = await talking(story)
    await asyncio.sleep(1)
    await say(carl, chat, "one moment")  # the silence starts anew
    said = time.monotonic()
    for peer in (carl, ada):
        assert (await peer.expect("chat:idleWarning", deadline_s=12))["conversationId"] == chat
    for peer in (carl, ada):
        closed = await peer.expect("chat:closed", deadline_s=8)
        assert (closed["conversationId"], closed["reason"]) == (chat, "idle")
    assert time.monotonic() - said > 8.5


async def test_an_idle_conversation_is_closed_after_a_warning(stories: list[Story]) -> None:
    await at_once(falls_silent, stories)

"""The default intervals. The other scenarios run with shorter ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.scenarios.conftest import STORY_S, within
from tests.scenarios.story import Story
from tests.support.clients import Door
from tests.support.server import ServerProcess


@pytest.fixture
def story(doors: dict[str, Door], tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner) -> Iterator[Story]:
    server = ServerProcess(tmp_path_factory.mktemp("default"))
    server.start()
    story = Story(doors["native"], server)
    yield story
    runner.run(within(STORY_S, story.end()))
    assert server.stop() == 0
    server.assert_quiet()


async def test_metrics_come_every_five_seconds_and_an_absence_shows_after_five(story: Story) -> None:
    ada = await story.join(story.agent("Ada"), "/presence")
    bob = await story.join(story.agent("Bob"), "/presence")
    root = await story.join(story.admin(), "/dashboard")
    await root.expect("metrics:queue")
    await bob.disconnect()
    left = time.monotonic()

    async def beat() -> float:
        await root.expect("metrics:queue", deadline_s=20)
        return time.monotonic()

    async def absence() -> None:
        await ada.expect("presence:update", {"userId": story.agent("Bob").id, "status": "offline"}, deadline_s=20)
        assert time.monotonic() - left > 4.9

    async def beats() -> None:
        first = await beat()
        assert 3 < await beat() - first < 9

    await asyncio.gather(absence(), beats())

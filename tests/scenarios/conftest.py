"""Stories are coroutines that run once through every door (client and protocol) against one real server."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Coroutine, Iterator
from typing import Any, cast

import pytest

from tests.scenarios.story import Story
from tests.support.clients import Door
from tests.support.native_client import NativeDoor
from tests.support.node_client import NodeDoor, NodeProcess, why_not
from tests.support.own_valkey import OwnValkey
from tests.support.python_client import PythonDoor
from tests.support.server import ServerProcess

DOORS = ("js-polling", "js-websocket", "js-upgrade", "python-websocket", "python-polling", "native")
STORY_S = 90.0

# Doors for features that native lacks: several namespaces per connection, bytes, clients that reconnect by themselves.
stock_clients = pytest.mark.parametrize("door", [name for name in DOORS if name != "native"], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test on the session's loop, with a deadline."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    runner = cast(asyncio.Runner, pyfuncitem.funcargs["runner"])
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    runner.run(within(STORY_S, pyfuncitem.obj(**arguments)))
    return True


async def within(deadline_s: float, work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(deadline_s):
        await work


@pytest.fixture(scope="session", autouse=True)
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def doors(runner: asyncio.Runner) -> Iterator[dict[str, Door]]:
    node = NodeProcess()
    doors: list[Door] = [
        NodeDoor(node, "js-polling", ["polling"]),
        NodeDoor(node, "js-websocket", ["websocket"]),
        NodeDoor(node, "js-upgrade", ["polling", "websocket"]),
        PythonDoor("python-websocket", "websocket"),
        PythonDoor("python-polling", "polling"),
        NativeDoor(),
    ]
    yield {door.name: door for door in doors}
    runner.run(node.stop())


def may_open(door: Door) -> bool:
    """Return whether the door can be used here. Fails if it cannot, and must."""
    reason = why_not() if door.needs_node else None
    if reason and "node" in os.environ.get("INSIGHTDESK_RT_REQUIRE", ""):
        pytest.fail(f"required, but {reason}")
    return reason is None


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    door = doors[request.param]
    if not may_open(door):
        pytest.skip(str(why_not()))
    return door


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all stories. Only the times that stories wait for are shorter than the defaults.

    It uses the Valkey user of conf/valkey.acl, so that user has all permissions that the stories need.

    TEST_WORKERS=2 bin/test tests/scenarios runs them on two processes that share the port; then tests of rate limits
    fail, which are counted per process.
    """
    workers = os.environ.get("TEST_WORKERS", "1")
    with OwnValkey() as valkey:
        server = ServerProcess(
            tmp_path_factory.mktemp("server"),
            presence_grace_ms=1000,
            dashboard_interval_ms=500,
            workers=workers,
            valkey_url=valkey.least(),
        )
        server.start()
        yield server
        code = server.stop()
        server.assert_quiet()
        assert code == 0, server.last_words()


@pytest.fixture
def story(door: Door, server: ServerProcess, runner: asyncio.Runner) -> Iterator[Story]:
    story = Story(door, server)
    yield story
    runner.run(within(STORY_S, story.end()))


@pytest.fixture
def every_story(doors: dict[str, Door], server: ServerProcess, runner: asyncio.Runner) -> Iterator[list[Story]]:
    """Run a story through every door at the same time, for stories that wait some seconds."""
    stories = [Story(door, server) for door in doors.values() if may_open(door)]
    yield stories
    for story in stories:
        runner.run(within(STORY_S, story.end()))

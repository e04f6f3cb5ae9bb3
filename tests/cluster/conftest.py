"""One cluster under load for the tests of a file: each test is one round on it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest

from tests.cluster.torture.rounds import Row, Run, running
from tests.support.node_client import why_not

ROUND_S = 60.0
T = TypeVar("T")


class Torture:
    """Runs rounds on an event loop that lives as long as the cluster."""

    def __init__(self, runner: asyncio.Runner, run: Run) -> None:
        self.run = run
        self._runner = runner

    def await_(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(ROUND_S):
                return await work

        return self._runner.run(bounded())

    def play(self, fault: str, seed: int) -> Row:
        """Run a round and return its result, which must be clean."""
        self.run.random.seed(seed)
        row = self.await_(self.run.play(fault))
        assert row.verdict.clean, f"{fault}, seed {seed}: {row.verdict}"
        assert row.verdict.acknowledged > 50 and row.verdict.delivered > 300, "there was a load"
        assert row.given_up == 0, "every publisher was answered eventually"
        return row


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    if why := why_not():
        pytest.skip(why)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        run = runner.run(stack.enter_async_context(running(tmp_path_factory.mktemp("torture"), seed=1)))
        try:
            yield Torture(runner, run)
            run.cluster.assert_no_traceback()
        finally:
            runner.run(stack.aclose())

"""One stage and one browser for all tests of the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.console.browser import CHROMIUM, FLAGS, Console
from tests.console.stage import Stage, a_stage

EXPECTED = (  # a browser, two servers and the users share two cores: a command may miss its deadline of a second
    "too many wrong keys",
    "valkey is unreachable",
    "subscription lost",
    "an event is late",
    "failed: UNAVAILABLE",
    "a call was not answered",
    "the loop was held up",
    "the event loop was blocked",
)


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("console")) as stage:
        yield stage
    stage.n1.assert_quiet(*EXPECTED)
    stage.n2.assert_quiet(*EXPECTED)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def console(browser: Any, stage: Stage) -> Iterator[Console]:
    """An admin at work."""
    console = Console(browser, stage)
    console.sign_in()
    yield console
    assert console.complaints == []
    console.close()

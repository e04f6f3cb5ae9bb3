"""The console's messages when the node, Valkey or a page's file does not answer, and when a filter is wrong."""

from __future__ import annotations

import http.client
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import valkey

from insightdesk_rt.api.sse import MAX_OF_ONE
from tests.console.browser import PAGES, Console, needs_chromium
from tests.console.stage import Stage, a_stage

pytestmark = needs_chromium
PATIENCE = """async ([silent_ms, open_ms]) => {
    const { patience } = await import('/console/live.js'); Object.assign(patience, { silent_ms, open_ms }); }"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage for this file alone, because its tests stop processes."""
    with a_stage(tmp_path_factory.mktemp("outages")) as stage:
        yield stage


@pytest.fixture
def console(browser: Any, stage: Stage) -> Iterator[Console]:
    console = Console(browser, stage)
    console.sign_in(node="n2")
    yield console
    console.close()


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes with SIGSTOP while the block runs."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def valkey_of(stage: Stage) -> list[int]:
    pid = stage.n1.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def dot(console: Console) -> str:
    return str(console.page.locator("#stream").get_attribute("data-is"))


def banner(console: Console, text: str) -> Any:
    found = console.page.locator("#banner").get_by_text(text)
    found.wait_for()
    return found


def test_a_node_that_hangs_is_not_shown_as_live(console: Console, stage: Stage) -> None:
    """Regression: the connection was still open, so the page said "live" for ever."""
    console.go("nodes")
    console.page.evaluate(PATIENCE, [3_000, 2_000])
    with stopped(stage.n2.pid):
        banner(console, "The live stream is lost: The server does not answer.")
        assert dot(console) == "bad" and "This page is from" in console.page.locator("#banner").inner_text()
        console.page.evaluate("() => { location.hash = '#/rooms'; }")  # its file is not loaded yet, and will not arrive
        console.page.get_by_text("Loading the page …").wait_for()
        banner(console, "The page could not be loaded.")
        assert dot(console) == "bad"
    console.page.evaluate(PATIENCE, [25_000, 10_000])
    console.page.get_by_role("button", name="Try again").click()
    console.page.locator("#page .page[data-page=rooms]").wait_for()
    console.ready()
    assert not console.page.locator("#banner").is_visible()


def test_every_page_says_since_when_valkey_does_not_answer(console: Console, stage: Stage) -> None:
    for page in PAGES:  # loads their files, and their content while everything works
        console.go(page)
    console.go("nodes")
    since: set[str] = set()
    with stopped(*valkey_of(stage)):
        for page in ("nodes", *PAGES):
            # the previous page's message is removed, so each page must show its own
            console.page.evaluate("(to) => { banner.textContent = ''; location.hash = '#/' + to; }", page)
            console.page.wait_for_selector(f"#page > .page[data-page={page.split('/')[0]}]")
            said = "The live stream is lost: " if page == "events" else "No answer since "
            assert "Valkey does not answer." in banner(console, said).inner_text(), page
            if page == "nodes":  # an old state is not shown as current
                looks = "(one) => getComputedStyle(one, '::before').backgroundColor"
                states = console.page.locator("#page .state").all()
                assert {one.evaluate(looks) for one in states} <= {"rgba(0, 0, 0, 0)"}
            assert dot(console) == ("warn" if page != "events" else "bad"), page
            text = console.page.locator("#banner").inner_text()
            since |= set(re.findall(r"(?:since|newer than) (\d[\d:]*\d)", text))
            assert "same id" not in console.page.locator("body").inner_text(), page
    console.page.locator("#banner").wait_for(state="hidden")
    console.go("nodes")
    assert len(since) == 1, f"an outage began once, whatever page was looked at since: {since}"


def test_a_valkey_that_refuses_writes_is_reported_on_the_overview(console: Console, stage: Stage) -> None:
    """Regression: Valkey answered reads, so the page showed it as healthy."""
    console.go("overview")
    with valkey.Valkey(unix_socket_path=str(stage.n1.data_dir / "demo" / "valkey.sock")) as client:
        before = client.config_get("maxmemory")
        try:
            client.config_set("maxmemory", "1")
            console.page.locator("#page .checks li").first.get_by_text("it is full").wait_for()
        finally:
            client.config_set("maxmemory", str(before["maxmemory"]))
    console.page.locator("#page .checks li").first.get_by_text("answers").wait_for()


def test_a_wrong_filter_is_reported_and_not_as_an_outage(console: Console) -> None:
    wrong = {f"connections?user={'x' * 201}": "user", f"presence?userIds={'someone-here,' * 180}": "watch"}
    for page, field in wrong.items():
        console.page.evaluate("(to) => { location.hash = '#/' + to; }", page)
        console.page.locator("#banner", has_text=re.compile(rf"This page cannot be shown: .*\({field}")).wait_for()
        assert dot(console) == "good", page
    for page in ("connections?sort=bogus", "rooms?sort=bogus", "chats?state=bogus", "presence?status=bogus"):
        console.go(page)
        assert not console.page.locator("#banner").is_visible(), page
    console.go("connections")
    assert console.page.get_by_label("User").get_attribute("maxlength") == "200"


def test_an_unknown_page_leads_to_the_overview(console: Console) -> None:
    """Regression: every object has `constructor`, so the shell took it for a page and stopped."""
    for name in ("constructor", "__proto__", "nonsense"):
        console.page.evaluate("(to) => { location.hash = '#/' + to; }", name)
        console.page.locator("#page .page[data-page=overview]").wait_for()
        console.go("nodes")
    assert console.complaints == []


def test_a_page_that_cannot_be_loaded_says_so_and_is_tried_again(console: Console) -> None:
    console.page.route("**/pages/audit.js*", lambda route: route.abort())
    console.page.evaluate("() => { location.hash = '#/audit'; }")
    banner(console, "The page could not be loaded.")
    console.page.unroute("**/pages/audit.js*")
    console.page.get_by_role("button", name="Try again").click()
    console.page.locator("#page .page[data-page=audit]").wait_for()
    console.ready()


def test_the_reason_why_a_stream_is_refused_is_shown(console: Console, stage: Stage) -> None:
    console.page.goto("about:blank")
    key, taken = stage.keys["viewer"], []
    for _ in range(MAX_OF_ONE):
        connection = http.client.HTTPConnection("127.0.0.1", stage.n2.admin_port, timeout=10)
        connection.request("GET", "/api/v1/events?event=none", headers={"Authorization": f"Bearer {key}"})
        assert connection.getresponse().status == 200
        taken.append(connection)
    refused = Console(console.context.browser, stage)
    refused.page.goto(f"http://127.0.0.1:{stage.n2.admin_port}/")
    refused.page.get_by_label("Key or token").fill(key)
    refused.page.get_by_role("button", name="Sign in").click()
    banner(refused, "viewer has 12 streams open on this node")
    for connection in taken:
        connection.close()
    refused.ready()
    refused.close()

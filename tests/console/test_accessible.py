"""Every page is checked with axe (WCAG and best practices), light and dark, desktop and phone; and by keyboard."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.browser import PAGES, SCHEMES, WIDTHS, Console, needs_chromium
from tests.console.stage import Stage

AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    needs_chromium,
    pytest.mark.skipif(
        not AXE.exists() and "node" not in os.environ.get("INSIGHTDESK_RT_REQUIRE", ""),
        reason="no axe: npm ci --prefix tests",
    ),
]

COLOURS = ["color-contrast", "link-in-text-block"]  # the rules about colours; dark mode changes nothing else
RUN = """async (rules) => (await axe.run(document, rules ? {runOnly: rules} : {})).violations.map(
    (one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 150)).slice(0, 3).join(" | ")}`)"""


@pytest.fixture(scope="module", params=WIDTHS)
def console(browser: Any, stage: Stage, request: pytest.FixtureRequest) -> Iterator[Console]:
    stage.push("POST", "notices", {"message": "Maintenance at noon", "severity": "warning", "reason": "to be seen"})
    stage.push("POST", "blocks", {"ip": "192.0.2.1", "reason": "to be seen"})
    console = Console(browser, stage, width=request.param, script=AXE.read_text())
    console.sign_in()
    yield console
    assert console.complaints == []
    console.close()


def judge(console: Console, what: str) -> None:
    for scheme in SCHEMES:
        console.page.emulate_media(color_scheme=scheme)
        found = console.page.evaluate(RUN, COLOURS if scheme == "dark" else None)
        assert found == [], f"{what}, {scheme}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_violations_and_fits(console: Console, page: str) -> None:
    console.go(page)
    judge(console, page)
    over = console.page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    wide = console.page.evaluate(
        "() => { const m = document.getElementById('main'); return m.scrollWidth - m.clientWidth; }"
    )
    assert (over, wide) == (0, 0), "nothing is wider than the window"
    clipped = console.page.evaluate(
        "() => [...document.querySelectorAll('.table')].filter((one) => one.scrollWidth > one.clientWidth + 1)"
        ".map((one) => [...one.querySelectorAll('*')].filter((it) => it.getBoundingClientRect().right >"
        " one.getBoundingClientRect().right + 1).map((it) => it.outerHTML.slice(0, 200)).slice(0, 3))"
    )
    assert clipped == [], "no table is cut off"


def test_a_dialog_has_no_violations(console: Console) -> None:
    console.go("nodes")
    console.page.get_by_role("button", name="Drain").first.click()
    judge(console, "dialog")
    console.page.keyboard.press("Escape")
    console.page.locator("dialog").wait_for(state="detached")


def test_the_sign_in_page_has_no_violations(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage, width=390, script=AXE.read_text())
    console.page.goto(f"http://127.0.0.1:{stage.n1.admin_port}/")
    judge(console, "sign in")
    console.close()


def test_the_console_works_without_a_mouse(browser: Any, stage: Stage) -> None:
    """Sign in, skip to the page, open another one, open and close a dialog: the focus returns to where it was."""
    console = Console(browser, stage)
    console.page.goto(f"http://127.0.0.1:{stage.n1.admin_port}/")
    keyboard, focused = (
        console.page.keyboard,
        "() => document.activeElement.textContent.trim() || document.activeElement.id",
    )
    keyboard.insert_text(stage.keys["admin"])
    keyboard.press("Enter")
    console.page.wait_for_selector("#nav a")
    console.ready()
    keyboard.press("Tab")
    assert console.page.evaluate(focused) == "Skip to the page"
    keyboard.press("Enter")
    assert console.page.evaluate("() => document.activeElement.id") == "main"
    console.page.locator("#nav a", has_text="Nodes").focus()
    keyboard.press("Enter")
    console.page.wait_for_selector(".page[data-page=nodes] .node button")
    drain = console.page.get_by_role("button", name="Drain").first
    drain.focus()
    keyboard.press("Enter")
    console.page.wait_for_selector("dialog[open]")
    assert console.page.evaluate("() => document.activeElement.name") == "overSeconds"
    keyboard.press("Escape")
    console.page.locator("dialog").wait_for(state="detached")
    assert console.page.evaluate(focused) == "Drain"
    console.go("connections")
    keyboard.press("/")
    assert console.page.evaluate("() => document.activeElement.name") == "user"
    assert console.complaints == []
    console.close()


def test_a_chart_can_be_read_with_the_keyboard(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage)
    console.sign_in()
    plot = console.page.locator(".chart[data-title=Connections] .plot")
    console.page.wait_for_function(
        "() => document.querySelector('.chart[data-title=Connections] .plot').ariaLabel.includes('open: now ')"
    )
    plot.focus()
    console.page.keyboard.press("ArrowLeft")
    said = str(plot.get_attribute("aria-label"))
    assert re.fullmatch(r"Connections, at \d\d:\d\d:\d\d\. open \d+", said)
    assert console.page.locator(".chart[data-title=Connections] .cross").count() == 1
    console.page.keyboard.press("Tab")
    assert "last 15 minutes" in str(plot.get_attribute("aria-label"))
    console.close()


def test_the_menu_of_a_phone_opens_and_closes(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage, width=390)
    console.sign_in()
    menu = console.page.get_by_role("button", name="Menu")
    assert not console.page.locator("#nav").is_visible()
    menu.click()
    assert menu.get_attribute("aria-expanded") == "true"
    console.page.get_by_role("link", name="Audit").click()
    console.page.wait_for_selector(".page[data-page=audit]")
    assert not console.page.locator("#nav").is_visible()
    console.close()


def test_the_choice_of_colours_is_kept(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage)
    console.sign_in()
    background = "() => getComputedStyle(document.body.parentElement).backgroundColor"
    light = console.page.evaluate(background)
    for _ in range(2):  # system, light, dark
        console.page.locator("#theme").click()
    dark = console.page.evaluate(background)
    assert dark != light
    console.page.reload()
    assert console.page.evaluate(background) == dark
    console.close()

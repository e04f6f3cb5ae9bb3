"""Drives the console like a user: signs in, opens a page, runs the action of a button with a reason."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from insightdesk_rt.app.cli.main import _parser
from tests.console.stage import Stage

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
REQUIRED = "chromium" in os.environ.get("INSIGHTDESK_RT_REQUIRE", "")
SOON_MS = 30_000
PAGES = (
    "overview",
    "events",
    "connections",
    "users",
    "users/ines",
    "rooms",
    "rooms/role:agent",
    "chats",
    "presence",
    "nodes",
    "limits",
    "webhooks",
    "audit",
    "settings",
)
WIDTHS = {1280: 860, 390: 844}
SCHEMES = ("light", "dark")

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists() and not REQUIRED, reason=f"no {CHROMIUM}: apt-get install chromium"
)


class Console:
    """One user's browser. `complaints` are the unexpected messages of its console."""

    def __init__(
        self, browser: Any, stage: Stage, *, width: int = 1280, scheme: str = "light", script: str = ""
    ) -> None:
        self.stage = stage
        self.context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.context.set_default_timeout(SOON_MS)
        if script:
            self.context.add_init_script(script=script)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"a dialog: {dialog.message}"), dialog.dismiss()))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def sign_in(self, scope: str = "admin", node: str = "n1") -> None:
        self.page.goto(f"http://127.0.0.1:{getattr(self.stage, node).admin_port}/")
        self.page.get_by_label("Key or token").fill(self.stage.keys[scope])
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_selector("#nav a", state="attached")
        self.ready()

    def go(self, to: str) -> None:
        """Open a page, and wait until its content is loaded."""
        self.page.evaluate("(to) => { location.hash = '#/' + to; }", to)
        name = re.split(r"[/?]", to)[0]
        self.page.wait_for_selector(f"#page > .page[data-page={name}]")
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_function(
            "() => document.querySelector('#stream').dataset.is === 'good' && document.querySelector('#page .page')"
            " && !document.querySelector('#page .skeleton, #page [aria-busy]')"
        )

    def row(self, text: str) -> Any:
        """Return the row of a table, item of a list or card of a node that contains this text."""
        return self.page.locator("#page tbody tr, #page li, #page article").filter(has_text=text).first

    def act(self, button: Any, reason: str, *, command: str, count: str = "", **given: str) -> str:
        """Press a button, fill in its dialog, confirm, and return the text of the result.

        The shown command must contain `command`, and the number of affected connections must contain `count`.
        """
        button.click()
        dialog = self.page.locator("dialog[open]")
        for name, value in given.items():
            control = dialog.locator(f"[name={name}]")
            if control.evaluate("(one) => one.tagName") == "SELECT":
                control.select_option(value)
            elif control.get_attribute("type") == "checkbox":
                control.check()
            else:
                control.fill(value)
        go = dialog.locator("button.go")
        if count:
            dialog.locator(".count").get_by_text(count).wait_for()
        go.click()  # an action needs a reason
        assert dialog.is_visible() and dialog.locator("[name=reason]").evaluate("(one) => !one.validity.valid")
        dialog.locator("[name=reason]").fill(reason)
        shown = dialog.locator("code").inner_text()
        assert command in shown and (reason in shown or quote(reason) in shown), shown
        words = shlex.split(shown)
        if words[0] == "insightdesk-rt":
            _parser()[0].parse_args(words[1:])  # fails if there is no such command or flag
        go.click()
        dialog.wait_for(state="detached")
        toast = self.page.locator(".toast").last
        said = str(toast.locator("p").inner_text())
        toast.get_by_role("button", name="Close").click()
        return said

    def close(self) -> None:
        self.context.close()

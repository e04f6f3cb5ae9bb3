"""Saves pictures of every page of the console, light and dark, desktop and phone: `bin/screenshots`.

`python -m tests.console.screenshots FOLDER [SECONDS]`: the demo runs for SECONDS first, so that the charts have data.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.console.browser import CHROMIUM, FLAGS, PAGES, SCHEMES, WIDTHS, Console
from tests.console.stage import Stage, a_stage

BUSY_S = 60.0
EVERY_S = 0.5
SEEN_MS = 4000  # until the live events fill their page


def main(folder: Path, busy_s: float) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, a_stage(Path(temporary)) as stage, sync_playwright() as playwright:
        make_news(stage)
        going = threading.Event()
        busy = threading.Thread(target=be_busy, args=(stage, going), name="busy")
        busy.start()
        time.sleep(busy_s)
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        for width, scheme in itertools.product(WIDTHS, SCHEMES):
            console = Console(browser, stage, width=width, scheme=scheme)
            console.page.goto(f"http://127.0.0.1:{stage.n1.admin_port}/")
            console.page.screenshot(path=folder / f"console-sign-in-{width}-{scheme}.png")
            console.sign_in()
            for page in PAGES:
                console.go(page)
                console.page.wait_for_timeout(SEEN_MS if page == "events" else 300)
                name = page.replace("/", "-").replace(":", "-")
                console.page.screenshot(path=folder / f"console-{name}-{width}-{scheme}.png")
            console.go("connections?user=ines")
            console.page.get_by_role("button", name="Disconnect all").click()
            console.page.get_by_text("will be closed.").wait_for()
            console.page.locator("dialog [name=reason]").fill("A stuck tab; she was told on the phone")
            console.page.screenshot(path=folder / f"console-dialog-{width}-{scheme}.png")
            console.close()
        browser.close()
        going.set()
        busy.join()


def make_news(stage: Stage) -> None:
    """Create entries for the pages: notices, blocks, actions in the audit log."""
    stage.push(
        "POST",
        "notices",
        {"message": "Chat is closed from 22:00 for an update", "severity": "warning", "reason": "release 2.4"},
    )
    stage.push("POST", "blocks", {"cidr": "192.0.2.128/25", "reason": "a scanner", "forSeconds": 86_400})
    stage.push("POST", "blocks", {"userId": "spambot", "reason": "posts links in every chat"}, scope="operator")
    stage.push("POST", "revocations", {"userId": "leon", "reason": "laptop stolen"}, scope="operator")
    stage.push(
        "POST",
        "webhooks",
        {"url": "http://127.0.0.1:9/hooks/transcripts", "types": ["chat.closed"], "reason": "the archive"},
    )
    stage.push(
        "POST",
        "webhooks",
        {"url": "http://127.0.0.1:9/sync", "types": ["ticket.*", "presence.*"], "reason": "the search index"},
    )
    stage.push("PUT", "ratelimits/ticket:typing", {"max": 5, "window": 10, "forSeconds": 3600, "reason": "a loop"})


def be_busy(stage: Stage, over: threading.Event) -> None:
    """Publish events all the time, also while the pictures are taken."""
    for number in itertools.count():
        if over.wait(EVERY_S):
            break
        for burst in range(1 + number % 7):
            data = {"lit": burst % 2 == 0}
            event = {"namespace": "/presence", "room": "role:agent", "event": "desk:lamp", "data": data}
            stage.push("POST", "emit", event)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else BUSY_S)

"""Input of strangers is shown as text: names, ids, subjects, user agents, rooms, reasons, payloads."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.console.browser import PAGES, Console, needs_chromium
from tests.console.stage import Stage

pytestmark = needs_chromium

HIT = "<img src=x onerror=\"window.hit='{0}'\"><script>window.hit='{0}'</script>{0}"
EVIL_ID = "evil'\"><svg onload=window.hit=1>"


def hit(where: str) -> str:
    return HIT.format(where)


def test_what_clients_write_is_shown_as_text(browser: Any, stage: Stage) -> None:
    where = {"role": "customer", "name": hit("name"), "agent": hit("agent"), "address": "198.51.100.66"}
    stage.come(EVIL_ID, "/chat", **where)
    stage.chat(EVIL_ID, hit("subject"))
    stage.push("POST", "notices", {"message": hit("notice"), "severity": "info", "reason": hit("reason")})
    stage.push("POST", "blocks", {"userId": "somebody<i>", "reason": hit("block")})
    stage.push("POST", "connections/disconnect", {"where": {"user": hit("target")}, "reason": hit("audit")})

    console = Console(browser, stage)
    console.sign_in()
    user, room = quote(EVIL_ID, safe=""), quote(f"user:{EVIL_ID}", safe="")
    shown = {
        "connections": (EVIL_ID, hit("name"), hit("agent")),
        f"users/{user}": (EVIL_ID, hit("name"), f"user:{EVIL_ID}"),
        "rooms?prefix=user:evil": (f"user:{EVIL_ID}",),
        f"rooms/{room}": (f"user:{EVIL_ID}", hit("name")),
        "chats?state=waiting": (hit("subject"), hit("name")),
        f"presence?userIds={user}": (EVIL_ID,),
        "limits": ("somebody<i>", hit("block")),
        "audit": (hit("audit"), hit("block")),
        "overview": (hit("notice"), hit("audit")),
    }
    for page, texts in shown.items():
        console.go(page)
        for text in texts:
            console.page.locator("#page").get_by_text(text).first.wait_for()
    for page in PAGES:  # the addresses of pages too
        console.go(f"{page}?user={quote(hit('hash'))}&who={quote(hit('hash'))}&prefix={quote(hit('hash'))}")
    console.go("connections?user=" + user)
    console.page.get_by_role("button", name=f"Kick {EVIL_ID}").first.click()
    console.page.locator("dialog[open]").get_by_text(hit("name")).wait_for()

    assert console.page.evaluate("() => window.hit") is None
    assert (
        console.page.evaluate("() => document.querySelectorAll('img[src=x], main script, main [onload]').length") == 0
    )
    assert console.complaints == []
    console.close()
    stage.push("POST", "users/" + user + "/disconnect", {"reason": "the test is over"})


def test_payloads_and_rooms_of_live_events_are_text(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage)
    console.sign_in()
    console.go("events")
    console.page.get_by_label("Show payloads").check()
    console.page.get_by_label("Event", exact=True).fill("x<u>")
    console.page.wait_for_function("() => location.hash.includes('event=x')")
    emit = {"namespace": "/chat", "room": hit("room"), "event": "x<u>", "data": {"text": hit("payload")}}
    for _ in range(20):  # until the stream with the new filter is open
        stage.push("POST", "emit", emit)
        if console.page.locator("#page tbody tr").count():
            break
        console.page.wait_for_timeout(200)
    console.page.get_by_role("button", name="More").first.click()
    console.page.get_by_text(hit("room")).first.wait_for()
    assert console.page.evaluate("() => window.hit") is None
    assert console.complaints == []
    console.close()


def test_a_lost_stream_is_reported_and_opened_again(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage)
    console.sign_in(node="n2")
    console.go("nodes")
    console.context.set_offline(True)
    stage.n2.stop()
    console.page.get_by_text("The live stream is lost: ").wait_for()
    stage.n2.start()
    console.context.set_offline(False)
    console.page.locator("#banner").wait_for(state="hidden", timeout=30_000)
    console.ready()
    console.close()


def test_a_session_that_ends_leads_to_the_sign_in_page(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage)
    console.sign_in("viewer")
    console.page.locator("#leave").click()
    console.page.get_by_label("Key or token").wait_for()
    console.page.get_by_label("Key or token").fill("irt_" + "x" * 43)
    console.page.get_by_role("button", name="Sign in").click()
    console.page.get_by_text("This key or token is not valid.").wait_for()
    console.close()

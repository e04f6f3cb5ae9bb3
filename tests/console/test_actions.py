"""Every action of the console in a browser on a running demo, with its reason, shell command and result."""

from __future__ import annotations

from typing import Any

from standardwebhooks import Webhook

from tests.console.browser import PAGES, Console, needs_chromium
from tests.console.stage import Stage
from tests.support.receiver import Receiver

pytestmark = needs_chromium


def button(console: Console, name: str, within: Any = None) -> Any:
    return (within or console.page.locator("#page")).get_by_role("button", name=name, exact=True)


def test_one_connection_is_kicked(console: Console, stage: Stage) -> None:
    stage.come("kicked", "/presence")
    console.go("connections?user=kicked")
    said = console.act(button(console, "Kick kicked"), "spams", command="insightdesk-rt kick ")
    assert said == "1 connection closed."
    console.page.get_by_text("No connection matches").wait_for()


def test_connections_that_were_found_are_counted_and_then_disconnected(console: Console, stage: Stage) -> None:
    for number in range(3):
        stage.come(f"bulk{number}", "/presence", address="192.0.2.77", node=(stage.n1, stage.n2)[number % 2])
    console.go("connections")
    console.page.get_by_label("Address").fill("192.0.2.77")
    console.page.get_by_text("3 connections found").wait_for()
    said = console.act(
        button(console, "Disconnect all 3"),
        "their office is offline",
        count="3 connections will be closed.",
        command="insightdesk-rt kick --ip 192.0.2.77 --reason",
    )
    assert said == "3 connections closed."
    console.page.get_by_text("0 connections found").wait_for()


def test_a_webhook_is_made_tested_paused_and_deleted(console: Console, stage: Stage) -> None:
    receiver = Receiver()
    stage.do(receiver.start())
    try:
        console.go("webhooks")
        fields = {"url": receiver.url, "types": "chat.* ticket.created"}
        shell = f"insightdesk-rt webhooks create {receiver.url} --types 'chat.*,ticket.created' --reason"
        said = console.act(button(console, "New webhook"), "transcripts", command=shell, **fields)
        assert said == "The webhook is made."
        secret = console.page.get_by_role("region", name="Secret").inner_text()
        assert secret.startswith("whsec_")
        button(console, "Hide").click()
        row = console.page.locator("tbody tr", has_text=receiver.url)
        row.get_by_text("active").wait_for()
        row.get_by_role("button", name="More").click()
        detail = console.page.locator("tr.detail")
        said = console.act(button(console, "Test", detail), "does it work", command="insightdesk-rt webhooks test wh_")
        assert said.startswith("Accepted in ") and Webhook(secret).verify(
            receiver.accepted[0].body, receiver.accepted[0].headers
        )
        said = console.act(
            button(console, "Pause", detail), "a deployment", command="insightdesk-rt webhooks pause wh_"
        )
        assert said == "The webhook is paused."
        row.get_by_text("paused").wait_for()
        said = console.act(button(console, "Delete", detail), "over", command="insightdesk-rt webhooks delete wh_")
        assert said == "The webhook is deleted."
        console.page.get_by_text("There are no webhooks.").wait_for()
    finally:
        stage.do(receiver.stop())


def test_connections_are_sorted_and_paged(console: Console, stage: Stage) -> None:
    for number in range(55):
        stage.come(f"page{number:02}", "/presence", address="192.0.2.99")
    console.go("connections?ip=192.0.2.99")
    console.page.get_by_role("button", name="User").click()  # descending, then ascending
    console.page.locator("tbody tr", has_text="page54").first.wait_for()
    assert "page54" in console.page.locator("tbody tr").first.inner_text()
    console.page.get_by_role("button", name="Next").click()
    console.page.get_by_text("Page 2").wait_for()
    console.page.locator("tbody tr", has_text="page00").wait_for()
    assert console.page.locator("tbody tr").count() == 5
    console.page.get_by_role("button", name="Previous").click()
    console.page.locator("tbody tr", has_text="page54").wait_for()
    console.page.locator("tbody tr", has_text="page54").get_by_role("button", name="More").click()
    console.page.locator("tr.detail", has_text="user:page54").wait_for()
    stage.push("POST", "connections/disconnect", {"where": {"ip": "192.0.2.99"}, "reason": "the test is over"})


def test_a_user_is_shown_disconnected_revoked_and_blocked(console: Console, stage: Stage) -> None:
    stage.come("rene", "/presence", name="René Blanc")
    console.go("users")
    console.page.get_by_label("User id").fill("rene")
    console.page.get_by_role("button", name="Show", exact=True).click()
    console.page.get_by_role("heading", name="René Blanc").wait_for()
    console.page.locator(".rooms .room", has_text="user:rene").wait_for()
    one = "1 connection will be closed."
    assert (
        console.act(button(console, "Disconnect"), "asked to", count=one, command="insightdesk-rt kick --user rene")
        == "1 connection closed."
    )
    console.row("kicked").wait_for()  # among the closed connections, with the reason
    stage.come("rene", "/presence")
    console.row("203.0.113.5").wait_for()
    said = console.act(button(console, "Revoke"), "laptop stolen", count=one, command="/api/v1/revocations")
    assert said == "Revoked. 1 connection closed."
    console.go("limits")
    back = button(console, "Remove the revocation of rene")
    assert console.act(back, "found again", command="curl -X DELETE") == "The revocation was removed."
    stage.come("rene", "/presence")
    console.go("users/rene")
    said = console.act(button(console, "Block"), "abuse", count=one, command='"forSeconds":7200', forHours="2")
    assert said == "Blocked. 1 connection closed."
    console.go("limits")
    unblock = button(console, "Unblock rene")
    assert console.act(unblock, "sorry", command="curl -X DELETE") == "The block was removed."
    unblock.wait_for(state="detached")


def test_a_rooms_members_are_shown_and_disconnected(console: Console, stage: Stage) -> None:
    stage.come("roomy", "/presence", name="Roomy Ray")
    console.go("rooms")
    console.page.get_by_label("Name begins with").fill("user:roomy")
    console.page.get_by_role("link", name="user:roomy").click()
    console.row("Roomy Ray").wait_for()
    said = console.act(
        button(console, "Disconnect members"),
        "closed for today",
        count="1 connection will be closed.",
        command="insightdesk-rt kick --room user:roomy --namespace /presence",
    )
    assert said == "1 connection closed."
    console.page.get_by_text("Nobody is in this room now.").wait_for()


def test_a_chat_is_assigned_queued_again_and_closed(console: Console, stage: Stage) -> None:
    stage.come("carla", "/chat", "customer", "Carla Conti")
    stage.chat("carla", "A chat to hand around")
    console.go("chats?state=waiting")
    name = "the chat of Carla Conti"
    done = console.act(button(console, f"Assign {name}"), "she knows it", command="/assign", agentId="ines")
    assert done == "The chat was assigned."
    button(console, "Active").click()
    console.row("Ines Duarte").wait_for()
    assert console.act(button(console, f"Requeue {name}"), "lunch", command="/requeue") == "The chat was requeued."
    button(console, "Waiting").click()
    assert console.act(button(console, f"Close {name}"), "solved by phone", command="/close") == "The chat has ended."
    button(console, "Closed").click()
    console.row("A chat to hand around").wait_for()


def test_a_notice_is_sent_and_ended(console: Console, stage: Stage) -> None:
    peer = stage.come("listener", "/presence")
    console.go("overview")
    said = console.act(
        button(console, "New notice"),
        "maintenance",
        command="insightdesk-rt notice 'Back at noon' --severity warning --for 600",
        message="Back at noon",
        severity="warning",
        forMinutes="10",
    )
    assert said == "The notice was sent."
    stage.do(peer.expect("server:notice", {"message": "Back at noon", "severity": "warning"}))
    end = button(console, "End the notice: Back at noon")
    assert console.act(end, "done early", command="insightdesk-rt notice --end") == "The notice has ended."
    end.wait_for(state="detached")


def test_a_notice_begins_later_and_may_be_as_long_as_the_api_takes(console: Console, stage: Stage) -> None:
    console.go("overview")
    said = console.act(
        button(console, "New notice"),
        "maintenance",
        command="--starts 2",
        message="-" + "x" * 1_999,
        startsAt="2035-05-05T22:00",
        forMinutes="60",
    )
    assert said == "The notice will be sent."
    (notice,) = [one for one in stage.push("GET", "notices")["items"] if one["startsAt"].startswith("2035-05-0")]
    assert len(notice["message"]) == 2_000 and notice["endsAt"] > notice["startsAt"]
    stage.push("DELETE", f"notices/{notice['id']}?reason=over")


def test_a_node_is_drained_with_progress_and_accepts_clients_after_an_undrain(console: Console, stage: Stage) -> None:
    stage.come("drained", "/presence", node=stage.n2)
    console.go("nodes")
    card = console.page.get_by_role("article", name="Node n2")
    said = console.act(
        button(console, "Drain", card),
        "kernel",
        count=" will be closed.",
        command="insightdesk-rt drain n2 --over 4 --reason",
        overSeconds="4",
    )
    assert said == "n2 disconnects its clients."
    card.get_by_role("progressbar", name="Drain").wait_for()
    card.get_by_text("The node accepts no new clients.").wait_for()
    undrained = console.act(button(console, "Undrain", card), "rebooted", command="insightdesk-rt drain n2 --undo")
    assert undrained == "n2 accepts clients again."
    card.get_by_text("ready").wait_for()


def test_the_drain_of_the_last_node_shows_a_warning(console: Console, stage: Stage) -> None:
    console.go("nodes")
    nowhere = "No other node accepts clients"
    stage.push("POST", "nodes/n1/drain", {"overSeconds": 3600, "reason": "kernel"})
    try:
        console.page.get_by_role("article", name="Node n1").get_by_text("draining").wait_for()
        button(console, "Drain", console.page.get_by_role("article", name="Node n2")).click()
        console.page.locator("dialog .count").get_by_text(nowhere).wait_for()
        console.page.keyboard.press("Escape")
    finally:
        stage.push("POST", "nodes/n1/undrain", {"reason": "the test is over"})
    console.page.get_by_role("article", name="Node n1").get_by_text("ready").wait_for()
    button(console, "Drain", console.page.get_by_role("article", name="Node n2")).click()
    console.page.locator("dialog .count").get_by_text("will be closed.").wait_for()
    assert nowhere not in console.page.locator("dialog .count").inner_text()
    console.page.keyboard.press("Escape")


def test_limits_are_changed_addresses_blocked_and_sessions_revoked(console: Console, stage: Stage) -> None:
    console.go("limits")
    done = console.act(
        button(console, "Change the limit of ticket:typing"), "a loop", command='"max":3', max="3", forMinutes="5"
    )
    assert done == "The limit of ticket:typing has changed."
    reset = button(console, "Reset the limit of ticket:typing")
    assert console.act(reset, "fixed", command="ratelimits/ticket%3Atyping?reason=") == (
        "The limit of ticket:typing is the configured one again."
    )
    reset.wait_for(state="detached")
    stage.come("networked", "/presence", address="192.0.2.200")
    said = console.act(
        button(console, "New block"),
        "a scanner",
        count="1 connection will be closed.",
        command='"cidr":"192.0.2.192/26"',
        kind="cidr",
        whom="192.0.2.192/26",
    )
    assert said == "Blocked. 1 connection closed."
    assert console.act(button(console, "Unblock 192.0.2.192/26"), "ours", command="curl") == "The block was removed."
    stage.come("lost", "/presence")
    said = console.act(
        button(console, "New revocation"),
        "signed out",
        count="1 connection will be closed.",
        command='"sessionId":"session-lost"',
        whom="session-lost",
    )
    assert said == "Revoked. 1 connection closed."
    taken = button(console, "Remove the revocation of session-lost")
    assert console.act(taken, "a mistake", command="curl") == "The revocation was removed."


def test_users_who_exceed_a_rate_are_shown(console: Console, stage: Stage) -> None:
    peer = stage.come("hasty", "/presence")

    async def hammer() -> None:
        for _ in range(200):
            await peer.call("presence:status", {"status": "busy"})

    stage.do(hammer())
    console.go("limits")
    console.row("hasty").wait_for()
    assert "presence:status" in console.row("hasty").inner_text()


def test_a_log_level_is_changed_for_a_while(console: Console) -> None:
    console.go("settings")
    said = console.act(
        button(console, "Change level"),
        "looking for a leak",
        command='"level":"debug"',
        logger="helpdesk",
        forMinutes="1",
        node="n2",
    )
    assert said == "helpdesk now logs at level debug."
    console.row("debug").wait_for()
    console.page.get_by_label("Find").fill("ping interval heartbeats")
    console.page.get_by_text("time between heartbeats").wait_for()
    assert console.page.locator("tbody tr", has_text="ping_interval_ms").count() == 1


def test_events_are_shown_filtered_and_paused(console: Console, stage: Stage) -> None:
    console.go("events")
    emit = {"namespace": "/tickets", "room": "console:test", "event": "desk:lamp", "data": {"lit": "a test payload"}}
    console.page.get_by_label("Event", exact=True).fill("desk:lamp")
    console.page.get_by_label("Show payloads").check()
    console.page.wait_for_function("() => location.hash.includes('event=desk')")

    def wait_for_rows(count: int) -> None:
        for _ in range(20):  # until the stream with the new filter is open
            stage.push("POST", "emit", emit)
            try:
                console.page.wait_for_function(
                    "(n) => document.querySelectorAll('#page tbody tr').length >= n", arg=count, timeout=500
                )
            except Exception as late:
                if "Timeout" not in type(late).__name__:
                    raise
            else:
                return
        raise AssertionError("no event was shown within 20 tries")

    wait_for_rows(1)
    console.page.get_by_role("button", name="More").first.click()
    console.page.get_by_text("a test payload").first.wait_for()
    button(console, "Pause").click()
    shown = console.page.locator("#page tbody tr").count()
    stage.push("POST", "emit", emit)
    console.page.get_by_text("1 event waits.").wait_for()
    assert console.page.locator("#page tbody tr").count() == shown
    button(console, "Resume").click()
    console.page.wait_for_function("(n) => document.querySelectorAll('#page tbody tr').length > n", arg=shown)


def test_the_audit_page_shows_each_action_with_its_reason(console: Console) -> None:
    console.go("audit?action=node")
    console.row("kernel").wait_for()
    assert "node.drain" in console.row("kernel").inner_text() and "admin" in console.row("kernel").inner_text()
    console.page.get_by_label("Action").fill("notice")
    console.row("done early").wait_for()
    assert console.page.get_by_text("kernel").count() == 0


def test_the_presence_page_follows_people(console: Console, stage: Stage) -> None:
    peer = stage.come("moody", "/presence", name="Moody Mo")
    console.go("presence")
    console.row("Moody Mo").wait_for()
    stage.do(peer.ok("presence:status", {"status": "away"}))
    console.row("Moody Mo").get_by_text("away").wait_for()
    console.page.get_by_label("User ids").fill("moody, ines")
    console.page.wait_for_function("() => document.querySelectorAll('#page tbody tr').length === 2")


def test_pages_update_by_themselves(console: Console, stage: Stage) -> None:
    console.go("connections?user=follows")
    console.page.get_by_text("0 connections found").wait_for()
    asked: list[str] = []
    console.page.on("request", lambda request: asked.append(request.url))
    stage.come("follows", "/presence")
    console.page.get_by_text("1 connection found").wait_for()
    stage.push("POST", "users/follows/disconnect", {"reason": "the test is over"})
    console.page.get_by_text("0 connections found").wait_for()
    assert asked == []


def test_a_viewer_sees_every_page_and_no_action(browser: Any, stage: Stage) -> None:
    console = Console(browser, stage)
    console.sign_in("viewer")
    assert "viewer" in console.page.locator("#me-scope").inner_text()
    harmless = {
        "Pause",
        "Clear",
        "Show",
        "Previous",
        "Next",
        "Waiting",
        "Active",
        "Closed",
        "Show every logger",
        "More filters",
        "More",
    }
    for page in PAGES:
        console.go(page)
        words = set(console.page.locator("#page button:not(.sort)").all_inner_texts()) - {""}
        assert words <= harmless, (page, words)
    assert console.complaints == []
    console.close()


def test_back_closes_an_open_dialog(console: Console) -> None:
    """Regression: the dialog stayed open over the next page."""
    console.go("nodes")
    console.go("overview")
    console.page.get_by_role("button", name="New notice").click()
    console.page.locator("dialog[open]").wait_for()
    console.page.go_back()
    console.page.locator("#page .page[data-page=nodes]").wait_for()
    console.page.locator("dialog").wait_for(state="detached")

"""Pages for API answers that a running demo does not give; the tests provide the answers."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from typing import Any

import pytest

from insightdesk_rt.app.cli.main import _parser
from tests.console.browser import Console, needs_chromium

pytestmark = needs_chromium
AT = "2026-11-28T12:00:00.000Z"
ANN = {
    "sid": "1c2f0e8a7b6d5f4e3a2b",
    "node": "n1",
    "user": {"id": "ann", "name": "Ann"},
    "role": "agent",
    "teamId": "",
    "ip": "203.0.113.9",
    "agent": "",
    "transport": "websocket",
    "protocol": "native",
    "namespaces": ["/tickets"],
    "sockets": [],
    "connectedAt": AT,
    "lastSeenAt": AT,
    "eventsIn": 1,
    "eventsOut": 1,
    "outboxBytes": 0,
    "dropped": 0,
}
USER: dict[str, Any] = {
    "id": "ann",
    "name": "Ann",
    "role": "agent",
    "teamId": "",
    "presence": {"status": "online", "lastSeen": AT},
    "connections": [ANN],
    "closed": [],
    "rooms": ["user:ann"],
    "missing": [],
}
BLOCK = {"id": "b1", "cidr": "203.0.113.0/24", "reason": "a scanner", "by": "ada", "at": AT, "until": None}
REVOKED = {"id": "r1", "sessionId": "s-1", "reason": "left the laptop", "by": "ada", "at": AT, "until": AT}
NODE: dict[str, Any] = {
    "node": "n1",
    "incarnation": "n1.1",
    "version": "0.1.0",
    "connections": {"websocket": 3, "demo": 2},
    "sockets": {"/tickets": 3},
    "eventsInPerSecond": 1,
    "eventsOutPerSecond": 1,
    "deliveryP50Ms": 1,
    "deliveryP99Ms": 2,
    "loopLagMs": 5,
    "rssBytes": 1,
    "openFiles": 12,
    "outboxBytes": 0,
    "uptimeSeconds": 60,
    "users": 2,
    "rooms": 3,
    "leads": True,
    "hears": True,
    "drain": None,
}


def say(console: Console, watched: str, answers: dict[str, Any]) -> None:
    """Let the page's streams that watch this path send these answers, and stay open."""
    states = [{"watch": watch, "status": 200, "body": body} for watch, body in answers.items()]
    text = "".join(f"event: state\ndata: {json.dumps(state)}\n\n" for state in states)
    console.page.route(
        lambda url: "/api/v1/live" in url and watched in url,
        lambda route: route.fulfill(content_type="text/event-stream", body=text),
    )


def show(console: Console, page: str) -> None:
    console.page.evaluate("(to) => { location.hash = '#/' + to; }", page)
    console.page.wait_for_selector(f"#page > .page[data-page={page.split('/')[0]}]")


def test_a_user_is_shown_with_blocks_revocations_and_sessions(console: Console) -> None:
    user = {**USER, "connections": [{**ANN, "sessionId": "s-2"}], "blocks": [BLOCK], "revocations": [REVOKED]}
    say(console, "users", {"users/ann": {**user, "connectionCount": 120, "closedCount": 0, "roomCount": 1}})
    show(console, "users/ann")
    console.row("203.0.113.0/24").wait_for()
    console.row("s-1").get_by_role("button", name="Remove").wait_for()
    console.page.get_by_text("1 of 120 are shown.").wait_for()
    console.row("203.0.113.9").get_by_role("button", name="More").click()
    console.page.get_by_role("button", name="Revoke this session").click()
    dialog = console.page.locator("dialog[open]")
    dialog.get_by_text("Revoke the session s-2").wait_for()
    assert '"sessionId":"s-2"' in dialog.locator("code").inner_text()
    console.page.keyboard.press("Escape")
    console.page.unroute_all()


def test_fields_of_a_user_that_an_older_node_does_not_send_are_not_shown(console: Console) -> None:
    say(console, "users", {"users/bob": USER})
    show(console, "users/bob")
    console.row("203.0.113.9").get_by_role("button", name="More").click()
    console.page.locator("tr.detail").wait_for()
    assert not console.page.get_by_text("is blocked").is_visible()
    assert not console.page.get_by_text("is revoked").is_visible()
    assert console.page.get_by_role("button", name="Revoke this session").count() == 0
    console.page.unroute_all()


def test_one_peak_does_not_flatten_a_chart_and_is_labelled(console: Console) -> None:
    point = {"connections": 26, "eventsIn": 2, "eventsOut": 40, "deliveryP50Ms": 2, "loopLagMs": 5}
    samples = [{**point, "at": 1_795_000_000 + 5 * n, "deliveryP99Ms": 20 + n % 9} for n in range(180)]
    samples[90]["deliveryP99Ms"] = 1_500
    samples[100]["connections"] = 0
    history = {"nodes": [{"node": "n1", "everySeconds": 5, "samples": samples}], "missing": []}
    say(console, "nodes%252Fhistory", {"nodes/history": history})
    show(console, "overview")
    chart = console.page.locator(".chart[data-title='Delivery latency']")
    chart.get_by_text("peak 1.5 s").wait_for()
    assert chart.locator(".tick.left").first.text_content() == "0 ms"
    assert chart.locator(".tick.left").all_text_contents()[2] == "40 ms"
    connections = console.page.locator(".chart[data-title=Connections]")
    assert connections.locator(".tick.left").all_text_contents() == ["0", "15", "30"]
    x = [float(str(tick.get_attribute("x"))) for tick in connections.locator(".tick:not(.left)").all()]
    assert len(x) == 4 and {round(b - a) for a, b in pairwise(x)} == {round(x[1] - x[0])}
    console.page.unroute_all()


@pytest.mark.parametrize(
    ("said", "word", "why"),
    [
        ({}, "ready", ""),
        ({"hears": False}, "not ready", "does not receive the other nodes' events"),
        ({"checks": [{"name": "loop", "ok": True}]}, "ready", ""),
        ({"checks": [{"name": "files", "ok": False, "why": "950 of 1024"}]}, "not ready", "files: 950 of 1024"),
        ({"drain": {"overSeconds": 1, "sentAway": 1, "left": 0, "done": True, "since": 1}}, "drained", ""),
    ],
)
def test_a_nodes_state_is_the_same_on_all_pages(console: Console, said: dict[str, Any], word: str, why: str) -> None:
    say(console, "nodes", {"nodes": {"nodes": [{**NODE, **said}], "missing": []}})
    show(console, "overview")
    for where in (".checks li:nth-child(2)", "tbody tr"):
        console.page.locator(f"#page {where}").get_by_text(word).first.wait_for()
        assert why in console.page.locator(f"#page {where}").first.inner_text()
    show(console, "nodes")
    card = console.page.get_by_role("article", name="Node n1")
    card.get_by_text(word).first.wait_for()
    assert why in card.inner_text() and "2 by demo robots" in card.inner_text()
    console.page.unroute_all()


def test_shell_commands_are_quoted_so_that_the_tool_understands_them(console: Console) -> None:
    """Regression: a value that begins with a dash was taken for a flag, and a sid beside filters was refused."""
    tool = "async (given) => (await import('/console/commands.js')).tool(...given)"
    reads = _parser()[0].parse_args

    def made(*words: Any) -> Any:
        return reads(shlex.split(str(console.page.evaluate(tool, words)))[1:])

    assert "-abcdefghijklmnopqrs" in vars(made("kick", "-abcdefghijklmnopqrs", {"--reason": "-x y"})).values()
    assert made("kick", {"--user": "-ann", "--reason": "it's"}).user == "-ann"
    notice = made("notice", "--5 minutes", {"--severity": "info", "--reason": "-"})
    assert (notice.message, notice.reason) == ("--5 minutes", "-")

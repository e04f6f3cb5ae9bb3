"""The demo in Debian's Chromium on a real server, and the permissions that the page must not have.

Screenshots are saved in screenshots/ (not in git) for people to look at.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.engine.addresses import FORWARDED
from tests.support.server import ServerProcess

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
REQUIRED = "chromium" in os.environ.get("INSIGHTDESK_RT_REQUIRE", "")
SOON_MS = 30_000

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists() and not REQUIRED, reason=f"no {CHROMIUM}: apt-get install chromium"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("demo"), demo="true")
    server.start()
    yield server
    assert server.stop() == 0
    # A browser and a server share two cores: a command may miss its deadline of a second and is then repeated.
    server.assert_quiet("valkey is unreachable", "subscription lost", "an event is late", "failed: UNAVAILABLE")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Unexpected messages of the browser's console: errors of scripts, the security policy or the network."""
    return []


@pytest.fixture
def page(browser: Any, server: ServerProcess, complaints: list[str]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.port}/demo")
    yield page
    context.close()


def text_of(page: Any, selector: str) -> str:
    return str(page.locator(selector).inner_text())


def wait(page: Any, expression: str, arg: Any = None, timeout_ms: int = SOON_MS) -> None:
    """Wait until a JavaScript function returns true. It is not a string, because the page's policy forbids eval."""
    page.wait_for_function(expression, arg=arg, timeout=timeout_ms)


def shot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=True)


@needs_chromium
def test_a_newcomer_sees_everything_move_within_seconds(page: Any, complaints: list[str]) -> None:
    wait(page, "() => document.getElementById('state').dataset.state === 'up'")
    # The dashboard shows numbers, and the agents their status.
    wait(page, "() => /^\\d+$/.test(document.getElementById('n-unsolved').textContent)")
    wait(
        page, "() => document.querySelectorAll('#people .dot[data-is=online], #people .dot[data-is=busy]').length >= 2"
    )
    before = text_of(page, ".cards")
    # An agent types, and then the reply appears on the customer's panel.
    wait(page, "() => document.getElementById('mine-typing').textContent.includes('Bob Fischer is typing')")
    shot(page, "typing")
    replies = page.locator("#mine-thread li").count()
    wait(page, "(was) => document.querySelectorAll('#mine-thread li').length > was", replies)
    assert "Bob Fischer" in text_of(page, "#mine-thread")
    wait(page, "(was) => document.querySelector('.cards').innerText !== was", before)
    shot(page, "desktop")
    assert complaints == []


@needs_chromium
def test_customer_and_agent_chat_and_see_each_other_type(page: Any, complaints: list[str]) -> None:
    wait(page, "() => document.getElementById('state').dataset.state === 'up'")
    markup = "<img src=x onerror=alert(1)> my parcel is <b>late</b>"
    page.fill("#widget-text", markup)
    page.press("#widget-text", "Enter")
    row = page.locator("#chats li", has_text="Mia Torres")
    row.get_by_role("button", name="Accept the chat with Mia Torres").click(timeout=SOON_MS)
    # A customer's message is shown as text, not as HTML.
    wait(page, "(said) => document.getElementById('talk-thread').innerText.includes(said)", markup)
    wait(page, "() => document.getElementById('widget-state').textContent.includes('Nora Lindqvist')")

    page.locator("#talk-text").press_sequentially("Let me look", delay=20)
    wait(page, "() => document.getElementById('widget-typing').textContent === 'Nora Lindqvist is typing'")
    page.press("#talk-text", "Enter")
    wait(page, "() => document.getElementById('widget-thread').innerText.includes('Let me look')")
    wait(page, "() => document.getElementById('widget-typing').textContent === ''")

    page.locator("#widget-text").press_sequentially("Thanks", delay=20)
    wait(page, "() => document.getElementById('talk-typing').textContent === 'Mia Torres is typing'")
    page.press("#widget-text", "Enter")
    wait(page, "() => document.getElementById('talk-thread').innerText.includes('Thanks')")
    wait(page, "() => document.querySelectorAll('#widget-thread [data-unsent=true]').length === 0")
    shot(page, "chat")

    page.click("#talk-close")
    wait(page, "() => document.getElementById('widget-state').textContent === 'This chat has ended.'")
    page.locator("#tickets li button").first.click()
    assert page.locator("#ticket").is_visible() and not page.locator("#talk").is_visible()
    page.get_by_role("button", name="5 of 5").click()
    wait(page, "() => document.getElementById('widget-thread').innerText.includes('You rated this chat 5 of 5')")
    assert complaints == []


@needs_chromium
def test_a_note_of_the_agent_never_reaches_the_customer(page: Any, complaints: list[str]) -> None:
    wait(page, "() => document.getElementById('state').dataset.state === 'up'")
    page.check("#ticket-note")
    page.fill("#ticket-text", "For colleagues only")
    page.press("#ticket-text", "Enter")
    wait(page, "() => document.getElementById('ticket-thread').innerText.includes('For colleagues only')")
    page.uncheck("#ticket-note")
    page.fill("#ticket-text", "For everybody")
    page.press("#ticket-text", "Enter")
    wait(page, "() => document.getElementById('mine-thread').innerText.includes('For everybody')")
    assert "For colleagues only" not in text_of(page, "#mine-thread")
    page.select_option("#ticket-status", "pending")
    wait(page, "() => document.getElementById('mine-status').textContent === 'pending'")
    assert complaints == []


@needs_chromium
def test_a_dropped_connection_comes_back_and_goes_on(page: Any) -> None:
    wait(page, "() => document.getElementById('state').dataset.state === 'up'")
    page.evaluate(
        """() => {
            window.said = [];
            const state = document.getElementById('state');
            new MutationObserver(() => window.said.push(state.textContent)).observe(
                state, { childList: true, characterData: true, subtree: true },
            );
        }"""
    )
    page.click("#drop")
    wait(page, "() => window.said.some((text) => text.startsWith('Reconnecting 0/'))")
    wait(page, "() => document.getElementById('state').dataset.state === 'up'")
    page.fill("#ticket-text", "Still here")
    page.press("#ticket-text", "Enter")
    wait(page, "() => document.getElementById('mine-thread').innerText.includes('Still here')")


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(browser: Any, server: ServerProcess, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/demo")
    wait(page, "() => document.getElementById('state').dataset.state === 'up'")
    wait(page, "() => /^\\d+$/.test(document.getElementById('n-unsolved').textContent)")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, "nothing is wider than the screen"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')].filter((each) => each.offsetParent
            && !(each.innerText || '').trim() && !each.labels?.length && !each.getAttribute('aria-label')).length"""
    )
    assert nameless == 0, "every control has a name"
    shot(page, f"phone-{scheme}")
    context.close()


# ── permissions of the page, over plain HTTP ────────────────────────────────────────────────────────────────────────


def fetch(server: ServerProcess, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = None if body is None else json.dumps(body).encode()
    asking = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)  # kept alive, as in a browser
    with contextlib.closing(asking):
        asking.request("GET" if data is None else "POST", path, data, named)
        answer = asking.getresponse()
        return answer.status, dict(answer.headers), answer.read()


def test_the_page_loads_nothing_from_elsewhere(server: ServerProcess) -> None:
    status, headers, body = fetch(server, "/demo")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    page = body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page), "no inline script or style"
    for link in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert link.startswith(("/demo/", "/rt/", "data:")), link
        if not link.startswith("data:"):
            status, headers, _ = fetch(server, link)
            assert status == 200 and headers["X-Content-Type-Options"] == "nosniff"


def push(server: ServerProcess, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Return status and answer of a request to the admin port. Blocking: the browser uses this thread's loop."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.admin_port}/api/v1/{path}",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {server.token('back-end', 'admin')}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status), json.loads(answer.read())


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SOON_MS / 1000
    while not true():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.05)


def until_seen(server: ServerProcess, true: Callable[[dict[str, Any]], object], what: str) -> None:
    """Wait until the page's initial data contains the pushed ticket as expected."""

    def seen() -> dict[str, Any]:
        tickets = json.loads(fetch(server, "/demo/desk")[2])["tickets"]
        return next((each for each in tickets if each["ticketId"] == "pushed-1"), {})

    until(lambda: true(seen()), what)


def test_a_pushed_ticket_is_still_there_when_the_page_is_loaded_again(server: ServerProcess) -> None:
    """It includes later changes. The robots do not touch it, and it disappears when it is deleted."""
    ticket = {"subject": "From our back end", "teamId": "support", "status": "open"}
    comment = {"kind": "reply", "author": {"id": "ann", "name": "Ann"}, "excerpt": "Hello"}

    def listens() -> bool:
        return any("/tickets" in one["namespaces"] for one in push(server, "GET", "connections?user=jonas")[1]["items"])

    until(listens, "a robot receives new tickets")
    assert push(server, "PUT", "tickets/pushed-1", ticket)[0] == 201
    until_seen(server, lambda seen: seen.get("subject") == "From our back end", "it is listed")
    assert push(server, "PUT", "tickets/pushed-1", {"priority": "urgent"})[0] == 200
    assert push(server, "POST", "tickets/pushed-1/comments", comment)[0] == 201
    until_seen(server, lambda seen: seen.get("priority") == "urgent" and len(seen["comments"]) == 1, "its changes")
    assert push(server, "DELETE", "tickets/pushed-1")[0] == 200
    until_seen(server, lambda seen: not seen, "it is no longer listed")


def test_unchanged_files_are_not_sent_again(server: ServerProcess) -> None:
    _, headers, _ = fetch(server, "/rt/client.js")
    assert headers["Access-Control-Allow-Origin"] == "*"
    status, _, body = fetch(server, "/rt/client.js", If_None_Match=headers["Etag"])
    assert (status, body) == (304, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "desk.example.com"},
        {"Origin": "https://desk.example.com"},
        {"Connection": "close"},  # a proxy that adds no header, such as nginx with nothing but `proxy_pass`
        *({name.replace("-", "_"): "203.0.113.7"} for name in FORWARDED),
    ],
)
@pytest.mark.parametrize("path", ["/demo", "/demo/desk"])
def test_the_demo_gives_tokens_to_its_own_page_only(server: ServerProcess, path: str, headers: dict[str, str]) -> None:
    """A page of a site whose name was pointed at this machine must not read them, nor clients behind a proxy."""
    status, _, body = fetch(server, path, **headers)
    assert status == 403
    assert b"token" not in body


def test_the_demos_tokens_open_the_client_port_and_nothing_else(server: ServerProcess) -> None:
    """A proxy that calls the server by a loopback name and adds no header looks like a local browser.

    The other tests show that the tokens open the client port.
    """
    people = json.loads(fetch(server, "/demo/desk")[2])["people"]

    def asked(token: str) -> int:
        url = f"http://127.0.0.1:{server.admin_port}/api/v1/session"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code

    assert asked(server.token("boss", "admin")) == 200, "the server's own tokens are accepted"
    assert asked(people["admin"]["token"]) == 401


def test_the_demo_has_a_data_folder_of_its_own(server: ServerProcess) -> None:
    """A server without the demo must not find the demo's invented data, nor use its secret."""
    assert [path.name for path in server.data_dir.iterdir()] == ["demo"]
    assert {"demo_secret", "valkey.lock"} <= {path.name for path in (server.data_dir / "demo").iterdir()}
    assert "/data/demo" in server.log(), "the banner names the folder"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"actor": "agent", "ticketId": "1042", "status": "lost"}, 400, "BAD_REQUEST"),
        ({"actor": "agent", "ticketId": "no such", "text": "x"}, 400, "BAD_REQUEST"),
        ({"actor": "agent", "ticketId": "9999", "text": "x"}, 404, "NOT_FOUND"),
        ({"actor": "agent", "ticketId": "1042", "text": "x" * 20_000}, 413, "PAYLOAD_TOO_LARGE"),
        ({"actor": "customer", "ticketId": "1043", "text": "x"}, 403, "FORBIDDEN"),
        ({"actor": "customer", "ticketId": "1042", "text": "x", "note": True}, 403, "FORBIDDEN"),
        ({"actor": "customer", "ticketId": "1042", "status": "solved"}, 403, "FORBIDDEN"),
        ({"actor": "root", "ticketId": "1042", "text": "x"}, 403, "FORBIDDEN"),
        ([], 400, "BAD_REQUEST"),
    ],
)
def test_forbidden_actions_of_the_page_are_refused_with_their_code(
    server: ServerProcess, body: Any, status: int, code: str
) -> None:
    answered, _, text = fetch(server, "/demo/act", body, Content_Type="application/json")
    assert (answered, json.loads(text)["error"]["code"]) == (status, code)


def test_a_form_of_another_site_has_no_effect(server: ServerProcess) -> None:
    act = {"actor": "agent", "ticketId": "1042", "text": "x"}
    assert fetch(server, "/demo/act", act, Content_Type="text/plain")[0] == 400


def test_without_the_option_client_js_is_served_and_the_demo_is_not(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server.start()
    try:
        assert fetch(server, "/rt/client.js")[0] == 200
        assert [fetch(server, path)[0] for path in ("/demo", "/demo/desk", "/demo/demo.js")] == [404, 404, 404]
    finally:
        server.stop()

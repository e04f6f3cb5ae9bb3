"""`insightdesk_rt.feed` behind proxies and servers that fail in the middle of an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from insightdesk_rt import feed as feeds
from insightdesk_rt.feed import Feed
from tests.support.aio import aio

ENTRY = b'{"id": "evt_1", "type": "ticket.deleted", "at": "2026-11-30T21:02:41.294Z", "data": {"ticketId": "42"}}'
PAGE = b'{"events": [' + ENTRY + b'], "next": "1-1", "complete": true}'
# Status, body, and how many bytes the head promises beyond the body.
ANSWERS = [(503, b"{", 9), (200, b"{", 9), (200, b"<html>We are back soon</html>", 0), (200, PAGE, 0)]


@contextmanager
def a_failing_server() -> Iterator[str]:
    left = list(ANSWERS)

    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, missing = left.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LAST_PAUSE_S", 0.01)


def test_a_program_tries_again_after_broken_answers_and_pages_of_a_proxy() -> None:
    """The loop must not end because a proxy is being restarted."""
    with a_failing_server() as url:
        assert next(iter(Feed(url, "key", after="0-0"))).id == "evt_1"


@aio
async def test_a_program_with_await_tries_again_after_broken_answers_and_pages_of_a_proxy() -> None:
    with a_failing_server() as url:
        feed = aiter(Feed(url, "key", after="0-0"))
        assert (await anext(feed)).id == "evt_1"
        await feed.aclose()  # type: ignore[attr-defined]

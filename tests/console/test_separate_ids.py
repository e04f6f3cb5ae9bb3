"""With separate ids, a click on a row opens the page of the right user."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.native_client import NativePeer
from tests.support.server import ServerProcess

DEADLINE_MS = 15_000


@contextmanager
def a_loop_of_its_own() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Yield a function that runs a coroutine in another thread, because the browser uses this thread's loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(DEADLINE_MS / 1000)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_customers_name_leads_to_the_customer_and_not_to_the_agent_of_that_id(browser: Any, tmp_path: Path) -> None:
    """The page's buttons block and revoke, so they must not apply to the agent."""
    server = ServerProcess(tmp_path, user_ids="separate", drain_seconds=0)
    server.start()
    with a_loop_of_its_own() as do:
        people = []
        for role in ("agent", "customer"):
            peer = NativePeer("/presence")
            do(peer.start(server.address, {"token": server.token("42", role, name=f"{role} 42")}, {}))
            do(peer.came_in())
            people.append(peer)
        bearer = {"Authorization": f"Bearer {server.token('root', 'admin')}"}
        context = browser.new_context(extra_http_headers=bearer)
        try:
            page = context.new_page()
            page.set_default_timeout(DEADLINE_MS)
            page.goto(f"http://127.0.0.1:{server.admin_port}/#/connections")
            page.get_by_role("link", name="customer 42", exact=True).click()
            page.locator(".rooms .room", has_text="customer:42").wait_for()
            page.get_by_role("button", name="Block", exact=True).click()
            page.locator("dialog[open]", has_text='"customerId":"42"').wait_for()
            page.keyboard.press("Escape")
            page.goto(f"http://127.0.0.1:{server.admin_port}/#/users/42")
            page.locator(".rooms .room", has_text="user:42").wait_for()
        finally:
            context.close()
            for peer in people:
                do(peer.close())
    server.stop()
    server.assert_quiet()

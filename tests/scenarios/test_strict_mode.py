"""React's StrictMode mounts twice: connect(), disconnect(), connect() in one tick, on a Manager that is open."""

from __future__ import annotations

import pytest

from tests.scenarios.story import Story
from tests.scenarios.test_tickets import subscribe
from tests.support.node_client import NodePeer

js_clients = pytest.mark.parametrize("door", ["js-polling", "js-websocket", "js-upgrade"], indirect=True)


@js_clients
async def test_a_namespace_that_is_mounted_twice_cuts_no_other_namespace(story: Story) -> None:
    """The stock client then sends CONNECT twice; Node with an asynchronous auth middleware accepts that."""
    ticket = await story.ticket()
    for turn in range(5):
        ada = await story.join(story.agent(f"ada{turn}"), "/tickets", reconnection=True)
        assert isinstance(ada, NodePeer)
        await subscribe(ada, ticket)
        bell = ada.mount_in_strict_mode("/notifications")
        await bell.came_in()
        await bell.settled()  # everything sent to it has arrived
        assert ada.connected and ada.connects == 1 and ada.ended is None, "the other namespace was disconnected"
        assert bell.connected and bell.ended is None
        sid = bell.sid
        assert (await bell.call("notification:list", {}))["ok"]
        assert bell.sid == sid, "every CONNECT got the same sid"
        await bell.close()
        await story.push("PUT", f"/tickets/{ticket}", {"subject": f"turn {turn}"})
        assert (await ada.expect("ticket:updated"))["version"] == turn + 2

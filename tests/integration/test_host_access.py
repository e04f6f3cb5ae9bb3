"""The host's own check (`access`) on two nodes: it decides who receives events, and a recheck removes access."""

from __future__ import annotations

from pathlib import Path

from tests.support.aio import aio
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes


@aio
async def test_the_hosts_check_decides_who_receives_events_and_a_recheck_removes_access(
    tmp_path: Path, valkey_url: str
) -> None:
    """The check depends on the host's data. Only `POST /access/recheck` tells the server that they have changed."""
    allowed, door = tmp_path / "may_read", NativeDoor()
    allowed.write_text("ann 1\nbob 1\n")
    with two_nodes(tmp_path, valkey_url, access="tests.support.host_check:make") as (one, two):
        ann = await door.open(one.address, "/tickets", {"token": one.token("ann", "agent", "red")})
        bob = await door.open(two.address, "/tickets", {"token": one.token("bob", "agent", "blue")})
        eve = await door.open(two.address, "/tickets", {"token": one.token("eve", "admin")})
        assert (await two.push("PUT", "/api/v1/tickets/1", {"subject": "seen", "teamId": "red"}))[0] == 201
        assert (await one.push("PUT", "/api/v1/tickets/2", {"subject": "of nobody"}))[0] == 201
        for peer in (ann, bob):
            assert (await peer.expect("ticket:created"))["ticketId"] == "1"
            await peer.ok("ticket:subscribe", {"ticketId": "1"})
        assert (await eve.call("ticket:subscribe", {"ticketId": "1"}))["error"]["code"] == "FORBIDDEN"

        path = "/api/v1/access/recheck"
        allowed.write_text("bob 1\n")
        assert await one.push("POST", path, {"userId": "bob"}) == (200, {"count": 0, "missing": []})
        assert await two.push("POST", path, {"userId": "ann"}) == (200, {"count": 1, "missing": []})
        assert (await ann.expect("ticket:unsubscribed"))["reason"] == "access"
        allowed.write_text("")
        assert await one.push("POST", path, {"ticketId": "1"}) == (200, {"count": 1, "missing": []})
        assert (await bob.expect("ticket:unsubscribed"))["reason"] == "access"
        for body in ({}, {"ticketId": "1", "userId": "ann"}):
            assert (await one.push("POST", path, body))[0] == 400
        assert (await two.push("PUT", "/api/v1/tickets/1", {"subject": "nobody has access now"}))[0] == 200
        for peer in (ann, bob, eve):
            await peer.settled()
            assert not peer.pending("ticket:created") and not peer.pending("ticket:updated")
            await peer.close()

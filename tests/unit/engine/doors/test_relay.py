"""engine/doors/relay.py: an unreachable node is logged as a warning only if its configuration is incomplete."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from insightdesk_rt.engine.cluster.directory import NodePlace, new_place
from insightdesk_rt.engine.doors.relay import Exchange, Relay
from tests.support.aio import aio
from tests.support.door import door
from tests.support.ways import OnePlace

POLL = "/socket.io/?EIO=4&transport=polling&sid=n1.x"


def elsewhere(place: NodePlace, address: str) -> NodePlace:
    return NodePlace(place.node, place.since, place.local, address, place.key, "another machine")


@pytest.mark.parametrize(
    ("what", "warnings"),
    [("has just gone", 0), ("is on another machine", 1), ("of another machine has just gone", 0)],
)
@aio
async def test_a_node_that_has_just_stopped_is_not_reported_as_a_configuration_error(
    what: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Its address stays known for up to a second after its sockets are closed."""
    place = new_place("n1", "")
    if what == "is on another machine":
        place = elsewhere(place, "")
    elif what == "of another machine has just gone":
        place = elsewhere(place, "127.0.0.1:1")
    directory: Any = OnePlace(place)
    async with door() as d:
        relay = Relay(d.client_port, directory)
        for _ in range(3):
            line = RequestStartLine("GET", POLL, "HTTP/1.1")
            request = HTTPServerRequest(start_line=line, headers=HTTPHeaders({"Host": "localhost"}))
            assert not await relay.begin("n1", request, Exchange())
        assert relay.failed == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings
    assert all("has no relay_address" in record.getMessage() for record in caplog.records)

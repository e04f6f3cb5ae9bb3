"""Requests to a client: each is answered once, late acks are ignored, and requests fail when the client disconnects."""

import asyncio

import pytest
from msgspec import Raw

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.socket import MAX_ASKED
from tests.support import fakes
from tests.support.aio import aio


@aio
async def test_a_request_returns_the_clients_answer() -> None:
    socket = fakes.socket("/t")
    asked = asyncio.ensure_future(socket.request("ask", "{}", timeout_s=1))
    await asyncio.sleep(0)
    socket.acked(0, Raw(b'["yes"]'))
    socket.acked(0, Raw(b'["twice"]'))
    socket.acked(7, Raw(b'["never asked"]'))
    assert bytes(await asked) == b'["yes"]'


@aio
async def test_a_request_without_an_answer_is_unavailable() -> None:
    socket = fakes.socket("/t")
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await socket.request("ask", "{}", timeout_s=0.01)
    socket.acked(0, Raw(b"[]"))


@aio
async def test_a_waiting_request_fails_when_the_client_disconnects() -> None:
    socket = fakes.socket("/t")
    asked = asyncio.ensure_future(socket.request("ask", "{}", timeout_s=5))
    await asyncio.sleep(0)
    socket.ended()
    with pytest.raises(RtError, match="UNAVAILABLE"):
        await asked


@aio
async def test_requests_to_a_client_with_many_unanswered_ones_are_refused() -> None:
    socket = fakes.socket("/t")
    asked = [asyncio.ensure_future(socket.request("ask", "{}", timeout_s=5)) for _ in range(MAX_ASKED)]
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await socket.request("ask", "{}", timeout_s=5)
    socket.acked(0, Raw(b"[]"))
    await asked.pop(0)
    asked.append(asyncio.ensure_future(socket.request("ask", "{}", timeout_s=5)))
    await asyncio.sleep(0)
    assert not asked[-1].done()
    socket.ended()
    await asyncio.gather(*asked, return_exceptions=True)

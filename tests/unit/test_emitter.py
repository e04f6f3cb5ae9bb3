"""Publishing from another process, against a real Valkey and a node that listens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from insightdesk_rt.emitter import AsyncEmitter, Emitter
from insightdesk_rt.errors import RtError
from insightdesk_rt.model import Offset, offset_key
from tests.contract.test_backplane import NS, A, B, cluster
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey


@aio
async def test_an_emitted_event_reaches_the_rooms_of_every_node(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 2) as (one, two):
        await one.bus.listen(NS, A)
        await two.bus.listen(NS, B)
        with Emitter(valkey_url, prefix) as emitter:
            target = emitter.of(NS).to(A).to(B, A).except_("sid1", "role:customer")
            offset = target.emit("ticket:updated", {"ticketId": "42", "who": "Jörg"})
        await until(lambda: one.events and two.events, "delivered")
        (event,) = one.events
        assert two.events == [event]
        assert (event.name, event.payload, event.offset) == (
            "ticket:updated",
            '{"ticketId":"42","who":"Jörg"}',
            offset,
        )
        assert (event.rooms, event.skip, event.origin) == ((A, B), ("sid1", "role:customer"), "emitter")


@aio
async def test_the_asynchronous_one_keeps_its_order(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        await node.bus.listen(NS, A)
        async with AsyncEmitter(valkey_url, prefix) as emitter:
            offsets = await asyncio.gather(*(emitter.of(NS).to(A).emit("x", n) for n in range(50)))
        await until(lambda: len(node.events) == 50, "all")
        assert [e.offset for e in node.events] == offsets
        assert node.payloads == [str(n) for n in range(50)]


def test_the_same_id_again_is_the_same_event(valkey_url: str, prefix: str) -> None:
    with Emitter(valkey_url, prefix) as emitter:
        target = emitter.of(NS).to(A)
        first = target.emit("x", 1, id="mine")
        other = target.emit("x", 1)
        assert target.emit("x", 2, id="mine") == first and offset_key(other) > offset_key(first)


def test_a_connection_that_was_lost_or_a_server_that_restarts_costs_a_try_and_no_double() -> None:
    with OwnValkey() as server, Emitter(server.url, "t") as emitter:
        target = emitter.of(NS).to(A)
        target.emit("x", 1)
        server("CLIENT", "KILL", "TYPE", "normal")
        target.emit("x", 2)
        server("SCRIPT", "FLUSH")
        target.emit("x", 3)
        assert server("XLEN", f"t:log:{NS}") == 3
        server.kill()
        later = threading.Timer(0.15, server.start)
        later.start()
        target.emit("x", 4)
        later.join()


def test_an_event_that_was_taken_but_not_confirmed_is_not_doubled_by_the_next_try() -> None:
    with OwnValkey() as server, Emitter(server.url, "t", timeout_s=0.2) as emitter:
        target = emitter.of(NS).to(A)
        target.emit("x", 1)
        server("CLIENT", "PAUSE", "500", "ALL")
        target.emit("x", 2)
        assert server("XLEN", f"t:log:{NS}") == 2


def test_when_it_is_given_up_the_error_carries_the_id_for_later() -> None:
    with OwnValkey() as server, Emitter(server.url, "t", timeout_s=0.1) as emitter:
        server.kill()
        began = time.monotonic()
        with pytest.raises(RtError) as error:
            emitter.of(NS).to(A).emit("x", 1)
        assert error.value.code == "UNAVAILABLE" and time.monotonic() - began < 10
        server.start()
        id = error.value.fields["id"]
        offset = emitter.of(NS).to(A).emit("x", 1, id=id)
        assert emitter.of(NS).to(A).emit("x", 1, id=id) == offset


def test_an_id_is_never_given_out_twice_even_if_valkey_lost_its_log(valkey_url: str, prefix: str) -> None:
    with Emitter(valkey_url, prefix) as emitter:
        emitter._seen[NS] = Offset("9000000000000-5")
        assert emitter.of(NS).to(A).emit("x", 1) == "9000000000001-0"


def test_what_cannot_be_sent_is_refused_before_anything_is_sent(valkey_url: str, prefix: str) -> None:
    with Emitter(valkey_url, prefix, max_event_bytes=100) as emitter:
        target = emitter.of(NS).to(A)
        with pytest.raises(RtError, match="BAD_REQUEST"):
            target.emit("x", float("nan"))
        with pytest.raises(RtError, match="PAYLOAD_TOO_LARGE"):
            target.emit("x", "y" * 200)
        with pytest.raises(ValueError, match=r"\.to\(room\)"):
            emitter.of(NS).emit("x", 1)
        with pytest.raises(ValueError):
            Emitter("not a url")


def test_it_is_imported_without_tornado() -> None:
    code = "import sys, insightdesk_rt.emitter; print([m for m in sys.modules if m.startswith('tornado')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"

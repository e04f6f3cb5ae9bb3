"""Publishing from another process, against a real Valkey and a node that listens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from insightdesk_rt.emitter import AsyncEmitter, Emitter
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset, offset_key
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS
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


@pytest.mark.parametrize("kind", [Emitter, AsyncEmitter])
def test_an_emitter_refuses_events_that_no_client_accepts(
    kind: type[Emitter] | type[AsyncEmitter], prefix: str
) -> None:
    """It refuses before sending: a reserved name in the log would end every client that receives it, repeatedly."""
    emitter = kind("valkey://127.0.0.1:1", prefix)
    for namespace in ("tickets", "/nope", "", "/tickets/", "/TICKETS"):
        with pytest.raises(ValueError, match="no such namespace; known are /"):
            emitter.of(namespace)
    for name in RESERVED_EVENTS:
        with pytest.raises(ValueError, match="reserved by Socket"):
            emitter.of(NS).to(A).emit(name, {"x": 1})
    for name in ("", "a" * 129, "a\nb"):
        with pytest.raises(ValueError, match="of 1 to 128 characters"):
            emitter.of(NS).to(A).emit(name, {"x": 1})


@pytest.mark.parametrize("kind", [Emitter, AsyncEmitter])
@pytest.mark.parametrize("password", ["p/hunter2", "p@hunter2", "p#hunter2", "p?hunter2", "hunter2/"])
def test_an_emitter_shows_no_part_of_an_unencoded_password(
    kind: type[Emitter] | type[AsyncEmitter], password: str
) -> None:
    with pytest.raises(ValueError, match="percent-encode the password") as refused:
        kind(f"valkey://:{password}@127.0.0.1:1")
    assert "hunter2" not in str(refused.value)


@aio
async def test_the_asynchronous_emitter_keeps_the_order(valkey_url: str, prefix: str) -> None:
    async with cluster(valkey_url, prefix, 1) as (node,):
        await node.bus.listen(NS, A)
        async with AsyncEmitter(valkey_url, prefix) as emitter:
            offsets = await asyncio.gather(*(emitter.of(NS).to(A).emit("x", n) for n in range(50)))
        await until(lambda: len(node.events) == 50, "all")
        assert [e.offset for e in node.events] == offsets
        assert node.payloads == [str(n) for n in range(50)]


def test_emitting_the_same_id_again_gives_the_same_event(valkey_url: str, prefix: str) -> None:
    with Emitter(valkey_url, prefix) as emitter:
        target = emitter.of(NS).to(A)
        first = target.emit("x", 1, id="mine")
        other = target.emit("x", 1)
        assert target.emit("x", 1, id="mine") == first and offset_key(other) > offset_key(first)
        for another in (
            lambda: target.emit("x", 2, id="mine"),
            lambda: target.to("b").emit("x", 1, id="mine"),
        ):
            with pytest.raises(RtError) as refused:
                another()
            assert (refused.value.code, refused.value.fields) == ("CONFLICT", {"field": "id"})


def test_an_emit_is_repeated_without_a_duplicate_after_a_lost_connection() -> None:
    with OwnValkey() as server, Emitter(server.url, "t") as emitter:
        target = emitter.of(NS).to(A)
        target.emit("x", 1)
        server("CLIENT", "KILL", "TYPE", "normal")
        target.emit("x", 2)
        server("SCRIPT", "FLUSH")
        target.emit("x", 3)
        assert server("XLEN", f"{{t{NS}}}:log") == 3
        server.kill()
        later = threading.Timer(0.15, server.start)
        later.start()
        target.emit("x", 4)
        later.join()


def test_a_repeat_after_a_lost_reply_gives_no_duplicate() -> None:
    with OwnValkey() as server, Emitter(server.url, "t", timeout_s=0.2) as emitter:
        target = emitter.of(NS).to(A)
        target.emit("x", 1)
        server("CLIENT", "PAUSE", "500", "ALL")
        target.emit("x", 2)
        assert server("XLEN", f"{{t{NS}}}:log") == 2


def test_the_error_of_a_failed_emit_has_the_id_for_a_repeat() -> None:
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


def link(to: OwnValkey, name: Path) -> str:
    """Return a URL whose name resolves to the server from now on."""
    name.unlink(missing_ok=True)
    name.symlink_to(to.socket)
    return f"unix://{name}"


def test_after_a_failover_the_next_attempt_resolves_the_name_again(tmp_path: Path) -> None:
    """It used to keep a pooled connection to the former primary for ever."""
    name = tmp_path / "primary"
    with OwnValkey() as old, OwnValkey() as new, Emitter(link(old, name), "t") as emitter:
        emitter.of(NS).to(A).emit("x", 1)
        old("REPLICAOF", "127.0.0.1", "1")
        link(new, name)
        emitter.of(NS).to(A).emit("x", 2)
        assert new("XLEN", f"{{t{NS}}}:log") == 1


@aio
async def test_the_asynchronous_emitter_resolves_the_name_again_too(tmp_path: Path) -> None:
    name = tmp_path / "primary"
    with OwnValkey() as old, OwnValkey() as new:
        async with AsyncEmitter(link(old, name), "t") as emitter:
            await emitter.of(NS).to(A).emit("x", 1)
            old("REPLICAOF", "127.0.0.1", "1")
            link(new, name)
            await emitter.of(NS).to(A).emit("x", 2)
        assert new("XLEN", f"{{t{NS}}}:log") == 1


def test_a_server_that_cannot_serve_is_unavailable_and_one_that_refuses_is_not() -> None:
    """These errors used to be exceptions of the Valkey client, without the id."""
    with OwnValkey() as server, Emitter(server.url, "t") as emitter:
        server("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(RtError, match="UNAVAILABLE") as error:
            emitter.of(NS).to(A).emit("x", 1)
        server("CONFIG", "SET", "min-replicas-to-write", "0")
        emitter.of(NS).to(A).emit("x", 1, id=error.value.fields["id"])
        server("SET", "{t/chat}:log", "no log")
        with pytest.raises(RtError, match="INTERNAL") as refused:
            emitter.of("/chat").to(A).emit("x", 1)
        assert "WRONGTYPE" in str(refused.value.__cause__)


@aio
async def test_many_emits_to_a_hanging_server_fail_at_the_same_time() -> None:
    """They used to be attempted one after the other, so the fifth failed after five times as long."""
    with OwnValkey() as server:
        async with AsyncEmitter(server.url, "t", timeout_s=0.2) as emitter:
            await emitter.of(NS).to(A).emit("x", 0)
            server.freeze()
            began = time.monotonic()
            emits = (emitter.of(NS).to(A).emit("x", n, id=str(n)) for n in range(10))
            told = await asyncio.gather(*emits, return_exceptions=True)
            assert time.monotonic() - began < 4
            assert [(why.code, why.fields["id"]) for why in told if isinstance(why, RtError)] == [
                ("UNAVAILABLE", str(n)) for n in range(10)
            ]
            server.thaw()
            offsets = [await emitter.of(NS).to(A).emit("x", n, id=str(n)) for n in range(10)]
            assert sorted(offsets, key=offset_key) == offsets
        assert server("XLEN", f"{{t{NS}}}:log") == 11


def test_no_offset_is_used_twice_even_if_valkey_lost_its_log(valkey_url: str, prefix: str) -> None:
    with Emitter(valkey_url, prefix) as emitter:
        emitter._seen[NS] = Offset("9000000000000-5")
        assert emitter.of(NS).to(A).emit("x", 1) == "9000000000001-0"


def test_invalid_events_are_refused_before_anything_is_sent(valkey_url: str, prefix: str) -> None:
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


@pytest.mark.parametrize("module", ["emitter", "helpdesk.features"])
def test_the_emitter_is_imported_without_tornado(module: str) -> None:
    """A feature that imports its routes at the top of its namespace.py would bring Tornado in."""
    code = f"import sys, insightdesk_rt.{module}; print([m for m in sys.modules if m.startswith('tornado')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"

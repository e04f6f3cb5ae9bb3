"""A shared Valkey: a user with few permissions, another environment beside ours, and checked TLS certificates."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import secrets
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import valkey

from insightdesk_rt.emitter import AsyncEmitter, Emitter
from insightdesk_rt.engine.cluster.subscription import dial
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.model import new_id
from tests.support.aio import aio, until
from tests.support.certificates import certificate
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

FORBIDDEN = (
    "CONFIG GET *",
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "SHUTDOWN NOSAVE",
    "ACL LIST",
    "CLIENT LIST",
    "CLIENT KILL ID 1",
    "MONITOR",
    "REPLICAOF no one",
    "MODULE LIST",
    "FUNCTION LIST",
    "SCRIPT FLUSH",
    "BGREWRITEAOF",
    "GET another:key",
    "GET insightdesk:key",
    "GET {insightdesk2}:key",
    "PUBLISH another:channel x",
    "SUBSCRIBE another:channel",
    "PSUBSCRIBE *",
)


def test_the_servers_valkey_user_may_do_what_it_needs_and_nothing_else() -> None:
    with OwnValkey() as server, valkey.Valkey.from_url(server.least()) as client:
        for command in FORBIDDEN:
            with pytest.raises(valkey.exceptions.NoPermissionError):
                client.execute_command(*command.split())
        script = "return redis.call('GET', 'another:key')"
        with pytest.raises(valkey.exceptions.ResponseError, match="permission"):
            client.execute_command("EVAL", script, 0)
        assert client.execute_command("SET", "{insightdesk:sessions-7}:key", "x")


NOT_AN_EMITTERS = (
    *FORBIDDEN,
    "PUBLISH {insightdesk}:nodes:all x",
    "PUBLISH {insightdesk}:node:n1.1234 x",
    "PUBLISH {insightdesk/chat}:node:n1.1234 x",
    "SUBSCRIBE {insightdesk/chat}:room:chat:1",
    "HGETALL {insightdesk}:places",
    "HGETALL {insightdesk:sessions-3}:session:n1.x",
    "HSET {insightdesk:sessions-3}:session:n1.x user eve",
    "ZADD {insightdesk}:nodes 1 ghost",
    "HGETALL {insightdesk/tickets}:ticket:42",
    "DEL {insightdesk}:rules:block",
    "XRANGE {insightdesk/chat}:log - +",
    "XREAD STREAMS {insightdesk/chat}:log 0",
    "DUMP {insightdesk/chat}:log",
)


@aio
async def test_an_emitters_user_publishes_events_and_can_do_nothing_else(tmp_path: Path) -> None:
    """Otherwise the password of a publishing script could open sessions and send requests to nodes."""
    with OwnValkey() as valkey_server:
        url, common = valkey_server.least("insightdesk-emitter"), {"valkey_prefix": "insightdesk"}
        server = ServerProcess(tmp_path, valkey_url=valkey_server.least(), **common)
        server.start()
        door = NativeDoor()
        bob = await door.open(server.address, "/tickets", {"token": server.token("bob", "agent", "red")})
        with Emitter(url) as emitter:
            offset = emitter.of("/tickets").to("team:red").emit("desk:news", {"n": 1}, id="news-1")
            assert emitter.of("/tickets").to("team:red").emit("desk:news", {"n": 1}, id="news-1") == offset
        async with AsyncEmitter(url) as emitter:
            await emitter.of("/tickets").to("team:red", "user:bob").emit("desk:news", {"n": 2})
        assert await bob.expect("desk:news") == {"n": 1}
        assert await bob.expect("desk:news") == {"n": 2}
        assert valkey_server("ACL", "LOG") == []
        with valkey.Valkey.from_url(url) as client:
            for command in NOT_AN_EMITTERS:
                with pytest.raises(valkey.exceptions.NoPermissionError):
                    client.execute_command(*command.split())
            reads = "return redis.call('XRANGE', KEYS[1], '-', '+')"
            with pytest.raises(valkey.exceptions.ResponseError, match="permission"):
                client.execute_command("EVAL", reads, 1, "{insightdesk/tickets}:log")
        await bob.close()
        server.stop()
        server.assert_quiet()


@aio
async def test_two_nodes_as_that_user_find_each_other_and_pass_events_on(tmp_path: Path) -> None:
    """Other tests run a single node as this user. This one tests requests between nodes, and a node's death."""
    with OwnValkey() as server:
        with two_nodes(tmp_path, server.least(), valkey_prefix="insightdesk") as (one, two):
            door, ticket = NativeDoor(), "t1"
            assert (await one.push("PUT", f"/api/v1/tickets/{ticket}", {"teamId": "red"}))[0] == 201
            bob = await door.open(two.address, "/tickets", {"token": two.token("bob", "agent", "red")})
            await bob.ok("ticket:subscribe", {"ticketId": ticket})
            assert (await one.push("PUT", f"/api/v1/tickets/{ticket}", {"subject": "x"}))[0] == 200
            assert (await bob.expect("ticket:updated"))["version"] == 2
            status, found = await one.push("GET", "/api/v1/connections")
            assert (status, found["total"], found["missing"]) == (200, 1, [])
            status, _ = await one.push("POST", "/api/v1/blocks", {"userId": "eve", "reason": "spam"})
            assert status == 201
            two.kill()
            await asyncio.sleep(6)  # its lease has ended; n1 cleans up
            two.start()
            await bob.close()
        assert server("ACL", "LOG") == []


@aio
async def test_two_environments_on_one_valkey_receive_nothing_from_each_other(tmp_path: Path, valkey_url: str) -> None:
    prefixes = [f"{name}{secrets.token_hex(3)}" for name in ("live", "test")]
    servers = [ServerProcess(tmp_path / name, valkey_url=valkey_url, valkey_prefix=name) for name in prefixes]
    door, peers = NativeDoor(), []
    try:
        for server in servers:
            server.start()
            assert (await server.push("PUT", "/api/v1/tickets/t1", {"teamId": "red"}))[0] == 201
            peer = await door.open(server.address, "/tickets", {"token": server.token("bob", "agent", "red")})
            await peer.ok("ticket:subscribe", {"ticketId": "t1"})
            peers.append(peer)
        assert (await servers[0].push("PUT", "/api/v1/tickets/t1", {"subject": "live"}))[0] == 200
        await peers[0].expect("ticket:updated", {"version": 2})
        await peers[1].not_told("ticket:updated")
        for server in servers:
            status, found = await server.push("GET", "/api/v1/connections")
            assert (status, found["total"]) == (200, 1)
        with valkey.Valkey.from_url(valkey_url) as client:
            known = [name.decode() for name in client.keys("*") + client.pubsub_channels("*")]
        assert all(
            any(name.startswith((f"{{{prefix}}}:", f"{{{prefix}/", f"{{{prefix}:")) for name in known)
            for prefix in prefixes
        )
    finally:
        for peer in peers:
            await peer.close()
        for server in servers:
            server.stop()
    for server in servers:
        server.assert_quiet()


# ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def behind_tls(server: OwnValkey, pem: Path, clients: Path | None = None) -> AsyncIterator[int]:
    """Speak TLS with a certificate for a Valkey, on a port of 127.0.0.1. `clients`: the authority of clients' own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_unix_connection(str(server.socket))
        await asyncio.gather(copy(reader, forth), copy(back, writer))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with proxy:
        yield proxy.sockets[0].getsockname()[1]


@aio
async def test_valkeys_certificate_is_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server in between whose certificate has a wrong authority, name or time does not receive the password."""
    good = certificate(tmp_path / "good.pem")
    cases = {
        "good": (good, good),
        "another authority": (good, certificate(tmp_path / "other.pem")),
        "another name": (named := certificate(tmp_path / "named.pem", address="10.0.0.1"), named),
        "expired": (old := certificate(tmp_path / "old.pem", ends=-datetime.timedelta(days=1)), old),
    }
    with OwnValkey() as server:
        for name, (pem, authority) in cases.items():
            async with behind_tls(server, pem) as port:
                client = Valkey(f"valkeys://127.0.0.1:{port}?ssl_ca_certs={authority}", new_id(), deadline_ms=2000)
                await client.start()
                if name == "good":
                    assert await client.command("PING") == "PONG"
                else:
                    assert not client.available, name
                    assert "its certificate is not" in caplog.text, name
                    caplog.clear()
                await client.close()


@aio
async def test_a_client_certificate_opens_a_valkey_that_demands_one(tmp_path: Path) -> None:
    """For commands and for the subscription alike; without the right one neither connects."""
    pem, own = certificate(tmp_path / "valkey.pem"), certificate(tmp_path / "own.pem")
    with OwnValkey() as server:
        async with behind_tls(server, pem, clients=own) as port:
            url = f"valkeys://127.0.0.1:{port}?ssl_ca_certs={pem}&ssl_certfile={{0}}&ssl_keyfile={{0}}"
            assert await opens(server, url.format(own))
            assert not await opens(server, url.format(certificate(tmp_path / "stranger.pem")))


async def opens(server: OwnValkey, url: str) -> bool:
    """Do the connections for commands and for messages open? Both must give the same answer."""
    client, heard = Valkey(url, new_id(), deadline_ms=2000), list[bytes]()
    await client.start()
    try:
        where = await client.where(client.names.all_nodes)
        connection = await dial(where, "test", lambda channel, text: heard.append(text), lambda why: None, 2)
        assert await connection.subscribe([b"channel"])
        server("PUBLISH", "channel", "x")
        await until(lambda: heard == [b"x"], "the message")
        connection.abort("done")
        assert client.available
    except OSError:
        assert not client.available
    finally:
        await client.close()
    return client.counters["connects"] > 0

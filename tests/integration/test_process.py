"""The server as a process: how it starts, its error if it cannot, how it ends, and what remains afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from insightdesk_rt.api.keys_and_scopes import new_key
from tests.support.aio import aio, until
from tests.support.certificates import certificate
from tests.support.native_client import NativeDoor
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess, environment, free_port

REFUSE_S = 15.0  # time to find out that it cannot start


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path, drain_seconds=1)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


def children(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def alive(pid: int) -> bool:
    """Return whether the process still runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(pids: list[int], deadline_s: float = 15.0) -> None:
    end = time.monotonic() + deadline_s
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < end, f"still running: {[Path(f'/proc/{pid}/cmdline').read_bytes() for pid in left]}"
        time.sleep(0.02)


def refused(*arguments: str, **settings: object) -> str:
    """Run `serve`, which must fail to start, and return its one line of output."""
    command = [sys.executable, "-m", "insightdesk_rt", "serve", *arguments]
    ended = subprocess.run(
        command, env=environment(settings), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=REFUSE_S
    )
    assert ended.returncode not in (0, -9), ended
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said, said
    problems = [line for line in said.splitlines() if line.startswith("insightdesk-rt: ")]
    assert len(problems) == 1, said
    return problems[0]


def ports(port: int = 0, admin_port: int = 0) -> list[str]:
    return ["--port", str(port or free_port()), "--admin-port", str(admin_port or free_port())]


async def put(server: ServerProcess, ticket_id: str, **fields: Any) -> Any:
    status, answer = await server.push("PUT", f"/api/v1/tickets/{ticket_id}", fields)
    assert status in (200, 201), answer
    return answer


# ── it starts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_banner_says_where_it_listens_how_to_get_a_token_and_how_to_stop_it(server: ServerProcess) -> None:
    server.start()
    said = server.log()
    for words in (
        f"http://127.0.0.1:{server.port}/socket.io/",
        f"ws://127.0.0.1:{server.port}/rt/tickets",
        f"http://127.0.0.1:{server.admin_port}/",
        "Ctrl-C",
    ):
        assert words in said, words
    assert server.stop() == 0
    server.assert_quiet()


def test_the_token_command_in_the_banner_makes_a_valid_token(server: ServerProcess) -> None:
    """Without configuration, the secret is created on the first start, readable only by its owner."""
    del server.settings["jwt_secret"]
    server.start()
    (line,) = [line for line in server.log().splitlines() if " token " in line and "--sub" in line]
    command = line[line.index("a token") + len("a token") :].strip()
    printed = subprocess.run(
        shlex.split(command), env=environment(), capture_output=True, text=True, timeout=REFUSE_S, check=True
    )
    secrets = [path for path in server.data_dir.rglob("*") if path.is_file() and "secret" in path.name]
    assert secrets and all(path.stat().st_mode & 0o777 == 0o600 for path in secrets)

    @aio
    async def comes_in() -> None:
        peer = await NativeDoor().open(server.address, "/tickets", {"token": printed.stdout.strip()})
        await peer.settled()
        await peer.close()

    comes_in()
    assert server.stop() == 0
    server.assert_quiet()


def test_no_valkey_is_started_if_valkey_url_is_set(server: ServerProcess, valkey_url: str, prefix: str) -> None:
    server.settings |= {"valkey_url": valkey_url, "valkey_prefix": prefix}
    server.start()
    assert children(server.pid) == []
    asyncio.run(put(server, "t1", subject="x"))
    assert server.stop() == 0
    server.assert_quiet()


# ── it cannot start and reports why in one line──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", ["port", "admin_port"])
def test_a_busy_port_is_named(tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        said = refused(*ports(**{which: busy}), "--data-dir", str(tmp_path / "data"))
    assert str(busy) in said
    assert "in use" in said


def test_a_data_dir_that_is_in_use_is_named_and_its_user_unharmed(server: ServerProcess) -> None:
    server.start()
    said = refused(*ports(), "--data-dir", str(server.data_dir))
    assert str(server.data_dir) in said
    asyncio.run(put(server, "t1", subject="still here"))
    assert server.stop() == 0
    server.assert_quiet()


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Root may write everywhere except below a file and in the kernel's own tree."""
    (tmp_path / "file").write_text("")
    for folder in (str(tmp_path / "file" / "data"), "/proc/data"):
        said = refused(*ports(), "--data-dir", folder)
        assert folder in said, said


def test_an_unreachable_valkey_is_named(tmp_path: Path) -> None:
    url = f"valkey://:hush@127.0.0.1:{free_port()}/0"
    said = refused(*ports(), "--data-dir", str(tmp_path / "data"), "--valkey-url", url)
    assert said.endswith(f"valkey_url = valkey://:[hidden]@{url.rpartition('@')[2]}: nothing listens there"), said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "it is full: its memory has reached maxmemory"),
        (("CONFIG", "SET", "requirepass", "hush"), "the user or password is wrong"),
    ],
)
def test_the_last_line_of_a_start_that_failed_says_what_is_wrong_with_valkey(
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    with OwnValkey() as valkey:
        valkey(*command)
        url = f"{valkey.url}?password=wrong" if "requirepass" in command else valkey.url
        said = refused(*ports(), "--data-dir", str(tmp_path / "data"), "--valkey-url", url)
        assert said.startswith("insightdesk-rt: valkey_url = unix://") and said.endswith(words), said


def test_a_full_valkey_is_not_ready_until_it_takes_writes_again(server: ServerProcess) -> None:
    """Valkey answers PING all the time. The outage causes one log line when it begins."""
    with OwnValkey() as valkey:
        server.settings["valkey_url"] = valkey.url
        server.start()
        before = len(server.log().splitlines())

        @aio
        async def body() -> None:
            async def check() -> tuple[int, str]:
                status, answer = await server.push("GET", "/readyz", token=None)
                return status, next(each.get("why", "") for each in answer["checks"] if each["name"] == "valkey")

            valkey("CONFIG", "SET", "maxmemory", "1")
            assert await check() == (503, "it is full: its memory has reached maxmemory")
            for number in range(20):
                assert (await server.push("PUT", f"/api/v1/tickets/{number}", {"subject": "x"}))[0] == 503
            metrics = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{server.admin_port}/metrics")
            assert b"insightdesk_rt_valkey_up 0.0" in metrics.body
            valkey("CONFIG", "SET", "maxmemory", "0")
            assert await check() == (200, "")
            assert (await server.push("PUT", "/api/v1/tickets/1", {"subject": "x"}))[0] == 201

        body()
        lines = server.log().splitlines()[before:]
        assert [line for line in lines if "valkey cannot serve" in line and "it is full" in line] == lines[:1]
        assert len(lines) == 1, lines
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--prot", "3001"], ["prot", "port"]),
        (["--port", "http"], ["port", "http"]),
        (["--port", "70000"], ["port", "70000"]),
        (["--jwt-secret", "short"], ["jwt_secret", "32"]),
        (["--config", "/no/such/file.toml"], ["/no/such/file.toml"]),
    ],
    ids=lambda value: " ".join(value) if str(value[0]).startswith("-") else "",
)
def test_a_wrong_setting_is_named(tmp_path: Path, arguments: list[str], names: list[str]) -> None:
    said = refused(*arguments, "--data-dir", str(tmp_path / "data"))
    assert all(name in said for name in names), said


# ── it ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_everything_it_started(server: ServerProcess, how: signal.Signals) -> None:
    server.start()
    started = children(server.pid)
    assert started, "no Valkey was started"
    assert server.stop(how) == 0
    wait_gone(started, 1.0)
    server.assert_quiet()
    server.start()  # the ports and the data folder are free again
    assert server.stop(how) == 0
    server.assert_quiet()


def test_ctrl_c_ends_it_without_a_drain(tmp_path: Path) -> None:
    for workers in (1, 2):
        server = ServerProcess(tmp_path / str(workers), drain_seconds=60, workers=workers)
        server.start()

        @aio
        async def interrupted(server: ServerProcess = server) -> None:
            auth = {"token": server.token("ada", "agent")}
            peers = [await NativeDoor().open(server.address, "/tickets", auth) for _ in range(4)]
            server.send(signal.SIGINT)
            assert [await peer.gone() for peer in peers] == [1012] * 4
            for peer in peers:
                await peer.close()

        interrupted()
        assert server.ended(20) == 0
        server.assert_quiet()


def test_clients_are_disconnected_so_that_they_reconnect(server: ServerProcess) -> None:
    server.start()

    @aio
    async def sent_away() -> None:
        auth = {"token": server.token("ada", "agent")}
        peer = await NativeDoor().open(server.address, "/tickets", auth)
        server.send(signal.SIGTERM)
        assert await peer.gone() == 1012
        await peer.close()

    sent_away()
    assert server.ended() == 0
    server.assert_quiet()


def test_a_drain_of_a_stopping_node_only_makes_the_stop_faster(tmp_path: Path) -> None:
    """Regression: the drain cancelled the stop, with a traceback, exit code 1, and clients cut off without a close."""
    server = ServerProcess(tmp_path, drain_seconds=60, node_id="n1")
    server.start()

    @aio
    async def sent_away() -> None:
        peers = []
        for n in range(10):
            auth = {"token": server.token(f"u{n}", "agent")}
            peers.append(await NativeDoor().open(server.address, "/tickets", auth))
        server.send(signal.SIGTERM)
        assert await peers[0].gone() == 1012  # one client every six seconds
        order = {"overSeconds": 1, "reason": "hurry"}
        assert (await server.push("POST", "/api/v1/nodes/n1/drain", order))[0] == 200
        assert [await peer.gone() for peer in peers] == [1012] * 10
        for peer in peers:
            await peer.close()

    sent_away()
    assert server.ended() == 0
    server.assert_quiet()


class Polling:
    """A polling client that polls only when the test calls it."""

    def __init__(self, server: ServerProcess) -> None:
        self.target = f"http://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=polling"
        self.said = ""

    async def ask(self, body: str | None = None) -> str:
        fetched = await AsyncHTTPClient().fetch(
            HTTPRequest(self.target, "GET" if body is None else "POST", body=body, request_timeout=10)
        )
        text = fetched.body.decode()
        self.said += text
        return text

    async def open(self, auth: dict[str, str]) -> dict[str, Any]:
        """Return the CONNECT's answer."""
        opened = await self.ask()
        self.target += "&sid=" + json.loads(opened[1:])["sid"]
        await self.ask("40/tickets," + json.dumps(auth))
        answer = (await self.heard("40/tickets,")).split("40/tickets,")[1]
        said: dict[str, Any] = json.JSONDecoder().raw_decode(answer)[0]
        return said

    async def heard(self, what: str) -> str:
        """Poll until this text has arrived; return everything that arrived."""
        said = ""
        while what not in said:
            said += await self.ask()
        return said


@pytest.mark.parametrize("fetches", [True, False], ids=["client fetches it", "client does not poll"])
def test_messages_queued_for_a_polling_client_at_a_stop_are_not_lost(server: ServerProcess, fetches: bool) -> None:
    """Between two polls there is no connection to close. Messages that it does not fetch are replayed by recovery."""
    server.start()
    auth = {"token": server.token("ada", "agent", "support")}

    @aio
    async def before() -> None:
        await put(server, "t1", subject="A", teamId="support")
        client = Polling(server)
        connected = await client.open(auth)
        await client.ask('42/tickets,1["ticket:subscribe",{"ticketId":"t1"}]')
        offset = (await client.heard("43/tickets,1")).partition('"offset":"')[2].partition('"')[0]
        beside = Polling(server)  # when this client has the change, it is in the other client's queue
        await beside.open({"token": auth["token"]})
        await beside.ask('42/tickets,1["ticket:subscribe",{"ticketId":"t1"}]')
        await beside.heard("43/tickets,1")
        await put(server, "t1", subject="B")
        await beside.heard('"subject":["A","B"]')
        await beside.ask("41/tickets,")
        await client.ask('42/tickets,2["are:you:there",{}]')
        auth.update(pid=connected["pid"], offset=offset)
        server.send(signal.SIGTERM)
        await until(lambda: "msg=stopping" in server.log(), "it stops")
        if fetches:
            said = await client.ask()
            assert "ticket:updated" in said and "43/tickets,2" in said, said

    before()
    assert server.ended() == 0
    server.start()

    @aio
    async def after() -> None:
        client = Polling(server)
        back = await client.open(auth)
        assert back["pid"] == auth["pid"], "its session was resumed"
        await client.ask('42/tickets,3["are:you:there",{}]')
        # The offset is from before the fetch, as of a client whose answer was lost on the network.
        assert "ticket:updated" in client.said + await client.heard("43/tickets,3")

    after()
    assert server.stop() == 0
    server.assert_quiet()


def test_kill_9_leaves_no_process_no_lock_and_all_data(server: ServerProcess) -> None:
    server.start()
    started = children(server.pid)
    kept = asyncio.run(put(server, "t1", subject="Kept", status="open"))
    time.sleep(1.2)  # its Valkey writes to disk every second
    server.kill()
    wait_gone(started)

    server.start()
    status, ticket = asyncio.run(server.push("GET", "/api/v1/tickets/t1"))
    assert (status, ticket["subject"], ticket["version"]) == (200, "Kept", kept["version"])
    assert server.stop() == 0
    server.assert_quiet()


def test_a_restart_keeps_tickets_notifications_and_the_log(server: ServerProcess) -> None:
    """Tickets, unread notifications, and the log, with which an earlier client catches up."""
    server.start()
    auth = {"token": server.token("ada", "agent", "support")}

    @aio
    async def before() -> None:
        await put(server, "t1", subject="A", teamId="support")
        peer = await NativeDoor().open(server.address, "/tickets", auth)
        offset = (await peer.ok("ticket:subscribe", {"ticketId": "t1"}))["offset"]
        await peer.close()
        await put(server, "t1", subject="B")
        note = {"userId": "ada", "type": "t", "title": "Unread", "id": "n1"}
        assert (await server.push("POST", "/api/v1/notifications", note))[0] == 201
        (server.folder / "offset").write_text(offset)

    before()
    assert server.stop() == 0
    server.start()

    @aio
    async def after() -> None:
        tickets = await NativeDoor().open(server.address, "/tickets", auth)
        since = (server.folder / "offset").read_text()
        assert (await tickets.ok("ticket:subscribe", {"ticketId": "t1", "since": since}))["complete"] is True
        assert (await tickets.expect("ticket:updated"))["changes"] == {"subject": ["A", "B"]}
        bell = await NativeDoor().open(server.address, "/notifications", auth)
        assert await bell.expect("notification:count") == {"unread": 1}
        for peer in (tickets, bell):
            await peer.close()

    after()
    assert server.stop() == 0
    server.assert_quiet()


def test_an_embedded_valkey_that_dies_is_restarted(server: ServerProcess) -> None:
    server.start()
    (valkey,) = [pid for pid in children(server.pid) if b"valkey-server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(valkey, signal.SIGKILL)

    @aio
    async def comes_back() -> None:
        async def works() -> bool:
            status, answer = await server.push("PUT", "/api/v1/tickets/t1", {"subject": "x"})
            assert status in (200, 201) or (status, answer["error"]["code"]) == (503, "UNAVAILABLE")
            return status < 300

        end = asyncio.get_running_loop().time() + 10
        while not await works():
            assert asyncio.get_running_loop().time() < end, server.last_words()
            await asyncio.sleep(0.1)

    comes_back()
    assert server.stop() == 0
    server.assert_quiet("valkey", "Valkey", "subscription")  # it logs that, and nothing else
    assert "Traceback" not in server.log()


def test_each_line_of_a_json_log_is_an_object_without_secrets(server: ServerProcess) -> None:
    server.settings["log_format"] = "json"
    server.start()
    token = server.token("ada", "agent")

    @aio
    async def visit() -> None:
        peer = await NativeDoor().open(server.address, "/tickets", {"token": token})
        await peer.close()

    visit()
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    assert {"started", "stopped"} <= {line["msg"] for line in lines}
    for secret in (token, token.split(".")[2], str(server.settings["jwt_secret"])):
        assert secret not in server.log()


# ── SIGHUP ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_reloads_the_certificate_and_ends_no_connection(tmp_path: Path, workers: int) -> None:
    """Every process reloads it. Open connections continue. An unusable pair leaves the old one in use and is logged."""
    file = certificate(tmp_path / "tls.pem")
    server = ServerProcess(tmp_path, workers=workers, drain_seconds=0, tls_cert_file=file, tls_key_file=file)
    server.admin_port = free_port(in_a_row=workers)
    with server.log_file.open("ab") as log:
        server.process = subprocess.Popen(
            server.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(server.settings)
        )

    @aio
    async def body() -> None:
        ports = [server.port, *(server.admin_port + number for number in range(workers))]
        first = await until(lambda: shown(ports), "every port speaks TLS", 30.0)
        assert len(set(first)) == 1
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", server.admin_port, ssl=context)
        renewed = x509.load_pem_x509_certificate(certificate(file).read_bytes()).serial_number
        server.send(signal.SIGHUP)

        async def all_new() -> bool:
            return set(await shown(ports) or ()) == {renewed}

        await until(all_new, "the new certificate on every port")
        await until(lambda: server.log().count("certificate reloaded") == workers, "a line of each")
        assert not writer.is_closing()
        file.write_bytes(b"half a certific")
        server.send(signal.SIGHUP)
        await until(lambda: server.log().count("the old one stays in use") == workers, "a line of each")
        assert await all_new()
        await cut(writer)

    try:
        body()
        assert server.stop() == 0
        server.assert_quiet("the old one stays in use")
    finally:
        if server.process.poll() is None:
            server.kill()


@aio
async def test_sighup_rereads_the_keys_of_the_admin_port(tmp_path: Path) -> None:
    """A key that was added is accepted and one that was removed is refused, without a restart."""
    (old, first), (new, second) = new_key("old", "viewer"), new_key("new", "viewer")
    keys = tmp_path / "keys"
    keys.write_text(first)
    keys.chmod(0o600)
    server = ServerProcess(tmp_path, drain_seconds=0, admin_keys_file=str(keys))
    server.start()
    try:
        assert (await server.push("GET", "/api/v1/nodes", token=old))[0] == 200
        keys.write_text(second)
        server.send(signal.SIGHUP)
        await until(lambda: "the file of admin keys was read again" in server.log(), "the keys were read again")
        assert (await server.push("GET", "/api/v1/nodes", token=new))[0] == 200
        assert (await server.push("GET", "/api/v1/nodes", token=old))[0] == 401
    finally:
        server.stop()
    server.assert_quiet()


async def shown(ports: list[int]) -> list[int] | None:
    """Return the serial number of the certificate that each port shows; None while one does not answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    serials = []
    for port in ports:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except OSError:
            return None
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        serials.append(x509.load_der_x509_certificate(der).serial_number)
        await cut(writer)
    return serials


async def cut(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once. A TLS shutdown would still be running when the test's loop ends."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def test_sighup_reads_the_secrets_of_tokens_again(tmp_path: Path) -> None:
    """A secret is replaced without a restart; a bad file keeps the old one, and the log says so."""
    file = tmp_path / "secret"

    def write(text: str) -> None:
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600)

    def signed(secret: str) -> str:
        now = int(time.time())
        return jwt.encode({"sub": "ann", "role": "admin", "iat": now, "exp": now + 60}, secret, algorithm="HS256")

    write("old" * 16)
    server = ServerProcess(tmp_path, jwt_secret="", jwt_secret_file=file)
    server.start()

    @aio
    async def body() -> None:
        async def accepted(secret: str) -> bool:
            return (await server.push("GET", "/api/v1/nodes", token=signed(secret)))[0] == 200

        assert await accepted("old" * 16) and not await accepted("new" * 16)
        write("new" * 16)
        server.send(signal.SIGHUP)
        await until(lambda: accepted("new" * 16), "the new secret is in use")
        assert not await accepted("old" * 16)
        write("short")
        server.send(signal.SIGHUP)
        await until(lambda: "the keys were not reloaded" in server.log(), "the line")
        assert await accepted("new" * 16)

    body()
    assert server.stop() == 0
    server.assert_quiet("the keys were not reloaded")


def test_sighup_does_not_end_a_server_without_a_certificate(server: ServerProcess) -> None:
    server.start()
    server.send(signal.SIGHUP)

    @aio
    async def body() -> None:
        await until(lambda: "tls_cert_file is not set" in server.log(), "the line")
        assert (await server.push("GET", "/readyz", token=None))[0] == 200

    body()
    assert server.stop() == 0
    server.assert_quiet()

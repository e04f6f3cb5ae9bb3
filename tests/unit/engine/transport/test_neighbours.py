"""Sockets between processes: each end checks the other's user with the kernel before it sends or reads a byte."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from insightdesk_rt.engine.cluster.directory import NodePlace
from insightdesk_rt.engine.doors.listener import Times, make_http_server
from insightdesk_rt.engine.doors.relay import Exchange, bind_local
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.transport import neighbours
from insightdesk_rt.engine.transport.handover import Handover, hand_over, is_here
from insightdesk_rt.engine.transport.neighbours import is_ours, this_machine
from tests.support.aio import aio, until

KEY = "k" * 43


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An unused name; each test begins with an empty table of log lines."""
    monkeypatch.setattr(neighbours, "_seldom", Seldom(neighbours.log))
    yield "insightdesk-rt-test-" + secrets.token_hex(8)


@pytest.fixture
def another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process believe that it runs as another user, so that every peer is a stranger."""
    monkeypatch.setattr(neighbours.os, "geteuid", lambda: os.getuid() + 1)


def listening(name: str, kind: socket.SocketKind) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind("\0" + name)
    listener.listen()
    return listener


def read_all(listener: socket.socket) -> bytes:
    """Return the bytes of the first connection, which must have ended."""
    listener.settimeout(10)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        return connection.recv(65_536)


def test_both_ends_accept_a_peer_of_this_user() -> None:
    one, two = socket.socketpair()
    assert is_ours(one) and is_ours(two)
    one.close()
    two.close()


def test_a_socket_is_handed_to_no_other_user(name: str, another_user: None, caplog: pytest.LogCaptureFixture) -> None:
    listener = listening(name, socket.SOCK_SEQPACKET)
    for _ in range(3):
        mine, peer = socket.socketpair()
        assert not hand_over(name, KEY, "n1.x", mine, b"secret")
        assert peer.recv(1) == b"" and read_all(listener) == b"", "the client is disconnected, and nothing was sent"
        peer.close()
    assert not is_here(name)
    listener.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"], "once a minute"


@aio
async def test_a_socket_is_not_accepted_from_another_user(
    name: str, another_user: None, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[object] = []
    handover = Handover(name, KEY, lambda *what: taken.append(what))
    handover.start()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger, socket.socket() as given:
            stranger.connect("\0" + name)
            socket.send_fds(stranger, [b'{"key":"' + KEY.encode() + b'","sid":"n1.x"}\n'], [given.fileno()])
    await until(lambda: handover.refused == 20, "all are refused")
    handover.close()
    assert not taken and len(os.listdir("/proc/self/fd")) == before - 1
    assert len(caplog.records) == 1, "twenty of them are one log line"


@aio
async def test_a_poll_is_not_passed_on_to_another_user(name: str, another_user: None) -> None:
    """Its head contains the key and a client's token."""
    listener = listening(name, socket.SOCK_STREAM)
    line = RequestStartLine("POST", "/socket.io/?sid=n1.x", "HTTP/1.1")
    request = HTTPServerRequest(start_line=line, headers=HTTPHeaders({"Host": "localhost"}))
    with pytest.raises(OSError):
        await Exchange().begin(NodePlace("n1", 0.0, name, "", KEY), request)
    assert read_all(listener) == b""
    listener.close()


@aio
async def test_the_relay_does_not_serve_another_user(name: str, another_user: None) -> None:
    asked: list[object] = []
    server = make_http_server(asked.append, Times(10, 10, 10))  # type: ignore[arg-type]
    server.add_sockets([bind_local(NodePlace("n1", 0.0, name, "", KEY))])
    reader, writer = await asyncio.open_unix_connection("\0" + name)
    writer.write(b"GET /socket.io/ HTTP/1.1\r\nHost: x\r\nX-Insightdesk-Key: " + KEY.encode() + b"\r\n\r\n")
    async with asyncio.timeout(10):
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass  # closed with the request unread
    writer.close()
    server.stop()
    assert not asked


STRANGER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect("\\0" + sys.argv[1])
try:
    message = '{"key":"' + sys.argv[2] + '","sid":"n1.x"}\\n'
    socket.send_fds(sock, [message.encode()], [sock.fileno()])
    print(sock.recv(1))
except ConnectionError:
    print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process of another user")
@aio
async def test_a_real_process_of_another_user_is_refused(name: str) -> None:
    handover = Handover(name, KEY, lambda *what: None)
    handover.start()
    command = ["/usr/bin/env", "python3", "-c", STRANGER, name, KEY]  # it even has the key
    how = {"user": 65_534, "cwd": "/", "env": {"PATH": "/usr/bin:/bin"}}
    nobody = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, **how)  # type: ignore[arg-type]
    await until(lambda: handover.refused == 1, "it is refused")
    said, _ = await asyncio.wait_for(nobody.communicate(), 20)
    handover.close()
    assert said == b"b''\n"


def test_a_machines_id_is_the_same_in_all_processes() -> None:
    assert this_machine() == this_machine() and "/net:[" in this_machine()
    told = subprocess.run(
        [sys.executable, "-c", "from insightdesk_rt.engine.transport.neighbours import this_machine as m; print(m())"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert told.stdout.strip() == this_machine()

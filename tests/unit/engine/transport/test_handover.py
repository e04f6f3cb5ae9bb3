"""Handover of sockets between processes with the bytes read ahead; messages of other programs leave nothing behind."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.engine.transport import handover
from insightdesk_rt.engine.transport.handover import MAX_MESSAGE, Handover, hand_over, is_here
from tests.support.aio import aio, until

KEY = "k" * 43


class Taken:
    def __init__(self) -> None:
        self.name = "insightdesk-rt-test-" + secrets.token_hex(8)
        self.sockets: list[tuple[str, socket.socket, bytes]] = []
        self.handover = Handover(self.name, KEY, lambda *what: self.sockets.append(what))


@asynccontextmanager
async def taking() -> AsyncIterator[Taken]:
    taken = Taken()
    taken.handover.start()
    try:
        yield taken
    finally:
        taken.handover.close()
        for _, sock, _ in taken.sockets:
            sock.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@aio
async def test_a_socket_is_handed_over_with_the_bytes_read_ahead() -> None:
    async with taking() as taken:
        mine, peer = socket.socketpair()
        assert hand_over(taken.name, KEY, "n1.abc", mine, b"\x81\x852probe\n{}")
        assert mine.fileno() == -1, "this process has closed it"
        await until(lambda: taken.sockets, "taken")
        [(sid, sock, read_ahead)] = taken.sockets
        assert (sid, read_ahead, taken.handover.taken) == ("n1.abc", b"\x81\x852probe\n{}", 1)
        sock.sendall(b"hello")
        assert peer.recv(5) == b"hello"
        peer.close()


@aio
async def test_a_handover_to_an_absent_process_closes_the_socket_and_returns_false() -> None:
    mine, peer = socket.socketpair()
    assert not is_here("insightdesk-rt-nobody")
    assert not hand_over("insightdesk-rt-nobody", KEY, "n1.abc", mine, b"")
    assert peer.recv(1) == b""
    peer.close()
    async with taking() as taken:
        assert is_here(taken.name)
        mine, peer = socket.socketpair()
        assert not hand_over(taken.name, KEY, "n1.abc", mine, b"x" * MAX_MESSAGE)
        assert peer.recv(1) == b""
        peer.close()


@aio
async def test_messages_without_the_key_are_refused_and_their_descriptors_closed() -> None:
    async with taking() as taken:
        before = descriptors()
        good = b'{"key":"' + KEY.encode() + b'","sid":"n1.abc"}\n'
        pipe = os.pipe()
        for message, fds in (
            (b"{}\n", [pipe[0]]),
            (good.replace(KEY.encode(), b"guess"), [pipe[0]]),
            (good, []),
            (good, [pipe[0], pipe[1]]),
            (good, [pipe[0]] * 9),
            (b"\xff" * 1000, [pipe[0]]),
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                stranger.connect("\0" + taken.name)
                if fds:
                    socket.send_fds(stranger, [message], fds)
                else:
                    stranger.send(message)
        await until(lambda: taken.handover.refused == 6, "all refused")
        os.close(pipe[0])
        os.close(pipe[1])
        assert taken.sockets == [] and descriptors() == before
        mine, peer = socket.socketpair()
        assert hand_over(taken.name, KEY, "n1.abc", mine, b"")
        await until(lambda: taken.sockets, "a valid handover still works")
        peer.close()


@aio
async def test_a_sender_that_sends_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "MESSAGE_S", 0.1)
    async with taking() as taken:
        before = descriptors()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle:
            idle.connect("\0" + taken.name)
            idle.setblocking(False)
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(idle, 1), 10) == b"", "it is closed"
        assert is_here(taken.name)
        await until(lambda: descriptors() == before, "nothing of either is left")
        assert (taken.handover.taken, taken.handover.refused) == (0, 0)


@aio
async def test_without_file_descriptors_accepting_pauses_and_then_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise each wake-up of the loop would fail again and log a traceback."""
    monkeypatch.setattr(handover, "PAUSE_S", 0.05)
    tries = 0

    class Short(socket.socket):
        def accept(self) -> tuple[socket.socket, str]:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    monkeypatch.setattr(handover.socket, "socket", Short)
    async with taking() as taken:
        mine, peer = socket.socketpair()
        assert hand_over(taken.name, KEY, "n1.abc", mine, b"")
        await until(lambda: taken.sockets, "accepted after the pause")
        peer.close()
    assert tries == 2 and not caplog.records

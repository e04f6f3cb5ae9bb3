"""engine/doors/listener.py: binding, accepting few connections at a time, and closing idle ones."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest
from tornado.web import Application, RequestHandler

from insightdesk_rt.api.keys_and_scopes import AdminSettings
from insightdesk_rt.engine.doors import listener
from insightdesk_rt.engine.doors.client_port import PortSettings
from insightdesk_rt.engine.doors.listener import (
    ClientHttpServer,
    StartError,
    accept_few,
    bind,
    bind_shared,
    close_all,
    port_of,
)
from tests.support.aio import aio, until


@aio
async def test_other_work_runs_between_accepted_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "ACCEPT_AT_ONCE", 2)
    door = socket.create_server(("127.0.0.1", 0), backlog=16)
    door.setblocking(False)
    callers = [socket.create_connection(door.getsockname()) for _ in range(6)]
    order: list[str] = []

    def taken(connection: socket.socket, address: object) -> None:
        connection.close()
        order.append("taken")
        asyncio.get_running_loop().call_soon(order.append, "other")

    stop = accept_few(door, taken)
    await until(lambda: order.count("other") == 6, "all were taken")
    assert order == ["taken", "taken", "other", "other"] * 3
    stop()
    late = socket.create_connection(door.getsockname())
    await asyncio.sleep(0.05)
    assert order.count("taken") == 6
    for each in (*callers, late, door):
        each.close()


@aio
async def test_a_connection_that_cannot_be_watched_is_closed_and_accepting_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Watching a connection may need a file descriptor that is not left, or the connection may be broken already."""
    monkeypatch.setattr(listener, "PAUSE_S", 0.05)
    door = socket.create_server(("127.0.0.1", 0), backlog=16)
    door.setblocking(False)
    whys, taken = [errno.EMFILE, errno.ENOSPC, errno.EINVAL], []

    def take(connection: socket.socket, address: object) -> None:
        if whys:
            raise OSError(whys.pop(0), "no")
        taken.append(connection)

    callers = [socket.create_connection(door.getsockname()) for _ in range(4)]
    stop = accept_few(door, take)
    await until(lambda: len(taken) == 1, "the last is taken")
    assert [caller.recv(1) for caller in callers[:3]] == [b""] * 3
    assert caplog.text.count("no new connections for a while") == 1
    stop()
    for each in (*callers, *taken, door):
        each.close()


class Much(RequestHandler):
    def get(self) -> None:
        self.write(b"x" * 20_000_000)


@aio
async def test_an_unread_answer_ends_its_connection_and_a_slow_reader_is_served() -> None:
    cut: list[str] = []
    server = ClientHttpServer(Application([("/", Much)]), unread_s=0.3, on_late=cut.append)
    door = socket.create_server(("127.0.0.1", 0))
    door.setblocking(False)
    server.add_sockets([door])
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    deaf = socket.create_connection(door.getsockname())
    deaf.sendall(request)
    reader, writer = await asyncio.open_connection(*door.getsockname(), limit=1_000_000)
    writer.write(request)

    async def read() -> int:
        got = 0
        while got < 20_000_000:  # for two seconds or so
            part = await reader.read(1_000_000)
            assert part, got
            got += len(part)
            await asyncio.sleep(0.1)
        return got

    reading = asyncio.create_task(read())
    await until(lambda: len(server._connections) == 2, "both are served")
    await until(lambda: len(server._connections) == 1, "the one that does not read is cut")
    assert await asyncio.wait_for(reading, 20) >= 20_000_000
    assert cut == ["unread_timeout_s"]
    deaf.close()
    writer.close()
    server.stop()
    await server.close_all_connections()


# ── addresses and families ──────────────────────────────────────────────────────────────────────────────────────────


def peer_of(sockets: list[socket.socket], host: str) -> str:
    """Connect to a host and return the address that the server sees."""
    caller = socket.create_connection((host, port_of(sockets)), timeout=10)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    [listening] = [one for one in sockets if one.family == family]
    listening.setblocking(True)
    listening.settimeout(10)
    connection, address = listening.accept()
    connection.close()
    caller.close()
    return str(address[0])


@pytest.mark.parametrize(
    ("addresses", "served"),
    [
        (PortSettings().address, {"127.0.0.1", "::1"}),
        (AdminSettings().admin_address, {"127.0.0.1", "::1"}),
        (("::",), {"127.0.0.1", "::1"}),
        (("0.0.0.0", "::"), {"127.0.0.1", "::1"}),
        (("0.0.0.0",), {"127.0.0.1"}),
        (("::1",), {"::1"}),
        (("localhost",), {"127.0.0.1"}),
    ],
)
def test_all_addresses_share_one_port_and_ipv4_peers_are_not_written_as_ipv6(
    addresses: tuple[str, ...], served: set[str]
) -> None:
    """On one socket for both families an IPv4 client would be `::ffff:127.0.0.1`."""
    sockets = bind("port", addresses, 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        for host in served:
            assert peer_of(sockets, host) == host
        if "localhost" not in addresses:
            assert len(sockets) == len(served)
    finally:
        close_all(sockets)


def test_workers_share_every_address() -> None:
    several = bind_shared("port", ("127.0.0.1", "::1"), 0, 2)
    assert [len(sockets) for sockets in several] == [2, 2]
    assert len({one.getsockname()[1] for sockets in several for one in sockets}) == 1
    for sockets in several:
        close_all(sockets)


def test_without_ipv6_the_default_address_is_served_on_ipv4(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Containers often have no IPv6. If only one address is configured, it must exist."""
    real = listener._listen

    def listen(family: int, where: tuple[Any, ...], shared: bool) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return real(family, where, shared)

    monkeypatch.setattr(listener, "_listen", listen)
    for addresses in (("127.0.0.1", "::1"), ("::",), ("localhost",)):
        sockets = bind("port", addresses, 0)
        assert [one.family for one in sockets] == [socket.AF_INET]
        close_all(sockets)
    for addresses in (("::1",), ("127.0.0.1", "2001:db8::1")):
        with pytest.raises(StartError, match=f"port = 0: cannot listen on {addresses[-1]}: Cannot assign"):
            bind("port", addresses, 0)


def test_a_port_that_is_in_use_on_one_address_is_refused() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        with pytest.raises(StartError, match="cannot listen on ::1: Address already in use"):
            bind("port", ("127.0.0.1", "::1"), taken.getsockname()[1])

"""The command line on real processes: output, effect and exit code of each command."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import aio, until
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes
from tests.support.python_client import PythonDoor
from tests.support.server import SECRET, ServerProcess, environment

Pair = tuple[ServerProcess, ServerProcess]
DOOR = NativeDoor()
POLLING = PythonDoor("python-polling", "polling")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Pair]:
    with two_nodes(tmp_path_factory.mktemp("nodes"), valkey_url) as pair:
        yield pair


def line(server: ServerProcess, *words: str) -> list[str]:
    return [sys.executable, "-m", "insightdesk_rt", *words, "--admin-port", str(server.admin_port)]


class Said:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def rows(self) -> list[list[str]]:
        return [re.split(r" {2,}", row) for row in self.out.splitlines()]


async def run(server: ServerProcess, *words: str, code: int = 0, **more: Any) -> Said:
    said = Said(
        await asyncio.to_thread(
            subprocess.run,
            line(server, *words),
            env=environment({"jwt_secret": SECRET}),
            cwd=server.folder,
            capture_output=True,
            text=True,
            timeout=20,
            **{"stdin": subprocess.DEVNULL, **more},
        )
    )
    assert said.code == code, (words, said.out, said.err)
    assert "Traceback" not in said.err
    return said


async def open_as(server: ServerProcess, name: str, door: Any = DOOR) -> Peer:
    peer: Peer = await door.open(server.address, "/tickets", {"token": server.token(name, "agent", "red")})
    return peer


@aio
async def test_connections_are_shown_as_a_table_as_json_and_after_they_closed(servers: Pair) -> None:
    one, two = servers
    peers = [await open_as(two, "ann"), await open_as(one, "ann", POLLING), await open_as(one, "bob")]
    said = await run(one, "connections", "--user", "ann", "--sort", "connected")
    head, first, second, _, total = said.rows()
    assert head == ["sid", "user", "role", "ip", "transport", "node", "namespaces", "connected", "outbox", "agent"]
    assert first[1:7] == ["ann", "agent", "127.0.0.1", "websocket", "n2", "tickets"]
    assert second[4:6] == ["polling", "n1"] and "s" in second[7] and total == ["2 of 2 connections"]
    assert said.err == ""
    found = json.loads((await run(two, "connections", "--json", "--limit", "1")).out)
    assert found["total"] == 3 and len(found["items"]) == 1 and found["missing"] == []
    for peer in peers:
        await peer.disconnect()
    gone = (await run(one, "connections", "--closed", "--user", "bob")).rows()
    assert gone[1][1] == "bob" and gone[1][8] in ("client close", "transport close") and gone[1][7].endswith(" ago")
    for peer in peers:
        await peer.close()


@aio
async def test_kick_closes_one_connection_or_asks_before_it_closes_many(servers: Pair) -> None:
    one, two = servers
    peers = [await open_as(server, "eve") for server in (one, two, two)]
    (row, *_) = (await run(one, "connections", "--user", "eve", "--node", "n1")).rows()[1:]
    assert (await run(two, "kick", row[0], "--reason", "spam")).out == "1 connection disconnected\n"
    await peers[0].gone()
    assert (await run(one, "kick", row[0], "--reason", "spam", code=1)).err.startswith(
        "insightdesk-rt: the server refused: NOT_FOUND"
    )
    left = (await run(one, "connections", "--user", "eve")).rows()[1:3]
    (sid, *_), (other, *_) = left
    said = await run(one, "kick", "--sid", sid, "--user", "eve", "--node", "n1", "--dry-run", "--reason", "spam")
    assert said.out == "0 connections would be disconnected\n"
    said = await run(one, "kick", "--sid", other, "--user", "eve", "--dry-run", "--reason", "spam")
    assert said.out == "1 connection would be disconnected\n"
    assert "--sid SID" in (await run(one, "kick", sid, "--user", "eve", "--reason", "x", code=2)).err
    bulk = ("kick", "--user", "eve", "--reason", "spam")
    assert (await run(one, *bulk, "--dry-run")).out == "2 connections would be disconnected\n"
    assert "--yes" in (await run(one, *bulk, code=1)).err
    for answer, code, out in (
        (b"\n", 1, "nothing was changed"),
        (b"\x04", 1, "nothing was changed"),
        (b"y\n", 0, "2 connections disconnected"),
    ):
        theirs, ours = pty.openpty()
        os.write(theirs, answer)
        said = await run(one, *bulk, stdin=ours, code=code)
        os.close(theirs)
        os.close(ours)
        assert said.out.startswith("Disconnect 2 connections? [y/N] ") and said.out.rstrip().endswith(out)
    for peer in peers:
        await peer.gone()
        await peer.close()
    assert (await run(one, *bulk, "--yes")).out == "0 connections disconnected\n"
    assert "give a SID" in (await run(one, "kick", "--reason", "x", code=2)).err
    assert "--reason" in (await run(one, "kick", "abc", code=2)).err
    # an empty shell variable must match nobody, not everybody who matches the other filters
    for words in (
        ("--user", "", "--namespace", "/tickets"),
        ("--sid", "", "--namespace", "/tickets"),
        ("", "--namespace", "/tickets"),
        ("",),
    ):
        await run(one, "kick", *words, "--reason", "x", "--yes", code=2)
    assert "--user is empty" in (await run(one, "connections", "--user", "", code=2)).err
    assert "not UTF-8" in (await run(one, "connections", "--user", "\udcff", code=2)).err


@aio
async def test_tail_shows_events_until_ctrl_c_and_waits_for_a_server_that_restarts(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server", drain_seconds=0)
    server.start()
    tail = await asyncio.create_subprocess_exec(
        *line(server, "tail", "--room", "ticket:t1", "--payload"),
        env=environment({"jwt_secret": SECRET}),
        cwd=server.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert tail.stdout is not None and tail.stderr is not None
    out, err = tail.stdout, tail.stderr
    try:
        seen = asyncio.create_task(out.readline())
        count = itertools.count()
        while not seen.done():  # until the stream is open
            for ticket in ("t1", "t2"):
                data = {"subject": f"\x1b[2J\u202ehi {next(count)}"}
                event = {"namespace": "/tickets", "room": f"ticket:{ticket}", "event": "ticket:updated", "data": data}
                await server.push("POST", "/api/v1/emit", event)
            await asyncio.wait([seen], timeout=0.5)
        shown = seen.result().decode()
        assert re.match(r"\d\d:\d\d:\d\d\.\d{3} /tickets ticket:updated → ticket:t1.* B\) \{", shown), shown
        assert "hi" in shown and "\x1b" not in shown and "\u202e" not in shown and "t2" not in shown
        await asyncio.to_thread(server.stop)
        assert b"trying again" in await asyncio.wait_for(err.readline(), 10)
        await asyncio.to_thread(server.start)
        assert b"connected again" in await asyncio.wait_for(err.readline(), 15)
        tail.send_signal(signal.SIGINT)
        _, last = await asyncio.wait_for(tail.communicate(), 10)
        assert tail.returncode == 130 and b"Traceback" not in last, last
    finally:
        if tail.returncode is None:
            tail.kill()
            await tail.wait()
        await asyncio.to_thread(server.stop)


@aio
async def test_tail_without_permission_ends_with_one_line(servers: Pair, tmp_path: Path) -> None:
    one, _ = servers
    file = tmp_path / "key"
    file.write_text(one.token("ann", "agent"))
    assert "FORBIDDEN" in (await run(one, "tail", "--key-file", str(file), code=1)).err


@aio
async def test_drain_waits_until_the_clients_are_gone_and_can_be_undone(servers: Pair) -> None:
    one, two = servers
    peers = [await open_as(two, "ann") for _ in range(3)]
    said = await run(one, "drain", "n2", "--reason", "kernel", "--over", "1", "--wait")
    assert said.out.splitlines() == ["n2 disconnects its clients, over 1 s", "3 clients disconnected, 0 left: done"]
    for peer in peers:
        await peer.gone()
        await peer.close()
    assert (await run(one, "drain", "n2", "--reason", "done", "--undo")).out == "n2 accepts clients again\n"
    back = await open_as(two, "ann")
    await back.close()
    assert "NOT_FOUND" in (await run(one, "drain", "n9", "--reason", "typo", code=1)).err


@aio
async def test_notices_are_sent_listed_and_ended(servers: Pair) -> None:
    one, two = servers
    peer = await open_as(two, "ann")
    said = await run(one, "notice", "Down at ten", "--severity", "critical", "--for", "3600", "--reason", "deploy")
    told = await peer.expect("server:notice", {"message": "Down at ten", "severity": "critical"})
    assert said.out == f"{told['id']}  shown to everybody now\n"
    rows = (await run(two, "notice", "--list")).rows()
    assert rows[0][0] == "id" and [told["id"], "critical", "everybody"] == [rows[1][0], rows[1][1], rows[1][4]]
    later = await run(one, "notice", "Soon", "--starts", "2035-01-01T00:00:00Z", "--for", "60", "--reason", "x")
    assert "will be shown to everybody at 2035-01-01T00:00:00.000Z" in later.out
    listed = json.loads((await run(one, "notice", "--list", "--json")).out)["items"]
    assert listed[0]["endsAt"] == "2035-01-01T00:01:00.000Z"
    for notice in listed:
        await run(one, "notice", "--end", notice["id"], "--reason", "over")
    await peer.expect("server:notice:ended", {"id": told["id"]})
    assert (await run(two, "notice", "--list")).out == "There are no notices.\n"
    for words in (("x",), ("x", "--list"), (), ("x", "--for", "1", "--ends", "x", "--reason", "y")):
        await run(one, "notice", *words, code=2)
    assert "BAD_REQUEST" in (await run(one, "notice", "x", "--ends", "x", "--reason", "y", code=1)).err
    await peer.close()
    await until(lambda: peer.ended, "its end")

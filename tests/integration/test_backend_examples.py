"""The examples for back ends (docs/examples/backend) do on a real server what docs/backend.md says."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.api.keys_and_scopes import new_key, push_limits
from tests.support.aio import aio, until
from tests.support.native_client import NativeDoor
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "backend"
REQUIRED = os.environ.get("INSIGHTDESK_RT_REQUIRE", "").split(",")
KEY, LINE = new_key("helpdesk", "publisher", push_limits(["/tickets", "/notifications"], ["ticket:", "team:", "user:"]))
LANGUAGES = [
    (sys.executable, "python", "push.py"),
    ("node", "node", "push.mjs"),
    ("php", "php", "push.php"),
    ("ruby", "ruby", "push.rb"),
]
DOOR = NativeDoor()


@pytest.fixture(scope="module")
def valkey() -> Iterator[OwnValkey]:
    with OwnValkey() as valkey:
        yield valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, valkey: OwnValkey) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("examples")
    keys = folder / "keys"
    keys.write_text(LINE)
    keys.chmod(0o600)
    server = ServerProcess(folder, valkey_url=valkey.url, drain_seconds=0, admin_keys_file=str(keys))
    server.start()
    yield server
    server.stop()
    server.assert_quiet()


def environment(server: ServerProcess, **more: str) -> dict[str, str]:
    return {**os.environ, "RT_URL": f"http://127.0.0.1:{server.admin_port}", "RT_KEY": KEY, **more}


def run(server: ServerProcess, *command: str, **more: str) -> list[str]:
    done = subprocess.run(
        command, cwd=EXAMPLES, env=environment(server, **more), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("program", "name", "file"), LANGUAGES, ids=[name for _, name, _ in LANGUAGES])
def test_an_example_pushes_and_a_repeat_changes_nothing(
    server: ServerProcess, program: str, name: str, file: str
) -> None:
    if shutil.which(program) is None and name not in REQUIRED:
        pytest.skip(f"no {name}")
    ticket, comment, notified = map(json.loads, run(server, program, file))
    assert ticket["ticketId"] == "42" and ticket["version"] == 1
    assert (comment["id"], notified["id"]) == ("comment-17", "reply-17")
    again = list(map(json.loads, run(server, program, file)))
    assert again == [{**ticket, "offset": again[0]["offset"]}, {**comment, "offset": again[1]["offset"]}, notified]


@aio
async def test_the_pushes_of_an_example_reach_their_recipients_once(server: ServerProcess) -> None:
    run(server, sys.executable, "push.py")
    mia = await DOOR.open(server.address, "/notifications", {"token": server.token("mia", "customer")})
    listed = await mia.ok("notification:list", {})
    assert [one["id"] for one in listed["notifications"]] == ["reply-17"]
    await mia.close()


@aio
async def test_the_outbox_keeps_its_rows_until_the_server_has_them(server: ServerProcess, tmp_path: Path) -> None:
    """Written while the server is down, sent in order once it is up; a row that is refused does not stop the others."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import outbox  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(EXAMPLES))
    db = sqlite3.connect(tmp_path / "tickets.db")
    db.executescript(outbox.TABLES)
    for number in range(120):
        outbox.change_ticket(db, f"o{number % 60}", "A", "open" if number < 60 else "solved")
    with db:
        db.execute("INSERT INTO outbox (operation) VALUES (?)", ('{"op":"ticket.put","ticketId":"not an id"}',))
    outbox.change_ticket(db, "last", "A", "new")
    assert outbox.deliver(db, "http://127.0.0.1:1", KEY) == 0, "nobody listens there"

    worker = subprocess.Popen(  # noqa: ASYNC220  it begins at once
        [sys.executable, "outbox.py", str(tmp_path / "tickets.db")], cwd=EXAMPLES, env=environment(server)
    )
    try:

        def left() -> Any:
            return db.execute("SELECT count(*) FROM outbox").fetchone()[0] == 0

        await until(left, "the outbox is empty", 30)
    finally:
        worker.kill()
        worker.wait(10)
    (refused,) = db.execute("SELECT error FROM refused").fetchall()
    assert json.loads(refused[0])["field"] == "ticketId"
    for number in (0, 59):
        _, ticket = await server.push("GET", f"/api/v1/tickets/o{number}")
        assert (ticket["status"], ticket["version"]) == ("solved", 2)
    assert (await server.push("GET", "/api/v1/tickets/last"))[1]["version"] == 1
    db.close()


@aio
async def test_the_emitters_example_reaches_the_room_once(server: ServerProcess, valkey: OwnValkey) -> None:
    eve = await DOOR.open(server.address, "/tickets", {"token": server.token("eve", "admin")})
    await server.push("PUT", "/api/v1/tickets/42", {"subject": "Cannot sign in"})
    await eve.ok("ticket:subscribe", {"ticketId": "42"})
    package = str(EXAMPLES.parents[2])
    first = run(server, sys.executable, "emit.py", VALKEY_URL=valkey.url, PYTHONPATH=package)
    assert first == run(server, sys.executable, "emit.py", VALKEY_URL=valkey.url, PYTHONPATH=package)
    assert await eve.expect("ticket:printed") == {"ticketId": "42", "pages": 3}
    await eve.not_told("ticket:printed")
    await eve.close()


@aio
async def test_the_example_of_an_own_check_decides_who_reads(
    tmp_path: Path, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{EXAMPLES}:{EXAMPLES.parents[2]}")
    server = ServerProcess(
        tmp_path, valkey_url=valkey.url, valkey_prefix="own", access="own_access:make", drain_seconds=0
    )
    server.start()
    try:
        assert (await server.push("PUT", "/api/v1/tickets/1", {"teamId": "north", "requesterId": "mia"}))[0] == 201
        for who, role, may in (
            ("ann", "agent", True),
            ("ben", "agent", False),
            ("mia", "customer", True),
            ("carl", "customer", False),
            ("eve", "admin", True),
        ):
            peer = await DOOR.open(server.address, "/tickets", {"token": server.token(who, role)})
            answer = await peer.call("ticket:subscribe", {"ticketId": "1"})
            assert answer["ok"] is may, (who, answer)
            await peer.close()
    finally:
        server.stop()
    server.assert_quiet()

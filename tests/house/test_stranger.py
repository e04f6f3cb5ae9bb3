"""A feature that nobody knows is added by one folder and one line, and is then a feature like every other.

The folder is tests/house/stranger/beacons. It is copied into a copy of the package and named in `FEATURES`. Nothing
else is changed. Two nodes of that copy then serve it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.house.test_layout import PACKAGE, ROOT
from tests.support.aio import aio
from tests.support.clients import Door
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes
from tests.support.python_client import PythonDoor
from tests.support.server import ServerProcess

pytestmark = pytest.mark.valkey

FOLDER = Path(__file__).parent / "stranger" / "beacons"
DOORS: tuple[Door, ...] = (NativeDoor(), PythonDoor("python-websocket", "websocket"))
NODE_IS_CLEARED_S = 20.0  # a lease of 4 s, a beat, and a slow machine


class Beaconed(NamedTuple):
    top: Path
    one: ServerProcess
    two: ServerProcess


def add_feature(top: Path) -> None:
    """Copy the package, add the folder, and name its class in the table: the import, and the line in FEATURES."""
    shutil.copytree(PACKAGE, top / "insightdesk_rt", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(FOLDER, top / "insightdesk_rt" / "helpdesk" / "beacons")
    table = top / "insightdesk_rt" / "helpdesk" / "features.py"
    text = table.read_text(encoding="utf-8")
    first, line = "from insightdesk_rt.helpdesk.chat.namespace", "FEATURES: tuple[type[Namespace], ...] = ("
    assert first in text and line in text
    text = text.replace(first, f"from insightdesk_rt.helpdesk.beacons.namespace import Beacons\n{first}", 1)
    table.write_text(text.replace(line, f"{line}Beacons, "), encoding="utf-8")


def copied_first(top: Path) -> dict[str, str]:
    """Return the environment in which Python imports the copy, and not the package of the folder it starts in."""
    return {"PYTHONPATH": str(top), "PYTHONSAFEPATH": "1"}


@pytest.fixture(scope="module")
def beaconed(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beaconed]:
    top = tmp_path_factory.mktemp("stranger")
    add_feature(top)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in copied_first(top).items():
            patch.setenv(name, value)
        with two_nodes(top / "nodes", valkey_url, max_beacons_per_agent=2) as (one, two):
            yield Beaconed(top, one, two)


async def light(server: ServerProcess, door: Door, agent: str, *beacons: str) -> list[Any]:
    """Return the answers to the beacons that an agent lights through a door, one after the other."""
    peer = await door.open(server.address, "/beacons", {"token": server.token(agent, "agent")})
    try:
        return [await peer.call("beacon:light", {"beaconId": beacon}) for beacon in beacons]
    finally:
        await peer.close()


async def lit(server: ServerProcess) -> list[str]:
    status, answer = await server.push("GET", "/api/v1/beacons")
    assert status == 200, answer
    return answer["beacons"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
@aio
async def test_its_event_is_reachable_and_its_setting_counts(beaconed: Beaconed, door: Door) -> None:
    names = [f"{door.name}-{n}" for n in range(3)]
    first, again, second, third = await light(beaconed.one, door, f"ada-{door.name}", names[0], *names)
    assert (first, again, second) == ({"ok": True, "lit": 1}, {"ok": True, "lit": 1}, {"ok": True, "lit": 2})
    assert third["error"]["code"] == "CONFLICT", "max_beacons_per_agent is 2"
    assert set(names[:2]) <= set(await lit(beaconed.two)), "the other node lists them on its admin port"


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
@aio
async def test_its_event_is_rate_limited(beaconed: Beaconed, door: Door) -> None:
    answers = await light(beaconed.one, door, f"bob-{door.name}", *["the-same"] * 6)
    assert [answer["ok"] for answer in answers] == [True] * 5 + [False]
    assert answers[-1]["error"]["code"] == "RATE_LIMITED" and answers[-1]["error"]["retryAfter"] > 0


@aio
async def test_its_route_and_its_setting_are_described(beaconed: Beaconed) -> None:
    _, described = await beaconed.one.push("GET", "/api/v1/openapi.json")
    assert described["paths"]["/api/v1/beacons"]["get"]["summary"]
    assert "LitBeacons" in described["components"]["schemas"]
    _, config = await beaconed.one.push("GET", "/api/v1/config")
    assert "'max_beacons_per_agent'" in str(config)


def test_the_docs_test_names_its_event(beaconed: Beaconed) -> None:
    """Until docs/protocol.md has its section."""
    for name in ("docs", "README.md", "CHANGELOG.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, beaconed.top / name)  # type: ignore[operator]
    tests = beaconed.top / "tests" / "unit"
    tests.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "unit" / "test_docs.py", tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_docs.py", "-k", "documented"],
        cwd=beaconed.top,
        env={**os.environ, **copied_first(beaconed.top)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 1 and "beacon:light" in done.stdout, done.stdout + done.stderr


@aio
async def test_what_its_node_held_is_cleared_when_the_node_dies(beaconed: Beaconed) -> None:
    """Comes last: it kills a node."""
    await light(beaconed.one, DOORS[0], "eve", "on-one")
    await light(beaconed.two, DOORS[0], "eve", "on-two")
    assert {"on-one", "on-two"} <= set(await lit(beaconed.one))
    beaconed.two.kill()
    end_s = time.monotonic() + NODE_IS_CLEARED_S
    # nobody announces that a node was cleared up after
    while "on-two" in (left := await lit(beaconed.one)) and time.monotonic() < end_s:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    assert "on-two" not in left and "on-one" in left

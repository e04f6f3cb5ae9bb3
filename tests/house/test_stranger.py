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

from insightdesk_rt.app.config import as_markdown
from insightdesk_rt.helpdesk.features import FEATURES
from tests.house.test_layout import ROOT
from tests.support.added_feature import added_feature, copied_first
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


@pytest.fixture(scope="module")
def beaconed(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beaconed]:
    top = tmp_path_factory.mktemp("stranger")
    with added_feature(top, FOLDER, "Beacons"):
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


def test_its_namespace_is_imported_without_tornado(beaconed: Beaconed) -> None:
    """Emitters import the table of features."""
    code = "import sys, insightdesk_rt.helpdesk.features as f; print(len(f.FEATURES), 'tornado' in sys.modules)"
    said = subprocess.check_output(
        [sys.executable, "-c", code], env={**os.environ, **copied_first(beaconed.top)}, text=True
    )
    assert said.split() == [str(len(FEATURES) + 1), "False"]


SECTION = """
#### `beacon:light` to the server

Light a beacon. Staff only; at most 5 in a minute.

| field | type | |
|---|---|---|
| `beaconId` | id | a name for it |

```
42/beacons,7["beacon:light",{"beaconId":"roof"}]
43/beacons,7[{"ok":true,"lit":1}]
{"event":"beacon:light","data":{"beaconId":"roof"},"id":7}
{"ack":7,"data":{"ok":true,"lit":1}}
```

"""


DOCS_TEST, SETTINGS_TEST = "tests/unit/test_docs.py", "tests/unit/app/config/test_printed.py"


def run_module(top: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` with the copy of the package."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=top,
        env={**os.environ, **copied_first(top)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_the_docs_tests_ask_for_its_event_and_its_setting(beaconed: Beaconed) -> None:
    """They fail until docs/protocol.md has the event's section and docs/configuration.md the setting's row."""
    top = beaconed.top
    for name in ("docs", "README.md", "CHANGELOG.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, top / name)  # type: ignore[operator]
    for test in (DOCS_TEST, SETTINGS_TEST):
        (top / test).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / test, top / test)
    pages = (
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        DOCS_TEST,
        SETTINGS_TEST,
        "-k",
        "documented or matches_its_struct or tables_of",
    )
    before = run_module(top, *pages)
    failed = [line.partition(" - ")[0] for line in before.stdout.splitlines() if line.startswith("FAILED ")]
    assert failed == [
        f"FAILED {DOCS_TEST}::test_exactly_the_declared_events_are_documented",
        f"FAILED {DOCS_TEST}::test_the_documentation_of_a_request_matches_its_struct[beacon:light]",
        f"FAILED {SETTINGS_TEST}::test_the_tables_of_the_documentation_are_up_to_date",
    ], before.stdout + before.stderr

    heading = "#### `ticket:subscribe` to the server"
    replace(top / "docs" / "protocol.md", heading, SECTION + heading)
    printed = run_module(top, "insightdesk_rt", "check", "--print", "markdown").stdout
    assert "| `max_beacons_per_agent` |" in printed
    replace(top / "docs" / "configuration.md", as_markdown().rstrip(), printed.rstrip())
    after = run_module(top, *pages)
    assert after.returncode == 0, after.stdout + after.stderr


def replace(page: Path, old: str, new: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count(old) == 1
    page.write_text(text.replace(old, new), encoding="utf-8")


@aio
async def test_its_facts_are_cleared_when_their_node_dies(beaconed: Beaconed) -> None:
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

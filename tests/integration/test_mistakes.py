"""A handler that fails unexpectedly: the client receives INTERNAL and stays connected; the log has the traceback.

The feature with the mistakes is tests/integration/mistakes. It is added to a copy of the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.added_feature import added_feature
from tests.support.aio import aio
from tests.support.clients import Door
from tests.support.native_client import NativeDoor
from tests.support.python_client import PythonDoor
from tests.support.server import ServerProcess

FOLDER = Path(__file__).parent / "mistakes"
DOORS: tuple[Door, ...] = (
    NativeDoor(),
    PythonDoor("python-websocket", "websocket"),
    PythonDoor("python-polling", "polling"),
)
ANNOUNCED = ("handler failed", "Traceback", "ZeroDivisionError")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    top = tmp_path_factory.mktemp("mistakes")
    with added_feature(top, FOLDER, "Mistakes"):
        server = ServerProcess(top / "node")
        server.start()
        yield server
        assert server.stop() == 0
        server.assert_quiet(*ANNOUNCED)


@pytest.mark.parametrize("event", ["mistake:now", "mistake:later"])
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
@aio
async def test_a_failing_handler_answers_internal_and_the_connection_stays(
    server: ServerProcess, door: Door, event: str
) -> None:
    mark = f"{event} through {door.name}"
    peer = await door.open(server.address, "/mistakes", {"token": server.token("ann", "agent")})
    try:
        answer = await peer.call(event, {"mark": mark})
        assert (answer["ok"], answer["error"]["code"]) == (False, "INTERNAL")
        assert mark not in str(answer), "the client is not shown the error's text"
        assert await peer.call("mistake:none", {"mark": mark}) == {"ok": True}
        assert peer.connected and peer.connects == 1

        failures = [part for part in server.log().split("handler failed")[1:] if f"ZeroDivisionError: {mark}" in part]
        assert len(failures) == 1, "one line for one failure"
        assert "in " + event.removeprefix("mistake:") in failures[0], "with its traceback"

        await peer.emit(event, {"mark": "without an ack"})
        assert (await peer.expect("error", {"event": event}))["code"] == "INTERNAL"
        assert await peer.call("mistake:none", {"mark": mark}) == {"ok": True}
    finally:
        await peer.close()

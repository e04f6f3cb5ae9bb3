"""Counts the files of the package that one request enters, and writes them into docs/architecture.md.

    python -m tests.house.ways          # writes the table anew; tests/house/test_ways.py compares it

A real node runs in this process, on a real Valkey, and clients in another thread talk to it over real sockets. While a
request is under way, a profile hook notes each file of which a function runs on the node's loop. What periodic work
calls is left out. Each request is repeated, and a file counts if all repetitions but one entered it, so that nothing
counts which only happened to run at the same time.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from websockets.sync.client import connect

from insightdesk_rt.app.config import load
from insightdesk_rt.app.server import Server
from insightdesk_rt.emitter import Emitter
from tests.house.test_layout import PACKAGE, ROOT
from tests.support.own_valkey import OwnValkey
from tests.support.server import SECRET, ServerProcess

PAGE = ROOT / "docs" / "architecture.md"
REPETITIONS = 12
QUIET_S = 0.04  # nothing of a request ran for this long: it is over
WITHIN_S = 10.0
BROWSER = "Mozilla/5.0"  # python-websockets names itself, and the server sends Python clients no offsets
# Plain values, names and counters, which are used everywhere.
NOT_COUNTED = {"engine/model", "engine/ids", "engine/cluster/names", "engine/counters"}
PERIODIC = {"engine/periodic", "engine/transport/lag"}

_periodic: ContextVar[bool] = ContextVar("periodic", default=False)


class Way(NamedTuple):
    """A path of a request. `target` is how many files it should enter; see `ways` for what is traced."""

    name: str
    target: int


INBOUND = Way("event of a client, up to its handler", 9)
SUBSCRIBE = Way("`ticket:subscribe` complete, ack included", 16)
DOWN = Way("broadcast down: `PUT` of a ticket to Valkey, and its answer", 10)
UP = Way("broadcast up: from Valkey to the sockets", 8)
CONNECT = Way("connect with authentication and first rooms", 12)


class Hook:
    """Notes the files that are entered on the thread where it is set, from `begin` to `entered`."""

    def __init__(self) -> None:
        self._files = set[str]()
        self._open = False  # files are noted
        self._until: tuple[str, str] | None = None
        self._last_s = 0.0
        self._top = len(str(PACKAGE)) + 1

    def set(self) -> None:
        """Set the hook on this thread. It must see periodic work begin, so it stays set between two traces."""
        sys.setprofile(self._called)

    def begin(self, until: tuple[str, str] | None) -> None:
        """`until`: (file, function) with whose call the request counts as over."""
        self._files, self._open, self._until, self._last_s = set(), True, until, time.monotonic()

    def entered(self) -> set[str] | None:
        """Return the files; None while the request is under way."""
        if self._open and (self._until is not None or time.monotonic() - self._last_s < QUIET_S):
            return None
        self._open = False
        return self._files - NOT_COUNTED

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(PACKAGE)):
            return
        name = code.co_filename[self._top : -len(".py")]
        if name in PERIODIC:
            _periodic.set(True)  # in the context of this turn, which what it starts inherits
        elif self._open and not _periodic.get():
            self._last_s = time.monotonic()
            self._files.add(name)
            self._open = (name, code.co_name) != self._until


class Node:
    """A node on a loop of its own thread."""

    def __init__(self, valkey_url: str, folder: Path) -> None:
        self.prefix = "ways" + secrets.token_hex(3)
        self.valkey_url = valkey_url
        flags = ["--port", "0", "--admin-port", "0", "--data-dir", str(folder), "--valkey-url", valkey_url]
        environment = {"INSIGHTDESK_RT_JWT_SECRET": SECRET, "INSIGHTDESK_RT_VALKEY_PREFIX": self.prefix}
        self.server = Server(load([*flags, "--address", "127.0.0.1", "--node-id", "n1"], environment))
        self._hook = Hook()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="the node")

    def __enter__(self) -> Node:
        self._thread.start()
        self._run(self.server.start())
        self._call(self._hook.set)
        return self

    def __exit__(self, *exc: object) -> None:
        self._run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def trace(self, action: Callable[[], object], until: tuple[str, str] | None = None) -> set[str]:
        """Return the files that the node enters because of an action of a client."""
        self._call(self._hook.begin, until)
        action()
        end_s = time.monotonic() + WITHIN_S
        files: set[str] | None
        while (files := self._call(self._hook.entered)) is None:
            assert time.monotonic() < end_s, f"not over within {WITHIN_S} s, or {until} was never called"
            time.sleep(QUIET_S / 3)
        return files

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(function(*arguments)))
        return done.result(WITHIN_S)


class StockClient:
    """An agent's Socket.IO client in /tickets, over a plain websocket."""

    def __init__(self, node: Node) -> None:
        url = f"ws://127.0.0.1:{node.server.port}/socket.io/?EIO=4&transport=websocket"
        self._end = ExitStack()
        self._socket: Any = self._end.enter_context(connect(url, compression=None, user_agent_header=BROWSER))
        self.wait_for("0")
        self._ids = 0

    def enter(self, user: str) -> None:
        self._socket.send("40/tickets," + json.dumps({"token": ServerProcess.token(user, "agent", "support")}))
        self.wait_for("40/tickets,")

    def call(self, event: str, **payload: str) -> None:
        """Send an event, and wait for its ack."""
        self._ids += 1
        self._socket.send(f"42/tickets,{self._ids}" + json.dumps([event, payload]))
        assert '"ok":true' in self.wait_for(f"43/tickets,{self._ids}")

    def wait_for(self, start: str) -> str:
        while not (text := str(self._socket.recv(WITHIN_S))).startswith(start):
            pass
        return text

    def close(self) -> None:
        self._end.close()


class BackEnd:
    """Pushes tickets over one connection to the admin port."""

    def __init__(self, node: Node) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", node.server.admin_port, timeout=WITHIN_S)
        self._headers = {
            "Authorization": "Bearer " + ServerProcess.token("back-end", "admin"),
            "Content-Type": "application/json",
        }

    def put(self, ticket: str, subject: str) -> None:
        body = json.dumps({"subject": subject, "teamId": "support"})
        self._connection.request("PUT", f"/api/v1/tickets/{ticket}", body, self._headers)
        answer = self._connection.getresponse()
        assert answer.status in (200, 201), answer.read()
        answer.read()

    def close(self) -> None:
        self._connection.close()


def count_files(node: Node) -> dict[Way, set[str]]:
    """Return the files that each way enters on the node."""
    found: dict[Way, list[set[str]]] = defaultdict(list)
    with closing(BackEnd(node)) as back_end, closing(Emitter(node.valkey_url, prefix=node.prefix)) as emitter:
        for number in range(REPETITIONS):
            for way, files in _each_way(node, back_end, emitter, f"t{number}", f"ann{number}"):
                found[way].append(files)
    return {way: _entered_by_most(sets) for way, sets in found.items()}


def _each_way(
    node: Node, back_end: BackEnd, emitter: Emitter, ticket: str, user: str
) -> Iterator[tuple[Way, set[str]]]:
    """Go each way once, with a ticket and a user that the node has not seen. Yields the files that each way enters."""
    node.trace(lambda: back_end.put(ticket, "new"))  # so that nothing of it runs later
    clients: list[StockClient] = []

    def come() -> None:
        clients.append(StockClient(node))
        clients[0].enter(user)

    def broadcast() -> None:
        emitter.of("/tickets").to(f"ticket:{ticket}").emit("ticket:printed", {})
        clients[0].wait_for("42/tickets,")

    unsubscribed = ("helpdesk/tickets/namespace", "unsubscribe")
    yield CONNECT, node.trace(come)
    with closing(clients[0]) as client:
        yield DOWN, node.trace(lambda: back_end.put(ticket, "changed"))
        yield SUBSCRIBE, node.trace(lambda: client.call("ticket:subscribe", ticketId=ticket))
        yield UP, node.trace(broadcast)
        yield INBOUND, node.trace(lambda: client.call("ticket:unsubscribe", ticketId=ticket), unsubscribed)


def _entered_by_most(sets: list[set[str]]) -> set[str]:
    counted = Counter(file for files in sets for file in files)
    return {file for file, times in counted.items() if times >= len(sets) - 1}


@contextmanager
def a_node() -> Iterator[Node]:
    with OwnValkey() as valkey, tempfile.TemporaryDirectory() as folder, Node(valkey.url, Path(folder)) as node:
        yield node


def rows(found: dict[Way, set[str]]) -> str:
    """Return the rows of the table in docs/architecture.md."""
    ways = (INBOUND, SUBSCRIBE, DOWN, UP, CONNECT)
    return "".join(f"| {way.name} | {len(found[way])} | {way.target} | {_by_folder(found[way])} |\n" for way in ways)


def _by_folder(files: set[str]) -> str:
    folders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        folder, _, name = file.rpartition("/")
        folders[folder].append(name)
    return " · ".join(f"`{folder}/` {', '.join(sorted(names))}" for folder, names in sorted(folders.items()))


HEAD = "| path | files entered | target | which |\n|---|---|---|---|\n"


def written() -> str:
    """Return the rows that the page has now."""
    found = re.search(re.escape(HEAD) + r"((?:\|.*\n)*)", PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE} has no such table"
    return found[1]


def main() -> None:
    with a_node() as node:
        new = rows(count_files(node))
    PAGE.write_text(PAGE.read_text(encoding="utf-8").replace(HEAD + written(), HEAD + new), encoding="utf-8")
    print(new, end="")


if __name__ == "__main__":
    main()

"""The contestants of bin/bench: this server and its peers. How to start, connect to and publish through each.

A peer is the smallest realistic server for the same work, in peers/. Each verifies the token of every namespace, puts
the client into its three first rooms, answers one event with an ack, and sends events from `POST /emit` to a room.
This server also does its usual work: it checks permissions, counts, limits rates, and keeps each session in Valkey for
clients that resume.
"""

from __future__ import annotations

import functools
import shutil
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests.benchmarks.generator import HERE, NoCompiler, Workshop, request
from tests.benchmarks.scaling_load import process_cpu_s
from tests.support.own_valkey import OwnValkey
from tests.support.server import SECRET, ServerProcess, environment, free_port

ROOT = HERE.parents[1]
NAMESPACES = ("/tickets", "/chat", "/notifications", "/presence", "/dashboard")
TEAM = "bench"
USERS = 2_000
START_S = 20.0


@functools.cache
def tokens(role: str = "agent", users: int = USERS, teams: int = 1, first: int = 0) -> list[str]:
    """Return tokens of this many users, spread over teams, or all of the team TEAM."""
    team = [TEAM] if teams == 1 else [f"{TEAM}-{number}" for number in range(teams)]
    return [ServerProcess.token(f"u{n}", role, team[n % teams], ttl_s=7200) for n in range(first, first + users)]


class Contestant:
    """A server to measure. `port` is for clients; `missing` says why it cannot run here."""

    key: ClassVar[str]
    name: ClassVar[str]
    enters: ClassVar[bool] = True  # does it verify tokens?
    polls: ClassVar[bool] = False
    many: ClassVar[bool] = False  # several namespaces on one connection
    port = 0

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop

    def missing(self) -> str:
        """Return what this machine lacks for it."""
        return ""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @property
    @abstractmethod
    def pid(self) -> int: ...

    @abstractmethod
    def script(self, namespaces: tuple[str, ...] = ("/tickets",), *, polling: bool = False) -> list[str]:
        """Return the messages with which a client connects."""

    @abstractmethod
    def emit(self, data: str, *, logged: bool = False) -> tuple[int, str]:
        """Return port and request that send an event to the team of all clients."""

    @property
    @abstractmethod
    def echo(self) -> tuple[str, str]:
        """Return an event that asks for an ack, and how the ack begins."""

    def cpu_s(self) -> float:
        return process_cpu_s(self.pid)

    def rss(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def socketio_script(namespaces: tuple[str, ...], polling: bool) -> list[str]:
    lines = [f"path /socket.io/?EIO=4&transport={'polling' if polling else 'websocket'}", "wait 0{"]
    for namespace in namespaces:
        lines += [f'send 40{namespace},{{"token":"$TOKEN"}}', f"wait 40{namespace},"]
    return lines


def json_script(namespace: str) -> list[str]:
    return [
        f"path /rt{namespace}",
        'send {"event":"connect","data":{"token":"$TOKEN"}}',
        'wait {"event":"connect",',
    ]


# An event of this server that reads and publishes nothing, so it has only the costs of any event.
SOCKETIO_ECHO = ('42/presence,7["presence:unsubscribe",{"userIds":[]}]', '43/presence,7[{"ok":true')
JSON_ECHO = ('{"event":"presence:unsubscribe","data":{"userIds":[]},"id":7}', '{"ack":7,"data":{"ok":true')


class ThisServer(Contestant):
    key, name, polls, many = "this", "insightdesk_rt", True, True
    echo = SOCKETIO_ECHO

    def __init__(
        self, shop: Workshop, valkey: OwnValkey | None = None, node_id: str = "n1", **settings: object
    ) -> None:
        super().__init__(shop)
        self._settings = settings
        self._own = valkey is None
        self.valkey = valkey or OwnValkey()
        self._node_id = node_id
        self._admin = ServerProcess.token("back-end", "admin", ttl_s=7200)
        self.server: ServerProcess | None = None

    def start(self) -> None:
        if self._own:
            self.valkey = OwnValkey()
            self.valkey.start()
        folder = self.shop.folder / f"{self.key}-{self._node_id}-{time.monotonic_ns()}"
        unlimited = "presence:unsubscribe=999999999/1"
        settings = {
            "valkey_url": self.valkey.url,
            "node_id": self._node_id,
            "drain_seconds": 0,
            "rate_limits": unlimited,
            **self._settings,
        }
        self.server = ServerProcess(folder, **settings)
        self.server.start()
        self.port = self.server.port

    def stop(self) -> None:
        if self.server is not None and self.server.process is not None:
            self.server.stop()
        if self._own:
            self.valkey.__exit__()

    @property
    def pid(self) -> int:
        assert self.server is not None
        return self.server.pid

    @property
    def admin_port(self) -> int:
        assert self.server is not None
        return self.server.admin_port

    def valkey_cpu_s(self) -> float:
        assert self.valkey.process is not None
        return process_cpu_s(self.valkey.process.pid)

    def commands(self) -> int:
        """How many commands this node has sent to Valkey."""
        assert self.server is not None
        with socket.create_connection(("127.0.0.1", self.admin_port), 5) as asked:
            head = f"GET /metrics HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {self._admin}\r\n\r\n"
            asked.sendall(head.encode())
            text = b"".join(iter(lambda: asked.recv(65_536), b"")).decode()
        return int(
            float(next(x.split()[1] for x in text.splitlines() if "valkey_commands_total " in x and x[0] != "#"))
        )

    def script(self, namespaces: tuple[str, ...] = ("/tickets",), *, polling: bool = False) -> list[str]:
        return socketio_script(namespaces, polling)

    def emit(self, data: str, *, logged: bool = False) -> tuple[int, str]:
        volatile = "" if logged else ',"volatile":true'
        body = f'{{"namespace":"/tickets","room":"team:{TEAM}","event":"bench"{volatile},"data":{data}}}'
        return self.admin_port, request("POST", "/api/v1/emit", body, self._admin)

    def put_ticket(self, ticket_id: str, status: str = "open") -> str:
        body = f'{{"status":"{status}","teamId":"{TEAM}","subject":"{"x" * 100}"}}'
        return request("PUT", f"/api/v1/tickets/{ticket_id}", body, self._admin)

    def check_batch(self, count: int) -> None:
        """Send a batch once. Raises AssertionError unless each of its tickets was created."""
        with socket.create_connection(("127.0.0.1", self.admin_port), 5) as asked:
            ask = self.put_tickets(count).replace("$NUMBER", "xcheck")  # as many characters as the generator puts there
            asked.sendall(ask.replace("HTTP/1.1", "HTTP/1.0", 1).encode())
            answer = b"".join(iter(lambda: asked.recv(65_536), b"")).decode()
        assert answer.count('"version":1') == count and '"error"' not in answer, answer[:2_000]

    def put_tickets(self, count: int) -> str:
        """Return a batch that puts `count` tickets, others with each request."""
        rows = ",".join(
            f'{{"op":"ticket.put","ticketId":"$NUMBER-{number}","status":"open","teamId":"{TEAM}",'
            f'"subject":"{"x" * 100}"}}'
            for number in range(count)
        )
        return request("POST", "/api/v1/batch", f'{{"operations":[{rows}]}}', self._admin)


class ThisServerJson(ThisServer):
    key, name, polls, many = "this-json", "insightdesk_rt, JSON at /rt", False, False
    echo = JSON_ECHO

    def script(self, namespaces: tuple[str, ...] = ("/tickets",), *, polling: bool = False) -> list[str]:
        return json_script(namespaces[0])


class Peer(Contestant):
    """A program that gets its port and the secret of tokens as arguments."""

    command: ClassVar[tuple[str, ...]]
    needs: ClassVar[Callable[[], str]]
    process: subprocess.Popen[bytes] | None = None

    def missing(self) -> str:
        return type(self).needs()

    def arguments(self) -> list[str]:
        return [*self.command, str(self.port), SECRET]

    def start(self) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(self.arguments(), cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL)
        end = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}"
                assert time.monotonic() < end, f"{self.name} does not listen after {START_S} s"
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def emit(self, data: str, *, logged: bool = False) -> tuple[int, str]:
        return self.port, request("POST", "/emit", f'{{"room":"team:{TEAM}","event":"bench","data":{data}}}')


class SocketIOPeer(Peer):
    polls, many = True, True
    echo = SOCKETIO_ECHO

    def script(self, namespaces: tuple[str, ...] = ("/tickets",), *, polling: bool = False) -> list[str]:
        return socketio_script(namespaces, polling)


class JsonPeer(Peer):
    echo = JSON_ECHO

    def script(self, namespaces: tuple[str, ...] = ("/tickets",), *, polling: bool = False) -> list[str]:
        return json_script(namespaces[0])


def _needs_node() -> str:
    if shutil.which("node") is None:
        return "Node.js"
    return "" if (ROOT / "tests/node_modules/socket.io").exists() else "npm packages: cd tests && npm ci"


def _needs_uvicorn() -> str:
    try:
        import uvicorn  # noqa: F401
        import uvloop  # noqa: F401
    except ImportError:
        return "uvicorn and uvloop: pip install -e .[bench]"
    return ""


def _needs_nothing() -> str:
    return ""


PYTHON = (sys.executable, "-m")


class NodeSocketIO(SocketIOPeer):
    key, name = "node", "Node socket.io 4.8"
    command, needs = ("node", str(HERE / "peers/node_socketio.js")), staticmethod(_needs_node)


class NodeWs(JsonPeer):
    key, name = "ws", "Node ws, JSON"
    command, needs = ("node", str(HERE / "peers/node_ws.js")), staticmethod(_needs_node)


class PythonTornado(SocketIOPeer):
    key, name = "py-tornado", "python-socketio, Tornado"
    command, needs = (*PYTHON, "tests.benchmarks.peers.socketio_tornado"), staticmethod(_needs_nothing)


class PythonUvicorn(SocketIOPeer):
    key, name = "py-uvicorn", "python-socketio, uvicorn + uvloop"
    command, needs = (*PYTHON, "tests.benchmarks.peers.socketio_uvicorn"), staticmethod(_needs_uvicorn)


class StockTornado(JsonPeer):
    key, name = "tornado", "Tornado WebSocketHandler, JSON"
    command, needs = (*PYTHON, "tests.benchmarks.peers.tornado_websocket"), staticmethod(_needs_nothing)


class Floor(JsonPeer):
    """Answers frames and sends, without tokens."""

    key, name, enters = "floor", "the floor: C, send and recv only", False
    needs = staticmethod(_needs_nothing)

    def missing(self) -> str:
        try:
            self.shop.build(HERE / "peers/floor.c")
        except NoCompiler:
            return "a C compiler"
        return ""

    def arguments(self) -> list[str]:
        return [str(self.shop.build(HERE / "peers/floor.c")), str(self.port)]

    def script(self, namespaces: tuple[str, ...] = ("/tickets",), *, polling: bool = False) -> list[str]:
        return [f"path /rt{namespaces[0]}"]


ALL: tuple[type[Contestant], ...] = (
    ThisServer,
    ThisServerJson,
    NodeSocketIO,
    NodeWs,
    PythonTornado,
    PythonUvicorn,
    StockTornado,
    Floor,
)

"""A real server: `python -m insightdesk_rt serve` as a child process, with its own ports, data and embedded Valkey."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import ujson
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

SECRET = "a secret for the tests and nothing but the tests, long enough for HS512 too: 0123456789"
START_S = 30.0  # a cold start on a loaded machine of two cores
STOP_S = 20.0
# What a log line that somebody should look at looks like, in either log format.
LOUD = (
    "Traceback", "ERROR", "WARNING", "CRITICAL", "level=error", "level=warning", "level=critical", "EncodingWarning",
)  # fmt: skip


# Below the ports that the kernel gives to outgoing connections and to port 0, so that nobody takes one before its
# server does; from a place of this process's own, so that two runs of the tests at once do not meet.
_PORTS = itertools.islice(itertools.cycle(range(10_000, 32_000)), os.getpid() * 97 % 22_000, None)


def free_port(in_a_row: int = 1) -> int:
    """Return a port of 127.0.0.1 that is free, as are the `in_a_row` - 1 after it; it is not given to anybody again."""
    run: list[int] = []
    while len(run) < in_a_row:
        port = next(_PORTS)
        follows = not run or port == run[-1] + 1
        run = [*(run if follows else []), port] if _can_listen(port) else []
    return run[0]


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def environment(settings: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return this process's environment without settings of its own, and with those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INSIGHTDESK_RT_")}
    named = {f"INSIGHTDESK_RT_{name.upper()}": str(value) for name, value in (settings or {}).items()}
    # Makes Python warn when a text file is read or written in the machine's encoding; `assert_quiet` finds the warning.
    return {**clean, "PYTHONUNBUFFERED": "1", "PYTHONWARNDEFAULTENCODING": "1", **named}


class ServerProcess:
    """`settings` are settings of the server by name. The log goes to `folder`/server.log, all starts in one file."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.settings = {"jwt_secret": SECRET, **settings}
        self.port = free_port()
        self.admin_port = free_port()
        self.log_file = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        ports = ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        return [sys.executable, "-m", "insightdesk_rt", "serve", *ports, "--data-dir", str(self.data_dir)]

    def start(self, deadline_s: float = START_S) -> None:
        """Return once it is ready to be used. Raises AssertionError with its log if it does not come up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(self.settings)
            )
        end = time.monotonic() + deadline_s
        while not self._ready():
            code = self.process.poll()
            assert code is None, f"the server ended with {code}\n{self.last_words()}"
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"not ready within {deadline_s} s\n{self.last_words()}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and return its exit code."""
        self.send(how)
        return self.ended()

    def send(self, how: signal.Signals) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)

    def ended(self, deadline_s: float = STOP_S) -> int:
        """Return its exit code once it has ended."""
        assert self.process is not None
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still there after {deadline_s} s\n{self.last_words()}") from None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def last_words(self) -> str:
        return self.log()[-2000:]

    def assert_quiet(self, *announced: str) -> None:
        """Assert that the log holds no warning, error or traceback but lines with one of the announced texts."""
        lines = self.log().splitlines()
        loud = [line for line in lines if any(word in line for word in LOUD) and not any(a in line for a in announced)]
        assert not loud, f"the server logged {len(loud)} such lines:\n" + "\n".join(loud)[:8000]

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.admin_port), 1) as probe:
                probe.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                return b" 200 " in probe.recv(1024).split(b"\r\n")[0]
        except OSError:
            return False

    # ── tokens and the admin port ──────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def token(sub: str, role: str, team: str = "", *, name: str = "", ttl_s: int = 600, **claims: object) -> str:
        """Return a JWT as the helpdesk's login would make it. A claim given as None is left out."""
        now = int(time.time())
        all_claims: dict[str, object] = {
            "sub": sub,
            "name": name or sub.title(),
            "email": f"{sub}@example.com",
            "role": role,
            "sessionId": f"session-{sub}",
            "iat": now,
            "exp": now + ttl_s,
            **({"teamId": team} if team else {}),
            **claims,
        }
        return jwt.encode({k: v for k, v in all_claims.items() if v is not None}, SECRET, algorithm="HS256")

    async def push(self, method: str, path: str, body: Any = None, *, token: str | None = "admin") -> tuple[int, Any]:
        """Return status and answer of a request to the admin port, as the back end makes it. `token=None`: without."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            bearer = self.token("back-end", "admin") if token == "admin" else token
            headers["Authorization"] = f"Bearer {bearer}"
        text = body if isinstance(body, bytes | None) else ujson.dumps(body)
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        ask = HTTPRequest(url, method, headers, text, request_timeout=10, allow_nonstandard_methods=True)
        response = await AsyncHTTPClient().fetch(ask, raise_error=False)
        return response.code, ujson.loads(response.body) if response.body else None

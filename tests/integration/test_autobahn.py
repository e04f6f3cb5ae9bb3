"""The Autobahn cases against the native endpoint's handler and transport, echoing, in a process of its own.

Groups 1-7 and 10 test correctness, 9 tests size and speed (4 MB in 65,536 fragments, 16 MB messages); 11-13 test
compression, which Tornado does. A "non-strict" pass counts as a failure.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kosoku import FailureError, run_fuzzingclient

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90

# RFC 6455 leaves these open: data after a close frame, and unregistered close codes.
OPEN_QUESTIONS = {"7.1.6", "7.13.1", "7.13.2"}


@pytest.fixture
def echo_port() -> Iterator[int]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.echo_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None and server.stderr is not None
    try:
        yield int(server.stdout.readline())
        server.stdin.close()
        assert server.wait(10) == 0
        assert server.stderr.read() == "", "input of a peer must not cause a traceback"
    finally:
        if server.poll() is None:
            server.kill()
            server.wait(10)
        for pipe in (server.stdin, server.stdout, server.stderr):
            pipe.close()


@pytest.mark.parametrize(
    "groups", [["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"], ["9.*"]], ids=["rules", "size"]
)
def test_no_case_fails(groups: list[str], echo_port: int) -> None:
    async def run() -> list[tuple[str, str, str]]:
        async with asyncio.timeout(DEADLINE_S):
            try:
                results = await run_fuzzingclient(f"127.0.0.1:{echo_port}", groups, None, concurrency=4)
            except FailureError as failure:
                results = failure.results
        return [(case.case_id, case.behavior.value, case.behavior_close.value) for case in results]

    cases = asyncio.run(run())
    assert len(cases) >= (240 if "1.*" in groups else 54)
    bad = [case for case in cases if case[1:] != ("OK", "OK") and case[0] not in OPEN_QUESTIONS]
    assert bad == []

"""Builds and controls the load generator of the benchmarks, load.c, which documents its commands."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SLACK_S = 20.0  # beyond what a command says it takes


class NoCompiler(Exception):
    """This machine has no C compiler; the message says what to do."""


class Workshop:
    """A temporary folder for programs built from C and for files, as a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench"))
        self._files = 0

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def build(self, source: Path) -> Path:
        """Build a C file, once per workshop, and return the program. Raises NoCompiler."""
        program = self.folder / source.stem
        if not program.exists():
            compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                raise NoCompiler(
                    "the load generator is a C program: install a compiler (apt-get install gcc libc6-dev)"
                )
            subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True, timeout=60)
        return program

    def file(self, text: str) -> str:
        self._files += 1
        path = self.folder / f"file{self._files}"
        path.write_text(text)
        return str(path)


class Generator:
    """One process of clients. Its answers are dicts, see `report` in load.c; times in ms have ms in their names."""

    def __init__(self, shop: Workshop, source: int = -1) -> None:
        """`source`: number of the first of its loopback addresses, for 20,000 clients each; -1: only 127.0.0.1."""
        self._shop = shop
        self._source = source
        self._requests: dict[str, str] = {}
        self._process = subprocess.Popen(
            [str(shop.build(HERE / "load.c"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        process = self._process
        if process.poll() is None:
            process.kill()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def send(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")

    def answer(self, within_s: float) -> dict[str, Any]:
        """Return the report on the last command. Raises AssertionError if there is none in time."""
        assert self._process.stdout is not None
        end = time.monotonic() + within_s
        while not select.select([self._process.stdout], [], [], 0.1)[0]:
            assert time.monotonic() < end, f"no answer of the load generator within {within_s} s"
        line = self._process.stdout.readline()
        assert line, f"the load generator ended with {self._process.wait(10)}"
        found: dict[str, Any] = json.loads(line)
        return found

    def begin_open(
        self, count: int, window: int, port: int, script: list[str], tokens: list[str], deadline_s: float = 30
    ) -> None:
        files = self._file("\n".join(script)), self._file("\n".join(tokens))
        self.send("open", count, window, int(deadline_s), port, self._source, *files)

    def open(
        self, count: int, window: int, port: int, script: list[str], tokens: list[str], deadline_s: float = 30
    ) -> dict[str, Any]:
        """Open clients, `window` of them at a time. Raises AssertionError unless all connect."""
        self.begin_open(count, window, port, script, tokens, deadline_s)
        report = self.answer(deadline_s + SLACK_S)
        assert report["failed"] == 0, report
        return report

    def begin_publish(self, rounds: int, per_s: float, burst: int, port: int, request: str, late_s: float = 40) -> None:
        self.send("publish", rounds, per_s, burst, int(late_s), port, self._file(request))

    def publish_until(
        self, done: Callable[[], Any], per_s: float, port: int, request: str, late_s: float = 40
    ) -> tuple[Any, dict[str, Any]]:
        """Publish events for as long as `done` takes. Returns its result and the report."""
        self.begin_publish(0, per_s, 1, port, request, late_s)
        try:
            found = done()
        finally:
            self.send("enough")
        return found, self.answer(late_s + SLACK_S)

    def publish(
        self, rounds: int, per_s: float, burst: int, port: int, request: str, late_s: float = 40
    ) -> dict[str, Any]:
        """Publish events and wait until all clients have received all of them, at most `late_s` longer."""
        self.begin_publish(rounds, per_s, burst, port, request, late_s)
        return self.answer(rounds / per_s + late_s + SLACK_S)

    def echo(self, seconds: float, message: str, answer: str) -> dict[str, Any]:
        self.send("echo", seconds, message, answer)
        return self.answer(seconds + SLACK_S)

    def http(self, seconds: float, connections: int, port: int, request: str) -> dict[str, Any]:
        self.send("http", seconds, connections, port, self._file(request))
        return self.answer(seconds + SLACK_S)

    def idle(self, seconds: float) -> dict[str, Any]:
        self.send("idle", seconds)
        return self.answer(seconds + SLACK_S)

    def close(self, count: int) -> dict[str, Any]:
        self.send("close", count)
        return self.answer(SLACK_S)

    def _file(self, text: str) -> str:
        if text not in self._requests:
            self._requests[text] = self._shop.file(text)
        return self._requests[text]


def request(method: str, path: str, body: str, token: str = "") -> str:
    """Return an HTTP request for the generator, which replaces $TIME_OF_PUBLICATION (16 characters) and $NUMBER (6)."""
    size = len(body.replace("$TIME_OF_PUBLICATION", "0" * 16).replace("$NUMBER", "0" * 6).encode())
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}{bearer}Content-Length: {size}\r\n\r\n{body}"


def payload(size: int) -> str:
    """Return JSON of this many bytes that contains the time of its publication."""
    text = '{"at":$TIME_OF_PUBLICATION,"text":""}'
    room = size - len(text) + len("$TIME_OF_PUBLICATION") - 16
    return text[:-2] + "x" * room + text[-2:]

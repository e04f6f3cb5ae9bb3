"""The data folder. Only this process's user may read its files (the secret, and Valkey's files with all texts).

Like PostgreSQL, the server refuses a folder that other users may write to, because they could replace a secret or a
socket. A folder that has only our files is closed to other users instead; our own files are always closed to them.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

# The files of this server and its embedded Valkey.
OURS = ("*jwt_secret*", "demo", "demo_secret", "valkey.*", "appendonlydir", "appendonly.aof*", "dump.rdb", "temp-*")
OTHERS, OTHERS_WRITE = 0o077, 0o022


class FolderError(Exception):
    """The folder cannot be used. The text is one line for the terminal."""


def private_folder(folder: Path) -> None:
    """Create the folder if it is missing, and close it and our files in it to other users.

    Raises FolderError if other users may write to it and it has files that are not ours; OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = os.listdir(folder)
    state = folder.stat()
    mine = state.st_uid == os.geteuid() and not state.st_mode & stat.S_ISVTX and all(map(_is_ours, names))
    if state.st_mode & OTHERS and mine:
        folder.chmod(0o700)
        log.warning("the data folder was open to other users and is closed now", extra={"folder": str(folder)})
    elif state.st_mode & OTHERS_WRITE:
        raise FolderError(f"other users may write to the data directory {folder}; use one of its own, or chmod 700 it")
    for path in _files(folder, names):
        with suppress(FileNotFoundError):  # a Valkey that still runs there may remove a file
            kind = path.lstat()
            if kind.st_uid == os.geteuid() and kind.st_mode & OTHERS and not stat.S_ISLNK(kind.st_mode):
                path.chmod(stat.S_IMODE(kind.st_mode) & ~OTHERS)


def _is_ours(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in OURS)


def _files(folder: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        if _is_ours(name):
            yield folder / name
            if name == "appendonlydir":
                yield from (folder / name).iterdir()

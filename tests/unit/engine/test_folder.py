"""The data folder is closed to other users or refused, and files of others are not touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from insightdesk_rt.engine.folder import FolderError, private_folder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def put(path: Path, permissions: int) -> Path:
    path.write_text("text", encoding="utf-8")
    path.chmod(permissions)
    return path


def test_a_missing_folder_is_created_for_this_user_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    private_folder(tmp_path / "a" / "data")
    assert mode(tmp_path / "a" / "data") == 0o700
    private_folder(tmp_path / "a" / "data")
    assert not caplog.records


@pytest.mark.parametrize("permissions", [0o755, 0o775, 0o777, 0o750, 0o701])
def test_a_folder_of_ours_that_others_may_read_is_closed_to_them(
    tmp_path: Path, permissions: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Files of an earlier version, or written with a umask of 022, contain users' texts."""
    folder = tmp_path / "data"
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir").chmod(0o755)
    files = [
        put(folder / name, 0o644) for name in ("jwt_secret", "valkey.log", "appendonlydir/appendonly.aof.1.incr.aof")
    ]
    folder.chmod(permissions)
    private_folder(folder)
    assert mode(folder) == 0o700 and mode(folder / "appendonlydir") == 0o700
    assert [mode(path) for path in files] == [0o600] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    private_folder(folder)
    assert len(caplog.records) == 1, "a second call changes nothing"


@pytest.mark.parametrize("permissions", [0o777, 0o1777, 0o775, 0o722])
def test_a_folder_with_foreign_files_that_others_may_write_to_is_refused(tmp_path: Path, permissions: int) -> None:
    """It may be /tmp or a team's folder; closing it would break the work of others."""
    other = put(tmp_path / "notes.txt", 0o644)
    tmp_path.chmod(permissions)
    with pytest.raises(FolderError, match=f"other users may write to the data directory {tmp_path}"):
        private_folder(tmp_path)
    assert mode(tmp_path) == permissions and mode(other) == 0o644
    tmp_path.chmod(0o700)


def test_an_empty_sticky_folder_is_refused_and_not_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(FolderError):
        private_folder(tmp_path)
    assert mode(tmp_path) == 0o1777
    tmp_path.chmod(0o700)


def test_in_a_readable_folder_with_foreign_files_only_ours_are_closed(tmp_path: Path) -> None:
    other, secret, target = (put(tmp_path / name, 0o644) for name in ("notes.txt", "jwt_secret", "target"))
    os.symlink(target, tmp_path / "valkey.log")
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert (mode(tmp_path), mode(other), mode(secret), mode(target)) == (0o755, 0o644, 0o600, 0o644)

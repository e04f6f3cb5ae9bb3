"""Server processes of a copy of the package that has one feature more: one folder, and one line in the table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import insightdesk_rt

PACKAGE = Path(insightdesk_rt.__file__).parent


def add_feature(top: Path, folder: Path, kind: str) -> None:
    """Copy the package to `top`, add the folder, and name its class in the table: the import, and the line."""
    shutil.copytree(PACKAGE, top / "insightdesk_rt", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(folder, top / "insightdesk_rt" / "helpdesk" / folder.name)
    table = top / "insightdesk_rt" / "helpdesk" / "features.py"
    text = table.read_text(encoding="utf-8")
    first, line = "from insightdesk_rt.helpdesk.chat.namespace", "FEATURES: tuple[type[Namespace], ...] = ("
    assert first in text and line in text
    text = text.replace(first, f"from insightdesk_rt.helpdesk.{folder.name}.namespace import {kind}\n{first}", 1)
    table.write_text(text.replace(line, f"{line}{kind}, "), encoding="utf-8")


def copied_first(top: Path) -> dict[str, str]:
    """Return the environment in which Python imports the copy, and not the package of the folder it starts in."""
    return {"PYTHONPATH": str(top), "PYTHONSAFEPATH": "1"}


@contextmanager
def added_feature(top: Path, folder: Path, kind: str) -> Iterator[None]:
    """Make all servers that are started meanwhile run a copy of the package with this feature."""
    add_feature(top, folder, kind)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in copied_first(top).items():
            patch.setenv(name, value)
        yield

"""A host's own check of who may read a ticket, for tests of processes: a line "user ticket" of a file is a yes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from insightdesk_rt.engine.model import User


class FileCheck:
    def __init__(self, file: Path) -> None:
        self._file = file

    def may_read(self, user: User, ticket_id: str) -> bool:
        return f"{user.id} {ticket_id}" in self._file.read_text(encoding="utf-8").splitlines()


def make(tickets: Any, settings: Any) -> FileCheck:
    """The factory that the setting `access` names; nodes beside each other share the file."""
    return FileCheck(Path(settings.data_dir).parent.parent / "may_read")

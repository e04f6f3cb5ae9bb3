"""Encodes commands for Valkey as RESP, and loads the Lua scripts, which are called by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources

Arg = str | int | float | bytes


def pack(args: Sequence[Arg]) -> bytes:
    """Encode one command in RESP. hot: half the cost of valkey-py's own packer."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if type(arg) is bytes else str(arg).encode("utf-8", "replace")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class Script:
    """A Lua script. Servers know it by the hash of its text, so two versions can serve one cluster side by side."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        # The script's name for EVALSHA, not a signature.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def load_script(package: str, name: str, *libraries: str) -> Script:
    """Return the script `lua/<name>.lua` beside the modules of a package, with libraries in front of it.

    A library is a script of the same folder, or "other.package:name". Raises FileNotFoundError.
    """
    parts = [_source(*(part.split(":") if ":" in part else (package, part))) for part in (*libraries, name)]
    return Script(name, "".join(parts))


def _source(package: str, name: str) -> str:
    return (resources.files(package) / "lua" / f"{name}.lua").read_text("utf-8")

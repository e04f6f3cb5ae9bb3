"""Encodes commands for Valkey as RESP, and loads the Lua scripts, which are called by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import TypeVar

Arg = str | int | float | bytes
K = TypeVar("K", bound=str)


def pack(args: Sequence[Arg]) -> bytes:
    """Encode one command in RESP. hot: half the cost of valkey-py's own packer."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if type(arg) is bytes else str(arg).encode("utf-8", "replace")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class Script:
    """A Lua script. Servers know it by the hash of its text, so two versions can serve one cluster side by side.

    `sharded` is the same script for a Valkey Cluster, where channels belong to slots: it publishes with SPUBLISH, and
    its lines that begin with `--cluster:` count.
    """

    __slots__ = ("name", "sha", "sharded", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        # The script's name for EVALSHA, not a signature.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        in_cluster = source.replace("'PUBLISH'", "'SPUBLISH'").replace("--cluster: ", "")
        self.sharded: Script = self if in_cluster == source else Script(name, in_cluster)


# ARGV: how often to run; then for each run the number of its keys, the number of its arguments, and its arguments.
_TIMES = """
local answers, keys_at, args_at = {}, 1, 2
for i = 1, tonumber(ARGV[1]) do
  local keys, args = tonumber(ARGV[args_at]), tonumber(ARGV[args_at + 1])
  answers[i] = run({ unpack(KEYS, keys_at, keys_at + keys - 1) }, { unpack(ARGV, args_at + 2, args_at + 1 + args) })
  keys_at, args_at = keys_at + keys, args_at + 2 + args
end
return answers
"""


def several_times(script: Script) -> Script:
    """Return a script that runs another one several times in one step, and returns the list of its answers.

    `together` makes the keys and arguments of one call from those of each run.
    """
    return Script(f"{script.name}, several times", f"local function run(KEYS, ARGV)\n{script.source}\nend{_TIMES}")


def together(calls: Sequence[tuple[Sequence[K], Sequence[Arg]]]) -> tuple[list[K], list[Arg]]:
    """Return the keys and arguments for a script of `several_times`."""
    keys: list[K] = []
    args: list[Arg] = [len(calls)]
    for own_keys, own_args in calls:
        keys += own_keys
        args += (len(own_keys), len(own_args))
        args += own_args
    return keys, args


def load_script(package: str, name: str, *libraries: str) -> Script:
    """Return the script `lua/<name>.lua` beside the modules of a package, with libraries in front of it.

    A library is a script of the same folder, or "other.package:name". Raises FileNotFoundError.
    """
    parts = [_source(*(part.split(":") if ":" in part else (package, part))) for part in (*libraries, name)]
    return Script(name, "".join(parts))


def _source(package: str, name: str) -> str:
    return (resources.files(package) / "lua" / f"{name}.lua").read_text("utf-8")

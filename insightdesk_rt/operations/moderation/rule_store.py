"""What admins have ruled and holds until it ends or is taken back, by kind: a hash of JSON texts, and a version that
grows with each change, so that who has a copy can see at the cost of one small command whether it is still the same.

Valkey's clock ends a rule here. `memory` is a name that is lost with everything else: another one, or none, means that
what was confirmed may be gone, and whoever has a copy should put it down again.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.model import new_id

PACKAGE = "insightdesk_rt.operations.moderation"

PUT = load_script(PACKAGE, "rules_put", "rules_lib")
REMOVE = load_script(PACKAGE, "rules_remove", "rules_lib")
LOAD = load_script(PACKAGE, "rules_load", "rules_lib")
MEMORY = "@"

Only = Literal["", "new", "there"]


class RulesVersion(NamedTuple):
    """Of a kind's rules. `number` 0: nothing was done."""

    number: int
    memory: str


class LoadedRules(NamedTuple):
    version: RulesVersion
    texts: dict[str, str]  # id → JSON


class RuleStore:
    """All raise RtError UNAVAILABLE; a change is on disk when it returns, where Valkey is asked for that."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._versions = valkey.key("rules", "versions")

    async def versions(self) -> tuple[str, dict[str, int]]:
        """Return the memory's name ("": nothing was ever ruled) and the version of each kind."""
        flat = await self._valkey.command("HGETALL", self._versions)
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        memory = found.pop(MEMORY, "")
        return memory, {kind: int(number) for kind, number in found.items()}

    async def put(self, kind: str, id: str, text: str, until_ms: int, most: int, only: Only = "") -> RulesVersion:
        """Set a rule, or replace it. Version 0: there are `most` of its kind already.

        `only`: "new" leaves one that is there as it is, "there" makes none (version 0).
        """
        args: list[Arg] = [kind, id, text, until_ms, most, new_id(), only]
        return self._version(await self._valkey.call(PUT, self._keys(kind), args, durable=True))

    async def remove(self, kind: str, id: str) -> RulesVersion:
        """Take a rule back. Version 0: it is not there."""
        return self._version(await self._valkey.call(REMOVE, self._keys(kind), [kind, id], durable=True))

    async def load(self, kind: str) -> LoadedRules:
        number, memory, flat = await self._valkey.call(LOAD, self._keys(kind), [kind])
        return LoadedRules(RulesVersion(int(number), memory), dict(zip(flat[::2], flat[1::2], strict=True)))

    def _keys(self, kind: str) -> list[str]:
        return [self._valkey.key("rules", kind), self._valkey.key("rules", kind, "until"), self._versions]

    @staticmethod
    def _version(answer: list[int | str]) -> RulesVersion:
        return RulesVersion(int(answer[0]), str(answer[1]))

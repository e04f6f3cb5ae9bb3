"""The rules that admins set, in Valkey. Each kind has a hash of JSON texts and a version number.

The version grows with every change, so a node learns with one small command whether its copy is current. Rules expire
by Valkey's clock. The `memory` is a random name that is lost together with all other data. A different name, or none,
means that confirmed changes may be gone, and that every node with a copy should store it again.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from insightdesk_rt.engine.cluster.names import Key
from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.model import new_id

PACKAGE = "insightdesk_rt.operations.moderation"

PUT = load_script(PACKAGE, "rules_put", "rules_lib")
REMOVE = load_script(PACKAGE, "rules_remove", "rules_lib")
LOAD = load_script(PACKAGE, "rules_load", "rules_lib")
MEMORY = "@"

Only = Literal["", "new", "there"]


class RulesVersion(NamedTuple):
    """The version of a kind's rules. `number` 0: nothing was changed."""

    number: int
    memory: str


class LoadedRules(NamedTuple):
    version: RulesVersion
    texts: dict[str, str]  # id → JSON


class RuleStore:
    """All methods raise RtError UNAVAILABLE. With `durable` a change is on disk when its method returns."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._cluster = valkey.names.cluster
        self._versions = self._cluster.key("rules", "versions")

    async def versions(self) -> tuple[str, dict[str, int]]:
        """Return the memory's name ("": no rule was ever set) and the version of each kind."""
        flat = await self._valkey.command("HGETALL", self._versions)
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        memory = found.pop(MEMORY, "")
        return memory, {kind: int(number) for kind, number in found.items()}

    async def put(self, kind: str, id: str, text: str, until_ms: int, max_rules: int, only: Only = "") -> RulesVersion:
        """Set a rule, or replace it. Version 0: there are already `max_rules` of its kind.

        `only`: "new" does not replace an existing rule, "there" does not add one (version 0).
        """
        args: list[Arg] = [kind, id, text, until_ms, max_rules, new_id(), only]
        return self._version(await self._valkey.call(PUT, self._keys(kind), args, durable=True))

    async def remove(self, kind: str, id: str) -> RulesVersion:
        """Take a rule back. Version 0: there is no such rule."""
        return self._version(await self._valkey.call(REMOVE, self._keys(kind), [kind, id], durable=True))

    async def load(self, kind: str) -> LoadedRules:
        number, memory, flat = await self._valkey.call(LOAD, self._keys(kind), [kind])
        return LoadedRules(RulesVersion(int(number), memory), dict(zip(flat[::2], flat[1::2], strict=True)))

    def _keys(self, kind: str) -> list[Key]:
        return [self._cluster.key("rules", kind), self._cluster.key("rules", kind, "until"), self._versions]

    @staticmethod
    def _version(answer: list[int | str]) -> RulesVersion:
        return RulesVersion(int(answer[0]), str(answer[1]))

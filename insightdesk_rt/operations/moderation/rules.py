"""This node's copy of the rules that admins set, kept in sync with Valkey and with every other node's copy.

    put/remove ──store──▶ call every node ──▶ the table's `changed` on each node, before the admin is answered
                     └──▶ a node that was not reached sees a new version number within a second, and reloads

So a rule is looked up in memory, and stays in force while Valkey is unreachable. A rule begins and ends by Valkey's
clock, which all nodes share, at most a second late. If Valkey has lost its data, each node stores its copy there again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.wire import json
from insightdesk_rt.operations.moderation.rule_store import RuleStore, RulesVersion

log = logging.getLogger(__name__)

VERB = "rules.changed"
TURN = 100  # rules to apply, or to store, before yielding the loop


class Rule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all kinds of rules have: who set it, when and why.

    Times are Unix milliseconds; `until_ms` 0 means until it is taken back. The field names are the keys of the JSON in
    Valkey.
    """

    id: str
    by: str
    at_ms: int
    reason: str
    until_ms: int = 0


R = TypeVar("R", bound=Rule)


class RuleChange(Struct, frozen=True):
    """The outcome of a change: what its kind counts (connections closed), and the nodes that did not answer."""

    count: int
    missing: list[str]


class RuleTable(Generic[R]):
    """The rules of one kind that are in force, by id, in the order they were set.

    `changed(old, new)` is called after each change with the rule before and after it (None: no rule). It returns a
    count.
    """

    def __init__(
        self, kind: str, type: type[R], max_rules: int, changed: Callable[[R | None, R | None], Awaitable[int]]
    ):
        self.kind = kind
        self.type = type
        self.max_rules = max_rules
        self.changed = changed
        self.rules: dict[str, R] = {}
        self.version = 0
        self.counts: dict[str, int] = {}  # id → the count of its last change on this node
        self.decoder = msgspec.json.Decoder(type)

    def newest_first(self) -> list[R]:
        return newest_first(self.rules.values())


def newest_first(rules: Iterable[R]) -> list[R]:
    return sorted(rules, key=lambda rule: (rule.at_ms, rule.id), reverse=True)


async def _none() -> list[str]:
    return []


class Rules:
    """`add` the tables, then `start`; `tick` every second. `now_s`: Valkey's time in Unix seconds.

    `lost` returns nodes that count as dead and may still serve clients: every change reports them as missing.
    """

    def __init__(
        self, store: RuleStore, now_s: Callable[[], float] = time.time, lost: Callable[[], Awaitable[list[str]]] = _none
    ) -> None:
        self._lost = lost
        self._store = store
        self._now_s = now_s
        self._tables: dict[str, RuleTable[Any]] = {}
        self._calls: NodeCalls | None = None
        self._memory = ""
        self._lock = asyncio.Lock()

    def add(self, table: RuleTable[Any]) -> None:
        self._tables[table.kind] = table

    def connect(self, calls: NodeCalls) -> None:
        """Send changes to all nodes through these calls, and apply the changes of other nodes."""
        self._calls = calls
        calls.handle(VERB, self._apply_change)

    def now_ms(self) -> int:
        """Return the current time by the clock that rules begin and end by, in Unix milliseconds."""
        return int(self._now_s() * 1000)

    async def start(self) -> None:
        """Load the rules in force. Raises RtError UNAVAILABLE."""
        async with self._lock:
            await self._catch_up()

    async def put(self, table: RuleTable[R], rule: R) -> RuleChange:
        """Set a rule, or replace the rule of that id. Idempotent.

        Raises RtError UNAVAILABLE (try again), CONFLICT: there are too many rules of the kind.
        """
        text = json.encode_struct(rule)
        version = await self._store.put(table.kind, rule.id, text, rule.until_ms, table.max_rules)
        if not version.number:
            raise RtError(
                "CONFLICT", f"There are already {table.max_rules} of them, the maximum; take some back first."
            )
        return await self._send_change(table, version, rule.id, text)

    async def replace(self, table: RuleTable[R], rule: R) -> bool:
        """Replace the rule of that id; return False if there is none any more. Raises RtError UNAVAILABLE."""
        text = json.encode_struct(rule)
        version = await self._store.put(table.kind, rule.id, text, rule.until_ms, table.max_rules, "there")
        if version.number:
            await self._send_change(table, version, rule.id, text)
        return bool(version.number)

    async def remove(self, table: RuleTable[R], id: str) -> RuleChange:
        """Take a rule back. Raises RtError UNAVAILABLE, NOT_FOUND."""
        version = await self._store.remove(table.kind, id)
        if not version.number:
            raise RtError("NOT_FOUND")
        return await self._send_change(table, version, id, "")

    async def tick(self) -> None:
        """Remove expired rules, then check whether a change was missed. Raises RtError UNAVAILABLE."""
        async with self._lock:
            now_ms = self.now_ms()
            for table in self._tables.values():
                expired = [rule for rule in table.rules.values() if 0 < rule.until_ms <= now_ms]
                for rule in expired:
                    await self._apply(table, rule.id, None)
            await self._catch_up()

    # ── in sync ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send_change(self, table: RuleTable[R], version: RulesVersion, id: str, text: str) -> RuleChange:
        assert self._calls is not None
        replies = await self._calls.request(VERB, table.kind, str(version.number), version.memory, id, text)
        counts, missing = decode_replies(replies, int)
        return RuleChange(sum(counts.values()), await self.not_reached(missing))

    async def not_reached(self, missing: Iterable[str]) -> list[str]:
        """Return the nodes that did not answer, and those that were not asked because they count as dead."""
        return sorted({*missing, *await self._lost()})

    async def _apply_change(self, arguments: tuple[str, ...]) -> int:
        """Apply a change that a node has stored (empty text: the rule was taken back). Returns the count here."""
        kind, number, memory, id, text = arguments
        table = self._tables.get(kind)
        if table is None:
            raise RtError("INTERNAL", "This version does not know this kind of rule.")
        new = json.decode(table.decoder, text) if text else None
        async with self._lock:
            if memory == self._memory and int(number) == table.version + 1:
                table.version += 1
                await self._apply(table, id, new)
            else:
                # a Valkey that has lost its last changes gives their numbers a second time
                lost = memory == self._memory and int(number) == table.version and table.rules.get(id) != new
                await self._catch_up(table if lost else None)
            return table.counts.get(id, 0)

    async def _catch_up(self, lost_some: RuleTable[Any] | None = None) -> None:
        """Load the tables that changed. First store again those that Valkey has lost rules of.

        Valkey has lost rules if its version number went back, its memory has another name, or `lost_some` says so.
        """
        memory, versions = await self._store.versions()
        if not memory and not self._memory:
            return
        another = memory != self._memory
        for table in self._tables.values():
            number = versions.get(table.kind, 0)
            if number < table.version or (another and self._memory) or table is lost_some:
                await self._store_again(table)
            elif number == table.version and not another:
                continue
            await self._load(table)
        if another:
            memory, _ = await self._store.versions()  # it has one now, if there was anything to store
            self._memory = memory

    async def _store_again(self, table: RuleTable[Any]) -> None:
        log.warning("storing rules again that Valkey has lost", extra={"kind": table.kind, "rules": len(table.rules)})
        rules = list(table.rules.values())
        for at in range(0, len(rules), TURN):
            puts: Iterable[Awaitable[RulesVersion]] = (
                self._store.put(table.kind, rule.id, json.encode_struct(rule), rule.until_ms, table.max_rules, "new")
                for rule in rules[at : at + TURN]
            )
            await asyncio.gather(*puts)

    async def _load(self, table: RuleTable[Any]) -> None:
        loaded = await self._store.load(table.kind)
        now_ms = self.now_ms()
        found: dict[str, Rule] = {}
        for id, text in loaded.texts.items():
            try:
                rule = json.decode(table.decoder, text)
            except json.BadJson as bad:  # a newer version wrote it
                log.warning("a rule cannot be read", extra={"kind": table.kind, "id": id, "why": bad.why})
                continue
            if not 0 < rule.until_ms <= now_ms:
                found[id] = rule
        changed = [id for id in table.rules.keys() | found.keys() if table.rules.get(id) != found.get(id)]
        for at, id in enumerate(changed, 1):
            await self._apply(table, id, found.get(id))
            if at % TURN == 0:
                await asyncio.sleep(0)
        table.version = loaded.version.number

    async def _apply(self, table: RuleTable[Any], id: str, new: Rule | None) -> None:
        old = table.rules.pop(id, None)
        table.counts.pop(id, None)
        if new is not None:
            table.rules[id] = new
        try:
            count = await table.changed(old, new)
        except Exception:
            log.exception("a rule could not be applied", extra={"kind": table.kind, "id": id})
            return
        if new is not None:
            table.counts[id] = count

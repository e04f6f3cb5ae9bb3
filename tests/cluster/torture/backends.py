"""The back end under faults: a reader of the feed and a receiver of a webhook, both of which must be told everything.

Owed is every acknowledged chat message and every acknowledged change of a ticket. Each must reach both at least once,
a repeat must have the same id, and the first messages of one conversation or ticket must be in their order. Where
Valkey has lost entries, some may be missing after a notice: `"complete": false` of the feed, `feed.incomplete` of the
webhook. The reader asks any usable node and goes on from its last offset. The receiver never fails, so only the
cluster's faults count.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import aiohttp

from tests.cluster.torture.cluster import Cluster
from tests.cluster.torture.judge import Sent
from tests.support.receiver import Received, Receiver

ASK_S = 5.0
AGAIN_S = 0.1
TYPES = "chat.message,ticket.created,ticket.updated"

Fact = tuple[str, int]  # a conversation and a message's number, or a publisher and its counter


class Owed(NamedTuple):
    """What a round acknowledged. `ordered`: Valkey lost nothing, so the order holds too."""

    facts: set[Fact]
    ordered: bool


class Told:
    """What one of the two was told in a round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.first: dict[str, Fact] = {}  # by id, in the order of the first time
        self.texts: dict[str, Any] = {}
        self.wrong: list[str] = []
        self.incomplete = 0  # notices that entries may be missing

    def add(self, entry: dict[str, Any]) -> None:
        if self.texts.setdefault(entry["id"], entry) != entry:
            self.wrong.append(f"{self.name} has {entry['id']} with two contents")
        fact = fact_of(entry)
        if fact is not None:
            self.first.setdefault(entry["id"], fact)

    def lacks(self, owed: Owed) -> list[Fact]:
        return sorted(owed.facts - set(self.first.values()))

    def judge(self, owed: Owed) -> list[str]:
        """Return what is wrong: facts that are missing without a notice, and those that came in another order."""
        found = [*self.wrong, *(f"{self.name} lacks {fact}" for fact in self.lacks(owed) if not self.incomplete)]
        last: dict[str, int] = defaultdict(int)
        for subject, number in dict.fromkeys(self.first.values()) if owed.ordered else ():
            if (subject, number) in owed.facts and number < last[subject]:
                found.append(f"{self.name} has {subject} {number} after {last[subject]}")
            last[subject] = max(last[subject], number)
        return found


def fact_of(entry: dict[str, Any]) -> Fact | None:
    data = entry["data"]
    if entry["type"] == "chat.message":
        return data["conversationId"], data["id"]
    publisher, _, number = data["ticket"]["subject"].partition("/")
    return (publisher, int(number)) if number else None


class BackEnds:
    """`begin` a round, then `judge` it."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._receiver = Receiver()
        self._receiver.answer = self._receive
        self._http: aiohttp.ClientSession | None = None
        self._reading: asyncio.Task[None] | None = None
        self._told = (Told("the feed"), Told("the webhook"))
        token = cluster.nodes[0].server.token("archive", "admin", ttl_s=86_000)
        self._headers = {"Authorization": f"Bearer {token}"}

    async def open(self) -> None:
        await self._receiver.start()
        self._http = aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(force_close=True))
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
        await self._receiver.stop()

    async def begin(self) -> None:
        """Forget what was judged, and make the webhook if a Valkey that was emptied has lost it."""
        self._told = (Told("the feed"), Told("the webhook"))
        while True:
            known = await self._ask("GET", "webhooks")
            if known is not None and any(one["url"] == self._receiver.url for one in known["items"]):
                return
            if known is not None:
                body = {"url": self._receiver.url, "types": TYPES.split(","), "reason": "torture", "after": "0-0"}
                await self._ask("POST", "webhooks", body)
            await asyncio.sleep(AGAIN_S)

    def judge(self, owed: Owed) -> list[str]:
        return [wrong for told in self._told for wrong in told.judge(owed)]

    def announced(self, owed: Owed) -> int:
        """Return how many facts one of the two was not told, after a notice that some may be missing."""
        return sum(len(told.lacks(owed)) for told in self._told if told.incomplete)

    def _receive(self, received: Received) -> int:
        entry = received.event
        if entry["type"] in TYPES:
            self._told[1].add(entry)
        self._told[1].incomplete += entry["type"] == "feed.incomplete"
        self._receiver.received.clear()
        self._receiver.accepted.clear()
        return 200

    async def _read(self) -> None:
        after = "0-0"
        while True:
            page = await self._ask("GET", f"feed?types={TYPES}&after={after}&wait=2&limit=500")
            if page is None:
                await asyncio.sleep(AGAIN_S)
                continue
            self._told[0].incomplete += not page["complete"]
            for entry in page["events"]:
                self._told[0].add(entry)
            after = page["next"]

    async def _ask(self, method: str, path: str, body: Any = None) -> Any | None:
        """Return the answer of any usable node, None if there was none, or 503."""
        assert self._http is not None
        url = f"{self._random.choice(self._cluster.usable).admin}/api/v1/{path}"
        try:
            async with self._http.request(method, url, json=body, timeout=aiohttp.ClientTimeout(total=ASK_S)) as answer:
                if answer.status == 503:
                    return None
                said = json.loads(await answer.text())
                assert answer.status in (200, 201), f"{path}: {answer.status} {said}"
                return said
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


def owed_of(sent: Iterable[Sent], conversation: str, numbers: Iterable[int], *, ordered: bool) -> Owed:
    """Return what a round owes: its acknowledged changes of tickets, and messages of its conversation."""
    facts = {event.key for event in sent if event.offset and event.key[0].startswith("put-")}
    return Owed(facts | {(conversation, number) for number in numbers}, ordered)

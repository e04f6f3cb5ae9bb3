"""Random sequences of changes of tickets and chats while nodes are killed: the feed has every acknowledged change.

Read from its start, on any node, it has each change at least once, repeats have the same id, and the changes of one
ticket or conversation are in their order.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cluster.torture.cluster import Cluster
from tests.cluster.torture.talkers import Line
from tests.support.aio import aio

STEPS = 80
KILL_AT = (15, 45)  # steps at which a node is killed; it is started again fifteen steps later
BACK_AFTER = 15
TICKETS = ("a", "b", "c")
TRY_S, GIVE_UP_S = 3.0, 60.0
Fact = tuple[str, str, int | str]  # a type, a subject, and a version, number or id
two_minutes = functools.partial(aio, deadline_s=120)


class BackEnd:
    """Calls the admin port of any usable node until it is answered."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        token = cluster.nodes[0].server.token("back-end", "admin", ttl_s=3600)
        connector = aiohttp.TCPConnector(force_close=True)
        self.http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, connector=connector)

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        end = asyncio.get_running_loop().time() + GIVE_UP_S
        while True:
            url = f"{self.random.choice(self.cluster.usable).admin}/api/v1/{path}"
            try:
                limit = aiohttp.ClientTimeout(total=TRY_S)
                async with self.http.request(method, url, json=body, timeout=limit) as answer:
                    if answer.status != 503:
                        return answer.status, await answer.json()
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            assert asyncio.get_running_loop().time() < end, f"{method} {path} is not answered"
            await asyncio.sleep(0.05)


class Play:
    """One random sequence. `facts` is what was acknowledged."""

    def __init__(self, back_end: BackEnd, seed: int) -> None:
        self.back_end = back_end
        self.random = random.Random(seed)
        self.facts: set[Fact] = set()
        self.versions: dict[str, int] = {}  # of the tickets that are there
        self.customer = Line(back_end.cluster, "/chat", f"customer{seed}", seed)
        self.chat = ""
        self.steps = 0

    async def step(self) -> None:
        self.steps += 1
        weighted = [self.put] * 4 + [self.comment] * 2 + [self.delete] + [self.say] * 4 + [self.close]
        await self.random.choice(weighted)()

    async def put(self) -> None:
        ticket = self.random.choice(TICKETS)
        status, answer = await self.back_end.ask("PUT", f"tickets/{ticket}", {"subject": f"step {self.steps}"})
        assert status in (200, 201), answer
        kind = "ticket.updated" if ticket in self.versions else "ticket.created"
        self.versions[ticket] = answer["version"]
        self.facts.add((kind, ticket, answer["version"]))

    async def comment(self) -> None:
        ticket = self.random.choice(TICKETS)
        author = {"id": "ann", "name": "Ann"}
        body = {"kind": "reply", "author": author, "excerpt": "so it is", "id": f"comment{self.steps}"}
        status, answer = await self.back_end.ask("POST", f"tickets/{ticket}/comments", body)
        if ticket in self.versions:
            assert status in (200, 201), answer
            self.facts.add(("ticket.commented", ticket, body["id"]))  # type: ignore[arg-type]

    async def delete(self) -> None:
        ticket = self.random.choice(TICKETS)
        status, answer = await self.back_end.ask("DELETE", f"tickets/{ticket}")
        if self.versions.pop(ticket, None) is not None and status == 200:  # 404: the first try was done, unanswered
            self.facts.add(("ticket.deleted", ticket, answer["version"]))

    async def say(self) -> None:
        if not self.chat:
            started = await self.customer.until_answered("chat:start", clientId=f"start{self.steps}", text="Hello?")
            self.chat = started["conversationId"]
            self.facts |= {("chat.started", self.chat, ""), ("chat.message", self.chat, 1)}
            return
        line = {"conversationId": self.chat, "text": f"step {self.steps}", "clientId": f"line{self.steps}"}
        said = await self.customer.until_answered("chat:message", **line)
        self.facts.add(("chat.message", self.chat, said["id"]))

    async def close(self) -> None:
        if self.chat:
            await self.customer.until_answered("chat:close", conversationId=self.chat)
            self.facts.add(("chat.closed", self.chat, ""))
            self.chat = ""


def fact_of(entry: dict[str, Any]) -> Fact:
    kind, data = entry["type"], entry["data"]
    if kind == "ticket.commented":
        return kind, data["ticketId"], data["comment"]["id"]
    if kind.startswith("ticket."):
        return kind, data["ticketId"], data["version"]
    return kind, data["conversationId"], data["id"] if kind == "chat.message" else ""


async def read(back_end: BackEnd) -> list[dict[str, Any]]:
    """Return the whole feed, page by page from any node."""
    found: list[dict[str, Any]] = []
    after = "0-0"
    while True:
        status, page = await back_end.ask("GET", f"feed?types=ticket.*,chat.*&after={after}&limit=50")
        assert status == 200 and page["complete"], page
        if not page["events"] and page["next"] == after:
            return found
        found += page["events"]
        after = page["next"]


def assert_whole(entries: list[dict[str, Any]], facts: set[Fact]) -> None:
    first: dict[str, dict[str, Any]] = {}
    for entry in entries:
        assert first.setdefault(entry["id"], entry) == entry, "a repeat is the same entry"
    told = [fact_of(entry) for entry in first.values()]
    assert facts - set(told) == set(), "acknowledged, and not in the feed"
    by_id: dict[Fact, int] = defaultdict(int)
    for fact in told:
        by_id[fact] += 1
    assert [fact for fact, count in by_id.items() if count > 1] == [], "one change under two ids"
    last: dict[tuple[str, str], int] = {}
    for kind, subject, number in told:
        if isinstance(number, int):
            of = kind.partition(".")[0], subject
            assert number > last.get(of, 0), f"{kind} {subject} {number} after {last[of]}"
            last[of] = number


@asynccontextmanager
async def a_cluster(folder: Path) -> AsyncIterator[Cluster]:
    async with Cluster(folder, drain_seconds=0) as found:
        yield found
        found.assert_no_traceback()


@pytest.mark.parametrize("seed", [11, 12])
@two_minutes
async def test_the_feed_has_every_acknowledged_change_whatever_node_dies(tmp_path: Path, seed: int) -> None:
    async with a_cluster(tmp_path) as found:
        back_end = BackEnd(found, seed)
        play = Play(back_end, seed)
        try:
            dead = None
            for step in range(STEPS):
                if step in KILL_AT:
                    dead = play.random.choice(found.nodes)
                    killing = asyncio.create_task(dead.kill())  # while the step is under way
                    await play.step()
                    await killing
                elif dead is not None and step - BACK_AFTER in KILL_AT:
                    await dead.start()
                await play.step()
            assert_whole(await read(back_end), play.facts)
        finally:
            await play.customer.close()
            await back_end.http.close()

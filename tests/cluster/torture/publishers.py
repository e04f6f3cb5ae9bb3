"""The publishers: back ends over HTTP, changes of tickets, an emitter, and volatile events.

Each sends numbered events one after the other, and repeats each under the same id until it is acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from insightdesk_rt.emitter import AsyncEmitter
from insightdesk_rt.engine.errors import RtError
from tests.cluster.torture.cluster import TEAM, Cluster
from tests.cluster.torture.judge import Key, Sent
from tests.cluster.torture.stores import PREFIX

GIVE_UP_S = 60.0
EMIT_TRY_S = 2.0
# A change of a ticket has no id: one that hangs in a frozen node would undo later ones when the node wakes.
PUT_TRY_S = 20.0
PAUSE_S = 0.05
EVENT = "torture"
NAMESPACE = "/tickets"


class Publishers:
    """All publishers of a run. `start` and `stop` a round; `sent` has the round's events by key."""

    def __init__(self, cluster: Cluster, rooms: list[tuple[str, ...]], tickets: list[str], seed: int) -> None:
        self.sent: dict[Key, Sent] = {}
        self.given_up = 0
        self.refused = 0
        self.volatile_sent = 0
        self.acknowledged = 0
        self._cluster = cluster
        self._rooms = rooms
        self._tickets = tickets
        self._random = random.Random(seed)
        self._counters: dict[str, int] = {}
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        token = cluster.nodes[0].server.token("back-end", "admin", ttl_s=86_000)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http: aiohttp.ClientSession | None = None
        self._emitter: AsyncEmitter | None = None

    async def open(self) -> None:
        self._http = aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(force_close=True))
        self._emitter = AsyncEmitter(self._cluster.publishing.url, PREFIX)
        for ticket in self._tickets:
            answer = await self._try("PUT", 0, f"/tickets/{ticket}", _ticket("new"), 10)
            assert answer is not None, f"{ticket} could not be made"

    async def close(self) -> None:
        await self.stop()
        if self._http is not None:
            await self._http.close()
        if self._emitter is not None:
            await self._emitter.close()

    def start(self) -> None:
        self.sent = {}
        self._stop.clear()
        works: list[tuple[str, Callable[[str, int], Any]]] = [
            ("http1", self._emit),
            ("http2", self._emit),
            ("http3", self._emit),
            ("emitter", self._by_emitter),
            ("volatile", self._volatile),
        ]
        works += [(f"put-{ticket}", self._put) for ticket in self._tickets]
        self._tasks = [asyncio.create_task(self._run(name, at, work)) for at, (name, work) in enumerate(works)]

    async def stop(self) -> None:
        """End the round: each publisher finishes its current event."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        self._tasks = []

    # ── one publisher ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, name: str, at: int, work: Callable[[str, int], Any]) -> None:
        while not self._stop.is_set():
            self._counters[name] = self._counters.get(name, 0) + 1
            await work(name, at)
            await asyncio.sleep(self._random.uniform(0.01, 0.05))

    def _new(self, name: str, rooms: tuple[str, ...], *, kept: bool = True) -> Sent:
        event = Sent((name, self._counters[name]), frozenset(rooms), time.monotonic(), kept)
        self.sent[event.key] = event
        return event

    def _acked(self, event: Sent, offset: str) -> None:
        event.offset, event.acked_s = offset, time.monotonic()
        self.acknowledged += 1

    async def _emit(self, name: str, at: int) -> None:
        rooms = self._random.choice(self._rooms)
        event = self._new(name, rooms)
        body = {
            "namespace": NAMESPACE,
            "event": EVENT,
            "rooms": list(rooms),
            "data": {"p": name, "n": event.key[1]},
            "id": f"{name}.{event.key[1]}",
        }
        answer = await self._until_acknowledged(event, "POST", at, "/emit", body, EMIT_TRY_S)
        if answer is not None:
            self._acked(event, answer["offset"])

    async def _put(self, name: str, at: int) -> None:
        ticket = name.removeprefix("put-")
        event = self._new(name, (f"ticket:{ticket}",))
        event.by_id = False
        body = _ticket(f"{name}/{event.key[1]}")
        answer = await self._until_acknowledged(event, "PUT", at, f"/tickets/{ticket}", body, PUT_TRY_S)
        if answer is not None:
            self._acked(event, answer["offset"])

    async def _by_emitter(self, name: str, at: int) -> None:
        assert self._emitter is not None
        rooms = self._random.choice(self._rooms)
        event = self._new(name, rooms, kept=False)
        target = self._emitter.of(NAMESPACE).to(*rooms)
        end = event.sent_s + GIVE_UP_S
        while time.monotonic() < end:
            event.tries += 1
            try:
                offset = await target.emit(EVENT, {"p": name, "n": event.key[1]}, id=f"{name}.{event.key[1]}")
            except RtError:
                self.refused += 1
                continue
            self._acked(event, offset)
            return
        self.given_up += 1

    async def _volatile(self, name: str, at: int) -> None:
        rooms = list(self._random.choice(self._rooms))
        data = {"p": name, "n": self._counters[name]}
        body = {"namespace": NAMESPACE, "event": EVENT, "rooms": rooms, "data": data, "volatile": True}
        self.volatile_sent += await self._try("POST", at, "/emit", body, EMIT_TRY_S) is not None

    # ── HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _until_acknowledged(
        self, event: Sent, method: str, at: int, path: str, body: Any, try_s: float
    ) -> Any | None:
        end = event.sent_s + GIVE_UP_S
        while time.monotonic() < end:
            event.tries += 1
            answer = await self._try(method, at, path, body, try_s)
            if answer is not None:
                return answer
            self.refused += 1
            if method == "POST":
                at += 1
            await asyncio.sleep(PAUSE_S)
        self.given_up += 1
        return None

    async def _try(self, method: str, at: int, path: str, body: Any, try_s: float) -> Any | None:
        """Return the answer, or None if there was none, or 503. Raises AssertionError for any other."""
        assert self._http is not None
        nodes = self._cluster.nodes if method == "PUT" else self._cluster.usable
        url = f"{nodes[at % len(nodes)].admin}/api/v1{path}"
        try:
            async with self._http.request(method, url, json=body, timeout=aiohttp.ClientTimeout(total=try_s)) as answer:
                if answer.status == 503:
                    return None
                said = await answer.json()
                assert answer.status in (200, 201), f"{method} {path}: {answer.status} {said}"
                return said
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


def _ticket(subject: str) -> dict[str, str]:
    # All fields each time: a Valkey that was emptied has lost the ticket.
    return {"subject": subject, "status": "open", "teamId": TEAM, "requesterId": "mia"}

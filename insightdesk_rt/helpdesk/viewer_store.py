"""Viewer store: who views a ticket and who types on it, on all nodes, so that two agents do not answer one customer.

Each ticket has a hash with a field per socket that views it (`<node>/v/<sid>`) and per user who types
(`<node>/t/<UserKey>`). Each node has the set of tickets on which it has such entries. A node removes its own entries;
`drop_node` removes those of a lost node. Typing expires soon, so that a lost "stopped" has no lasting effect; keys
that are not touched expire after a day.

The same store under another name holds who types in a conversation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.cluster.names import Key, Partition
from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Person, iso
from insightdesk_rt.engine.wire import json

PACKAGE = "insightdesk_rt.helpdesk"

ViewState = Literal["viewing", "replying", "away"]
# A user with two tabs is one viewer, in the busiest state of the two.
BUSIEST: tuple[ViewState, ...] = ("replying", "viewing", "away")
TTL_S = 86_400
BATCH = 100  # tickets per call: under a millisecond of Valkey's time
CLAIM_MS = 5_000  # many times what a batch and publishing it take

LIVE = load_script(PACKAGE, "ticket_live")
DROP = load_script(PACKAGE, "ticket_live_drop")
_read_person = msgspec.json.Decoder(Person)


class Viewer(Struct, gc=False):
    """`since`: when the user entered this state, ISO 8601."""

    user: Person
    state: ViewState
    since: str


class Live(Struct, gc=False):
    """Each user once, in the order in which they began."""

    viewers: list[Viewer]
    typing: list[Person]


class ViewerStore:
    """`incarnation` returns the name under which this node holds its entries, and under which they are removed."""

    def __init__(
        self, valkey: Valkey, partition: Partition, incarnation: Callable[[], str], name: str = "ticket"
    ) -> None:
        self._valkey = valkey
        self._partition = partition
        self._incarnation = incarnation
        self._name = name

    async def view(self, ticket_id: str, sid: str, person: Person, state: ViewState) -> bool:
        """Store that a socket views the ticket. Returns whether anything changed. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"v/{sid}", state, person)

    async def leave(self, ticket_id: str, sid: str) -> bool:
        """Store that a socket no longer views the ticket. Idempotent. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"v/{sid}", "", None)

    async def typing(self, ticket_id: str, person: Person, valid_ms: int) -> bool:
        """Store that a user types on the ticket, from any socket of this node. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"t/{person.key}", "typing", person, valid_ms)

    async def stopped(self, ticket_id: str, key: str) -> bool:
        """Store that the user no longer types from any socket of this node. Idempotent. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"t/{key}", "", None)

    async def live(self, ticket_id: str) -> Live:
        """Return who views the ticket and who types on it. Raises UNAVAILABLE."""
        key = self._key(ticket_id)
        time, values = await asyncio.gather(  # one pipeline
            self._valkey.command("TIME", near=key), self._valkey.command("HVALS", key)
        )
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        views: dict[str, tuple[int, int, Person]] = {}
        typing: dict[str, tuple[int, Person]] = {}
        for value in values:
            doing, since, until, text = value.split(" ", 3)
            person = json.decode(_read_person, text)
            if doing == "typing":
                if int(until) > now_ms:
                    typing[person.key] = min(
                        typing.get(person.key, (int(since), person)), (int(since), person), key=_first
                    )
            else:
                mine = (BUSIEST.index(doing), int(since), person)
                views[person.key] = min(views.get(person.key, mine), mine, key=_busiest)
        return Live(
            [Viewer(p, BUSIEST[n], iso(at)) for n, at, p in sorted(views.values(), key=lambda v: (v[1], v[2].key))],
            [p for _, p in sorted(typing.values(), key=lambda t: (t[0], t[1].key))],
        )

    async def drop_node(self, node: str) -> AsyncGenerator[dict[str, list[str]]]:
        """Remove the entries of a lost node. Yields batches: ticket id → UserKeys of those who typed there.

        Only one caller works at a time, so that the change is published once; others are refused with UNAVAILABLE. A
        batch is forgotten when the next one is requested. If the caller dies before it has published the change, the
        next caller starts with the same batch. Raises UNAVAILABLE.
        """
        tickets, claim, me = (
            self._tickets(node),
            self._partition.key(self._name + "-live-reaper", node),
            secrets.token_hex(8),
        )
        while batch := await self._valkey.command("SRANDMEMBER", tickets, BATCH):
            keys = [claim, *(self._key(ticket_id) for ticket_id in batch)]
            typing = await self._valkey.call(DROP, keys, [f"{node}/", me, CLAIM_MS])
            if typing is None:
                raise RtError("UNAVAILABLE", "Another node is removing these entries.")
            yield dict(zip(batch, typing, strict=True))
            await self._valkey.command("SREM", tickets, *batch)
        await self._valkey.command("DEL", claim)

    async def _put(self, ticket_id: str, field: str, doing: str, person: Person | None, valid_ms: int = 0) -> bool:
        node = self._incarnation()
        keys = [self._key(ticket_id), self._tickets(node)]
        args: list[Arg] = [ticket_id, f"{node}/{field}", doing, json.dumps(person), valid_ms, TTL_S]
        return bool(await self._valkey.call(LIVE, keys, args))

    def _key(self, ticket_id: str) -> Key:
        return self._partition.key(self._name + "-live", ticket_id)

    def _tickets(self, node: str) -> Key:
        return self._partition.key(self._name + "-live-node", node)


def _first(typing: tuple[int, Person]) -> int:
    return typing[0]


def _busiest(view: tuple[int, int, Person]) -> tuple[int, int]:
    return view[:2]

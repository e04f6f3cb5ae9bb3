"""Who looks at a ticket and who types on it, on all nodes: so that two people do not answer the same customer.

One hash per ticket, a field per socket that views (`<node>/v/<sid>`) and per user who types (`<node>/t/<UserKey>`),
and per node the set of tickets where it has somebody. A node takes its own off; `drop_node` those of one that is gone.
What was typed counts only for a while, so that a lost "stopped" heals by itself; keys nobody touches end after a day.

The same store under another name keeps who types in a conversation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import msgspec
from msgspec import Struct

from insightdesk_rt.engine.cluster.valkey import Arg, Valkey, load_script
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Person, iso
from insightdesk_rt.engine.wire import json

PACKAGE = "insightdesk_rt.helpdesk"

ViewState = Literal["viewing", "replying", "away"]
# A user with two tabs is one viewer: what they do in the busiest of them.
BUSIEST: tuple[ViewState, ...] = ("replying", "viewing", "away")
TTL_S = 86_400
BATCH = 100  # tickets per call: under a millisecond of Valkey's time
CLAIM_MS = 5_000  # many times what a batch and telling of it take

LIVE = load_script(PACKAGE, "ticket_live")
DROP = load_script(PACKAGE, "ticket_live_drop")
_read_person = msgspec.json.Decoder(Person)


class Viewer(Struct, gc=False):
    """`since`: ISO 8601, when the user began to do this."""

    user: Person
    state: ViewState
    since: str


class Live(Struct, gc=False):
    """Each user once, who came first first."""

    viewers: list[Viewer]
    typing: list[Person]


class ViewerStore:
    """`incarnation` names this node's present life: what it leaves behind is taken off under that name."""

    def __init__(self, valkey: Valkey, incarnation: Callable[[], str], name: str = "ticket") -> None:
        self._valkey = valkey
        self._incarnation = incarnation
        self._name = name

    async def view(self, ticket_id: str, sid: str, person: Person, state: ViewState) -> bool:
        """A socket views the ticket. Returns whether that is news. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"v/{sid}", state, person)

    async def leave(self, ticket_id: str, sid: str) -> bool:
        """A socket does not view the ticket any more; twice is nothing. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"v/{sid}", "", None)

    async def typing(self, ticket_id: str, person: Person, valid_ms: int) -> bool:
        """A user types on the ticket, from some socket of this node. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"t/{person.key}", "typing", person, valid_ms)

    async def stopped(self, ticket_id: str, key: str) -> bool:
        """The user types from no socket of this node any more; twice is nothing. Raises UNAVAILABLE."""
        return await self._put(ticket_id, f"t/{key}", "", None)

    async def live(self, ticket_id: str) -> Live:
        """Return who views and types. Raises UNAVAILABLE."""
        time, values = await asyncio.gather(  # one pipeline
            self._valkey.command("TIME"), self._valkey.command("HVALS", self._key(ticket_id))
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
        """Take off what a node that is gone has put down, yielding the tickets and the UserKeys of who typed there, a
        batch at a time.

        One caller does it, so that watchers are told once; others are refused meanwhile. A batch is forgotten when the
        next one is asked for: if the caller dies before telling the tickets' watchers, the next to call starts with
        that batch. Raises UNAVAILABLE.
        """
        tickets, claim, me = (
            self._tickets(node),
            self._valkey.key(self._name + "-live-reaper", node),
            secrets.token_hex(8),
        )
        while batch := await self._valkey.command("SRANDMEMBER", tickets, BATCH):
            keys = [claim, *(self._key(ticket_id) for ticket_id in batch)]
            typists = await self._valkey.call(DROP, keys, [f"{node}/", me, CLAIM_MS])
            if typists is None:
                raise RtError("UNAVAILABLE", "Somebody else is at it.")
            yield dict(zip(batch, typists, strict=True))
            await self._valkey.command("SREM", tickets, *batch)
        await self._valkey.command("DEL", claim)

    async def _put(self, ticket_id: str, field: str, doing: str, person: Person | None, valid_ms: int = 0) -> bool:
        node = self._incarnation()
        keys = [self._key(ticket_id), self._tickets(node)]
        args: list[Arg] = [ticket_id, f"{node}/{field}", doing, json.dumps(person), valid_ms, TTL_S]
        return bool(await self._valkey.call(LIVE, keys, args))

    def _key(self, ticket_id: str) -> str:
        return self._valkey.key(self._name + "-live", ticket_id)

    def _tickets(self, node: str) -> str:
        return self._valkey.key(self._name + "-live-node", node)


def _first(typist: tuple[int, Person]) -> int:
    return typist[0]


def _busiest(view: tuple[int, int, Person]) -> tuple[int, int]:
    return view[:2]

"""Asks `access_url` who may read which tickets: in batches, once for each user and ticket, and remembers the answers.

    → {"user": {"id", "role", "teamId", "name"}, "ticketIds": ["42", "43"]}
    ← {"42": {"read": true, "ttl_s": 60}, "43": {"read": false}}

Callers that ask about the same user and ticket share one question. The questions of one user within a few milliseconds
share one request. An answer is kept for its `ttl_s`. `forget` drops answers, and also marks the questions that were
sent: their answers may be older than the change that made the caller forget. Such an answer is neither kept nor used,
and its callers ask again. So after `forget`, nobody gets an answer that the back end gave before.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.backend.hooks.client import HookAnswer, HookClient, HookFailed
from insightdesk_rt.engine.model import User, UserKey
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.helpdesk.tickets.access import AccessUnknown

log = logging.getLogger(__name__)

BATCH_S = 0.003  # how long the first question of a user waits for others to share its request
MAX_TICKETS = 200  # of one request: as many as one call of a client may name
MAX_CACHED = 100_000  # answers; some 40 MB. The oldest is dropped for a new one
MAX_TTL_S = 3_600.0
TRIES = 3  # of one question whose answer is forgotten while it is under way


class Asker(NamedTuple):
    """A user as access depends on one."""

    key: UserKey
    role: str
    team_id: str


Key = tuple[Asker, str]  # and a ticket


class ReadAnswer(Struct):
    """The back end's answer about one ticket. `ttl_s`: for how long it holds; 0: for this question only."""

    read: bool
    ttl_s: Annotated[float, Meta(ge=0)] = 0.0


class Flight:
    """A question that is under way. `stale`: its answer must not be used. An answer of None: it is unknown."""

    __slots__ = ("answer", "stale")

    def __init__(self) -> None:
        self.answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self.stale = False


class AnswerCache:
    """The answers that still hold, found by user, by ticket, or both. Pure but for the clock that its callers pass."""

    def __init__(self, most: int = MAX_CACHED) -> None:
        self._most = most
        self._answers: OrderedDict[Key, tuple[bool, float]] = OrderedDict()  # the answer, and until when it holds
        self._by_user: dict[UserKey, set[Key]] = {}
        self._by_ticket: dict[str, set[Key]] = {}
        self._ends: list[tuple[float, Key]] = []  # a heap of the ends of answers that allowed something

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Key, now_s: float) -> bool | None:
        found = self._answers.get(key)
        return found[0] if found is not None and found[1] > now_s else None

    def put(self, key: Key, read: bool, until_s: float) -> None:
        self._drop(key)
        if len(self._answers) >= self._most:
            self._drop(next(iter(self._answers)))
        self._answers[key] = (read, until_s)
        self._by_user.setdefault(key[0].key, set()).add(key)
        self._by_ticket.setdefault(key[1], set()).add(key)
        if read:
            heapq.heappush(self._ends, (until_s, key))

    def _drop(self, key: Key) -> None:
        if self._answers.pop(key, None) is None:
            return
        for index, name in ((self._by_user, key[0].key), (self._by_ticket, key[1])):
            keys: set[Key] = index[name]  # type: ignore[index]
            keys.discard(key)
            if not keys:
                del index[name]  # type: ignore[arg-type]

    def forget(self, user_key: str, ticket_id: str) -> None:
        """Drop the answers about a user (""; any) and a ticket ("": any)."""
        keys: Iterable[Key] = self._answers
        if ticket_id:
            keys = self._by_ticket.get(ticket_id, ())
        elif user_key:
            keys = self._by_user.get(UserKey(user_key), ())
        for key in [key for key in keys if concerns(key, user_key, ticket_id)]:
            self._drop(key)

    def ended(self, now_s: float) -> list[tuple[UserKey, str]]:
        """Return users and tickets of answers that allowed and whose time is over. Each is returned once.

        An answer that was dropped to make room is among them at its end, too: its user may still have the ticket open.
        """
        over: dict[tuple[UserKey, str], None] = {}
        while self._ends and self._ends[0][0] <= now_s:
            _, key = heapq.heappop(self._ends)
            if self.get(key, now_s) is None:
                self._drop(key)
                over[key[0].key, key[1]] = None
        return list(over)


class AccessHook:
    """Implements the tickets' AccessQuestions. `hits` and `misses` count questions answered with and without asking."""

    def __init__(
        self, client: HookClient, *, now_s: Callable[[], float] = monotonic, cache: AnswerCache | None = None
    ) -> None:
        self.client = client
        self._now_s = now_s
        self._cache = AnswerCache() if cache is None else cache
        self._flights: dict[Key, Flight] = {}
        self._batches: dict[Asker, tuple[User, dict[str, Flight]]] = {}
        self._tasks = OwnedTasks(log)
        self.hits = 0
        self.misses = 0

    @property
    def cached(self) -> int:
        return len(self._cache)

    async def may_read(self, user: User, ticket_id: str) -> bool:
        """Return the back end's answer. Raises AccessUnknown if it gives none in time."""
        key = Asker(user.key, user.role, user.team_id), ticket_id
        for _ in range(TRIES):
            known = self._cache.get(key, self._now_s())
            if known is not None:
                self.hits += 1
                return known
            flight = self._flights.get(key) or self._begin(user, key)
            answer = await asyncio.shield(flight.answer)
            if not flight.stale:
                if answer is None:
                    raise AccessUnknown
                return answer
        raise AccessUnknown

    def _begin(self, user: User, key: Key) -> Flight:
        self.misses += 1
        flight = self._flights[key] = Flight()
        asker, ticket_id = key
        batch = self._batches.get(asker)
        if batch is None:
            batch = self._batches[asker] = (user, {})
            asyncio.get_running_loop().call_later(BATCH_S, self._send, asker)
        batch[1][ticket_id] = flight
        return flight

    def _send(self, asker: Asker) -> None:
        user, flights = self._batches.pop(asker)
        items = list(flights.items())
        for start in range(0, len(items), MAX_TICKETS):
            self._tasks.spawn(self._ask(asker, user, dict(items[start : start + MAX_TICKETS])), "asking access_url")

    async def _ask(self, asker: Asker, user: User, flights: dict[str, Flight]) -> None:
        found: dict[str, ReadAnswer] | None = None
        try:
            found = await self.client.ask({"user": described(user), "ticketIds": list(flights)}, _answers)
        except HookFailed:
            pass  # it is counted and logged
        finally:
            for ticket_id, flight in flights.items():
                self._landed((asker, ticket_id), flight, found)

    def _landed(self, key: Key, flight: Flight, found: dict[str, ReadAnswer] | None) -> None:
        """Keep an answer and give it to those who wait for it. A ticket that the back end does not name is denied."""
        one = None if found is None else found.get(key[1], ReadAnswer(False))
        if self._flights.get(key) is flight:
            del self._flights[key]
        if one is not None and not flight.stale and one.ttl_s:
            self._cache.put(key, one.read, self._now_s() + min(one.ttl_s, MAX_TTL_S))
        if not flight.answer.done():
            flight.answer.set_result(None if one is None else one.read)

    def forget(self, user_key: str = "", ticket_id: str = "") -> None:
        """Drop what is known about a user ("": any) and a ticket ("": any), and do not use answers under way."""
        self._cache.forget(user_key, ticket_id)
        for key in [key for key in self._flights if concerns(key, user_key, ticket_id)]:
            asker, ticket = key
            # A question that still waits in its batch will be answered later than now, so its callers may share it.
            if asker not in self._batches or ticket not in self._batches[asker][1]:
                self._flights.pop(key).stale = True

    def ended(self) -> Collection[tuple[UserKey, str]]:
        """Return users and tickets whose positive answers do not hold any more, so that they can be asked again."""
        return self._cache.ended(self._now_s())

    async def close(self) -> None:
        await self._tasks.close()


def concerns(key: Key, user_key: str, ticket_id: str) -> bool:
    return (not user_key or key[0].key == user_key) and (not ticket_id or key[1] == ticket_id)


def described(user: User) -> dict[str, Any]:
    """Return the user in the form that the back end receives. Unknown fields are null."""
    return {"id": user.id, "role": user.role, "teamId": user.team_id or None, "name": user.name or None}


def _answers(answer: HookAnswer) -> dict[str, ReadAnswer]:
    if answer.status == 429:
        raise HookFailed("error", "it answered 429: too many requests")
    if answer.status != 200:
        raise HookFailed("refused", f"it answered {answer.status}; it must answer 200 with what each ticket allows")
    try:
        return msgspec.convert(answer.body, dict[str, ReadAnswer])
    except msgspec.ValidationError as why:
        raise HookFailed("wrong_answer", f'expected {{ticketId: {{"read": …, "ttl_s": …}}}}: {why}') from None

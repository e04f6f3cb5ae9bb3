"""The ticket store: versions, diffs and counts hold whatever comes at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from insightdesk_rt.cluster.valkey import Valkey
from insightdesk_rt.errors import RtError
from insightdesk_rt.model import Offset
from insightdesk_rt.stores.tickets import (
    PRIORITIES,
    STATUSES,
    Actor,
    Comment,
    Facts,
    TicketChange,
    TicketStore,
    read_change,
)
from insightdesk_rt.wire import json
from tests.support.aio import aio


@asynccontextmanager
async def a_store(url: str, prefix: str) -> AsyncIterator[TicketStore]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    yield TicketStore(valkey)
    await valkey.close()


def change(**fields: Any) -> TicketChange:
    return TicketChange(**fields)


REPLY = Comment("c1", "reply", Actor("anna", "Anna"), 'He said: "100 %" \n')


@aio
async def test_a_new_ticket_has_version_one_and_what_was_not_given_has_defaults(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        outcome = await store.put("42", change(subject='Größe 100 %d "x"', watchers=["b", "a", "b"]))
        assert (outcome.done, outcome.created, outcome.version, outcome.offset) == (True, True, 1, "")
        ticket = await store.get("42")
        assert ticket is not None
        assert (ticket.subject, ticket.status, ticket.priority) == ('Größe 100 %d "x"', "new", "normal")
        assert (ticket.assigneeId, ticket.watchers, ticket.version) == (None, ["a", "b"], 1)
        assert ticket.createdAt == ticket.updatedAt and ticket.createdAt.endswith("Z")
        assert await store.get("43") is None and await store.facts("43") is None and await store.version("43") == 0


@aio
async def test_a_change_says_old_and_new_of_what_changed_and_nothing_else(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.put("42", change(subject="A", watchers=["a"], assigneeId="anna"))
        outcome = await store.put(
            "42", change(subject="B", status="new", watchers=["a", "a"], assigneeId=None, by=Actor("x", "X"))
        )
        assert outcome.version == 2 and [record.kind for record in outcome.untold] == ["created", "updated"]
        told = read_change(outcome.untold[-1])
        assert told.changes == {"subject": ("A", "B"), "assigneeId": ("anna", None)}
        assert told.by == Actor("x", "X") and told.ticket.subject == "B" and told.at >= told.createdAt

        same = await store.put("42", change(subject="B", watchers=["a"]))
        assert (same.done, same.version) == (False, 2)
        assert same.untold == outcome.untold, "what was not told is given to whoever asks next"


@aio
async def test_what_was_told_is_not_given_again_and_its_offset_is_remembered(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        first = (await store.put("42", change(subject="A"))).untold[-1]
        second = (await store.put("42", change(subject="B"))).untold[-1]
        await store.told("42", second.seq, Offset("9-0"))
        await store.told("42", first.seq, Offset("5-0"))  # late
        await store.untold.told({"42": second.seq})
        outcome = await store.put("42", change(subject="B"))
        assert (outcome.untold, outcome.offset) == ([], "9-0")
        await store.told("none", 1, Offset("1-0"))
        assert await store.version("none") == 0


@aio
async def test_changes_at_once_get_a_version_each_and_no_change_is_lost(valkey_url: str, prefix: str) -> None:
    """Seed of the rule: two PUTs that read, then write, would both become version 2."""
    async with a_store(valkey_url, prefix) as store:
        outcomes = await asyncio.gather(*(store.put("42", change(subject=str(n))) for n in range(50)))
        assert sorted(outcome.version for outcome in outcomes) == list(range(1, 51))
        records = max((outcome.untold for outcome in outcomes), key=len)
        assert [read_change(record).version for record in records] == list(range(1, 51))
        subjects = [read_change(record).changes["subject"] for record in records]
        assert all(was[1] == then[0] for was, then in pairwise(subjects))


@aio
async def test_counts_are_what_a_count_would_say_after_any_changes(valkey_url: str, prefix: str) -> None:
    rng = random.Random(7)
    async with a_store(valkey_url, prefix) as store:
        assert (await store.counts()).byStatus == dict.fromkeys(STATUSES, 0)
        ids = [f"t{n}" for n in range(12)]
        for _ in range(200):
            ticket_id = rng.choice(ids)
            if rng.random() < 0.15:
                await store.delete(ticket_id)
                continue
            fields: dict[str, Any] = {
                "status": rng.choice(STATUSES),
                "priority": rng.choice(PRIORITIES),
                "assigneeId": rng.choice([None, "anna"]),
            }
            kept = {name: value for name, value in fields.items() if rng.random() < 0.6}
            await store.put(ticket_id, change(**kept))
        tickets = [ticket for ticket_id in ids if (ticket := await store.get(ticket_id))]
        unsolved = [ticket for ticket in tickets if ticket.status not in ("solved", "closed")]
        counts = await store.counts()
        assert counts.total == len(tickets) and counts.unsolved == len(unsolved)
        assert counts.unassigned == sum(ticket.assigneeId is None for ticket in unsolved)
        assert counts.byStatus == {s: Counter(t.status for t in tickets)[s] for s in STATUSES}  # type: ignore[index]
        assert counts.byPriority == {p: Counter(t.priority for t in unsolved)[p] for p in PRIORITIES}  # type: ignore[index]


@aio
async def test_a_deleted_ticket_is_gone_and_its_versions_go_on_if_it_comes_back(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.put("42", change(teamId="t1"))
        gone = await store.delete("42")
        assert (gone.done, gone.version) == (True, 2)
        assert read_change(gone.untold[-1]).ticket.teamId == "t1"
        assert await store.get("42") is None and await store.facts("42") is None and await store.version("42") == 0
        again = await store.delete("42")
        assert (again.done, again.untold) == (False, gone.untold)
        back = await store.put("42", change(subject="B"))
        assert (back.created, back.version) == (True, 3)
        seqs = [record.seq for record in back.untold]
        assert seqs == sorted(set(seqs))
        ticket = await store.get("42")
        assert ticket is not None and ticket.teamId is None, "nothing of the old one shines through"
        assert await store._valkey.command("TTL", store._key("42")) == -1


@aio
async def test_a_comment_is_known_again_by_its_id_alone(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        with pytest.raises(RtError) as refused:
            await store.comment("42", REPLY, remember=True)
        assert refused.value.code == "NOT_FOUND"
        await store.put("42", change(subject="A"))
        first = await store.comment("42", REPLY, remember=True)
        assert (first.done, first.version) == (True, 1)
        assert read_change(first.untold[-1]).comment == REPLY
        again = await store.comment("42", REPLY, remember=True)
        assert (again.done, again.untold) == (False, first.untold)
        assert (await store.comment("42", REPLY, remember=False)).done, "an id of our making is never met again"


@aio
async def test_facts_are_what_access_needs(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.put("42", change(teamId="t 1", requesterId="auth0|c", watchers=["w@x.example"]))
        assert await store.facts("42") == Facts("t 1", "auth0|c", ["w@x.example"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"status":"broken"}', "status"),
        ('{"priority":1}', "priority"),
        ('{"subject":null}', "subject"),
        ('{"subject":"%s"}' % ("x" * 501), "subject"),
        ('{"watchers":["a","b\\n"]}', "watchers[1]"),
        ('{"requesterId":""}', "requesterId"),
        ('{"assigneeId":"%s"}' % ("x" * 129), "assigneeId"),
        ('{"by":{"id":"x"}}', "by.name"),
    ],
)
def test_a_wrong_field_of_a_change_is_named(body: str, field: str) -> None:
    with pytest.raises(json.BadJson) as bad:
        json.decode(msgspec.json.Decoder(TicketChange), body)
    assert bad.value.field == field

"""The ticket store: versions, diffs and counts stay correct under concurrent changes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Offset
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.tickets.store import (
    PRIORITIES,
    STATUSES,
    Actor,
    Comment,
    Facts,
    Guard,
    TicketChange,
    TicketStore,
    microseconds,
    read_change,
)
from tests.support.aio import aio


@asynccontextmanager
async def a_store(url: str, prefix: str) -> AsyncIterator[TicketStore]:
    valkey = Valkey(url, prefix)
    await valkey.start()
    yield TicketStore(valkey, valkey.names.namespace("/tickets"))
    await valkey.close()


def change(**fields: Any) -> TicketChange:
    return TicketChange(**fields)


REPLY = Comment("c1", "reply", Actor("anna", "Anna"), 'He said: "100 %" \n')


@aio
async def test_a_new_ticket_has_version_one_and_defaults_for_missing_fields(valkey_url: str, prefix: str) -> None:
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
async def test_a_change_has_old_and_new_values_of_the_changed_fields_only(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.put("42", change(subject="A", watchers=["a"], assigneeId="anna"))
        outcome = await store.put(
            "42", change(subject="B", status="new", watchers=["a", "a"], assigneeId=None, by=Actor("x", "X"))
        )
        assert outcome.version == 2 and [record.kind for record in outcome.pending] == ["created", "updated"]
        told = read_change(outcome.pending[-1])
        assert told.changes == {"subject": ("A", "B"), "assigneeId": ("anna", None)}
        assert told.by == Actor("x", "X") and told.ticket.subject == "B" and told.at >= told.createdAt

        same = await store.put("42", change(subject="B", watchers=["a"]))
        assert (same.done, same.version) == (False, 2)
        assert same.pending == outcome.pending, "an unpublished event is returned to the next caller"


@aio
async def test_a_published_event_is_no_longer_pending_and_its_offset_is_stored(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        first = (await store.put("42", change(subject="A"))).pending[-1]
        second = (await store.put("42", change(subject="B"))).pending[-1]
        await store.mark_published([("42", second.seq, Offset("9-0"))])
        await store.mark_published([("42", first.seq, Offset("5-0"))])  # late
        await store.pending.mark_published({"42": second.seq})
        outcome = await store.put("42", change(subject="B"))
        assert (outcome.pending, outcome.offset) == ([], "9-0")
        await store.mark_published([("none", 1, Offset("1-0"))])
        assert await store.version("none") == 0


@aio
async def test_concurrent_changes_get_one_version_each_and_none_is_lost(valkey_url: str, prefix: str) -> None:
    """Seed of the rule: two PUTs that read, then write, would both become version 2."""
    async with a_store(valkey_url, prefix) as store:
        outcomes = await asyncio.gather(*(store.put("42", change(subject=str(n))) for n in range(50)))
        assert sorted(outcome.version for outcome in outcomes) == list(range(1, 51))
        records = max((outcome.pending for outcome in outcomes), key=len)
        assert [read_change(record).version for record in records] == list(range(1, 51))
        subjects = [read_change(record).changes["subject"] for record in records]
        assert all(was[1] == then[0] for was, then in pairwise(subjects))


@aio
async def test_counts_equal_the_number_of_tickets_after_any_changes(valkey_url: str, prefix: str) -> None:
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
async def test_versions_of_a_deleted_ticket_continue_if_it_comes_back(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.put("42", change(teamId="t1"))
        gone = await store.delete("42")
        assert (gone.done, gone.version) == (True, 2)
        assert read_change(gone.pending[-1]).ticket.teamId == "t1"
        assert await store.get("42") is None and await store.facts("42") is None and await store.version("42") == 0
        again = await store.delete("42")
        assert (again.done, again.pending) == (False, gone.pending)
        back = await store.put("42", change(subject="B"))
        assert (back.created, back.version) == (True, 3)
        seqs = [record.seq for record in back.pending]
        assert seqs == sorted(set(seqs))
        ticket = await store.get("42")
        assert ticket is not None and ticket.teamId is None, "it has no fields of the old one"
        assert await store._valkey.command("TTL", store._key("42")) == -1


@aio
async def test_a_comment_is_recognised_by_its_id_only(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        with pytest.raises(RtError) as refused:
            await store.comment("42", REPLY, remember=True)
        assert refused.value.code == "NOT_FOUND"
        await store.put("42", change(subject="A"))
        first = await store.comment("42", REPLY, remember=True)
        assert (first.done, first.version) == (True, 1)
        assert read_change(first.pending[-1]).comment == REPLY
        again = await store.comment("42", REPLY, remember=True)
        assert (again.done, again.pending) == (False, first.pending)
        assert (await store.comment("42", REPLY, remember=False)).done, "a generated id does not occur again"


@aio
async def test_facts_have_the_fields_that_access_needs(valkey_url: str, prefix: str) -> None:
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


# ── changes that come late ──────────────────────────────────────────────────────────────────────────────────────────


AN_HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)


def minute(number: int) -> datetime:
    return AN_HOUR_AGO + timedelta(minutes=number)


def before(number: int) -> Guard:
    return Guard(at_us=microseconds(minute(number)))


@aio
async def test_changes_with_times_give_the_same_ticket_in_any_order(valkey_url: str, prefix: str) -> None:
    """The back end's queue is not ordered: a retried job came last and reopened a ticket that was closed after it."""
    changes = [
        change(at=minute(1), subject="S", status="open"),
        change(at=minute(2), assigneeId="anna", status="pending"),
        change(at=minute(3), status="closed"),
        change(at=minute(4), assigneeId="bert"),
    ]
    async with a_store(valkey_url, prefix) as store:
        for number, order in enumerate(itertools.permutations(changes)):
            for one in order:
                await store.put(f"t{number}", one)
                await store.put(f"t{number}", one)
            ticket = await store.get(f"t{number}")
            assert ticket is not None
            assert (ticket.subject, ticket.status, ticket.assigneeId) == ("S", "closed", "bert"), order


@aio
async def test_a_change_that_is_older_in_all_fields_is_reported_as_late(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        closed = await store.put("17", change(at=minute(5), status="closed"))
        late = await store.put("17", change(at=minute(4), status="open"))
        assert late.late and not late.done and late.version == closed.version and late.pending == closed.pending
        part = await store.put("17", change(at=minute(4), status="open", priority="high"))
        assert part.done and not part.late and list(read_change(part.pending[-1]).changes) == ["priority"]
        again = await store.put("17", change(at=minute(5), status="closed"))
        assert not again.done and not again.late, "the same again, of the same time"
        same = await store.put("17", change(at=minute(9), status="closed"))
        assert not same.done and not same.late
        assert (await store.put("17", change(at=minute(8), status="solved"))).late, "the later one said what it is"
        ticket = await store.get("17")
        assert ticket is not None and ticket.status == "closed"


@aio
async def test_a_job_from_before_a_change_without_a_time_is_late(valkey_url: str, prefix: str) -> None:
    """A change without a time counts as one of when it arrives, as the page says, where others have times."""
    async with a_store(valkey_url, prefix) as store:
        await store.put("17", change(at=minute(1), subject="S", status="open"))
        assert (await store.put("17", change(status="closed"))).done
        assert (await store.put("17", change(at=minute(2), status="open"))).late
        assert (await store.put("17", change(at=minute(2), subject="T"))).done, "that field has no change of now"
        await store.delete("17")
        assert (await store.put("17", change(at=minute(3), status="open"))).late and await store.get("17") is None


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(days=3650)])
@aio
async def test_a_time_in_the_future_does_not_block_later_changes(
    valkey_url: str, prefix: str, ahead: timedelta
) -> None:
    """One job with a wrong clock or zone froze the ticket until its time had come, with 200 to all others."""
    async with a_store(valkey_url, prefix) as store:
        assert (await store.put("17", change(at=datetime.now(UTC) + ahead, subject="S", status="open"))).created
        later = await store.put("17", change(at=datetime.now(UTC) + timedelta(seconds=1), status="closed"))
        assert later.done and not later.late
        assert (await store.delete("17", Guard(at_us=microseconds(datetime.now(UTC) + ahead)))).done
        assert (await store.put("17", change(at=datetime.now(UTC) + timedelta(seconds=1), status="new"))).created


@aio
async def test_an_old_time_is_accepted_if_there_is_no_later_one(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        assert (await store.put("17", change(at=datetime(1, 1, 1, tzinfo=UTC), subject="S"))).created
        assert (await store.put("17", change(at=datetime(1969, 1, 1, tzinfo=UTC), subject="T"))).done
        assert (await store.put("17", change(at=datetime(1968, 1, 1, tzinfo=UTC), subject="U"))).late


@aio
async def test_a_late_change_does_not_bring_a_deleted_ticket_back(valkey_url: str, prefix: str) -> None:
    async with a_store(valkey_url, prefix) as store:
        await store.put("17", change(at=minute(1), status="open"))
        assert (await store.delete("17", before(0))).late, "it was changed after the deletion that comes now"
        await store.delete("17", before(5))
        assert (await store.put("17", change(at=minute(4), status="closed"))).late and await store.get("17") is None
        assert (await store.put("17", change(at=minute(6), status="new"))).created
        assert (await store.put("17", change(at=minute(5) - timedelta(seconds=1), subject="S"))).late


@aio
async def test_a_change_that_expects_another_version_is_a_conflict_with_the_current_version(
    valkey_url: str, prefix: str
) -> None:
    async with a_store(valkey_url, prefix) as store:
        created = await store.put("17", change(ifVersion=0, status="open"))
        assert created.created
        assert (await store.put("17", change(ifVersion=0, status="open"))).pending == created.pending, "sent again"
        assert (await store.put("17", change(ifVersion=1, status="closed"))).version == 2
        assert not (await store.put("17", change(ifVersion=1, status="closed"))).done, "sent again"
        for wanted in (0, 1, 3):
            with pytest.raises(RtError) as refused:
                await store.put("17", change(ifVersion=wanted, status="open"))
            assert (refused.value.code, refused.value.fields) == ("CONFLICT", {"field": "ifVersion", "version": 2})
        with pytest.raises(RtError):
            await store.delete("17", Guard(version=1))
        assert (await store.delete("17", Guard(version=2))).done
        with pytest.raises(RtError) as gone:
            await store.put("17", change(ifVersion=3, status="open"))
        assert gone.value.fields["version"] == 0

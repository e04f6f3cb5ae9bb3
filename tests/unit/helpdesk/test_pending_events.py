"""Pending events: none is lost before it was published."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.helpdesk.pending_events import PendingEvent, once_of, read_pending, subject_of
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from tests.support import fakes
from tests.support.aio import aio


def test_a_record_has_its_seq_its_kind_and_its_data() -> None:
    (change,) = read_pending("presence", "u1", ['1795397242677 status {"a": "b c"}'])
    assert change == PendingEvent("presence", "u1", 1795397242677, "status", '{"a": "b c"}')
    assert change.id == "presence.u1.1795397242677"
    (change,) = read_pending("chat", "c1", ['1795397242677 message:c1:s:anna:m%201 {"a": "b c"}'])
    assert (change.kind, change.data, change.id) == ("message", '{"a": "b c"}', "chat:message:c1:s:anna:m%201")


@given(st.lists(st.text(max_size=5), min_size=3, max_size=3), st.lists(st.text(max_size=5), min_size=3, max_size=3))
def test_different_ids_never_make_the_same_event(first: list[str], second: list[str]) -> None:
    """The user "a" with the clientId "b:x" was taken for the user "a:b" with "x"."""
    assert (once_of(*first) == once_of(*second)) is (first == second)
    assert " " not in once_of(*first), "a record is split at blanks"


@given(st.text(min_size=1, max_size=8), st.text(max_size=8))
def test_the_subject_of_an_event_can_be_read_from_its_id(subject: str, id: str) -> None:
    by_number = PendingEvent("notification", subject, 1795397242677, "read", "")
    by_name = PendingEvent("notification", subject, 1, "notification", "", once_of(subject, id))
    assert subject_of(by_number.id) == subject_of(by_name.id) == subject


def test_ids_that_contain_the_separator_are_distinguished() -> None:
    assert once_of("a", "b:x") != once_of("a:b", "x")


@aio
async def test_an_event_stays_pending_until_it_was_published(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    store = PresenceStore(valkey, valkey.names.namespace("/presence"), grace_ms=0)
    (first,) = (await store.join(fakes.user("u1"), "n1")).pending
    both = await store.choose("u1", "busy")
    assert both[0] == first and both[1].seq > first.seq, "who tells the second tells the first before it"
    assert await store.pending.overdue(age_ms=60_000) == []
    await asyncio.sleep(0.005)
    assert await store.pending.overdue(age_ms=0) == both

    await store.pending.mark_published({"u1": first.seq})
    await store.pending.mark_published({"u1": first.seq, "nobody": 5})
    assert await store.pending.overdue(age_ms=0) == both[1:]
    await store.pending.mark_published({"u1": both[1].seq})
    assert await store.pending.overdue(age_ms=0) == []
    await valkey.close()


@aio
async def test_numbers_continue_for_a_subject_that_was_forgotten(valkey_url: str, prefix: str) -> None:
    """Otherwise its first event after that would have the id of an old one, and the log would not take it."""
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    store = PresenceStore(valkey, valkey.names.namespace("/presence"), grace_ms=0)
    (before,) = (await store.join(fakes.user("u1"), "n1")).pending
    await valkey.command(
        "DEL",
        valkey.names.namespace("/presence").key("presence", "u1"),
        valkey.names.namespace("/presence").key("presence-untold", "u1"),
    )
    await asyncio.sleep(0.005)
    (after,) = (await store.join(fakes.user("u1"), "n2")).pending
    assert after.seq > before.seq
    await valkey.close()


@aio
async def test_numbers_are_not_reused_by_a_valkey_that_lost_its_last_changes(valkey_url: str, prefix: str) -> None:
    """A replica that lags behind is promoted: what follows its copy of the subject must not look like what was lost."""
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    store, key = (
        PresenceStore(valkey, valkey.names.namespace("/presence"), grace_ms=0),
        valkey.names.namespace("/presence").key("presence", "u1"),
    )
    (first,) = (await store.join(fakes.user("u1"), "n1")).pending
    copy = await valkey.command("HGETALL", key)
    fields = list(copy.items()) if isinstance(copy, dict) else list(zip(copy[::2], copy[1::2], strict=True))
    lost = (await store.choose("u1", "busy"))[-1]
    await valkey.command("DEL", key)
    await valkey.command("HSET", key, *(part for field in fields for part in field))
    await asyncio.sleep(0.005)
    new = (await store.choose("u1", "away"))[-1]
    assert new.seq > lost.seq > first.seq
    await valkey.close()

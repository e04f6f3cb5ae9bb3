"""How long the audit log keeps its entries, by age and by number, and the count of dropped ones."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insightdesk_rt.api import audit_store as audit
from insightdesk_rt.api.audit_store import AuditLog, Entry
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.wire import json
from tests.support.aio import aio

DAY_MS = 86_400_000


def entry(who: str) -> Entry:
    return Entry("", "", who, "admin", "node.drain", "n1", "", "x", "::1", "n1", "ok")


@asynccontextmanager
async def a_log(url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[AuditLog, Valkey]]:
    monkeypatch.setattr(audit, "KEPT", 5)
    monkeypatch.setattr(audit, "MAX_KEPT", 20)
    valkey = Valkey(url, prefix)
    await valkey.start()
    try:
        yield AuditLog(valkey), valkey
    finally:
        await valkey.close()


async def put_old(valkey: Valkey, days: int, count: int) -> None:
    """Write entries that are some days old."""
    at_ms = int(time.time() * 1000) - days * DAY_MS
    for number in range(count):
        text = json.encode_struct(entry(f"old{number}"))
        await valkey.command("XADD", valkey.names.cluster.key("audit"), f"{at_ms}-{number}", "e", text)


@aio
async def test_a_recent_entry_is_not_pushed_out_by_many_others(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_log(valkey_url, prefix, monkeypatch) as (log, valkey):
        await put_old(valkey, audit.KEPT_DAYS - 1, 1)
        for number in range(15):
            await log.add(entry(f"noise{number}"))
        assert [one.who for one in await log.read(100)][-1] == "old0"
        assert await log.dropped() == (0, 0)


@aio
async def test_old_entries_are_dropped_and_counted_when_there_are_enough_newer_ones(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_log(valkey_url, prefix, monkeypatch) as (log, valkey):
        assert await log.dropped() == (0, 0)
        await put_old(valkey, audit.KEPT_DAYS + 1, 4)
        for number in range(3):
            await log.add(entry(f"new{number}"))
        assert [one.who for one in await log.read(100)] == ["new2", "new1", "new0", "old3", "old2"]
        assert await log.dropped() == (2, 0)


@aio
async def test_entries_beyond_the_maximum_are_dropped_early_and_counted_separately(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_log(valkey_url, prefix, monkeypatch) as (log, _):
        for number in range(30):
            await log.add(entry(f"noise{number}"))
        assert len(await log.read(100)) == 20
        assert await log.dropped() == (10, 10)

"""What every part of the back end's wing has without saying so."""

from __future__ import annotations

from typing import Any

from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.backend.parts import PARTS
from insightdesk_rt.engine.dispatch.namespace import Ticker, every
from insightdesk_rt.engine.settings import SettingsPart
from tests.support.aio import aio

CONTEXT: Any = None
API: Any = None


class Sample(BackendPart):
    name = "sample"

    @every(1_000)
    async def look(self) -> None: ...


class Longer(Sample):
    @every(60_000, on="leader")
    async def clean(self) -> None: ...


def test_periodic_methods_are_found_by_their_decorator() -> None:
    assert BackendPart.tickers == ()
    assert Longer.tickers == (Ticker("look", 1_000, False), Ticker("clean", 60_000, True))


@aio
async def test_a_part_has_nothing_by_default() -> None:
    part = BackendPart(CONTEXT)
    await part.start()
    assert list(part.routes(API)) == [] and part.settings is SettingsPart
    await part.close()


def test_a_part_with_periodic_work_has_a_name_of_its_own() -> None:
    """Work of the leader is claimed in Valkey under the name."""
    names = [part.name for part in PARTS if part.tickers]
    assert all(names) and len(set(names)) == len(names)

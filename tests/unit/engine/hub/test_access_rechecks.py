"""A join starts again if access to its room is rechecked meanwhile."""

from __future__ import annotations

import pytest

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.access_rechecks import ALL_ROOMS, TRIES, AccessChanged, AccessRechecks, Unchanged
from insightdesk_rt.engine.model import Room
from tests.support.aio import aio

MINE, OTHER = Room("ticket:1"), Room("ticket:2")


@pytest.mark.parametrize(
    ("noted", "tries"), [((), 1), ((OTHER,), 1), ((MINE,), 2), ((ALL_ROOMS,), 2), ((MINE, OTHER), 2)]
)
@aio
async def test_a_join_starts_again_if_access_to_its_room_is_rechecked_meanwhile(
    noted: tuple[Room, ...], tries: int
) -> None:
    rechecks, tried = AccessRechecks(), 0

    async def check_and_join(unchanged: Unchanged) -> str:
        nonlocal tried
        tried += 1
        assert unchanged(), "a recheck before this attempt does not affect it"
        for room in noted if tried == 1 else ():
            rechecks.note(room)
        if not unchanged():
            raise AccessChanged
        return "joined"

    rechecks.note(MINE)
    assert await rechecks.join([MINE], check_and_join) == "joined"
    assert tried == tries


@aio
async def test_a_join_whose_room_is_rechecked_at_each_attempt_is_unavailable() -> None:
    rechecks, tried = AccessRechecks(), 0

    async def check_and_join(unchanged: Unchanged) -> None:
        nonlocal tried
        tried += 1
        raise AccessChanged

    with pytest.raises(RtError, match="UNAVAILABLE"):
        await rechecks.join([MINE], check_and_join)
    assert tried == TRIES


@aio
async def test_a_failed_join_is_not_repeated_and_leaves_no_state() -> None:
    rechecks = AccessRechecks()

    async def check_and_join(unchanged: Unchanged) -> None:
        raise RtError("FORBIDDEN")

    with pytest.raises(RtError, match="FORBIDDEN"):
        await rechecks.join([MINE], check_and_join)
    assert not rechecks._rechecked

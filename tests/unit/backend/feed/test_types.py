"""Which entries a pattern chooses, and the description of each type."""

from __future__ import annotations

import msgspec
import pytest

from insightdesk_rt.backend.feed.types import REPORTS, TYPES, FeedAnswer, types_of
from insightdesk_rt.engine.errors import RtError

# DESIGN: the types that a back end is told of.
WANTED = {
    "ticket.created", "ticket.updated", "ticket.commented", "ticket.assigned", "ticket.deleted",
    "chat.started", "chat.accepted", "chat.message", "chat.transferred", "chat.closed", "chat.rated", "chat.missed",
    "presence.online", "presence.offline", "presence.status",
    "notification.read", "notification.unseen",
    "session.revoked",
}  # fmt: skip


def test_the_feed_has_every_type_once() -> None:
    assert set(TYPES) == WANTED and len(TYPES) == len(WANTED)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([], WANTED),
        (["*"], WANTED),
        (["presence.*"], {"presence.online", "presence.offline", "presence.status"}),
        (["chat.closed", "ticket.created"], {"chat.closed", "ticket.created"}),
        (["*.rated"], {"chat.rated"}),
    ],
)
def test_a_pattern_chooses_types(patterns: list[str], found: set[str]) -> None:
    assert types_of(patterns) == found


def test_a_pattern_that_fits_no_type_is_refused_by_its_place() -> None:
    """It is misspelt: whoever wrote it would wait for ever."""
    with pytest.raises(RtError) as refused:
        types_of(["chat.*", "chats.*"])
    assert refused.value.fields == {"field": "types[1]"} and "chat.closed" in refused.value.message


def test_each_type_has_a_schema_of_its_own() -> None:
    _, components = msgspec.json.schema_components([FeedAnswer])
    named = {one["properties"]["type"]["enum"][0] for one in components.values() if "type" in one.get("properties", {})}
    assert named >= WANTED
    assert {report.__name__ for report in REPORTS} <= set(components)

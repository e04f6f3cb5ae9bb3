"""Every kind of change that the scripts record has an event."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from insightdesk_rt.helpdesk.chat.feed import CUSTOMERS, ChatFeed, takers

LUA = Path(__file__).parents[4] / "insightdesk_rt" / "helpdesk" / "chat" / "lua"
KINDS = sorted(
    {kind for path in LUA.glob("chat_*.lua") for kind in re.findall(r"report\(c, '(\w+)'", path.read_text())}
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_change_has_an_event(kind: str) -> None:
    assert hasattr(ChatFeed, "_" + kind)


def test_the_scripts_report_several_kinds_of_changes() -> None:
    assert {"queued", "dequeued", "accepted", "closed", "transferred"} <= set(KINDS)


def test_the_events_of_the_queue_go_to_the_staff_who_may_accept() -> None:
    assert takers("t1") == ["team:t1", "role:admin"] and takers("") == ["role:agent", "role:admin"]
    assert CUSTOMERS == "role:customer"

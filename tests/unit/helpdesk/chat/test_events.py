"""The payloads of the chat."""

from __future__ import annotations

import msgspec

from insightdesk_rt.engine.dispatch.namespace import Outbound
from insightdesk_rt.helpdesk.chat import events as words
from insightdesk_rt.helpdesk.chat.conversation import conversation

FIELDS = (
    "state active customerId carl customerName Carl customerOnline 1 agentId anna agentName Anna createdAt 1000 last 4"
)
ROW = ["c1", 0, [*FIELDS.split(), "acceptedAt", "2000", "waitingSince", "1000", "note", "psst", "readByAgent", "3"]]


def test_fields_that_do_not_apply_are_missing_and_notes_are_for_staff() -> None:
    shown = msgspec.to_builtins(words.view(conversation(ROW), is_staff=False))
    assert shown == {
        "conversationId": "c1",
        "state": "active",
        "customer": {"id": "carl", "name": "Carl", "online": True},
        "agent": {"id": "anna", "name": "Anna", "online": False},
        "createdAt": "1970-01-01T00:00:01.000Z",
        "acceptedAt": "1970-01-01T00:00:02.000Z",
        "lastMessageId": 4,
        "readUpTo": {"customer": 0, "agent": 3},
    }
    assert words.view(conversation(ROW), is_staff=True).note == "psst"


def test_all_events_but_typing_and_places_are_logged() -> None:
    """A lost typing bubble does no harm; a lost message or state stays wrong on a screen. Places would fill the log."""
    told = [
        each for each in vars(words).values() if isinstance(each, type) and issubclass(each, Outbound) and each.event
    ]
    assert {each.event for each in told if not each.logged} == {
        "chat:typing",
        "chat:stopTyping",
        "chat:joined",
        "chat:queued",
    }
    assert len({each.event for each in told}) == len(told) == 14

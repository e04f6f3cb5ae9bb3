"""Parsing the rows of the scripts, and who may see a conversation."""

from __future__ import annotations

from insightdesk_rt.helpdesk.chat.conversation import conversation
from tests.support import fakes

ROW = [
    "c1",
    3,
    ["state", "waiting", "customerId", "carl", "customerName", "Carl", "teamId", "t1", "queuedAt", "1795397242677"],
]


def test_a_row_becomes_a_conversation_and_missing_fields_are_empty() -> None:
    found = conversation(ROW)
    assert (found.id, found.state, found.position, found.queued_at) == ("c1", "waiting", 3, 1795397242677)
    assert found.agent_id == "" and found.score == 0 and found.customer_online is False


def test_customers_see_their_own_conversations_agents_those_of_the_team_and_admins_all() -> None:
    waiting = conversation(ROW)
    anybody = conversation(["c2", 1, [*ROW[2], "teamId", ""]])
    taken = conversation(["c3", 0, [*ROW[2], "agentId", "zoe"]])
    cases = [
        (fakes.user("carl", "customer"), [True, True, True]),
        (fakes.user("dora", "customer", team="t1"), [False, False, False]),
        (fakes.user("anna", team="t1"), [True, True, True]),
        (fakes.user("bert", team="t2"), [False, True, False]),
        (fakes.user("zoe"), [False, True, True]),
        (fakes.user("root", "admin"), [True, True, True]),
        (fakes.user("zoe", "customer"), [False, False, False]),
    ]
    for user, sees in cases:
        assert [c.may_see(user) for c in (waiting, anybody, taken)] == sees, user

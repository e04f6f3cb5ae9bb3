"""The judge finds missing, duplicated and reordered events."""

from __future__ import annotations

from tests.cluster.torture.backends import Owed, Told, fact_of
from tests.cluster.torture.judge import Record, Sent, Verdict, judge

ROOM = "team:red"


def sent(*numbers: int, kept: bool = True) -> list[Sent]:
    """Return events of one publisher, a second apart, acknowledged at once; the offset is the number."""
    return [Sent(("p", n), frozenset({ROOM}), float(n), kept, float(n), f"{n}-0", 1) for n in numbers]


def record(*heard: int, from_s: float = 0.0) -> Record:
    """Return a client that has been in the room since `from_s` and received these events."""
    made = Record("c", connected=True)
    made.joined(ROOM, from_s)
    hear(made, *heard)
    return made


def hear(client: Record, *heard: int) -> None:
    for n in heard:
        client.hears(("p", n), f"{n}-0", float(n))


def figures(verdict: Verdict) -> tuple[int, int, int, int]:
    return len(verdict.missing), len(verdict.doubled), len(verdict.disordered), verdict.announced


def test_a_complete_and_ordered_record_is_clean() -> None:
    verdict = judge(sent(1, 2, 3), [record(1, 2, 3), record(1, 2, 3)])
    assert verdict.clean and (verdict.expected, verdict.delivered) == (6, 6) and str(verdict) == "clean"


def test_an_event_that_a_member_did_not_receive_is_missing() -> None:
    assert figures(judge(sent(1, 2, 3), [record(1, 3)])) == (1, 0, 0, 0)
    assert figures(judge(sent(1, 2, 3), [record()])) == (3, 0, 0, 0)
    assert figures(judge(sent(1, 2, 3), [record(3, from_s=2.5)])) == (0, 0, 0, 0), "it joined later"


def test_a_lost_session_is_a_fault_unless_valkey_lost_it_or_the_client_has_no_recovery() -> None:
    client = record(1)
    client.came_back(recovered=True)
    assert judge(sent(1), [client]).clean
    client.came_back(recovered=False)
    assert judge(sent(1), [client]).forgotten == ["c started 1 new sessions"]
    assert judge(sent(1), [client], log_kept=False).clean
    client.resumes = False
    assert judge(sent(1), [client]).clean


def test_an_unacknowledged_event_may_be_missing_but_must_not_come_twice() -> None:
    events = sent(1, 2)
    events[1].offset = ""
    assert figures(judge(events, [record(1)])) == (0, 0, 0, 0)
    assert figures(judge(events, [record(1, 2, 2)])) == (0, 1, 0, 0)


def test_a_change_repeated_after_valkey_lost_its_ticket_is_counted_separately() -> None:
    events = sent(1, 2)
    for event in events:
        event.by_id = False
    events[1].tries = 2
    forgotten = judge(events, [record(1, 2, 2)], log_kept=False)
    assert figures(forgotten) == (0, 0, 0, 0) and forgotten.repeated == 1
    assert figures(judge(events, [record(1, 2, 2)])) == (0, 1, 0, 0), "Valkey had lost nothing"
    assert figures(judge(events, [record(1, 1, 2)], log_kept=False)) == (0, 1, 0, 0), "it was acknowledged at once"


def test_a_duplicate_from_an_earlier_round_is_found() -> None:
    client = record(1, 2)
    client.begin_round()
    hear(client, 2, 3)
    assert figures(judge(sent(3), [client])) == (0, 1, 0, 0)


def test_a_wrong_order_is_found() -> None:
    """It is counted once for the publisher's order and once for that of the offsets."""
    assert figures(judge(sent(1, 2, 3), [record(1, 3, 2)])) == (0, 0, 2, 0)


def test_a_wrong_order_of_two_publishers_is_a_fault_unless_valkey_lost_its_log() -> None:
    events = [*sent(1), Sent(("q", 1), frozenset({ROOM}), 2.0, True, 2.0, "2-0", 1)]
    client = record()
    client.hears(("q", 1), "2-0", 2.0)
    hear(client, 1)
    assert figures(judge(events, [client])) == (0, 0, 1, 0)
    lost = judge(events, [client], log_kept=False)
    assert lost.clean and lost.reordered == 1


def test_a_publisher_that_changed_its_node_may_be_out_of_order_if_valkey_lost_its_log() -> None:
    first, second = sent(1, 2)
    client = record(2)
    hear(client, 1)
    assert figures(judge([first, second], [client], log_kept=False)) == (0, 0, 1, 0), "it stayed at its node"
    second.tries = 2
    verdict = judge([first, second], [client], log_kept=False)
    assert verdict.clean and verdict.reordered == 2, "the publisher's order, and that of the offsets"
    assert not judge([first, second], [client]).clean


def test_an_emitter_may_be_out_of_order_if_valkey_lost_its_log() -> None:
    """It writes to the new primary before some of the nodes do, or to the former one for longer."""
    client = record(2)
    hear(client, 1)
    assert judge(sent(1, 2, kept=False), [client], log_kept=False).reordered == 2
    assert not judge(sent(1, 2, kept=False), [client]).clean


def test_one_event_with_two_offsets_is_a_fault_unless_valkey_lost_its_log() -> None:
    other = record()
    other.hears(("p", 1), "9-0", 1.0)
    assert figures(judge(sent(1), [record(1), other])) == (0, 0, 1, 0)
    assert judge(sent(1), [record(1), other], log_kept=False).clean


def test_a_gap_after_recovered_true_counts_as_missing() -> None:
    client = record(1)
    client.came_back(recovered=True)
    hear(client, 3)
    assert figures(judge(sent(1, 2, 3), [client])) == (1, 0, 0, 0)


def test_an_announced_gap_is_counted_and_earlier_events_are_still_required() -> None:
    client = record(1, 3)
    client.came_back(recovered=False)
    client.joined(ROOM, 5.5)
    hear(client, 6)
    assert figures(judge(sent(1, 2, 3, 4, 5, 6), [client])) == (1, 0, 0, 2), "2 is missing, 4 and 5 were announced"


def test_a_resync_excuses_earlier_gaps_of_its_room() -> None:
    client = record(1)
    client.resync(ROOM, 2.5)
    hear(client, 4)
    assert figures(judge(sent(1, 2, 3, 4), [client])) == (1, 0, 0, 1), "2 was announced, 3 is missing"
    client = record(1)
    client.resync("team:blue", 2.5)
    assert figures(judge(sent(1, 2), [client])) == (1, 0, 0, 0), "another room's"


def test_emitter_events_lost_with_valkey_are_counted_separately() -> None:
    assert figures(judge(sent(1, kept=False), [record()])) == (1, 0, 0, 0)
    verdict = judge(sent(1, kept=False), [record()], log_kept=False)
    assert verdict.clean and verdict.emitter_lost == 1


# ── what the back end was told ──────────────────────────────────────────────────────────────────────────────────────


def told_entry(number: int, id: str = "", **data: object) -> dict[str, object]:
    message = {"conversationId": "c1", "id": number, **data}
    return {"id": id or f"evt_{number}", "type": "chat.message", "at": "", "data": message}


def test_a_fact_that_the_back_end_was_not_told_is_found() -> None:
    told = Told("the feed")
    told.add(told_entry(1))
    assert told.judge(Owed({("c1", 1)}, ordered=True)) == []
    assert told.judge(Owed({("c1", 1), ("c1", 2)}, ordered=True)) == ["the feed lacks ('c1', 2)"]


def test_a_fact_may_be_missing_after_a_notice() -> None:
    told = Told("the feed")
    told.add(told_entry(1))
    told.incomplete = 1
    owed = Owed({("c1", 1), ("c1", 2)}, ordered=False)
    assert told.judge(owed) == [] and told.lacks(owed) == [("c1", 2)]


def test_a_repeat_to_the_back_end_must_be_the_same_entry_and_the_first_ones_in_order() -> None:
    told = Told("the feed")
    for number in (1, 3, 2, 1, 3):
        told.add(told_entry(number))
    owed = {("c1", number) for number in (1, 2, 3)}
    assert told.judge(Owed(owed, ordered=True)) == ["the feed has c1 2 after 3"]
    assert told.judge(Owed(owed, ordered=False)) == []
    told.add(told_entry(2, text="other"))
    assert told.judge(Owed(owed, ordered=False)) == ["the feed has evt_2 with two contents"]


def test_a_change_of_a_ticket_is_known_by_its_subject() -> None:
    entry = {"id": "evt_1", "type": "ticket.updated", "at": "", "data": {"ticket": {"subject": "put-t1/7"}}}
    assert fact_of(entry) == ("put-t1", 7)
    entry["data"] = {"ticket": {"subject": "new"}}
    assert fact_of(entry) is None

"""The sequencer orders the events of one namespace on one node. Tested step by step, without clock or connection."""

from __future__ import annotations

import pytest

from insightdesk_rt.engine.cluster.envelope import Logged, header_of
from insightdesk_rt.engine.cluster.sequencer import ChannelSubscription, Sequencer
from insightdesk_rt.engine.model import Event, Offset, Room, offset_key

NS = "/tickets"
A, B = Room("a"), Room("b")


class Rig:
    """A sequencer that listens to room a, is live from offset 10-0 on, and keeps what it delivers."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.sequencer = Sequencer(NS, lambda event: self.got.append(event.payload))
        self.a = self.sequencer.rooms[A] = ChannelSubscription(self.sequencer, A, b"a")
        self.sequencer.start(Offset("10-0"))
        self.sequencer.release()
        self.a.settle()

    def hear(self, n: int, previous: int | None, room: Room = A, id: str = "", namespace: str = NS) -> bool:
        header = header_of(event(n, room, id, namespace), "n").encode()
        before = (previous, 0) if previous is not None else None
        return self.sequencer.hear(Logged((n, 0), Offset(f"{n}-0"), before, header, str(n).encode()), self.a)

    def probe(self, number: int, top: str | None) -> None:
        """A probe has come in, and its answer."""
        self.sequencer.probed(number)
        self.sequencer.log_reached(number, Offset(top) if top else None)


def event(n: int, room: Room = A, id: str = "", namespace: str = NS) -> Event:
    return Event(namespace, "x", str(n), (room,), id=id or f"e{n}", offset=Offset(f"{n}-0"))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_events_are_delivered_in_order_and_duplicates_are_dropped(rig: Rig) -> None:
    assert rig.hear(11, 9) and rig.hear(12, 11) and rig.hear(12, 11) and rig.hear(11, 9)
    assert rig.got == ["11", "12"] and rig.sequencer.position == "12-0" and rig.sequencer.duplicates == 2


def test_a_missing_predecessor_holds_events_until_the_log_is_read(rig: Rig) -> None:
    assert not rig.hear(13, 12)
    assert rig.sequencer.held and rig.sequencer.gaps == 1
    assert rig.hear(14, 13), "it waits behind the gap"
    assert rig.got == [] and rig.sequencer.position == "10-0"
    rig.sequencer.catch_up([event(11), event(12), event(13)], Offset("13-0"))
    assert rig.sequencer.release()
    assert rig.got == ["11", "12", "13", "14"]


def test_an_old_or_unknown_predecessor_is_not_a_gap(rig: Rig) -> None:
    assert rig.hear(20, 10) and rig.hear(30, None)


def test_a_room_that_is_not_settled_has_no_gaps(rig: Rig) -> None:
    rig.a.settled = False
    assert rig.hear(20, 15)
    assert rig.got == ["20"]


def test_a_probe_moves_the_position_forward_and_never_back(rig: Rig) -> None:
    rig.probe(1, "50-3")
    rig.probe(2, "40-0")
    rig.probe(3, None)
    assert rig.sequencer.position == "50-3"
    assert rig.hear(50, 9), "it is older than the probe, so it is a duplicate"
    assert rig.got == []


def test_a_probe_counts_once_its_message_and_its_answer_have_come_in_whichever_order(rig: Rig) -> None:
    rig.sequencer.log_reached(1, Offset("20-0"))
    rig.sequencer.log_reached(2, Offset("30-0"))
    assert rig.sequencer.position == "10-0", "events up to there may still be on their way"
    rig.sequencer.probed(1)
    assert rig.sequencer.position == "20-0"
    rig.sequencer.probed(2)
    rig.sequencer.probed(3)
    assert rig.sequencer.position == "30-0"
    rig.sequencer.log_reached(3, Offset("40-0"))
    assert rig.sequencer.position == "40-0"


def test_a_probe_that_came_in_before_a_gap_counts_after_the_repair(rig: Rig) -> None:
    rig.sequencer.probed(1)
    assert not rig.hear(13, 12)
    rig.sequencer.log_reached(1, Offset("12-0"))
    assert rig.sequencer.position == "10-0"
    rig.sequencer.catch_up([event(12)], Offset("12-0"))
    assert rig.sequencer.release() and rig.got == ["12", "13"]


@pytest.mark.parametrize("lose", ["connection", "log"])
def test_the_answer_to_a_probe_is_void_once_the_connection_or_the_log_was_lost(rig: Rig, lose: str) -> None:
    """Otherwise a node would skip the events of the log that it reads next."""
    rig.sequencer.verify(Offset("10-0"), 0.0)
    rig.sequencer.log_reached(1, Offset("90-0"))
    if lose == "connection":
        rig.sequencer.connection_lost()
    else:
        rig.sequencer.held = True
        rig.sequencer.rewind(Offset("10-0"))
    rig.sequencer.release()
    rig.sequencer.probed(2)
    assert rig.sequencer.position == "10-0"
    assert rig.hear(11, 10) and rig.got == ["11"]


def test_a_probe_settles_the_rooms_subscribed_before_it(rig: Rig) -> None:
    early, late = ChannelSubscription(rig.sequencer, B, b"b"), ChannelSubscription(rig.sequencer, Room("c"), b"c")
    early.probe, late.probe = 4, 5
    rig.sequencer.settling += [early, late]
    rig.probe(4, "20-0")
    assert early.settled and not late.settled
    rig.probe(5, "20-0")
    assert late.settled and rig.sequencer.settling == []


def test_while_held_a_probe_is_queued_among_the_events(rig: Rig) -> None:
    rig.sequencer.held = True
    rig.hear(12, 11)
    rig.probe(1, "20-0")
    assert rig.sequencer.position == "10-0"
    rig.sequencer.catch_up([event(11)], Offset("11-0"))
    assert rig.sequencer.release() and rig.got == ["11", "12"] and rig.sequencer.position == "20-0"


def test_a_second_gap_in_the_queue_holds_the_events_behind_it(rig: Rig) -> None:
    rig.sequencer.held = True
    rig.hear(12, 11)
    rig.hear(15, 14)
    rig.hear(16, 15)
    rig.sequencer.catch_up([event(11)], Offset("11-0"))
    assert not rig.sequencer.release()
    rig.sequencer.catch_up([event(13), event(14), event(15)], Offset("15-0"))
    assert rig.sequencer.release() and rig.got == ["11", "12", "13", "14", "15", "16"]


def test_a_gap_that_the_log_cannot_fill_can_be_accepted(rig: Rig) -> None:
    rig.hear(15, 14)
    rig.sequencer.catch_up([], Offset("10-0"))
    assert not rig.sequencer.release()
    assert rig.sequencer.release(accept_gaps=True) and rig.got == ["15"]


def test_catching_up_delivers_only_events_of_this_nodes_rooms(rig: Rig) -> None:
    rig.sequencer.held = True
    rig.sequencer.catch_up([event(9), event(11, B), event(12), event(13, B)], Offset("14-0"))
    assert rig.got == ["12"] and rig.sequencer.position == "14-0"


def test_an_event_published_again_is_recognised_by_its_id_for_a_while(rig: Rig) -> None:
    rig.hear(11, 9, id="same")
    rig.sequencer.forget_older()
    rig.hear(12, 11, id="same")
    assert rig.got == ["11"] and rig.sequencer.position == "12-0" and rig.sequencer.skipped == 1
    rig.sequencer.forget_older()
    rig.sequencer.forget_older()
    rig.hear(13, 12, id="same")
    assert rig.got == ["11", "13"]


def test_rewinding_goes_back_to_the_verified_position_without_duplicates(rig: Rig) -> None:
    rig.hear(11, 9)
    rig.sequencer.verified = Offset("11-0")
    rig.hear(12, 11)
    rig.hear(9_000, None, id="forged")
    rig.sequencer.held = True
    rig.sequencer.rewind(Offset("12-0"))
    assert rig.sequencer.position == "11-0"
    rig.sequencer.catch_up([event(12), event(13)], Offset("13-0"))
    assert rig.sequencer.release() and rig.got == ["11", "12", "9000", "13"]


def test_queued_events_are_dropped_when_the_connection_is_lost(rig: Rig) -> None:
    rig.sequencer.held = True
    rig.hear(12, 11)
    rig.sequencer.connection_lost()
    rig.sequencer.catch_up([event(11), event(12)], Offset("12-0"))
    assert rig.sequencer.release() and rig.got == ["11", "12"]


def test_an_invalid_event_is_counted_and_dropped(rig: Rig) -> None:
    bad = Logged((99, 0), Offset("99-0"), None, b"nonsense", b"{}")
    assert rig.sequencer.hear(bad, rig.a) and rig.hear(98, None, namespace="/other")
    assert rig.sequencer.position == "10-0" and rig.sequencer.poison == 2


def test_events_wait_until_the_sequencer_is_started() -> None:
    sequencer = Sequencer(NS, lambda event: None)
    assert sequencer.held and not sequencer.started
    sequencer.probed(1)
    sequencer.log_reached(1, Offset("5-0"))
    sequencer.start(Offset("7-0"))
    assert sequencer.release() and offset_key(sequencer.position) == (7, 0)


def test_an_event_sent_several_times_is_remembered_from_the_last_time(rig: Rig) -> None:
    """When Valkey was emptied three times in a row, clients received the first events twice."""
    rig.hear(11, None, id="same")
    for n in (12, 13, 14):
        rig.sequencer.forget_older()
        rig.hear(n, n - 1, id="same")
    assert rig.got == ["11"] and rig.sequencer.skipped == 3


def test_ends_of_a_lost_log_are_forgotten(rig: Rig) -> None:
    """They are missing in every later log, so each later loss would be read back too far."""
    rig.sequencer.verify(Offset("10-0"), 0.0)
    rig.hear(11, None)
    rig.sequencer.verify(Offset("11-0"), 1.0)
    rig.hear(12, 11)
    assert rig.sequencer.known_ends() == [("10-0", ""), ("11-0", "e11"), ("12-0", "e12")]
    rig.sequencer.rewind(Offset("10-0"))
    assert rig.sequencer.known_ends() == [("10-0", ""), ("10-0", "")]
    rig.sequencer.catch_up([event(13)], Offset("13-0"))
    rig.sequencer.verify(Offset("13-0"), 5.0)
    assert [end.offset for end in rig.sequencer.ends] == ["10-0", "13-0"]


def test_ends_are_kept_as_long_as_delivered_ids_and_at_least_one(rig: Rig) -> None:
    """In a quiet log the last end is verified again and again, so it stays valid."""
    for at_s in range(200):
        if at_s < 100:
            rig.sequencer.advance(Offset(f"{100 + at_s}-0"))
        rig.sequencer.verify(rig.sequencer.position, float(at_s))
    assert [end.offset for end in rig.sequencer.ends] == ["199-0"] and rig.sequencer.forgot_ends
    rig.sequencer.advance(Offset("500-0"))
    rig.sequencer.verify(Offset("500-0"), 201.0)
    rig.sequencer.verify(Offset("500-0"), 1000.0)
    assert [end.offset for end in rig.sequencer.ends] == ["500-0"]


def test_an_event_read_a_second_time_is_only_for_members_that_came_before_it(rig: Rig) -> None:
    """This node does not know it, because nobody was in its room here. A client that came later may have had it at
    another node: it must not get it twice, and it is told to reload, because it may also have missed it."""
    heard: list[Event] = []
    rig.sequencer._deliver = heard.append
    assert rig.hear(12, 10)
    rig.probe(1, "30-0")
    rig.sequencer.rooms[B] = ChannelSubscription(rig.sequencer, B, b"b")
    rig.sequencer.held = True
    rig.sequencer.rewind(Offset("10-0"))
    rig.sequencer.catch_up([event(11, B), event(12), event(13, B), event(31, B)], Offset("31-0"))
    assert [(one.payload, one.was) for one in heard] == [("12", ""), ("11", "11-0"), ("13", "13-0"), ("31", "31-0")]
    assert rig.sequencer.uncertain == {B: "11-0"}, "the event that it knows is certain, and so is the new one"

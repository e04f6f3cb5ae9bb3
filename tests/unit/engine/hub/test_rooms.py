"""Membership: two maps that must agree, under any sequence of joins and leaves."""

from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.hub.rooms import Rooms
from insightdesk_rt.engine.model import Room
from tests.support import fakes

A, B, C = Room("a"), Room("b"), Room("c")


def test_the_first_join_and_the_last_leave_are_reported() -> None:
    rooms, one, two = Rooms(), fakes.socket("/t"), fakes.socket("/t")
    assert rooms.join(one, A) is True
    assert rooms.join(two, A) is False
    assert rooms.leave(one, A) is False
    assert rooms.leave(two, A) is True
    assert rooms.leave(two, A) is False
    assert A not in rooms


def test_members_of_several_rooms_are_found_once() -> None:
    rooms, one, two, three = Rooms(), fakes.socket("/t"), fakes.socket("/t"), fakes.socket("/t")
    for socket, room in ((one, A), (one, B), (two, B), (three, C)):
        rooms.join(socket, room)
    assert rooms.groups([A, B]) == {fakes.CODEC: {one, two}}
    assert rooms.groups([A, B], [one.sid]) == {fakes.CODEC: {two}}
    assert rooms.groups([B, C], [str(A)]) == {fakes.CODEC: {two, three}}
    assert rooms.groups([Room("nobody")]) == {}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from([A, B, C]))))
def test_the_two_maps_agree_after_any_sequence(steps: list[tuple[bool, int, Room]]) -> None:
    rooms = Rooms()
    sockets = [fakes.socket("/t") for _ in range(4)]
    for joins, i, room in steps:
        before = rooms.count(room)
        changed = rooms.join(sockets[i], room) if joins else rooms.leave(sockets[i], room)
        assert changed == (before == 0 if joins else before == 1 and rooms.count(room) == 0)
    rooms.check(sockets)

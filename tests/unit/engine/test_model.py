"""The nouns: ids are not guessable, offsets compare as numbers, rooms of different kinds never meet."""

import pytest

from insightdesk_rt.engine import model


def test_sids_are_twenty_characters_and_differ() -> None:
    sids = {model.new_sid() for _ in range(1000)}
    assert len(sids) == 1000
    assert {len(sid) for sid in sids} == {20}


def test_offsets_compare_as_numbers_not_as_text() -> None:
    assert model.offset_key("9-5") < model.offset_key("10-0") < model.offset_key("10-11")


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "a-1", "1-1-1", "²-1", "1" * 42 + "-1", "1 -1", f"{1 << 64}-0", f"0-{1 << 64}"]
)
def test_what_is_not_an_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an offset"):
        model.offset_key(text)


def test_rooms_of_different_kinds_never_meet() -> None:
    makers = (
        model.user_room,
        model.role_room,
        model.team_room,
        model.ticket_room,
        model.ticket_staff_room,
        model.chat_room,
        model.chat_staff_room,
        model.presence_room,
    )
    assert len({make("1") for make in makers} | {model.DASHBOARD_ROOM}) == len(makers) + 1


def test_only_a_customer_is_not_staff() -> None:
    assert not model.User(model.UserId("c"), "customer").is_staff
    assert model.User(model.UserId("a"), "agent").is_staff
    assert model.User(model.UserId("b"), "admin").is_staff

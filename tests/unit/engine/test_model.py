"""Values of the model: ids cannot be guessed, offsets compare as numbers, rooms of different kinds have other names."""

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
def test_an_invalid_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an offset"):
        model.offset_key(text)


def test_rooms_of_different_kinds_never_have_the_same_name() -> None:
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


def test_everybody_except_customers_is_staff() -> None:
    assert not model.User(model.UserId("c"), "customer").is_staff
    assert model.User(model.UserId("a"), "agent").is_staff
    assert model.User(model.UserId("b"), "admin").is_staff


def test_every_kind_of_room_of_this_server_is_kept_from_the_back_end() -> None:
    made = {name: make for name, make in vars(model).items() if name.endswith("_room")}
    assert len(made) > 6
    for make in made.values():
        for id in ("1", model.CUSTOMER_MARK + "1"):
            assert not model.is_of_back_end(make(id))
    assert not model.is_of_back_end(model.DASHBOARD_ROOM)
    assert model.is_of_back_end("vip:1") and model.is_of_back_end("tickets:1")

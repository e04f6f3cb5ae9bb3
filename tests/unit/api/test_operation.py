"""Operations parse queries, path parts and cursors by their declared types, and name an invalid field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, defstruct

from insightdesk_rt.api.handler import Handler, operation
from insightdesk_rt.api.operation import Answer, Change, Query, Removal, read_body, read_path, read_query
from insightdesk_rt.api.paging import Paged
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import TicketIdText
from insightdesk_rt.engine.wire.texts import WORDS


class Find(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ids: Annotated[list[TicketIdText], Meta(max_length=2)] = []
    closed: bool = False
    sort: Literal["name", "-members"] = "name"


class Thing(Handler):
    @operation("viewer", query=Find)
    async def get(self, thing_id: TicketIdText, part: str, find: Find) -> Answer:
        """Find it."""
        raise NotImplementedError


def test_a_query_is_parsed_by_its_types() -> None:
    assert read_query(Find, {}) == Find()
    found = read_query(Find, {"ids": [b"a,b"], "closed": [b"true"], "sort": [b"-members"], "limit": [b"500"]})
    assert found == Find(ids=["a", "b"], closed=True, sort="-members", limit=500)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": [b"501"]}, "limit"),
        ({"limit": [b"x"]}, "limit"),
        ({"limit": [b""]}, "limit"),
        ({"limit": [b"1", b"2"]}, "limit"),
        ({"cursor": [b"\xff"]}, "cursor"),
        ({"ids": [b"a,b,c"]}, "ids"),
        ({"ids": [b"a,:"]}, "ids[1]"),
        ({"closed": [b"maybe"]}, "closed"),
        ({"sort": [b"members"]}, "sort"),
        ({"more": [b"1"]}, "more"),
    ],
)
def test_the_error_names_an_invalid_parameter(arguments: Any, field: str) -> None:
    with pytest.raises(RtError) as refused:
        read_query(Find, arguments)
    assert (refused.value.code, refused.value.fields) == ("BAD_REQUEST", {"field": field})


def test_undeclared_parameters_are_refused() -> None:
    with pytest.raises(RtError):
        read_query(Query, {"a": [b""]})


def test_path_parts_are_named_after_the_methods_arguments() -> None:
    about = Thing.get.operation
    assert list(about.path) == ["thingId", "part"]
    assert read_path(about, ["t.1", "x y"]) == ["t.1", "x y"]
    with pytest.raises(RtError) as refused:
        read_path(about, ["t:1", "x"])
    assert refused.value.fields == {"field": "thingId"}


@pytest.mark.parametrize("pattern", sorted(WORDS))
def test_a_refusal_has_a_readable_reason_without_a_regex(pattern: str) -> None:
    shaped = Annotated[str, Meta(pattern=pattern)]
    named, about = defstruct("Named", [("name", shaped)]), Thing.get.operation._replace(path={"name": shaped})
    for read in (
        lambda: read_path(about, ["\x00 "]),
        lambda: read_query(named, {"name": [b"\x00 "]}),
        lambda: read_body(named, "application/json", b'{"name": "\\u0000 "}'),
    ):
        with pytest.raises(RtError) as refused:
            read()
        assert refused.value.message == f"Expected `str` {WORDS[pattern]}"
        assert refused.value.fields == {"field": "name"}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        *((text, True) for text in ("a", "  a b ", "ä", " " * 499 + "x")),
        *((text, False) for text in ("", " ", "\u00a0\u2003", "a\n", "a\x7f", " " * 499 + "\x01")),
    ],
)
def test_a_reason_has_visible_text_and_no_control_characters(text: str, fits: bool) -> None:
    try:
        read_query(Removal, {"reason": [text.encode()]})
    except RtError as refused:
        assert not fits and refused.fields == {"field": "reason"}
    else:
        assert fits


def test_a_recorded_change_must_have_a_reason_in_its_body() -> None:
    with pytest.raises(AssertionError, match=r"thing\.find takes no reason"):

        @operation("operator", query=Find, action="thing.find")
        async def post(self: Handler, find: Find) -> Answer:
            raise NotImplementedError

    assert "reason" in Change.__struct_fields__


def test_a_list_is_given_with_commas_or_as_repeated_parameters() -> None:
    """Ids may contain commas ("cn=ann,ou=desk" of LDAP). In repeated parameters each one is one item."""
    listed = defstruct("Listed", [("ids", list[str])])
    assert read_query(listed, {"ids": [b"a,b"]}).ids == ["a", "b"]
    assert read_query(listed, {"ids": [b"cn=ann,ou=desk", b"b"]}).ids == ["cn=ann,ou=desk", "b"]

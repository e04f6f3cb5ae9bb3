"""Pages of a list, and the cursors between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.api.paging import cut, make_cursor, read_cursor
from insightdesk_rt.engine.errors import RtError


@given(st.text(max_size=50), st.integers(-(2**53), 2**53))
def test_a_cursor_is_decoded_as_it_was_encoded(text: str, number: int) -> None:
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    assert read_cursor(make_cursor(text, number), tuple[str, int]) == (text, number)


@given(st.text(max_size=50).filter(bool))
def test_a_forged_cursor_is_a_bad_request(text: str) -> None:
    with pytest.raises(RtError) as refused:
        read_cursor(text, tuple[str, int])
    assert refused.value.fields == {"field": "cursor"}
    assert read_cursor("", tuple[str, int]) is None


@pytest.mark.parametrize(("count", "limit"), [(0, 1), (1, 1), (2, 1), (5, 2), (6, 2), (3, 10)])
def test_pages_contain_every_item_once(count: int, limit: int) -> None:
    items, seen, cursor = list(range(count)), list[int](), ""
    while True:
        after = read_cursor(cursor, tuple[int])
        rest = [item for item in items if after is None or item > after[0]]
        shown, more = cut(rest[: limit + 1], limit, lambda item: (item,))
        seen += shown
        if more is None:
            break
        cursor = more
    assert seen == items

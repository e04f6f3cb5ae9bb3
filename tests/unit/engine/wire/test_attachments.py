"""Bytes in values: replaced by attachments, and put back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.attachments import check_placeholders, take_out, with_attachments
from insightdesk_rt.engine.wire.json import BadJson

names = st.text(max_size=5).filter(lambda name: name != "_placeholder")
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10) | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150)
@given(values)
def test_bytes_are_put_back_in_their_places(value: Any) -> None:
    attachments: list[bytes] = []
    text = json.dumps(take_out(value, attachments))
    check_placeholders(json.loads(text), len(attachments))
    assert with_attachments(Raw(text.encode()), tuple(attachments)) == value


def test_attachments_are_numbered_depth_first() -> None:
    attachments: list[bytes] = []
    bare = take_out({"a": [b"0", {"b": bytearray(b"1")}], "c": (memoryview(b"2"),)}, attachments)
    assert attachments == [b"0", b"1", b"2"]
    assert bare["c"] == [{"_placeholder": True, "num": 2}]


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    value: list[Any] = [b"x"]
    value.append(value)
    with pytest.raises(BadJson):
        take_out(value, [])


def test_without_attachments_a_placeholder_is_plain_data() -> None:
    """Wire reference 2.3."""
    text = '{"_placeholder":true,"num":0}'
    assert with_attachments(Raw(text.encode())) == {"_placeholder": True, "num": 0}


def test_an_absent_payload_is_none() -> None:
    assert with_attachments(Raw(b"")) is None
    assert with_attachments(Raw(b""), (b"a",)) is None


BAD_NUMBERS = ['"splice"', "-1", "2", "0.5", "1e0", "true", "null", "[0]", '"0"', "99999999999999999999"]


@pytest.mark.parametrize("num", BAD_NUMBERS)
def test_a_placeholder_must_refer_to_an_attachment(num: str) -> None:
    """CVE-2022-2421."""
    text = '[{"a":{"_placeholder":true,"num":NUM}}]'.replace("NUM", num)
    with pytest.raises(BadJson):
        with_attachments(Raw(text.encode()), (b"a", b"b"))
    with pytest.raises(BadJson):
        check_placeholders(json.loads(text), 2)


def test_a_placeholder_needs_the_value_true() -> None:
    text = '[{"_placeholder":1,"num":9},{"_placeholder":"true","num":"x"},{"num":7}]'
    check_placeholders(json.loads(text), 1)
    assert with_attachments(Raw(text.encode()), (b"a",)) == json.loads(text)


def test_an_attachment_may_be_used_several_times_or_never() -> None:
    text = b'[{"_placeholder":true,"num":1},{"_placeholder":true,"num":1}]'
    assert with_attachments(Raw(text), (b"a", b"b")) == [b"b", b"b"]


@pytest.mark.parametrize("depth", [500, 950, 1500, 6000])
def test_without_a_depth_limit_any_depth_the_decoder_reads_works(depth: int) -> None:
    """Python 3.13's msgspec reads deeper than Python's recursion limit."""
    value: Any = {"_placeholder": True, "num": 0}
    for _ in range(depth):
        value = [value]
    check_placeholders(value, 1)
    with pytest.raises(BadJson):
        check_placeholders(value, 0)
    text = "[" * depth + '{"_placeholder":true,"num":0}' + "]" * depth
    try:
        found = with_attachments(Raw(text.encode()), (b"a",), 2**31)
    except json.TooDeep:
        assert depth > 900
    else:
        for _ in range(depth):
            (found,) = found
        assert found == b"a"


def test_a_payload_may_be_an_attachment_alone() -> None:
    assert with_attachments(Raw(b'{"_placeholder":true,"num":0}'), (b"a",)) == b"a"

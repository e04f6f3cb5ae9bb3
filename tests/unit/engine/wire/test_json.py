"""The only module that uses JSON libraries: invalid JSON is refused, and BadJson is the only error."""

from __future__ import annotations

import json as standard
import re
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct

from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.json import BadJson

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Person(Struct):
    name: str


class Ask(Struct):
    ticketId: str
    userIds: list[int] = []
    person: Person | None = None


ask = msgspec.json.Decoder(Ask)


@settings(max_examples=200)
@given(plain)
def test_a_value_is_read_back_as_it_was_written(value: Any) -> None:
    assert json.loads(json.dumps(value)) == value
    assert standard.loads(json.dumps(value)) == value


@settings(max_examples=200)
@given(st.text() | st.text(st.sampled_from('[]{}",:\\ud8e0-1.eEtrufalsn \t\x00')) | st.binary())
def test_any_text_is_read_or_raises_bad_json(text: str | bytes) -> None:
    for read in (
        json.loads,
        lambda t: json.split_event(t if isinstance(t, str) else ""),
        lambda t: json.decode(ask, t),
    ):
        try:
            read(text)
        except BadJson:
            pass


@settings(max_examples=200)
@given(st.text(st.sampled_from('[]{}",:\\u8-1.eE0trufalsn ')))
def test_values_are_read_as_by_the_standard_library(text: str) -> None:
    """Intended differences: lone surrogates, and numbers with an exponent, which may be out of range."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    readers: list[Callable[[str], Any]] = [json.loads, lambda text: standard.loads(text, parse_constant=refuse)]
    values = []
    for read in readers:
        try:
            values.append([read(text)])
        except ValueError:
            values.append([])
    assert values[0] == values[1] or "\\u" in text or re.search("[0-9][eE]", text)


@pytest.mark.parametrize(
    "text", ["", "NaN", "[Infinity]", "-Infinity", "01", '"\x01"', "[1,]", "{1:2}", "1e400", "[1]x", "'a'"]
)
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(BadJson):
        json.loads(text)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], b"bytes", {"a": bytearray()}, object(), {1, 2}])
def test_values_that_json_does_not_have_are_refused(value: Any) -> None:
    with pytest.raises(BadJson):
        json.dumps(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BadJson):
        json.dumps(value)


def test_written_text_is_compact_and_utf_8() -> None:
    assert json.dumps({"a": ["é/<€😀", 1.5, None]}) == '{"a":["é/<€😀",1.5,null]}'
    assert json.encode_struct(Ask("é")) == '{"ticketId":"é","userIds":[],"person":null}'


def test_structs_and_raw_json_within_values_are_written() -> None:
    value = {"ok": True, "ask": Ask("1", person=Person("é")), "raw": Raw(b'{"n":9007199254740993}')}
    assert json.dumps(value) == (
        '{"ok":true,"ask":{"ticketId":"1","userIds":[],"person":{"name":"é"}},"raw":{"n":9007199254740993}}'
    )


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r'"\ud800"', "�"),
        (r'"a\uDFFFb"', "a�b"),
        (r'"\ud800\ud800\udc00"', "�\U00010000"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\\ud800 \ud800"', r"\ud800 " + "�"),
        ('"raw \ud800"', "raw �"),
    ],
)
def test_a_lone_surrogate_becomes_the_replacement_character(text: str, read: str) -> None:
    assert json.loads(text) == read
    assert json.loads(json.split_event(f'["x",{text}]')[1]) == read
    assert json.decode(ask, '{"ticketId":' + text + "}").ticketId == read


def test_a_lone_surrogate_in_a_written_value_is_replaced() -> None:
    assert json.dumps(["\ud800é"]) == '["�é"]'
    assert json.encode_struct(Person("\ud800")) == '{"name":"�"}'


def test_64_levels_are_read_and_65_are_not() -> None:
    assert json.loads("[" * 64 + "]" * 64)
    with pytest.raises(BadJson, match="64"):
        json.loads("[" * 65 + "]" * 65)
    with pytest.raises(BadJson, match="64"):
        json.decode(ask, '{"ticketId":"1","x":' + '{"a":' * 64 + "1" + "}" * 65)


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    for inner in ("[" * 100, '\\"' + "[" * 100, "\\\\" + "{" * 100, '[\\\\\\"[' * 50):
        assert json.loads(f'{{"{inner}":"{inner}"}}')
    assert len(json.loads("[" + "[]," * 999 + "[]]")) == 1000


@pytest.mark.parametrize("depth", [100, 900, 6_000, 100_000])
def test_deep_json_is_refused_by_every_function_that_decodes(depth: int) -> None:
    """The known vulnerability of socket.io 4.8.4 (6,000 levels kill the process), and 100,000 levels."""
    text = "[" * depth + "]" * depth
    with pytest.raises(BadJson):
        json.loads(text)
    with pytest.raises(BadJson):
        json.decode(ask, f'{{"ticketId":"1","x":{text}}}')


def test_a_megabyte_of_brackets_is_checked_in_linear_time() -> None:
    start = time.process_time()
    for text in ("[]," * 333_333, "[" * 1_000_000, '["' * 500_000, '\\"' * 500_000):
        with pytest.raises(BadJson):
            json.loads(text)
    assert time.process_time() - start < 4


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ("{}", "ticketId", "missing"),
        ('{"ticketId":1}', "ticketId", "Expected `str`"),
        ('{"ticketId":"1","userIds":[1,"2"]}', "userIds[1]", "Expected `int`"),
        ('{"ticketId":"1","person":{}}', "person.name", "missing"),
        ('{"ticketId":"1","person":{"name":2}}', "person.name", "Expected `str`"),
        ("[]", "", "Expected `object`"),
        ("{", "", "truncated"),
    ],
)
def test_the_error_names_the_invalid_field(text: str, field: str, why: str) -> None:
    with pytest.raises(BadJson) as bad:
        json.decode(ask, text)
    assert bad.value.field == field
    assert why in bad.value.why
    assert "$" not in bad.value.why


def test_numbers_beyond_2_to_the_53_are_unchanged() -> None:
    for number in ("9007199254740993", "1" * 400, "1.00", "1e400", "-0"):
        assert bytes(json.split_event(f'["x",{number}]')[1]).decode() == number


def test_objects_and_arrays_are_checked_to_the_end() -> None:
    for text in ("{}", '{"a":[1,"\\ud800"]}', ' {"a" : 1e400} '):
        json.check_object(text)
    for text in ("[]", '[1,{"a":"\\ud800"}]', " [ 1 , 2 ] "):
        json.check_array(text)
    for text in ("", "1", '"a"', "{", "[", '{"a":01}', "[NaN]", "{}x", "[1]]", "[1,]", '{"a"}'):
        with pytest.raises(BadJson):
            json.check_object(text)
        with pytest.raises(BadJson):
            json.check_array(text)


def test_half_a_million_arguments_of_an_event_take_no_memory() -> None:
    text = '["a",{"b":1}' + ",1" * 500_000 + "]"
    tracemalloc.start()
    try:
        name, argument = json.split_event(text)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert (name, bytes(argument)) == ("a", b'{"b":1}')


def test_an_event_is_split_into_its_name_and_first_argument() -> None:
    for text, name, payload in (
        ('["a",{"b":1}]', "a", b'{"b":1}'),
        ('["a"]', "a", b""),
        ('["a",1,2]', "a", b"1"),
        (' [ "a" , [ 1 ] ] ', "a", b"[ 1 ]"),
        ("[12,1]", "12", b"1"),
        ('["\\ud800","\\ud800"]', "�", b'"\\ufffd"'),
        ('["\\u0061"]', "a", b""),
    ):
        found = json.split_event(text)
        assert (found[0], bytes(found[1])) == (name, payload), text


@pytest.mark.parametrize(
    "text", ["[]", "{}", "[null]", "[true,1]", "[[]]", '[{"toString":"foo"}]', '["a"', '["a",]', "1", ""]
)
def test_an_invalid_event_is_refused(text: str) -> None:
    """CVE-2023-32695: an event's name that is not a string."""
    with pytest.raises(BadJson):
        json.split_event(text)


values = st.recursive(
    st.integers(0, 9) | st.text(st.sampled_from('a[]{}"\\'), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a[}"\\', max_size=3), inner, max_size=3),
    max_leaves=40,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@settings(max_examples=300)
@given(values, st.booleans())
def test_depth_is_counted_exactly(value: Any, spaced: bool) -> None:
    text = standard.dumps(value, indent=1 if spaced else None)
    json.check_depth(text, _depth(value))
    if _depth(value):
        with pytest.raises(json.TooDeep):
            json.check_depth(text, _depth(value) - 1)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["\\\\", "\\n", "\\ud800", "\\uDBFF", "\\udc00", "\\uDFFF", "u", "ud800", "\\u0041"])))
def test_surrogates_are_replaced_as_by_a_simple_decoder(escapes: list[str]) -> None:
    text = f'"{"".join(escapes)}"'
    read = standard.loads(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert json.loads(text) == read

"""Texts: visible and refused characters, the length of accepted texts, and a description of every pattern."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, inspect

from insightdesk_rt.backend.push.notifications import NotificationBody
from insightdesk_rt.backend.push.tickets import CommentBody
from insightdesk_rt.engine.dispatch.namespace import Namespace, Payload
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.texts import INVISIBLE, PLAIN, VISIBLE, VISIBLE_LINE, WORDS
from insightdesk_rt.helpdesk.chat import events as words
from insightdesk_rt.helpdesk.tickets.store import TicketChange

# Category Cf, but visible: number signs and marks that span the digits behind them, and hieroglyph joiners.
DRAWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x1345A)}

say = msgspec.json.Decoder(words.SendMessage)


def read(text: str) -> words.SendMessage:
    return json.decode(say, json.dumps({"conversationId": "c1", "text": text, "clientId": "1"}))


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "\n\t",
        "\u00a0",
        "\u200b",
        "\ufeff",
        "\u00ad",
        "\u2800",
        "\u3164",
        "\u115f",
        "\u2060",
        "\U000e0041",
        " \u200d\ufe0f ",
    ],
)
def test_a_text_that_looks_empty_is_refused_with_a_readable_reason(text: str) -> None:
    """At least one character must be visible on a screen. `\\S` excludes only white space."""
    with pytest.raises(json.BadJson) as refused:
        read(text)
    assert refused.value.why == f"Expected `str` {WORDS[VISIBLE]}"
    assert refused.value.field == "text"


@pytest.mark.parametrize("control", [chr(code) for code in range(32) if chr(code) not in "\n\t"])
def test_a_control_character_is_refused_in_any_position(control: str) -> None:
    """PostgreSQL would refuse NUL, and each control character is six bytes of JSON."""
    for text in (control, f"a{control}", f"{control}a", f"a{control}b"):
        with pytest.raises(json.BadJson) as refused:
            read(text)
        assert refused.value.field == "text"


@pytest.mark.parametrize(
    "text", ["a", " a ", "a\nb\tc", "a\r\nb", "\u200bא\u200f", "🏴\U000e0067\U000e007f", "é", "\u0301", "一"]
)
def test_texts_of_people_are_accepted_unchanged(text: str) -> None:
    assert read(text).text == text


def test_every_space_control_and_format_character_of_unicode_is_invisible() -> None:
    """So this test fails when a new release of Unicode adds one."""
    invisible = re.compile(f"[{INVISIBLE}]")
    unknown = [
        f"U+{code:04X}"
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in {"Zs", "Zl", "Zp", "Cc", "Cf"}
        and code not in DRAWN
        and not invisible.match(chr(code))
    ]
    assert unknown == []


@given(st.text(max_size=50))
def test_an_accepted_text_is_at_most_four_bytes_of_json_per_character(text: str) -> None:
    """So a limit in characters is also a limit in bytes."""
    for pattern in (PLAIN, VISIBLE, VISIBLE_LINE):
        if re.search(pattern, text):
            assert len(json.dumps(text).encode()) - 2 <= 4 * len(text)


@pytest.mark.parametrize("pattern", [PLAIN, VISIBLE, VISIBLE_LINE])
def test_a_long_text_is_checked_in_linear_time(pattern: str) -> None:
    """A hundred times the longest text of any field, in forms that make a bad pattern backtrack."""
    match = re.compile(pattern).search
    for text in ("\r\n" * 200_000 + "\0", "\u200b" * 400_000 + "\0", "a" * 400_000 + "\0", " \r\n" * 150_000):
        assert match(text) is None or pattern is PLAIN


def patterns(kind: Any) -> Iterator[str]:
    """Yield the patterns of all fields in a type, and in the types within it."""
    if isinstance(kind, inspect.Metadata):
        yield from patterns(kind.type)
    elif isinstance(kind, inspect.StrType):
        if kind.pattern is not None:
            yield kind.pattern
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield from patterns(field.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from patterns(one)
    elif isinstance(kind, inspect.ListType):
        yield from patterns(kind.item_type)


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def payloads() -> list[type[Struct]]:
    """Return what clients send with events, and the bodies of the back end."""
    events = [spec.payload for namespace in subclasses(Namespace) for spec in namespace.events.values()]
    bodies = [NotificationBody, CommentBody, TicketChange]
    kinds = dict.fromkeys([*events, *subclasses(Payload), *bodies])
    return [kind for kind in kinds if kind.__module__.startswith("insightdesk_rt.")]  # other tests declare some


@pytest.mark.parametrize("payload", payloads(), ids=lambda kind: kind.__name__)
def test_every_pattern_of_a_field_has_a_description(payload: type[Struct]) -> None:
    assert [pattern for pattern in patterns(inspect.type_info(payload)) if pattern not in WORDS] == []


def unbounded(kind: Any, name: str) -> Iterator[str]:
    """Yield the texts in a type that may have control characters."""
    if isinstance(kind, inspect.Metadata):
        yield from unbounded(kind.type, name)
    elif isinstance(kind, inspect.StrType):
        if kind.pattern is None or re.search(kind.pattern, "a\x01b"):
            yield name
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield from unbounded(field.type, f"{name}.{field.encode_name}".removeprefix("."))
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from unbounded(one, name)
    elif isinstance(kind, inspect.ListType):
        yield from unbounded(kind.item_type, name)


@pytest.mark.parametrize("payload", payloads(), ids=lambda kind: kind.__name__)
def test_no_text_of_clients_or_back_ends_may_have_control_characters(payload: type[Struct]) -> None:
    """Exceptions: `presence:status` is compared and not stored; a verifier reads `token` and `pass`."""
    free = set(unbounded(inspect.type_info(payload), ""))
    assert free <= {"status", "token", "pass"}


@pytest.mark.parametrize("text", ["\x7fa", "a\x7f", "a\tb", "a\nb", "\ta", "\u200b", "a\x1fb"])
def test_a_line_may_not_contain_line_breaks_or_control_characters(text: str) -> None:
    assert re.search(VISIBLE_LINE, text) is None
    assert re.search(VISIBLE_LINE, text.translate({0x7F: "", 9: " ", 10: " ", 0x1F: "", 0x200B: "x"})) is not None

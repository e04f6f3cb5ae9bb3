"""The rules for texts from outside, and a description of each pattern that a field must match.

A text must not have control characters other than newline and tab. Such a character is six bytes of JSON (`\\u0001`),
so a limit in characters would not limit the bytes, and PostgreSQL refuses NUL. Without them a text of n characters has
at most 4 n bytes of JSON. A carriage return is accepted before a newline, as in e-mail and on Windows.
"""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Annotated

from msgspec import Meta

# Invisible on a screen: white space, controls, what Unicode calls Default_Ignorable_Code_Point (15.0), the
# interlinear annotation characters, and three that are drawn as blanks: Braille blank, Hangul fillers, null notehead.
INVISIBLE = (
    "\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_BLANK = INVISIBLE.replace("\x00-\x20\x7f-\xa0", "\t\n \x7f-\xa0")  # those of them that an accepted text may have
_BLANK_OF_LINE = _BLANK.replace("\t\n \x7f-\xa0", " \x80-\xa0")
# Linear: each of them can match a text in one way only. No lookahead, so that schemas can be read by others' tools.
_REST = r"[^\x00-\x08\x0b-\x1f]*(?:\r\n[^\x00-\x08\x0b-\x1f]*)*\Z"

PLAIN = "^" + _REST
VISIBLE = rf"^(?:\r\n|[{_BLANK}])*[^{INVISIBLE}]{_REST}"
VISIBLE_LINE = rf"^[{_BLANK_OF_LINE}]*[^{INVISIBLE}][^\x00-\x1f\x7f]*\Z"
# As Valkey writes the ids of a stream. It refuses some of the other forms ("00-00"), and numbers over 64 bits.
OFFSET = r"^(?:0|[1-9][0-9]{0,18})-(?:0|[1-9][0-9]{0,18})\Z"

OffsetText = Annotated[str, Meta(pattern=OFFSET)]

# Pattern → how a refusal goes on after "Expected `str` ". Whoever declares a pattern adds its words.
WORDS = {
    PLAIN: "without control characters other than newline and tab",
    VISIBLE: "with at least one visible character, and without control characters other than newline and tab",
    VISIBLE_LINE: "of one line with at least one visible character, and without control characters",
    OFFSET: 'that is an offset, as in "1795397242677-0"',
}

_PATTERN = re.compile(r"matching regex (.*)", re.DOTALL)


def in_words(why: str) -> str:
    """Return msgspec's sentence about a value, with words in place of the regular expression it quotes."""
    return _PATTERN.sub(_words, why)


def _words(found: re.Match[str]) -> str:
    try:
        return WORDS.get(literal_eval(found[1]), "of another form")
    except (SyntaxError, ValueError):
        return "of another form"

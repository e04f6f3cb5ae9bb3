"""The only door to the JSON libraries.

ujson encodes untyped values. msgspec encodes Structs and decodes everything: ujson would accept what JSON forbids (NaN,
raw control characters, leading zeros). Depth is limited. Lone surrogates (`"\\ud800"`, which JavaScript may send and
UTF-8 cannot encode) become U+FFFD. The only error that leaves this file is `BadJson`.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any, TypeVar

import msgspec
import ujson
from msgspec import Raw, Struct

from insightdesk_rt.engine.wire.texts import in_words

T = TypeVar("T")

# The default. msgspec alone would go on to Python's recursion limit (about 1,000).
MAX_DEPTH = 64


class _Event(Struct, array_like=True, frozen=True, gc=False):
    """An array whose further items are skipped; a list of Raw would cost 80 bytes for each of them."""

    name: str | int | float
    argument: Raw = Raw()


class _Items(Struct, array_like=True):
    pass


class _Object(Struct):
    pass


_encoder = msgspec.json.Encoder()
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_event = msgspec.json.Decoder(_Event)
_items = msgspec.json.Decoder(_Items)
_object = msgspec.json.Decoder(_Object)

# An escaped surrogate that is not one half of a pair, where each backslash begins an escape.
_LONE_SURROGATE = re.compile(
    r"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|[c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
_NO_TEXT = "\udfff"  # what no text has that went through `_without_surrogates`
_PLAIN = bytes(byte for byte in range(256) if byte not in b'[]{}"')  # irrelevant to the depth
_OPENS = bytes(b"1"[0] if byte in b"[{" else b"0"[0] for byte in range(256))


def _climb(brackets: int) -> tuple[int, int]:
    """Return how much deeper eight brackets end than they began, and how much deeper they were at most."""
    depths = tuple(accumulate(1 if brackets & (128 >> place) else -1 for place in range(8)))
    return depths[-1], max(0, *depths)


_CLIMBS = tuple(map(_climb, range(256)))  # by their bits, 1 for one that opens
_AT = re.compile(r" - at `(?:key` in `)?\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")


class BadJson(ValueError):
    """Not JSON, or not of the expected form. `field` names the offending field, "" for the whole text."""

    limit_name = ""  # the setting of the limit that was exceeded, if one was

    def __init__(self, why: str, field: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.field = field


class TooDeep(BadJson):
    limit_name = "max_json_depth"


def loads(text: str | bytes | Raw, max_depth: int = MAX_DEPTH) -> Any:
    """Return the untyped value of a JSON text. Raises BadJson, also for 1e400; TooDeep."""
    return decode(_any, text, max_depth)


def dumps(value: Any) -> str:
    """Return a plain value (dicts, lists, str, numbers, None, Structs and Raw within) as compact JSON text.

    Raises BadJson for NaN, bytes, and whatever else JSON does not have. Bytes in a Struct become base64, msgspec's way.
    """
    try:
        text: str = ujson.dumps(
            value, ensure_ascii=False, escape_forward_slashes=False, allow_nan=False, default=_as_text
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as why:
        raise BadJson(f"not a JSON value: {why}") from None
    return text if text.isascii() else _without_surrogates(text)


def encode_struct(value: Struct) -> str:
    """Return a Struct of ours as compact JSON text. Raises BadJson if it holds what JSON does not have."""
    try:
        return _encoder.encode(value).decode()
    except UnicodeEncodeError:
        return dumps(msgspec.to_builtins(value))
    except (TypeError, ValueError, RecursionError) as why:
        raise BadJson(f"not a JSON value: {why}") from None


def decode(decoder: msgspec.json.Decoder[T], raw: str | bytes | Raw, max_depth: int = MAX_DEPTH) -> T:
    """Decode the text. Raises BadJson, with the name of the offending field if there is one; TooDeep.

    The field is written as in JavaScript: `ticketId`, `user.name`, `userIds[2]`.
    """
    text = bytes(raw) if type(raw) is Raw else raw
    if len(text) > max_depth:
        check_depth(text, max_depth)
    try:  # hot: once per call of a client
        return decoder.decode(text)
    except (ValueError, RecursionError):
        return _decode(decoder, text)


def decode_outer(decoder: msgspec.json.Decoder[T], text: str) -> T:
    """Like `decode`, for an envelope with Raw members: their depth is checked when they are decoded themselves."""
    return _decode(decoder, text)


def split_event(text: str) -> tuple[str, Raw]:
    """Return name and first argument (empty if none) of `["name", argument, …]`; a number for a name gives its text.

    hot: once per event of a client. Further arguments are checked for being JSON, and dropped. Raises BadJson.
    """
    try:
        event = _event.decode(text)
    except (ValueError, RecursionError):
        event = _decode(_event, text)
    name = event.name
    return name if type(name) is str else str(name), event.argument


def check_object(text: str) -> None:
    """Raise BadJson if the text is not one JSON object; nothing is built of it."""
    _decode(_object, text)


def check_array(text: str) -> None:
    """Raise BadJson if the text is not one JSON array; nothing is built of it."""
    _decode(_items, text)


def check_depth(text: str | bytes, max_depth: int = MAX_DEPTH) -> None:
    """Raise TooDeep if brackets nest deeper than that. Only a text with so many of them is examined.

    Any client may send a megabyte of brackets. All steps but the last run in C, and the last takes eight at a time.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    # Without its escaped quotes a text has an even number of them before each bracket that counts. A string without
    # brackets is then two quotes side by side, of which any may go: what is left to be split are few.
    marks = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _PLAIN).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    more = -len(brackets) % 8
    packed = (int(brackets.translate(_OPENS) or b"0", 2) << more).to_bytes((len(brackets) + more) // 8, "big")
    depth = 0
    for eight in packed:
        end, peak = _CLIMBS[eight]
        if depth + peak > max_depth:
            raise TooDeep(f"nested deeper than {max_depth}")
        depth += end


def _decode(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as why:
        raise named(str(why)) from None
    except RecursionError:
        raise TooDeep("nested too deep") from None
    except ValueError:  # msgspec.DecodeError, and Unicode errors of either direction
        pass
    mended = _mended(text)
    try:
        return decoder.decode(mended)
    except msgspec.ValidationError as why:
        raise named(str(why)) from None
    except RecursionError:
        raise TooDeep("nested too deep") from None
    except ValueError as why:
        raise BadJson(str(why)) from None


def named(why: str) -> BadJson:
    """Turn a msgspec.ValidationError's text into a BadJson: its path becomes the field, its pattern a description."""
    at = _AT.search(why)
    field = at.group(1) if at else ""
    missing = _MISSING.search(why)
    if missing:
        field = f"{field}.{missing.group(1)}" if field else missing.group(1)
    return BadJson(in_words(why[: at.start()] if at else why), field)


def _mended(text: str | bytes) -> str:
    """Return the text with U+FFFD for each lone surrogate, be it escaped or (in a str of ours) raw."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    # Escaped backslashes are put aside, or the "u" behind one would be taken for an escape. Each step runs in C, so a
    # megabyte of escapes costs no more than a megabyte of letters.
    bare = _without_surrogates(text).replace("\\\\", _NO_TEXT)
    return _LONE_SURROGATE.sub(r"\\ufffd", bare).replace(_NO_TEXT, "\\\\")


def _without_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class _Text:
    """JSON text that ujson inserts unchanged."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __json__(self) -> str:
        return self._text


def _as_text(value: object) -> _Text:
    if isinstance(value, Struct):
        return _Text(encode_struct(value))
    if isinstance(value, Raw):
        return _Text(bytes(value).decode())
    raise TypeError(f"{type(value).__name__} is not JSON")

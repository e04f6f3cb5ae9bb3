"""Declares the operations of the admin API, and reads their path, query and body from a request.

    class Find(Paged):                       # the query, a field per parameter
        user: str = ""

    class ThingsHandler(Handler):
        @operation("viewer", query=Find, answer=Page[Thing])
        async def get(self, find: Find) -> Answer: ...

        @operation("operator", body=Rename, answer=Thing, action="thing.rename", errors=("NOT_FOUND",))
        async def post(self, thing_id: ThingId, body: Rename) -> Answer: ...

A method takes the path's parts, then the query, then the body, each in its declared type. The API's description
(openapi.py) is generated from these declarations alone, and so are the tests that send a wrong value for each field.
"""

from __future__ import annotations

import codecs
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.api.keys_and_scopes import Scope
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.texts import VISIBLE_LINE, WORDS, in_words

NO_CONTROLS = "^[^\x00-\x1f\x7f]*\\Z"
Reason = Annotated[
    str, Meta(min_length=1, max_length=500, pattern=VISIBLE_LINE, description="why; it is kept in the audit log")
]

# Errors say in words what a pattern requires.
WORDS[NO_CONTROLS] = "without control characters"

_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of queries; without fields it allows no parameter.

    A list is written a,b,c, or by repeating the parameter for each item.
    """


class Removal(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a DELETE."""

    reason: Reason


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of the bodies of changes."""

    reason: Reason


class BulkChange(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dryRun: Annotated[bool, Meta(description="change nothing; answer how many it would affect")] = False


class Count(Struct):
    """How many were affected, or would be (`dryRun`). `missing`: nodes that did not answer in time."""

    count: int
    missing: list[str] = []


class Answer(NamedTuple):
    """`body` is a Struct or plain JSON values."""

    body: Any
    status: int = 200


class Operation(NamedTuple):
    """The declaration of a handler's method, which has it as its attribute `operation`."""

    scope: Scope | None  # None: open to everybody
    path: dict[str, Any]  # name in the API's description → type
    query: type[Struct] | None
    body: type[Struct] | None
    answer: Any  # type of the answer's body; Any if it cannot be described
    statuses: tuple[int, ...]  # possible statuses of an answer
    errors: tuple[str, ...]  # its own error codes, besides those that every operation has
    action: str  # its name in the audit log; "": it is not written there
    target: Callable[[Any], str] | None  # the audit entry's target, from the body, if the path does not say it
    doc: str
    stream: bool  # it answers server-sent events
    items: Any = None  # type of each item of a list in the body that is decoded by itself, so that it fails alone


def describe_operation(
    method: Callable[..., Awaitable[Answer | None]],
    scope: Scope | None,
    query: type[Struct] | None,
    body: type[Struct] | None,
    answer: Any,
    statuses: tuple[int, ...],
    errors: tuple[str, ...],
    action: str,
    target: Callable[[Any], str] | None,
    stream: bool,
    items: Any = None,
) -> Operation:
    """Return the declaration from a method and its decorator's arguments. Asserts that a change takes a reason."""
    hints = get_type_hints(method, include_extras=True)
    kinds = [one.kind for one in inspect.signature(method).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        names = []
    else:
        names = list(inspect.signature(method).parameters)[1:]
        names = names[: len(names) - (query is not None) - (body is not None)]
    if action:
        taken = body or query
        assert taken is not None and "reason" in taken.__struct_fields__, f"{action} takes no reason"
    path = {_camel(name): hints[name] for name in names}
    doc = inspect.cleandoc(method.__doc__ or "")
    return Operation(scope, path, query, body, answer, statuses, errors, action, target, doc, stream, items)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_path(operation: Operation, parts: Sequence[str]) -> list[Any]:
    """Return the path's parts in their types. Raises RtError BAD_REQUEST naming the part."""
    if not operation.path:
        return list(parts)
    found = []
    for (name, kind), text in zip(operation.path.items(), parts, strict=True):
        try:
            found.append(msgspec.convert(text, kind, strict=False))
        except msgspec.ValidationError as why:
            raise RtError("BAD_REQUEST", in_words(str(why)), field=name) from None
    return found


def read_query(kind: type[Struct], arguments: Mapping[str, Sequence[bytes]]) -> Any:
    """Return the query in its type. Raises RtError BAD_REQUEST naming the parameter."""
    fields = msgspec.structs.fields(kind)
    lists = {field.encode_name for field in fields if _is_list(field.type)}
    times = {field.encode_name for field in fields if _is_time(field.type)}
    values: dict[str, Any] = {}
    for name, given in arguments.items():
        if len(given) != 1 and name not in lists:
            raise RtError("BAD_REQUEST", "The parameter is given twice", field=name[:100])
        try:
            texts = [one.decode() for one in given]
        except ValueError:
            raise RtError("BAD_REQUEST", "The value is not UTF-8", field=name[:100]) from None
        if (
            name in times and "-" not in texts[0]
        ):  # msgspec would read a number as Unix seconds, which bodies do not accept
            raise RtError("BAD_REQUEST", "Expected an ISO 8601 time with its zone", field=name)
        if len(texts) > 1:  # each is one item: ids may contain commas, for example LDAP's ("cn=ann,ou=desk")
            values[name] = texts
        else:
            values[name] = texts[0].split(",") if name in lists else texts[0]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as why:
        raise wrong(json.named(str(why))) from None


def read_body(kind: type[Struct], content_type: str, text: bytes) -> Any:
    """Return the typed body, which may begin with a byte order mark. Raises RtError BAD_REQUEST naming the field;
    UNSUPPORTED_MEDIA_TYPE.
    """
    # A page of another site can send a form without a CORS preflight, but not this type.
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise RtError("UNSUPPORTED_MEDIA_TYPE")
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RtError("BAD_REQUEST", "The body must be UTF-8, but it begins with the mark of UTF-16.")
    try:
        # RFC 8259 8.1: a parser may ignore the mark. .NET and PowerShell write it.
        return json.decode(_decoder(kind), text.removeprefix(codecs.BOM_UTF8))
    except json.BadJson as bad:
        raise wrong(bad) from None


def wrong(bad: json.BadJson) -> RtError:
    unknown = _UNKNOWN_FIELD.search(bad.why)
    field = ".".join(filter(None, (bad.field, unknown.group(1)))) if unknown else bad.field
    return RtError("BAD_REQUEST", bad.why, field=field)


def given(asked: Struct) -> Any:
    """Return the fields that the caller set, without those that are null, false or empty."""
    return _set(json.loads(json.encode_struct(asked)))


def _set(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _set(one) for name, one in value.items() if one is not None and one is not False and one != ""}


@cache
def _decoder(kind: type[Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _is_list(kind: Any) -> bool:
    described = msgspec.inspect.type_info(kind)
    if isinstance(described, msgspec.inspect.Metadata):
        described = described.type
    return isinstance(described, msgspec.inspect.CollectionType)


def _is_time(kind: Any) -> bool:
    def holds(described: msgspec.inspect.Type) -> bool:
        if isinstance(described, msgspec.inspect.Metadata):
            return holds(described.type)
        if isinstance(described, msgspec.inspect.UnionType):
            return any(map(holds, described.types))
        return isinstance(described, msgspec.inspect.DateTimeType)

    return holds(msgspec.inspect.type_info(kind))


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.title, rest))

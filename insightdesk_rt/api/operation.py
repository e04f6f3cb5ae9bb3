"""How an operation of the admin API is declared, and how what is declared is read from a request.

    class Find(Paged):                       # the query, a field per parameter
        user: str = ""

    class ThingsHandler(Handler):
        @operation("viewer", query=Find, answer=Page[Thing])
        async def get(self, find: Find) -> Answer: ...

        @operation("operator", body=Rename, answer=Thing, action="thing.rename", errors=("NOT_FOUND",))
        async def post(self, thing_id: ThingId, body: Rename) -> Answer: ...

A method takes the path's parts, then the query, then the body, each in its declared type. The description of the API
(openapi.py) is made of nothing else than this, and so are the tests that send each field wrong.
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

# Nobody should have to read a regex to see what is wrong.
WORDS[NO_CONTROLS] = "without control characters"

_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may stand behind the `?`. A list is written a,b,c, or the name again for each
    item. Without fields of its own it allows nothing."""


class Removal(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a DELETE."""

    reason: Reason


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least that the body of a change has."""

    reason: Reason


class BulkChange(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dryRun: Annotated[bool, Meta(description="do nothing, answer how many it would be done to")] = False


class Count(Struct):
    """How many it was done to, or would be (`dryRun`). `missing`: nodes that did not answer in time."""

    count: int
    missing: list[str] = []


class Answer(NamedTuple):
    """`body` is a Struct or plain JSON values."""

    body: Any
    status: int = 200


class Operation(NamedTuple):
    """What is declared of a handler's method; it is the method's `operation`."""

    scope: Scope | None  # None: for everybody
    path: dict[str, Any]  # name as in the description → type
    query: type[Struct] | None
    body: type[Struct] | None
    answer: Any  # type of the answer's body; Any for what only the operation knows
    statuses: tuple[int, ...]  # of an answer
    errors: tuple[str, ...]  # codes of its own, beside those that every operation has
    action: str  # what the audit log calls it; "": it is not written there
    target: Callable[[Any], str] | None  # of the body: what it is done to, where the path does not say
    doc: str
    stream: bool  # of server-sent events


def declared(
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
) -> Operation:
    """Return what a method and its decorator say together. A change without a reason is a mistake of ours."""
    hints = get_type_hints(method, include_extras=True)
    kinds = [one.kind for one in inspect.signature(method).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        names = []
    else:
        names = list(inspect.signature(method).parameters)[1:]
        names = names[: len(names) - (query is not None) - (body is not None)]
    if action:
        told = body or query
        assert told is not None and "reason" in told.__struct_fields__, f"{action} takes no reason"
    path = {_camel(name): hints[name] for name in names}
    doc = inspect.cleandoc(method.__doc__ or "")
    return Operation(scope, path, query, body, answer, statuses, errors, action, target, doc, stream)


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
            raise RtError("BAD_REQUEST", "It stands there twice", field=name[:100])
        try:
            texts = [one.decode() for one in given]
        except ValueError:
            raise RtError("BAD_REQUEST", "It is not UTF-8", field=name[:100]) from None
        if name in times and "-" not in texts[0]:  # a number would be read as Unix seconds, which no body takes
            raise RtError("BAD_REQUEST", "Expected a time of ISO 8601 with its zone", field=name)
        if len(texts) > 1:  # each is one item: there are ids with commas, as of LDAP ("cn=ann,ou=desk")
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
    # A page of another site may send a form without asking (CORS), but not this.
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise RtError("UNSUPPORTED_MEDIA_TYPE")
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RtError("BAD_REQUEST", "The body must be UTF-8; it begins as UTF-16 does.")
    try:
        # RFC 8259 8.1: a reader may leave the mark out. .NET and PowerShell write it.
        return json.decode(_decoder(kind), text.removeprefix(codecs.BOM_UTF8))
    except json.BadJson as bad:
        raise wrong(bad) from None


def wrong(bad: json.BadJson) -> RtError:
    unknown = _UNKNOWN_FIELD.search(bad.why)
    field = ".".join(filter(None, (bad.field, unknown.group(1)))) if unknown else bad.field
    return RtError("BAD_REQUEST", bad.why, field=field)


def said(asked: Struct) -> Any:
    """Return the fields that somebody has set: what is null, false or empty says no more than if it were not there."""
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

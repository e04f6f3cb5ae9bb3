"""GET /api/v1/openapi.json: the description of the admin API (OpenAPI 3.1), generated from the operations.

Paths come from the routes and the methods' arguments; queries, bodies and answers from their Structs; summaries from
the docstrings; errors from the table of errors.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from insightdesk_rt import __version__
from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer, Operation
from insightdesk_rt.engine.errors import ERRORS

Route = tuple[str, type[Handler], dict[str, Any]]

METHODS = ("get", "post", "put", "patch", "delete")
JSON = "application/json"
EVENTS = "text/event-stream"
REF = "#/components/schemas/{name}"
KEYED = (
    "AUTH_TOKEN_MISSING",
    "AUTH_TOKEN_INVALID",
    "AUTH_TOKEN_EXPIRED",
    "AUTH_SESSION_REVOKED",
    "FORBIDDEN",
    "RATE_LIMITED",
    "BAD_REQUEST",
    "UNAVAILABLE",
)
WITH_BODY = ("PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")

_GROUP = re.compile(r"\([^()]*\)")


class ErrorBody(Struct):
    """`code` is for programs, `message` for people, `field` names the wrong field. Some codes have more fields."""

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(Struct):
    error: ErrorBody


class OpenApiHandler(Handler):
    document: Mapping[str, Any]

    @operation(None, answer=dict[str, Any])
    async def get(self) -> Answer:
        """This description."""
        return Answer(self.document)


def openapi_routes(admin: Admin, routes: Sequence[Route]) -> list[Route]:
    """Return the route of this file. The description covers `routes` and itself."""
    document: dict[str, Any] = {}
    mine: list[Route] = [(r"/api/v1/openapi.json", OpenApiHandler, {"admin": admin, "document": document})]
    document.update(describe([*routes, *mine]))
    return mine


def operations(routes: Sequence[Route]) -> Iterator[tuple[str, str, Operation]]:
    """Yield path (`/api/v1/nodes/{nodeId}/drain`), method and declaration of every operation."""
    for pattern, handler, _ in routes:
        for method in METHODS:
            about: Operation | None = getattr(getattr(handler, method), "operation", None)
            if about is not None:
                names = iter(about.path)
                yield _GROUP.sub(lambda group, names=names: f"{{{next(names)}}}", pattern), method, about  # type: ignore[misc]


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of the routes."""
    found = list(operations(routes))
    kinds: list[Any] = [ErrorAnswer]
    for _, _, about in found:
        kinds += [kind for kind in (about.body, about.answer, about.items) if kind not in (None, Any)]
        kinds += [each.type for each in _fields(about.query)] + list(about.path.values())
    posted = {name: kind for _, handler, _ in routes for name, kind in handler.posts.items()}
    kinds += posted.values()
    shapes, components = msgspec.json.schema_components(kinds, ref_template=REF)
    shape = functools.partial(_shape_of, [(kind, _ecma(one)) for kind, one in zip(kinds, shapes, strict=True)])
    paths: dict[str, dict[str, Any]] = {}
    for path, method, about in found:
        paths.setdefault(path, {})[method] = _operation(path, method, about, shape)
    return {
        "openapi": "3.1.0",
        "info": {"title": "insightdesk_rt admin API", "version": __version__},
        "paths": paths,
        "webhooks": {name: _posted(shape(kind)) for name, kind in posted.items()},
        "components": {
            "schemas": _ecma(components),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "an admin's token or key"}},
        },
    }


def _posted(schema: Any) -> dict[str, Any]:
    """Return the description of a message that the server posts."""
    body = {"required": True, "content": {JSON: {"schema": schema}}}
    return {"post": {"requestBody": body, "responses": {"2XX": {"description": "accepted"}}}}


def _operation(path: str, method: str, about: Operation, shape: Any) -> dict[str, Any]:
    summary, _, more = about.doc.partition("\n\n")
    described: dict[str, Any] = {
        "operationId": method
        + "".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z]+", path.removeprefix("/api/v1"))),
        "tags": [path.removeprefix("/api/v1").split("/")[1]],
        "summary": " ".join(summary.split()),
    }
    if more:
        described["description"] = " ".join(more.split())
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": shape(kind)} for name, kind in about.path.items()
    ]
    for field in _fields(about.query):
        parameter = {"name": field.encode_name, "in": "query", "required": field.required, "schema": shape(field.type)}
        if parameter["schema"].get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter)
    if parameters:
        described["parameters"] = parameters
    if about.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": shape(about.body)}}}
    if about.items is not None:  # not in the body's schema: an item that does not fit does not fail the request
        described["x-items"] = shape(about.items)
    if about.scope is not None:
        described |= {"security": [{"key": []}], "x-scope": about.scope}
    described["responses"] = _responses(about, shape)
    return described


def _responses(about: Operation, shape: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status in about.statuses:
        schema = {} if about.answer is Any else shape(about.answer)
        content: dict[str, Any] = {EVENTS: {"schema": {"type": "string"}}} if about.stream else {}
        if not about.stream or about.answer is not Any:  # a stream with an answer is also to be had as JSON
            content[JSON] = {"schema": schema}
        answers[str(status)] = {"description": "done" if status < 300 else "not ready", "content": content}
    codes = [*about.errors, *(KEYED if about.scope else ()), *(WITH_BODY if about.body else ())]
    for status in sorted({ERRORS[code].http for code in codes}):
        texts = [f"{code}: {ERRORS[code].text}" for code in dict.fromkeys(codes) if ERRORS[code].http == status]
        answers[str(status)] = {
            "description": " ".join(texts),
            "content": {JSON: {"schema": shape(ErrorAnswer)}},
        }
    return answers


def _fields(query: type[Struct] | None) -> Sequence[msgspec.structs.FieldInfo]:
    return msgspec.structs.fields(query) if query is not None else ()


def _shape_of(shapes: list[tuple[Any, Any]], kind: Any) -> Any:
    return dict(next(shape for known, shape in shapes if known == kind))


def _ecma(value: Any) -> Any:
    r"""Return schemas with patterns as JSON Schema writes them: \Z is Python's."""
    if isinstance(value, dict):
        return {
            key: one.replace(r"\Z", "$") if key == "pattern" and isinstance(one, str) else _ecma(one)
            for key, one in value.items()
        }
    return [_ecma(one) for one in value] if isinstance(value, list | tuple) else value

"""The admin port's one way through a request: body within its limit → who asks → what they may → typed body → answer.

    class TicketHandler(Handler):
        @operation("admin", body=TicketChange)
        async def put(self, ticket_id: str, change: TicketChange) -> Answer: ...

An operation raises RtError to refuse and returns its answer; this file alone writes responses, so every outcome is
JSON: also of unknown paths (`NotFound`), wrong methods, too large bodies and bugs. What is declared of an operation
(scope, body, docstring) stays on the method, for whatever describes the API.

Bodies are taken in as they come and thrown away past the limit: a client is answered when it has sent its request, not
cut off in the middle of it, which it would see as a broken connection instead of a 413.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import msgspec
from msgspec import Struct
from tornado.web import HTTPError, RequestHandler, stream_request_body

from insightdesk_rt.errors import ERRORS, RtError
from insightdesk_rt.model import User
from insightdesk_rt.wire import json

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000  # a push to 1,000 users has 70 KB
MAX_DRAINED_BYTES = 16_000_000  # of a body over the limit; past that the connection is cut
RETRY_AFTER_S = 1

Scope = Literal["viewer", "operator", "admin"]  # each may what those before it may
SCOPES: tuple[str, ...] = get_args(Scope)

_BEARER = re.compile(r"Bearer +([^\s]+)", re.IGNORECASE)
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_CODES = {400: "BAD_REQUEST", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE"}


class Principal(Struct, frozen=True):
    """Who asks, and how much they may."""

    name: str
    scope: Scope


class Answer(NamedTuple):
    """`body` is a Struct or plain JSON values."""

    body: Any
    status: int = 200


class Operation(NamedTuple):
    """What is declared of a handler's method; it is the method's `operation`."""

    scope: Scope | None  # None: for everybody
    body: type[Struct] | None
    doc: str


class Admin:
    """What all handlers of the port share. `verify` turns a client's token into its user, as on the client port."""

    def __init__(self, verify: Callable[[object], User], max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._verify = verify
        self.max_body_bytes = max_body_bytes

    def principal(self, authorization: str) -> Principal:
        """Return who an Authorization header speaks for. Raises RtError AUTH_*; FORBIDDEN for all but admins."""
        bearer = _BEARER.fullmatch(authorization.strip())
        user = self._verify(bearer.group(1) if bearer else "")
        if user.role != "admin":
            raise RtError("FORBIDDEN", "The admin API is for admins.")
        return Principal(user.id, "admin")


def operation(scope: Scope | None, body: type[Struct] | None = None) -> Callable[[Any], Any]:
    """Declare a method of a Handler as an operation of the API: `async def (self, *path, body) -> Answer`."""
    decoder = msgspec.json.Decoder(body) if body is not None else None

    def declare(method: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        async def run(self: Handler, *path: str) -> None:
            try:
                self.check(scope)
                answer = await method(self, *path, *([self.decoded(decoder)] if decoder is not None else []))
            except RtError as refused:
                self.refuse(refused)
            else:
                self.reply(answer)

        run.operation = Operation(scope, body, method.__doc__ or "")  # type: ignore[attr-defined]
        return run

    return declare


@stream_request_body
class Handler(RequestHandler):
    """The base of every handler of the port. A subclass takes more parts in its own `initialize`."""

    SUPPORTED_METHODS: ClassVar[tuple[str, ...]] = ("GET", "POST", "PUT", "PATCH", "DELETE")  # type: ignore[misc]

    def initialize(self, admin: Admin) -> None:
        self.admin = admin
        self.who: Principal | None = None
        self._chunks: list[bytes] = []
        self._received = 0
        self._refused: RtError | None = None  # why the body is not kept

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """See who asks before the body comes; whoever may not is answered when it is there, and it is not kept."""
        self.request.connection.set_max_body_size(MAX_DRAINED_BYTES)  # type: ignore[union-attr]
        said = self.request.headers.get("Content-Length", "")
        length = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else 0  # Tornado refuses the rest
        if length > self.admin.max_body_bytes:
            self._refused = RtError("PAYLOAD_TOO_LARGE")
        if length > MAX_DRAINED_BYTES:
            self.request.connection.set_max_body_size(length)  # type: ignore[union-attr]
            self.set_header("Connection", "close")
            self.refuse(RtError("PAYLOAD_TOO_LARGE"))
            return
        authorization = self.request.headers.get_list("Authorization")
        try:
            if len(authorization) > 1:
                raise RtError("AUTH_TOKEN_INVALID")
            self.who = self.admin.principal(authorization[0] if authorization else "")
        except RtError as refused:
            self._refused = refused

    def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self.admin.max_body_bytes and self._refused is None:
            self._refused = RtError("PAYLOAD_TOO_LARGE")
        if self._refused is None:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    # ── for operations ─────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, scope: Scope | None) -> None:
        """Raise what the request is refused with: who asks is not known, may not, or sent too much."""
        if scope is None:
            return
        if self._refused is not None:
            raise self._refused
        assert self.who is not None
        if SCOPES.index(self.who.scope) < SCOPES.index(scope):
            raise RtError("FORBIDDEN", f"This needs the scope {scope}.")

    def decoded(self, decoder: msgspec.json.Decoder[Any]) -> Any:
        """Return the typed body. Raises RtError BAD_REQUEST naming the field."""
        try:
            return json.decode(decoder, b"".join(self._chunks))
        except json.BadJson as bad:
            unknown = _UNKNOWN_FIELD.search(bad.why)
            field = ".".join(filter(None, (bad.field, unknown.group(1)))) if unknown else bad.field
            raise RtError("BAD_REQUEST", bad.why, field=field) from None

    # ── the one place that answers ─────────────────────────────────────────────────────────────────────────────────

    def reply(self, answer: Answer) -> None:
        body = answer.body
        self.set_status(answer.status)
        self.finish(json.encode_struct(body) if isinstance(body, Struct) else json.dumps(body))

    def refuse(self, refused: RtError) -> None:
        self.set_status(refused.kind.http)
        if refused.kind.http == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if refused.kind.http in (429, 503):
            self.set_header("Retry-After", str(refused.fields.get("retryAfter", RETRY_AFTER_S)))
        self.finish(json.dumps({"error": refused.as_dict()}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tornado's own refusals, and what an operation did not expect; the latter is in the log already."""
        code = _CODES.get(status_code, "INTERNAL" if status_code >= 500 else "BAD_REQUEST")
        if status_code == 405:
            allowed = [name for name in self.SUPPORTED_METHODS if hasattr(getattr(self, name.lower()), "operation")]
            self.set_header("Allow", ", ".join(allowed))
        self.finish(json.dumps({"error": {"code": code, "message": ERRORS[code].text}}))

    def compute_etag(self) -> str | None:
        return None

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """A refusal of Tornado's is the client's business; anything else is a bug of ours, logged once."""
        if not isinstance(value, HTTPError):
            log.error("request failed", exc_info=(typ, value, tb), extra={"method": self.request.method})  # type: ignore[arg-type]


class NotFound(Handler):
    """Whatever has no route."""

    @operation(None)
    async def get(self, *path: str) -> Answer:
        raise RtError("NOT_FOUND", "There is no such path.")

    post = put = patch = delete = get

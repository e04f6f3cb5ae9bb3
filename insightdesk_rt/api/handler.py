"""How every request to the admin port is handled: body limit → host name → who asks → their scope → path, query and
body in their types → answer, and an entry in the audit log if it changed something.

    class TicketHandler(Handler):
        tickets: Tickets                                  # a part that the route passes in

        @operation("admin", body=TicketChange)
        async def put(self, ticket_id: Id, change: TicketChange) -> Answer: ...

An operation returns its answer, or raises RtError to refuse. Only this file writes responses, so every outcome is JSON,
including unknown paths (`NotFound`), wrong methods, bodies over the limit and bugs. operation.py has the declarations.

A body over the limit is read to its end and discarded. The client is answered when it has sent its whole request: if
the connection were cut in the middle, the client would see a broken connection instead of a 413.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Any, ClassVar, Literal, Protocol, Self

from msgspec import Struct
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import HTTPError, RequestHandler, stream_request_body

from insightdesk_rt.api.audit_store import Entry
from insightdesk_rt.api.keys_and_scopes import KEY_PREFIX, AdminAccess, Principal, Scope
from insightdesk_rt.api.operation import (
    Answer,
    Operation,
    Query,
    describe_operation,
    given,
    read_body,
    read_path,
    read_query,
)
from insightdesk_rt.engine.doors.peers import RemotePeer, direct_peer
from insightdesk_rt.engine.errors import ERRORS, RtError
from insightdesk_rt.engine.model import iso
from insightdesk_rt.engine.rate_limits import Windows
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000  # a push to 1,000 users has 70 KB
MAX_DRAINED_BYTES = 16_000_000  # of a body over the limit; beyond that the connection is closed
RETRY_AFTER_S = 1
CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")  # RFC 9110 13.1
# Changes by one principal on one node. A person makes a few, a script that works through a list some hundred. More
# would push older entries out of the audit log.
MAX_CHANGES, CHANGES_PER_S = 600, 60
MAX_WHAT = 1000  # characters of the request's fields that an audit entry keeps

_CODES = {400: "BAD_REQUEST", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE"}


class CookieSessions(Protocol):
    """Sign-ins of browsers, which send a cookie instead of a key or token (operations/console/sessions.py)."""

    cookie: str  # its name

    def accepts(self, method: str | None, headers: HTTPHeaders) -> bool:
        """Return whether a page for which the cookie counts made this request."""
        ...

    async def credential(self, secret: str) -> str:
        """Return the key or token of the sign-in. Raises RtError AUTH_TOKEN_MISSING, UNAVAILABLE."""
        ...

    async def close(self, secret: str) -> None:
        """End the session on all nodes. Raises RtError UNAVAILABLE."""
        ...


class Admin:
    """What all handlers of the port share.

    `record` stores an entry of the audit log. `hosts` are the port's names, besides localhost and IP addresses.
    `peer` returns the sender of a request, as seen behind trusted proxies.
    `sessions` are the console's. `now_ms` is the time for audit entries, in Unix ms.
    """

    def __init__(
        self,
        access: AdminAccess,
        record: Callable[[Entry], Awaitable[None]],
        node: str = "",
        hosts: Collection[str] = (),
        peer: Callable[[HTTPServerRequest], RemotePeer] = direct_peer,
        max_body_bytes: int = MAX_BODY_BYTES,
        sessions: CookieSessions | None = None,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self.access = access
        self.sessions = sessions
        self.peer = peer
        self.max_body_bytes = max_body_bytes
        self._record = record
        self._changes = Windows(MAX_CHANGES, CHANGES_PER_S * 1000)
        self._seldom = Seldom(log, every_s=CHANGES_PER_S)
        self._now_ms = now_ms
        self._node = node
        self._hosts = frozenset(host.lower() for host in hosts) | {"localhost", ""}

    def known_host(self, host: str) -> bool:
        """Is this one of the port's names? An attacker may point another name here (DNS rebinding)."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def limit(self, who: Principal) -> None:
        """Count a change. Raises RtError RATE_LIMITED if a principal makes more than the audit log should take."""
        now_ms = time.monotonic_ns() // 1_000_000
        if wait_ms := self._changes.take(who.id, now_ms):
            self._seldom.say(logging.WARNING, "an admin's changes are refused: too many at once", who.id, who=who.id)
            raise RtError("RATE_LIMITED", "Too many changes at once.", retryAfter=-(-wait_ms // 1000))

    async def record(self, who: Principal, action: str, target: str, asked: Struct, address: str, outcome: str) -> None:
        """Write a change to the audit log.

        Never raises, because the change is done. Also logs it, in case Valkey fails.
        """
        fields = given(asked)
        reason = fields.pop("reason", "")
        fields.pop("secret", None)  # a field of this name is one
        fields.pop("url", None)  # its path may hold one; the target names the host
        what = json.dumps(fields)[:MAX_WHAT] if fields else ""
        now = iso(self._now_ms())
        entry = Entry("", now, who.id, who.scope, action, target, what, reason, address, self._node, outcome)
        log.info(
            "an admin acted",
            extra={"who": who.id, "action": action, "target": target, "reason": reason, "outcome": outcome},
        )
        try:
            await self._record(entry)
        except RtError as refused:
            log.warning("the audit log misses an entry", extra={"action": action, "why": refused.code})


def operation(
    scope: Scope | None,
    *,
    query: type[Struct] | None = None,
    body: type[Struct] | None = None,
    answer: Any = Any,
    statuses: tuple[int, ...] = (200,),
    errors: tuple[str, ...] = (),
    action: str = "",
    target: Callable[[Any], str] | None = None,
    stream: bool = False,
    items: Any = None,
) -> Callable[[Any], Any]:
    """Declare a method of a Handler as an operation of the API: `async def (self, *path, query, body) -> Answer`.

    With an `action` it is written to the audit log. The query or body must then have a `reason`. The entry's target is
    the path's parts, or what `target` returns for the body. With `stream` it answers server-sent events by itself
    (sse.py). `items` describes the items of a list in the body that the method decodes itself.
    """

    def declare(method: Callable[..., Awaitable[Answer | None]]) -> Callable[..., Awaitable[None]]:
        about = describe_operation(method, scope, query, body, answer, statuses, errors, action, target, stream, items)

        @functools.wraps(method)
        async def run(self: Handler, *path: str) -> None:
            try:
                self.check(scope)
                arguments = self.arguments_of(about, path)
                done = await (self.audited(about, method, arguments) if action else method(self, *arguments))
            except RtError as refused:
                self.refuse(refused)
            else:
                if done is not None:
                    self.reply(done)

        run.operation = about  # type: ignore[attr-defined]
        return run

    return declare


@stream_request_body
class Handler(RequestHandler):
    """The base of every handler of the port. A subclass annotates its parts as attributes; its route passes them in."""

    posts: ClassVar[Mapping[str, Any]] = {}  # name → type of what the server posts to others, for the API's description
    SUPPORTED_METHODS: ClassVar[tuple[str, ...]] = ("GET", "POST", "PUT", "PATCH", "DELETE")  # type: ignore[misc]
    max_body_bytes: ClassVar[int] = 0  # of operations that take lists of changes; 0: as all others

    def initialize(self, admin: Admin, **parts: Any) -> None:
        self.admin = admin
        for name, part in parts.items():
            setattr(self, name, part)
        self.who: Principal | None = None
        self.via: Literal["key", "token", "cookie"] = "key"
        self._chunks: list[bytes] = []
        self._received = 0
        self.done_to = ""  # an operation may add to the target of its audit entry
        self.refused: RtError | None = None  # why the body is discarded

    @classmethod
    def within(cls, who: Principal | None, parts: Mapping[str, Any]) -> Self:
        """Return a handler without a request, whose operations can be called from inside the server."""
        made = cls.__new__(cls)
        made.who = who
        for name, part in parts.items():
            setattr(made, name, part)
        return made

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    async def prepare(self) -> None:  # Tornado awaits it before it reads the body
        """Identify the caller before the body arrives.

        If the request is refused, its body is read and discarded first.
        """
        self.request.connection.set_max_body_size(MAX_DRAINED_BYTES)  # type: ignore[union-attr]
        text = self.request.headers.get("Content-Length", "")
        length = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0  # Tornado refuses the rest
        if length > self.body_limit:
            self.refused = RtError("PAYLOAD_TOO_LARGE")
        if length > MAX_DRAINED_BYTES:
            self.request.connection.set_max_body_size(length)  # type: ignore[union-attr]
            self.set_header("Connection", "close")
            self.refuse(RtError("PAYLOAD_TOO_LARGE"))
            return
        try:
            self.who = await self.identified()
        except RtError as refused:
            self.refused = refused

    @property
    def body_limit(self) -> int:
        return self.max_body_bytes or self.admin.max_body_bytes

    def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self.body_limit and self.refused is None:
            self.refused = RtError("PAYLOAD_TOO_LARGE")
        if self.refused is None:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    async def identified(self) -> Principal | None:
        """Return who asks. Raises RtError AUTH_*, FORBIDDEN, RATE_LIMITED, UNAVAILABLE."""
        access, address = self.admin.access, self.admin.peer(self.request).address
        authorization = self.request.headers.get_list("Authorization")
        if len(authorization) > 1:
            raise RtError("AUTH_TOKEN_INVALID")
        sessions = self.admin.sessions
        cookie = self.get_cookie(sessions.cookie) if sessions is not None else None
        if authorization or not cookie or sessions is None:
            shown = authorization[0] if authorization else ""
            self.via = "key" if shown.rpartition(" ")[2].startswith(KEY_PREFIX) else "token"
            return access.principal(shown, address)
        if not sessions.accepts(self.request.method, self.request.headers):
            raise RtError("FORBIDDEN", "The console's cookie is accepted from its own pages only.")
        self.via = "cookie"
        credential = await sessions.credential(cookie)
        try:
            return access.holder(credential, address)
        except RtError as refused:
            if refused.kind.http == 401:  # it cannot become valid again, and must not count as a wrong guess each time
                await sessions.close(cookie)
            raise

    # ── for operations ─────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, scope: Scope | None) -> None:
        """Raise the reason to refuse the request: unknown caller, scope too low, body too large, wrong host."""
        if scope is None:
            return
        self.check_host()
        if self.refused is not None:
            raise self.refused
        self.require(scope)
        self.check_conditions()

    @property
    def asker(self) -> Principal:
        """The caller. Only for operations that have a scope."""
        assert self.who is not None
        return self.who

    def require(self, scope: Scope) -> None:
        """Raise RtError FORBIDDEN unless the caller has the scope."""
        if self.who is None or not self.who.may(scope):
            raise RtError("FORBIDDEN", f"This needs the scope {scope}.")

    async def still_may(self, scope: Scope) -> None:
        """Raise RtError if the caller's key or token no longer counts: a stream can outlive it."""
        self.who = await self.identified()
        self.require(scope)

    def check_conditions(self) -> None:
        """Raise RtError BAD_REQUEST for a conditional header on a change: ignoring it would be wrong."""
        if self.request.method not in ("GET", "HEAD"):
            for name in CONDITIONS:
                if name in self.request.headers:
                    raise RtError("BAD_REQUEST", f"{name} is not supported; tickets have ifVersion.", field=name)

    def check_host(self) -> None:
        """Raise RtError FORBIDDEN unless the Host header is one of the port's names."""
        if not self.admin.known_host(self.request.headers.get("Host", "")):
            raise RtError("FORBIDDEN", "This is not a name of the admin port; the setting admin_hosts lists its names.")

    def arguments_of(self, about: Operation, path: tuple[str, ...]) -> list[Any]:
        """Return path, query and body in their types. Raises RtError BAD_REQUEST, UNSUPPORTED_MEDIA_TYPE."""
        found = read_path(about, path)
        if about.query is not None or about.scope is not None:
            query = read_query(about.query or Query, self.request.query_arguments)
            found += [query] if about.query is not None else []
        if about.body is not None:
            if self.request.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
                self.set_header("Accept-Encoding", "identity")  # RFC 9110 15.5.16
                raise RtError("UNSUPPORTED_MEDIA_TYPE", "The body must not be compressed: leave out Content-Encoding.")
            content_type = self.request.headers.get("Content-Type", "")
            found.append(read_body(about.body, content_type, b"".join(self._chunks)))
        return found

    async def audited(
        self, about: Operation, method: Callable[..., Awaitable[Answer | None]], arguments: list[Any]
    ) -> Answer | None:
        """Run an operation and write its outcome to the audit log. A dry run is not written there."""
        assert self.who is not None
        asked = arguments[-1]
        if not getattr(asked, "dryRun", False):
            self.admin.limit(self.who)
        outcome = "INTERNAL"
        try:
            answer = await method(self, *arguments)
            outcome = "ok"
        except RtError as refused:
            outcome = refused.code
            raise
        finally:
            if not getattr(asked, "dryRun", False):
                target = about.target(asked) if about.target else "/".join(map(str, arguments[: len(about.path)]))
                target = " ".join(filter(None, (target, self.done_to)))
                address = self.admin.peer(self.request).address
                await self.admin.record(self.who, about.action, target, asked, address, outcome)
        return answer

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
        """Answer Tornado's own refusals, and unexpected exceptions, which are already in the log."""
        code = _CODES.get(status_code, "INTERNAL" if status_code >= 500 else "BAD_REQUEST")
        if status_code == 405:
            allowed = [name for name in self.SUPPORTED_METHODS if hasattr(getattr(self, name.lower()), "operation")]
            self.set_header("Allow", ", ".join(allowed))
        self.finish(json.dumps({"error": {"code": code, "message": ERRORS[code].text}}))

    def compute_etag(self) -> str | None:
        return None

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log an exception once. Tornado's own refusals are the client's errors and are not logged."""
        if not isinstance(value, HTTPError):
            log.error("request failed", exc_info=(typ, value, tb), extra={"method": self.request.method})  # type: ignore[arg-type]


class NotFound(Handler):
    """Answers every path that has no route."""

    @operation(None)
    async def get(self, *path: str) -> Answer:
        """Answer 404."""
        raise RtError("NOT_FOUND", "There is no such path.")

    post = put = patch = delete = get

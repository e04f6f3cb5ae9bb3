"""The admin port answers every request in JSON, and requires an admin's token."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import Struct

from insightdesk_rt.api import handler as base
from insightdesk_rt.api.handler import MAX_DRAINED_BYTES, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.operation import Answer, BulkChange, Count
from insightdesk_rt.engine.errors import RtError
from tests.support.admin_port import Audit, Port, a_port, make_admin, token
from tests.support.aio import aio


class Body(Struct, forbid_unknown_fields=True):
    name: str
    size: int = 0


class Thing(Handler):
    @operation("viewer")
    async def get(self, thing: str) -> Answer:
        """Return the thing."""
        if thing == "bug":
            raise ZeroDivisionError("a secret")
        raise RtError(thing) if thing.isupper() else RtError("NOT_FOUND", thingId=thing)

    @operation("operator", body=Body)
    async def post(self, thing: str, body: Body) -> Answer:
        """Make a thing."""
        assert self.who is not None
        return Answer({"name": body.name, "by": self.who.name, "bytes": self._received}, 201)


class Open(Handler):
    @operation(None)
    async def get(self) -> Answer:
        return Answer(Body("é"))


@asynccontextmanager
async def things() -> AsyncIterator[Port]:
    admin = make_admin()
    async with a_port(
        admin, [(r"/things/([^/]+)", Thing, {"admin": admin}), (r"/open", Open, {"admin": admin})]
    ) as port:
        yield port


GOOD = {"name": "x"}
CHUNKED = "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n"


@aio
async def test_an_operation_gets_its_typed_body_and_answers_json() -> None:
    async with things() as port:
        reply = await port.ask("POST", "/things/1", GOOD)
        assert (reply.status, reply.json) == (201, {"name": "x", "by": "back-end", "bytes": 13})
        assert reply.headers["cache-control"] == "no-store" and reply.headers["x-content-type-options"] == "nosniff"
        assert "server" not in reply.headers and "etag" not in reply.headers
        form = "Content-Type: application/x-www-form-urlencoded\r\n"  # can be sent without CORS
        assert (await port.ask("POST", "/things/1", GOOD, headers=form)).error["code"] == "UNSUPPORTED_MEDIA_TYPE"
        utf8 = "Content-Type: Application/JSON; charset=utf-8\r\n"
        assert (await port.ask("POST", "/things/1", GOOD, headers=utf8)).status == 201
        chunked = await port.ask("POST", "/things/1", headers=CHUNKED, raw=b'd\r\n{"name": "x"}\r\n0\r\n\r\n')
        assert chunked.json["bytes"] == 13


@aio
async def test_a_byte_order_mark_is_ignored_and_another_encoding_is_refused() -> None:
    """RFC 8259 8.1 allows to ignore the mark; by RFC 9110 15.5.16 a 415 should list the accepted codings."""
    json_type = "Content-Type: application/json\r\n"
    async with things() as port:
        text = b'{"name": "x"}'
        reply = await port.ask("POST", "/things/1", b"\xef\xbb\xbf" + text, headers=json_type)
        assert (reply.status, reply.json["name"]) == (201, "x")
        reply = await port.ask("POST", "/things/1", text.decode().encode("utf-16"), headers=json_type)
        assert (reply.status, reply.error["message"]) == (
            400,
            "The body must be UTF-8, but it begins with the mark of UTF-16.",
        )
        for coding, status in (
            ("gzip", 415),
            ("br", 415),
            ("gzip, identity", 415),
            ("identity", 201),
            ("Identity", 201),
        ):
            how = f"{json_type}Content-Encoding: {coding}\r\n"
            reply = await port.ask("POST", "/things/1", gzip.compress(text) if status == 415 else text, headers=how)
            assert reply.status == status
            if status == 415:
                assert reply.error["code"] == "UNSUPPORTED_MEDIA_TYPE" and "Content-Encoding" in reply.error["message"]
                assert reply.headers["accept-encoding"] == "identity"


@aio
async def test_a_request_without_an_admins_token_is_refused_before_other_checks() -> None:
    async with things() as port:
        for bearer, status, code in [
            (None, 401, "AUTH_TOKEN_MISSING"),
            ("", 401, "AUTH_TOKEN_MISSING"),
            ("nonsense", 401, "AUTH_TOKEN_INVALID"),
            (token(ttl_s=-10), 401, "AUTH_TOKEN_EXPIRED"),
            (token("agent"), 403, "FORBIDDEN"),
            (token("customer"), 403, "FORBIDDEN"),
        ]:
            for method, body in (("GET", None), ("POST", GOOD), ("POST", b"x" * 5_000), ("POST", b"{")):
                reply = await port.ask(method, "/things/1", body, bearer=bearer)
                assert (reply.status, reply.error["code"]) == (status, code)
                assert ("www-authenticate" in reply.headers) is (status == 401)
        for scheme in ("Basic Zm9vOmJhcg==", "Bearer", f"Bearer {token()} {token()}"):
            reply = await port.ask("GET", "/things/1", bearer=None, headers=f"Authorization: {scheme}\r\n")
            assert reply.status == 401
        twice = await port.ask("GET", "/things/1", headers=f"Authorization: Bearer {token()}\r\n")
        assert twice.error["code"] == "AUTH_TOKEN_INVALID"
        lower = await port.ask("GET", "/things/1", bearer=None, headers=f"authorization: bearer {token()}\r\n")
        assert lower.status == 404


@aio
async def test_each_scope_includes_the_scopes_before_it() -> None:
    admin = make_admin()
    admin.access.principal = lambda authorization, address: Principal("v", "viewer")  # type: ignore[method-assign]
    async with a_port(admin, [(r"/things/([^/]+)", Thing, {"admin": admin})]) as port:
        assert (await port.ask("GET", "/things/1")).status == 404
        reply = await port.ask("POST", "/things/1", GOOD)
        assert (reply.status, reply.error["message"]) == (403, "This needs the scope operator.")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", ""),
        (b"{", ""),
        (b"[]", ""),
        (b"{}", "name"),
        (b'{"name":5}', "name"),
        (b'{"name":"x","size":"y"}', "size"),
        (b'{"name":"x","sise":1}', "sise"),
        (b'{"name":"x","size":NaN}', ""),
        (b'{"name":"\xff","size":"y"}', "size"),
        (b"[" * 5_000, ""),
    ],
)
@aio
async def test_an_invalid_body_is_refused_with_the_name_of_the_field(body: bytes, field: str) -> None:
    async with things() as port:
        reply = await port.ask("POST", "/things/1", body)
        assert (reply.status, reply.error["code"], reply.error["field"]) == (400, "BAD_REQUEST", field)


@aio
async def test_refusals_have_their_status_and_their_fields() -> None:
    async with things() as port:
        reply = await port.ask("GET", "/things/7")
        assert (reply.status, reply.error["thingId"]) == (404, "7")
        away = await port.ask("GET", "/things/UNAVAILABLE")
        assert (away.status, away.headers["retry-after"]) == (503, "1")
        assert (await port.ask("GET", "/things/CONFLICT")).status == 409


@aio
async def test_a_bug_is_logged_once_and_not_revealed_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    async with things() as port:
        reply = await port.ask("GET", "/things/bug")
        assert (reply.status, reply.error["code"]) == (500, "INTERNAL")
        assert "secret" not in reply.text
    (record,) = caplog.records
    assert record.message == "request failed" and record.exc_info


@aio
async def test_unknown_paths_and_methods_are_answered_in_json() -> None:
    async with things() as port:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            for path in ("/", "/things", "/things/1/2", "/%ff", "/index.html"):
                reply = await port.ask(method, path, GOOD if method != "GET" else None, bearer=None)
                assert (reply.status, reply.error["code"]) == (404, "NOT_FOUND")
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
            reply = await port.ask(method, "/things/1", GOOD)
            assert (reply.status, reply.error["code"]) == (405, "METHOD_NOT_ALLOWED")
            assert reply.headers["allow"] == "GET, POST"
        assert (await port.ask("GET", "/things/%ff%fe")).error["code"] == "BAD_REQUEST"


@aio
async def test_the_port_accepts_only_its_own_host_names() -> None:
    """DNS rebinding: a page whose host name resolves to this address sends that name."""
    async with things() as port:
        for host in ("localhost", "LOCALHOST:3002", "127.0.0.1:3002", "[::1]:3002", "10.1.2.3", "rt.example:3002"):
            assert (await port.ask("GET", "/things/1", host=host)).status == 404
        for host in (
            "evil.example",
            "evil.example:3002",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[x]",
            "::x",
        ):
            reply = await port.ask("GET", "/things/1", host=host)
            assert (reply.status, reply.error["code"]) == (403, "FORBIDDEN")
        assert (await port.ask("GET", "/open", host="balancer.example", bearer=None)).status == 200


class Noted(Handler):
    @operation("operator", body=BulkChange, answer=Count, action="thing.clear")
    async def post(self, thing: str, body: BulkChange) -> Answer:
        """Clear it."""
        if thing == "bug":
            raise ZeroDivisionError
        if thing.isupper():
            raise RtError(thing)
        return Answer(Count(3))


@aio
async def test_changes_are_recorded_with_user_and_outcome(caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit()
    admin = make_admin(audit=audit)
    async with a_port(admin, [(r"/things/([^/]+)", Noted, {"admin": admin})]) as port:
        for thing, body, status in (
            ("a", {"reason": "full", "dryRun": True}, 200),  # not a change
            ("a", {"reason": ""}, 400),
            ("a", {"dryRun": False}, 400),
            ("a", {"reason": "x" * 501}, 400),
            ("a", {"reason": "full"}, 200),
            ("NOT_FOUND", {"reason": "x"}, 404),
            ("bug", {"reason": "x"}, 500),
        ):
            assert (await port.ask("POST", f"/things/{thing}", body)).status == status
        assert (await port.ask("POST", "/things/a", {"reason": "x"}, bearer=None)).status == 401
    assert [(one.target, one.outcome) for one in audit] == [
        ("a", "ok"),
        ("NOT_FOUND", "NOT_FOUND"),
        ("bug", "INTERNAL"),
    ]
    first = audit[0]
    assert (first.who, first.scope, first.action, first.reason) == ("back-end", "admin", "thing.clear", "full")
    assert (first.address, first.node, first.what) == ("127.0.0.1", "n1", "")


@aio
async def test_a_public_operation_needs_no_token() -> None:
    async with things() as port:
        assert (await port.ask("GET", "/open", bearer=None)).json == {"name": "é", "size": 0}
        assert (await port.ask("GET", "/open", bearer="nonsense")).status == 200


@aio
async def test_a_body_over_the_limit_is_answered_with_413() -> None:
    async with things() as port:
        just = b'{"name":"%s"}' % (b"x" * (10_000 - 11))
        assert (await port.ask("POST", "/things/1", just)).status == 201
        for body in (just + b" ", b"x" * 2_000_000):
            reply = await port.ask("POST", "/things/1", body)
            assert (reply.status, reply.error["code"]) == (413, "PAYLOAD_TOO_LARGE")
            chunks = (
                b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9_000], body[9_000:])) + b"0\r\n\r\n"
            )
            reply = await port.ask("POST", "/things/1", headers=CHUNKED, raw=chunks)
            assert (reply.status, reply.error["code"]) == (413, "PAYLOAD_TOO_LARGE")


@aio
async def test_a_body_far_over_the_limit_is_refused_before_it_is_read() -> None:
    async with things() as port:
        for length in ("\u00b2", "9" * 5000):  # digits for str.isdigit, too many for int(): Tornado refuses them
            assert (
                await port.send(f"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
            ).status == 400
        said = f"Content-Length: {MAX_DRAINED_BYTES + 1}\r\n"
        reply = await port.ask("POST", "/things/1", headers=said, raw=b"x" * 1000)
        assert (reply.status, reply.error["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert reply.headers["connection"] == "close"


@aio
async def test_requests_on_a_persistent_connection_are_answered_in_order() -> None:
    async with things() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        one = (
            f"POST /things/1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token()}\r\n"
            "Content-Type: application/json\r\nContent-Length: 12\r\n\r\n"
        )
        writer.write((one + '{"name":"x"}').encode() * 3)
        async with asyncio.timeout(5):
            for _ in range(3):
                assert await reader.readline() == b"HTTP/1.1 201 Created\r\n"
                await reader.readuntil(b"}")
        writer.close()


def test_the_declaration_of_an_operation_stays_on_its_method() -> None:
    declared = Thing.post.operation
    assert (declared.scope, declared.body, declared.doc) == ("operator", Body, "Make a thing.")


@aio
async def test_too_many_changes_at_once_are_refused_and_do_not_fill_the_audit_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a thousand harmless changes would push older entries out of the log."""
    monkeypatch.setattr(base, "MAX_CHANGES", 3)
    audit = Audit()
    admin = make_admin(audit=audit)
    async with a_port(admin, [(r"/things/([^/]+)", Noted, {"admin": admin})]) as port:
        for _ in range(5):  # they are no deeds
            assert (await port.ask("POST", "/things/a", {"reason": "x", "dryRun": True})).status == 200
        statuses = [(await port.ask("POST", "/things/a", {"reason": "x"})).status for _ in range(6)]
        assert statuses == [200, 200, 200, 429, 429, 429]
    assert len(audit) == 3
    assert len([one for one in caplog.records if "changes are refused" in one.message]) == 1
